"""A service with an outbox: ``with`` and ``without`` commit orders with and without a task that is
sent along, ``relay`` relays what waits, ``by_hand`` does the least of that which still confirms and
marks each of them, and ``latency`` looks how long a task is on its way.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from uuid import uuid4

import orjson
import psycopg
import redis
from sqlalchemy import text

from benchmarks.lanes.asked import answer_rounds
from benchmarks.lanes.orders import Order
from benchmarks.lanes.orders_table import OrderRow
from mainstay import Service, Settings
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.relay import Relays
from mainstay.tasks.celery import asend, create_celery_app, send

AT_A_TIME = 16
PER_SECOND = 200.0
QUEUE = "default"

_ORDER = Order(sku="sku-0042", count=3, customer="somebody who buys things", note="x" * 80)
_PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.005
# What was sent once, so many times: under ids of their own, as if each had been sent.
_COPIES = text(
    """
    insert into mainstay.outbox (id, kind, name, destination, key, headers, route, body, token,
                                 attempts, created_at, due_at)
    select number || id, kind, name, destination, key,
           cast(replace(cast(headers as text), id, number || id) as json),
           route, body, token, 0, now(), due_at
    from mainstay.outbox, generate_series(1, :more) as number
    """
)
_CLAIM = """
    select position, cast(headers as text), cast(route as text), body from mainstay.outbox
    where published_at is null order by position limit 400 for update skip locked
"""
_MARK = "update mainstay.outbox set published_at = now() where position = any(%s)"
_WAITING = text("select count(*) from mainstay.outbox where published_at is null")

database = Database()
service = Service(Settings, database)
app = create_celery_app(service)


@app.task(track_status=False)
def pack(order: dict[str, object]) -> None:
    """It is not packed here."""


def commit(*, sends: bool) -> Callable[[int], None]:
    """Return what commits as many orders, 16 at a time."""
    runner = asyncio.Runner()

    async def one() -> None:
        async with database.asession() as session:
            session.add(OrderRow.of(_ORDER))
            if sends:
                await asend(pack, _ORDER.model_dump(), session=session)

    async def round_of(units: int) -> None:
        left = iter(range(units))

        async def work() -> None:
            for _ in left:
                await one()

        before = _waiting()
        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))
        if _waiting() - before != units * sends:
            raise ValueError(f"{_waiting() - before} of {units * sends} tasks wait")
        _empty()

    return lambda units: runner.run(round_of(units))


def relay(units: int) -> Mapping[str, float]:
    """Relay *units* tasks that wait."""
    relays = Relays(service)
    try:
        return _drained(units, relays.start)
    finally:
        relays.close()


def relay_by_hand(units: int) -> Mapping[str, float]:
    """Do so with psycopg and redis-py alone; nothing is declared, refused, put off or told."""
    broker = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])

    def work() -> None:
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            while rows := connection.execute(_CLAIM).fetchall():
                pipe = broker.pipeline(transaction=False)
                for _, headers, route, body in rows:
                    pipe.lpush(QUEUE, _message(headers, route, body))
                pipe.execute()
                connection.execute(_MARK, ([row[0] for row in rows],))
                connection.commit()

    return _drained(units, work)


def _message(headers: str, route: str, body: bytes) -> bytes:
    """Return a task as kombu keeps it in Redis."""
    where = orjson.loads(route)
    to = {"exchange": where["exchange"], "routing_key": where["routing_key"]}
    message = {
        "body": b64encode(body).decode(),
        "content-type": where["content_type"],
        "content-encoding": where["content_encoding"],
        "headers": orjson.loads(headers),
        "properties": {
            **where["properties"],
            "delivery_mode": 2,
            "delivery_info": to,
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    return orjson.dumps(message)


def _drained(units: int, start: Callable[[], None]) -> Mapping[str, float]:
    """Say how long *units* tasks take to be in Redis, without the making of them."""
    broker = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])
    broker.delete(QUEUE)
    with database.session() as session:
        send(pack, _ORDER.model_dump(), session=session)
        session.execute(_COPIES, {"more": units - 1})
    with database.autocommit() as connection:
        connection.execute(text("analyze mainstay.outbox"))
    cpu, began = time.process_time(), time.perf_counter()
    start()
    _wait_until(lambda: int(broker.llen(QUEUE)) >= units)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    _wait_until(lambda: _waiting() == 0)
    ids = {json.loads(message)["headers"]["id"] for message in broker.lrange(QUEUE, 0, -1)}
    if len(ids) != units:
        raise ValueError(f"{len(ids)} of {units} tasks have left")
    _empty()
    return {"seconds": seconds, "cpu": cpu}


def latency() -> Callable[[int], Mapping[str, float]]:
    """Return what commits so many tasks, 200 a second, and says how long after each commit its
    task is there; another process relays them.
    """
    arrived: dict[str, float] = {}
    threading.Thread(target=_watch, args=(arrived,), daemon=True).start()
    runner = asyncio.Runner()

    async def one(committed: dict[str, float]) -> None:
        async with database.asession() as session:
            id = await asend(pack, _ORDER.model_dump(), session=session)
        committed[id] = time.monotonic()

    async def round_of(units: int) -> Mapping[str, float]:
        committed: dict[str, float] = {}
        at = time.monotonic()
        async with asyncio.TaskGroup() as commits:
            for _ in range(units):
                at += random.expovariate(PER_SECOND)
                await asyncio.sleep(max(0.0, at - time.monotonic()))
                commits.create_task(one(committed))
        _wait_until(lambda: committed.keys() <= arrived.keys())
        took = [(arrived.pop(id) - moment) * 1000 for id, moment in committed.items()]
        percentiles = statistics.quantiles(took, n=100)
        return {"p50": percentiles[49], "p99": percentiles[98]}

    return lambda units: runner.run(round_of(units))


def _watch(arrived: dict[str, float]) -> None:
    broker = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"], socket_timeout=None)
    while True:
        found = broker.brpop(QUEUE)
        now = time.monotonic()
        if found is not None:
            arrived[json.loads(found[1])["headers"]["id"]] = now


def _wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError("the tasks have not left")
        time.sleep(_POLL_SECONDS)


def _waiting() -> int:
    with database.autocommit() as connection:
        return int(connection.execute(_WAITING).scalar_one())


def _empty() -> None:
    with database.autocommit() as connection:
        connection.execute(text("truncate mainstay.outbox, public.orders"))


if __name__ == "__main__":
    do: Mapping[str, Callable[[], Callable[[int], Mapping[str, float] | None]]] = {
        "with": lambda: commit(sends=True),
        "without": lambda: commit(sends=False),
        "relay": lambda: relay,
        "by_hand": lambda: relay_by_hand,
        "latency": latency,
    }
    answer_rounds(do[sys.argv[1]]())
