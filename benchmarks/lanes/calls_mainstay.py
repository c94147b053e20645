"""Calls with the library, as it is by default."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks.lanes.calls import (
    AT_A_TIME,
    QUEUE,
    QUEUE_TYPE,
    URL,
    by_futures,
    by_tasks,
    by_threads,
    one_by_one,
    play,
)
from mainstay import Settings
from mainstay.rpc import Calls, run
from mainstay.service import Service


class Echo:
    def call(self, data: Any) -> Any:
        return data


def serve() -> None:
    raise SystemExit(
        run(
            Settings(rabbitmq_url=URL, metrics_port=0, host="127.0.0.1"),
            queue=QUEUE,
            target=Echo(),
            queue_type="quorum" if QUEUE_TYPE == "quorum" else "classic",
        )
    )


def rounds(mode: str) -> Callable[[int], None]:
    calls = Service(Settings(rabbitmq_url=URL)).hold(Calls())

    def call(data: Any) -> Any:
        return calls.call(QUEUE, data)

    def submit(data: Any) -> Any:
        return calls.submit(QUEUE, data)

    async def acall(data: Any) -> Any:
        return await calls.acall(QUEUE, data)

    runner = asyncio.Runner()
    return {
        "one": lambda units: one_by_one(call, units),
        "futures": lambda units: by_futures(submit, units),
        "threads": lambda units: by_threads(call, units),
        "task": lambda units: runner.run(by_tasks(acall, units, 1)),
        "tasks": lambda units: runner.run(by_tasks(acall, units, AT_A_TIME)),
    }[mode]


if __name__ == "__main__":
    play(serve, rounds)
