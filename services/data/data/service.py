"""What the data service is made of; each of its processes imports this."""

from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from data.settings import Settings
from mainstay import Service
from mainstay.resources.redis import Redis
from mainstay.resources.sqlalchemy import Database
from mainstay.rpc import Calls

database = Database(models="data.models", session_class=Session, async_session_class=AsyncSession)
calls = Calls()
# With RabbitMQ as the broker only the statistics of calls need Redis, so it is optional.
service = Service(Settings, database, calls, Redis(optional=True))
