"""How are the wires between the subject and its servers disturbed?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from mainstay.testing import FaultProxy

__all__ = ["Wires"]


class Wires:
    """Proxies that can be slow, mute or absent, on an event loop of their own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)
        self._proxies: list[FaultProxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            asyncio.run_coroutine_threadsafe(proxy.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def to(self, url: str) -> str:
        """Lay a wire to the server at *url*; returns the URL at its near end."""
        parts = urlsplit(url)
        proxy = FaultProxy(str(parts.hostname), int(parts.port or 0))
        asyncio.run_coroutine_threadsafe(proxy.start(), self._loop).result()
        self._proxies.append(proxy)
        return parts._replace(
            netloc=parts.netloc.replace(f":{proxy.server_port}", f":{proxy.port}")
        ).geturl()

    def disturb(self, act: Callable[[FaultProxy], object]) -> int:
        """Do *act* to every wire; returns how many connections there were."""

        async def each() -> int:
            connections = sum(proxy.connections for proxy in self._proxies)
            for proxy in self._proxies:
                act(proxy)
            return connections

        return asyncio.run_coroutine_threadsafe(each(), self._loop).result()
