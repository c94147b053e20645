"""What ``mainstay.toml`` declares: a project's services and their processes.

The file is read once, for dev, run, deploy and doctor. What it may hold is written here as one
table per level; a key that is not in it is refused, so that a slip of the pen is no silent no-op.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NoReturn, get_args

from mainstay.errors import Misconfigured

__all__ = [
    "FILE_NAME",
    "Kind",
    "Manifest",
    "NotDeclared",
    "ProcessSpec",
    "ServiceSpec",
    "find",
    "load",
    "parse",
]

FILE_NAME: Final = "mainstay.toml"
Kind = Literal["http", "tasks", "rpc", "events", "loop", "relay", "beat"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PREFIX = re.compile(r"[A-Z][A-Z0-9_]*_")


class NotDeclared(Misconfigured):
    """A command names a process or a service that the manifest does not: wrong usage, exit 2."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: what it is, how it is started and where it can be asked.

    ``target`` is ``module:attribute``; ``run`` is a command line that stands for it. Exactly one
    of the two is set.
    """

    service: str
    name: str
    kind: Kind
    target: str | None = None
    run: str | None = None
    port: int | None = None
    metrics_port: int | None = None
    workers: int | None = None
    concurrency: int | None = None
    options: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The name that no process of another service has: ``data.api``."""
        return f"{self.service}.{self.name}"

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port that the process listens on."""
        return tuple(port for port in (self.port, self.metrics_port) if port)

    @property
    def health_port(self) -> int | None:
        """The port that answers ``/health`` and ``/ready``."""
        return self.port if self.kind == "http" else self.metrics_port


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service: its folder, its processes, and whether it has a database of its own.

    ``settings`` is its settings class as ``module:attribute``, where it is not called
    ``<package>.settings:Settings``.
    """

    name: str
    path: Path
    database: bool
    prefix: str
    env: Mapping[str, str]
    processes: tuple[ProcessSpec, ...]
    settings: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A project: the file that declares it and what the file says."""

    path: Path
    services: tuple[ServiceSpec, ...]

    @property
    def project(self) -> Path:
        """The folder that holds the file; the services' paths start there."""
        return self.path.parent

    @property
    def processes(self) -> tuple[ProcessSpec, ...]:
        return tuple(process for service in self.services for process in service.processes)

    def service_of(self, process: ProcessSpec) -> ServiceSpec:
        return next(service for service in self.services if service.name == process.service)

    def select(self, names: Iterable[str]) -> tuple[ProcessSpec, ...]:
        """Return the processes called *names*, in the file's order; all of them for no name.

        A name is ``service.process``, a service (all its processes), or a process where only one
        service has one of that name.

        Raises:
            NotDeclared: A name fits no process, or several.
        """
        wanted = list(names)
        if not wanted:
            return self.processes
        chosen = {process.full_name for name in wanted for process in self._called(name)}
        return tuple(process for process in self.processes if process.full_name in chosen)

    def _called(self, name: str) -> list[ProcessSpec]:
        for key in ("full_name", "service"):
            if found := [each for each in self.processes if getattr(each, key) == name]:
                return found
        found = [each for each in self.processes if each.name == name]
        if len(found) == 1:
            return found
        known = ", ".join(each.full_name for each in found or self.processes)
        problem = "is the name of several processes" if found else "is no process or service"
        raise NotDeclared(f"{name!r} {problem} of {self.path}; choose from: {known}")


def find(start: Path | None = None) -> Path:
    """Return the manifest of the project that *start* (or the working folder) lies in.

    Raises:
        Misconfigured: There is none in that folder or above it.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise Misconfigured(
        f"there is no {FILE_NAME} in {here} or above it: go to the project's folder, "
        f"or write one that declares its services"
    )


def load(path: Path) -> Manifest:
    """Read and check the manifest at *path*.

    Raises:
        Misconfigured: It cannot be read, or something in it is not accepted.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{path} cannot be read: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from None
    return parse(document, path)


def parse(document: Mapping[str, Any], path: Path) -> Manifest:
    """Check what was read from *path* and give it its shape.

    Raises:
        Misconfigured: Something in it is not accepted; the message names table and key.
    """
    root = _Table(path, (), document, accepted=("service",))
    services = tuple(_service(table) for table in root.tables("service", accepted=_SERVICE_KEYS))
    if not services:
        root.refuse("service", "is missing: a project has at least one [service.NAME]")
    manifest = Manifest(path, services)
    _refuse_shared_ports(manifest)
    return manifest


_SERVICE_KEYS = ("path", "database", "prefix", "settings", "env", "process")
_PROCESS_KEYS = (
    *("kind", "target", "run", "port", "metrics_port", "workers", "concurrency"),
    *("options", "links", "env"),
)


def _service(table: _Table) -> ServiceSpec:
    name = table.name_of_its_own()
    processes = table.tables("process", accepted=_PROCESS_KEYS)
    prefix = table.text("prefix") or "APP_"
    if not _PREFIX.fullmatch(prefix):
        table.refuse("prefix", 'is capitals that end in an underscore, such as "APP_"')
    settings = table.text("settings")
    if settings is not None and not _TARGET.fullmatch(settings):
        table.refuse("settings", 'is "module:attribute", such as "data.settings:Settings"')
    return ServiceSpec(
        name=name,
        path=(table.path.parent / (table.text("path") or ".")).resolve(),
        database=table.flag("database"),
        prefix=prefix,
        env=table.variables("env"),
        processes=tuple(_process(name, each) for each in processes),
        settings=settings,
    )


def _process(service: str, table: _Table) -> ProcessSpec:
    kind, target, run = (
        table.one_of("kind", get_args(Kind)),
        table.text("target"),
        table.text("run"),
    )
    if kind is None:
        table.refuse("kind", f"is missing; accepted: {', '.join(get_args(Kind))}")
    if (target is None) == (run is None):
        table.refuse("target", 'or "run" is needed, exactly one: target = "module:attribute"')
    if target is not None and not _TARGET.fullmatch(target):
        table.refuse("target", 'is "module:attribute", such as "data.api:app"')
    if kind == "http" and target is not None and table.number("port", 1, 65535) is None:
        table.refuse("port", "is missing: a process of kind http listens on one")
    return ProcessSpec(
        service=service,
        name=table.name_of_its_own(),
        kind=kind,
        target=target,
        run=run,
        port=table.number("port", 1, 65535),
        metrics_port=table.number("metrics_port", 1, 65535),
        workers=table.number("workers", 1, 1024),
        concurrency=table.number("concurrency", 1, 1024),
        options=table.texts("options"),
        links=table.texts("links"),
        env=table.variables("env"),
    )


def _refuse_shared_ports(manifest: Manifest) -> None:
    seen: dict[int, str] = {}
    for process in manifest.processes:
        for key in ("port", "metrics_port"):
            port = getattr(process, key)
            if port is None:
                continue
            place = f"[service.{process.service}.process.{process.name}] {key}"
            if port in seen:
                raise Misconfigured(
                    f"{manifest.path}: {place} = {port} is taken by {seen[port]}; "
                    f"every process has ports of its own"
                )
            seen[port] = place


class _Table:
    """One table of the file, read key by key; every refusal says where."""

    def __init__(
        self, path: Path, keys: tuple[str, ...], values: object, *, accepted: tuple[str, ...]
    ) -> None:
        self.path = path
        self._keys = keys
        self._values: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
        if self._values is not values:
            self._fail(f"is a table, not {_shown(values)}")
        for key in self._values:
            if key not in accepted:
                self.refuse(key, f"is not known; accepted: {', '.join(accepted)}")

    def refuse(self, key: str, problem: str) -> NoReturn:
        self._fail(f"{key} {problem}")

    def name_of_its_own(self) -> str:
        name = self._keys[-1]
        if not _NAME.fullmatch(name):
            self._fail(
                "needs a name of small letters, digits, '-' and '_' that starts with a letter"
            )
        return name

    def tables(self, key: str, *, accepted: tuple[str, ...]) -> list[_Table]:
        inner = self._values.get(key, {})
        if not isinstance(inner, Mapping):
            self.refuse(key, f"is a table of tables, not {_shown(inner)}")
        return [
            _Table(self.path, (*self._keys, key, name), values, accepted=accepted)
            for name, values in inner.items()
        ]

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            self.refuse(key, f"is a text, not {_shown(value)}")
        return value

    def flag(self, key: str) -> bool:
        value = self._values.get(key, False)
        if not isinstance(value, bool):
            self.refuse(key, f"is true or false, not {_shown(value)}")
        return bool(value)

    def number(self, key: str, least: int, most: int) -> int | None:
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(key, f"is a whole number from {least} to {most}, not {_shown(value)}")
        return int(value)

    def one_of(self, key: str, accepted: tuple[str, ...]) -> Any:
        value = self._values.get(key)
        if value is not None and value not in accepted:
            self.refuse(key, f"is one of {', '.join(accepted)}, not {_shown(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.refuse(key, f"is a list of texts, not {_shown(value)}")
        return tuple(value)

    def variables(self, key: str) -> Mapping[str, str]:
        value = self._values.get(key, {})
        if not isinstance(value, Mapping):
            self.refuse(key, f"is a table of variables, not {_shown(value)}")
        for name, content in value.items():
            if not _VARIABLE.fullmatch(name) or not isinstance(content, str):
                self.refuse(key, f"holds texts under variables' names; {name} is not one")
        return dict(value)

    def _fail(self, problem: str) -> NoReturn:
        place = f"[{'.'.join(self._keys)}] " if self._keys else ""
        raise Misconfigured(f"{self.path}: {place}{problem}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
