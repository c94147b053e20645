"""What of a service is found by its place: blueprints in `route/api.py`, beside the application."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from flask import Flask

from mainstay.logs import Logs

__all__ = ["register_blueprints"]


def register_blueprints(app: Flask, logs: Logs) -> None:
    """Call ``register_blueprints(app)`` of `route/api.py` beside the module that *app* was made
    for, where there is one.

    It is imported as ``<package>.route.api``, or as ``route.api`` where the module is in no
    package: a file that lies on Python's path itself, such as ``src/app.py`` or ``wsgi.py``, or
    one that was started by its path. A file that is there and cannot serve is logged.
    """
    module = sys.modules.get(app.import_name)
    if module is None:
        return
    package = getattr(module, "__package__", None)
    prefix = f"{package}." if package else ""
    own = getattr(module, "__file__", None)
    file = (Path(own).parent if own else Path(app.root_path)) / "route" / "api.py"
    if not _is_importable(f"{prefix}route", file):
        if file.is_file():
            _not_used(
                logs,
                f"{file} is not what Python imports as {prefix}route.api: have {file.parents[1]} "
                "first on its path (PYTHONPATH, or the server's --app-dir or --chdir)",
            )
        return
    if find_spec(f"{prefix}route.api") is None:
        return
    register = getattr(import_module(f"{prefix}route.api"), "register_blueprints", None)
    if register is None:
        _not_used(logs, f"{prefix}route.api has no function register_blueprints(app): write one")
        return
    register(app)


def _is_importable(name: str, file: Path) -> bool:
    """Is the package *name* the folder of *file*? A namesake may be installed."""
    spec = find_spec(name)
    folders = (spec.submodule_search_locations if spec else None) or ()
    return any(Path(folder).resolve() == file.parent.resolve() for folder in folders)


def _not_used(logs: Logs, reason: str) -> None:
    logs.write(
        "warning",
        "mainstay.http",
        f"no blueprint is registered: {reason}",
        event="convention_not_found",
    )
