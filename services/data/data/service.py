"""What the data service is made of; each of its processes imports this."""

from data.settings import Settings
from mainstay import Service
from mainstay.resources.sqlalchemy import Database
from mainstay.rpc import Calls

database = Database(models="data.models")
calls = Calls()
service = Service(Settings, database, calls)
