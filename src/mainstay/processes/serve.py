"""Serve an HTTP process with uvicorn, whatever its application is made for.

``python -m mainstay.processes.start data.api:app -- mainstay.processes.serve data.api:app …``: the
target has been imported by then, and says what it is. What is called with a scope and awaited
(ASGI) is uvicorn's own; what is called with an environ and blocks (WSGI) has a bridge before it. A
function that takes nothing makes one of them.
"""

from __future__ import annotations

import argparse
import inspect
import os
import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from mainstay.extras import require
from mainstay.http.bridge import Bridge
from mainstay.processes.commands import Serving
from mainstay.processes.start import imported

__all__ = ["bridged", "is_wsgi", "main", "makes_one"]

_TARGET = "MAINSTAY_WSGI_TARGET"
"""Where uvicorn's worker processes find what the bridge is for."""

made: list[Bridge] = []
"""What this process has made to look at the application: it is not made twice."""


def main(arguments: Sequence[str]) -> None:
    """Become the server of the application that *arguments* name."""
    parser = argparse.ArgumentParser("python -m mainstay.processes.serve")
    parser.add_argument("target")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--grace", type=float, default=25.0)
    asked, options = parser.parse_known_args(arguments)
    target = asked.target
    application, makes = _application(target)
    if is_wsgi(application):
        require("uvicorn", extra="flask")
        os.environ[_TARGET] = target
        # As uvicorn imports it: this module has been started, and is `__main__`.
        import_module("mainstay.processes.serve").made.append(Bridge(application))
        target, makes = "mainstay.processes.serve:bridged", True
        options = ["--ws", "none", *options]
    serving = Serving(target, asked.host, asked.port, asked.workers, asked.grace, makes)
    sys.argv = [*serving.by_uvicorn, *options]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def bridged() -> Bridge:
    """Return the application of this process behind the bridge; called by uvicorn."""
    return made.pop() if made else Bridge(_application(os.environ[_TARGET])[0])


def _application(target: str) -> tuple[Any, bool]:
    """Return the application that *target* names, and whether it had to be made."""
    found = imported(target)
    makes = makes_one(found)
    return (found() if makes else found), makes


def is_wsgi(application: Any) -> bool:
    """Is *application* called with an environ?"""
    calls = (application, getattr(application, "__call__", None))  # noqa: B004 - not: can it be?
    return not any(map(inspect.iscoroutinefunction, calls))


def makes_one(target: Any) -> bool:
    """Is *target* what makes an application?"""
    if not inspect.isfunction(target):
        return False
    parameters = inspect.signature(target).parameters.values()
    return all(one.default is not inspect.Parameter.empty for one in parameters)


if __name__ == "__main__":
    main(sys.argv[1:])
