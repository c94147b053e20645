"""Dead letters on Redis: one stream a queue, each entry with the message as it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis

from mainstay.deadletters import SUFFIX, DeadLetter, Kind, dead_letters_of
from mainstay.errors import Unavailable
from mainstay.texts import tls_reason

__all__ = ["RedisDeadLetters", "Requeue"]

Requeue = Callable[[Any, DeadLetter], None]
"""Adds the commands that put a letter back to a pipeline (its first argument)."""

_PAGE = 500


class RedisDeadLetters:
    """The streams `<queue>_dlq` of one server.

    Args:
        client: Without decoding of replies.
        requeue: How each kind of letter is put back: only its own transport knows.
    """

    def __init__(self, client: redis.Redis, requeue: Mapping[Kind, Requeue]) -> None:
        self._client = client
        self._requeue = requeue

    def queues(self) -> list[str]:
        with _reached():
            found = self._client.scan_iter(match=f"*{SUFFIX}", count=1000, _type="stream")
            return sorted(name.decode().removesuffix(SUFFIX) for name in found)

    def letters(self, queue: str) -> Iterator[DeadLetter]:
        # As far as there are letters now: one that is put back may die again meanwhile, and comes
        # after them.
        stream = dead_letters_of(queue)
        with _reached():
            newest: Any = self._client.xrevrange(stream, count=1)
        if not newest:
            return
        first, last = "-", newest[0][0].decode()
        while True:
            with _reached():
                page: Any = self._client.xrange(stream, min=first, max=last, count=_PAGE)
            for position, fields in page:
                yield DeadLetter.from_fields(fields, queue=queue, position=position.decode())
            if len(page) < _PAGE:
                return
            first = f"({page[-1][0].decode()}"

    def retry(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        return self._take(queue, matching, put_back=True)

    def discard(self, queue: str, matching: Callable[[DeadLetter], bool]) -> int:
        return self._take(queue, matching, put_back=False)

    def _take(self, queue: str, matching: Callable[[DeadLetter], bool], *, put_back: bool) -> int:
        count = 0
        for letter in self.letters(queue):
            if not matching(letter):
                continue
            # Two people may retry at once: the entry is deleted and put back in one transaction,
            # and only by who still finds it.
            with self._client.pipeline(transaction=True) as pipe:
                stream = dead_letters_of(queue)
                pipe.watch(stream)  # type: ignore[no-untyped-call] # redis-py leaves it untyped
                if not pipe.xrange(stream, min=letter.position, max=letter.position):
                    continue
                pipe.multi()
                if put_back:
                    self._requeue[letter.kind](pipe, letter)
                pipe.xdel(stream, letter.position)
                try:
                    pipe.execute()
                except redis.WatchError:
                    # Another letter came or went; this one is looked at again.
                    count += self._take(queue, _only(letter), put_back=put_back)
                else:
                    count += 1
        return count


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        reason = tls_reason(error)
        raise Unavailable(
            f"the dead letters cannot be seen now: Redis does not answer{reason}"
        ) from error


def _only(wanted: DeadLetter) -> Callable[[DeadLetter], bool]:
    return lambda letter: letter.position == wanted.position
