"""What becomes of tasks when a whole worker, or the broker, goes away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from mainstay.config import Settings
from mainstay.context import new_id
from mainstay.errors import NotConnected, Unavailable
from mainstay.resources.redis.client import connect
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.celery.transport import FLIGHTS
from mainstay.tasks.status import State
from mainstay.testing import FaultProxy, async_eventually, eventually
from mainstay.testing.ports import steady_port
from tests.contract.tasks import sample
from tests.contract.tasks.rooms import ROOT, CeleryRoom, Worker
from tests.waiting import PATIENCE_SECONDS


def test_the_work_of_a_killed_worker_is_done_by_another(own_room: CeleryRoom) -> None:
    key = new_id()
    with own_room.worker() as first:
        first.ready()
        id = own_room.send("hold", key)
        eventually(lambda: f"hold {key}" in own_room.effects())
        first.kill()
        own_room.release(key)
        with own_room.worker() as second:
            second.ready()
            assert own_room.ended(id).result == "released"
    assert own_room.effects().count(f"hold {key}") == 2
    assert own_room.effects().count(f"released {key}") == 1
    assert own_room.dead() == []


def test_a_process_that_outlives_being_ended_takes_no_other_task_with_it(
    own_room: CeleryRoom,
) -> None:
    with own_room.worker(concurrency=1) as worker:
        worker.ready()
        deaf, key = new_id(), new_id()
        called_off = own_room.send("deaf", deaf)
        eventually(own_room.effects)
        own_room.app.control.revoke(called_off, terminate=True)
        assert own_room.ended(called_off).state is State.REVOKED
        id = own_room.send("kill_first", key)
        own_room.release(deaf)
        assert own_room.ended(id).result == "done"
    assert own_room.effects().count(f"kill_first {key}") == 2
    assert own_room.dead() == []


def test_a_worker_that_is_asked_to_end_finishes_what_it_has(own_room: CeleryRoom) -> None:
    with own_room.worker(concurrency=1) as worker:
        worker.ready()
        key = new_id()
        running = own_room.send("hold", key)
        eventually(own_room.effects)
        waiting = own_room.send("add", 1, 2)
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: worker.get("/ready")[0] == 503)
        own_room.release(key)
        assert worker.process.wait(PATIENCE_SECONDS) == 0
        assert own_room.ended(running).result == "released"
        assert len(worker.lines("shutting_down")) == 1
    status = own_room.status(waiting)
    assert status is not None
    assert status.state is State.WAITING
    with own_room.worker() as another:
        another.ready()
        assert own_room.ended(waiting).result == 3
    assert own_room.dead() == []


def test_a_worker_that_is_asked_to_end_keeps_what_it_works_on(own_room: CeleryRoom) -> None:
    key = new_id()
    with own_room.worker() as first:
        first.ready()
        id = own_room.send("hold", key)
        eventually(lambda: f"hold {key}" in own_room.effects())
        with own_room.worker() as second:
            second.ready()
            first.process.send_signal(signal.SIGTERM)
            eventually(lambda: first.get("/ready")[0] == 503)
            if transport_of(own_room.url) == "redis":
                await_renewals(own_room, times=3)
            own_room.release(key)
            assert first.process.wait(PATIENCE_SECONDS) == 0
            assert own_room.ended(id).result == "released"
            # What the other had taken over would be before this one in its only process.
            assert own_room.ended(own_room.send("add", 1, 2)).result == 3
    assert own_room.effects().count(f"hold {key}") == 1


def await_renewals(room: CeleryRoom, *, times: int) -> None:
    """Wait until the lease of every message in hand on the queue of *room* was renewed."""
    client = connect(room.url)
    ends: dict[bytes, set[float]] = {}

    def are_renewed() -> bool:
        flights: Any = client.zrange(FLIGHTS, 0, -1, withscores=True)
        for flight, ends_at in flights:
            if flight.decode().endswith(f":{room.queue}") and client.llen(flight):
                ends.setdefault(flight, set()).add(ends_at)
        return bool(ends) and all(len(each) > times for each in ends.values())

    eventually(are_renewed)
    client.close()


def test_what_outlasts_the_grace_period_goes_back_to_its_queue(own_room: CeleryRoom) -> None:
    key = new_id()
    with own_room.worker(APP_GRACE_SECONDS="1") as worker:
        worker.ready()
        id = own_room.send("hold", key)
        eventually(own_room.effects)
        assert worker.terminate() == 0
    own_room.release(key)
    with own_room.worker() as another:
        another.ready()
        assert own_room.ended(id).result == "released"
    assert own_room.effects().count(f"released {key}") == 1


def test_a_worker_that_is_killed_while_it_ends_loses_nothing(own_room: CeleryRoom) -> None:
    key = new_id()
    with own_room.worker() as worker:
        worker.ready()
        id = own_room.send("hold", key)
        eventually(own_room.effects)
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: worker.get("/ready")[0] == 503)
        worker.kill()
    own_room.release(key)
    with own_room.worker() as another:
        another.ready()
        assert own_room.ended(id).result == "released"
    assert own_room.effects().count(f"hold {key}") == 2
    assert own_room.effects().count(f"released {key}") == 1
    assert own_room.dead() == []


def test_a_worker_whose_child_dies_while_it_starts_ends_or_takes_work(
    own_room: CeleryRoom,
) -> None:
    with ExitStack() as stack:

        def started() -> Worker:
            worker = stack.enter_context(own_room.worker(concurrency=2))
            eventually(lambda: worker.children or not worker.is_running)
            return worker

        worker = started()
        for child in worker.children[:1]:
            os.kill(child, signal.SIGKILL)
        id = own_room.send("add", 1, 2)

        def is_done() -> bool:
            status = own_room.status(id)
            return status is not None and status.state is State.SUCCESS

        # It must not stand there with nobody to work: a supervisor starts another when it ends.
        eventually(lambda: is_done() or not worker.is_running)
        if not worker.is_running:
            assert worker.process.returncode != 0
            started()
        assert own_room.ended(id).result == 3


@pytest.mark.parametrize("wrong", ["password", "vhost", "port"])
def test_a_broker_that_takes_no_worker_is_asked_again_and_no_secret_is_told(
    own_room: CeleryRoom, wrong: str
) -> None:
    parts = urlsplit(own_room.url)
    assert parts.password is not None
    if wrong == "vhost" and parts.scheme != "amqp":
        pytest.skip("there are no virtual hosts on Redis")
    url = {
        "password": own_room.url.replace(parts.password, "not-the-password"),
        "vhost": urlunsplit(parts._replace(path="/none-such")),
        "port": own_room.url.replace(f":{parts.port}", f":{steady_port()}"),
    }[wrong]
    with own_room.moved(url).worker() as worker:

        def complaints() -> list[str]:
            said = [line["msg"] for line in worker.lines() if line["level"] == "error"]
            return [each for each in said if "cannot be reached" in each]

        # RabbitMQ takes its time to refuse a login.
        eventually(lambda: len(complaints()) >= 2, timeout_seconds=90)
        assert worker.is_running
        assert worker.get("/healthz")[0] == 200
        assert worker.get("/ready")[0] == 503
        assert worker.terminate() == 0
    said = worker.log.read_text()
    assert parts.password not in said
    assert "not-the-password" not in said


def test_a_worker_outlives_its_broker(own_room: CeleryRoom) -> None:
    async def scenario() -> None:
        async with proxied(own_room) as proxy:
            room = through(own_room, proxy)
            with room.worker() as worker:
                await asyncio.to_thread(worker.ready)
                first = await asyncio.to_thread(room.send, "add", 1, 1)
                assert (await asyncio.to_thread(room.ended, first)).result == 2
                proxy.refuse()
                proxy.reset()
                with pytest.raises(Unavailable):
                    await asyncio.to_thread(room.send, "add", 1, 2)
                await async_eventually(lambda: asyncio.to_thread(is_answered, worker, 503))
                assert (await asyncio.to_thread(worker.get, "/healthz"))[0] == 200
                proxy.heal()
                last = await asyncio.to_thread(room.send, "add", 2, 2)
                assert (await asyncio.to_thread(room.ended, last)).result == 4
                assert worker.is_running
            room.close()

    asyncio.run(scenario())


def test_a_worker_that_is_asked_to_end_while_its_broker_is_away_ends_well(
    own_room: CeleryRoom,
) -> None:
    async def scenario() -> None:
        async with proxied(own_room) as proxy:
            room = through(own_room, proxy)
            with room.worker() as worker:
                await asyncio.to_thread(worker.ready)
                proxy.refuse()
                proxy.reset()
                await async_eventually(lambda: "cannot be reached" in worker.log.read_text())
                assert await asyncio.to_thread(worker.terminate) == 0
            room.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["refuse", "stall", "close"])
def test_a_sender_is_told_soon_that_the_broker_is_away(own_room: CeleryRoom, fault: str) -> None:
    async def scenario() -> None:
        async with proxied(own_room) as proxy:
            room = through(own_room, proxy)
            await asyncio.to_thread(room.send, "add", 1, 1)
            if fault == "close":
                await proxy.close()
            else:
                getattr(proxy, fault)()
                if fault == "refuse":
                    proxy.reset()
            # A hang would last as long as the server's patience, which is for ever here.
            with pytest.raises(Unavailable):
                await asyncio.wait_for(asyncio.to_thread(room.send, "add", 1, 2), PATIENCE_SECONDS)
            proxy.heal()
            room.close()

    asyncio.run(scenario())


def test_what_was_certainly_not_sent_is_no_waiting_task(own_room: CeleryRoom) -> None:
    async def scenario() -> None:
        async with proxied(own_room) as proxy:
            room = through(own_room, proxy)
            await proxy.close()
            id = new_id()
            with pytest.raises(NotConnected, match=r"(was not|nothing was) sent"):
                await asyncio.to_thread(room.app.send_task, "add", (1, 2), task_id=id)
            status = own_room.status(id)
            if status is not None:  # the statuses are not in the broker that is away
                assert status.state is State.FAILURE
                assert status.error is not None
                assert status.error["type"] == "NotConnected"
            room.close()

    asyncio.run(scenario())


def refused(
    app: str, *options: str, variables: dict[str, str] | None = None, folder: Path = ROOT
) -> str:
    """Start a worker that must not start, and return what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", app, "worker", *options],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "APP_ENV": "prod",
            "APP_METRICS_PORT": "0",
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
            **(variables or {}),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 78, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CELERY_TASK_ACKS_LATE": "0"}, "CELERY_TASK_ACKS_LATE"),
        ({"CELERY_BROKER_URL": "kafka://x"}, "CELERY_BROKER_URL"),
        ({"CELERY_TASK_TIME_LIMIT": "0"}, "CELERY_TASK_TIME_LIMIT"),
        ({"CELERY_RESULT_BACKEND": "rpc://"}, "CELERY_RESULT_BACKEND"),
        ({"CELERY_TASK_PROFILE": "hope"}, "CELERY_TASK_PROFILE"),
        ({"MAINSTAY_FAILPOINT": "tasks.before_commit:kill"}, "MAINSTAY_FAILPOINT"),
    ],
)
def test_a_worker_that_would_lose_work_does_not_start(variables: dict[str, str], said: str) -> None:
    assert said in refused(sample.__name__, "--concurrency", "1", variables=variables)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_worker_with_a_pool_that_doubles_work_does_not_start(pool: str) -> None:
    assert "prefork" in refused(sample.__name__, "--pool", pool)


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_a_pool_for_development_does_its_tasks_and_ends(redis_room: CeleryRoom, pool: str) -> None:
    room = redis_room.another()
    with room.worker("--pool", pool, APP_ENV="dev") as worker:
        worker.ready()
        assert room.ended(room.send("add", 1, 2)).result == 3
        assert worker.terminate() == 0
    room.close()


def test_a_pool_that_mainstay_does_not_know_is_refused_in_development_too() -> None:
    pool = {"APP_ENV": "dev", "CELERY_CUSTOM_WORKER_POOL": "celery.concurrency.base:BasePool"}
    said = refused(sample.__name__, "--pool", "custom", variables=pool)
    assert "choose prefork" in said


def test_eager_tasks_are_done_where_they_are_sent() -> None:
    service = Service(
        Settings(env="test", celery_broker_url="memory://", celery_task_always_eager=True)
    )
    app = create_celery_app(service)
    task = app.task(sample.tell_context, name="tell_context")
    told = task.delay().get()
    assert told["correlation_id"]
    service.lifecycle.stop()


def is_answered(worker: Worker, status: int) -> bool:
    return worker.get("/ready")[0] == status


def proxied(room: CeleryRoom) -> FaultProxy:
    parts = urlsplit(room.url)
    assert parts.hostname is not None
    assert parts.port is not None
    return FaultProxy(parts.hostname, parts.port)


def through(room: CeleryRoom, proxy: FaultProxy) -> CeleryRoom:
    """Return a room whose way to the broker leads over *proxy*, statuses beside it."""
    parts = urlsplit(room.url)
    login, at, _ = parts.netloc.rpartition("@")
    url = urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}"))
    return room.moved(url)


def test_the_banner_and_the_last_words_are_lines_too(own_room: CeleryRoom) -> None:
    with own_room.worker() as worker:
        worker.ready()
        assert worker.terminate() == 0
        for line in worker.log.read_bytes().splitlines():
            json.loads(line)


SLOW = """
from mainstay import Service
from mainstay.config import Settings
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery import create_celery_app
celery_app = create_celery_app(Service(Settings, Database()))

@celery_app.task(name="slow", time_limit=7200)
def slow(*, session): ...
"""


def test_a_worker_whose_task_may_outlast_what_holds_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "slow_app.py").write_text(SLOW)
    urls = {
        "CELERY_BROKER_URL": "amqp://u:p@127.0.0.1:1/v",
        "DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d",
    }
    said = refused("slow_app", "--concurrency", "1", variables=urls, folder=tmp_path)
    assert "task slow: time_limit 7200 s is not a minute below" in said
    assert "task slow: time_limit 7200 s is above the 300 s" in said
