"""Where are the tables defined? In what `MODEL_DISCOVERY_PATHS` names, and all that lies below."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module

from sqlalchemy import MetaData, Table

from mainstay.errors import Misconfigured

__all__ = ["discover", "metadata_of", "tables_of"]


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


def tables_of(names: Iterable[str]) -> list[Table]:
    """Return the tables that modules define, as `Table` or as mapped classes, each once.

    Args:
        names: The modules; those that are not imported, and what lies below, define nothing.
    """
    found: dict[str, Table] = {}
    for value in _values(names):
        table = getattr(value, "__table__", None) if isinstance(value, type) else value
        if isinstance(table, Table):
            found.setdefault(table.fullname, table)
    return list(found.values())


def metadata_of(names: Iterable[str]) -> list[MetaData]:
    """Return what holds the tables of modules: of each `MetaData` in them, or base class of
    models, or table. What holds none is left out.
    """
    found: dict[int, MetaData] = {}
    for value in _values(names):
        metadata = value if isinstance(value, MetaData) else getattr(value, "metadata", None)
        if isinstance(metadata, MetaData) and metadata.tables:
            found.setdefault(id(metadata), metadata)
    return list(found.values())


def _values(names: Iterable[str]) -> Iterator[object]:
    for name in names:
        below = [each for each in sys.modules if each == name or each.startswith(f"{name}.")]
        for each in sorted(below):
            module = sys.modules[each]
            for value in list(vars(module).values()):
                if isinstance(value, type | Table | MetaData):
                    yield value
