"""Who asks the API steadily, whatever happens, and how was each answered?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from tests.chaos.clients import Ask, Clients
from tests.chaos.processes import Process
from tests.chaos.stage import Stage
from tests.chaos.waiting import async_until

__all__ = ["Traffic"]


class Traffic:
    """Requests that begin at a steady pace while the body runs, a third of each kind: writes with
    a key, which are asked for until they are answered, writes without one, and reads.

    Args:
        stage: Where it plays.
        apis: Who is asked.
        per_second: How many requests begin in a second.
        sql_seconds: How long a statement of a write takes.
    """

    def __init__(
        self,
        stage: Stage,
        apis: Sequence[Process],
        *,
        per_second: float,
        sql_seconds: float = 0.0,
    ) -> None:
        self.asks: list[Ask] = []
        self.clients = Clients(stage, *apis, note=self.asks.append)
        self._stage = stage
        self._pause_seconds = 1 / per_second
        self._sql_seconds = sql_seconds
        self._requests = asyncio.TaskGroup()
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._exits.enter_async_context(self.clients)
        await self._exits.enter_async_context(self._requests)
        self._exits.callback(self._requests.create_task(self._begin()).cancel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        stack: TracebackType | None,
    ) -> None:
        await self._exits.__aexit__(kind, error, stack)

    async def flows(self, count: int) -> None:
        """Return when so many that began after now have been answered well."""
        began = len(self.asks)
        await async_until(lambda: sum(not ask.is_error for ask in self.asks[began:]) >= count)

    async def fails(self, count: int) -> None:
        """Return when so many errors have been answered since the beginning."""
        await async_until(lambda: self.errors().total() >= count)

    def errors(self) -> Counter[int]:
        """How often was each error answered?"""
        return Counter(ask.status for ask in self.asks if ask.is_error)

    async def _begin(self) -> None:
        while True:
            self._requests.create_task(self._one())
            await asyncio.sleep(self._pause_seconds)

    async def _one(self) -> None:
        kind = self._stage.random.randrange(3)
        if kind == 0:
            await self.clients.ask("/effects/unit-0-0")
            return
        unit = self._stage.ledger.submit()
        order = self.clients.order if kind == 1 else self.clients.order_once
        await order(unit, sql_seconds=self._sql_seconds)
