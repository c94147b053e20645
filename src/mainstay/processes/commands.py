"""The command line that starts each kind of process."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mainstay.processes.manifest import ProcessSpec

__all__ = ["Serving", "command"]

KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps a connection that it does not use (nginx, load balancers of AWS: 60 s).
One that is closed sooner than that may be closed just as the next request is on its way."""


def command(
    process: ProcessSpec, *, host: str, grace_seconds: float, alone: bool
) -> tuple[str, ...]:
    """Return the arguments that start *process*.

    Args:
        process: What the manifest says of it.
        host: The address that an HTTP process listens on.
        grace_seconds: How long work in hand may take once the process is asked to stop.
        alone: No other worker shares the broker, as in dev: a Celery worker then need not wait
            for answers of others when it starts.
    """
    if process.run is not None:
        return tuple(shlex.split(process.run))
    target = str(process.target)
    start = (sys.executable, "-m", "mainstay.processes.start", target)
    if process.kind == "http":
        serving = Serving(target, host, process.port or 0, process.workers or 1, grace_seconds)
        return (*start, "--", *serving.decided, *process.options)
    if process.kind == "tasks":
        return (*start, "--", *_worker(process, target, alone=alone), *process.options)
    if process.kind == "beat":
        beat = ("celery", "-q", "-A", target, "beat", "--loglevel", "INFO")
        return (*start, "--", *beat, *process.options)
    if process.kind == "relay":
        return (*start, "--", "mainstay.processes.relay", target, *process.options)
    return (*start, *process.options)


@dataclass(frozen=True, slots=True)
class Serving:
    """What a server of HTTP is told.

    Args:
        target: ``module:attribute``.
        host: The address to listen on.
        grace_seconds: How long requests in hand may take once it is asked to stop.
        makes: Is the target what makes an application?
    """

    target: str
    host: str
    port: int
    workers: int
    grace_seconds: float
    makes: bool = False

    @property
    def decided(self) -> tuple[str, ...]:
        """The arguments of `mainstay.processes.serve`, which looks what the target is."""
        return ("mainstay.processes.serve", self.target, *self._place, "--grace", self._grace)

    @property
    def by_uvicorn(self) -> tuple[str, ...]:
        """The arguments of uvicorn."""
        # The service's own logging has the output: uvicorn's configuration is one that changes
        # nothing, and one line per request is written by Mainstay. Who the client is behind a
        # proxy is decided by `trusted_proxies`, not by uvicorn's belief in any header.
        # A lone uvicorn says of its start and its stop what the service's own lines say. One with
        # several workers tells on the same level which of them has died.
        quiet = () if self.workers > 1 else ("--log-level", "warning")
        return (
            *("uvicorn", self.target, *self._place),
            *(("--factory",) if self.makes else ()),
            *("--log-config", str(files("mainstay.processes") / "uvicorn.json")),
            *quiet,
            *("--no-access-log", "--no-server-header", "--no-proxy-headers"),
            *("--timeout-graceful-shutdown", self._grace),
            *("--timeout-keep-alive", str(KEEP_ALIVE_SECONDS)),
        )

    @property
    def _place(self) -> tuple[str, ...]:
        place = ("--host", self.host, "--port", str(self.port))
        return (*place, "--workers", str(self.workers))

    @property
    def _grace(self) -> str:
        return str(max(1, round(self.grace_seconds)))


def _worker(process: ProcessSpec, target: str, *, alone: bool) -> tuple[str, ...]:
    return (
        *("celery", "-q", "-A", target, "worker", "--hostname", f"{process.full_name}@%h"),
        *("--loglevel", "INFO"),
        *(("--concurrency", str(process.concurrency)) if process.concurrency else ()),
        *(("--without-mingle", "--without-gossip") if alone else ()),
    )
