"""A task ends while whoever is to hear of it is away: it is told when that is back, and once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from celery.result import AsyncResult

from mainstay.context import new_id
from mainstay.errors import Overloaded, Unconfirmed
from mainstay.resources.sqlalchemy import Database
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app
from mainstay.tasks.status import State
from mainstay.testing import FaultProxy, RabbitMQ, eventually
from tests.contract.tasks.conftest import results_url
from tests.contract.tasks.rooms import CeleryRoom, Worker
from tests.waiting import PATIENCE_SECONDS


def through(proxy: FaultProxy, url: str) -> str:
    """Return *url* as it leads over *proxy*."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}"))


def proxy_to(url: str) -> FaultProxy:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return FaultProxy(parts.hostname, parts.port)


async def until(condition: Callable[[], Any]) -> None:
    await asyncio.to_thread(eventually, condition, timeout_seconds=PATIENCE_SECONDS)


def waits(worker: Worker) -> bool:
    return any("not stored yet, retrying" in line.get("msg", "") for line in worker.lines())


@pytest.mark.parametrize("end", ["done", "failed"])
@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_result_waits_for_its_backend(
    request: pytest.FixtureRequest, room_on: Callable[[str], CeleryRoom], kind: str, end: str
) -> None:
    room = room_on("redis on sqlite")
    url = results_url(request, kind)
    assert url is not None
    settings = room.settings.model_copy(update={"celery_result_backend": url})
    app = create_celery_app(Service(settings, Database()))

    async def scenario() -> None:
        async with proxy_to(url) as proxy:
            with room.worker(CELERY_RESULT_BACKEND=through(proxy, url)) as worker:
                worker.ready()
                held = app.send_task("hold_kept", ("k", end), ignore_result=False)
                await until(lambda: room.effects() == ["hold_kept k"])
                proxy.refuse()
                proxy.reset()
                room.release("k")
                await until(lambda: waits(worker))
                proxy.heal()
                read = AsyncResult(held.id, app=app)
                wanted = {"done": "SUCCESS", "failed": "FAILURE"}[end]
                await until(lambda: read.state == wanted)
                assert room.ended(held.id).state is State[wanted]
                assert room.effects() == ["hold_kept k"]
                if end == "failed":
                    assert room.letter(held.id).reason == "failed:ValueError"
                else:
                    assert room.dead() == []
                # Whatever comes next finds the backend as before.
                again = app.send_task("answered", (42,), ignore_result=False)
                await until(lambda: AsyncResult(again.id, app=app).state == "SUCCESS")

    try:
        asyncio.run(scenario())
    finally:
        app.service.stop()


@pytest.mark.parametrize("end", ["done", "failed"])
@pytest.mark.parametrize("kind", ["rabbitmq on postgresql", "redis on postgresql"])
def test_the_last_word_waits_for_the_database(
    room_on: Callable[[str], CeleryRoom], kind: str, end: str
) -> None:
    room = room_on(kind)
    url = room.settings.database_url
    assert url is not None

    async def scenario() -> None:
        async with proxy_to(url) as proxy:
            with room.worker(DATABASE_URL=through(proxy, url)) as worker:
                worker.ready()
                id = room.send("hold_kept", "k", end)
                await until(lambda: room.effects() == ["hold_kept k"])
                proxy.refuse()
                proxy.reset()
                room.release("k")
                await until(lambda: waits(worker))
                proxy.heal()
                status = await asyncio.to_thread(room.ended, id)
                assert status.state is {"done": State.SUCCESS, "failed": State.FAILURE}[end]
                assert room.effects() == ["hold_kept k"]

    asyncio.run(scenario())


def test_during_an_alarm_of_rabbitmq_senders_hear_of_it_and_a_worker_goes_on(
    room_on: Callable[[str], CeleryRoom], rabbitmq: RabbitMQ
) -> None:
    room = room_on("rabbitmq on postgresql")
    keys = [new_id() for _ in range(3)]
    with room.worker(concurrency=1) as worker:
        worker.ready()
        held = [room.send("hold", key) for key in keys]
        eventually(lambda: room.effects() == [f"hold {keys[0]}"])
        rabbitmq.evaluate('rabbit_disk_monitor:set_disk_free_limit("100000GB").')
        try:
            # The first one is on its way when it hears of the alarm.
            eventually(lambda: refusal(room) is Overloaded)
            assert refusal(room) is Overloaded
            eventually(lambda: "has raised an alarm" in worker.get("/health")[1])
            # Its events, of which it sends one every other second, keep it from nothing.
            vhost = room.url.rpartition("/")[2]
            eventually(lambda: "blocked" in connection_states(rabbitmq, vhost))
            for key, id in zip(keys, held, strict=True):
                room.release(key)
                assert room.ended(id).state is State.SUCCESS
            assert worker.get("/healthz")[0] == 200
        finally:
            rabbitmq.evaluate('rabbit_disk_monitor:set_disk_free_limit("50MB").')
        eventually(lambda: refusal(room) is None)
        eventually(lambda: json.loads(worker.get("/health")[1])["status"] == "healthy")


def refusal(room: CeleryRoom) -> type[Exception] | None:
    """Send a task; return what its sender hears of the alarm."""
    try:
        room.send("add", 1, 2)
    except (Overloaded, Unconfirmed) as error:
        return type(error) if "has raised an alarm" in str(error) else AssertionError
    return None


def connection_states(rabbitmq: RabbitMQ, vhost: str) -> set[str]:
    found = rabbitmq.manage("GET", f"/vhosts/{vhost}/connections?columns=state")
    return {connection.get("state", "") for connection in found}
