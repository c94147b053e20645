"""Messages for a queue of tasks, and commands for its worker."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.chaos.mutations.units import AFTER, NOTE, UNIT, is_named
from tests.chaos.mutations.values import (
    broken_bytes,
    broken_tree,
    dumped,
    fits_amqp,
    odd,
    wrong_for,
)

__all__ = [
    "Item",
    "TaskMessage",
    "control_message",
    "item",
    "sound_item",
    "sound_task",
    "task_message",
]

# Slow ones: their limits are sent along, or their process ends.
_COSTLY_TASKS = ("linger", "hungry", "die")
_COSTLY = 1 / 400
_HUGE = 1 / 50
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
        if for_amqp and not fits_amqp(message.headers):
            continue
        if is_named(unit, message.body, message.headers):
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
                made = broken_tree(chance, made)
        data = dumped(chance, made)
        if what == ("envelope",) and chance.random() < 0.3:
            data = broken_bytes(chance, data)
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
            command[name] = odd(chance)
        else:
            command[name] = wrong_for(chance, name)
    made: Any = command if chance.random() < 0.8 else broken_tree(chance, command)
    data = dumped(chance, made)
    return broken_bytes(chance, data) if chance.random() < 0.2 else data


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


# What is done to a message.


def _other_header(chance: random.Random, message: TaskMessage) -> TaskMessage:
    headers = dict(message.headers or {})
    name = chance.choice(_HEADERS)
    headers[name] = wrong_for(chance, name)
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
        return _done(message, f"option {name}", body=dumped(chance, parts))
    parts[place] = broken_tree(chance, parts[place])
    return _done(message, f"part {place}", body=dumped(chance, parts))


def _other_shape(chance: random.Random, message: TaskMessage) -> TaskMessage:
    parts: Any = [[message.unit], {}, {"callbacks": None}]
    made = broken_tree(chance, parts)
    return _done(message, "body", body=dumped(chance, made))


def _other_bytes(chance: random.Random, message: TaskMessage) -> TaskMessage:
    return _done(message, "bytes", body=broken_bytes(chance, message.body))


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
    if chance.random() > _HUGE:
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
    made: Any = signature if chance.random() < 0.2 else broken_tree(chance, signature)
    return chance.choice(([made], [made, made], made, odd(chance)))
