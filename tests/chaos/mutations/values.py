"""Which values and bytes do few programs expect?"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from amqp.serialization import dumps as amqp_dumps

__all__ = ["broken_bytes", "broken_tree", "dumped", "fits_amqp", "odd", "wrong_for"]


def wrong_for(chance: random.Random, name: str) -> Any:
    """Return a value for a field called *name*: one of its own kind at the edge, or anything."""
    edges = _EDGES.get(name)
    if edges is not None and chance.random() < 0.6:
        return chance.choice(edges)
    return odd(chance)


# None of the next day: such a message would wait that long, as it should.
_MOMENTS = (
    "2001-01-01T00:00:00+00:00",
    "2001-01-01T00:00:00Z",
    "2001-01-01T00:00:00.000001",
    "2001-01-01",
    "1969-12-31T23:59:59+00:00",
    "0001-01-01T00:00:00+00:00",
    "0001-01-01T00:00:00-14:00",
    "9999-12-31T23:59:59+00:00",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59",
    "2026-02-30T00:00:00",
    "2026-13-01",
    "24:00",
    "now",
    "20010101T000000Z",
)

_EDGES: Final[Mapping[str, Sequence[Any]]] = {
    "eta": _MOMENTS,
    "expires": _MOMENTS,
    "retries": (-1, 1, 24, 25, 26, 2**31 - 1, 2**31, True, 1.0, "1"),
    "timelimit": (
        [None],
        [None, None, None],
        [0, 0],
        [-1, -1],
        [30, 60],
        [60, 30],
        [True, None],
        [86_400, 86_400],
        [86_401, None],
        ["30", None],
        {"0": None, "1": None},
        None,
    ),
    "compression": (
        "application/x-gzip",
        "application/x-bz2",
        "application/x-lzma",
        "application/zstd",
        "gzip",
        "zlib",
        "none",
    ),
    "stamped_headers": ([], ["a"], [1], ["a", None], "a", {"a": 1}),
    "stamps": ({}, {"a": ["b"]}, {"a": {"b": 1}}, [], "a"),
    "x-delivery-count": (0, 1, 4, 5, 6, 2**31, -1, "3"),
    "x-death": ([], [{}], [{"reason": "expired"}], [{"reason": 5, "time": "x"}], [5]),
    "replaced_task_nesting": (0, 1, 1000, -1, "1"),
    "group_index": (0, -1, 2**40, "1"),
    "traceparent": ("00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-x-x-x", "x" * 5000),
    "x-timeout-seconds": ("0", "-1", "nan", "inf", "1e400", "0.001"),
    "x-mainstay-token": ("a.b.c", "." * 100, "eyJhbGciOiJub25lIn0.e30.", "x" * 9000),
    "reply_to": (
        {"exchange": "none such", "routing_key": "x"},
        {"exchange": 5, "routing_key": []},
        {"exchange": ""},
    ),
    "destination": (["celery@nobody"], [5], "celery", {"a": 1}, [[]]),
    "arguments": ({"task_id": []}, {"strange": 1}, [], [["a", 1]], "x"),
    "matcher": ("glob", "pcre", "none such", 5),
    "pattern": ("*", "(", "[", 5),
}


class _Raw(str):
    """JSON text to be written as it is."""

    __slots__ = ()


_SCALARS: Final[Sequence[Any]] = (
    None,
    True,
    False,
    0,
    -1,
    5,
    2**31,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    0.1,
    -0.0,
    1e308,
    "",
    "x",
    "null",
    "5",
    "[]",
    "{}",
    "\u0000",
    "a\u0000b",
    "\ud800",
    "x\udfff",
    "\u202e",
    "ﬀ\u0301\u0301\u0301",
    "\U0001f4a5" * 20,
    "'; drop table inbox; --",
    "../../../etc/passwd",
    "${jndi:ldap://x}",
    "{0.__class__}",
    "%s%s%n",
    "\r\nX: y",
    "x" * 255,
    "x" * 256,
    "x" * 300,
    "x" * 5_000,
)
_RAW: Final = tuple(
    map(
        _Raw,
        ("NaN", "Infinity", "-Infinity", "1e400", "1" * 400, "-1e-400", '{"a": 1, "a": 2}', "01"),
    )
)


def odd(chance: random.Random) -> Any:
    """Return a value that few programs expect."""
    made: Any = chance.choice(_SCALARS)
    match chance.randrange(10):
        case 0:
            return [made]
        case 1:
            return {"x": made}
        case 2:
            return {chance.choice(("", "\u0000", "__proto__", "__class__", "self")): made}
        case 3:
            return [[made, {"a": [made]}], made]
        case 4:
            deep: Any = made
            for _ in range(chance.choice((3, 30, 62, 66, 120))):
                deep = [deep] if chance.random() < 0.5 else {"d": deep}
            return deep
    return made


def broken_tree(chance: random.Random, tree: Any) -> Any:
    """Return *tree* with one of its values changed, moved, doubled or taken out."""
    if isinstance(tree, dict) and tree and chance.random() < 0.75:
        name = chance.choice(sorted(tree))
        match chance.randrange(5):
            case 0:
                return {key: value for key, value in tree.items() if key != name}
            case 1:
                return {**tree, name + chance.choice(("", " ", "\u0000")) + "x": tree[name]}
            case 2:
                return {**tree, name: _odd_or_raw(chance)}
        return {**tree, name: broken_tree(chance, tree[name])}
    if isinstance(tree, list) and tree and chance.random() < 0.75:
        place = chance.randrange(len(tree))
        before, value, after = tree[:place], tree[place], tree[place + 1 :]
        match chance.randrange(6):
            case 0:
                return [*before, *after]
            case 1:
                return [*before, value, value, *after]
            case 2:
                return [*before, *after, value, odd(chance)]
            case 3:
                return [*before, _odd_or_raw(chance), *after]
        return [*before, broken_tree(chance, value), *after]
    return chance.choice((_odd_or_raw(chance), [tree], {"x": tree}, str(tree)))


def _odd_or_raw(chance: random.Random) -> Any:
    return chance.choice(_RAW) if chance.random() < 0.15 else odd(chance)


def dumped(chance: random.Random, tree: Any) -> bytes:
    """Return *tree* as JSON, with what JSON cannot say written into it all the same."""
    raw: dict[str, str] = {}

    def marked(value: Any) -> Any:
        if isinstance(value, _Raw):
            mark = f"raw-{len(raw)}-raw"
            raw[json.dumps(mark)] = str(value)
            return mark
        if isinstance(value, dict):
            return {key: marked(each) for key, each in value.items()}
        return [marked(each) for each in value] if isinstance(value, list) else value

    text = json.dumps(marked(tree), ensure_ascii=chance.random() < 0.7, default=str)
    for mark, said in raw.items():
        text = text.replace(mark, said)
    return text.encode("utf-8", "surrogatepass")


def broken_bytes(chance: random.Random, data: bytes) -> bytes:
    """Return *data* as a bad disk or a bad program would leave it."""
    place, other = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    match chance.randrange(12):
        case 0:
            return data[:place]
        case 1:
            return data[:place] + data[other:]
        case 2:
            return data[:other] + data[place:]
        case 3:
            return data[:place] + chance.randbytes(chance.choice((1, 3, 50))) + data[place:]
        case 4 if data:
            at = min(place, len(data) - 1)
            return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
        case 5:
            return data.decode("latin-1").encode("utf-16")
        case 6:
            return b"\xef\xbb\xbf" + data
        case 7:
            return data + chance.choice((b"\x00", b"]", b"\n\n", b",", b" " * 5_000, b"null"))
        case 8:
            return data * 2
        case 9:
            return b"\x80\x04" + data
        case 10:
            return data.replace(b'"', b"'")
    return data.swapcase() if chance.random() < 0.1 else data[:other] + b"\xff" + data[other:]


def fits_amqp(headers: object) -> bool:
    """Can RabbitMQ take these headers, and go on?"""
    if not isinstance(headers, dict | None):
        return False
    deaths = (headers or {}).get("x-death")
    if isinstance(deaths, list) and not all(isinstance(each, dict) for each in deaths):
        return False  # RabbitMQ 3.10 never dead-letters by itself again when it has to read that
    try:
        table = amqp_dumps("F", [headers or {}])
    except Exception:  # noqa: BLE001 - the sender's library, which says so in many ways
        return False
    return len(table) < 100_000  # beside the properties, in one frame
