"""The bound on Redis: redis-py and streams alone, one thread, nothing that can go wrong.

The caller sends what it can in one pipeline, the server answers what it read in one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import orjson
import redis

from benchmarks.lanes.calls import AT_A_TIME, DATA, QUEUE, URL, check, play

GROUP = "servers"
BLOCK_MS = 5_000


def connected() -> Any:
    return redis.Redis.from_url(URL, socket_timeout=None)


def serve() -> None:
    client = connected()
    client.xgroup_create(QUEUE, GROUP, "0", mkstream=True)
    while True:
        for _, entries in client.xreadgroup(
            GROUP, "server", {QUEUE: ">"}, count=AT_A_TIME, block=BLOCK_MS
        ):
            pipe = client.pipeline(transaction=False)
            for _, entry in entries:
                body = orjson.dumps(orjson.loads(entry[b"body"]))
                reply = {"id": entry[b"id"], "body": body}
                pipe.xadd(entry[b"reply_to"], reply, maxlen=10_000, approximate=True)
            ids = [id for id, _ in entries]
            pipe.xack(QUEUE, GROUP, *ids)
            pipe.xdel(QUEUE, *ids)
            pipe.execute()


class Caller:
    def __init__(self) -> None:
        self.client = connected()
        self.replies = f"replies:{os.getpid()}"
        self.last_id: Any = "0-0"
        self.sent = 0

    def send(self, to: Any) -> int:
        self.sent += 1
        entry = {"id": self.sent, "reply_to": self.replies, "body": orjson.dumps(DATA)}
        to.xadd(QUEUE, entry)
        return self.sent

    def receive(self) -> list[int]:
        found = self.client.xread({self.replies: self.last_id}, count=AT_A_TIME, block=BLOCK_MS)
        ids = []
        for _, entries in found:
            for self.last_id, entry in entries:
                check(orjson.loads(entry[b"body"]))
                ids.append(int(entry[b"id"]))
        return ids

    def one(self, units: int) -> None:
        for _ in range(units):
            id = self.send(self.client)
            if self.receive() != [id]:
                raise ValueError("the answer of another call")

    def futures(self, units: int) -> None:
        under_way: set[int] = set()
        left = units
        while left or under_way:
            pipe = self.client.pipeline(transaction=False)
            while left and len(under_way) < AT_A_TIME:
                under_way.add(self.send(pipe))
                left -= 1
            pipe.execute()
            under_way.difference_update(self.receive())


def rounds(mode: str) -> Callable[[int], None]:
    caller = Caller()
    return {"one": caller.one, "futures": caller.futures}[mode]


if __name__ == "__main__":
    play(serve, rounds)
