"""Alembic asks here which tables the models define, and which database the settings name."""

from books.models import Base
from books.settings import Settings
from mainstay.resources.sqlalchemy.alembic import run

run(Settings, Base.metadata)
