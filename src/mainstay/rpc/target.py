"""Which functions does a server offer, and how is each of them called?"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

from mainstay.errors import Misconfigured, NotFound

__all__ = ["Function", "Functions", "HasCall", "Resolver", "Target"]

Function = Callable[[Any], Any]
F = TypeVar("F", bound=Function)


@runtime_checkable
class HasCall(Protocol):
    """An object that answers calls: ``call(data)``, plain or ``async``."""

    def call(self, data: Any, /) -> Any | Awaitable[Any]: ...


class Functions(Mapping[str, Function]):
    """Functions by name, gathered by a decorator.

    functions = Functions()

    @functions.function
    def charge(data): ...
    """

    def __init__(self) -> None:
        self._functions: dict[str, Function] = {}

    @overload
    def function(self, function: F, /) -> F: ...

    @overload
    def function(self, /, *, name: str) -> Callable[[F], F]: ...

    def function(self, function: F | None = None, /, *, name: str = "") -> F | Callable[[F], F]:
        """Offer *function* under its own name, or under *name*."""

        def offer(function: F) -> F:
            chosen = name or function.__name__
            if chosen in self._functions:
                raise Misconfigured(f"two functions are called {chosen!r}: name one otherwise")
            self._functions[chosen] = function
            return function

        return offer if function is None else offer(function)

    def __getitem__(self, name: str) -> Function:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


Target = HasCall | Mapping[str, Function]


class Resolver:
    """Find the function of a call.

    Args:
        target: An object with ``call(data)``, or functions by name. Nothing else of an object
            can be reached from outside.
        queue: For messages.
    """

    def __init__(self, target: Target, queue: str) -> None:
        self._queue = queue
        if isinstance(target, Mapping):
            self._functions = dict(target)
        elif isinstance(target, HasCall):
            self._functions = {"": target.call}
        else:
            raise Misconfigured(
                f"the target of {queue!r} is a {type(target).__name__}: give an object with "
                "call(data), or a mapping of functions by name"
            )
        self._async = {name for name, one in self._functions.items() if _is_async(one)}
        self.has_blocking = len(self._async) < len(self._functions)
        self.has_async = bool(self._async)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def is_async(self, name: str) -> bool:
        """Is the function called *name* to be awaited? What is not there is not."""
        return name in self._async

    def __call__(self, name: str) -> Function:
        """Return the function called *name*.

        Raises:
            NotFound: There is none.
        """
        found = self._functions.get(name)
        if found is None:
            offered = ", ".join(sorted(filter(None, self._functions))) or "one function, unnamed"
            asked = f"function {name!r}" if name else "function without a name"
            raise NotFound(f"{self._queue!r} has no {asked}: it offers {offered}")
        return found


def _is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that is callable
    )
