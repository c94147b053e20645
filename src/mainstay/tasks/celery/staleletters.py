"""Takes the dead letters out of a broker that the retry of a workflow has made stale.

Each worker looks, beside its other work: what a retry has noted in the database stays noted until
all the dead letters of the queue have been gone through. So it does not matter whose worker it is,
what dies meanwhile, or whether the letter is stored before or after the retry.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from mainstay import forks
from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.resources.sqlalchemy import staleletters
from mainstay.resources.sqlalchemy.staleletters import StaleStep
from mainstay.retries import Backoff, is_transient
from mainstay.tasks.celery.letters import discard_all
from mainstay.tasks.celery.workflows import WORKFLOW, retries_of

if TYPE_CHECKING:
    from mainstay.resources.sqlalchemy import Database
    from mainstay.tasks.celery.app import App

__all__ = ["StaleLetters"]

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_FAREWELL_SECONDS = 5.0
_MOST_KEPT = 10_000
_PAUSE = Backoff(initial_seconds=1.0, max_seconds=60.0)

_queue_of = attrgetter("queue")


class StaleLetters:
    """What one worker does about them, on a thread of its own.

    Args:
        database: Where the workflows are.
    """

    def __init__(self, app: App, database: Database) -> None:
        self._app = app
        self._database = database
        self._stored: deque[tuple[str, int]] = deque(maxlen=_MOST_KEPT)
        self._failures: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stale-letters", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Note what is to be noted, and look no more; what is left is for others, or for later."""
        self._ended.set()
        self._thread.join(_FAREWELL_SECONDS)

    def stored(self, headers: Mapping[str, object]) -> None:
        """This worker has stored the dead letter of a message with those headers."""
        id = headers.get("id")
        if isinstance(id, str) and headers.get(WORKFLOW):
            self._stored.append((id, retries_of(headers)))

    def look(self) -> None:
        """Look once."""
        self._note()
        with forks.work():
            found = sorted(staleletters.claim(self._database), key=_queue_of)
        for queue, steps in groupby(found, _queue_of):
            self._take(queue, list(steps))

    def _note(self) -> None:
        while self._stored:
            with forks.work():
                staleletters.stored(self._database, *self._stored[0])
            self._stored.popleft()

    def _take(self, queue: str, steps: Sequence[StaleStep]) -> None:
        retries = {step.task_id: step.retries for step in steps}

        def is_stale(letter: DeadLetter) -> bool:
            forks.give_way()
            return retries_of(letter.headers) < retries.get(letter.id, 0)

        with forks.work():
            trouble = ""
            try:
                url = str(self._app.conf.broker_url)
                if queue and not discard_all(url, queue, is_stale):
                    trouble = "somebody else looks at them"
            except Exception as error:  # noqa: BLE001 - whatever it is, they are looked for again
                trouble = type(error).__name__
            if not trouble:
                self._failures.pop(queue, None)
                staleletters.taken(self._database, steps)
                return
            failures = self._failures[queue] = self._failures.get(queue, 0) + 1
            if failures == 1:
                logger.warning(
                    "dead letters of tasks that were sent again may still be in %s (%s), and are "
                    "looked for again: %s",
                    dead_letters_of(queue),
                    trouble,
                    ", ".join(retries),
                )
            staleletters.put_off(self._database, steps, _PAUSE.pause_seconds(failures))

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._try(self.look)
        self._try(self._note)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if not is_transient(error):
                logger.exception("stale dead letters could not be looked for")
