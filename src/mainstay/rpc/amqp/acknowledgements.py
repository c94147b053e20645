"""How are calls taken off their queue with as few frames as there can be?"""

from __future__ import annotations

from collections.abc import Sequence

from mainstay.rpc.amqp.messages import acknowledge, reject

__all__ = ["Acknowledgements"]


class Acknowledgements:
    """Settles the messages of one channel, which the broker numbers from 1.

    A quorum queue writes each acknowledgement to its log, and takes one for all up to a number as
    one. That is only said when all of them are settled.
    """

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._last = 0
        """This one and all before it are settled."""

        self._beyond: set[int] = set()
        """Settled as well, behind one that is not."""

    def done(self, tags: Sequence[int]) -> bytes:
        """Return what acknowledges *tags*."""
        if not tags:
            return b""
        self._settle(tags)
        frames = [acknowledge(self._channel, tag) for tag in tags if tag > self._last]
        together = [tag for tag in tags if tag <= self._last]
        if together:
            several = len(together) > 1
            frames.append(acknowledge(self._channel, max(together), and_earlier=several))
        return b"".join(frames)

    def reject(self, tag: int, *, requeue: bool) -> bytes:
        """Return what gives *tag* back, or has the broker dead-letter it."""
        self._settle([tag])
        return reject(self._channel, tag, requeue=requeue)

    def _settle(self, tags: Sequence[int]) -> None:
        self._beyond.update(tags)
        while self._last + 1 in self._beyond:
            self._last += 1
            self._beyond.remove(self._last)
