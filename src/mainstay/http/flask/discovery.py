"""What of a service is found by its place: blueprints in `route/api.py`, beside the application."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from flask import Flask

__all__ = ["register_blueprints"]


def register_blueprints(app: Flask) -> None:
    """Call ``register_blueprints(app)`` of ``<package>.route.api``, where there is one.

    The package is that of the module that *app* was made for.
    """
    module = sys.modules.get(app.import_name)
    package = getattr(module, "__package__", None)
    if not package or find_spec(f"{package}.route") is None:
        return
    if find_spec(f"{package}.route.api") is None:
        return
    register = getattr(import_module(f"{package}.route.api"), "register_blueprints", None)
    if register is not None:
        register(app)
