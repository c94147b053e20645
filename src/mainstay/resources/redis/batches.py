"""How do many requests of one event loop ask Redis for little more than one would pay?

What is asked while an answer is awaited goes out together once it is there, in one pipeline: the
busier a process is, the less of a round trip each has to pay for. Nobody waits for company.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.exceptions import NoScriptError

__all__ = ["Batches", "Script"]

_MOST = 100

Command = tuple[Any, ...]


class Script:
    """A script in Lua; the server is sent its digest, and the whole of it where that is new."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, key: str, *arguments: Any) -> Any:
        """Run it on *key*."""
        try:
            return client.evalsha(self._digest, 1, key, *arguments)
        except NoScriptError:
            return client.eval(self._text, 1, key, *arguments)

    async def arun(self, batches: Batches, key: str, *arguments: Any) -> Any:
        """Run it on *key*, in one batch with what else is asked."""
        try:
            return await batches.execute("EVALSHA", self._digest, 1, key, *arguments)
        except NoScriptError:
            return await batches.execute("EVAL", self._text, 1, key, *arguments)


@dataclass(slots=True, eq=False)
class _Asked:
    command: Command
    answer: asyncio.Future[Any]

    def tell(self, answer: Any) -> None:
        if self.answer.done():  # who asked does not wait any more
            return
        if isinstance(answer, Exception):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)


class Batches:
    """The batches of one event loop, one at a time.

    Args:
        client: That loop's client.
    """

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: list[_Asked] = []
        self._sending: asyncio.Task[None] | None = None

    async def execute(self, *command: Any) -> Any:
        """Have Redis execute *command*, and return its answer as it came.

        Raises:
            redis.RedisError: Redis refused it, or did not answer. When the batch before it was
                not answered, it has not been sent.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(command, loop.create_future())
        self._waiting.append(asked)
        if self._sending is None:
            # In no context: what is sent is of many requests.
            self._sending = loop.create_task(self._send(), context=Context())
        return await asked.answer

    async def _send(self) -> None:
        batch: list[_Asked] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                answers = await self._answers([asked.command for asked in batch])
                for asked, answer in zip(batch, answers, strict=True):
                    asked.tell(answer)
        except Exception as error:  # noqa: BLE001 - who asked is told, whatever it is
            # Who waited behind them would wait as long again, for the same.
            self._tell_all(batch, error)
        except BaseException:
            self._tell_all(batch, redis.ConnectionError("the process stops"))
            raise
        finally:
            self._sending = None

    async def _answers(self, commands: Sequence[Command]) -> Sequence[Any]:
        # Not by a pipeline of redis-py: its asyncio side packs each argument in Python, which
        # takes as long as all else that is done for a command.
        packed = b"".join(map(hiredis.pack_command, commands))
        pool: Any = self._client.connection_pool
        connection: Any = await pool.get_connection()
        try:
            answers: Sequence[Any] = await connection.retry.call_with_retry(
                partial(_ask, connection, packed, len(commands)),
                lambda _error: connection.disconnect(),
            )
            return answers
        finally:
            await pool.release(connection)

    def _tell_all(self, batch: Sequence[_Asked], error: Exception) -> None:
        waiting, self._waiting = self._waiting, []
        for asked in (*batch, *waiting):
            asked.tell(error)


async def _ask(connection: Any, packed: bytes, count: int) -> list[Any]:
    await connection.send_packed_command(packed)
    answers: list[Any] = []
    for _ in range(count):
        try:
            answers.append(await connection.read_response())
        except redis.ResponseError as refusal:
            answers.append(refusal)
    return answers
