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

from mainstay.testing import async_eventually, eventually
from tests.chaos.clients import Ask, Clients
from tests.chaos.scenarios.catalogue import LeftOut, scenario
from tests.chaos.stage import Stage
from tests.chaos.traffic import Traffic

# Generous, for a machine that is busy; what it is meant to be is printed.
_LONGEST_SECONDS = 10.0
_SESSIONS = (
    "from pg_stat_activity where datname = current_database() and application_name like 'chaos/%'"
)
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
                await async_eventually(lambda: traffic.asks[-1].is_error, timeout_seconds=30)
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
    late = [ask for ask in errors if not any(_touches(ask, *outage) for outage in outages)]
    assert not late, f"{len(late)} errors while PostgreSQL was well: {late[:3]}"
    stage.figures |= {
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
                await async_eventually(
                    lambda: stage.faults["session ended"] >= stage.pick(short=30, full=600),
                    timeout_seconds=stage.pick(short=60, full=300),
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
    assert errors[503] <= stage.faults["session ended"], "more errors than sessions were ended"
    stage.figures |= {"requests": len(traffic.asks), "errors_503": errors[503]}
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
                async with fault(stage):
                    stage.fault(f"PostgreSQL {kind}")
                    over = time.monotonic() + seconds
                    while time.monotonic() < over:
                        assert await asyncio.to_thread(api.status, "/healthz") == 200
                        await asyncio.sleep(0.2)
                await traffic.flows(20)
                errors = [ask for ask in traffic.asks[began:] if ask.is_error]
                assert {ask.status for ask in errors} == {503}, traffic.errors()
                slowest = max(ask.seconds for ask in errors)
                assert slowest < _LONGEST_SECONDS
                stage.figures |= {
                    f"{kind}_errors_503": len(errors),
                    f"{kind}_slowest_seconds": round(slowest, 2),
                }

    asyncio.run(play())
    eventually(lambda: api.status("/ready") == 200)
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
    api = stage.api(APP_DB_POOL_SIZE="5", APP_DB_MAX_OVERFLOW="0").ready()
    health: list[float] = []

    async def play() -> Counter[int]:
        async with Clients(stage, api) as clients:
            for _ in range(stage.pick(short=1, full=20)):
                async with asyncio.timeout(60):  # against hanging
                    await asyncio.gather(
                        *(clients.ask("/slow?seconds=0.03") for _ in range(250)),
                        *(clients.ask("/slow-sync?seconds=0.03") for _ in range(250)),
                        *(clients.order(stage.ledger.submit()) for _ in range(50)),
                    )
                    stage.fault("burst")
            answers = Counter(clients.statuses)
            for path in ("/slow", "/slow-sync"):
                again = await clients.ask(f"{path}?seconds=0")
                assert again is not None
                assert again.status == 200
            return answers

    def look() -> None:
        began = time.monotonic()
        assert api.status("/health") == 200
        health.append((time.monotonic() - began) * 1000)

    with stage.every(0.05, look):
        answers = asyncio.run(play())
    assert answers.keys() <= {200, 201, 503}, answers
    assert answers[200] > answers[503], answers
    assert stage.sql(f"select count(*) {_SESSIONS} and state <> 'idle'") == "0"
    stage.figures |= {f"answers_{status}": count for status, count in answers.items()}
    stage.figures |= {"health_asked": len(health), "health_slowest_ms": round(max(health), 1)}


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
