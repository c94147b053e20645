"""Idempotency keys beside the effect: in the service's own database."""

from __future__ import annotations

import orjson
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mainstay.idempotency import Answer, Claim, Request, other_body, taken_over, under_way
from mainstay.resources.sqlalchemy.database import Database
from mainstay.resources.sqlalchemy.statements import Statement

__all__ = ["DatabaseStore"]

# One statement that commits by itself. It takes the key when nobody has it, when its owner's
# lease has ended (only for the same body: another one is refused), or when it has expired.
_CLAIM = Statement(
    """
    insert into {idempotency_keys} as held
        (scope, operation, fingerprint, owner, epoch, lease_until, created_at, expires_at)
    values (:scope, :operation, :fingerprint, :owner, 1, :lease+seconds, {now}, :ttl+seconds)
    on conflict (scope) do update set
        fingerprint = excluded.fingerprint, owner = excluded.owner, epoch = held.epoch + 1,
        lease_until = excluded.lease_until, created_at = excluded.created_at,
        expires_at = excluded.expires_at, done_at = null, status = null, headers = null, body = null
    where (held.status is null and held.lease_until <= {now}
           and held.fingerprint = excluded.fingerprint)
       or (held.expires_at <= {now} and (held.status is not null or held.lease_until <= {now}))
    returning epoch
    """
)
_LOOK = Statement(
    """
    select fingerprint, status, cast(headers as text), body, {lease_left}
    from {idempotency_keys} where scope = :scope
    """
)
_FINISH = Statement(
    """
    update {idempotency_keys}
    set status = :status, headers = :headers, body = :body, done_at = {now},
        expires_at = :ttl+seconds
    where scope = :scope and owner = :owner and status is null
    returning 1
    """
)
_FREE = Statement(
    """
    delete from {idempotency_keys} where scope = :scope and owner = :owner and status is null
    returning 1
    """
)
_PURGE = Statement(
    """
    delete from {idempotency_keys}
    where expires_at <= {now} and (status is not null or lease_until <= {now})
    returning 1
    """
)

# The row that refused a claim may be gone when it is looked at; then the key is free.
_ATTEMPTS = 5


class DatabaseStore:
    """Keys and their answers in the table ``idempotency_keys``.

    A claim takes a connection for one statement and gives it back before the handler starts.

    Args:
        database: The service's database, the same that the handlers work in.
        ttl_seconds: How long an answer is given again.
    """

    is_beside_effect = True

    def __init__(self, database: Database, *, ttl_seconds: float = 86_400.0) -> None:
        self._database = database
        self._ttl_seconds = ttl_seconds

    def claim(self, request: Request) -> Claim | Answer:
        with self._database.autocommit() as connection:
            return self._claim(connection, request)

    async def aclaim(self, request: Request) -> Claim | Answer:
        return await self._database.aautocommit(self._claim, request)

    def finish(self, session: Session | None, claim: Claim, answer: Answer) -> None:
        if session is not None:
            self._finish(session.connection(), claim, answer)
            return
        with self._database.autocommit() as connection:
            self._finish(connection, claim, answer)

    async def afinish(self, session: AsyncSession | None, claim: Claim, answer: Answer) -> None:
        if session is not None:
            await session.run_sync(self.finish, claim, answer)
            return
        await self._database.aautocommit(self._finish, claim, answer)

    def free(self, claim: Claim) -> None:
        with self._database.autocommit() as connection:
            _free(connection, claim)

    async def afree(self, claim: Claim) -> None:
        await self._database.aautocommit(_free, claim)

    def purge(self) -> int:
        """Delete what has expired, never what is under way; returns how many keys."""
        with self._database.autocommit() as connection:
            return len(_PURGE.run(connection).fetchall())

    def _claim(self, connection: Connection, request: Request) -> Claim | Answer:
        owner = Claim.new_owner()
        for _ in range(_ATTEMPTS):
            taken = _CLAIM.run(
                connection,
                scope=request.scope,
                operation=request.operation,
                fingerprint=request.fingerprint,
                owner=owner,
                lease=request.lease_seconds,
                ttl=self._ttl_seconds,
            ).fetchone()
            if taken is not None:
                return Claim(request.scope, owner, taken[0], request.lease_seconds)
            held = _LOOK.run(connection, scope=request.scope).fetchone()
            if held is None:
                continue
            fingerprint, status, headers, body, lease_left = tuple(held)
            if bytes(fingerprint) != request.fingerprint:
                raise other_body()
            if status is not None:
                pairs = tuple((str(name), str(value)) for name, value in orjson.loads(headers))
                return Answer(status, pairs, bytes(body), is_replay=True)
            if lease_left > 0:
                break
        raise under_way(1.0)

    def _finish(self, connection: Connection, claim: Claim, answer: Answer) -> None:
        done = _FINISH.run(
            connection,
            status=answer.status,
            headers=orjson.dumps(answer.headers).decode(),
            body=answer.body,
            ttl=self._ttl_seconds,
            scope=claim.scope,
            owner=claim.owner,
        ).fetchone()
        if done is None:
            raise taken_over()


def _free(connection: Connection, claim: Claim) -> None:
    _FREE.run(connection, scope=claim.scope, owner=claim.owner).fetchall()
