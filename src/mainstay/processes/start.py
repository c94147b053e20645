"""How a process of the manifest begins: ``python -m mainstay.processes.start TARGET …``.

Alone, ``module:function`` is called; it blocks until its work is drained and returns the exit
code. After ``--`` comes a server and its arguments, such as ``-- uvicorn data.api:app``: the
target is imported first and the server is then run in this same process.

Importing first is what keeps the promise that bad configuration is exit code 78 with a message:
servers answer a failed import with codes and tracebacks of their own.
"""

from __future__ import annotations

import gc
import importlib
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any

from mainstay.errors import Misconfigured

__all__ = ["NOT_IMPORTED", "imported", "main"]

NOT_IMPORTED = 70
"""The exit code under ``mainstay dev`` when the service's code cannot be imported: that fails
again until the code is another. (``EX_SOFTWARE`` of sysexits.h.)"""


def main(arguments: list[str]) -> int:
    """Start what *arguments* name and return the exit code."""
    target, *rest = arguments
    failed = NOT_IMPORTED if "MAINSTAY_RUN" in os.environ else 1
    try:
        found = imported(target)
        failed = 1
        if rest[:1] != ["--"]:
            sys.argv = [target, *rest]
            return int(found() or 0)
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    except Misconfigured as refusal:
        sys.stderr.write(f"{refusal}\n")
        return Misconfigured.exit_code
    except Exception as error:  # noqa: BLE001 - nobody else is left to tell it
        # By the hook: it is the service's, which writes it as a line of its log, once there is one.
        error.__traceback__ = _without_the_way_there(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return failed
    return 0


def imported(target: str) -> Any:
    """Import what *target*, ``module:attribute``, names.

    Raises:
        Misconfigured: There is no such module, or it has no such attribute.
    """
    module_name, _, path = target.partition(":")
    try:
        with _collector_paused():
            found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise Misconfigured(
            f"target {target!r} names the module {error.name!r}, which is not found: check "
            f"the target, and the service's path, in mainstay.toml"
        ) from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise Misconfigured(
                f"target {target!r} names {name!r}, which {module_name!r} does not have: check "
                f"the target in mainstay.toml"
            )
        found = getattr(found, name)
    return found


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the collection of garbage: what is imported stays, and each collection would look
    through all of it again, a fifth of the time that a service takes to load.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _without_the_way_there(stack: TracebackType | None) -> TracebackType | None:
    """Return *stack* from the service's own code on: how it was imported helps nobody."""
    ours = (__file__, importlib.__file__)
    while stack is not None:
        file = stack.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen "):
            break
        stack = stack.tb_next
    return stack


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
