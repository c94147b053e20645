"""How does what waits in the outbox come to its broker?

A relay takes a batch, has it published with confirms, and marks it, in this order: what dies in
between leaves the messages unmarked, so they are published again, under the same ids. Any number
of relays may run.

What becomes of a message that is not taken:

============================================  =====================================================
the broker is away, or says nothing           it stays; the relay tries again, later and later
its queue takes no more (`Overloaded`)        it is put off, later and later, and others go on
no queue takes it (`NoRoute`)                 likewise, for some seconds; then it is a dead letter
it can never be published                     it is a dead letter
the connection broke, with it alone in hand   it is put off, and others go on
============================================  =====================================================
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from mainstay import failpoints, forks
from mainstay.errors import Disconnected, Misconfigured, NoRoute, Overloaded, Unconfirmed
from mainstay.monitor import Monitor
from mainstay.outgoing import Publisher, Publishing
from mainstay.resources.sqlalchemy import claims
from mainstay.resources.sqlalchemy.claims import Row
from mainstay.resources.sqlalchemy.notices import Listener
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.retries import Backoff, BuryAs, Decision, RetryIn, decide, is_transient
from mainstay.service import Service
from mainstay.stop import Stop
from mainstay.texts import text_of

__all__ = ["Relay", "Relays", "decision_on", "run"]

PULSE_SECONDS = 60.0
"""A turn waits for the database and for a broker's confirms, each with time limits of its own."""

_LOOK_SECONDS = 1.0
_LOOK_SECONDS_OF_SQLITE = 0.1  # where nobody can give notice
_LOOK_SECONDS_WITHOUT_TURN = 0.02
_BATCH, _LARGEST_BATCH = 25, 400
_BATCH_BYTES = 4_194_304
_FAREWELL_SECONDS = 5.0
_TICK_SECONDS = 0.5
_DETAIL_CHARACTERS = 1_000

_OUTAGE = Backoff(initial_seconds=0.2, max_seconds=5.0)
_REFUSAL = Backoff(attempts=5, initial_seconds=0.5, max_seconds=60.0)


def decision_on(
    error: Exception, *, attempts: int = 0, unrouted: int = 0, alone: bool
) -> Decision | None:
    """Say what becomes of a message that was not published: dead, or tried again later. ``None``
    when the broker is in trouble, not the message.

    Args:
        attempts: How often it was refused before.
        unrouted: How often of these because there was no queue for it: that alone is a reason to
            give up.
        alone: Nothing else was in hand, so that what broke the connection is known.
    """
    if isinstance(error, Overloaded) or (alone and isinstance(error, Disconnected)):
        return RetryIn(_REFUSAL.pause_seconds(attempts + 1))
    if isinstance(error, NoRoute) or not is_transient(error):
        return decide(error, unrouted + 1, _REFUSAL)
    return None


class Relay:
    """Relays the messages of one kind, on a thread of its own.

    Args:
        outbox: Where they wait.
        publisher: What puts them on their wire.
        service: Whose they are; told how it goes.
    """

    def __init__(self, outbox: Outbox, publisher: Publisher, service: Service) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._service = service
        self._listener = Listener(outbox.database)
        is_announced = outbox.database.engine.dialect.name == "postgresql"
        self._look_seconds = _LOOK_SECONDS if is_announced else _LOOK_SECONDS_OF_SQLITE
        self._claims = claims.claims_of(
            outbox.database,
            publisher.kind,
            in_order=publisher.keeps_order,
            look_seconds=self._look_seconds,
        )
        self._most = _BATCH
        self._had_turn = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)

    def start(self) -> None:
        """Begin to relay; returns at once."""
        self._outbox.on_commit(self._listener.wake)
        self._thread.start()

    def close(self) -> None:
        """Finish the batch in hand and relay no more; what waits is for others, or for later."""
        self._ended.set()
        self._outbox.forget(self._listener.wake)
        self._listener.wake()
        self._thread.join(_FAREWELL_SECONDS)
        self._listener.close()

    def turn(self) -> int:
        """Relay one batch; returns how many messages were taken.

        Raises:
            Retry: The database or the broker does not answer: nothing more can be done now.
        """
        with self._claims.batch(self._most) as batch:
            rows, self._had_turn = batch.rows, batch.had_turn
            if not rows:
                return 0
            failpoints.reach("relay.after_claim")
            answers = self._publisher.publish([row.message for row in rows])
            failpoints.reach("relay.after_publish")
            with batch.unit() as session:
                trouble = self._settle(session, rows, answers)
                failpoints.reach("relay.before_mark")
        self._most = _next_size(self._most, rows, answers)
        if trouble is not None:
            raise trouble
        return len(rows)

    def show(self) -> None:
        """Put what waits into the metrics."""
        found = self._outbox.backlog(self._publisher.kind)
        self._service.metrics.outbox(
            self._publisher.kind,
            states={"ready": found.ready, "scheduled": found.scheduled},
            oldest_seconds=found.oldest_seconds,
        )

    # --- the thread ------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"relay:{self._publisher.kind}"

    def _run(self) -> None:
        lifecycle = self._service.lifecycle
        pulse = lifecycle.pulse(self._name, limit_seconds=PULSE_SECONDS)
        failures = 0
        while not self._ended.is_set():
            pulse.beat()
            try:
                with forks.work():
                    self._listener.listen()
                    taken = self.turn()
            except Exception as error:  # noqa: BLE001 - a relay goes on, whatever it meets
                failures += 1
                self._tell_of(error, failures)
                self._ended.wait(_OUTAGE.pause_seconds(failures))
                continue
            if failures:
                failures = 0
                self._tell("info", "the outbox leaves again", "relay_goes_on")
            if taken:
                self._service.metrics.completed()
            else:
                self._listener.wait(
                    self._look_seconds if self._had_turn else _LOOK_SECONDS_WITHOUT_TURN
                )
        lifecycle.end_pulse(self._name)
        self._publisher.close()
        self._claims.close()

    def _tell_of(self, error: Exception, failures: int) -> None:
        is_passing = is_transient(error)
        if is_passing and failures > 1:
            return  # an outage is told once
        self._tell(
            "warning" if is_passing else "error",
            f"the outbox does not leave, and is tried again: {text_of(error)}",
            "relay_held_up",
            None if is_passing else error,
        )

    def _tell(self, level: str, message: str, event: str, error: Exception | None = None) -> None:
        self._service.logs.write(
            level,
            "mainstay.outbox",
            message,
            event=event,
            error=error,
            kind=self._publisher.kind,
        )

    # --- one turn --------------------------------------------------------------------------

    def _settle(
        self, session: Session, rows: Sequence[Row], answers: Sequence[Exception | None]
    ) -> Exception | None:
        """Mark what has left, bury what never will, put off what may later; returns what keeps
        the broker from taking the rest.
        """
        trouble: Exception | None = None
        left = []
        for row, error in zip(rows, answers, strict=True):
            if error is None:
                left.append(row)
                continue
            decision = decision_on(
                error, attempts=row.attempts, unrouted=row.unrouted, alone=len(rows) == 1
            )
            if decision is None:
                trouble = trouble or error
            elif isinstance(decision, RetryIn):
                is_unrouted = isinstance(error, NoRoute)
                claims.put_off(session, row, decision.seconds, unrouted=is_unrouted)
            elif not self._bury(session, row, decision, error):
                claims.put_off(session, row, _REFUSAL.pause_seconds(row.attempts + 1))
        if left:
            claims.mark(session, left)
        return trouble

    def _bury(self, session: Session, row: Row, decision: BuryAs, error: Exception) -> bool:
        """Make a dead letter of *row*; says whether it could be written."""
        detail = self._service.logs.redaction.text(text_of(error))[:_DETAIL_CHARACTERS]
        try:
            with session.begin_nested():
                letter = claims.bury(session, row, decision.reason, detail)
                self._publisher.buried(session, row.message, error)
        except StatementError as flaw:  # it must not hold up the others
            self._tell("error", "a dead letter cannot be written", "dead_letter_failed", flaw)
            return False
        self._service.metrics.dead_letter(letter.queue)
        self._service.logs.write(
            "error",
            "mainstay.outbox",
            f"a message for {letter.queue} is dead: {letter.reason}",
            event="dead_letter",
            queue=letter.queue,
            name=letter.name,
            reason=letter.reason,
            detail=letter.detail,
            id=letter.id,
        )
        return True


class Relays:
    """What a process relays: a :class:`Relay` for each kind of message that its service publishes.

    Args:
        service: Whose outbox it is.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._relays: list[Relay] = []
        outbox = service.find(Outbox)
        if outbox is not None and outbox.is_named:
            self._relays = [
                Relay(outbox, each.outbox_publisher(), service)
                for each in service.resources.values()
                if isinstance(each, Publishing)
            ]

    def __bool__(self) -> bool:
        return bool(self._relays)

    def start(self) -> None:
        """Begin to relay; returns at once."""
        if self._relays:
            self._service.metrics.on_scrape(self._show)
        for relay in self._relays:
            relay.start()

    def close(self) -> None:
        """Finish the batches in hand and relay no more."""
        for relay in self._relays:
            relay.close()

    def _show(self) -> None:
        for relay in self._relays:
            relay.show()


def run(service: Service) -> int:
    """Relay what *service* commits until SIGTERM or SIGINT; return the exit code, 0.

    For a service without a worker: the main process of a worker relays too.

    Raises:
        Misconfigured: The service has no outbox, or nothing that publishes.
    """
    relays = Relays(service)
    if not relays:
        raise Misconfigured(
            "there is nothing to relay: the service needs a Database, and a Celery application "
            "made for it: name that one as the target, such as orders.worker:celery_app"
        )
    settings = service.settings
    with Stop() as stop:
        monitor = Monitor(service, settings.host, settings.metrics_port)
        relays.start()
        service.start("the relay")
        while not service.lifecycle.draining.is_set() and not stop.wait(_TICK_SECONDS):
            service.lifecycle.heartbeat()
        service.lifecycle.drain()
        relays.close()
        monitor.close()
        service.stop()
    return 0


def _next_size(most: int, rows: Sequence[Row], answers: Sequence[Exception | None]) -> int:
    """Choose how many to take after a batch of *rows*, of *most* at most: twice as many while there
    are as many and they are not too much to hold; and one, to find out which of them breaks the
    connection, or whether a broker that said nothing stores again: it may store what it did not
    confirm as well.
    """
    if any(isinstance(answer, Disconnected | Unconfirmed) for answer in answers):
        return 1
    wanted = min(2 * most, _LARGEST_BATCH) if len(rows) == most else min(most, _BATCH)
    total = sum(len(row.message.body) for row in rows)
    return max(1, min(wanted, _BATCH_BYTES * len(rows) // max(total, 1)))
