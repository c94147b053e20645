"""The slots of the call statistics in Redis: one hash a slot, gone when its time is over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mainstay.rpc.redis_streams.connection import Connection, RedisError

__all__ = ["SharedSlots"]

TIMEOUT_SECONDS = 1.0
KEEP_SECONDS = 360


class SharedSlots:
    """Counts that all processes of a service add to.

    Args:
        url: The Redis.
        keys: What every key begins with.
    """

    def __init__(self, url: str, keys: str) -> None:
        self._url = url
        self._keys = keys
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def add(self, slots: Mapping[int, Mapping[str, int]], timeouts: int) -> None:
        """Add counts to *slots*, in one round trip.

        Raises:
            OSError: Redis does not answer; some of it may be counted.
        """
        commands: list[tuple[str | int, ...]] = []
        for number, counts in slots.items():
            key = f"{self._keys}:{number}"
            commands += [("HINCRBY", key, field, count) for field, count in counts.items()]
            commands.append(("EXPIRE", key, KEEP_SECONDS))
        if timeouts:
            commands.append(("INCRBY", f"{self._keys}:timeouts", timeouts))
        self._ask(commands)

    def read(self, numbers: Iterable[int]) -> tuple[list[Counter[str]], int]:
        """Return the slots, and how many calls have ever timed out.

        Raises:
            OSError: Redis does not answer.
        """
        commands: list[tuple[str | int, ...]] = [
            ("HGETALL", f"{self._keys}:{number}") for number in numbers
        ]
        *slots, timeouts = self._ask([*commands, ("GET", f"{self._keys}:timeouts")])
        return [_counts(slot) for slot in slots], int(timeouts or 0)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask(self, commands: list[tuple[str | int, ...]]) -> list[Any]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = Connection(self._url, timeout_seconds=TIMEOUT_SECONDS)
                return self._connection.ask_all(commands)
            except (OSError, RedisError) as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                raise ConnectionError("Redis does not answer") from error


def _counts(flat: list[bytes]) -> Counter[str]:
    return Counter(
        {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}
    )
