"""The command line that starts each kind of process."""

from __future__ import annotations

import shlex
import sys
from importlib.resources import files
from pathlib import Path

from mainstay.processes.manifest import ProcessSpec

__all__ = ["command"]


def command(
    process: ProcessSpec, *, host: str, state: Path, grace_seconds: float, alone: bool
) -> tuple[str, ...]:
    """Return the arguments that start *process*.

    Args:
        process: What the manifest says of it.
        host: The address that an HTTP process listens on.
        state: The process's own folder for what it keeps while it runs.
        grace_seconds: How long work in hand may take once the process is asked to stop.
        alone: No other worker shares the broker, as in dev: a Celery worker then need not wait
            for answers of others when it starts.
    """
    if process.run is not None:
        return tuple(shlex.split(process.run))
    target = str(process.target)
    start = (sys.executable, "-m", "mainstay.processes.start", target)
    if process.kind == "http":
        serve = _granian if process.server == "granian" else _uvicorn
        return (*start, "--", *serve(process, target, host, grace_seconds), *process.options)
    if process.kind == "tasks":
        return (*start, "--", *_worker(process, target, alone=alone), *process.options)
    if process.kind == "beat":
        return (*start, "--", *_beat(target, state), *process.options)
    return (*start, *process.options)


def _uvicorn(process: ProcessSpec, target: str, host: str, grace_seconds: float) -> tuple[str, ...]:
    # The service's own logging has the output: uvicorn's configuration is one that changes
    # nothing, and one line per request is written by Mainstay. Who the client is behind a proxy
    # is decided by `trusted_proxies`, not by uvicorn's belief in any header.
    # A lone uvicorn says of its start and its stop what the service's own lines say. One with
    # several workers tells on the same level which of them has died.
    quiet = () if (process.workers or 1) > 1 else ("--log-level", "warning")
    return (
        *("uvicorn", target, "--host", host, "--port", str(process.port)),
        *("--workers", str(process.workers or 1)),
        *("--log-config", str(files("mainstay.processes") / "uvicorn.json")),
        *quiet,
        *("--no-access-log", "--no-server-header", "--no-proxy-headers"),
        *("--timeout-graceful-shutdown", str(max(1, round(grace_seconds)))),
    )


def _granian(process: ProcessSpec, target: str, host: str, grace_seconds: float) -> tuple[str, ...]:
    return (
        *("granian", target, "--interface", "wsgi", "--host", host, "--port", str(process.port)),
        *("--workers", str(process.workers or 1), "--no-access-log", "--respawn-failed-workers"),
        *("--workers-kill-timeout", str(max(1, round(grace_seconds)))),
    )


def _worker(process: ProcessSpec, target: str, *, alone: bool) -> tuple[str, ...]:
    return (
        *("celery", "-q", "-A", target, "worker", "--hostname", f"{process.full_name}@%h"),
        *("--loglevel", "INFO"),
        *(("--concurrency", str(process.concurrency)) if process.concurrency else ()),
        *(("--without-mingle", "--without-gossip") if alone else ()),
    )


def _beat(target: str, state: Path) -> tuple[str, ...]:
    schedule = str(state / "schedule")
    return ("celery", "-q", "-A", target, "beat", "--loglevel", "INFO", "--schedule", schedule)
