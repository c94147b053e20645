"""Idempotency keys in this process' memory: one process, nothing survives it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mainstay.idempotency import Answer, Claim, Request, other_body, taken_over, under_way

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Row:
    fingerprint: bytes
    owner: str
    epoch: int
    lease_until: float
    expires_at: float
    answer: Answer | None = None


class MemoryStore:
    """Keys and their answers.

    There are no transactions here, so an answer stands from the moment it is given.

    Args:
        ttl_seconds: How long an answer is given again.
        clock: Seconds that only grow.
    """

    is_beside_effect = False

    def __init__(
        self, *, ttl_seconds: float = 86_400.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._lock = threading.Lock()

    def claim(self, request: Request) -> Claim | Answer:
        with self._lock:
            now = self._clock()
            row = self._rows.get(request.scope)
            epoch = 1
            if row is not None and not _is_over(row, now):
                if row.fingerprint != request.fingerprint:
                    raise other_body()
                if row.answer is not None:
                    return replace(row.answer, is_replay=True)
                if row.lease_until > now:
                    raise under_way(row.lease_until - now)
                epoch = row.epoch + 1
            owner = Claim.new_owner()
            self._rows[request.scope] = _Row(
                request.fingerprint,
                owner,
                epoch,
                now + request.lease_seconds,
                now + self._ttl_seconds,
            )
            return Claim(request.scope, owner, epoch, request.lease_seconds)

    def finish(self, session: object, claim: Claim, answer: Answer) -> None:
        with self._lock:
            row = self._rows.get(claim.scope)
            if row is None or row.owner != claim.owner or row.answer is not None:
                raise taken_over()
            row.answer = answer
            row.expires_at = self._clock() + self._ttl_seconds

    def free(self, claim: Claim) -> None:
        with self._lock:
            row = self._rows.get(claim.scope)
            if row is not None and row.owner == claim.owner and row.answer is None:
                del self._rows[claim.scope]

    async def aclaim(self, request: Request) -> Claim | Answer:
        return self.claim(request)

    async def afinish(self, session: object, claim: Claim, answer: Answer) -> None:
        self.finish(session, claim, answer)

    async def afree(self, claim: Claim) -> None:
        self.free(claim)

    def purge(self) -> int:
        """Forget what has expired, never what is under way; returns how many keys."""
        with self._lock:
            now = self._clock()
            expired = [scope for scope, row in self._rows.items() if _is_over(row, now)]
            for scope in expired:
                del self._rows[scope]
            return len(expired)


def _is_over(row: _Row, now: float) -> bool:
    return row.expires_at <= now and (row.answer is not None or row.lease_until <= now)
