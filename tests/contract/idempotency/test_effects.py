"""One effect a key, however often and wherever it arrives: in every database."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mainstay.errors import Fenced, Unavailable, UnderWay
from mainstay.idempotency import Answer, Claim, Work, once
from mainstay.pipeline import Step, adrive, drive
from mainstay.resources.sqlalchemy import Database, engines, tables
from mainstay.resources.sqlalchemy.idempotency import DatabaseStore
from mainstay.testing.wait import eventually
from tests.contract.idempotency.test_store import asked
from tests.waiting import PATIENCE_SECONDS

KEYS, CLIENTS = 20, 10


@pytest.fixture(autouse=True)
def effects(database: Database) -> None:
    with database.session() as session:
        # No constraint on the key: what happens twice is to be seen twice.
        session.execute(text("create table effects (key varchar(32))"))


async def test_each_key_of_ten_clients_has_one_effect_and_one_answer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine connects slowly, and hands on slowly the one write lock that SQLite has.
    monkeypatch.setattr(engines, "CONNECT_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    patient = Database(url=database.url, lock_timeout_seconds=PATIENCE_SECONDS)
    store = DatabaseStore(patient)
    heard: Counter[str] = Counter()
    answers: dict[str, set[bytes]] = {}
    at_once = asyncio.Semaphore(20)

    async def client(key: str, number: int) -> None:
        async with (
            at_once,
            AsyncSession(patient.async_engine, expire_on_commit=False) as session,
        ):

            async def handle() -> Answer:
                await session.execute(text("insert into effects values (:key)"), {"key": key})
                return Answer(201, (), f"{key} by {number}".encode())

            work = Work(
                Step(aio=handle),
                lambda: session,
                Step(aio=session.commit),
                Step(aio=session.rollback),
            )
            try:
                answer = await adrive(once(store, asked(key), work))
            except UnderWay:
                heard["under way"] += 1
                return
            heard["replay" if answer.is_replay else "done"] += 1
            answers.setdefault(key, set()).add(answer.body)

    arrivals = [(f"k{key}", number) for key in range(KEYS) for number in range(CLIENTS)]
    random.Random(7).shuffle(arrivals)
    await asyncio.gather(*(client(*arrival) for arrival in arrivals))
    await patient.aclose()

    assert heard["done"] == KEYS
    assert heard.total() == KEYS * CLIENTS
    assert all(len(bodies) == 1 for bodies in answers.values())
    assert count(database, "select count(*) from effects") == KEYS
    assert count(database, "select count(distinct key) from effects") == KEYS
    keys = tables.table("idempotency_keys", database.engine.name)
    with database.session(read_only=True) as session:
        assert session.scalars(select(keys.c.scope).where(keys.c.status.is_(None))).all() == []


def test_an_effect_is_rolled_back_when_another_worker_has_the_key(database: Database) -> None:
    store = DatabaseStore(database)
    with Session(database.engine) as session:

        def handle() -> Answer:
            eventually(lambda: isinstance(store.claim(asked()), Claim))  # a twin takes over
            session.execute(text("insert into effects values ('mine')"))
            return Answer(201)

        request = asked(lease_seconds=0.05)
        work = Work(Step(handle), lambda: session, Step(session.commit), Step(session.rollback))
        with pytest.raises(Fenced):
            drive(once(store, request, work))
    assert count(database, "select count(*) from effects") == 0


def test_a_commit_that_fails_leaves_neither_effect_nor_answer_and_frees_the_key(
    database: Database,
) -> None:
    store = DatabaseStore(database)
    with Session(database.engine) as session:

        def handle() -> Answer:
            session.execute(text("insert into effects values ('mine')"))
            return Answer(201)

        def commit() -> None:
            raise Unavailable("the database is shutting down: try again")

        work = Work(Step(handle), lambda: session, Step(commit), Step(session.rollback))
        with pytest.raises(Unavailable):
            drive(once(store, asked(), work))
    assert count(database, "select count(*) from effects") == 0
    assert isinstance(store.claim(asked()), Claim)


def test_a_purge_takes_what_has_expired_and_leaves_what_is_under_way(database: Database) -> None:
    store = DatabaseStore(database, ttl_seconds=0.01)
    running = store.claim(asked("running"))
    done = store.claim(asked("done"))
    assert isinstance(running, Claim)
    assert isinstance(done, Claim)
    store.finish(None, done, Answer(200))
    assert eventually(store.purge) == 1
    store.finish(None, running, Answer(200))


def count(database: Database, query: str) -> int:
    with database.session(read_only=True) as session:
        return int(session.scalar(text(query)) or 0)
