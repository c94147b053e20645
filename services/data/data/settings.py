"""The settings of the data service."""

from pydantic import Field

import mainstay


class Settings(mainstay.Settings):
    """The settings every service has, and this one's own."""

    service_name: str = "data"
    celery_default_queue: str = "data_tasks"
    rpc_concurrency: int = Field(8, ge=1, le=256, description="Calls handled at once.")
