"""The client's end: calls go out over one socket, replies come in over another that waits."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from mainstay import context as contexts
from mainstay.errors import MainstayError, NoRoute, Overloaded
from mainstay.rpc.address import address_of
from mainstay.rpc.line import CONNECT_SECONDS, WATCH_SECONDS, Line, Note, Outgoing
from mainstay.rpc.redis_streams.connection import Connection, RedisError
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


class StreamsLine(Line):
    def __init__(self, url: str, note: Note, late: Callable[[], object]) -> None:
        self._url = url
        self._replies = reply_key(contexts.new_id())
        self._last_id = "0-0"
        self._read_since_trim = 0
        self._call_script = b""
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._look_script = b""
        # What each answer on the writer is to: a call, the name of a queue, or None.
        self._asked: deque[Outgoing | str | None] = deque()
        super().__init__(address_of(url), note, late)

    def _open(self) -> None:
        self._asked.clear()
        writer = self._writer = Connection(self._url, timeout_seconds=CONNECT_SECONDS)
        self._reader = Connection(self._url, timeout_seconds=CONNECT_SECONDS)
        self._call_script = writer.ask("SCRIPT", "LOAD", CALL)
        self._look_script = writer.ask("SCRIPT", "LOAD", LOOK)
        self._keep(writer)

    def _keep(self, writer: Connection) -> None:
        # Servers add to a stream of replies only while it exists. A group is the one way to make
        # an empty stream; nobody reads through it.
        with suppress(RedisError):
            writer.ask("XGROUP", "CREATE", self._replies, GROUP, "$", "MKSTREAM")
        writer.ask("EXPIRE", self._replies, KEEP_SECONDS)

    def _serve(self) -> None:
        writer, reader = self._writer, self._reader
        if writer is None or reader is None:
            raise ConnectionError("not open")
        self._read_replies(reader)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(reader, select.POLLIN)
        wake, replies = self._wake.fileno(), reader.fileno()
        heard_at = look_at = time.monotonic()
        renew_at = heard_at + RENEW_SECONDS
        while not self._closing.is_set():
            poll.register(writer, select.POLLIN | (select.POLLOUT if writer.wants_write else 0))
            ready = {fd for fd, _ in poll.poll(1000)}
            if wake in ready:
                self._wake.clear()
            self._send_all(partial(self._send, writer))
            writer.flush()
            if writer.fileno() in ready:
                for answer in writer.read():
                    self._heard(self._asked.popleft(), answer)
            now = time.monotonic()
            if replies in ready:
                heard_at = now
                for answer in reader.read():
                    self._receive(answer)
                    self._read_replies(reader)
            reader.flush()
            if self._read_since_trim >= TRIM_AFTER:
                self._trim(writer)
            if now >= renew_at:
                renew_at = now + RENEW_SECONDS
                self._trim(writer)
                # Made anew if it is gone, because we were stopped for longer than it is kept.
                self._ask(writer, "XGROUP", "CREATE", self._replies, GROUP, "$", "MKSTREAM")
                self._ask(writer, "EXPIRE", self._replies, KEEP_SECONDS)
            if now >= look_at:
                look_at = now + WATCH_SECONDS
                self._look(writer)
            if now - heard_at > SILENCE_SECONDS:
                raise TimeoutError("Redis is silent")

    def _send(self, writer: Connection, call: Outgoing) -> None:
        writer.push(
            "EVALSHA", self._call_script, 2, call.queue, servers_key(call.queue),
            self._replies, call.wire_id, call.id, call.function,
            orjson.dumps(call.headers), call.body,
            max(int(call.remaining_seconds * 1000), 0),
        )  # fmt: skip
        self._asked.append(call)

    def _look(self, writer: Connection) -> None:
        for queue in self._waited_for():
            self._asked.append(queue)
            writer.push(
                "EVALSHA",
                self._look_script,
                2,
                queue,
                servers_key(queue),
                GROUP,
                SERVER_SECONDS * 1000,
            )

    def _ask(self, writer: Connection, *command: str | int) -> None:
        self._asked.append(None)
        writer.push(*command)

    def _heard(self, call: Outgoing | str | None, answer: Any) -> None:
        if call is None:
            return
        if isinstance(call, str):
            if answer == 0:
                self._abandon(call)
            return
        error: MainstayError | None = None
        if answer == NOBODY:
            error = NoRoute(
                f"no server of {call.queue!r} is alive: nothing was sent; start one, or try again"
            )
        elif answer == FULL:
            error = Overloaded(f"the queue {call.queue!r} takes no more calls: nothing was sent")
        elif isinstance(answer, RedisError):
            if str(answer).startswith("NOSCRIPT"):
                raise ConnectionError("Redis has forgotten the scripts")
            said = str(answer).split(" ", 1)[0]
            error = Overloaded(f"Redis refuses calls to {call.queue!r} ({said}): nothing was sent")
        if error is not None:
            self._refused(call.wire_id, error)

    def _read_replies(self, reader: Connection) -> None:
        reader.push(
            "XREAD", "COUNT", 256, "BLOCK", int(BLOCK_SECONDS * 1000),
            "STREAMS", self._replies, self._last_id,
        )  # fmt: skip
        reader.flush()

    def _receive(self, answer: Any) -> None:
        if isinstance(answer, RedisError):
            raise ConnectionError("Redis refuses to read replies") from answer
        if not answer:
            return
        entries = answer[0][1]
        for _, fields in entries:
            # [b"wire_id", …, b"body", …], as the server of this room writes it
            self._answered(fields[1].decode(), fields[3])
        self._last_id = entries[-1][0].decode()
        self._read_since_trim += len(entries)

    def _trim(self, writer: Connection) -> None:
        if self._read_since_trim:
            self._read_since_trim = 0
            milliseconds, number = self._last_id.split("-")
            self._ask(writer, "XTRIM", self._replies, "MINID", f"{milliseconds}-{int(number) + 1}")

    def _shut(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if reader is not None:
            reader.close()
        if writer is not None:
            if self._closing.is_set():
                with suppress(OSError, RedisError):
                    writer.push("DEL", self._replies)
                    writer.flush()
            writer.close()
