"""How does a message look on the wire of AMQP 0-9-1?

The library beneath writes and reads every message that there can be, for 30 µs each time. A call
is two messages of one form, so these are put together and taken apart here; whatever else goes
over the connection is left to the library. https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import amqp
from amqp.serialization import loads

__all__ = ["Message", "Reader", "acknowledge", "publish", "reject", "short", "table"]

# The kinds of frames, https://www.rabbitmq.com/amqp-0-9-1-protocol: a method, the properties of
# the message that it carries, and pieces of its body.
METHOD, PROPERTIES, BODY = 1, 2, 3
END: Final = 0xCE

_FRAME = Struct(">BHI")
_PROPERTIES = Struct(">BHIHHQ")
_PUBLISH = Struct(">BHIHHHBB")
_SETTLE = Struct(">BHIHHQBB")
_BASIC, _PUBLISHES, _DELIVERS, _ACKNOWLEDGES, _REJECTS = 60, 40, 60, 80, 90
_OVERHEAD = _FRAME.size + 1
_BEFORE_PROPERTIES = _PROPERTIES.size - _FRAME.size
_END = bytes([END])


def publish(
    channel: int, queue: str, properties: bytes, body: bytes, *, mandatory: bool, frame_bytes: int
) -> bytes:
    """Return the frames that publish a message to *queue* by the default exchange.

    Args:
        properties: Their flags, and their values in the order of the flags.
        mandatory: Is it to come back when there is no such queue?
        frame_bytes: The largest frame that was agreed on.

    Raises:
        ValueError: The name is longer than 255 bytes, or the properties than a frame.
    """
    key = short(queue)
    piece = frame_bytes - _OVERHEAD
    if len(properties) + _BEFORE_PROPERTIES > piece:
        raise ValueError(f"RabbitMQ takes {piece} bytes of headers")
    pieces = [body] if 0 < len(body) <= piece else _cut(body, piece)
    frames = [
        # class, method, and three reserved bits; the exchange without a name; the key; the bits
        _PUBLISH.pack(METHOD, channel, 9 + len(key) - 1, _BASIC, _PUBLISHES, 0, 0, len(key) - 1),
        key[1:],
        b"\1\xce" if mandatory else b"\0\xce",
        _PROPERTIES.pack(
            PROPERTIES, channel, _BEFORE_PROPERTIES + len(properties), _BASIC, 0, len(body)
        ),
        properties,
    ]
    for one in pieces:
        frames += (_END, _FRAME.pack(BODY, channel, len(one)), one)
    frames.append(_END)
    return b"".join(frames)


def acknowledge(channel: int, tag: int, *, and_earlier: bool = False) -> bytes:
    """Return the frame that takes the message *tag* off its queue, or all up to that one."""
    return _SETTLE.pack(METHOD, channel, 13, _BASIC, _ACKNOWLEDGES, tag, and_earlier, END)


def reject(channel: int, tag: int, *, requeue: bool) -> bytes:
    """Return the frame that gives the message *tag* back, or has it dead-lettered."""
    return _SETTLE.pack(METHOD, channel, 13, _BASIC, _REJECTS, tag, requeue, END)


def short(text: str) -> bytes:
    """Return *text* as the properties hold it.

    Raises:
        ValueError: It is longer than 255 bytes, or no text.
    """
    data = text.encode()
    if len(data) > 255:
        raise ValueError("RabbitMQ takes 255 bytes of it")
    return b"%c%b" % (len(data), data)


def table(headers: Mapping[str, str]) -> bytes:
    """Return *headers* as the properties hold them.

    Raises:
        ValueError: A name is longer than 255 bytes, or something is no text.
    """
    fields = []
    for name, value in headers.items():
        data = value.encode()
        fields.append(b"%bS%b%b" % (short(name), len(data).to_bytes(4), data))
    joined = b"".join(fields)
    return len(joined).to_bytes(4) + joined


def _cut(body: bytes, piece: int) -> list[bytes]:
    return [body[at : at + piece] for at in range(0, len(body), piece)]


@dataclass(slots=True, eq=False)
class Message:
    """A message that was delivered.

    Args:
        tag: Its number on its channel.
        is_again: Was it delivered before?
        properties: By the names that the library beneath gives them.
        flaw: Why its properties could not be read.
    """

    tag: int
    is_again: bool
    properties: dict[str, Any]
    body: bytes = b""
    flaw: str = ""


class Reader:
    """Puts together what is delivered on one channel.

    Args:
        delivered: Given each message.
        acknowledged: Given each confirm: the number of the message that was published, and
            whether all before it are meant too.
    """

    def __init__(
        self,
        delivered: Callable[[Message], object],
        acknowledged: Callable[[int, bool], object] | None = None,
    ) -> None:
        self._delivered = delivered
        self._acknowledged = acknowledged
        self._begun: Message | None = None
        self._missing = 0
        self._pieces: list[bytes] = []

    def takes(self, kind: int, payload: bytes) -> bool:
        """Read a frame, unless it is the library's."""
        if kind == METHOD:
            return self._method(payload)
        message = self._begun
        if message is None:  # the rest of one that was returned
            return False
        if kind == PROPERTIES:
            self._missing = int.from_bytes(payload[4:12])
            try:
                message.properties = _properties(payload)
            except (IndexError, ValueError, struct.error, amqp.AMQPError) as error:
                message.flaw = f"its properties cannot be read: {error}"
        elif self._missing == len(payload) and not self._pieces:
            message.body, self._missing = payload, 0
        else:
            self._pieces.append(payload)
            self._missing -= len(payload)
        if self._missing <= 0:
            if self._pieces:
                message.body = b"".join(self._pieces)
                self._pieces.clear()
            self._begun = None
            self._delivered(message)
        return True

    def _method(self, payload: bytes) -> bool:
        if payload.startswith(_DELIVER):
            # … the consumer's tag, the message's, one bit, and where it was sent
            tag, is_again = _TAG.unpack_from(payload, 5 + payload[4])
            self._begun = Message(tag, bool(is_again), {})
            return True
        if self._acknowledged is not None and payload.startswith(_ACK):
            self._acknowledged(*_TAG.unpack_from(payload, 4))
            return True
        return False


_DELIVER = bytes((0, _BASIC, 0, _DELIVERS))
_ACK = bytes((0, _BASIC, 0, _ACKNOWLEDGES))
_TAG = Struct(">Q?")


def _properties(payload: bytes) -> dict[str, Any]:
    flags = int.from_bytes(payload[12:14])
    at = 14
    found: dict[str, Any] = {}
    for flag, name, read in _KNOWN:
        if flags & flag:
            found[name], at = read(payload, at)
    return found


def _short(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    data = payload[at + 1 : end]
    try:
        return data.decode(), end
    except UnicodeDecodeError:  # still 255 bytes at most, so that it can be sent on
        return data.decode("ascii", "replace").replace("\ufffd", "?"), end


def _octet(payload: bytes, at: int) -> tuple[int, int]:
    return payload[at], at + 1


def _time(payload: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(payload[at : at + 8]), at + 8


def _table(payload: bytes, start: int) -> tuple[dict[str, Any], int]:
    at, end = start + 4, start + 4 + int.from_bytes(payload[start : start + 4])
    found: dict[str, Any] = {}
    while at < end:
        name, at = _short(payload, at)
        kind = payload[at]
        at += 1
        if kind == _TEXT:
            begin, at = at + 4, at + 4 + int.from_bytes(payload[at : at + 4])
            found[name] = payload[begin:at].decode(errors="replace")
        elif kind in _NUMBERS:
            number = _NUMBERS[kind]
            found[name] = number.unpack_from(payload, at)[0]
            at += number.size
        else:  # lists, tables, times
            (found,), _ = loads("F", payload, start)
            break
    return found, end


# As RabbitMQ writes them, https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
_TEXT = ord("S")
_NUMBERS = {
    ord(kind): Struct(form)
    for kind, form in (("t", ">?"), ("b", ">b"), ("s", ">h"), ("I", ">i"), ("l", ">q"))
}

_KNOWN: tuple[tuple[int, str, Callable[[bytes, int], tuple[Any, int]]], ...] = (
    (0x8000, "content_type", _short),
    (0x4000, "content_encoding", _short),
    (0x2000, "application_headers", _table),
    (0x1000, "delivery_mode", _octet),
    (0x0800, "priority", _octet),
    (0x0400, "correlation_id", _short),
    (0x0200, "reply_to", _short),
    (0x0100, "expiration", _short),
    (0x0080, "message_id", _short),
    (0x0040, "timestamp", _time),
    (0x0020, "type", _short),
    (0x0010, "user_id", _short),
    (0x0008, "app_id", _short),
    (0x0004, "cluster_id", _short),
)
