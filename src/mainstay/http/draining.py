"""How does a server that stops at once on SIGTERM get a drain phase before it?

uvicorn closes its listeners the moment SIGTERM comes: requests that are on their way are refused,
and clients that keep connections are reset. So the signal is taken over while the application
lives: the service drains first (not ready, `Connection: close` on every answer) and goes on
accepting for `drain_delay_seconds`; then the server's own shutdown begins. A second SIGTERM, and
SIGINT, stop at once. uvicorn's worker processes each do the same by themselves. SIGHUP, which
would end the process in the middle of everything, is taken for a SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mainstay.lifecycle import Lifecycle

__all__ = ["drain_on_sigterm"]

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def drain_on_sigterm(
    lifecycle: Lifecycle, *, delay_seconds: float, grace_seconds: float
) -> Iterator[None]:
    """Drain for *delay_seconds* between SIGTERM and the server's own handler of it.

    Does nothing where there is no such handler to put off: off the main thread, and under servers
    that take signals elsewhere; those call :meth:`Lifecycle.drain` themselves, or stop without.

    Args:
        delay_seconds: How long to go on accepting.
        grace_seconds: How long the server then waits for requests in hand.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stop = signal.getsignal(signal.SIGTERM)
    if not callable(stop) or _belongs_to_event_loop(stop):
        yield
        return
    loop = asyncio.get_running_loop()

    def stop_server() -> None:
        _stop(stop, grace_seconds)

    def drain() -> None:
        lifecycle.drain()
        loop.call_later(delay_seconds, stop_server)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if lifecycle.draining.is_set():
            stop_server()
        else:
            # In a signal handler nothing may be locked: the loop does the rest.
            loop.call_soon_threadsafe(drain)

    before: dict[signal.Signals, Any] = {signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # ignored, where it is started by nohup
        before[signal.SIGHUP] = signal.SIG_DFL
    for each in before:
        signal.signal(each, on_sigterm)
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is on_sigterm:
                signal.signal(each, handler)


def _stop(handler: Handler, grace_seconds: float) -> None:
    server: Any = getattr(handler, "__self__", None)
    if not hasattr(server, "should_exit"):
        handler(signal.SIGTERM, None)
        return
    # uvicorn's handler also notes the signal and raises it again at the end, which would make the
    # exit code of a clean stop 143; the public attribute is the same request without that.
    config: Any = getattr(server, "config", None)
    if getattr(config, "timeout_graceful_shutdown", grace_seconds) is None:
        config.timeout_graceful_shutdown = max(int(grace_seconds), 1)
    server.should_exit = True


def _belongs_to_event_loop(handler: Handler) -> bool:
    """Is it the placeholder of `loop.add_signal_handler`, whose real one cannot be asked for?"""
    module = getattr(handler, "__module__", None) or ""
    return module.partition(".")[0] in ("asyncio", "uvloop")
