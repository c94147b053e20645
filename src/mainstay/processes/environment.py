"""The environment that each process is started with.

What a developer has named, in the environment, in a secret file, in the service's ``.env`` or in
its YAML file, is left as it is; the rest is generated: addresses of the embedded servers, secrets
that are kept, the ports of the manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from mainstay.config import Found, Settings, Sources
from mainstay.config.loading import collect, family
from mainstay.config.settings import with_prefix
from mainstay.processes.manifest import ProcessSpec, ServiceSpec

__all__ = [
    "MARK",
    "Mode",
    "Told",
    "alone",
    "heartbeat_file",
    "prepare",
    "process_environment",
    "python_path",
    "scaled",
    "service_environment",
    "unnamed_servers",
]

Mode = Literal["dev", "run"]

MARK = "MAINSTAY_RUN"
"""Says to which project's ``mainstay dev`` a process belongs."""

# What dev generates, by the settings that are read from it: where one of these is named, it is not
# generated. `*` is the service's prefix.
_GENERATED: Mapping[str, Collection[str]] = {
    "DATABASE_URL": family("database_url"),
    "REDIS_URL": family("redis_url"),
    "CELERY_BROKER_URL": family("celery_broker_url"),
    "CELERY_RESULT_BACKEND": family("celery_result_backend"),
    "JWT_SECRET_KEY": family("jwt_secret_key"),
    "*SECRET_KEY": family("secret_key"),
    "*ENV": family("env"),
    "*SERVICE_NAME": family("service_name"),
    "*GRACE_SECONDS": family("grace_seconds"),
}

# The servers that a process needs from outside when nothing is embedded, by its kind.
_BROKERS = {
    "tasks": ("celery_broker_url",),
    "beat": ("celery_broker_url",),
    "rpc": ("rabbitmq_url", "redis_url"),
    "events": ("redis_url",),
    "relay": ("redis_url", "rabbitmq_url", "celery_broker_url"),
}

_DEV_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a service's settings read, as far as starting it depends on it.

    They are those that every service has: its own class is code of the service, and is imported
    by its processes alone.

    Args:
        settings: The class, with the service's prefix.
        found: Each setting that a source names.
        wrong: Those that are named and cannot be read; the service itself refuses them.
    """

    settings: type[Settings]
    found: Mapping[str, Found]
    wrong: frozenset[str] = frozenset()

    @classmethod
    def read(cls, service: ServiceSpec, environ: Mapping[str, str]) -> Told:
        """Read the sources of settings that *service* has."""
        settings = with_prefix(service.prefix)
        sources = Sources(service.path, {**service.env, **environ}, embedded=False)
        found, problems = collect(settings, sources, {})
        return cls(settings, found, frozenset().union(*(each.settings for each in problems)))

    @property
    def prefix(self) -> str:
        return self.settings.env_prefix

    def names(self, *settings: str) -> bool:
        """Tell whether one of *settings* is named."""
        return any(each in self.found or each in self.wrong for each in settings)

    def value(self, setting: str, default: Any = None) -> Any:
        """Return the value of *setting*, *default* where it is not named.

        ``None`` for a value that does not fit: the service itself is to refuse it.
        """
        if not self.names(setting):
            return default
        field = self.settings.model_fields[setting]
        kind: Any = Annotated[field.annotation, *field.metadata]
        try:
            return TypeAdapter(kind).validate_python(self.found[setting].value)
        except (KeyError, ValidationError):
            return None

    def grace_seconds(self, mode: Mode) -> float:
        """Return how long work in hand may take once a process is asked to stop."""
        default = _DEV_GRACE_SECONDS if mode == "dev" else self._default("grace_seconds", mode)
        return float(self.value("grace_seconds") or default)

    def drain_seconds(self, mode: Mode) -> float:
        """Return how long a process still answers before that, while traffic goes away."""
        default = self._default("drain_delay_seconds", mode)
        told = self.value("drain_delay_seconds")
        return float(default if told is None else told)

    def host(self, mode: Mode) -> str:
        """Return the address to listen on: loopback in dev, all interfaces else."""
        return str(self.value("host") or self._default("host", mode))

    def _default(self, setting: str, mode: Mode) -> Any:
        env = "dev" if mode == "dev" else self.settings.model_fields["env"].default
        field = self.settings.model_fields[setting]
        data = {"env": self.value("env", env)}
        return field.get_default(call_default_factory=True, validated_data=data)


def unnamed_servers(service: ServiceSpec, told: Told, kinds: Iterable[str]) -> list[str]:
    """Return the variables that would have to name a server for *service*, and do not.

    Several that would do are joined by "or".
    """
    missing = []
    if service.database and not told.names(*family("database_url")):
        missing.append("DATABASE_URL")
    for kind in kinds:
        wanted = _BROKERS.get(kind, ())
        if wanted and not told.names(*wanted):
            missing.append(" or ".join(each.upper() for each in wanted))
    return list(dict.fromkeys(missing))


def service_environment(
    service: ServiceSpec,
    told: Told,
    *,
    servers: Mapping[str, str],
    secrets: Mapping[str, str],
) -> dict[str, str]:
    """Return what `mainstay dev` generates for every process of *service*.

    Args:
        service: What the manifest says of it.
        told: What its settings read already; none of that is generated.
        servers: ``DATABASE_URL`` and ``REDIS_URL`` of the servers that run for it.
        secrets: ``jwt_secret_key`` and ``secret_key``.
    """
    redis = told.value("redis_url") or servers.get("REDIS_URL")
    generated = {
        "*ENV": "dev",
        "*SERVICE_NAME": service.name,
        "*GRACE_SECONDS": f"{_DEV_GRACE_SECONDS:g}",
        **servers,
        **({"CELERY_BROKER_URL": redis, "CELERY_RESULT_BACKEND": redis} if redis else {}),
        "JWT_SECRET_KEY": secrets["jwt_secret_key"],
        "*SECRET_KEY": secrets["secret_key"],
    }
    chosen = {name: one for name, one in generated.items() if not told.names(*_GENERATED[name])}
    return {
        **{name.replace("*", service.prefix): value for name, value in chosen.items()},
        **service.env,
    }


def process_environment(
    process: ProcessSpec,
    service: ServiceSpec,
    *,
    told: Told,
    mode: Mode,
    common: Mapping[str, str],
    state: Path,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of *process*; what *environ* says wins.

    Args:
        process: What the manifest says of it.
        service: The service it belongs to.
        told: What its settings read.
        mode: Whether it is started by dev or by run.
        common: What all processes of the service are given.
        state: The project's state folder.
        environ: The environment of the developer or the container.
    """
    folder, prefix = process_folder(state, process), service.prefix
    own: dict[str, str] = {
        "PYTHONUNBUFFERED": "1",
        "MAINSTAY_PROCESS": process.full_name,
        "MAINSTAY_HEARTBEAT_FILE": str(heartbeat_file(state, process)),
    }
    if mode == "run":
        own["MAINSTAY_EMBEDDED"] = "0"  # a `mainstay dev` beside it is none of its business
    if process.kind in ("http", "loop") and process.port:
        own[f"{prefix}PORT"] = str(process.port)
    if process.kind != "http" and (
        process.metrics_port is not None or not told.names("metrics_port")
    ):
        # 0 takes a free one: the settings' own default would be the port of some API.
        own[f"{prefix}METRICS_PORT"] = str(process.metrics_port or 0)
    if process.workers:
        own[f"{prefix}WORKERS"] = str(process.workers)
    if process.kind == "tasks" or (process.workers or 1) > 1:
        own["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
    given = {**common, **own, **process.env}
    # Names that no variable can give to several processes, or that say who started them.
    fixed = {f"{prefix}PORT", f"{prefix}METRICS_PORT", MARK, "MAINSTAY_PROCESS"}
    chosen = {n: v for n, v in environ.items() if n not in fixed or n not in given}
    return {**given, **chosen, "PYTHONPATH": python_path(service.path, environ)}


def scaled(process: ProcessSpec, told: Told) -> ProcessSpec:
    """Return *process* with as many workers as its settings say, if they are those of HTTP."""
    is_http = process.kind == "http"
    return replace(process, workers=told.value("workers", process.workers)) if is_http else process


def alone(process: ProcessSpec, told: Told) -> ProcessSpec:
    """Return *process* with the ports that its settings name, as it is when run by itself."""
    return replace(
        process,
        port=told.value("port", process.port),
        metrics_port=told.value("metrics_port", process.metrics_port),
    )


def process_folder(state: Path, process: ProcessSpec) -> Path:
    """Return the folder of what *process* keeps while it runs."""
    return state / "run" / f"{process.service}-{process.name}"


def heartbeat_file(state: Path, process: ProcessSpec) -> Path:
    """Return the file that *process* touches while it makes progress."""
    return process_folder(state, process) / "heartbeat"


def prepare(process: ProcessSpec, state: Path) -> None:
    """Make the folder of *process* ready for a start, without metrics or heartbeat of the last."""
    folder = process_folder(state, process)
    shutil.rmtree(folder / "metrics", ignore_errors=True)
    (folder / "metrics").mkdir(mode=0o700, parents=True)
    heartbeat_file(state, process).unlink(missing_ok=True)


def python_path(service: Path, environ: Mapping[str, str]) -> str:
    folders = [service, service / "src"] if (service / "src").is_dir() else [service]
    inherited = environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
