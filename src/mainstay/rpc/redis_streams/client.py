"""The client's end: calls go out over one socket, replies come in over another that waits."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import orjson

from mainstay import context as contexts
from mainstay.errors import MainstayError, NoRoute, Overloaded
from mainstay.rpc.line import CONNECT_SECONDS, WATCH_SECONDS, Line, Note, Outgoing
from mainstay.rpc.redis_streams.connection import Argument, Connection, RedisError
from mainstay.rpc.redis_streams.layout import (
    CALL,
    FULL,
    GROUP,
    LOOK,
    NOBODY,
    reply_key,
    servers_key,
)

__all__ = ["StreamsLine"]

BLOCK_SECONDS = 5.0
SILENCE_SECONDS = 15.0
"""A blocked read answers at least every `BLOCK_SECONDS`; after this long the socket is dead."""

SERVER_SECONDS = 3
"""A server says so every second that it is at work."""

KEEP_SECONDS, RENEW_SECONDS = 120, 30.0
TRIM_AFTER = 256


BURST_BYTES = 262_144
"""A script that sends more than that at once would hold up all other clients."""


class _Request(NamedTuple):
    """A call in the form of this wire; what has none fails before there is a request."""

    call: Outgoing
    arguments: tuple[Argument, ...]


class StreamsLine(Line):
    def __init__(self, url: str, note: Note, late: Callable[[], object]) -> None:
        self._replies = reply_key(contexts.new_id())
        self._last_id = b"0-0"
        self._read_since_trim = 0
        self._heard_at = 0.0
        self._call_script = self._look_script = b""
        self._bursts: dict[str, list[_Request]] = {}
        self._gathered_bytes = 0
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        super().__init__(url, note, late)

    def _open(self) -> None:
        self._bursts.clear()
        self._gathered_bytes = 0
        writer = self._writer = Connection(self._url, timeout_seconds=CONNECT_SECONDS)
        self._reader = Connection(self._url, timeout_seconds=CONNECT_SECONDS)
        self._call_script = writer.ask("SCRIPT", "LOAD", CALL)
        self._look_script = writer.ask("SCRIPT", "LOAD", LOOK)
        # Servers add to a stream of replies only while it exists. A group is the one way to make
        # an empty stream; nobody reads through it.
        with suppress(RedisError):
            writer.ask("XGROUP", "CREATE", self._replies, GROUP, "$", "MKSTREAM")
        writer.ask("EXPIRE", self._replies, KEEP_SECONDS)

    def _serve(self) -> None:
        writer, reader = self._writer, self._reader
        if writer is None or reader is None:
            raise ConnectionError("not open")
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(reader, select.POLLIN)
        poll.register(writer, select.POLLIN)
        wake, replies, answers = self._wake.fileno(), reader.fileno(), writer.fileno()
        look_at = self._heard_at = time.monotonic()
        renew_at = look_at + RENEW_SECONDS
        self._read_replies(reader)
        was_full = False
        while not self._closing.is_set():
            for call in self._unsent():
                self._gather(writer, call)
            self._send_gathered(writer)
            if self._read_since_trim >= TRIM_AFTER:
                self._trim(writer)
            now = time.monotonic()
            if now >= renew_at:
                renew_at = now + RENEW_SECONDS
                self._renew(writer)
            if now >= look_at:
                look_at = now + WATCH_SECONDS
                self._look(writer)
            if now - self._heard_at > SILENCE_SECONDS:
                raise TimeoutError("Redis is silent")
            writer.flush()
            reader.flush()
            if writer.wants_write or was_full:
                was_full = writer.wants_write
                poll.modify(writer, writer.events)
            for ready, _ in poll.poll(1000):
                if ready == wake:
                    self._wake.clear()
                elif ready == replies:
                    reader.read()
                elif ready == answers:
                    writer.read()

    def _send_alone(self, call: Outgoing) -> bool:
        writer = self._writer
        if writer is None or not writer.is_shared:
            return False
        call.sent_at = time.monotonic()
        request = self._encoded(call, _request)
        if request is None:
            return True
        self._send(writer, [request])
        with suppress(OSError):  # then the line's own thread hears it too, and tells the caller
            writer.flush()
        if writer.wants_write:
            self._wake.set()
        return True

    def _gather(self, writer: Connection, call: Outgoing) -> None:
        request = self._encoded(call, _request)
        if request is None:
            return
        self._bursts.setdefault(call.queue, []).append(request)
        self._gathered_bytes += len(call.body)
        if self._gathered_bytes >= BURST_BYTES:
            self._send_gathered(writer)

    def _send_gathered(self, writer: Connection) -> None:
        for burst in self._bursts.values():
            self._send(writer, burst)
        self._bursts.clear()
        self._gathered_bytes = 0

    def _send(self, writer: Connection, burst: Sequence[_Request]) -> None:
        queue = burst[0].call.queue
        writer.push(
            partial(self._taken, [request.call for request in burst]),
            *("EVALSHA", self._call_script, 2, queue, servers_key(queue), self._replies),
            *chain.from_iterable([request.arguments for request in burst]),
        )

    def _taken(self, calls: Sequence[Outgoing], answer: Any) -> None:
        if isinstance(answer, RedisError):
            said = str(answer)
            if said.startswith("NOSCRIPT"):
                raise ConnectionError("Redis has forgotten the scripts")
            answer = [0, said.encode()]
        for call in calls[answer[0] :]:
            self._refused(call.wire_id, _why_not(call.queue, answer[1]))

    def _look(self, writer: Connection) -> None:
        for queue in self._waited_for():
            writer.push(
                partial(self._looked, queue),
                "EVALSHA", self._look_script, 2, queue, servers_key(queue),
                GROUP, SERVER_SECONDS * 1000,
            )  # fmt: skip

    def _looked(self, queue: str, answer: Any) -> None:
        if answer == 0:
            self._abandon(queue)

    def _read_replies(self, reader: Connection) -> None:
        reader.push(
            self._receive,
            "XREAD", "COUNT", 256, "BLOCK", int(BLOCK_SECONDS * 1000),
            "STREAMS", self._replies, self._last_id,
        )  # fmt: skip

    def _receive(self, answer: Any) -> None:
        self._heard_at = time.monotonic()
        if isinstance(answer, RedisError):
            raise ConnectionError("Redis refuses to read replies") from answer
        if answer:
            entries = answer[0][1]
            for _, fields in entries:
                # [b"wire_id", …, b"body", …], as the server of this room writes it
                self._answered(fields[1].decode(), fields[3])
            self._last_id = entries[-1][0]
            self._read_since_trim += len(entries)
        if self._reader is not None:
            self._read_replies(self._reader)

    def _renew(self, writer: Connection) -> None:
        self._trim(writer)
        # Made anew if it is gone, because we were stopped for longer than it is kept.
        writer.push(_whatever, "XGROUP", "CREATE", self._replies, GROUP, "$", "MKSTREAM")
        writer.push(_whatever, "EXPIRE", self._replies, KEEP_SECONDS)

    def _trim(self, writer: Connection) -> None:
        if self._read_since_trim:
            self._read_since_trim = 0
            milliseconds, number = self._last_id.split(b"-")
            after = b"%s-%d" % (milliseconds, int(number) + 1)
            writer.push(_whatever, "XTRIM", self._replies, "MINID", after)

    def _shut(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if reader is not None:
            reader.close()
        if writer is not None:
            if self._closing.is_set():
                with suppress(OSError, RedisError):
                    writer.push(_whatever, "DEL", self._replies)
                    writer.flush()
            writer.close()


def _whatever(_answer: object) -> None:
    """Hear an answer that changes nothing."""


def _request(call: Outgoing) -> _Request:
    call.queue.encode()  # here, where it fails alone
    left_ms = max(int(call.remaining_seconds * 1000), 0)
    id, function, headers = call.id.encode(), call.function.encode(), orjson.dumps(call.headers)
    return _Request(call, (call.wire_id, id, function, headers, call.body, left_ms))


def _why_not(queue: str, reason: bytes) -> MainstayError:
    if reason == NOBODY:
        return NoRoute(
            f"no server of {queue!r} is alive: nothing was sent; start one, or try again"
        )
    if reason == FULL:
        return Overloaded(f"the queue {queue!r} takes no more calls: nothing was sent")
    said = reason.split(b" ", 1)[0].decode(errors="replace")
    return Overloaded(f"Redis refuses calls to {queue!r} ({said}): nothing was sent")
