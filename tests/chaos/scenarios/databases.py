"""Requests, while PostgreSQL is killed, frozen, locked, read-only, full, or loses its sessions."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from tests.chaos.clients import Ask, Clients
from tests.chaos.exchanges import Answer
from tests.chaos.processes import Process
from tests.chaos.scenarios.catalogue import LeftOut, scenario
from tests.chaos.stage import Stage
from tests.chaos.traffic import Traffic
from tests.chaos.waiting import LIMIT_SECONDS, async_until, until

_LONGEST_SECONDS = 10.0
_SESSIONS = (
    "from pg_stat_activity where datname = current_database() and application_name like 'chaos/%'"
)
_ENDED = "the database is shutting down or restarting"
# A claim whose owner could not give it back is free again after this long.
_LEASE = {"APP_REQUEST_TIMEOUT_SECONDS": "6"}


@scenario(84, "PostgreSQL is killed and started again", on=("redis",))
def postgres_is_killed(stage: Stage) -> None:
    apis = [stage.api(**_LEASE).ready(), stage.api(**_LEASE).ready()]
    postgres = stage.servers.postgres
    outages: list[tuple[float, float]] = []
    returns: list[float] = []

    async def play() -> Traffic:
        async with Traffic(stage, apis, per_second=stage.pick(short=40, full=200)) as traffic:
            for _ in range(stage.pick(short=3, full=10)):
                await traffic.flows(20)
                down_at = time.monotonic()
                await asyncio.to_thread(postgres.kill)
                stage.fault("PostgreSQL killed")
                await async_until(lambda: traffic.asks[-1].is_error)
                await asyncio.to_thread(postgres.start)
                up_at = time.monotonic()
                await traffic.clients.order(stage.ledger.submit())
                returns.append(time.monotonic() - up_at)
                outages.append((down_at, up_at + 1.0))
                await traffic.flows(20)
        return traffic

    traffic = asyncio.run(play())
    errors = [ask for ask in traffic.asks if ask.is_error]
    assert {ask.status for ask in errors} == {503}, traffic.errors()
    # On a busy machine a connection may be had too late at any time. That requests flow again
    # after each outage was waited for.
    outside = sum(not any(_touches(ask, *outage) for outage in outages) for ask in errors)
    assert stage.size == "short" or not outside, f"{outside} errors while PostgreSQL was up"
    stage.figures |= {
        "errors_outside_outages": outside,
        "requests": len(traffic.asks),
        "errors_503": len(errors),
        "ready_to_first_2xx_seconds": round(max(returns), 2),
    }
    _no_half_commit(stage)


@scenario(85, "sessions of PostgreSQL are ended at random", on=("redis",))
def sessions_are_ended(stage: Stage) -> None:
    apis = [stage.api(**_LEASE).ready(), stage.api(**_LEASE).ready()]

    async def play() -> Traffic:
        rate = stage.pick(short=40, full=200)
        async with Traffic(stage, apis, per_second=rate, sql_seconds=0.05) as traffic:
            await traffic.flows(10)
            with (
                psycopg.connect(stage.database_url, autocommit=True) as connection,
                stage.every(0.1, lambda: end_one(connection)),
            ):
                await async_until(
                    lambda: stage.faults["session ended"] >= stage.pick(short=30, full=600)
                )
            await traffic.flows(10)
        return traffic

    def end_one(connection: psycopg.Connection[tuple[int]]) -> None:
        # Those that work first: of the others nobody would notice.
        look = f"select pid {_SESSIONS} order by state = 'idle', pid"
        if rows := connection.execute(look).fetchall():
            (pid,) = stage.random.choice(rows[:10])
            connection.execute("select pg_terminate_backend(%s)", (pid,))
            stage.fault("session ended")

    traffic = asyncio.run(play())
    errors = traffic.errors()
    assert errors.keys() == {503}, errors
    # Others are of a database that is slow, as it is on a busy machine.
    ended = sum(_ENDED in ask.detail for ask in traffic.asks)
    assert ended <= stage.faults["session ended"], "more errors than sessions were ended"
    stage.figures |= {"requests": len(traffic.asks), "errors_503": errors[503], "ended": ended}
    _no_half_commit(stage)


@scenario(86, "PostgreSQL is frozen, locked, and read-only", on=("redis",))
def postgres_does_not_answer(stage: Stage) -> None:
    api = stage.api(**_LEASE).ready()
    seconds = stage.pick(short=4.0, full=20.0)

    async def play() -> None:
        rate = stage.pick(short=20, full=60)
        async with Traffic(stage, [api], per_second=rate, sql_seconds=0.1) as traffic:
            for fault in (_frozen, _locked, _read_only):
                kind = fault.__name__.strip("_")
                await traffic.flows(20)
                began = len(traffic.asks)
                before = traffic.errors().total()
                async with fault(stage):
                    stage.fault(f"PostgreSQL {kind}")
                    over = time.monotonic() + seconds
                    while time.monotonic() < over or traffic.errors().total() < before + 5:
                        assert await asyncio.to_thread(api.status, "/healthz") == 200
                        await asyncio.sleep(0.2)
                await traffic.flows(20)
                errors = [ask for ask in traffic.asks[began:] if ask.is_error]
                assert {ask.status for ask in errors} == {503}, traffic.errors()
                slowest = max(ask.seconds for ask in errors)
                stage.note(f"{kind}_slowest_seconds", slowest, limit=_LONGEST_SECONDS)
                stage.figures[f"{kind}_errors_503"] = len(errors)

    asyncio.run(play())
    until(lambda: api.status("/ready") == 200)
    _no_half_commit(stage)


@scenario(87, "the disk of PostgreSQL is full", on=("redis",))
def disk_is_full(stage: Stage) -> None:
    api = stage.api(**_LEASE).ready()

    async def play() -> Counter[int]:
        async with Traffic(stage, [api], per_second=stage.pick(short=40, full=100)) as traffic:
            for _ in range(stage.pick(short=2, full=10)):
                await traffic.flows(20)
                before = traffic.errors().total()
                with _filled(disk):
                    stage.fault("disk full")
                    # Each page takes a few rows before another one is needed.
                    await traffic.fails(before + 10)
                    assert await asyncio.to_thread(api.status, "/healthz") == 200
                await traffic.flows(20)
        return traffic.errors()

    with _small_disk(stage) as disk:
        errors = asyncio.run(play())
        assert errors.keys() == {503}, errors
        stage.figures["errors_503"] = errors[503]
        _no_half_commit(stage)


@scenario(88, "more requests than connections, in handlers of both kinds", on=("redis",))
def pool_is_exhausted(stage: Stage) -> None:
    """All are answered where there is time to wait for a connection; where there is none, a request
    is refused that could be had again a little later.
    """
    pool = {"APP_DB_POOL_SIZE": "5", "APP_DB_MAX_OVERFLOW": "0"}
    patient = stage.api(
        APP_DB_POOL_TIMEOUT_SECONDS="120", APP_REQUEST_TIMEOUT_SECONDS=str(LIMIT_SECONDS), **pool
    ).ready()
    hurried = stage.api(APP_DB_POOL_TIMEOUT_SECONDS="0.5", **pool).ready()
    asyncio.run(_wait_in_turn(stage, patient))
    asyncio.run(_are_refused(stage, hurried))
    until(lambda: stage.sql(f"select count(*) {_SESSIONS} and state <> 'idle'") == "0")


async def _wait_in_turn(stage: Stage, api: Process) -> None:
    looks: Counter[int] = Counter()
    slowest = 0.0

    def look() -> None:
        nonlocal slowest
        began = time.monotonic()
        assert api.status("/healthz") == 200
        looks[api.status("/health")] += 1
        slowest = max(slowest, time.monotonic() - began)

    async with Clients(stage, api) as clients:
        with stage.every(0.05, look):
            for _ in range(stage.pick(short=1, full=20)):
                async with asyncio.timeout(LIMIT_SECONDS):  # against hanging
                    await asyncio.gather(
                        *(clients.ask("/slow?seconds=0.03") for _ in range(250)),
                        *(clients.ask("/slow-sync?seconds=0.03") for _ in range(250)),
                        *(clients.order(stage.ledger.submit()) for _ in range(50)),
                    )
                stage.fault("burst")
        # A connection may be had too late on a busy machine, if not from the pool.
        assert clients.statuses.keys() <= {200, 201, 503}, (clients.statuses, clients.silences)
        assert not clients.dishonest, clients.dishonest[:3]
        for path in ("/slow", "/slow-sync"):
            answer = await clients.ask_until_answered(f"{path}?seconds=0", None)
            assert answer.status == 200
        stage.figures |= {f"answers_{status}": n for status, n in clients.statuses.items()}
    await async_until(lambda: api.status("/health") == 200)
    stage.figures |= {"health_asked": looks.total(), "health_well": looks[200]}
    stage.note("health_slowest_seconds", slowest, limit=2.0)


async def _are_refused(stage: Stage, api: Process) -> None:
    """Ask for one more connection while every connection of the pool is in use."""
    async with Clients(stage, api) as clients:
        for path in ("/slow", "/slow-sync"):
            answer = None
            while answer is None:
                answer = await _beyond_the_pool(stage, clients, path)
            stage.fault("pool in use")
            assert answer.status == 503, answer
            assert not clients.dishonest, clients.dishonest
            again = await clients.ask_until_answered(f"{path}?seconds=0", None)
            assert again.status == 200
        assert await asyncio.to_thread(api.status, "/healthz") == 200


async def _beyond_the_pool(stage: Stage, clients: Clients, path: str) -> Answer | None:
    """Return what a request is answered while every connection is in use; ``None`` when they were
    not all in use until then.
    """
    taken = f"select count(*) {_SESSIONS} and query like '%pg_sleep%' and state = 'active'"
    holders = [asyncio.create_task(clients.ask(f"{path}?seconds=8")) for _ in range(5)]
    await async_until(lambda: stage.sql(taken) == "5" or any(one.done() for one in holders))
    answer = await clients.ask(f"{path}?seconds=0")
    was_full = stage.sql(taken) == "5"
    await asyncio.gather(*holders)
    return answer if was_full else None


@asynccontextmanager
async def _frozen(stage: Stage) -> AsyncIterator[None]:
    stage.servers.postgres.pause()
    try:
        yield
    finally:
        stage.servers.postgres.resume()


@asynccontextmanager
async def _locked(stage: Stage) -> AsyncIterator[None]:
    with psycopg.connect(stage.database_url) as connection:
        connection.execute("lock table public.effects in access exclusive mode")
        yield


@asynccontextmanager
async def _read_only(stage: Stage) -> AsyncIterator[None]:
    def switch(to: str) -> None:
        """New sessions are so; the old ones are ended."""
        with psycopg.connect(stage.servers.postgres.url, autocommit=True) as connection:
            name = sql.Identifier(stage.database_url.rpartition("/")[2])
            statement = sql.SQL("alter database {} set default_transaction_read_only = {}")
            connection.execute(statement.format(name, sql.SQL(to)))
        stage.sql(f"select pg_terminate_backend(pid) {_SESSIONS}")

    switch("on")
    try:
        yield
    finally:
        switch("off")


@contextmanager
def _small_disk(stage: Stage) -> Iterator[Path]:
    """Have the effects on a disk of their own while the body runs, a very small one."""
    folder = stage.servers.postgres.folder
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        disk.rmdir()
        raise LeftOut("a small disk can be mounted by root alone")
    try:
        owner = (folder / "data").stat()
        tables = disk / "tables"
        tables.mkdir(mode=0o700)
        os.chown(tables, owner.st_uid, owner.st_gid)
        stage.sql(f"create tablespace small location '{tables}'")
        stage.sql("alter table public.effects set (fillfactor = 10)")
        stage.sql("alter table public.effects set tablespace small")
        try:
            yield disk
        finally:
            stage.sql("alter table public.effects set tablespace pg_default")
            stage.sql("drop tablespace small")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        disk.rmdir()


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass  # it is full
    try:
        yield
    finally:
        filler.unlink()


def _touches(ask: Ask, began_at: float, ended_at: float) -> bool:
    """Was the request under way at any time between the two?"""
    return ask.began_at < ended_at and ask.ended_at > began_at


def _no_half_commit(stage: Stage) -> None:
    """Each answer that is kept has its effect: they were one transaction."""
    kept = "select count(*) from mainstay.idempotency_keys as key where status = 201"
    effect = """
        select from public.effects
        where position('"' || unit || '"' in convert_from(key.body, 'UTF8')) > 0
    """
    assert int(stage.sql(kept)) > 0
    assert stage.sql(f"{kept} and not exists ({effect})") == "0"
