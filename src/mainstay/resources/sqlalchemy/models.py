"""Where are the tables defined? In what `MODEL_DISCOVERY_PATHS` names, and all that lies below."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module

from mainstay.errors import Misconfigured

__all__ = ["discover"]


def discover(paths: Iterable[str]) -> tuple[str, ...]:
    """Import every module of *paths*, so that the metadata knows each table; return their names.

    Args:
        paths: Packages or modules, ``contracts.model``; a folder, ``contracts/model``, is
            understood.

    Raises:
        Misconfigured: There is no such module.
    """
    found: dict[str, None] = {}
    for path in paths:
        name = path.strip("/").removesuffix(".py").replace("/", ".")
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            raise Misconfigured(
                f"MODEL_DISCOVERY_PATHS names {path!r}, and there is no module {error.name!r}: "
                f"name packages as they are imported, such as contracts.model"
            ) from None
        found[name] = None
        folders = getattr(module, "__path__", ())
        for below in pkgutil.walk_packages(folders, f"{name}."):
            import_module(below.name)
            found[below.name] = None
    return tuple(found)
