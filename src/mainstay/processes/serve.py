"""Serve an HTTP process with the server that its application is made for.

``python -m mainstay.processes.start data.api:app -- mainstay.processes.serve data.api:app …``: the
target has been imported by then, and says what it is. What is called with a scope and awaited
(ASGI) is uvicorn's; what is called with an environ and blocks (WSGI) is granian's. A function that
takes nothing makes one of them.
"""

from __future__ import annotations

import argparse
import inspect
import runpy
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mainstay.processes.commands import Serving
from mainstay.processes.start import imported

if TYPE_CHECKING:
    from mainstay.processes.manifest import Server

__all__ = ["main", "server_of"]


def main(arguments: Sequence[str]) -> None:
    """Become the server of the application that *arguments* name."""
    parser = argparse.ArgumentParser("python -m mainstay.processes.serve")
    parser.add_argument("target")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--grace", type=float, default=25.0)
    asked, options = parser.parse_known_args(arguments)
    server, makes = server_of(imported(asked.target))
    told = Serving(asked.target, asked.host, asked.port, asked.workers, asked.grace, makes)
    sys.argv = [*told.by(server), *options]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def server_of(target: Any) -> tuple[Server, bool]:
    """Return which server *target* is for, and whether it has to be called first."""
    makes = _makes_one(target)
    application = target() if makes else target
    call = application if inspect.isfunction(application) else type(application).__call__
    return ("uvicorn" if inspect.iscoroutinefunction(call) else "granian"), makes


def _makes_one(target: Any) -> bool:
    if not inspect.isfunction(target):
        return False
    parameters = inspect.signature(target).parameters.values()
    return all(one.default is not inspect.Parameter.empty for one in parameters)


if __name__ == "__main__":
    main(sys.argv[1:])
