"""What a process of kind ``relay`` does: it relays what its service commits.

Its target is the service, or the Celery application that was made for it. A function is called.
"""

from __future__ import annotations

import sys
from types import FunctionType

from mainstay.errors import Misconfigured
from mainstay.processes.start import imported
from mainstay.service import Service

__all__ = ["main"]


def main(target: str) -> int:
    """Relay until told to stop; returns the exit code.

    Raises:
        Misconfigured: The target is neither, or has nothing to relay.
    """
    found = imported(target)
    service = found if isinstance(found, Service) else getattr(found, "service", None)
    if isinstance(found, FunctionType):
        return int(found() or 0)
    if not isinstance(service, Service):
        raise Misconfigured(
            f"target {target!r} of a process of kind relay is a {type(found).__name__}: name the "
            "service, or its Celery application, in mainstay.toml"
        )
    from mainstay.resources.sqlalchemy.relay import run

    return run(service)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
