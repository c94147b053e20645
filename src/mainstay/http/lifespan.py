"""Lead a service's life around a server with an event loop."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import TYPE_CHECKING, TypeVar

from mainstay.http.connections import limit_connections
from mainstay.http.draining import drain_on_sigterm

if TYPE_CHECKING:
    from mainstay.lifecycle import Lifecycle
    from mainstay.service import Service

__all__ = ["lifespan", "on_uvicorn"]

State = TypeVar("State")


@asynccontextmanager
async def lifespan(
    service: Service, start: Callable[[], None], author: AbstractAsyncContextManager[State]
) -> AsyncIterator[State]:
    """Start the service, and drain and stop it when the server stops.

    Args:
        start: Called when the author's part is ready.
        author: The author's own part; it starts first and ends first.
    """
    service.renew()  # or the author's part would run in a life that has ended
    settings = service.settings
    serving = on_uvicorn(
        service.lifecycle,
        delay_seconds=settings.drain_delay_seconds,
        grace_seconds=settings.grace_seconds,
    )
    try:
        async with author as state:
            with serving:
                start()
                yield state
                service.lifecycle.drain()
    finally:
        async with AsyncExitStack() as closing:  # each also when another fails
            closing.callback(service.stop)
            # What was opened on this event loop can be closed on it alone.
            for resource in service.resources.values():
                closing.push_async_callback(resource.aclose)


@contextmanager
def on_uvicorn(
    lifecycle: Lifecycle, *, delay_seconds: float, grace_seconds: float
) -> Iterator[None]:
    """Hold the uvicorn server of this process to the limits of connections, and drain before it
    stops. Enter it on the server's event loop, before it listens.

    Args:
        delay_seconds: How long to go on accepting after SIGTERM.
        grace_seconds: How long the server then waits for requests in hand.
    """
    with (
        limit_connections(),
        drain_on_sigterm(lifecycle, delay_seconds=delay_seconds, grace_seconds=grace_seconds),
        _stopped_with_main_process(lifecycle),
    ):
        yield


@contextmanager
def _stopped_with_main_process(lifecycle: Lifecycle) -> Iterator[None]:
    """Have a worker stop when its main process has been killed; or it would keep the port."""
    main = multiprocessing.parent_process()
    if main is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(main.sentinel)
        lifecycle.drain()  # without a delay: who takes the place of this one waits for the port
        signal.raise_signal(signal.SIGTERM)

    loop.add_reader(main.sentinel, stop)
    try:
        yield
    finally:
        loop.remove_reader(main.sentinel)
