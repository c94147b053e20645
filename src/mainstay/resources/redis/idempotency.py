"""Idempotency keys in Redis, for services without a database; a weaker promise.

The effect is somewhere else, so it and its answer are not one transaction. The effect is committed
first: nothing that was answered is ever missing, and the work of a process that dies before the
answer is stored, or whose database breaks off the commit, is done again once its lease has ended.
What Redis forgets (an eviction, the last second before a power cut) is done again too. While
everything lives, twins are told apart as they are anywhere else; and the calls that the work makes
have ids made of the key, so a server that gets one twice does it once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import redis

from mainstay.errors import Unavailable
from mainstay.idempotency import Answer, Claim, Request, other_body, taken_over, under_way
from mainstay.resources.redis.batches import Script
from mainstay.resources.redis.client import Redis

__all__ = ["RedisStore"]

# Each script is one atomic step, by the server's clock.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_CLAIM = Script(
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'fingerprint', 'status', 'headers', 'body', 'lease_until',
                        'owner', 'epoch')
if held[1] then
    if held[1] ~= ARGV[1] then return {'other'} end
    if held[2] then return {'answer', held[2], held[3], held[4]} end
    -- Sent again by a client that did not hear the answer.
    if held[6] == ARGV[2] then return {'mine', tonumber(held[7])} end
    if tonumber(held[5]) > now then return {'held', tonumber(held[5]) - now} end
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'owner', ARGV[2], 'operation', ARGV[5],
           'lease_until', now + tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[3]), tonumber(ARGV[4])))
return {'mine', epoch}
"""
)
_FINISH = Script("""
local held = redis.call('HMGET', KEYS[1], 'owner', 'status', 'headers', 'body')
if held[1] ~= ARGV[1] then return 0 end
if held[2] then
    -- Sent again by a client that did not hear that it was kept; any other answer comes too late.
    return held[2] == ARGV[2] and held[3] == ARGV[3] and held[4] == ARGV[4] and 1 or 0
end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'headers', ARGV[3], 'body', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
""")
_FREE = Script("""
local held = redis.call('HMGET', KEYS[1], 'owner', 'status')
if held[1] == ARGV[1] and not held[2] then redis.call('DEL', KEYS[1]) end
return 1
""")


class RedisStore:
    """Keys and their answers, a hash each, called ``mainstay:idempotency:<scope>``.

    Args:
        redis: The service's Redis.
        ttl_seconds: How long an answer is given again; Redis forgets it by itself.
    """

    is_beside_effect = False

    def __init__(self, redis: Redis, *, ttl_seconds: float = 86_400.0) -> None:
        self._redis = redis
        self._ttl_ms = _milliseconds(ttl_seconds)

    def claim(self, request: Request) -> Claim | Answer:
        owner = Claim.new_owner()
        with _translated():
            reply = _CLAIM.run(self._redis.client, *self._asking(request, owner))
        return _told(request, owner, reply)

    async def aclaim(self, request: Request) -> Claim | Answer:
        owner = Claim.new_owner()
        with _translated():
            reply = await _CLAIM.arun(self._redis.batches, *self._asking(request, owner))
        return _told(request, owner, reply)

    def finish(self, session: object, claim: Claim, answer: Answer) -> None:
        with _translated():
            kept = _FINISH.run(self._redis.client, *self._answering(claim, answer))
        if not kept:
            raise taken_over()

    async def afinish(self, session: object, claim: Claim, answer: Answer) -> None:
        with _translated():
            kept = await _FINISH.arun(self._redis.batches, *self._answering(claim, answer))
        if not kept:
            raise taken_over()

    def free(self, claim: Claim) -> None:
        with _translated():
            _FREE.run(self._redis.client, _key(claim.scope), claim.owner)

    async def afree(self, claim: Claim) -> None:
        with _translated():
            await _FREE.arun(self._redis.batches, _key(claim.scope), claim.owner)

    def _asking(self, request: Request, owner: str) -> tuple[Any, ...]:
        lease_ms = _milliseconds(request.lease_seconds)
        rest = (request.fingerprint, owner, lease_ms, self._ttl_ms, request.operation)
        return (_key(request.scope), *rest)

    def _answering(self, claim: Claim, answer: Answer) -> tuple[Any, ...]:
        headers = orjson.dumps(answer.headers)
        rest = (claim.owner, answer.status, headers, answer.body, self._ttl_ms)
        return (_key(claim.scope), *rest)


def _told(request: Request, owner: str, reply: Any) -> Claim | Answer:
    match reply:
        case [b"mine", epoch]:
            return Claim(request.scope, owner, int(epoch), request.lease_seconds)
        case [b"answer", status, headers, body]:
            pairs = tuple((str(name), str(value)) for name, value in orjson.loads(headers))
            return Answer(int(status), pairs, bytes(body), is_replay=True)
        case [b"held", left_ms]:
            raise under_way(int(left_ms) / 1000)
        case _:
            raise other_body()


def _key(scope: str) -> str:
    return f"mainstay:idempotency:{scope}"


def _milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Unavailable("Redis, which keeps idempotency keys, does not answer") from error
