"""A request and the task that it sends are one commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest_asyncio
from fastapi import Depends, FastAPI

from mainstay import Service, Settings
from mainstay.http.fastapi import Work, create_app, idempotent
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.resources.sqlalchemy.outbox import Outbox
from mainstay.tasks.celery import create_celery_app
from mainstay.testing.wait import async_eventually

LIMIT = 3


def do_charge(card: str) -> str:
    return card


class Shop:
    def __init__(self, app: FastAPI, service: Service) -> None:
        self.outbox = service.resource(Outbox)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")

    @property
    def waiting(self) -> int:
        return self.outbox.backlog("task").ready


@pytest_asyncio.fixture
async def shop(address: str) -> AsyncIterator[Shop]:
    migrate.upgrade(address, say=lambda _line: None)
    settings = Settings(
        env="test",
        service_name="shop",
        database_url=address,
        celery_broker_url="memory://",
        outbox_limit=LIMIT,
    )
    service = Service(settings, Database())
    charge = create_celery_app(service).task(do_charge, name="charge")
    app = create_app(service)

    @app.post("/charges", status_code=202)
    async def post(
        w: Annotated[Work, Depends(idempotent)], card: str, fails: bool = False
    ) -> dict[str, str]:
        task_id = await w.send(charge, card)
        if fails:
            raise RuntimeError("out of luck")
        return {"task_id": task_id}

    made = Shop(app, service)
    yield made
    await made.client.aclose()
    await service.resource(Database).aclose()
    service.stop()


async def test_a_request_that_fails_has_sent_nothing(shop: Shop) -> None:
    assert (await shop.client.post("/charges?card=1&fails=true")).status_code == 500
    assert shop.waiting == 0
    assert (await shop.client.post("/charges?card=1")).status_code == 202
    assert shop.waiting == 1


async def test_a_request_that_is_sent_again_under_its_key_is_one_task(shop: Shop) -> None:
    answers = [
        await shop.client.post("/charges?card=1", headers={"Idempotency-Key": "k"})
        for _ in range(3)
    ]
    assert {each.status_code for each in answers} == {202}
    assert len({each.content for each in answers}) == 1
    assert shop.waiting == 1


async def test_while_too_much_waits_requests_are_told_to_come_again(shop: Shop) -> None:
    async def refused() -> httpx.Response | None:
        answer = await shop.client.post("/charges?card=1")
        return answer if answer.status_code != 202 else None

    answer = await async_eventually(refused)
    assert answer is not None
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert shop.waiting >= LIMIT
