"""Which messages might anybody put on a queue that no program of ours would send?

Each function makes one out of a seed, and out of the same seed the same one: a sound message to
which something was done. It knows how a message is built, so most of what it makes is wrong in one
place and right in all others, which gets further into a program than noise would.

Each message names its unit in more than one place, and at least one of them is left readable, so
that the books can be kept whatever was done to the others.
"""

from __future__ import annotations

import base64
import json
import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from amqp.serialization import dumps as amqp_dumps

__all__ = [
    "AFTER",
    "NOTE",
    "UNIT",
    "CallMessage",
    "Item",
    "TaskMessage",
    "call_message",
    "control_message",
    "item",
    "sound_call",
    "sound_item",
    "sound_task",
    "task_message",
    "unit_of",
    "units_in",
]

UNIT: Final = "x-unit"
"""The header that names the unit."""
NOTE: Final = "note"
"""The task, and the function of calls, that leaves a mark for its unit."""
AFTER: Final = "after"
"""A task that leaves no mark: what a message says is to follow on it."""

# Slow ones: their limits are sent along, or their process ends.
_COSTLY_TASKS = ("linger", "hungry", "die")
_COSTLY = 1 / 400
_HUGE = 1 / 1000
_BUILT_IN = (
    "celery.backend_cleanup",
    "celery.chain",
    "celery.chord",
    "celery.chord_unlock",
    "celery.chunks",
    "celery.group",
    "celery.map",
    "celery.starmap",
)
# Shutting a worker down, or taking its queues away, is what a command is for.
_COMMANDS = (
    "active",
    "active_queues",
    "clock",
    "conf",
    "hello",
    "heartbeat",
    "memdump",
    "memsample",
    "objgraph",
    "ping",
    "query_task",
    "registered",
    "report",
    "reserved",
    "revoke",
    "revoke_by_stamped_headers",
    "revoked",
    "scheduled",
    "stats",
    "terminate",
    "nonsense",
)


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """One message for a queue of tasks.

    Args:
        unit: What it is in the books.
        what: What was done to it; empty for a sound one.
        properties: Beside content type and encoding: ``correlation_id``, ``priority`` …
    """

    unit: str
    what: tuple[str, ...]
    body: bytes
    headers: dict[str, Any] | None
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the list that is a queue of tasks on Redis.

    Args:
        unit: What it is in the books.
        what: What was done to it; empty for a sound one.
    """

    unit: str
    what: tuple[str, ...]
    data: bytes


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


_UNIT = re.compile(r"unit-([0-9a-f]+)-(\d{7})-([0-9a-f]{8})")


def unit_of(seed: int, number: int) -> str:
    """Return the name of a unit, which is not taken for that of another when a part is broken."""
    name = f"{seed:x}-{number:07d}"
    return f"unit-{name}-{zlib.crc32(name.encode()):08x}"


def units_in(text: str) -> list[str]:
    """Return the units that *text* names."""
    return [
        found[0]
        for found in _UNIT.finditer(text)
        if zlib.crc32(f"{found[1]}-{found[2]}".encode()) == int(found[3], 16)
    ]


# --- tasks ---------------------------------------------------------------------------------


def sound_task(unit: str) -> TaskMessage:
    """Return the message that does what it says for *unit*."""
    body = json.dumps([[unit], {}, {"callbacks": None, "errbacks": None}]).encode()
    return TaskMessage(unit, (), body, _sound_headers(unit), properties=_sound_properties(unit))


def task_message(seed: str, unit: str, *, for_amqp: bool) -> TaskMessage:
    """Return a message for *unit* to which up to three things were done.

    Args:
        for_amqp: Its headers fit into a table of AMQP.
    """
    chance = random.Random(seed)
    while True:
        message = sound_task(unit)
        for _ in range(chance.choices((1, 2, 3), (6, 3, 1))[0]):
            message = chance.choices(_OF_TASKS, _WEIGHTS_OF_TASKS)[0](chance, message)
        if for_amqp and not _fits_amqp(message.headers):
            continue
        if _is_named(unit, message.body, message.headers):
            return message


def item(seed: str, unit: str, queue: str) -> Item:
    """Return an item of the list that is a queue on Redis: often a sound envelope around a message
    of :func:`task_message`, often a broken one.
    """
    chance = random.Random(seed)
    while True:
        inner = f"{seed}/{chance.random()}"
        message = (
            task_message(inner, unit, for_amqp=False) if chance.random() < 0.7 else sound_task(unit)
        )
        what, made = message.what, _enveloped(message, queue)
        if not what or chance.random() < 0.1:
            what = (*what, "envelope")
            for _ in range(chance.choice((1, 1, 2))):
                made = _broken_tree(chance, made)
        data = _dumped(chance, made)
        if what == ("envelope",) and chance.random() < 0.3:
            data = _broken_bytes(chance, data)
        if unit.encode() in data:
            return Item(unit, what, data)


def sound_item(unit: str, queue: str) -> Item:
    """Return the item that does what it says for *unit*."""
    return Item(unit, (), json.dumps(_enveloped(sound_task(unit), queue)).encode())


def control_message(seed: str) -> bytes:
    """Return the body of a remote-control message that asks for nothing a worker obeys."""
    chance = random.Random(seed)
    command: dict[str, Any] = {
        "method": chance.choice(_COMMANDS),
        "arguments": {},
        "destination": None,
        "pattern": None,
        "matcher": None,
        "ticket": None,
        "reply_to": None,
    }
    # Sound commands are not for a worker of its own: none of them is to be obeyed.
    for name in chance.sample(sorted(command), chance.choice((1, 1, 2, 3))):
        if name == "method":
            command[name] = _odd(chance)
        else:
            command[name] = _wrong_for(chance, name)
    made: Any = command if chance.random() < 0.8 else _broken_tree(chance, command)
    data = _dumped(chance, made)
    return _broken_bytes(chance, data) if chance.random() < 0.2 else data


def _sound_headers(unit: str) -> dict[str, Any]:
    return {
        "lang": "py",
        "task": NOTE,
        "id": unit,
        "root_id": unit,
        "parent_id": None,
        "group": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        UNIT: unit,
    }


def _sound_properties(unit: str) -> dict[str, Any]:
    return {"correlation_id": unit, "delivery_mode": 2, "priority": 0}


def _enveloped(message: TaskMessage, queue: str) -> dict[str, Any]:
    return {
        "body": base64.b64encode(message.body).decode(),
        "content-encoding": message.content_encoding,
        "content-type": message.content_type,
        "headers": message.headers,
        "properties": {
            **message.properties,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": message.unit,
            "body_encoding": "base64",
        },
    }


def _is_named(unit: str, body: bytes, headers: object) -> bool:
    return unit.encode() in body or unit in str(headers)


def _fits_amqp(headers: object) -> bool:
    if not isinstance(headers, dict | None):
        return False
    try:
        table = amqp_dumps("F", [headers or {}])
    except Exception:  # noqa: BLE001 - the sender's library, which says so in many ways
        return False
    return len(table) < 100_000  # beside the properties, in one frame


# What is done to a message.


def _other_header(chance: random.Random, message: TaskMessage) -> TaskMessage:
    headers = dict(message.headers or {})
    name = chance.choice(_HEADERS)
    headers[name] = _wrong_for(chance, name)
    return _done(message, f"header {name}", headers=headers)


def _no_header(chance: random.Random, message: TaskMessage) -> TaskMessage:
    headers = dict(message.headers or {})
    name = chance.choice(sorted(headers) or [""])
    headers.pop(name, None)
    return _done(message, f"no header {name}", headers=headers)


def _no_headers(chance: random.Random, message: TaskMessage) -> TaskMessage:
    first = {"task": NOTE, "id": message.unit, "args": [message.unit], "kwargs": {}}
    # As task protocol 1 has it, or with nothing that says which task it is.
    body = json.dumps(first).encode() if chance.random() < 0.5 else message.body
    return _done(message, "no headers", headers=chance.choice((None, {})), body=body)


def _other_task(chance: random.Random, message: TaskMessage) -> TaskMessage:
    headers = dict(message.headers or {})
    if chance.random() < _COSTLY * 10:
        name = chance.choice(_COSTLY_TASKS)
        headers["timelimit"] = chance.choice(([None, None], [0.2, None], [0.3, 0.1]))
    else:
        name = chance.choice((*_BUILT_IN, "os.system", "Note", " note", "note\n", "__main__.note"))
    return _done(message, f"task {name}", headers=headers | {"task": name})


def _other_part(chance: random.Random, message: TaskMessage) -> TaskMessage:
    """Change arguments, keyword arguments or options."""
    parts: list[Any] = [[message.unit], {}, {"callbacks": None, "errbacks": None}]
    place = chance.randrange(3)
    if place == 2 and chance.random() < 0.8:
        name = chance.choice(("callbacks", "errbacks", "chain", "chord", "strange"))
        parts[2] = parts[2] | {name: _following(chance, message.unit)}
        return _done(message, f"option {name}", body=_dumped(chance, parts))
    parts[place] = _broken_tree(chance, parts[place])
    return _done(message, f"part {place}", body=_dumped(chance, parts))


def _other_shape(chance: random.Random, message: TaskMessage) -> TaskMessage:
    parts: Any = [[message.unit], {}, {"callbacks": None}]
    made = _broken_tree(chance, parts)
    return _done(message, "body", body=_dumped(chance, made))


def _other_bytes(chance: random.Random, message: TaskMessage) -> TaskMessage:
    return _done(message, "bytes", body=_broken_bytes(chance, message.body))


def _other_type(chance: random.Random, message: TaskMessage) -> TaskMessage:
    content_type = chance.choice(_CONTENT_TYPES)
    encoding = chance.choice(_CONTENT_ENCODINGS)
    if chance.random() < 0.5:
        return _done(message, f"type {content_type[:20]}", content_type=content_type)
    return _done(message, f"encoding {encoding[:20]}", content_encoding=encoding)


def _other_property(chance: random.Random, message: TaskMessage) -> TaskMessage:
    name = chance.choice(("correlation_id", "delivery_mode", "priority", "expiration", "type"))
    value: Any = {
        "correlation_id": chance.choice(("", "x" * 255, "\u0000", "\u202e")),
        "delivery_mode": 1,
        "priority": chance.choice((1, 9, 255)),
        "expiration": chance.choice(("0", "1", "86400000")),
        "type": chance.choice(("", "x" * 255)),
    }[name]
    return _done(message, f"property {name}", properties={**message.properties, name: value})


def _huge(chance: random.Random, message: TaskMessage) -> TaskMessage:
    if chance.random() > _HUGE * 20:
        return _other_shape(chance, message)
    depth = chance.choice((63, 64, 65, 500, 900, 2_000, 100_000))
    nested = "[" * depth + json.dumps(message.unit) + "]" * depth
    bodies = (
        f"[[{nested}], {{}}, {{}}]",
        json.dumps(
            [[message.unit, "x" * chance.choice((1_000_000, 1_048_560, 1_200_000))], {}, {}]
        ),
        json.dumps([[message.unit, list(range(100_000))], {}, {}]),
        json.dumps([[message.unit], {f"k{n}": n for n in range(20_000)}, {}]),
    )
    return _done(message, "size", body=chance.choice(bodies).encode())


_OF_TASKS: Final[Sequence[Callable[[random.Random, TaskMessage], TaskMessage]]] = (
    _other_header,
    _no_header,
    _no_headers,
    _other_task,
    _other_part,
    _other_shape,
    _other_bytes,
    _other_type,
    _other_property,
    _huge,
)
_WEIGHTS_OF_TASKS = (30, 6, 3, 4, 18, 14, 14, 6, 6, 4)

_HEADERS = (
    "task",
    "id",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "lang",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "shadow",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "meth",
    "args",
    "kwargs",
    "chain",
    "chord",
    "callbacks",
    "errbacks",
    "hostname",
    "delivery_info",
    "is_eager",
    "called_directly",
    "headers",
    "properties",
    "reply_to",
    "epoch",
    "x-delivery-count",
    "x-death",
    "x-mainstay-reason",
    "x-mainstay-detail",
    "x-mainstay-queue",
    "x-mainstay-kind",
    "x-mainstay-sent-at",
    "x-mainstay-token",
    "x-timeout-seconds",
    "x-correlation-id",
    "traceparent",
    "tracestate",
    "x-strange",
)
_CONTENT_TYPES = (
    "",
    "text/plain",
    "text/x-none",
    "application/data",
    "application/x-python-serialize",
    "application/x-yaml",
    "application/x-msgpack",
    "application/JSON",
    "application/json; charset=utf-8",
    "json",
    "*/*",
    "x" * 255,
    "\u0000",
)
_CONTENT_ENCODINGS = (
    "",
    "binary",
    "us-ascii",
    "latin-1",
    "utf-16",
    "utf-7",
    "idna",
    "punycode",
    "rot13",
    "hex",
    "zlib_codec",
    "unicode_escape",
    "raw_unicode_escape",
    "undefined",
    "none such",
    "x" * 255,
    "\u0000",
)


def _done(message: TaskMessage, what: str, /, **changes: Any) -> TaskMessage:
    return replace(message, what=(*message.what, what), **changes)


def _following(chance: random.Random, unit: str) -> Any:
    """Return what is to follow on a task: signatures, mostly broken ones."""
    signature: dict[str, Any] = {
        "task": AFTER,
        "args": [unit],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": True,
    }
    made: Any = signature if chance.random() < 0.2 else _broken_tree(chance, signature)
    return chance.choice(([made], [made, made], made, _odd(chance)))


def _wrong_for(chance: random.Random, name: str) -> Any:
    """Return a value for a field called *name*: one of its own kind at the edge, or anything."""
    edges = _EDGES.get(name)
    if edges is not None and chance.random() < 0.6:
        return chance.choice(edges)
    return _odd(chance)


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


# --- calls ---------------------------------------------------------------------------------


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
        if for_amqp and not _fits_amqp(message.headers):
            continue
        named = message.id if message.fields.get("id", b"") is not None else ""
        if _is_named(unit, message.body, named):
            return message


_CallChange = Callable[[random.Random, CallMessage, bool], CallMessage]


def _call_data(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    made = _broken_tree(chance, {"unit": message.unit})
    return _told(message, "data", body=_dumped(chance, made))


def _call_bytes(chance: random.Random, message: CallMessage, _for_amqp: bool) -> CallMessage:
    return _told(message, "bytes", body=_broken_bytes(chance, message.body))


def _call_size(chance: random.Random, message: CallMessage, for_amqp: bool) -> CallMessage:
    if chance.random() > _HUGE * 20:
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
    value = _wrong_for(chance, name)
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


# --- values and bytes ----------------------------------------------------------------------


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


def _odd(chance: random.Random) -> Any:
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


def _broken_tree(chance: random.Random, tree: Any) -> Any:
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
        return {**tree, name: _broken_tree(chance, tree[name])}
    if isinstance(tree, list) and tree and chance.random() < 0.75:
        place = chance.randrange(len(tree))
        before, value, after = tree[:place], tree[place], tree[place + 1 :]
        match chance.randrange(6):
            case 0:
                return [*before, *after]
            case 1:
                return [*before, value, value, *after]
            case 2:
                return [*before, *after, value, _odd(chance)]
            case 3:
                return [*before, _odd_or_raw(chance), *after]
        return [*before, _broken_tree(chance, value), *after]
    return chance.choice((_odd_or_raw(chance), [tree], {"x": tree}, str(tree)))


def _odd_or_raw(chance: random.Random) -> Any:
    return chance.choice(_RAW) if chance.random() < 0.15 else _odd(chance)


def _dumped(chance: random.Random, tree: Any) -> bytes:
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


def _broken_bytes(chance: random.Random, data: bytes) -> bytes:
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
