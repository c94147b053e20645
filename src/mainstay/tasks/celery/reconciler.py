"""Finds the tasks that were accepted and that neither a queue nor a worker has any more.

A row of ``task_status`` says of each task that has not ended until when it is accounted for: when
it is due, its last turn, when a worker last said that it holds it. What was not accounted for since
a while may wait in its queue, however long that is, or be lost. Queues of both brokers hand out
first what came first; so a *marker*, a small message, is put behind all that waits, and when a
worker takes it, everything that was put into the queue before it has been handed out.

What is handed out to a worker that dies comes back. So a second marker is sent, a while after the
first was taken, and a task is lost when

- it was in the queue before the first marker, if anywhere,
- both were taken, and the workers have since had the time to say what they hold,
- nothing has accounted for it for `lost_after_seconds`.

A queue that is gone counts as a marker that was taken. While no worker takes the marker (none
runs, or all are busy) no task is reported: they wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery.utils import uuid

from mainstay import forks
from mainstay.errors import NoRoute, NotConnected, Overloaded
from mainstay.outgoing import OutboxMessage
from mainstay.resources.amqp.deadletters import AmqpDeadLetters
from mainstay.resources.sqlalchemy import reconciling, schedule
from mainstay.resources.sqlalchemy.reconciling import Marker
from mainstay.retries import is_transient
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.celery.relaying import TaskPublisher
from mainstay.tasks.celery.sending import MARKER
from mainstay.tasks.celery.workflows import retries_of
from mainstay.tasks.status import State, TaskStatus
from mainstay.taskstates import ANY_EPOCH
from mainstay.texts import text_of

if TYPE_CHECKING:
    from mainstay.deadletters import DeadLetter
    from mainstay.resources.sqlalchemy import Database
    from mainstay.tasks.celery.app import App
    from mainstay.tasks.celery.depths import Depths

__all__ = ["Pace", "Reconciler", "is_marker_due", "of_this_life", "proven_until"]

# A worker that knows no markers, of an older version or another service, does it, and that is all.
_HARMLESS_TASK = "celery.accumulate"
_TURN = "mainstay.reconciler"
_AT_A_TIME = 500
_MOST_LOGGED = 100
_MOST_MARKERS = 20
_MOST_LETTERS = 10_000
_MOST_DOUBLINGS = 6
_GOODBYE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How soon the reconciler does what, in seconds.

    Args:
        lost_after: The setting `lost_after_seconds`.
    """

    lost_after: float

    @property
    def turn(self) -> float:
        """From one look of all the workers to the next."""
        return min(5.0, self.lost_after / 20)

    @property
    def hold(self) -> float:
        """From one word of a worker on what it holds to the next."""
        return min(10.0, self.lost_after / 20)

    @property
    def grace(self) -> float:
        """So long a worker that takes a task has to say so, or its death to be noticed."""
        return min(20.0, self.lost_after / 8)

    @property
    def doubt(self) -> float:
        """What was not accounted for that long is looked for. A task may come into its queue that
        much later than the row says, and back into it when its worker has died.
        """
        return self.lost_after / 2

    @property
    def resend(self) -> float:
        """A marker that was not taken for so long may be lost itself."""
        return min(45.0, self.lost_after / 4)


def proven_until(markers: Iterable[Marker], now: datetime, grace_seconds: float) -> datetime | None:
    """Return before which moment a task was put into the queue that must have come out by now;
    ``None`` while nothing is proven.
    """
    grace = timedelta(seconds=grace_seconds)
    taken = [(each.sent_at, each.taken_at) for each in markers if each.taken_at is not None]
    proven = (
        first_sent
        for first_sent, first_taken in taken
        for second_sent, second_taken in taken
        if first_taken + grace <= second_sent and second_taken + grace <= now
    )
    return max(proven, default=None)


def is_marker_due(markers: Sequence[Marker], now: datetime, pace: Pace, *, is_empty: bool) -> bool:
    """Is it time to send another marker into a queue with tasks that are in doubt?

    Args:
        is_empty: Nothing waits in it: a marker that was not taken is lost too, or is being taken.
    """
    last_taken = max((each.taken_at for each in markers if each.taken_at), default=None)
    waiting = [
        each.sent_at
        for each in markers
        if each.taken_at is None and (last_taken is None or each.sent_at > last_taken)
    ]
    if waiting:
        pause = pace.resend
        if not is_empty:
            # Do not fill a long queue, or one without a worker, with markers.
            pause *= 2 ** min(len(waiting), _MOST_DOUBLINGS)
        return now >= max(waiting) + timedelta(seconds=pause)
    return last_taken is None or now >= last_taken + timedelta(seconds=pace.grace)


def of_this_life(letters: Iterable[DeadLetter], retries: Mapping[str, int]) -> list[DeadLetter]:
    """Return the letters of those tasks, without those of an earlier life of a step.

    Args:
        retries: How often each task was sent again, by its id.
    """
    return [
        letter
        for letter in letters
        if letter.id in retries and retries_of(letter.headers) >= retries[letter.id]
    ]


class Reconciler:
    """Looks for lost tasks on a thread of a worker's main process, in turn with other workers, and
    says what this one holds.

    Args:
        depths: What looks into queues.
    """

    def __init__(self, app: App, database: Database, depths: Depths) -> None:
        self._app = app
        self._database = database
        self._depths = depths
        self._publisher = TaskPublisher(app)
        self._pace = Pace(app.service.settings.lost_after_seconds)
        self._taken: deque[str] = deque()
        self._held: Collection[str] = ()
        self._failures = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(_GOODBYE_SECONDS)

    def holds(self, ids: Collection[str]) -> None:
        """The worker holds these tasks now; called by its main loop."""
        self._held = ids

    def took(self, marker: str) -> None:
        """The worker has taken a marker; called by its main loop."""
        self._taken.append(marker)

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        hold_in, look_in = 0.0, self._pace.turn
        tick = min(1.0, self._pace.hold)
        while not self._ended.wait(tick):
            hold_in, look_in = hold_in - tick, look_in - tick
            try:
                with forks.work():
                    self._note_taken()
                    if hold_in <= 0:
                        self._hold()
                        hold_in = self._pace.hold
                if look_in <= 0:
                    look_in = self._pace.turn
                    self.turn()
            except Exception as error:  # noqa: BLE001 - it goes on, whatever it meets
                self._tell_of(error)
            else:
                self._failures = 0
        self._publisher.close()
        self._depths.close()

    def _note_taken(self) -> None:
        if ids := list(self._taken):
            with self._database.autocommit() as connection:
                reconciling.take(connection, ids, schedule.now(connection))
            for _ in ids:
                self._taken.popleft()

    def _hold(self) -> None:
        if held := self._held:
            with self._database.autocommit() as connection:
                reconciling.hold(connection, held, older_than_seconds=self._pace.hold / 2)

    def turn(self) -> None:
        """Look at every queue once, unless another worker has just done so."""
        with forks.work(), self._database.autocommit() as connection:
            now, last = schedule.read(connection, [_TURN])
            is_due = now >= last[_TURN] + timedelta(seconds=self._pace.turn)
            if not is_due or not schedule.move(connection, _TURN, last[_TURN], now):
                return
            queues = reconciling.queues(connection)
        for queue in queues:
            if self._ended.is_set():
                return
            with forks.work():
                self._look(queue)

    def _look(self, queue: str) -> None:
        """Do what is to be done about the tasks of *queue*."""
        doubt = timedelta(seconds=self._pace.doubt)
        with self._database.autocommit() as connection:
            reconciling.adopt(connection, queue)
            now = schedule.now(connection)
            if not reconciling.is_any(connection, queue, after=None, until=now - doubt):
                return
            markers = reconciling.markers(connection, queue)
        proven = proven_until(markers, now, self._pace.grace)
        if proven is not None:
            before = min(proven - doubt, now - timedelta(seconds=self._pace.lost_after))
            self._note_dead(queue, before)
            self._lose(queue, before, now)
        with self._database.autocommit() as connection:
            after = None if proven is None else proven - doubt
            if not reconciling.is_any(connection, queue, after=after, until=now - doubt):
                return
        if is_marker_due(markers, now, self._pace, is_empty=self._is_empty(queue, markers)):
            self._mark(queue, markers, proven)

    def _note_dead(self, queue: str, before: datetime) -> None:
        """Have those tasks of *queue* be dead that RabbitMQ itself has put among the dead letters:
        by a time to live, or a limit, that a policy of its operator sets.
        """
        url, store = str(self._app.conf.broker_url), self._app.reports.store
        if transport_of(url) != "amqp" or store is None:
            return
        with self._database.autocommit() as connection:
            if not reconciling.is_any(connection, queue, after=None, until=before):
                return
        found = self._depths.look([queue]).get(queue)
        if found is None or not found.dead:
            return
        letters = list(islice(AmqpDeadLetters(url).letters(queue), _MOST_LETTERS))
        ids = {letter.id for letter in letters}
        with self._database.autocommit() as connection:
            retries = reconciling.among(connection, queue, ids, before=before)
        for letter in of_this_life(letters, retries):
            error = {"type": letter.reason.rpartition(":")[2], "detail": letter.detail}
            ended = TaskStatus(id=letter.id, state=State.FAILURE, epoch=ANY_EPOCH, error=error)
            store.record(ended)

    def _is_empty(self, queue: str, markers: Sequence[Marker]) -> bool:
        if all(marker.taken_at is not None for marker in markers):
            return False  # it makes no difference
        found = self._depths.look([queue]).get(queue)
        return found is None or not found.ready

    def _mark(self, queue: str, markers: Sequence[Marker], proven: datetime | None) -> None:
        """Send a marker into *queue*."""
        id = uuid()
        doubt = timedelta(seconds=self._pace.doubt)
        with self._database.autocommit() as connection:
            now = schedule.now(connection)
            # What enters the queue behind the marker must not look as if it had been before it.
            reconciling.note_outbox(connection, before=now - doubt, now=now)
            reconciling.add(connection, id, queue, now)
            reconciling.forget(connection, _outdated(markers, proven))
        (answer,) = self._publisher.publish([_marker(id, queue)])
        if isinstance(answer, NoRoute) and self._is_known(queue, markers):
            self._taken.append(id)
        elif isinstance(answer, NoRoute | NotConnected | Overloaded):
            with self._database.autocommit() as connection:
                reconciling.forget(connection, [id])
        if isinstance(answer, NotConnected):
            raise answer

    def _is_known(self, queue: str, markers: Sequence[Marker]) -> bool:
        """Is there a queue of that name, when it has not just been deleted? A task can be sent past
        the queues that are declared, and its row then has a routing key for a queue.
        """
        was_there = any(marker.taken_at is not None for marker in markers)
        return was_there or queue in self._app.amqp.queues

    def _lose(self, queue: str, before: datetime, now: datetime) -> None:
        """Have those tasks of *queue* be lost that were last accounted for before then."""
        lost = 0
        while not self._ended.is_set():
            with self._database.session() as session:
                found = reconciling.lose(session, queue, before=before, now=now, limit=_AT_A_TIME)
            for task in found[: max(_MOST_LOGGED - lost, 0)]:
                self._log(
                    "error",
                    f"{task.name} is lost: no queue and no worker has it any more",
                    "lost",
                    name=task.name,
                    task_id=task.id,
                    queue=queue,
                    state=task.state,
                )
            lost += len(found)
            if len(found) < _AT_A_TIME:
                break
        if lost:
            self._log(
                "error",
                f"{lost} tasks of {queue} are lost: send them again with "
                "`mainstay tasks retry --all-lost`",
                "tasks_lost",
                queue=queue,
                tasks=lost,
            )

    def _tell_of(self, error: Exception) -> None:
        self._failures += 1
        is_passing = is_transient(error)
        if is_passing and self._failures > 1:
            return  # an outage is logged once
        self._log(
            "warning" if is_passing else "error",
            f"the search for lost tasks failed and is repeated: {text_of(error)}",
            "reconciler_held_up",
            error=None if is_passing else error,
        )

    def _log(self, level: str, message: str, event: str, **facts: Any) -> None:
        self._app.service.logs.write(level, "mainstay.tasks", message, event=event, **facts)


def _outdated(markers: Sequence[Marker], proven: datetime | None) -> list[str]:
    """Return which markers prove nothing more than others do, or are too many to look at."""
    older = [each.id for each in markers if proven is not None and each.sent_at < proven]
    return older + [each.id for each in markers[:-_MOST_MARKERS] if each.id not in older]


def _marker(id: str, queue: str) -> OutboxMessage:
    # Without a priority: where tasks have one, it comes after all of them.
    return OutboxMessage(
        id=id,
        kind="task",
        name=_HARMLESS_TASK,
        destination=queue,
        headers={"id": id, "task": _HARMLESS_TASK, MARKER: id, "ignore_result": True},
        route={
            "exchange": "",
            "routing_key": queue,
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "properties": {},
        },
        body=b"[[], {}, {}]",
    )
