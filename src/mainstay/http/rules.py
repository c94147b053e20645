"""What does the edge of an application let pass, and how much of it at a time?"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mainstay.idempotency import Store
    from mainstay.limits import RateLimits, Rule

__all__ = ["Places", "Rules", "placed"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the edge of one application lets pass, and how.

    Args:
        own: Answered by the chassis itself, by path, before the application's routes are looked
            through; they need no token. Each is an application of the edge's own kind.
        quiet: Those of them that machines ask: no limit, logged at debug level.
        public: Paths that need no token; one that ends in ``*`` stands for all below it.
        in_flight_limit: Requests that are worked on at a time; beyond, 503.
        rate: What one caller may ask for; ``None`` for any amount.
        limits: Who counts it.
        idempotency: Where the keys of requests are kept.
    """

    own: Mapping[str, Any] = field(default_factory=dict)
    quiet: frozenset[str] = frozenset()
    public: tuple[str, ...] = ()
    in_flight_limit: int = 1_000
    rate: Rule | None = None
    limits: RateLimits | None = None
    idempotency: Store[Any] | None = None
    public_paths: frozenset[str] = field(init=False)
    public_folders: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        exact = {path for path in self.public if not path.endswith("*")}
        below = tuple(path[:-1] for path in self.public if path.endswith("*"))
        object.__setattr__(self, "public_paths", frozenset(exact | self.own.keys()))
        object.__setattr__(self, "public_folders", below)

    @property
    def answers_other_sites(self) -> bool:
        """May a browser ask whether scripts of other sites may ask?"""
        return False

    def is_public(self, path: str) -> bool:
        """Does *path* need no token, though the service asks for one?"""
        if path in self.public_paths:
            return True
        return bool(self.public_folders) and path.startswith(self.public_folders)


def placed(paths: Sequence[str], folder: str) -> tuple[str, ...]:
    """Return *paths* as they are asked for: one that begins with a name is below *folder*."""
    return tuple(path if path.startswith(("/", "*")) else f"{folder}/{path}" for path in paths)


class Places:
    """So many at a time and no more; for threads as for an event loop.

    Without a lock: a thread that waits for one lets all others go first.

    Args:
        limit: How many there are.
        of: What takes them, for messages.
    """

    __slots__ = ("_free", "of")

    def __init__(self, limit: int, of: str) -> None:
        self.of = of
        self._free: deque[None] = deque([None] * limit)

    def take(self) -> bool:
        """Take a place, if there is one: before the first wait, or others look in between."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def give_back(self) -> None:
        self._free.append(None)
