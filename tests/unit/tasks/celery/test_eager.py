"""Tasks that are done where they are sent, for a service's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from celery.result import AsyncResult
from fastapi import Depends
from sqlalchemy import text
from sqlalchemy.orm import Session

from mainstay import Service
from mainstay.config import Settings
from mainstay.http import fastapi, flask
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.tasks.celery import App, Task, create_celery_app, send
from mainstay.tasks.status import State


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., tuple[App, Task]]]:
    apps: list[App] = []

    def make(**settings: bool) -> tuple[App, Task]:
        app = create_celery_app(
            Settings(
                env="test",
                celery_broker_url="memory://",
                celery_result_backend=f"sqlite:///{tmp_path}/results.db",
                celery_task_always_eager=True,
                **settings,
            )
        )
        apps.append(app)

        @app.task(name="eager_divide", shared=False, ignore_result=False)
        def divide(a: int, b: int) -> float:
            return a / b

        return app, divide

    yield make
    for app in apps:
        app.service.stop()


def test_what_a_task_raises_is_raised_where_it_is_sent(
    made: Callable[..., tuple[App, Task]],
) -> None:
    _app, divide = made()
    assert divide.delay(4, 2).get() == 2
    with pytest.raises(ZeroDivisionError):
        divide.delay(1, 0)


def test_or_it_is_only_told(made: Callable[..., tuple[App, Task]]) -> None:
    _app, divide = made(celery_task_eager_propagates=False)
    result = divide.delay(1, 0)
    assert result.state == "FAILURE"
    assert isinstance(result.result, ZeroDivisionError)


def test_a_result_is_kept_for_others_where_that_is_asked_for(
    made: Callable[..., tuple[App, Task]],
) -> None:
    app, divide = made(celery_task_store_eager_result=True)
    kept = AsyncResult(divide.delay(4, 2).id, app=app)
    assert (kept.state, kept.result, kept.name) == ("SUCCESS", 2, "eager_divide")


# --- with a commit


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[App]:
    """A service whose task reads what the sender's unit of work has written; no broker is named."""
    url = f"sqlite:///{tmp_path}/shop.db"
    upgrade(url, say=lambda _line: None)
    settings = Settings(env="test", database_url=url, celery_task_always_eager=True)
    app = create_celery_app(Service(settings, Database()))
    with app.database.session() as session:
        session.execute(text("create table orders (id integer, is_packed integer)"))

    @app.task(name="pack", shared=False)
    def pack(order: int, *, session: Session) -> None:
        assert order > 0, "there is no such order"
        there = text("select count(*) from orders where id = :id")
        assert session.execute(there, {"id": order}).scalar() == 1, "the order is not there yet"
        session.execute(text("update orders set is_packed = 1 where id = :id"), {"id": order})

    yield app
    app.service.stop()


def packed(app: App) -> list[int]:
    with app.database.session(read_only=True) as session:
        found = session.execute(text("select id from orders where is_packed = 1 order by id"))
        return list(found.scalars())


def store(session: Session, order: int) -> None:
    session.execute(text("insert into orders (id) values (:id)"), {"id": order})


def test_a_task_that_leaves_with_a_commit_is_done_after_it(shop: App) -> None:
    pack = shop.tasks["pack"]
    with shop.database.session() as session:
        store(session, 1)
        send(pack, 1, session=session)
        store(session, 2)
        result = pack.apply_async((2,), session=session)
        assert isinstance(result, AsyncResult)
        assert packed(shop) == []
    assert packed(shop) == [1, 2]
    status = shop.status(result.id)
    assert status is not None
    assert status.state is State.SUCCESS


def test_a_task_that_was_to_leave_with_what_was_undone_is_not_done(shop: App) -> None:
    with shop.database.session() as session:
        store(session, 1)
        send(shop.tasks["pack"], 1, session=session)
        session.rollback()
    assert packed(shop) == []


def test_what_it_raises_is_raised_by_the_commit_after_the_others_are_done(shop: App) -> None:
    with shop.database.new_session() as session:
        store(session, 1)
        send(shop.tasks["pack"], -1, session=session)
        send(shop.tasks["pack"], 1, session=session)
        with pytest.raises(AssertionError, match="no such order"):
            session.commit()
    assert packed(shop) == [1]


@pytest.mark.asyncio
async def test_a_request_of_fastapi_is_answered_when_its_tasks_are_done(shop: App) -> None:
    api = fastapi.create_app(shop.service)

    @api.post("/orders/{id}", status_code=202)
    async def accept(id: int, w: Annotated[fastapi.Work, Depends(fastapi.work)]) -> None:
        await w.session.execute(text("insert into orders (id) values (:id)"), {"id": id})
        await w.send(shop.tasks["pack"], id)

    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        assert (await client.post("/orders/3")).status_code == 202
    assert packed(shop) == [3]
    await shop.database.aclose()


def test_a_request_of_flask_is_answered_when_its_tasks_are_done(shop: App) -> None:
    site = flask.create_app(shop.service)

    @site.post("/orders/<int:id>")
    def accept(id: int) -> tuple[str, int]:
        store(flask.work().session, id)
        flask.work().send(shop.tasks["pack"], id)
        return "", 202

    answer = site.test_client().post("/orders/4", json={})
    assert answer.status_code == 202
    assert packed(shop) == [4]
