"""Each tick of a schedule fires once, however many beats run and whichever of them dies."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from mainstay.processes.ports import steady_port
from mainstay.resources.sqlalchemy import Database, tables
from mainstay.testing import eventually
from tests.contract.tasks.rooms import ON_DATABASES, CeleryRoom, Worker
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def room(request: pytest.FixtureRequest, room_on: Callable[[str], CeleryRoom]) -> CeleryRoom:
    if request.param == "redis":
        server: CeleryRoom = request.getfixturevalue("redis_room")
        return server.another()
    return room_on(request.param)


def ticks(beats: Iterable[Worker], name: str = "soon") -> list[datetime]:
    lines = [line for beat in beats for line in beat.lines("tick") if line["name"] == name]
    return sorted(datetime.fromisoformat(line["due_at"]) for line in lines)


@pytest.mark.parametrize("room", ["redis", *ON_DATABASES], indirect=True)
def test_each_tick_fires_once_though_two_beats_run_and_one_is_killed(room: CeleryRoom) -> None:
    with room.worker() as worker, room.beat() as first, room.beat() as second:
        worker.ready()
        first.ready()
        second.ready()
        beats = (first, second)
        eventually(lambda: len(ticks(beats)) >= 6)
        leader = max(beats, key=lambda beat: len(beat.lines("tick")))
        leader.kill()
        before = len(ticks(beats))
        eventually(lambda: len(ticks(beats)) >= before + 6)
        (other,) = (beat for beat in beats if beat is not leader)
        eventually(lambda: other.get("/healthz")[0] == 200)
        assert other.metric("app_last_iteration_timestamp_seconds") > 0
        assert other.terminate() == 0
        found = ticks(beats)
        eventually(lambda: len(room.effects()) == len(found))
        assert worker.terminate() == 0
    assert set(Counter(found).values()) == {1}
    assert {(each - found[0]) % timedelta(seconds=1) for each in found} == {timedelta(0)}
    assert set(room.effects()) == {'listed ["soon"]'}


@pytest.mark.parametrize("room", ON_DATABASES, indirect=True)
@pytest.mark.parametrize("point", ["beat.before_send", "beat.after_send"])
def test_the_tick_of_a_beat_that_dies_over_it_is_fired_by_another(
    room: CeleryRoom, point: str
) -> None:
    with room.beat(MAINSTAY_FAILPOINT=f"{point}:kill@1") as dying:
        assert dying.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    with room.worker() as worker, room.beat() as beat:
        worker.ready()
        eventually(lambda: len(ticks([beat])) >= 2)
        assert beat.terminate() == 0
        found = ticks([beat])
        eventually(lambda: len(room.effects()) == len(found))


@pytest.mark.parametrize("room", ON_DATABASES, indirect=True)
def test_of_the_ticks_that_were_missed_the_latest_fires_once(room: CeleryRoom) -> None:
    database = room.service.resource(Database)
    with room.beat() as beat:
        eventually(lambda: ticks([beat]))
        assert beat.terminate() == 0
    table = tables.table("schedule", database.engine.dialect.name)
    with database.session() as session:
        hourly = session.execute(table.select().where(table.c.name == "hourly")).one()
        long_ago = hourly.ticked_at - timedelta(hours=5, minutes=30)
        session.execute(update(table).where(table.c.name == "hourly").values(ticked_at=long_ago))
    with room.beat() as beat:
        eventually(lambda: ticks([beat], "hourly") and ticks([beat]))
        assert beat.terminate() == 0
        assert ticks([beat], "hourly") == [long_ago + timedelta(hours=5)]


@pytest.mark.parametrize("room", ["redis on sqlite"], indirect=True)
def test_a_worker_may_have_a_beat_of_its_own_and_one_port_for_both(room: CeleryRoom) -> None:
    with room.worker("--beat", APP_METRICS_PORT=str(steady_port())) as worker, room.beat() as beat:
        worker.ready()
        beat.ready()
        eventually(lambda: len(ticks([worker, beat])) >= 4)
        eventually(lambda: worker.get("/healthz")[0] == 200)
        assert worker.terminate() == 0
        assert beat.terminate() == 0
        assert set(Counter(ticks([worker, beat])).values()) == {1}
