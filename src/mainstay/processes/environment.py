"""The environment that each process is started with.

What a developer has named, in the environment, in a secret file, in the service's ``.env`` or in
its YAML file, is left as it is; the rest is generated: addresses of the embedded servers, secrets
that are kept, the ports of the manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mainstay.processes.manifest import ProcessSpec, ServiceSpec

__all__ = [
    "DATABASE",
    "MARK",
    "Mode",
    "Told",
    "alone",
    "heartbeat_file",
    "prepare",
    "process_environment",
    "python_path",
    "service_environment",
    "unnamed_servers",
]

Mode = Literal["dev", "run"]

MARK = "MAINSTAY_RUN"
"""Says to which project's ``mainstay dev`` a process belongs."""

DATABASE = "DATABASE_URL"

# What stands for each generated variable: where one of these is named, it is not generated.
# `*` is the service's prefix.
_SAME = {
    DATABASE: (
        *("*DATABASE_URL", "DATABASE_URL", "SQLALCHEMY_DATABASE_URI", "ASYNC_DATABASE_URL"),
        *("DATABASE_HOST", "POSTGRES_HOST"),
    ),
    "REDIS_URL": ("*REDIS_URL", "REDIS_URL"),
    "RABBITMQ_URL": ("*RABBITMQ_URL", "RABBITMQ_URL", "RABBITMQ_HOST"),
    "CELERY_BROKER_URL": ("CELERY_BROKER_URL",),
    "CELERY_RESULT_BACKEND": ("CELERY_RESULT_BACKEND", "RESULT_BACKEND_URL"),
    "JWT_SECRET_KEY": (
        *("*JWT_SECRET_KEY", "JWT_SECRET_KEY", "*JWT_PRIVATE_KEY", "JWT_PRIVATE_KEY"),
        *("*JWT_JWKS_URL", "JWT_JWKS_URL"),
    ),
    "*SECRET_KEY": ("*SECRET_KEY", "FLASK_SECRET_KEY"),
    "*ENV": ("*ENV", "FLASK_ENV"),
    "*SERVICE_NAME": ("*SERVICE_NAME", "*NAME", "SERVICE_NAME", "OTEL_SERVICE_NAME"),
}

# The servers that a process needs from outside when nothing is embedded, by its kind.
_BROKERS = {
    "tasks": ("CELERY_BROKER_URL",),
    "beat": ("CELERY_BROKER_URL",),
    "rpc": ("RABBITMQ_URL", "REDIS_URL"),
    "events": ("REDIS_URL",),
    "relay": ("REDIS_URL", "RABBITMQ_URL", "CELERY_BROKER_URL"),
}

_DEV_GRACE_SECONDS, _GRACE_SECONDS, _DRAIN_SECONDS = 5.0, 25.0, 5.0
_LAST_PORT, _MOST_WORKERS = 65_535, 10_000
_SECRET_FILES = Path("/run/secrets")


@dataclass(frozen=True, slots=True)
class Told:
    """What a service is told by its environment and its files, as far as starting it depends on it.

    A value out of a secret file is not read: that it is named is enough.
    """

    prefix: str
    values: Mapping[str, str]

    @classmethod
    def read(cls, service: ServiceSpec, environ: Mapping[str, str]) -> Told:
        """Read the sources of settings that *service* has, the strongest last."""
        values: dict[str, str] = {}
        values |= _yaml_file(service, environ)
        values |= _dotenv_file(service.path / ".env")
        values |= {name.upper(): "(file)" for name in _names_in(_SECRET_FILES)}
        values |= {
            name.removesuffix("_FILE"): "(file)"
            for name, value in environ.items()
            if name.endswith("_FILE") and value
        }
        values |= {name: value for name, value in service.env.items() if value}
        values |= {name: value for name, value in environ.items() if value.strip()}
        return cls(service.prefix, values)

    def names(self, variable: str) -> bool:
        """Tell whether *variable*, or one that stands for it, is named."""
        same = _SAME.get(variable, (variable,))
        return any(self._spelled(each) in self.values for each in same)

    def value(self, variable: str) -> str | None:
        """Return the value of *variable*; ``*`` in it is the prefix."""
        return self.values.get(self._spelled(variable))

    def seconds(self, variable: str, default: float) -> float:
        """Return *variable* as a number; a value that is none is the service's to refuse."""
        try:
            return float(self.value(variable) or default)
        except ValueError:
            return default

    def whole_number(self, variable: str, default: int | None, most: int) -> int | None:
        """Return *variable* as a whole number, *default* where it is not named.

        ``None`` for a value that is none: the service itself is to refuse it.
        """
        value = self.value(variable)
        if value is None:
            return default
        return int(value) if value.isdecimal() and int(value) <= most else None

    def grace_seconds(self, mode: Mode) -> float:
        """Return how long work in hand may take once a process is asked to stop."""
        default = _DEV_GRACE_SECONDS if mode == "dev" else _GRACE_SECONDS
        return self.seconds("*GRACE_SECONDS", default)

    def drain_seconds(self, mode: Mode) -> float:
        """Return how long a process still answers before that, while traffic goes away."""
        return self.seconds("*DRAIN_DELAY_SECONDS", 0.0 if mode == "dev" else _DRAIN_SECONDS)

    def host(self, mode: Mode) -> str:
        """Return the address to listen on: loopback in dev, all interfaces else."""
        soft = mode == "dev" or self.value("*ENV") in ("dev", "development", "test")
        return self.value("*HOST") or ("127.0.0.1" if soft else "0.0.0.0")  # noqa: S104

    def _spelled(self, variable: str) -> str:
        return variable.replace("*", self.prefix)


def unnamed_servers(service: ServiceSpec, told: Told, kinds: Iterable[str]) -> list[str]:
    """Return the variables that would have to name a server for *service*, and do not.

    Several that would do are joined by "or".
    """
    missing = []
    if service.database and not told.names(DATABASE):
        missing.append(DATABASE)
    for kind in kinds:
        wanted = _BROKERS.get(kind, ())
        if wanted and not any(told.names(each) for each in wanted):
            missing.append(" or ".join(wanted))
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
        told: What it is told already; none of that is generated.
        servers: ``DATABASE_URL`` and ``REDIS_URL`` of the servers that run for it.
        secrets: ``jwt_secret_key`` and ``secret_key``.
    """
    redis = told.value("*REDIS_URL") or told.value("REDIS_URL") or servers.get("REDIS_URL")
    generated = {
        "*ENV": "dev",
        "*SERVICE_NAME": service.name,
        "*GRACE_SECONDS": f"{_DEV_GRACE_SECONDS:g}",
        **servers,
        **({"CELERY_BROKER_URL": redis, "CELERY_RESULT_BACKEND": redis} if redis else {}),
        "JWT_SECRET_KEY": secrets["jwt_secret_key"],
        "*SECRET_KEY": secrets["secret_key"],
    }
    chosen = {name: value for name, value in generated.items() if not told.names(name)}
    return {
        **{name.replace("*", service.prefix): value for name, value in chosen.items()},
        **service.env,
    }


def process_environment(
    process: ProcessSpec,
    service: ServiceSpec,
    *,
    mode: Mode,
    common: Mapping[str, str],
    state: Path,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of *process*; what *environ* says wins.

    Args:
        process: What the manifest says of it.
        service: The service it belongs to.
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
        process.metrics_port is not None or f"{prefix}METRICS_PORT" not in environ
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
    told = {n: v for n, v in environ.items() if n not in fixed or n not in given}
    return {**given, **told, "PYTHONPATH": python_path(service.path, environ)}


def alone(process: ProcessSpec, told: Told) -> ProcessSpec:
    """Return *process* with the ports that its environment names, as it is when run by itself."""
    return replace(
        process,
        port=told.whole_number("*PORT", process.port, _LAST_PORT),
        metrics_port=told.whole_number("*METRICS_PORT", process.metrics_port, _LAST_PORT),
        workers=told.whole_number("*WORKERS", process.workers, _MOST_WORKERS),
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


def _dotenv_file(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values  # only where there is such a file

    try:
        return {name: value for name, value in dotenv_values(path).items() if value}
    except (OSError, UnicodeDecodeError):
        return {}  # the service's settings refuse it and say where


def _yaml_file(service: ServiceSpec, environ: Mapping[str, str]) -> dict[str, str]:
    path = service.path / (environ.get(f"{service.prefix}CONFIG_PATH") or "config.yml")
    if not path.is_file():
        return {}
    import yaml  # only where there is such a file

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}  # the service's settings refuse it and say where
    settings = document if isinstance(document, dict) else {}
    return {
        f"{prefix}{key}".upper(): str(value)
        for key, value in settings.items()
        if value not in (None, "")
        for prefix in ("", service.prefix)
    }


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
