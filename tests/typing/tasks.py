"""What a service author's type checker sees of the room of tasks: checked, never run."""

from __future__ import annotations

from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from mainstay import Service, Settings
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks.celery import App, Task, asend, create_celery_app, send

service = Service(Settings, Database())
app = create_celery_app(service, autodiscover_paths=["orders.tasks"])
assert_type(app, App)


@app.task(once=True)
def pack(order: int, *, session: Session) -> int:
    return order


assert_type(pack, Task)


def place(session: Session, registry: scoped_session[Session]) -> None:
    assert_type(send(pack, 4711), str)
    assert_type(send(pack, 4711, task_id="one", session=session), str)
    assert_type(send(pack, order=4711, session=registry), str)
    pack.apply_async((4711,), countdown=3600, session=session)


async def place_on_a_loop(session: AsyncSession) -> None:
    assert_type(await asend(pack, 4711), str)
    assert_type(await asend(pack, 4711, session=session), str)
