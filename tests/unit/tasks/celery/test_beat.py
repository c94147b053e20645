"""What fires when: with the time of a server that the test sets."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import BaseSchedule, crontab, schedule

from mainstay import Settings
from mainstay.errors import NoRoute, NotConnected, Overloaded, Unavailable
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.celery.beat import Scheduler, tick_at
from mainstay.tasks.celery.ticks import OwnTicks

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Scene:
    """A beat, and the clock of the server that keeps its ticks."""

    def __init__(self, entries: dict[str, dict[str, Any]], *, timezone: str = "UTC") -> None:
        self.now = NOON
        self.sent: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.tries = 0
        self.app: App = create_celery_app(Settings(env="test", celery_broker_url="memory://"))
        self.app.conf.timezone = timezone
        self.ticks = OwnTicks(clock=lambda: self.now)
        self.entries = entries

    def beat(self) -> Scheduler:
        scheduler = Scheduler(app=self.app, lazy=True, ticks=self.ticks)
        scheduler.merge_inplace(self.entries)
        scheduler.apply_async = self._sent
        return scheduler

    def _sent(self, entry: Any, **_: Any) -> None:
        self.tries += 1
        if entry.name in self.broken:
            raise self.broken[entry.name]
        self.sent.append(entry.name)

    def turns(self, *beats: Scheduler) -> float:
        """Have each beat look until it has nothing left to do; returns when more is due."""
        while True:
            pauses = [beat.turn() for beat in beats]
            if all(pauses):
                return min(pauses)


@pytest.fixture
def entries() -> dict[str, dict[str, Any]]:
    return {"soon": {"task": "soon", "schedule": 10.0}}


def test_an_entry_that_is_new_fires_when_its_first_tick_is_due(entries: Any) -> None:
    scene = Scene(entries)
    beat = scene.beat()
    assert scene.turns(beat) == pytest.approx(Scheduler.max_interval)
    assert scene.sent == []
    scene.now += timedelta(seconds=10)
    scene.turns(beat)
    assert scene.sent == ["soon"]


def test_two_beats_fire_a_tick_once(entries: Any) -> None:
    scene = Scene(entries)
    beats = [scene.beat(), scene.beat()]
    for _ in range(5):
        scene.turns(*beats)
        scene.now += timedelta(seconds=10.5)
    assert scene.sent == ["soon"] * 4


def test_ticks_do_not_drift_and_those_that_were_missed_fire_once(entries: Any) -> None:
    scene = Scene(entries)
    beat = scene.beat()
    scene.turns(beat)
    scene.now += timedelta(seconds=3605)
    assert scene.turns(beat) == pytest.approx(Scheduler.max_interval, abs=0.5)
    assert scene.sent == ["soon"]
    assert scene.ticks.read(["soon"])[1] == {"soon": NOON + timedelta(seconds=3600)}


def test_an_entry_is_not_due_a_moment_too_early(entries: Any) -> None:
    scene = Scene(entries)
    beat = scene.beat()
    scene.turns(beat)
    moment = timedelta(microseconds=1)
    scene.now += timedelta(seconds=10) - moment
    beat.turn()
    assert scene.sent == []
    scene.now += moment
    scene.turns(beat)
    assert scene.sent == ["soon"]


def test_a_tick_that_could_not_be_sent_is_tried_again_and_holds_up_no_other(entries: Any) -> None:
    scene = Scene({**entries, "other": {"task": "other", "schedule": 10.0}})
    beat = scene.beat()
    scene.turns(beat)
    scene.now += timedelta(seconds=10)
    scene.broken["soon"] = NotConnected("the broker is away")
    scene.turns(beat)
    assert scene.sent == ["other"]
    scene.broken.clear()
    scene.now += timedelta(seconds=1)
    scene.turns(beat)
    assert scene.sent == ["other", "soon"]


def failures(capsys: pytest.CaptureFixture[str], event: str) -> list[str]:
    """Return what was logged of an entry that failed, since this was asked last."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [line["msg"] for line in lines if line.get("event") == event]


@pytest.mark.parametrize(
    ("error", "most"),
    [(NoRoute("no queue takes it"), 40), (NotConnected("the broker is away"), 800)],
)
def test_an_entry_that_cannot_be_sent_is_told_once_and_tried_less_and_less(
    entries: Any, capsys: pytest.CaptureFixture[str], error: Exception, most: int
) -> None:
    scene = Scene({**entries, "other": {"task": "other", "schedule": 10.0}})
    beat = scene.beat()
    scene.turns(beat)
    scene.broken["soon"] = error
    ends = scene.now + timedelta(minutes=20)
    while scene.now < ends:
        scene.now += timedelta(seconds=1)
        scene.turns(beat)
    assert scene.sent == ["other"] * 120
    assert 10 < scene.tries - 120 < most
    assert failures(capsys, "tick_failed") == ["soon: it was not sent, and will be"]
    scene.broken["soon"] = Overloaded("its queue is full")
    for _ in range(60):
        scene.now += timedelta(seconds=1)
        scene.turns(beat)
    assert failures(capsys, "tick_failed") == ["soon: it was not sent, and will be"]
    scene.broken.clear()
    scene.now += timedelta(minutes=1)
    scene.turns(beat)
    assert scene.sent[-2:].count("soon") == 1
    scene.broken["soon"] = Overloaded("its queue is full")
    scene.now += timedelta(seconds=10)
    scene.turns(beat)
    assert failures(capsys, "tick_failed") == ["soon: it was not sent, and will be"]


def test_a_clock_that_is_put_back_does_not_hold_up_what_has_failed(entries: Any) -> None:
    scene = Scene(entries)
    beat = scene.beat()
    scene.turns(beat)
    scene.now += timedelta(hours=1)
    scene.broken["soon"] = NoRoute("no queue takes it")
    scene.turns(beat)
    scene.broken.clear()
    scene.now = NOON + timedelta(seconds=30)
    scene.turns(beat)
    assert scene.sent == ["soon"]


def test_a_clock_that_is_put_back_stops_nothing(entries: Any) -> None:
    scene = Scene(entries)
    beat = scene.beat()
    scene.now += timedelta(hours=1)
    scene.turns(beat)
    scene.now = NOON
    scene.turns(beat)
    assert scene.sent == []
    scene.now += timedelta(seconds=10)
    scene.turns(beat)
    assert scene.sent == ["soon"]


class Away(OwnTicks):
    """Ticks whose server is away."""

    is_away = True

    def read(self, names: Any) -> Any:
        if self.is_away:
            raise Unavailable("nobody there")
        return super().read(names)


def test_an_outage_is_told_once_and_its_end(
    entries: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene(entries)
    away = scene.ticks = Away(clock=lambda: scene.now)
    beat = scene.beat()
    for is_away in (True, True, False):
        away.is_away = is_away
        beat.look()
    told = [json.loads(line).get("event") for line in capsys.readouterr().out.splitlines()]
    assert [each for each in told if each.startswith("beat_")] == ["beat_held_up", "beat_goes_on"]


class Unknowable(BaseSchedule):  # type: ignore[misc] # Celery is without types
    def is_due(self, *_: object) -> Any:
        raise ValueError("who knows")


def test_a_schedule_that_cannot_be_told_stops_no_other(
    entries: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene({"odd": {"task": "odd", "schedule": Unknowable()}, **entries})
    beat = scene.beat()
    scene.turns(beat)
    scene.now += timedelta(seconds=10)
    scene.turns(beat)
    assert scene.sent == ["soon"]
    assert failures(capsys, "schedule_failed") == ["odd: its next run is unknown"]


def test_a_crontab_is_of_the_timezone_of_the_application() -> None:
    at_14 = {"daily": {"task": "daily", "schedule": crontab(minute=0, hour=14)}}
    scene = Scene(at_14, timezone="Europe/Berlin")
    beat = scene.beat()
    scene.turns(beat)
    scene.now = NOON + timedelta(minutes=59)
    scene.turns(beat)
    assert scene.sent == []
    scene.now = NOON + timedelta(minutes=60)
    scene.turns(beat)
    scene.turns(beat)
    assert scene.sent == ["daily"]


@pytest.mark.parametrize(
    ("of", "seconds", "expected"),
    [
        (schedule(10), 10, 10),
        (schedule(10), 29.9, 20),
        (schedule(10, relative=True), 29.9, 29.9),
        (crontab(), 125, 125),
    ],
)
def test_the_latest_tick_is_the_one_that_fires(
    of: BaseSchedule, seconds: float, expected: float
) -> None:
    now = NOON + timedelta(seconds=seconds)
    assert tick_at(of, NOON, now) == NOON + timedelta(seconds=expected)
