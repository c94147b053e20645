"""What a process is made of: its settings, what it holds open, and what it tells of itself."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from typing_extensions import TypeVar

from mainstay import failpoints
from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.health import Check, Health
from mainstay.lifecycle import Lifecycle
from mainstay.logs import Logs
from mainstay.metrics import Metrics
from mainstay.traces import Traces

if TYPE_CHECKING:
    from mainstay.auth import Tokens

__all__ = ["Resource", "Service", "services_of"]

PROCESS = "MAINSTAY_PROCESS"
"""The variable that names a process as ``mainstay.toml`` does: ``data.worker``."""

R = TypeVar("R", bound="Resource")
S_co = TypeVar("S_co", bound=Settings, default=Settings, covariant=True)
T = TypeVar("T", bound=Settings)


class Resource(ABC):
    """Something a service holds open: a database, a cache, a broker.

    Constructors store; the first use connects, in the process that uses it, so nothing is shared
    over a fork. A resource is bound to one service, which gives it its settings.
    """

    name: ClassVar[str]
    optional: bool = False
    """Without it the service is degraded, not unhealthy."""

    _service: Service | None = None

    def bind(self, service: Service) -> None:
        """Tell the resource whose it is; called once, by the service."""
        self._service = service

    @property
    def service(self) -> Service:
        if self._service is None:
            kind = type(self).__name__
            raise Misconfigured(f"{kind} belongs to no service yet: pass it to Service(…)")
        return self._service

    @property
    def is_named(self) -> bool:
        """Do the settings name a server for it? What nobody named is not asked for its health."""
        return True

    @abstractmethod
    def ping(self) -> Mapping[str, object] | None:
        """Ask the server, on a connection of its own; raise when it does not answer."""

    def readiness(self) -> Sequence[Check]:
        """What must be true before traffic may come, beside an answer to :meth:`ping`."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Let go of every connection; can be called twice, and used again afterwards."""

    async def aclose(self) -> None:
        """Let go of what was opened on this event loop; then as :meth:`close`."""
        self.close()


class Service(Generic[S_co]):
    """One service, in one process.

    Args:
        settings: The settings, or their class, which is then loaded when first needed, so that
            importing a module reads no environment.
        resources: What the service holds open.
    """

    def __init__(self, settings: S_co | type[S_co], *resources: Resource) -> None:
        self._settings = settings
        self.resources: dict[str, Resource] = {}
        self.lifecycle = Lifecycle()
        self.lifecycle.on_stop(self._close)
        for resource in resources:
            self.hold(resource)

    @classmethod
    def of(cls, service: Service[T] | T | type[T]) -> Service[T]:
        """Return *service* itself, or a new one around bare settings."""
        return service if isinstance(service, Service) else Service(service)

    def hold(self, resource: R) -> R:
        """Hold *resource* open from its first use until the process stops."""
        if resource.name in self.resources:
            raise Misconfigured(
                f"the service holds two resources called {resource.name!r}: give one another name"
            )
        resource.bind(self)
        self.resources[resource.name] = resource
        if "health" in self.__dict__:
            _watch(resource, self.health)
        return resource

    def resource(self, kind: type[R]) -> R:
        """Return the resource of that class.

        Raises:
            Misconfigured: The service holds none.
        """
        found = self.find(kind)
        if found is None:
            raise Misconfigured(
                f"this needs a {kind.__name__}, and the service holds none: "
                f"Service(settings, {kind.__name__}(…))"
            )
        return found

    def find(self, kind: type[R]) -> R | None:
        """Return the resource of that class, or ``None``."""
        for resource in self.resources.values():
            if isinstance(resource, kind):
                return resource
        return None

    @cached_property
    def settings(self) -> S_co:
        """The settings; loaded on first use.

        Raises:
            Misconfigured: They cannot be: the message names each bad setting.
        """
        settings = self._settings
        return settings if isinstance(settings, Settings) else settings.load()

    @property
    def name(self) -> str:
        return self.settings.service_name

    @cached_property
    def logs(self) -> Logs:
        return Logs(self.settings, dropped=self._log_lines_dropped)

    @cached_property
    def metrics(self) -> Metrics:
        return Metrics(self.settings)

    @cached_property
    def traces(self) -> Traces:
        return Traces(self.settings)

    @cached_property
    def tokens(self) -> Tokens:
        from mainstay.auth import Tokens  # cryptography is slow to import, and not always needed

        return Tokens(self.settings)

    @cached_property
    def health(self) -> Health:
        health = Health(self.name, self.settings.version, self.lifecycle)
        for resource in self.resources.values():
            _watch(resource, health)
        return health

    def renew(self) -> None:
        """Begin anew after :meth:`stop`, before anything is started; changes nothing before it."""
        if self.lifecycle.renew():
            self.lifecycle.on_stop(self._close)

    def start(self, process: str) -> None:
        """Set up logging and say that the process is up; called by its way in when it can work.

        Args:
            process: What to call it where ``mainstay.toml`` gives it no name.
        """
        process = os.environ.get(PROCESS, "").rpartition(".")[2] or process
        self.renew()
        failpoints.arm_from_environment(is_allowed=self.settings.is_dev)
        self.logs.install()
        self.metrics.up()
        self.lifecycle.started()
        self.lifecycle.on_drain(self._note_end)
        self.logs.write(
            "info", "mainstay", f"{process} is up", event="startup_success", process=process
        )

    def stop(self) -> None:
        """Close everything; called by the way in when the last work is done."""
        self.lifecycle.stop()

    def _log_lines_dropped(self, lines: int) -> None:
        self.metrics.log_lines_dropped(lines)

    def _note_end(self) -> None:
        self.logs.write("info", "mainstay", "shutting down", event="shutting_down")

    def forked(self) -> None:
        """Begin anew in a child process: threads and connections of the parent are not ours.

        What is held open minds its process by itself, and so do logs, metrics and traces: they
        start their threads on first use.
        """
        if "health" in self.__dict__:
            self.health.forked()

    def _close(self) -> None:
        # From the last to the first, each also when another fails: what tells of the others is
        # closed last.
        with ExitStack() as closing:
            for telling in ("logs", "metrics", "traces"):
                if telling in self.__dict__:
                    closing.callback(getattr(self, telling).close)
            for resource in self.resources.values():
                closing.callback(resource.close)
            if "health" in self.__dict__:
                closing.callback(self.health.close)


def _watch(resource: Resource, health: Health) -> None:
    if resource.is_named:
        health.add(Check(resource.name, resource.ping, resource.optional))
        for check in resource.readiness():
            health.add_readiness(check)


def services_of(holder: Any) -> list[Service]:
    """Return the service that *holder* is, or that it was made for: an application of FastAPI,
    Flask or Celery. It is a list, because it may be none.
    """
    found = [
        holder,
        getattr(holder, "service", None),
        getattr(getattr(holder, "state", None), "service", None),
    ]
    extensions = getattr(holder, "extensions", None)
    if isinstance(extensions, Mapping):
        found.append(extensions.get("mainstay"))
    return [each for each in found if isinstance(each, Service)]
