"""How do the clients of the subject's API ask, and what were they told?

A client that wants its work done once names it with a key, and asks with that key until it has an
answer, of whichever process. That key is the unit, so the books say whether it was done once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.chaos.exchanges import Answer, Connections, request
from tests.chaos.processes import Process
from tests.chaos.stage import Stage

__all__ = ["Ask", "Clients"]

_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Ask:
    """One time that a client asked.

    Args:
        began_at: When, on the monotonic clock.
        ended_at: When it had its answer, or knew that there is none.
        status: What it was answered; 0 where there was no answer.
        detail: What the problem document of an error says.
    """

    began_at: float
    ended_at: float
    status: int
    detail: str = ""

    @property
    def is_error(self) -> bool:
        return self.status == 0 or self.status >= 500

    @property
    def seconds(self) -> float:
        return self.ended_at - self.began_at


class Clients:
    """Any number of clients, on connections that they keep.

    Args:
        stage: Where they play.
        apis: The processes that they choose from.
        note: Told each time that one has asked.
    """

    def __init__(
        self, stage: Stage, *apis: Process, note: Callable[[Ask], object] = lambda _: None
    ) -> None:
        self.statuses: Counter[int] = Counter()
        """How often each status was answered; 0 stands for none."""
        self.silences: Counter[str] = Counter()
        """Why there was no answer."""
        self.dishonest: list[Answer] = []
        """Refusals for the time being that do not say when to ask again, or give no reason."""
        self.slowest_seconds = 0.0
        """What the slowest unit has waited for its answer."""
        self._stage = stage
        self._note = note
        self._ports = [api.port for api in apis]
        self._connections = Connections()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connections.close()

    async def ask(
        self,
        path: str,
        body: Any = None,
        *,
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer | None:
        """Ask one process once: with POST where there is a body; ``None`` when no answer came."""
        named = {"Idempotency-Key": key} if key else {}
        content = None if body is None else json.dumps(body).encode()
        return await self._exchange(request(path, content, headers={**named, **(headers or {})}))

    async def ask_until_answered(
        self, path: str, body: Any, *, key: str = "", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask as `ask` does, and again while the service says that it cannot answer now (503)."""
        while True:
            answer = await self.ask(path, body, key=key, headers=headers)
            if answer is not None and answer.status != 503:
                return answer
            await asyncio.sleep(_PAUSE_SECONDS)

    async def send(self, path: str, content: bytes) -> Answer | None:
        """Send *content*, which need not be the JSON that it is said to be."""
        return await self._exchange(request(path, content))

    async def order(self, unit: str, path: str = "/effects", **body: object) -> Answer:
        """Have *unit* done: ask with its key until there is an answer, and write that down."""
        began = time.monotonic()
        while True:
            answer = await self.ask(path, {"unit": unit, **body}, key=unit)
            if answer is not None and answer.status != 409 and answer.status < 500:
                self._stage.ledger.settle(unit, "accepted" if answer.is_good else "refused")
                self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
                return answer
            await asyncio.sleep(_PAUSE_SECONDS)

    async def order_once(self, unit: str, path: str = "/effects", **body: object) -> None:
        """Have *unit* done without a key, which cannot be asked for again."""
        answer = await self.ask(path, {"unit": unit, **body})
        if answer is not None and answer.status < 500:  # else it may be done or not
            self._stage.ledger.settle(unit, "accepted" if answer.is_good else "refused")

    async def _exchange(self, data: bytes) -> Answer | None:
        port = self._stage.random.choice(self._ports)
        began_at = time.monotonic()
        answer = None
        try:
            answer = await self._connections.exchange(port, data)
        except (OSError, EOFError) as error:
            self.silences[repr(error)] += 1
        status = 0 if answer is None else answer.status
        self.statuses[status] += 1
        detail = _detail(answer) if answer is not None and status >= 500 else ""
        if answer is not None and status in (409, 503) and not _is_honest(answer):
            self.dishonest.append(answer)
        self._note(Ask(began_at, time.monotonic(), status, detail))
        return answer


def _detail(answer: Answer) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return ""


def _is_honest(answer: Answer) -> bool:
    """Does a refusal for the time being say why, and when to ask again?"""
    return answer.headers.get("retry-after", "").isdigit() and bool(_detail(answer))
