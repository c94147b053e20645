"""Alembic asks here which tables the models define, and which database the settings name."""

from data.models import metadata
from data.settings import Settings
from mainstay.resources.sqlalchemy.alembic import run

run(Settings, metadata)
