"""What the books service is made of; each of its processes imports this."""

from books.models import SCHEMA
from books.settings import Settings
from mainstay import Service
from mainstay.resources.sqlalchemy import Database

database = Database(models="books.models", schema=SCHEMA)
service = Service(Settings, database)
