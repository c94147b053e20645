"""The Celery application: ``celery -A contracts.celery_app worker|beat|inspect``."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.config.base_settings import MODELS
from contracts.config.celery_settings import DOCUMENTS, Settings
from mainstay import Service
from mainstay.resources.sqlalchemy import Database
from mainstay.tasks import celery

__all__ = ["celery_app", "create_celery_app"]


def create_celery_app(
    settings: Settings | type[Settings], autodiscover_paths: Sequence[str] = ("contracts.worker",)
) -> celery.App:
    """Make a Celery application, with the service that its tasks and its senders are a part of.

    Args:
        settings: The settings, or their class, which then are read when they are first needed.
        autodiscover_paths: Where tasks are defined.
    """
    service = Service(settings, Database(models=MODELS))
    made = celery.create_celery_app(service, autodiscover_paths=autodiscover_paths)
    made.conf.task_ignore_result = False  # Celery keeps them too, with what it knows of each
    made.conf.task_routes = {"contracts.render": {"queue": DOCUMENTS.name}}
    return made


celery_app = create_celery_app(Settings)
