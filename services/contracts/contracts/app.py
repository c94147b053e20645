"""The web application of the contracts service; its routes are found in route/api.py."""

from __future__ import annotations

from flask import Flask

from contracts.celery_app import celery_app, create_celery_app
from contracts.config.celery_settings import Settings
from mainstay.http import flask

__all__ = ["create_app"]

# A process that lacks one of these could only fail later.
NEEDS = ("database_url", "celery_broker_url")


def create_app(settings: Settings | None = None) -> Flask:
    """Make the application: ``flask --app contracts.app run``.

    Args:
        settings: Instead of those of this process, which are read here.
    """
    celery = celery_app if settings is None else create_celery_app(settings)
    return flask.create_app(celery.service, __name__, title="Contracts", needs=NEEDS)
