"""Where a second terminal finds the servers of a running ``mainstay dev``.

While it runs, the supervisor keeps ``.mainstay/dev.json`` (readable by its user alone) beside the
manifest and holds ``.mainstay/lock``. The file is believed only while the lock is held, so one
that a killed supervisor left behind misleads nobody.

The file's shape::

    {"pid": …, "started": "2026-01-31T12:00:00+00:00", "project": "/path",
     "services": {NAME: {"path": "/path/services/NAME", "env": {VARIABLE: value},
                         "processes": {NAME: {"kind": …, "port": …, "metrics_port": …}}}}}

Every service of the manifest is in it. One that does not run has no processes and, because its
database is not there, no ``DATABASE_URL``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["find", "read"]


def find(start: Path | None = None, service: str | None = None) -> Mapping[str, str]:
    """Return the environment that a running ``mainstay dev`` gives to a service; empty without one.

    The service is the one called *service*, else the one whose folder holds *start*; outside all
    of them it is what every service has in common.

    Args:
        start: Where to look from, upward; the working folder unless told.
        service: The service's name in ``mainstay.toml``.
    """
    here = _here(start)
    document = None if here is None else read(here)
    if here is None or document is None:
        return {}
    services: Mapping[str, Any] = document.get("services", {})
    chosen = services.get(service) if service is not None else None
    if chosen is None:
        holding = [each for each in services.values() if here.is_relative_to(each["path"])]
        chosen = max(holding, key=lambda each: len(each["path"]), default=None)
    if chosen is not None:
        return dict(chosen["env"])
    every = [each["env"] for each in services.values()]
    shared = set.intersection(*(set(env.items()) for env in every)) if every else set()
    return dict(sorted(shared))


def read(start: Path | None = None) -> dict[str, Any] | None:
    """Return what the running ``mainstay dev`` above *start* has written; ``None`` without one."""
    here = _here(start)
    if here is None:
        return None
    for folder in (here, *here.parents):
        state = folder / ".mainstay"
        try:
            text = (state / "dev.json").read_text(encoding="utf-8")
        except OSError:
            continue
        return _parsed(text) if _is_held(state / "lock") else None
    return None


def _here(start: Path | None) -> Path | None:
    try:
        return (start or Path.cwd()).resolve()
    except OSError:  # the working folder was removed under us
        return None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
