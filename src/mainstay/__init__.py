"""A chassis for Python back-end services: configuration, logs, health and work that is not lost.

The names here need no extra. Each technology is imported from its room, such as
``mainstay.http.fastapi`` or ``mainstay.tasks.celery``.
"""

from mainstay.config import Settings
from mainstay.context import Context, Principal
from mainstay.errors import MainstayError
from mainstay.service import Resource, Service

__all__ = ["Context", "MainstayError", "Principal", "Resource", "Service", "Settings"]
