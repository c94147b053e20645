"""Which services is a command about, and with which settings?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from mainstay.cli.config import subjects
from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.processes import manifest
from mainstay.processes.manifest import Manifest, ServiceSpec
from mainstay.service import Resource, Service, services_of

__all__ = ["ServiceHandle", "selected"]


@dataclass(frozen=True, slots=True)
class ServiceHandle:
    """One service as a command sees it.

    Args:
        name: In ``mainstay.toml``; outside of a project, the settings' ``service_name``.
        path: The service's folder.
        settings: What its processes would be told, embedded servers of a running
            ``mainstay dev`` included.
        environ: Their environment.
        targets: What they run, ``module:attribute``.
    """

    name: str
    path: Path
    settings: Settings
    environ: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()

    def models(self) -> tuple[str, ...]:
        """Return the modules that define its tables: those that `model_discovery_paths` names,
        else those of the `Database` that its processes hold.

        Raises:
            Misconfigured: What a process runs cannot be imported.
        """
        if self.settings.model_discovery_paths:
            return self.settings.model_discovery_paths
        from mainstay.resources.sqlalchemy import Database

        found: dict[str, None] = {}
        with self._as_its_processes():
            held = [each for target in self.targets for each in _held(target)]
        for each in held:
            database = each.find(Database) if isinstance(each, Service) else each
            if isinstance(database, Database):
                found |= dict.fromkeys(database.models)
        return tuple(found)

    @contextmanager
    def _as_its_processes(self) -> Iterator[None]:
        """Have what is imported see the environment and the working folder of its processes."""
        before = dict(os.environ)
        os.environ.update(self.environ)
        try:
            with chdir(self.path):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def selected(
    service: str | None = None, *, with_database: bool = False, start: Path | None = None
) -> list[ServiceHandle]:
    """Return the service called *service*, else the one whose folder one is in, else all.

    Outside of a project it is the working folder, told by the environment alone.

    Args:
        with_database: When it is all, then only those with a database of their own.
        start: Where one is; the working folder unless told.

    Raises:
        Misconfigured: There is no such service, or its settings do not fit.
    """
    project = _project(start)
    if project is None:
        return [_handle(service, start)]
    names = _names(project, service, with_database, (start or Path.cwd()).resolve())
    if not names:
        raise Misconfigured(
            f"no service of {project.path} has a database: give one `database = true`, or name "
            f"a service"
        )
    return [_handle(name, start) for name in names]


def _handle(name: str | None, start: Path | None) -> ServiceHandle:
    subject = next(subjects(name, start))
    settings = subject.settings.load_from(subject.sources)
    return ServiceHandle(
        subject.name or settings.service_name,
        subject.folder,
        settings,
        subject.sources.environ,
        subject.targets,
    )


def _held(target: str) -> list[Service | Resource]:
    """Import what a process runs; return the services and the resources that are named there."""
    name, _, attribute = target.partition(":")
    try:
        module = import_module(name)
    except Exception as error:
        raise Misconfigured(
            f"{name} cannot be imported, so which tables its models define is not known: "
            f"{type(error).__name__}: {error}. MODEL_DISCOVERY_PATHS may name the models instead"
        ) from error
    # By their types: a proxy such as Flask's `request` must not be asked what it is outside of one.
    named = [each for each in vars(module).values() if issubclass(type(each), Service | Resource)]
    return [*named, *services_of(getattr(module, attribute, None))]


def _names(
    project: Manifest, service: str | None, with_database: bool, here: Path
) -> Sequence[str]:
    if service is not None:
        return [service]
    around = [each for each in project.services if _holds(each, here, project)]
    if around:
        return [max(around, key=lambda each: len(each.path.parts)).name]
    return [each.name for each in project.services if each.database or not with_database]


def _holds(service: ServiceSpec, here: Path, project: Manifest) -> bool:
    # A service that *is* the project's folder holds everything, so it says nothing about where
    # one is, unless it is the only one.
    only = len(project.services) == 1
    return here.is_relative_to(service.path) and (only or service.path != project.project)


def _project(start: Path | None) -> Manifest | None:
    try:
        path = manifest.find(start)
    except Misconfigured:
        return None
    return manifest.load(path)
