"""What does each room offer? The two ends of its wire, and what can be asked of its broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mainstay.rpc.intake import Intake, Listener, Terms
from mainstay.rpc.line import Line, Note

__all__ = ["ASK_SECONDS", "Depth", "Room"]

ASK_SECONDS = 1.0
"""How long a broker may take to answer a question that is no call."""

Depth = Mapping[str, Mapping[str, int] | None]
"""What is in a queue and among its dead letters; ``None`` for what nobody can tell."""


@dataclass(frozen=True, slots=True)
class Room:
    """One technology. What it asks a broker, it asks on a connection of its own.

    Args:
        line: Opens the client's end; it connects on its own thread.
        intake: Makes the server's end; ``start()`` connects it.
        ping: Given the URL; raises when the broker does not answer.
        depth: Given URL, queue and the address of the management interface; may raise.
        oldest_seconds: Given URL and queue: how long the oldest call has waited, ``None`` where
            nobody can tell; may raise.
    """

    line: Callable[[str, Note, Callable[[], object]], Line]
    intake: Callable[[str, Terms, Listener], Intake]
    ping: Callable[[str], object]
    depth: Callable[[str, str, str | None], Depth]
    oldest_seconds: Callable[[str, str], float | None]
