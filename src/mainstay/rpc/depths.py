"""How full are the queues? Asked of the broker once a second at most, however many ask us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mainstay.rpc import rooms
from mainstay.rpc.room import Depth
from mainstay.service import Service

__all__ = ["Depths"]

CACHE_SECONDS = 1.0


class Depths:
    """What is in each queue and among its dead letters."""

    def __init__(
        self,
        service: Service,
        broker_url: Callable[[], str],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._broker_url = broker_url
        self._clock = clock
        self._known: dict[str, tuple[float, Depth]] = {}
        self._lock = threading.Lock()

    def of(self, queue: str) -> Depth:
        """Return the depths of *queue*; ``None`` where the broker cannot be asked."""
        with self._lock:  # who comes while it is asked waits for that answer
            known = self._known.get(queue)
            if known is None or self._clock() - known[0] >= CACHE_SECONDS:
                management_url = self._service.settings.rabbitmq_management_url
                found = rooms.depth(self._broker_url(), queue, management_url=management_url)
                known = self._known[queue] = (self._clock(), found)
            return known[1]
