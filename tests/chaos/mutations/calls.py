"""Messages for a queue of calls."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.chaos.mutations.units import NOTE, UNIT, is_named
from tests.chaos.mutations.values import broken_bytes, broken_tree, dumped, fits_amqp, wrong_for

__all__ = ["CallMessage", "call_message", "sound_call"]

_HUGE = 1 / 50


@dataclass(frozen=True, slots=True)
class CallMessage:
    """One message for a queue of calls.

    Args:
        unit: What it is in the books.
        what: What was done to it; empty for a sound one.
        reply_to: Where the answer goes; ``None`` for where the sender listens.
        timeout_seconds: What the caller says that it waits.
        is_late: Has its caller given up, so that a server may drop it in silence?
        fields: On Redis, what else the entry holds, or holds instead; ``None`` takes one out.
    """

    unit: str
    what: tuple[str, ...]
    body: bytes
    id: str
    function: str
    headers: dict[str, Any]
    reply_to: str | None = None
    timeout_seconds: float = 60.0
    is_late: bool = False
    fields: Mapping[str, bytes | None] = field(default_factory=dict)


def sound_call(unit: str) -> CallMessage:
    """Return the call that does what it says for *unit*."""
    return CallMessage(unit, (), json.dumps({"unit": unit}).encode(), unit, NOTE, {UNIT: unit})


def call_message(seed: str, unit: str, *, for_amqp: bool) -> CallMessage:
    """Return a call for *unit* to which up to two things were done."""
    chance = random.Random(seed)
    kinds = _OF_CALLS if for_amqp else (*_OF_CALLS, _other_field, _other_field)
    while True:
        message = sound_call(unit)
        for change in chance.sample(kinds, chance.choice((1, 1, 2))):
            message = change(chance, message, for_amqp)
        # Whoever hears of a refusal by no answer and by no dead letter hears of it by nothing.
        is_unheard = message.reply_to is not None or {"reply_to", "wire_id"} & message.fields.keys()
        if is_unheard and len(message.what) > 1:
            continue
        if for_amqp and not fits_amqp(message.headers):
            continue
        named = message.id if message.fields.get("id", b"") is not None else ""
        if is_named(unit, message.body, named):
            return message


_CallChange = Callable[[random.Random, CallMessage, bool], CallMessage]


def _call_data(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    made = broken_tree(chance, {"unit": message.unit})
    return _told(message, "data", body=dumped(chance, made))


def _call_bytes(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    return _told(message, "bytes", body=broken_bytes(chance, message.body))


def _call_size(chance: random.Random, message: CallMessage, for_amqp: bool) -> CallMessage:
    if chance.random() > _HUGE:
        return _call_data(chance, message, for_amqp)
    depth = chance.choice((62, 63, 64, 65, 900, 100_000))
    nested = "[" * depth + json.dumps(message.unit) + "]" * depth
    large = json.dumps([message.unit, "x" * chance.choice((1_000_000, 1_048_576, 1_200_000))])
    return _told(message, "size", body=chance.choice((nested, large)).encode())


def _call_function(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    names = ("", "Note", "note ", "__class__", "os.system", "x" * 255, "\u0000", "\u202e", "ñ")
    return _told(message, "function", function=chance.choice(names))


def _call_id(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    ids = ("", "x" * 255, "\u0000", f"{message.unit} again", "\u202e", "'; drop table")
    return _told(message, "id", id=chance.choice(ids))


def _call_header(chance: random.Random, message: CallMessage, for_amqp: bool) -> CallMessage:
    name = chance.choice(
        (
            "traceparent",
            "tracestate",
            "x-correlation-id",
            "x-mainstay-token",
            "x-mainstay-deliveries",
            "x-delivery-count",
            "x-death",
            "x-function",
            "x-strange",
            "X-Mainstay-Reason",
        )
    )
    value = wrong_for(chance, name)
    if not for_amqp and not isinstance(value, str):
        value = json.dumps(value)[:1000]
    return _told(message, f"header {name}", headers=message.headers | {name: value})


def _call_deadline(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    seconds = chance.choice((0.0, 0.001, 86_399.0, 86_400.0, 1e9))
    is_late = message.is_late or seconds < 1
    return _told(message, "deadline", timeout_seconds=seconds, is_late=is_late)


def _call_reply(chance: random.Random, message: CallMessage, for_amqp: bool) -> CallMessage:
    if not for_amqp:
        return _told(
            message, "reply", reply_to=chance.choice(("", "none such", "\u0000", "x" * 500))
        )
    names = (
        "",
        "none such",
        "amq.rabbitmq.reply-to.x",
        "amq.rabbitmq.reply-to.g1h2AA5yZXBseUAxMTYwMTE3OQAAAAAAAAAA.x==",
        "amq.gen-none",
        "\u0000",
        "x" * 255,
    )
    return _told(message, "reply", reply_to=chance.choice(names))


def _other_field(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    name = chance.choice(("headers", "body", "deadline_ms", "wire_id", "id", "function", "strange"))
    raw = (
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"5",
        b"{",
        b'{"a": {}}',
        b"nan",
        b"1e400",
        b"-1",
        None,
    )
    value = chance.choice(raw)
    # A moment of the past is one that nobody waits for any more.
    is_late = message.is_late or (name == "deadline_ms" and value in (b"5", b"-1"))
    return _told(message, f"field {name}", fields={**message.fields, name: value}, is_late=is_late)


_OF_CALLS: Final[Sequence[_CallChange]] = (
    _call_data,
    _call_bytes,
    _call_size,
    _call_function,
    _call_id,
    _call_header,
    _call_deadline,
    _call_reply,
)


def _told(message: CallMessage, what: str, /, **changes: Any) -> CallMessage:
    return replace(message, what=(*message.what, what), **changes)
