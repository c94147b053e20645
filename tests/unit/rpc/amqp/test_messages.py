"""What is written here the library beneath reads, and what it writes is read here."""

from __future__ import annotations

from struct import pack, unpack_from
from typing import Any

import amqp
import pytest
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from amqp.spec import Basic

from mainstay.rpc.amqp.messages import (
    Message,
    Reader,
    acknowledge,
    publish,
    reject,
    short,
    table,
)

FRAME_BYTES = 4096
Frame = tuple[int, int, bytes]


def split(data: bytes) -> list[Frame]:
    frames = []
    while data:
        kind, channel, size = unpack_from(">BHI", data)
        assert data[7 + size] == 0xCE
        frames.append((kind, channel, data[7 : 7 + size]))
        data = data[8 + size :]
    return frames


class Connection:
    """As much of the library's connection as its frames need."""

    frame_max = FRAME_BYTES

    def __init__(self) -> None:
        self.bytes_recv = self.bytes_sent = 0
        self.frames: list[Frame] = []

    def write(self, data: memoryview) -> None:
        self.frames += split(bytes(data))


def written(method: tuple[int, int], arguments: bytes, message: amqp.Message) -> list[Frame]:
    """Return the frames that the library makes of *message*."""
    connection = Connection()
    frame_writer(connection, connection)(1, 7, method, arguments, message)
    return connection.frames


def understood(frames: list[Frame]) -> amqp.Message:
    """Return the message that the library sees in *frames*."""
    seen: list[amqp.Message] = []
    handle = frame_handler(Connection(), lambda *facts: seen.append(facts[3]))
    for frame in frames:
        handle(frame)
    [message] = seen
    return message


def delivered(properties: dict[str, Any], body: bytes = b"{}", *, tag: int = 1) -> Message:
    """Return what comes of a message that the library has written."""
    arguments = dumps("sLbss", ("consumer", tag, True, "", "q"))
    frames = written(Basic.Deliver, arguments, amqp.Message(body, **properties))
    return read(frames)


def read(frames: list[Frame]) -> Message:
    messages: list[Message] = []
    reader = Reader(messages.append)
    assert [reader.takes(kind, payload) for kind, _, payload in frames] == [True] * len(frames)
    [message] = messages
    return message


SIZES = [0, 1, FRAME_BYTES - 8, FRAME_BYTES - 7, 3 * FRAME_BYTES]


@pytest.mark.parametrize("size", SIZES)
def test_the_library_reads_what_is_published(size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    headers = {"x-correlation-id": "a", "имя": "значение", "empty": ""}
    properties = b"\xa4\x00" + short("application/json") + table(headers) + short("id-1")
    data = publish(7, "очередь", properties, body, mandatory=True, frame_bytes=FRAME_BYTES)
    (kind, channel, method), *content = split(data)
    assert (kind, channel, method[:4]) == (1, 7, pack(">HH", *Basic.Publish))
    assert loads("Bssbb", method, 4)[0] == [0, "", "очередь", True, False]
    assert max(len(payload) for _, _, payload in content) <= FRAME_BYTES - 8
    # A client's library reads what is delivered, and the content of both is the same.
    message = understood([(1, 7, pack(">HH", *Basic.Deliver)), *content])
    assert message.properties == {
        "content_type": "application/json",
        "application_headers": headers,
        "correlation_id": "id-1",
    }
    assert (message.body or b"") == body


@pytest.mark.parametrize("size", SIZES)
def test_what_the_library_writes_is_read(size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    properties = {
        "content_type": "text/plain",
        "content_encoding": "utf-8",
        "application_headers": {"name": "имя", "x-delivery-count": 3, "yes": True, "far": -(2**40)},
        "delivery_mode": 2,
        "priority": 7,
        "correlation_id": "correlation",
        "reply_to": "replies",
        "expiration": "1000",
        "message_id": "id",
        "timestamp": 1_700_000_000,
        "type": "function",
        "user_id": "user",
        "app_id": "app",
    }
    message = delivered(properties, body, tag=2**40)
    assert (message.tag, message.is_again, message.flaw) == (2**40, True, "")
    assert message.properties == properties
    assert message.body == body


def test_headers_of_every_type_are_read() -> None:
    deaths = [{"queue": "q", "count": 1, "routing-keys": ["q"]}]
    headers = {"before": "text", "x-death": deaths, "none": None, "after": "text"}
    assert delivered({"application_headers": headers}).properties["application_headers"] == headers


def test_bytes_that_are_no_text_can_still_be_sent_on() -> None:
    frames = written(
        Basic.Deliver,
        dumps("sLbss", ("c", 1, False, "", "q")),
        amqp.Message(b"{}", correlation_id="?" * 255, application_headers={"name": "?value"}),
    )
    frames[1] = (2, 7, frames[1][2].replace(b"?" * 255, b"\xff" * 255).replace(b"?v", b"\xffv"))
    message = read(frames)
    assert len(short(message.properties["correlation_id"])) == 256
    assert message.properties["application_headers"] == {"name": "\ufffdvalue"}


@pytest.mark.parametrize(
    "properties",
    [
        b"\x20\x00" + b"\0\0\0\x08\x04nameZ..",  # a header of a type that there is not
        b"\x20\x00" + b"\0\0\0\xff\x04nameI\0",  # a table that is longer than the frame
        b"\x04\x00" + b"\xff",
        b"\x04",
    ],
)
def test_properties_that_cannot_be_read_are_a_flaw_of_their_message_alone(
    properties: bytes,
) -> None:
    messages: list[Message] = []
    reader = Reader(messages.append)
    for again in (False, True):
        reader.takes(1, pack(">HH", *Basic.Deliver) + b"\x01c" + pack(">QB", 1 + again, again))
        reader.takes(2, pack(">HHQ", 60, 0, 2) + (b"\0\0" if again else properties))
        reader.takes(3, b"{}")
    broken, whole = messages
    assert (broken.body, whole.body, whole.flaw) == (b"{}", b"{}", "")
    assert broken.flaw or "correlation_id" in broken.properties


def test_what_is_not_delivered_is_left_to_the_library() -> None:
    reader = Reader(lambda _: pytest.fail("nothing was delivered"))
    returned = written(Basic.Return, dumps("Bsss", (1, "", "", "q")), amqp.Message(b"{}"))
    assert [reader.takes(kind, payload) for kind, _, payload in returned] == [False] * 3
    assert not reader.takes(1, pack(">HHQB", *Basic.Ack, 1, 0))


def test_confirms_are_told_where_somebody_asks_for_them() -> None:
    confirmed: list[tuple[int, bool]] = []
    reader = Reader(lambda _: None, lambda *facts: confirmed.append(facts))
    for number, and_earlier in ((1, False), (2**33, True)):
        assert reader.takes(1, pack(">HHQB", *Basic.Ack, number, and_earlier))
    assert confirmed == [(1, False), (2**33, True)]


def test_settlements_are_those_of_the_library() -> None:
    for frame, method, arguments in (
        (acknowledge(7, 2**33, and_earlier=True), Basic.Ack, (2**33, True)),
        (acknowledge(7, 1), Basic.Ack, (1, False)),
        (reject(7, 5, requeue=True), Basic.Reject, (5, True)),
    ):
        [(kind, channel, payload)] = split(frame)
        assert (kind, channel) == (1, 7)
        assert payload == pack(">HH", *method) + dumps("Lb", arguments)


@pytest.mark.parametrize("text", ["x" * 256, "я" * 128, "\ud800"])
def test_a_text_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"255|surrogates"):
        short(text)
    with pytest.raises(ValueError, match=r"255|surrogates"):
        publish(1, text, b"\0\0", b"", mandatory=False, frame_bytes=FRAME_BYTES)
    with pytest.raises(ValueError, match=r"255|surrogates"):
        table({text: "value"})
