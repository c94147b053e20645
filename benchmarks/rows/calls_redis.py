"""Calls over Redis; the bound is redis-py on streams, sending and answering in pipelines."""

from __future__ import annotations

from benchmarks.calls import Pair, mainstay, row
from benchmarks.row import RATE, at_least

_RAW_NAME = "raw streams"


def _raw(mode: str) -> Pair:
    return Pair(_RAW_NAME, "benchmarks.lanes.calls_raw_streams", mode, ("redis", "hiredis"))


def _kombu(mode: str) -> Pair:
    return Pair("kombu", "benchmarks.peers.calls_kombu", mode, ("kombu",))


def _faststream(mode: str) -> Pair:
    return Pair("FastStream", "benchmarks.peers.calls_faststream", mode, ("faststream",))


ROWS = (
    row(
        "rpc.redis.one",
        "1 KB one by one over Redis",
        [mainstay("one"), _raw("one"), _kombu("one")],
        [at_least(0.7, times=_RAW_NAME, of=RATE)],
        units=1_200,
    ),
    row(
        "rpc.redis.futures",
        "1 KB, 64 under way from one thread over Redis",
        [mainstay("futures"), _raw("futures"), _kombu("futures")],
        [at_least(0.7, times=_RAW_NAME, of=RATE), at_least(5.0, times="kombu", of=RATE)],
        units=4_000,
    ),
    row(
        "rpc.redis.threads",
        "1 KB from 64 threads over Redis",
        [mainstay("threads"), _raw("futures")],
        [],
        units=4_000,
    ),
    row(
        "rpc.redis.asyncio",
        "1 KB one by one from asyncio over Redis",
        [mainstay("task"), _raw("one"), _faststream("task")],
        [at_least(0.7, times=_RAW_NAME, of=RATE)],
        units=800,
    ),
    row(
        "rpc.redis.asyncio_64",
        "1 KB from 64 tasks of asyncio over Redis",
        [mainstay("tasks"), _raw("futures"), _faststream("tasks")],
        [at_least(0.7, times=_RAW_NAME, of=RATE), at_least(5.0, times="FastStream", of=RATE)],
        units=2_400,
    ),
)
