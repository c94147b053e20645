"""Calls as Nameko's documentation shows them: a service on green threads, a proxy to its cluster.

https://nameko.readthedocs.io/en/stable/built_in_extensions.html
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

if sys.argv[1] == "server":
    import eventlet

    eventlet.monkey_patch()

from nameko.rpc import rpc
from nameko.runners import ServiceRunner
from nameko.standalone.rpc import ClusterRpcProxy

from benchmarks.lanes.calls import AT_A_TIME, QUEUE, URL, by_futures, one_by_one, play

CONFIG = {"AMQP_URI": URL, "max_workers": AT_A_TIME}


class Echo:
    name = QUEUE

    @rpc  # type: ignore[untyped-decorator] # it has no types
    def call(self, data: Any) -> Any:
        return data


def serve() -> None:
    runner = ServiceRunner(CONFIG)
    runner.add_service(Echo)
    runner.start()
    runner.wait()


def rounds(mode: str) -> Callable[[int], None]:
    method = ClusterRpcProxy(CONFIG).start()[QUEUE].call
    return {
        "one": lambda units: one_by_one(method, units),
        "futures": lambda units: by_futures(method.call_async, units),
    }[mode]


if __name__ == "__main__":
    play(serve, rounds)
