"""The server's end of a wire: takes calls from one queue, and settles each of them once.

Taking and settling are the business of one thread, which keeps the connection alive whatever
the handlers do. A room says how; what is to become of a call is said by a :class:`Settlement`.
"""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from mainstay.context import PRINCIPAL_TOKEN, TIMEOUT_SECONDS
from mainstay.deadletters import DeadLetter
from mainstay.lifecycle import Pulse
from mainstay.rpc.address import address_of
from mainstay.rpc.line import BACKOFF_SECONDS, Note, Wake
from mainstay.texts import tls_reason

__all__ = ["Delivery", "Intake", "Listener", "QueueType", "Settlement", "Terms"]

QueueType = Literal["quorum", "classic"]

# A token must not lie about until somebody looks at dead letters; a deadline means nothing.
_NOT_KEPT = frozenset({PRINCIPAL_TOKEN, TIMEOUT_SECONDS})


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server promises about its queue.

    Args:
        queue: Its name.
        capacity: How many calls are in hand at most; as many are fetched.
        waiting_limit: How many may wait; more are refused, and their callers hear `Overloaded`.
        delivery_limit: How often a call is delivered again that did not come to an end; then it
            is buried, because it kills its servers, or its neighbours do.
        limit_seconds: How long a call may be in hand; longer, and the process is stuck.
        queue_type: On RabbitMQ, which kind of queue.
        lease_seconds: How long after a server's death its calls are given to another. Only on
            Redis: RabbitMQ sees the connection end.
    """

    queue: str
    capacity: int
    waiting_limit: int = 10_000
    delivery_limit: int = 5
    limit_seconds: float = 60.0
    lease_seconds: float = 5.0
    queue_type: QueueType = "quorum"


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of what an intake does.

    Args:
        take: Given each delivery, on the intake's thread; must not wait.
        buried: Told of each dead letter once it is stored: the id of its call, the reason.
        note: Told of what operators should know: a level, a message.
        pulse: Beaten by every turn that is not held up by handlers.
    """

    take: Callable[[Delivery], object]
    buried: Callable[[str, str], object]
    note: Note
    pulse: Pulse | None = None


@dataclass(slots=True, eq=False)
class Delivery:
    """One call as it came.

    Args:
        id: The call's own, the same when its caller tries again; empty when it has none.
        headers: As text, by lower-case name.
        deadline: When its caller gives up, on this process' monotonic clock.
        deliveries: How often it has been delivered, this one included.
        receipt: What its room needs to settle it.
        flaw: Why the room could not read it; such a call is buried.
    """

    id: str
    function: str
    headers: Mapping[str, str]
    body: bytes
    deadline: float | None
    receipt: Any
    deliveries: int = 1
    flaw: str = ""
    taken_at: float = field(default_factory=time.monotonic)

    @property
    def has_expired(self) -> bool:
        """Has its caller given up?"""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def letter(self, queue: str, *, reason: str, detail: str = "") -> DeadLetter:
        """Return the dead letter that this call of *queue* becomes."""
        return DeadLetter(
            id=self.id,
            kind="call",
            queue=queue,
            reason=reason,
            name=self.function,
            detail=detail,
            headers={n: value for n, value in self.headers.items() if n not in _NOT_KEPT},
            body=self.body,
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a delivery, in this order: its dead letter is stored, its caller is told,
    it is taken off the queue; or it is given back, and nothing else.
    """

    answer: bytes | None = None
    letter: DeadLetter | None = None
    give_back: bool = False

    @property
    def is_plain(self) -> bool:
        """Is it an answer, and that is all?"""
        return self.letter is None and not self.give_back


class Intake(ABC):
    """Takes calls from a queue until it is told to stop, over any number of connections."""

    outlives_connection: ClassVar[bool] = False
    """Is what was taken still ours after a reconnect, or does the broker give it to another?"""

    def __init__(self, url: str, terms: Terms, listener: Listener) -> None:
        self.terms = terms
        self.address = address_of(url)
        self.is_up = threading.Event()
        self._url = url
        self._take = listener.take
        self._buried = listener.buried
        self._note = listener.note
        self._pulse = listener.pulse
        self._is_stopping = False
        self._closing = threading.Event()
        self._wake = Wake()
        self._settled: deque[tuple[Delivery, Settlement]] = deque()
        self._in_hand: dict[Delivery, None] = {}
        self._lock = threading.Lock()
        # Held by who settles, so that nobody closes the connection in the midst of it.
        self._settling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"calls:{terms.queue}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def in_hand(self) -> int:
        """How many calls were taken and are not settled on the wire yet."""
        return len(self._in_hand)

    def holds(self, delivery: Delivery) -> bool:
        """Is *delivery* still ours? Not after its connection broke, where the broker says so."""
        return delivery in self._in_hand

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Say what becomes of *delivery*; from any thread, without waiting.

        After a lost connection it may come to nothing: the broker then gives the call to another
        server, and an answer that was not sent finds its caller told already.
        """
        # A burst shares one write of the intake's own thread; a call that is alone need not wait
        # for that thread to wake up.
        is_alone = len(self._in_hand) == 1 and settlement.is_plain and self.is_up.is_set()
        if is_alone and self._settled_alone(delivery, settlement):
            return
        self._settled.append((delivery, settlement))
        self._wake.set()

    def stop_taking(self) -> None:
        """Take no new calls; what is in hand can still be settled."""
        self._is_stopping = True
        self._wake.set()

    def give_back_rest(self) -> None:
        """Give back whatever is still in hand; settling it later comes to nothing."""
        with self._lock:
            rest = list(self._in_hand)
        for delivery in rest:
            self.settle(delivery, Settlement(give_back=True))

    def close(self) -> None:
        """Let go of the connection, after what was settled has gone out."""
        self._closing.set()
        self._wake.set()
        self._thread.join(5.0)

    # What a room says. All of it runs on the intake's own thread.

    @abstractmethod
    def _open(self) -> None:
        """Connect and declare what the queue needs."""

    @abstractmethod
    def _serve(self) -> None:
        """Take and settle until closing; raise when the connection breaks."""

    @abstractmethod
    def _shut(self) -> None:
        """Let go of the connection, broken or not; never raises."""

    def _settle_alone(self, delivery: Delivery, settlement: Settlement) -> bool:
        """Settle *delivery*, which is plain, from the thread that did it, if that takes no
        waiting; has it been?
        """
        return False

    # What a room uses.

    def _took(self, delivery: Delivery) -> None:
        with self._lock:
            self._in_hand[delivery] = None
        self._take(delivery)

    def _let_go(self, delivery: Delivery) -> bool:
        """Say whether *delivery* was still ours, and that it is no longer."""
        with self._lock:
            return self._in_hand.pop(delivery, self) is not self

    def _settled_alone(self, delivery: Delivery, settlement: Settlement) -> bool:
        with self._settling:
            if not self.holds(delivery):
                return True
            if not self._settle_alone(delivery, settlement):
                return False
            self._let_go(delivery)
            return True

    def _beat(self) -> None:
        """Say that work goes on, unless a call is in hand for longer than any may take."""
        if self._pulse is None:
            return
        with self._lock:
            oldest = next(iter(self._in_hand), None)
        limit = self.terms.limit_seconds
        if oldest is None or time.monotonic() - oldest.taken_at < limit:
            self._pulse.beat()

    # The thread.

    def _run(self) -> None:
        shortest, longest = BACKOFF_SECONDS
        pause, was_down = shortest, False
        while not self._closing.is_set():
            opened_at = float("inf")
            reason: Exception | None = None
            try:
                self._open()
                opened_at = time.monotonic()
                if was_down:
                    self._note("info", f"connected to {self.address} again")
                was_down = False
                self.is_up.set()
                self._serve()
            except Exception as error:  # noqa: BLE001 - sockets, TLS, protocol: all mean it is gone
                reason = error
            self.is_up.clear()
            self._shut()
            if not self.outlives_connection:
                with self._lock:
                    self._in_hand.clear()
            if reason is None:
                continue
            if not was_down:
                was_down = True
                self._note(
                    "warning",
                    f"no connection to {self.address} for {self.terms.queue!r}: "
                    f"{type(reason).__name__}{tls_reason(reason)}; trying again until there is one",
                )
            lasted = time.monotonic() - opened_at > longest
            pause = shortest if lasted else min(pause * 2, longest)
            # Waiting for a broker is no reason to be restarted.
            self._beat()
            self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
