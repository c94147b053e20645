"""Calls over RabbitMQ, on the quorum queues that are the default and on classic ones.

The bound is the `amqp` library on queues of the same type. Nameko can have classic queues only.
"""

from __future__ import annotations

from benchmarks.calls import Pair, mainstay, row
from benchmarks.row import RATE, Row, at_least, at_most

_RAW_NAME = "raw amqp"


def _raw(mode: str) -> Pair:
    return Pair(_RAW_NAME, "benchmarks.lanes.calls_raw_amqp", mode, ("amqp",))


def _kombu(mode: str) -> Pair:
    return Pair("kombu", "benchmarks.peers.calls_kombu", mode, ("kombu",))


def _aio_pika(mode: str) -> Pair:
    return Pair("aio-pika", "benchmarks.peers.calls_aio_pika", mode, ("aio-pika",))


def _faststream(mode: str) -> Pair:
    return Pair("FastStream", "benchmarks.peers.calls_faststream", mode, ("faststream",))


def _nameko(mode: str, queue_type: str) -> tuple[Pair, ...]:
    pair = Pair("Nameko", "benchmarks.peers.calls_nameko", mode, ("nameko",))
    return (pair,) if queue_type == "classic" else ()


def _rows(name: str, queue_type: str) -> list[Row]:
    where = f"over RabbitMQ, {queue_type} queue"
    nameko = queue_type == "classic"
    return [
        row(
            f"{name}.one",
            f"1 KB one by one {where}",
            [mainstay("one"), _raw("one"), _kombu("one"), *_nameko("one", queue_type)],
            [at_least(0.8, times=_RAW_NAME, of=RATE), at_most(1.25, times=_RAW_NAME)],
            units=1_200,
            queue_type=queue_type,
        ),
        row(
            f"{name}.futures",
            f"1 KB, 64 under way from one thread {where}",
            [
                mainstay("futures"),
                _raw("futures"),
                _kombu("futures"),
                *_nameko("futures", queue_type),
            ],
            [at_least(0.8, times=_RAW_NAME, of=RATE), at_most(1.25, times=_RAW_NAME)],
            units=4_000,
            queue_type=queue_type,
        ),
        row(
            f"{name}.threads",
            f"1 KB from 64 threads {where}",
            [mainstay("threads"), _raw("futures")],
            [at_least(0.6, times=_RAW_NAME, of=RATE), at_most(1.67, times=_RAW_NAME)],
            units=4_000,
            queue_type=queue_type,
        ),
        row(
            f"{name}.asyncio",
            f"1 KB one by one from asyncio {where}",
            [mainstay("task"), _aio_pika("task"), _faststream("task"), *_nameko("one", queue_type)],
            [
                at_least(1.1, times="aio-pika", of=RATE),
                at_least(2.0, times="FastStream", of=RATE),
                *([at_least(2.0, times="Nameko", of=RATE)] if nameko else []),
            ],
            units=800,
            queue_type=queue_type,
        ),
        row(
            f"{name}.asyncio_64",
            f"1 KB from 64 tasks of asyncio {where}",
            [
                mainstay("tasks"),
                _aio_pika("tasks"),
                _faststream("tasks"),
                *_nameko("futures", queue_type),
            ],
            [
                at_least(1.1, times="aio-pika", of=RATE),
                at_least(4.0, times="FastStream", of=RATE),
                *([at_least(4.0, times="Nameko", of=RATE)] if nameko else []),
            ],
            units=2_400,
            queue_type=queue_type,
        ),
    ]


ROWS = (*_rows("rpc.rabbitmq", "quorum"), *_rows("rpc.rabbitmq_classic", "classic"))
