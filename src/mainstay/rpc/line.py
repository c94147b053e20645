"""The client's end of a wire: one thread, one connection, one reply path, many calls in flight.

Callers append to a deque and wake the thread through a pipe, once a burst. Each call has an id
of its own on the wire, so an answer finds its caller, and one that comes too late finds nobody
and is counted. A room says only how to open, how to serve and how to shut.
"""

from __future__ import annotations

import itertools
import os
import random
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from mainstay import context as contexts
from mainstay.errors import (
    DeadlineExceeded,
    Disconnected,
    Invalid,
    MainstayError,
    NotConnected,
    Unavailable,
)
from mainstay.rpc.address import address_of
from mainstay.rpc.deadlines import Deadlines
from mainstay.texts import tls_reason

__all__ = ["CONNECT_SECONDS", "WATCH_SECONDS", "Line", "Note", "Outgoing", "Wake"]

CONNECT_SECONDS = 2.0
"""How long an attempt to connect may take, and so the longest that a first call is in doubt."""

WATCH_SECONDS = 1.0
"""How long a call waits before somebody looks whether its queue has a server left."""

BACKOFF_SECONDS = (0.05, 1.0)
"""The first and the longest pause between attempts to connect."""

Note = Callable[[str, str], object]
Done = Callable[[bytes | None, MainstayError | None], None]
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Outgoing:
    """One call on its way.

    Args:
        id: The call's own, the same when it is tried again; servers tell duplicates by it. Given
            by the line where the caller gives none.
        deadline: On the monotonic clock.
        done: Told once, on a thread of the line, of the answer's body or of the error.
        wire_id: This attempt's own, given by the line.
        sent_at: When it may have reached the broker, on the monotonic clock; 0 before.
    """

    id: str
    queue: str
    function: str
    headers: Mapping[str, str]
    body: bytes
    deadline: float
    done: Done
    wire_id: str = ""
    sent_at: float = 0.0

    @property
    def remaining_seconds(self) -> float:
        return self.deadline - time.monotonic()


class Wake:
    """A pipe that ends a wait in ``poll``; written to once a burst."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._is_set = False

    def fileno(self) -> int:
        return self._reader

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            with suppress(OSError):  # full, so it wakes anyway; or closed, so nobody waits
                os.write(self._writer, b"!")

    def wait(self, seconds: float) -> None:
        """Wait for a wake-up, *seconds* at most, and forget it."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        poll.poll(seconds * 1000)
        self.clear()

    def clear(self) -> None:
        """Forget the wake-ups so far; look for work afterwards, never before, or one is lost."""
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
        self._is_set = False

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Not sooner: a number that was closed may be another's file by the time of the next set().
        for end in (self._reader, self._writer):
            close(end)


class Line(ABC):
    """Sends calls and brings their answers, for any number of threads and event loops.

    Args:
        url: The broker.
        note: Told of what operators should know: a level, a message.
        late: Told of each answer that finds nobody.
    """

    def __init__(self, url: str, note: Note, late: Callable[[], object]) -> None:
        self.address = address_of(url)
        self._url = url
        self.late_replies = 0
        self.is_up = False
        self._note = note
        self._late = late
        self._is_down = False  # not the opposite of is_up: at the start it is neither
        self._tls_reason = ""
        self._prefix = contexts.new_id()[:16]
        self._numbers = itertools.count()
        self._waiting: dict[str, Outgoing] = {}
        self._outbox: deque[Outgoing] = deque()
        self._closing = threading.Event()
        self._wake = Wake()
        self._deadlines = Deadlines(self._waiting, self._expire)
        self._thread = threading.Thread(target=self._run, name="calls", daemon=True)
        self._thread.start()

    def send(self, call: Outgoing) -> None:
        """Send *call*; never blocks, and always ends in one ``call.done``."""
        if self._is_down or self._closing.is_set():
            call.done(None, self._not_sent(call))
            return
        call.wire_id = wire_id = f"{self._prefix}{next(self._numbers):x}"
        call.id = call.id or wire_id
        self._waiting[wire_id] = call
        self._deadlines.add(call.deadline, wire_id)
        # A burst shares one write of the line's own thread; a call that is alone need not wait
        # for that thread to wake up.
        if len(self._waiting) > 1 or not (self.is_up and self._send_alone(call)):
            self._outbox.append(call)
            self._wake.set()

    def forget(self, call: Outgoing) -> None:
        """Nobody waits for *call* any more; its answer will be dropped."""
        self._waiting.pop(call.wire_id, None)

    def close(self) -> None:
        """Fail what is pending and let go of the connection."""
        self._closing.set()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(CONNECT_SECONDS + 3.0)

    # What a room says. All of it runs on the line's own thread.

    @abstractmethod
    def _open(self) -> None:
        """Connect, within `CONNECT_SECONDS`."""

    @abstractmethod
    def _serve(self) -> None:
        """Send what :meth:`_unsent` gives and pass on what comes, until closing.

        Raises whatever says that the connection broke.
        """

    @abstractmethod
    def _shut(self) -> None:
        """Let go of the connection, broken or not; never raises."""

    def _send_alone(self, call: Outgoing) -> bool:
        """Send *call* from the thread of its caller, if that takes no waiting; has it been?"""
        return False

    # What a room uses.

    def _unsent(self) -> Iterator[Outgoing]:
        outbox, waiting, now = self._outbox, self._waiting, time.monotonic()
        while outbox:
            call = outbox.popleft()
            if call.wire_id in waiting:
                call.sent_at = now
                yield call

    def _encoded(self, call: Outgoing, encode: Callable[[Outgoing], T]) -> T | None:
        """Return *call* in the form of this wire; ``None`` for one that has none: it has failed,
        and no other.
        """
        try:
            return encode(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is not at fault
            what = (
                f"the queue, the function, the id or the headers of a call cannot be sent: {error}"
            )
            self._refused(call.wire_id, Invalid(what))
            return None

    def _waited_for(self) -> set[str]:
        """Return the queues that have not answered some call for a while."""
        before = time.monotonic() - WATCH_SECONDS
        return {call.queue for call in list(self._waiting.values()) if 0 < call.sent_at <= before}

    def _abandon(self, queue: str) -> None:
        """Fail the calls that wait for *queue*, because its servers have gone away."""
        for call in list(self._waiting.values()):
            if call.queue == queue and call.sent_at:
                self._refused(
                    call.wire_id,
                    Unavailable(
                        f"the servers of {queue!r} have gone away during a call: it may have "
                        "been done or not, and may be done when one is back"
                    ),
                )

    def _answered(self, wire_id: str, body: bytes) -> None:
        call = self._waiting.pop(wire_id, None)
        if call is None:
            self.late_replies += 1
            self._late()
        else:
            call.done(body, None)

    def _refused(self, wire_id: str, error: MainstayError) -> None:
        call = self._waiting.pop(wire_id, None)
        if call is not None:
            call.done(None, error)

    # The thread.

    def _run(self) -> None:
        shortest, longest = BACKOFF_SECONDS
        pause = shortest
        while not self._closing.is_set():
            reason: Exception | None = None
            opened_at = float("inf")
            try:
                self._open()
                opened_at = time.monotonic()
                if self._is_down:
                    self._note("info", f"connected to {self.address} again")
                self.is_up, self._is_down = True, False
                self._serve()
            except Exception as error:  # noqa: BLE001 - sockets, TLS, protocol: all mean it is gone
                reason = error
            self._tls_reason = "" if reason is None else tls_reason(reason)
            was_up, self.is_up = self.is_up, False
            if reason is not None and not self._is_down:
                self._is_down = True
                what = "lost the connection" if was_up else "no connection"
                said = f"{what} to {self.address}: {type(reason).__name__}{self._tls_reason}"
                self._note("warning", said)
            self._shut()
            self._fail_waiting()
            if reason is not None:
                # A connection that breaks as soon as it is made is no success.
                lasted = time.monotonic() - opened_at > longest
                pause = shortest if lasted else min(pause * 2, longest)
                # Jitter, so that a fleet does not come back as one.
                self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        self._is_down = True
        self._fail_waiting()
        self._deadlines.close()

    def _fail_waiting(self) -> None:
        for wire_id in list(self._waiting):
            call = self._waiting.pop(wire_id, None)
            if call is None:
                continue
            if call.sent_at:
                error: MainstayError = Disconnected(
                    f"the connection to {self.address} broke while a call to {call.queue!r} was "
                    "under way: it may have been done or not"
                )
            else:
                error = self._not_sent(call)
            call.done(None, error)

    def _not_sent(self, call: Outgoing) -> MainstayError:
        why = "the client is closed" if self._closing.is_set() else "it does not answer"
        return NotConnected(
            f"a call to {call.queue!r} was not sent: there is no connection to {self.address} "
            f"({why}{self._tls_reason}); it is safe to try again"
        )

    def _expire(self, wire_id: str) -> None:
        call = self._waiting.pop(wire_id, None)
        if call is not None:
            call.done(
                None,
                DeadlineExceeded(
                    f"no answer to a call to {call.queue!r} before its deadline: it may have been "
                    "done or not"
                ),
            )
