"""What the books service can be told from outside."""

from typing import ClassVar

import mainstay


class Settings(mainstay.Settings):
    """The settings every service has, with this one's defaults."""

    # Progress is told in short tasks and often: Redis is quick, and nothing here needs more.
    broker_schemes: ClassVar[frozenset[str]] = frozenset({"redis", "rediss"})

    service_name: str = "books"
    api_primary_path: str = "api"
    celery_default_queue: str = "importer"
