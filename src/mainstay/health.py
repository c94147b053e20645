"""Is the process well, may traffic come, and is it making progress?

Checks run on threads of their own, never on the threads or the connections that serve requests,
so a saturated service still answers. A report is kept for a second, and asked for once however
many ask at the same time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from mainstay import forks
from mainstay.errors import MainstayError
from mainstay.lifecycle import Lifecycle

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Check", "Health", "Report", "Status"]

T = TypeVar("T")

Status = Literal["healthy", "degraded", "unhealthy"]

CACHE_SECONDS = 1.0
CHECK_TIMEOUT_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is held open.

    Args:
        ping: Ask it, on a connection of its own, and return what is worth showing (latency is
            added); raise when it does not answer. It must come to an end by itself: a process
            that stops waits for it.
        optional: Without it the service is degraded, not unhealthy.
    """

    name: str
    ping: Callable[[], Mapping[str, object] | None]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, as the health routes answer it."""

    status: Status
    service: str
    version: str
    checks: Mapping[str, Mapping[str, object]]

    @property
    def ok(self) -> bool:
        return self.status != "unhealthy"

    @property
    def http_status(self) -> int:
        return 200 if self.ok else 503

    def as_dict(self) -> dict[str, object]:
        return {
            "status": self.status,
            "service": self.service,
            "version": self.version,
            "checks": dict(self.checks),
        }


class Health:
    """The three questions of `/health`, `/ready` and `/healthz`, for any kind of process."""

    def __init__(
        self,
        service: str,
        version: str,
        lifecycle: Lifecycle,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._version = version
        self._lifecycle = lifecycle
        self._clock = clock
        self._checks: dict[str, Check] = {}
        self._readiness: dict[str, Check] = {}
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._running: dict[str, Future[dict[str, object]]] = {}
        self._cached: dict[str, tuple[float, dict[str, object]]] = {}

    def add(self, check: Check) -> None:
        """Ask *check* for `/health` and `/ready` from now on; a name counts once."""
        self._checks[check.name] = check

    def add_readiness(self, check: Check) -> None:
        """Ask *check* for `/ready` alone: true of starting up, such as a schema that is current."""
        self._readiness[check.name] = check

    def health(self) -> Report:
        """Is everything well that the service holds open?"""
        return self._report(self._checks)

    def ready(self) -> Report:
        """May traffic come? Not before the start, not while draining, not without what it needs."""
        return self._report(self._checks | self._readiness, self._process())

    def alive(self) -> Report:
        """Is the process making progress? Never asks other servers."""
        pulses = {
            pulse.name: {
                "status": "unhealthy" if pulse.is_stuck else "healthy",
                "age_seconds": round(pulse.age_seconds, 3),
                "limit_seconds": pulse.limit_seconds,
            }
            for pulse in self._lifecycle.pulses
        }
        return self._report({}, pulses)

    async def ahealth(self) -> Report:
        """As :meth:`health`, without stopping the event loop."""
        return await self._areport(self._checks)

    async def aready(self) -> Report:
        """As :meth:`ready`, without stopping the event loop."""
        return await self._areport(self._checks | self._readiness, self._process())

    async def aside(self, work: Callable[[], T]) -> T:
        """Do *work* on the threads of the checks, which no request can keep busy."""
        return await asyncio.get_running_loop().run_in_executor(self._threads(), work)

    def close(self) -> None:
        """Let the threads go; a check that hangs is not waited for."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def forked(self) -> None:
        """Begin anew in a child process, which has none of its parent's threads."""
        self._lock = threading.Lock()
        self._executor = None
        self._running = {}
        self._cached = {}

    def _process(self) -> dict[str, dict[str, object]]:
        status = "healthy" if self._lifecycle.is_ready else "unhealthy"
        return {"process": {"status": status, "phase": self._lifecycle.phase}}

    def _report(
        self,
        checks: Mapping[str, Check],
        known: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Report:
        results, waiting = self._begin(checks)
        if waiting:
            wait(waiting.values(), timeout=CHECK_TIMEOUT_SECONDS)
        return self._sum_up(checks, known or {}, results, waiting)

    async def _areport(
        self,
        checks: Mapping[str, Check],
        known: Mapping[str, Mapping[str, object]] | None = None,
    ) -> Report:
        results, waiting = self._begin(checks)
        if waiting:
            # No thread waits here, so that many who ask leave the threads to the checks.
            futures = [asyncio.wrap_future(future) for future in waiting.values()]
            await asyncio.wait(futures, timeout=CHECK_TIMEOUT_SECONDS)
        return self._sum_up(checks, known or {}, results, waiting)

    def _begin(
        self, checks: Mapping[str, Check]
    ) -> tuple[dict[str, dict[str, object]], dict[str, Future[dict[str, object]]]]:
        results: dict[str, dict[str, object]] = {}
        waiting: dict[str, Future[dict[str, object]]] = {}
        now = self._clock()
        for name, check in checks.items():
            cached = self._cached.get(name)
            if cached is not None and now - cached[0] < CACHE_SECONDS:
                results[name] = cached[1]
            else:
                waiting[name] = self._start(check)
        return results, waiting

    def _sum_up(
        self,
        checks: Mapping[str, Check],
        known: Mapping[str, Mapping[str, object]],
        results: dict[str, dict[str, object]],
        waiting: Mapping[str, Future[dict[str, object]]],
    ) -> Report:
        for name, future in waiting.items():
            if future.done():
                results[name] = future.result()
            else:
                detail = f"no answer within {CHECK_TIMEOUT_SECONDS} s"
                results[name] = {"status": "unhealthy", "detail": detail}
        shown = {**known, **{name: results[name] for name in checks}}
        status: Status = "healthy"
        for name, result in shown.items():
            if result["status"] == "healthy":
                continue
            optional = name in checks and checks[name].optional
            if not optional:
                status = "unhealthy"
                break
            status = "degraded"
        return Report(status, self._service, self._version, shown)

    def _start(self, check: Check) -> Future[dict[str, object]]:
        # A check that hangs is not started again on top of itself.
        with self._lock:
            running = self._running.get(check.name)
            if running is None or running.done():
                running = self._threads_locked().submit(self._run, check)
                self._running[check.name] = running
            return running

    def _run(self, check: Check) -> dict[str, object]:
        started = time.perf_counter()
        try:
            with forks.work():
                shown = check.ping()
            result: dict[str, object] = {"status": "healthy"}
            result["latency_ms"] = round((time.perf_counter() - started) * 1000, 2)
            result.update(shown or {})
        except Exception as error:  # noqa: BLE001 - whatever is raised means "not well"
            result = {
                "status": "unhealthy",
                "latency_ms": round((time.perf_counter() - started) * 1000, 2),
                "detail": _shown(error),
            }
        self._cached[check.name] = (self._clock(), result)
        return result

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            return self._threads_locked()

    def _threads_locked(self) -> ThreadPoolExecutor:
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            # Enough for every check at once, and a little for what else may wait; made, and
            # imported, when first asked.
            size = len(self._checks) + len(self._readiness) + 4
            self._executor = ThreadPoolExecutor(size, thread_name_prefix="health")
        return self._executor


def _shown(error: Exception) -> str:
    kind = type(error).__name__
    # The kind alone of any other: messages of client libraries hold addresses and users.
    return f"{kind}: {error.detail}" if isinstance(error, MainstayError) else kind
