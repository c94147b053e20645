"""How do the senders of the subject's tasks send, and what were they told?"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from mainstay.errors import MainstayError
from tests.chaos.ledger import Outcome, told_by
from tests.chaos.stage import Stage
from tests.chaos.subject.service import QUEUE

__all__ = ["Senders"]

# A sender whose task was not taken waits a little, as anybody would, before the next.
_PAUSE_SECONDS = 0.05


class Senders:
    """Any number of senders, on threads that share the application of the stage.

    Each task is a unit and sent under the unit's id, so that sending it again does no harm.

    Args:
        stage: Where they play.
        ahead: With so many tasks accepted that no worker has begun, no more are sent; 0 for as many
            as they can send.
    """

    def __init__(self, stage: Stage, *, ahead: int = 0) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        """How often each was told."""
        self.errors: Counter[str] = Counter()
        """How often each error was raised."""
        self.slowest_seconds = 0.0
        """What the slowest send has taken, however it ended."""
        self._stage = stage
        self.ahead = ahead
        self._open: dict[str, Callable[[], object]] = {}
        self._lock = threading.Lock()

    def send(
        self, name: str = "record", /, *, options: Mapping[str, Any] | None = None, **data: Any
    ) -> str:
        """Send one task as a new unit, with Celery's *options* for sending; returns the unit."""
        self._keep_pace()
        unit = self._stage.ledger.submit()

        def send() -> None:
            self._stage.app.send_task(name, (unit,), data, task_id=unit, **(options or {}))

        if self._ask(unit, send) == "unknown":
            self._open[unit] = send
        return unit

    def send_many(
        self, count: int, name: str = "record", /, *, threads: int = 4, **data: Any
    ) -> list[str]:
        """Send *count* tasks from several threads at once; returns their units."""
        left = itertools.repeat(None, count)  # an iterator may be shared: each step is atomic
        units: list[str] = []

        def send() -> None:
            units.extend(self.send(name, **data) for _ in left)

        with ThreadPoolExecutor(threads) as pool:
            for each in [pool.submit(send) for _ in range(threads)]:
                each.result()
        return units

    @contextmanager
    def sending(self, name: str = "record", /, *, threads: int = 4, **data: Any) -> Iterator[None]:
        """Send on and on while the body runs."""
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                self.send(name, **data)

        with ThreadPoolExecutor(threads) as pool:
            sending = [pool.submit(send) for _ in range(threads)]
            try:
                yield
            finally:
                over.set()
            for each in sending:
                each.result()

    def insist(self) -> int:
        """Send again each task of which its sender heard neither yes nor no, until it hears yes;
        returns how many there were.
        """
        count = len(self._open)
        while self._open:
            unit, send = next(iter(self._open.items()))
            if self._ask(unit, send) == "accepted":
                del self._open[unit]
        return count

    def errors_except(self, *expected: str) -> Counter[str]:
        """Return the errors other than the *expected* ones, and than those that a broker may cause
        by being slow, as it is on a busy machine: it may confirm too late, or accept a connection
        too late. Whether they told the truth is seen in the reconciliation.
        """
        allowed = {*expected, "Unconfirmed", "NotConnected"}
        return Counter({name: n for name, n in self.errors.items() if name not in allowed})

    def publish(self, body: bytes, headers: dict[str, Any], **properties: Any) -> None:
        """Put a message on the queue, as anybody might who reaches the broker."""
        app = self._stage.app
        with app.connection_for_write() as connection:
            queue = app.amqp.queues[QUEUE]
            connection.Producer(auto_declare=False).publish(
                body,
                exchange=queue.exchange if self._stage.broker == "rabbitmq" else "",
                routing_key=queue.routing_key,
                headers=headers,
                declare=[queue],
                **{"content_type": "application/json", "content_encoding": "utf-8"} | properties,
            )

    def _ask(self, unit: str, send: Callable[[], object]) -> Outcome:
        began = time.monotonic()
        error: MainstayError | None = None
        try:
            send()
        except MainstayError as raised:
            error = raised
        outcome: Outcome = "accepted" if error is None else told_by(error)
        self._stage.ledger.settle(unit, outcome)
        with self._lock:
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.outcomes[outcome] += 1
            if error is not None:
                self.errors[type(error).__name__] += 1
        if error is not None:
            time.sleep(_PAUSE_SECONDS)
        return outcome

    def _keep_pace(self) -> None:
        while self.ahead and self._stage.ledger.not_begun() >= self.ahead:
            time.sleep(_PAUSE_SECONDS)
