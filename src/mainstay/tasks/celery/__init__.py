"""Tasks on Celery, over RabbitMQ or Redis: plain Celery, from which nothing is lost."""

from mainstay.extras import require

require("celery", extra="celery")

from mainstay.tasks.celery.app import (  # noqa: E402 - the extra is checked first
    App,
    asend,
    create_celery_app,
    get_celery_app,
    send,
)
from mainstay.tasks.celery.base import Task  # noqa: E402 - likewise
from mainstay.tasks.celery.queues import TaskQueue  # noqa: E402 - likewise
from mainstay.tasks.celery.settings import CelerySettings  # noqa: E402 - likewise

__all__ = [
    "App",
    "CelerySettings",
    "Task",
    "TaskQueue",
    "asend",
    "create_celery_app",
    "get_celery_app",
    "send",
]
