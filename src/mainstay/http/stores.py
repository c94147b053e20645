"""Where does an application keep its rows, and what its processes share: keys, and counts?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from mainstay.config import Settings
from mainstay.service import Service

if TYPE_CHECKING:
    from mainstay.idempotency import Store
    from mainstay.limits import Counts

__all__ = ["service_of", "shared_counts", "store_of"]

S = TypeVar("S", bound=Settings)


def service_of(service: Service[S] | S | type[S]) -> Service[S]:
    """Return *service* itself, or one around bare settings, with the database that they name.

    The models that `MODEL_DISCOVERY_PATHS` names are imported, and are the database's.
    """
    made = Service.of(service)
    settings = made.settings
    paths = settings.model_discovery_paths
    if isinstance(service, Service) and not paths:
        return made
    if "database" not in made.resources and settings.database_url is None:
        return made
    from mainstay.resources.sqlalchemy import Database
    from mainstay.resources.sqlalchemy.models import discover

    database = made.find(Database) or made.hold(Database())
    database.models += discover(paths)
    return made


def shared_counts(service: Service) -> Counts | None:
    """Return counts that all processes share, where there is a Redis to keep them in."""
    if service.settings.redis_url is None:
        return None
    from mainstay.resources.redis import Redis
    from mainstay.resources.redis.limits import RedisCounts

    # Without it requests are counted here: it alone makes no service unhealthy.
    redis = service.find(Redis) or service.hold(Redis(optional=True))
    return RedisCounts(redis, prefix=f"{service.name}:limits")


def store_of(service: Service) -> Store[Any] | None:
    """Return the store of keys that the settings name, if the service holds what it needs."""
    settings = service.settings
    ttl_seconds = settings.idempotency_ttl_seconds
    if settings.idempotency_store == "database" and "database" in service.resources:
        from mainstay.resources.sqlalchemy import Database
        from mainstay.resources.sqlalchemy.idempotency import DatabaseStore

        return DatabaseStore(service.resource(Database), ttl_seconds=ttl_seconds)
    if settings.idempotency_store == "redis" and settings.redis_url is not None:
        from mainstay.resources.redis import Redis
        from mainstay.resources.redis.idempotency import RedisStore

        redis = service.find(Redis) or service.hold(Redis())
        return RedisStore(redis, ttl_seconds=ttl_seconds)
    return None
