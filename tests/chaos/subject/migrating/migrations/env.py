"""There are no models: the migrations are all there is."""

from sqlalchemy import MetaData

from mainstay.config import Settings
from mainstay.resources.sqlalchemy.alembic import run

run(Settings, MetaData())
