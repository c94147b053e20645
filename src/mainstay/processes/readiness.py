"""Is a process ready for traffic? Asked over HTTP, as a load balancer would."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Answer", "ask", "wait_until_ready"]

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a port said: ``status`` is ``None`` when nobody answered."""

    status: int | None
    text: str

    @property
    def is_ready(self) -> bool:
        # A program that is not built on this library has no such route; that it answers is all
        # there is to know.
        return self.status is not None and self.status < 500


def ask(port: int, path: str = "/ready", *, timeout_seconds: float = 2.0) -> Answer:
    """Return what ``GET path`` on this machine's *port* answers; never raises."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return Answer(response.status, response.read(65536).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        return Answer(None, str(error) or type(error).__name__)
    finally:
        connection.close()


def wait_until_ready(
    ports: Mapping[str, int],
    *,
    timeout_seconds: float,
    given_up: Callable[[], set[str]],
    stopped: Callable[[], bool],
    ask: Callable[[int], Answer] = ask,
) -> dict[str, Answer]:
    """Ask *ports*, by name, until each is ready; return the last answers of those that are not.

    Args:
        ports: The health port of each process.
        timeout_seconds: After this long the rest counts as not ready.
        given_up: Names that need not be waited for any longer.
        stopped: Says that nobody wants to know any more.
        ask: How a port is asked.
    """
    waiting = dict(ports)
    answers: dict[str, Answer] = {}
    deadline = time.monotonic() + timeout_seconds
    while not stopped():
        for name, port in list(waiting.items()):
            answers[name] = ask(port)
            if answers[name].is_ready:
                del waiting[name], answers[name]
        if not set(waiting) - given_up() or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return answers
