"""Calls inside one process, without a broker: for tests, for trying out, for reading first.

``memory://`` names a broker by the rest of its URL; every client and server of the process that
names the same one meets there. It keeps the promises of the other rooms: a bounded queue,
deadlines, nobody at home, and dead letters.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mainstay.deadletters import DeadLetter
from mainstay.errors import MainstayError, NoRoute, Overloaded
from mainstay.rpc.intake import Delivery, Intake, Listener, Settlement, Terms
from mainstay.rpc.line import Line, Note, Outgoing
from mainstay.rpc.room import Depth, Room

__all__ = ["ROOM", "Broker"]

_IDLE_SECONDS = 0.5


@dataclass(slots=True, eq=False)
class _Waiting:
    call: Outgoing
    answer: Callable[[bytes], object]
    deliveries: int = 0


class _Queue:
    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.in_hand = 0
        self.limit = 0
        self.servers: list[MemoryIntake] = []
        self.dead: list[DeadLetter] = []


class Broker:
    """The queues behind one ``memory://`` URL."""

    _lock = threading.Lock()
    _brokers: dict[tuple[int, str], Broker] = {}  # noqa: RUF012 - one table a process is the point

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}
        self.lock = threading.Lock()

    @classmethod
    def at(cls, url: str) -> Broker:
        # A forked child begins with empty queues: the threads of the servers did not come along.
        with cls._lock:
            return cls._brokers.setdefault((os.getpid(), url), cls())

    def queue(self, name: str) -> _Queue:
        with self.lock:
            return self.queues.setdefault(name, _Queue())

    def dead_letters(self, queue: str) -> list[DeadLetter]:
        """Return the dead letters of *queue*, oldest first."""
        return list(self.queue(queue).dead)

    def is_deserted(self, queue: str) -> bool:
        """Do calls wait in *queue* that nobody will take?"""
        found = self.queue(queue)
        return bool(found.waiting) and not found.servers

    def put(self, call: Outgoing, answer: Callable[[bytes], object]) -> MainstayError | None:
        """Queue *call*, or return why not."""
        queue = self.queue(call.queue)
        with self.lock:
            if not queue.servers:
                return NoRoute(
                    f"nobody serves {call.queue!r} in this process: nothing was sent; "
                    "start its server"
                )
            if len(queue.waiting) >= queue.limit:
                return Overloaded(f"the queue {call.queue!r} takes no more calls")
            queue.waiting.append(_Waiting(call, answer))
            servers = list(queue.servers)
        for server in servers:
            server.look()
        return None


class MemoryLine(Line):
    """The client's end."""

    def __init__(self, url: str, note: Note, late: Callable[[], object]) -> None:
        self._broker = Broker.at(url)
        super().__init__(url, note, late)

    def _open(self) -> None:
        pass

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(_IDLE_SECONDS)
            for call in self._unsent():
                wire_id = call.wire_id
                error = self._broker.put(call, partial(self._answered, wire_id))
                if error is not None:
                    self._refused(wire_id, error)
            for queue in self._waited_for():
                if self._broker.is_deserted(queue):
                    self._abandon(queue)

    def _shut(self) -> None:
        pass


class MemoryIntake(Intake):
    """The server's end."""

    def __init__(self, url: str, terms: Terms, listener: Listener) -> None:
        super().__init__(url, terms, listener)
        self._broker = Broker.at(url)
        self._queue = self._broker.queue(terms.queue)

    def look(self) -> None:
        """Something waits."""
        self._wake.set()

    def _open(self) -> None:
        with self._broker.lock:
            self._queue.limit = self.terms.waiting_limit
            self._queue.servers.append(self)

    def _serve(self) -> None:
        while not self._closing.is_set():
            if self._is_stopping:
                self._leave()
            self._settle_all()
            self._fetch()
            self._beat()
            self._wake.wait(_IDLE_SECONDS)
        self._settle_all()

    def _shut(self) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._broker.lock:
            if self in self._queue.servers:
                self._queue.servers.remove(self)

    def _fetch(self) -> None:
        while not self._is_stopping and self.in_hand < self.terms.capacity:
            with self._broker.lock:
                if not self._queue.waiting:
                    return
                waiting = self._queue.waiting.popleft()
                if waiting.call.remaining_seconds <= 0:
                    continue
                self._queue.in_hand += 1
            call = waiting.call
            waiting.deliveries += 1
            self._took(
                Delivery(
                    call.id,
                    call.function,
                    call.headers,
                    call.body,
                    call.deadline,
                    waiting,
                    waiting.deliveries,
                )
            )

    def _settle_all(self) -> None:
        while self._settled:
            delivery, settlement = self._settled.popleft()
            if self._let_go(delivery):
                self._settle(delivery.receipt, settlement)

    def _settle(self, waiting: _Waiting, settlement: Settlement) -> None:
        with self._broker.lock:
            self._queue.in_hand -= 1
            if settlement.letter is not None:
                self._queue.dead.append(settlement.letter)
            if settlement.give_back:
                self._queue.waiting.appendleft(waiting)
                others = list(self._queue.servers)
        if settlement.letter is not None:
            self._buried(settlement.letter.id, settlement.letter.reason)
        if settlement.give_back:
            for server in others:
                server.look()
        elif settlement.answer is not None:
            waiting.answer(settlement.answer)


def _ping(_url: str) -> None:
    """It is this process, so it answers."""


def _depth(url: str, queue: str, _management_url: str | None) -> Depth:
    found = Broker.at(url).queue(queue)
    ready, in_hand, dead = len(found.waiting), found.in_hand, len(found.dead)
    return {
        "queue": _counts(ready, in_hand),
        "dead_letters": _counts(dead, 0),
    }


def _oldest_seconds(url: str, queue: str) -> float:
    broker, found = Broker.at(url), Broker.at(url).queue(queue)
    with broker.lock:
        oldest = min((waiting.call.sent_at for waiting in found.waiting), default=None)
    return 0.0 if oldest is None else max(time.monotonic() - oldest, 0.0)


def _counts(ready: int, in_hand: int) -> dict[str, int]:
    return {
        "messages": ready + in_hand,
        "messages_ready": ready,
        "messages_unacknowledged": in_hand,
    }


ROOM = Room(MemoryLine, MemoryIntake, _ping, _depth, _oldest_seconds)
