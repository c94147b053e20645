"""What the data service is made of; each of its processes imports this."""

from data.settings import Settings
from mainstay import Service
from mainstay.resources.redis import Redis
from mainstay.resources.sqlalchemy import Database
from mainstay.rpc import Calls

database = Database(models="data.models")
calls = Calls()
# Redis shares the statistics of calls; where it is no broker, the work goes on without it.
service = Service(Settings, database, calls, Redis(optional=True))
