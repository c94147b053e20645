"""The server's end: a member of the queue's consumer group.

What it has taken stays its own while it says so, whatever becomes of the connection. A server
that is silent for longer than the lease is taken for dead: its calls go to another, and one that
was delivered too often is buried.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from mainstay import context as contexts
from mainstay import failpoints
from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.rpc.intake import Delivery, Intake, Listener, Settlement, Terms
from mainstay.rpc.line import CONNECT_SECONDS
from mainstay.rpc.redis_streams.connection import Argument, Connection, Heard, RedisError
from mainstay.rpc.redis_streams.layout import (
    BURY,
    DONE,
    GIVE_BACK,
    GROUP,
    HEARTBEAT,
    LEAVE,
    RENEW,
    headers_from,
    is_reply_key,
    servers_key,
)

__all__ = ["StreamsIntake"]

BLOCK_SECONDS = 2.0
SILENCE_SECONDS = 15.0
HEARTBEAT_SECONDS = 1.0
ALIVE_SECONDS = 3.0
"""After this long without a heartbeat nobody sends to this server."""

BATCH = 64
REPLIES_LIMIT = 100_000
# Consumers of servers that died are cleared away when they have been silent this long.
FORGET_SECONDS = 300.0
# So long idle that the next server that looks takes it.
GIVEN_BACK_MS = 86_400_000

Refused = Callable[[str], object]


class StreamsIntake(Intake):
    outlives_connection: ClassVar[bool] = True

    def __init__(self, url: str, terms: Terms, listener: Listener) -> None:
        super().__init__(url, terms, listener)
        # Never the name of an earlier process: two of one name would share what is pending.
        self._consumer = f"{os.uname().nodename}:{os.getpid()}:{contexts.new_id()[:8]}"
        # What is in hand is in the stream as well, so it counts.
        self._member = f"{terms.waiting_limit + terms.capacity}:{self._consumer}"
        self._lease_ms = int(terms.lease_seconds * 1000)
        # Often enough that one turn may come late and the lease still holds.
        self._tick_seconds = min(HEARTBEAT_SECONDS, terms.lease_seconds / 3)
        self._scripts: dict[str, bytes] = {}
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._offset_seconds = 0.0  # the server's clock minus our monotonic one
        self._reader_id = 0
        self._heard_at = 0.0
        self._next_sweep = 0.0
        self._is_reading = False
        self._has_left = False

    def _open(self) -> None:
        self._is_reading = self._has_left = False
        writer = self._writer = Connection(self._url, timeout_seconds=CONNECT_SECONDS)
        reader = self._reader = Connection(self._url, timeout_seconds=CONNECT_SECONDS)
        # From the beginning: what was sent before the group was (re)made is not lost.
        try:
            writer.ask("XGROUP", "CREATE", self.terms.queue, GROUP, "0", "MKSTREAM")
        except RedisError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        for script in (HEARTBEAT, RENEW, DONE, GIVE_BACK, BURY, LEAVE):
            self._scripts[script] = writer.ask("SCRIPT", "LOAD", script)
        self._reader_id = reader.ask("CLIENT", "ID")
        self._set_clock(writer.ask(*self._heartbeat()))

    def _serve(self) -> None:
        writer, reader = self._writer, self._reader
        if writer is None or reader is None:
            raise ConnectionError("not open")
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(reader, select.POLLIN)
        poll.register(writer, select.POLLIN)
        wake, calls, answers = self._wake.fileno(), reader.fileno(), writer.fileno()
        next_tick = self._heard_at = time.monotonic()
        was_full = False
        while True:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + self._tick_seconds
                self._tick(writer)
            with self._settling:
                self._settle_all(writer)
            if self._is_stopping:
                self._leave(writer)
            self._read(reader)
            writer.flush()
            reader.flush()
            if self._closing.is_set() and not (
                writer.wants_write or writer.has_asked or self._is_reading
            ):
                return
            self._beat()
            if writer.wants_write or was_full:
                was_full = writer.wants_write
                poll.modify(writer, writer.events)
            for ready, _ in poll.poll(max(next_tick - now, 0.0) * 1000):
                if ready == wake:
                    self._wake.clear()
                elif ready == calls:
                    reader.read()
                elif ready == answers:
                    writer.read()
            if self._is_reading and time.monotonic() - self._heard_at > SILENCE_SECONDS:
                raise TimeoutError("Redis is silent")

    # What comes.

    def _read(self, reader: Connection) -> None:
        free = self.terms.capacity - self.in_hand
        if self._is_reading or self._is_stopping or free <= 0:
            return
        self._is_reading = True
        self._heard_at = time.monotonic()
        reader.push(
            self._received,
            "XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", min(free, BATCH),
            "BLOCK", int(BLOCK_SECONDS * 1000), "STREAMS", self.terms.queue, ">",
        )  # fmt: skip

    def _received(self, answer: Any) -> None:
        self._is_reading = False
        if isinstance(answer, RedisError):
            if not str(answer).startswith("UNBLOCKED"):
                raise ConnectionError(f"the queue cannot be read: {answer}") from answer
        elif answer:
            for id, fields in answer[0][1]:
                self._accept(id, fields, 1)

    def _accept(self, id: bytes, fields: list[bytes], deliveries: int) -> None:
        entry = dict(zip(fields[::2], fields[1::2], strict=False))
        headers = headers_from(entry.get(b"headers", b"{}"))
        try:
            deadline = float(entry[b"deadline_ms"]) / 1000 - self._offset_seconds
        except (KeyError, ValueError):
            deadline = None  # put back from the dead letters: nobody waits
        delivery = Delivery(
            # Of its own, or a letter of it could not be named.
            id=(entry.get(b"id") or id).decode(errors="replace"),
            function=entry.get(b"function", b"").decode(errors="replace"),
            headers=headers,
            body=entry.get(b"body", b""),
            deadline=deadline,
            receipt=(id, entry.get(b"reply_to"), entry.get(b"wire_id")),
            deliveries=deliveries,
            flaw="" if b"body" in entry else "the entry has no field 'body'",
        )
        self._took(delivery)

    # What goes.

    def _settle_all(self, writer: Connection) -> None:
        done: list[bytes] = []
        while self._settled:
            delivery, settlement = self._settled.popleft()
            if not self._let_go(delivery):
                continue
            id = delivery.receipt[0]
            if settlement.give_back:
                arguments = (GROUP, self._consumer, id, GIVEN_BACK_MS)
                self._script(writer, GIVE_BACK, None, (self.terms.queue,), *arguments)
                continue
            if settlement.letter is not None:
                self._bury(writer, id, settlement.letter)
            else:
                done.append(id)
            self._reply(writer, delivery, settlement)
        if done:
            self._done(writer, *done)

    def _settle_alone(self, delivery: Delivery, settlement: Settlement) -> bool:
        writer = self._writer
        if writer is None or not writer.is_shared:
            return False
        with suppress(OSError):  # then the intake's own thread hears it too
            self._reply(writer, delivery, settlement)
            self._done(writer, delivery.receipt[0])
            writer.flush()
        if writer.wants_write or not self._is_reading:
            self._wake.set()  # it waits for room in the socket, or for a free hand
        return True

    def _reply(self, writer: Connection, delivery: Delivery, settlement: Settlement) -> None:
        _, reply_to, wire_id = delivery.receipt
        if settlement.answer is not None and wire_id and is_reply_key(reply_to or b""):
            self._ask(
                writer, None,
                "XADD", reply_to, "NOMKSTREAM", "MAXLEN", "~", REPLIES_LIMIT,
                "*", "wire_id", wire_id, "body", settlement.answer,
            )  # fmt: skip
            if failpoints.is_armed("rpc.after_reply"):
                writer.flush()  # else the reply would be piled up, and die here too
                failpoints.reach("rpc.after_reply")

    def _done(self, writer: Connection, *ids: bytes) -> None:
        # After the replies, on the same socket, so Redis does them in this order.
        self._script(writer, DONE, None, (self.terms.queue,), GROUP, self._consumer, *ids)

    def _bury(self, writer: Connection, id: bytes, letter: DeadLetter | None) -> None:
        """Bury an entry of ours as *letter*; without one, an entry that too many let lie."""
        owner, idle, reason = "", self._lease_ms, "delivery-limit"
        fields: list[Argument] = []
        if letter is not None:
            owner, idle, reason = self._consumer, 0, letter.reason
            for name, value in letter.to_fields().items():
                fields += [name, value]
        keys = (self.terms.queue, dead_letters_of(self.terms.queue))
        heard, refused = partial(self._was_buried, reason), self._was_not_buried
        self._script(writer, BURY, heard, keys, GROUP, id, owner, idle, *fields, refused=refused)

    def _was_buried(self, reason: str, id: bytes | None) -> None:
        if id is not None:
            self._buried(id.decode(errors="replace"), reason)

    def _was_not_buried(self, said: str) -> None:
        # It stays pending, so it comes again when the lease is over.
        self._note("error", f"a dead letter of {self.terms.queue!r} was not stored: {said}")

    # Once a second at least.

    def _tick(self, writer: Connection) -> None:
        if not self._has_left:
            self._ask(writer, self._set_clock, *self._heartbeat())
        with self._lock:
            mine = [delivery.receipt[0] for delivery in self._in_hand]
        if mine:
            self._script(writer, RENEW, None, (self.terms.queue,), GROUP, self._consumer, *mine)
        if not self._is_stopping:
            self._ask(
                writer, self._abandoned, "XPENDING", self.terms.queue, GROUP,
                "IDLE", self._lease_ms, "-", "+", BATCH,
            )  # fmt: skip
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + FORGET_SECONDS
            self._ask(writer, self._sweep, "XINFO", "CONSUMERS", self.terms.queue, GROUP)

    def _sweep(self, consumers: list[list[Any]]) -> None:
        writer = self._writer
        if writer is None:
            return
        for facts in consumers:
            known = dict(zip(facts[::2], facts[1::2], strict=False))
            if known[b"pending"] == 0 and known[b"idle"] > FORGET_SECONDS * 1000:
                self._script(writer, LEAVE, None, (self.terms.queue,), GROUP, known[b"name"])

    def _heartbeat(self) -> tuple[Argument, ...]:
        alive_ms = int(ALIVE_SECONDS * 1000)
        script = self._scripts[HEARTBEAT]
        return ("EVALSHA", script, 1, servers_key(self.terms.queue), self._member, alive_ms)

    def _set_clock(self, now_ms: int) -> None:
        self._offset_seconds = now_ms / 1000 - time.monotonic()

    def _abandoned(self, pending: list[list[Any]]) -> None:
        writer = self._writer
        if writer is None or self._is_stopping:
            return
        free = self.terms.capacity - self.in_hand
        for id, _, _, deliveries in pending:
            if deliveries > self.terms.delivery_limit:
                self._bury(writer, id, None)
            elif free > 0:
                free -= 1
                self._ask(
                    writer, partial(self._claimed, deliveries + 1), "XCLAIM", self.terms.queue,
                    GROUP, self._consumer, self._lease_ms, id,
                )  # fmt: skip

    def _claimed(self, deliveries: int, entries: list[list[Any] | None]) -> None:
        for entry in entries:
            if entry is not None:
                self._accept(entry[0], entry[1], deliveries)

    # The end.

    def _leave(self, writer: Connection) -> None:
        """Be nobody's server any more; once."""
        if self._has_left:
            return
        self._has_left = True
        self._ask(writer, None, "ZREM", servers_key(self.terms.queue), self._member)
        if self._is_reading:
            self._ask(writer, None, "CLIENT", "UNBLOCK", self._reader_id)

    def _shut(self) -> None:
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if reader is not None:
            reader.close()
        if writer is None:
            return
        if self._closing.is_set():
            with suppress(OSError, RedisError):
                arguments = (self.terms.queue, GROUP, self._consumer)
                writer.ask("EVALSHA", self._scripts[LEAVE], 1, *arguments)
        writer.close()

    # The writer's questions and answers.

    def _ask(
        self,
        writer: Connection,
        heard: Heard | None,
        *command: Argument,
        refused: Refused | None = None,
    ) -> None:
        writer.push(partial(self._heard, heard, refused), *command)

    def _script(
        self,
        writer: Connection,
        script: str,
        heard: Heard | None,
        keys: tuple[str, ...],
        *arguments: Argument,
        refused: Refused | None = None,
    ) -> None:
        command = ("EVALSHA", self._scripts[script], len(keys), *keys, *arguments)
        self._ask(writer, heard, *command, refused=refused)

    def _heard(self, heard: Heard | None, refused: Refused | None, answer: Any) -> None:
        if not isinstance(answer, RedisError):
            if heard is not None:
                heard(answer)
            return
        said = str(answer)
        if said.startswith(("NOSCRIPT", "NOGROUP", "READONLY")):
            raise ConnectionError(f"Redis has lost its memory: {said}") from answer
        if refused is not None:
            refused(said)
        elif heard is None:
            self._note("error", f"Redis refuses the server of {self.terms.queue!r}: {said}")
