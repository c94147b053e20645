"""Is the technology of a room installed, and if not, which command installs it?"""

from __future__ import annotations

from importlib.util import find_spec

from mainstay.errors import MissingExtra

__all__ = ["require"]


def require(module: str, *, extra: str) -> None:
    """Pass when *module* can be imported, else say how to install it.

    Only a missing top-level module is answered; an import error from deeper down, such as a
    broken installation, is left to the import that follows.

    Raises:
        MissingExtra: *module* is not installed.
    """
    if find_spec(module) is None:
        raise MissingExtra(
            f"{module!r} is not installed and is needed here: pip install 'mainstay[{extra}]'"
        )
