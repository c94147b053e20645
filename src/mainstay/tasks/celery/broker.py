"""The broker of the service's tasks, as its health sees it and as a unit of work sends to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mainstay.resources.amqp import RabbitMQ
from mainstay.service import Resource
from mainstay.tasks.celery.profiles import transport_of

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App
    from mainstay.tasks.celery.relaying import TaskPublisher

__all__ = ["Broker"]


class Broker(Resource):
    """Held open by the application's own pool of connections."""

    name = "broker"

    def __init__(self, app: App) -> None:
        self.app = app
        # With an outbox tasks are accepted while it is away.
        self.optional = app.outbox is not None

    @property
    def is_named(self) -> bool:
        return not (self.service.settings.celery_broker_url or "memory://").startswith("memory://")

    def ping(self) -> Mapping[str, object] | None:
        url = str(self.service.settings.celery_broker_url)
        if transport_of(url) == "amqp":
            return RabbitMQ(url=url).ping()
        from mainstay.resources.redis import Redis

        return Redis(url=url).ping()

    def send(
        self,
        task: Any,
        /,
        *args: Any,
        task_id: str | None = None,
        session: Any = None,
        **kwargs: Any,
    ) -> str:
        """Send *task* for a unit of work that knows no Celery; see `mainstay.outgoing`."""
        from mainstay.tasks.celery.app import send

        return send(task, *args, task_id=task_id, session=session, **kwargs)

    async def asend(
        self,
        task: Any,
        /,
        *args: Any,
        task_id: str | None = None,
        session: Any = None,
        **kwargs: Any,
    ) -> str:
        """As :meth:`send`, on an event loop."""
        from mainstay.tasks.celery.app import asend

        return await asend(task, *args, task_id=task_id, session=session, **kwargs)

    def outbox_publisher(self) -> TaskPublisher:
        """Return what publishes the tasks that leave the outbox; see `mainstay.outgoing`."""
        from mainstay.tasks.celery.relaying import TaskPublisher

        return TaskPublisher(self.app)

    def close(self) -> None:
        self.app.close_senders()
