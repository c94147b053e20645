"""The broker of the service's tasks, as its health sees it and as a unit of work sends to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mainstay.context import new_id
from mainstay.resources.amqp import RabbitMQ
from mainstay.resources.redis import Redis
from mainstay.service import Resource
from mainstay.tasks.celery.profiles import transport_of

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["Broker"]


class Broker(Resource):
    """Held open by the application's own pool of connections."""

    name = "broker"

    def __init__(self, app: App) -> None:
        self.app = app

    @property
    def is_named(self) -> bool:
        return not (self.service.settings.celery_broker_url or "memory://").startswith("memory://")

    def ping(self) -> Mapping[str, object] | None:
        url = str(self.service.settings.celery_broker_url)
        server = RabbitMQ(url=url) if transport_of(url) == "amqp" else Redis(url=url)
        return server.ping()

    async def asend(
        self, task: Any, /, *args: Any, task_id: str | None = None, **kwargs: Any
    ) -> str:
        """Send *task* for a unit of work that knows no Celery; see `mainstay.outgoing`."""
        id = task_id or new_id()
        await self.app.aside(partial(task.apply_async, args, kwargs, task_id=id))
        return id

    def close(self) -> None:
        self.app.close_senders()
