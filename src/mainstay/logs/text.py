"""How does a line look to a person at a terminal?"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["as_text"]

_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
# Always the same on one terminal, or shown in a place of their own.
_LEFT_OUT = frozenset(
    {
        *("ts", "level", "service", "logger", "instance", "env", "msg"),
        *("trace_id", "span_id", "exception_type", "stack"),
    }
)


def as_text(record: Mapping[str, object], *, coloured: bool) -> bytes:
    """Render *record* as one line, and its stack below it."""
    time = str(record["ts"])[11:23]
    level = str(record["level"])
    paint = _painted if coloured else _plain
    facts = " ".join(
        f"{paint('2', key)}={_value(value)}"
        for key, value in record.items()
        if key not in _LEFT_OUT
    )
    line = (
        f"{paint('2', time)} {paint(_COLOURS.get(level, '0'), f'{level.upper():<8}')}"
        f" {paint('36', str(record['logger']))}  {record['msg']}"
    )
    if facts:
        line = f"{line}  {facts}"
    if "stack" in record:
        line = f"{line}\n{str(record['stack']).rstrip()}"
    return f"{line}\n".encode("utf-8", "backslashreplace")


def _painted(colour: str, text: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def _plain(colour: str, text: str) -> str:
    return text


def _value(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(character.isspace() for character in text) else text
