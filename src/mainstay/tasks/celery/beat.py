"""A scheduler for `celery beat` of which any number may run, and each tick fires once.

There is no leader: whoever takes a tick first fires it (see :mod:`mainstay.tasks.celery.ticks`),
so when one is killed the others take the next. The time is that of the server which keeps the
ticks. Ticks that were missed, because no beat ran, fire once, for the latest of them.
"""

from __future__ import annotations

import copy
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import beat
from celery.schedules import BaseSchedule, schedule
from typing_extensions import override

from mainstay import failpoints
from mainstay.errors import Disconnected, Misconfigured, NotConnected, Unconfirmed
from mainstay.monitor import Monitor
from mainstay.retries import Backoff
from mainstay.tasks.celery.ticks import OwnTicks, Ticks, ticks_of
from mainstay.tasks.celery.worker import leave
from mainstay.texts import text_of

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["Scheduler", "tick_at"]

_TURN_LIMIT_SECONDS = 30.0
_LOOK_SECONDS = 5.0
_HEARTBEAT_SECONDS = 1.0
_PAUSE_SECONDS = 1.0
# A broker that is back is to be noticed soon; what it refuses, somebody must change.
_OUTAGE = Backoff(initial_seconds=1.0, max_seconds=5.0)
_REFUSAL = Backoff(initial_seconds=1.0, max_seconds=60.0)
# A tick further ahead of the server's clock than this was taken before that clock was put back.
_AHEAD = timedelta(seconds=2)


def tick_at(of: BaseSchedule, last: datetime, now: datetime) -> datetime:
    """Return the latest tick of a schedule that is due, of those that may have been missed since
    the *last* one.
    """
    if type(of) is schedule and not of.relative and of.run_every:
        every: timedelta = of.run_every
        return last + (now - last) // every * every
    return now


@dataclass(frozen=True, slots=True)
class _Failing:
    """An entry that could not be fired: how often in a row, what was said of it, and when it is
    looked at again.
    """

    times: int
    said: str
    until: datetime


class Scheduler(beat.Scheduler):
    """Celery's, with its ticks kept where all beats see them; `beat_scheduler` names it.

    Args:
        ticks: Where they are kept; where the service keeps them by default.
    """

    app: App
    max_interval = _LOOK_SECONDS

    def __init__(self, *args: Any, ticks: Ticks | None = None, **kwargs: Any) -> None:
        self._ticks: Ticks = ticks or OwnTicks()
        self._monitor: Monitor | None = None
        self._now = datetime.now(UTC)
        self._look_at = 0.0
        self._is_at_work = False
        self._is_told_to_stop = False
        self._is_held_up = False
        self._failing: dict[str, _Failing] = {}
        super().__init__(*args, **kwargs)

    @override
    def setup_schedule(self) -> None:
        super().setup_schedule()
        service, settings = self.app.service, self.app.service.settings
        try:
            self._ticks = ticks_of(service)
            if self.app.worker.is_inside:  # `worker -B`: the worker answers for both
                service.forked()
            else:
                self._monitor = Monitor(service, settings.host, settings.metrics_port)
            service.start("beat")
        except Misconfigured as error:
            leave(error)
        self._stop_on_signals()
        if isinstance(self._ticks, OwnTicks):
            self._tell(
                "warning",
                "there is neither a database nor Redis to keep ticks in: run one beat alone",
                "refusal",
            )

    @override
    def tick(self, *_: Any, **__: Any) -> float:
        """Fire what is due, and return how many seconds to sleep."""
        self._is_at_work = True
        lifecycle = self.app.service.lifecycle
        lifecycle.pulse("beat", limit_seconds=_TURN_LIMIT_SECONDS).beat()
        lifecycle.heartbeat()
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + self.look()
        self._is_at_work = False
        if self._is_told_to_stop:
            raise SystemExit
        return max(0.0, min(self._look_at - time.monotonic(), _HEARTBEAT_SECONDS))

    def turn(self) -> float:
        """Fire what is due, each entry once at most; returns after how many seconds more is."""
        entries = dict(self.schedule or {})
        now, ticked = self._ticks.read(entries.keys())
        self._now = now.astimezone(self.app.timezone)
        pause = self.max_interval
        for name, entry in entries.items():
            last = ticked[name]
            if last > now + _AHEAD:
                self._ticks.take(name, last, now, lambda _session: None)
                continue
            if wait := self._wait_of(name, now):
                pause = min(pause, wait)
                continue
            # What is due is asked, and answered, of one moment: one that goes on meanwhile would
            # call an entry due of which no tick has come.
            entry.schedule.nowfun = lambda: self._now
            try:
                is_due, seconds = entry.schedule.is_due(last.astimezone(self.app.timezone))
            except Exception as error:  # noqa: BLE001 - one that fails must not stop the others
                # `_is_due_failed` is new in Celery 5.7; 5.6 is supported.
                self._failed(name, "its next run is unknown", "schedule_failed", error, now)
                is_due, seconds = False, self._wait_of(name, now)
            if is_due:
                seconds = self._fire(entry, last, tick_at(entry.schedule, last, now), now)
            pause = min(pause, seconds)
        return float(pause)

    @override
    def close(self) -> None:
        super().close()
        self.app.service.lifecycle.drain()
        if self._monitor is not None:
            self._monitor.close()
        self.app.service.stop()

    def _stop_on_signals(self) -> None:
        """Stop between two ticks. Celery's own handler takes leave of everything wherever it comes
        in between, and knows no hangup.
        """

        def told(*_: object) -> None:
            self._is_told_to_stop = True
            if not self._is_at_work:
                raise SystemExit

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, told)

    def look(self) -> float:
        """Take a turn, whatever it meets: a beat goes on. An outage is told once."""
        try:
            pause = self.turn()
        except Exception as error:  # noqa: BLE001 - as it says
            if not self._is_held_up:
                self._tell("warning", "the schedule is held up", "beat_held_up", error)
            self._is_held_up = True
            return _PAUSE_SECONDS
        if self._is_held_up:
            self._tell("info", "the schedule goes on", "beat_goes_on")
        self._is_held_up = False
        return pause

    def _fire(self, entry: Any, last: datetime, tick: datetime, now: datetime) -> float:
        """Fire a tick of *entry*, if nobody else does; returns when to look at it again."""
        try:
            taken = self._ticks.take(entry.name, last, tick, partial(self._send, entry))
        except Exception as error:  # noqa: BLE001 - the other entries are fired all the same
            self._failed(entry.name, "it was not sent, and will be", "tick_failed", error, now)
            return self._wait_of(entry.name, now)
        self._failing.pop(entry.name, None)
        if taken:
            self.app.service.metrics.completed()
            facts = {"name": entry.name, "task": entry.task, "due_at": tick.isoformat()}
            self._tell("info", f"{entry.name} ticks", "tick", **facts)
        return 0.0

    def _failed(self, name: str, what: str, event: str, error: Exception, now: datetime) -> None:
        """Put an entry off, and tell of it when it fails otherwise than the last time."""
        said = f"{type(error).__name__}: {text_of(error)}"
        before = self._failing.get(name)
        if before is None or before.said != said:
            self._tell("error", f"{name}: {what}", event, error, name=name)
        times = 1 if before is None else before.times + 1
        is_away = isinstance(error, NotConnected | Disconnected | Unconfirmed)
        pause = (_OUTAGE if is_away else _REFUSAL).pause_seconds(times)
        self._failing[name] = _Failing(times, said, now + timedelta(seconds=pause))

    def _wait_of(self, name: str, now: datetime) -> float:
        """Return in how many seconds an entry that has failed is looked at again."""
        failing = self._failing.get(name)
        wait = 0.0 if failing is None else (failing.until - now).total_seconds()
        # More than the longest pause is what the server's clock was put back by.
        return wait if 0.0 < wait <= _REFUSAL.max_seconds else 0.0

    def _send(self, entry: Any, session: Any) -> None:
        failpoints.reach("beat.before_send")
        sent = copy.copy(entry)
        sent.options = dict(entry.options or {})
        if session is not None:
            sent.options["session"] = session
        sent.options["headers"] = dict(sent.options.get("headers") or {})
        try:
            self.apply_async(sent, advance=False)
        except beat.SchedulingError as error:  # Celery's, around what says what is known
            raise error.__context__ or error from None
        failpoints.reach("beat.after_send")

    def _tell(
        self,
        level: str,
        message: str,
        event: str,
        error: Exception | None = None,
        **facts: Any,
    ) -> None:
        self.app.service.logs.write(
            level, "mainstay.tasks", message, event=event, error=error, **facts
        )
