"""Alembic asks here which tables the models define, and which database the settings name."""

from contracts.config.celery_settings import Settings
from contracts.model.base import Base
from mainstay.resources.sqlalchemy.alembic import run

run(Settings, Base.metadata)
