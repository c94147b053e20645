"""What each process is told by its environment, and what is left to the developer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mainstay.config import Settings, Sources
from mainstay.processes.environment import (
    Told,
    alone,
    heartbeat_file,
    prepare,
    process_environment,
    scaled,
    service_environment,
    unnamed_servers,
)
from mainstay.processes.manifest import ProcessSpec, ServiceSpec

SECRETS = {"jwt_secret_key": "j" * 43, "secret_key": "s" * 43}
SERVERS = {"DATABASE_URL": "postgresql://app:pw@127.0.0.1:5/data", "REDIS_URL": "redis://h:6/0"}


def service(folder: Path, **given: Any) -> ServiceSpec:
    defaults = {"name": "data", "path": folder, "database": True, "prefix": "APP_"}
    return ServiceSpec(**{**defaults, "env": {}, "processes": (), **given})


def process(kind: Any = "http", **given: Any) -> ProcessSpec:
    return ProcessSpec(service="data", name="it", kind=kind, target="a:b", **given)


def generated(folder: Path, environ: Mapping[str, str], **given: Any) -> dict[str, str]:
    spec = service(folder, **given)
    told = Told.read(spec, environ)
    return service_environment(spec, told, servers=SERVERS, secrets=SECRETS)


def test_a_service_that_is_told_nothing_is_given_everything(tmp_path: Path) -> None:
    assert generated(tmp_path, {}) == {
        "APP_ENV": "dev",
        "APP_SERVICE_NAME": "data",
        "APP_GRACE_SECONDS": "5",
        "DATABASE_URL": SERVERS["DATABASE_URL"],
        "REDIS_URL": SERVERS["REDIS_URL"],
        "CELERY_BROKER_URL": SERVERS["REDIS_URL"],
        "CELERY_RESULT_BACKEND": SERVERS["REDIS_URL"],
        "JWT_SECRET_KEY": SECRETS["jwt_secret_key"],
        "APP_SECRET_KEY": SECRETS["secret_key"],
    }


@pytest.mark.parametrize(
    ("named", "left_out"),
    [
        ("DATABASE_HOST", "DATABASE_URL"),
        ("DATABASE_NAME", "DATABASE_URL"),
        ("DATABASE_PASSWORD", "DATABASE_URL"),
        ("POSTGRES_USER", "DATABASE_URL"),
        ("POSTGRES_DB", "DATABASE_URL"),
        ("POSTGRES_PORT", "DATABASE_URL"),  # and what it says is wrong, which the service tells
        ("ASYNC_DATABASE_URL", "DATABASE_URL"),
        ("RESULT_BACKEND_PASS", "CELERY_RESULT_BACKEND"),
        ("RESULT_BACKEND_DATABASE", "CELERY_RESULT_BACKEND"),
        ("SERVICE_JWT_PRIVATE_KEY", "JWT_SECRET_KEY"),
        ("SERVICE_GRACE_SECONDS", "SERVICE_GRACE_SECONDS"),
        ("SERVICE_DATABASE_URL", "DATABASE_URL"),
        ("CELERY_BROKER_URL", "CELERY_BROKER_URL"),
        ("RESULT_BACKEND_URL", "CELERY_RESULT_BACKEND"),
        ("JWT_JWKS_URL", "JWT_SECRET_KEY"),
        ("FLASK_SECRET_KEY", "SERVICE_SECRET_KEY"),
        ("FLASK_ENV", "SERVICE_ENV"),
        ("OTEL_SERVICE_NAME", "SERVICE_SERVICE_NAME"),
    ],
)
def test_what_is_named_is_not_generated(tmp_path: Path, named: str, left_out: str) -> None:
    assert left_out in generated(tmp_path, {}, prefix="SERVICE_")
    assert left_out not in generated(tmp_path, {named: "x"}, prefix="SERVICE_")


@pytest.mark.parametrize(
    "variables",
    [
        {"POSTGRES_USER": "me", "POSTGRES_DB": "shop"},
        {"DATABASE_PASS": "secret"},
        {"ASYNC_DATABASE_URL": "sqlite:///a.db"},
        {"DATABASE_URL_FILE": "url"},
        {"RABBITMQ_USER": "me"},
        {"RABBITMQ_PASS": "secret"},
    ],
)
def test_what_settings_read_is_what_a_start_goes_by(
    tmp_path: Path, variables: dict[str, str]
) -> None:
    (tmp_path / "url").write_text("sqlite:///a.db")
    spec = service(tmp_path)
    settings = Settings.load_from(Sources(tmp_path, variables, embedded=False), env="test")
    lacking = unnamed_servers(spec, Told.read(spec, variables), ["rpc"])
    assert ("DATABASE_URL" in lacking) is (settings.database_url is None)
    assert ("RABBITMQ_URL or REDIS_URL" in lacking) is (settings.rabbitmq_url is None)
    assert len(lacking) == 1


def test_a_redis_of_ones_own_is_the_broker_too(tmp_path: Path) -> None:
    found = generated(tmp_path, {"REDIS_URL": "redis://mine:6379/2"})
    assert "REDIS_URL" not in found
    assert found["CELERY_BROKER_URL"] == "redis://mine:6379/2"


def test_files_name_servers_as_the_environment_does(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://mine/x\n")
    (tmp_path / "config.yml").write_text("redis_url: redis://mine:1/0\n")
    found = generated(tmp_path, {"JWT_SECRET_KEY_FILE": "/run/it"})
    assert not {"DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY"}.intersection(found)


def test_an_empty_variable_names_nothing(tmp_path: Path) -> None:
    assert "DATABASE_URL" in generated(tmp_path, {"DATABASE_URL": ""})


def test_files_that_cannot_be_read_are_left_to_the_service_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("a: [")
    (tmp_path / ".env").write_bytes(b"\xff\xfe=1")
    assert generated(tmp_path, {})["APP_ENV"] == "dev"


def environment_of(
    spec: ProcessSpec, folder: Path, environ: Mapping[str, str], **given: Any
) -> dict[str, str]:
    options: dict[str, Any] = {"mode": "dev", "common": {}, "state": folder, **given}
    told = Told.read(service(folder), environ)
    return process_environment(spec, service(folder), told=told, environ=environ, **options)


def test_a_process_knows_its_ports_its_folder_and_its_name(tmp_path: Path) -> None:
    found = environment_of(process(port=8000, workers=2), tmp_path, {"PATH": "/bin"})
    assert found["APP_PORT"] == "8000"
    assert found["APP_WORKERS"] == "2"
    assert found["PYTHONPATH"] == str(tmp_path)
    assert found["MAINSTAY_PROCESS"] == "data.it"
    assert found["MAINSTAY_HEARTBEAT_FILE"] == str(tmp_path / "run/data-it/heartbeat")
    assert found["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path / "run/data-it/metrics")
    assert found["PATH"] == "/bin"


def test_only_processes_with_children_share_their_metrics_in_files(tmp_path: Path) -> None:
    name = "PROMETHEUS_MULTIPROC_DIR"
    assert name in environment_of(process("tasks"), tmp_path, {})
    assert name not in environment_of(process("http", port=8000), tmp_path, {})
    assert name not in environment_of(process("rpc"), tmp_path, {})


def test_a_process_without_a_metrics_port_takes_a_free_one(tmp_path: Path) -> None:
    assert environment_of(process("rpc"), tmp_path, {})["APP_METRICS_PORT"] == "0"
    with_port = process("rpc", metrics_port=8101)
    assert environment_of(with_port, tmp_path, {})["APP_METRICS_PORT"] == "8101"


def test_the_developers_environment_wins_except_for_ports(tmp_path: Path) -> None:
    told = {"APP_ENV": "test", "APP_PORT": "1", "PYTHONPATH": "/mine", "MAINSTAY_RUN": "outer"}
    common = {"APP_ENV": "dev", "MAINSTAY_RUN": "this"}
    found = environment_of(process(port=8000), tmp_path, told, common=common)
    assert (found["APP_ENV"], found["APP_PORT"]) == ("test", "8000")
    assert found["PYTHONPATH"].endswith(":/mine")
    assert found["MAINSTAY_RUN"] == "this"


def test_a_process_by_itself_takes_its_ports_from_the_environment(tmp_path: Path) -> None:
    told = Told.read(service(tmp_path), {"APP_PORT": "9000"})
    found = alone(process(port=8000), told)
    assert (found.port, found.metrics_port) == (9000, None)
    wrong = Told.read(service(tmp_path), {"APP_PORT": "80a"})
    assert alone(process(port=8000), wrong).port is None  # the service itself refuses it


def test_any_process_of_http_takes_its_workers_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("workers: 3\nunknown: 1\n")
    told = Told.read(service(tmp_path), {})
    assert scaled(process(workers=2), told).workers == 3
    assert scaled(process("rpc"), told).workers is None
    more = Told.read(service(tmp_path), {"APP_WORKERS": "4"})
    assert scaled(process(workers=2), more).workers == 4
    none = Told.read(service(tmp_path), {"APP_WORKERS": "0"})
    assert scaled(process(workers=2), none).workers is None  # refused, too


def test_a_metrics_port_may_be_named_in_a_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APP_METRICS_PORT=9100\n")
    assert "APP_METRICS_PORT" not in environment_of(process("rpc"), tmp_path, {})


def test_run_looks_for_no_embedded_servers(tmp_path: Path) -> None:
    found = environment_of(process(port=8000), tmp_path, {}, mode="run")
    assert found["MAINSTAY_EMBEDDED"] == "0"


def test_run_listens_everywhere_and_dev_on_loopback(tmp_path: Path) -> None:
    nothing = Told.read(service(tmp_path), {})
    assert nothing.host("dev") == "127.0.0.1"
    assert nothing.host("run") == "0.0.0.0"  # noqa: S104
    dev = Told.read(service(tmp_path), {"APP_ENV": "dev"})
    assert dev.host("run") == "127.0.0.1"
    assert Told.read(service(tmp_path), {"APP_HOST": "::1"}).host("dev") == "::1"


def test_grace_is_short_in_dev_and_as_it_is_told_else(tmp_path: Path) -> None:
    nothing = Told.read(service(tmp_path), {})
    assert (nothing.grace_seconds("dev"), nothing.grace_seconds("run")) == (5.0, 25.0)
    assert Told.read(service(tmp_path), {"APP_GRACE_SECONDS": "60"}).grace_seconds("dev") == 60.0
    assert Told.read(service(tmp_path), {"APP_GRACE_SECONDS": "x"}).grace_seconds("dev") == 5.0
    assert (nothing.drain_seconds("dev"), nothing.drain_seconds("run")) == (0.0, 5.0)
    soft = Told.read(service(tmp_path), {"FLASK_ENV": "testing"})
    assert (soft.drain_seconds("run"), soft.host("run")) == (0.0, "127.0.0.1")
    assert Told.read(service(tmp_path), {"APP_DRAIN_DELAY_SECONDS": "0"}).drain_seconds("run") == 0


def test_servers_that_are_named_nowhere_are_listed(tmp_path: Path) -> None:
    spec, kinds = service(tmp_path), ["http", "tasks", "rpc"]
    assert unnamed_servers(spec, Told.read(spec, {}), kinds) == [
        *("DATABASE_URL", "CELERY_BROKER_URL", "RABBITMQ_URL or REDIS_URL"),
    ]
    named = {"POSTGRES_HOST": "h", "CELERY_BROKER_URL": "b", "RABBITMQ_HOST": "r"}
    assert unnamed_servers(spec, Told.read(spec, named), kinds) == []


def test_a_start_begins_without_metrics_and_heartbeat_of_the_last(tmp_path: Path) -> None:
    spec = process("tasks")
    prepare(spec, tmp_path)
    metrics = tmp_path / "run/data-it/metrics"
    (metrics / "counter_1.db").touch()
    heartbeat_file(tmp_path, spec).touch()
    prepare(spec, tmp_path)
    assert list(metrics.iterdir()) == []
    assert not heartbeat_file(tmp_path, spec).exists()
