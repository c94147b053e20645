"""A service that is told something wrong does not start: exit 78, and a message that helps."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from mainstay.processes.ports import steady_port
from tests.services.commands import do
from tests.services.data.platform import write_project
from tests.services.platform import environment

CANARY = "canary-5f2d"
GOOD = {
    "DATABASE_URL": f"postgresql://app:{CANARY}@127.0.0.1:1/data",
    "REDIS_URL": "redis://127.0.0.1:1",
    "RABBITMQ_URL": f"amqp://app:{CANARY}@127.0.0.1:1",
    "CELERY_BROKER_URL": f"amqp://app:{CANARY}@127.0.0.1:1",
    "CELERY_RESULT_BACKEND": "redis://127.0.0.1:1",
    "JWT_SECRET_KEY": secrets.token_hex(32),
    "APP_HOST": "127.0.0.1",
}
GONE = ""

# What does not parse is named all at once.
BAD: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "values that do not parse": (
        "data.api",
        {
            "APP_PORT": "http",
            "APP_ENV": "production2",
            "APP_METRICS_ENABLED": "maybe",
            "APP_GRACE_SECONDS": "-1",
            "APP_RATE_LIMIT": "often",
            "JWT_SECRET_KEY": CANARY,
            "DATABASE_URL": f"oracle://app:{CANARY}@host/data",
        },
        [
            *("APP_PORT", "65535", "APP_ENV", "prod", "APP_METRICS_ENABLED", "true"),
            *("APP_GRACE_SECONDS", "0", "APP_RATE_LIMIT", "minute", "JWT_SECRET_KEY", "32"),
            *("DATABASE_URL", "postgresql"),
        ],
    ),
    "a port out of range": ("data.api", {"APP_PORT": "70000"}, ["APP_PORT", "65535"]),
    "two sources of keys": (
        "data.api",
        {"JWT_JWKS_URL": "https://keys.example/jwks.json"},
        ["JWT_JWKS_URL", "JWT_SECRET_KEY"],
    ),
    "no key of tokens": (
        "data.api",
        {"JWT_SECRET_KEY": GONE, "APP_AUTH_REQUIRED": "true"},
        ["JWT_SECRET_KEY", "JWT_PRIVATE_KEY", "JWT_JWKS_URL", "APP_AUTH_REQUIRED"],
    ),
    "a broker of another kind": (
        "data.worker",
        {"CELERY_BROKER_URL": f"sqs://app:{CANARY}@host", "CELERY_TASK_ACKS_LATE": "0"},
        ["CELERY_BROKER_URL", "amqp", "CELERY_TASK_ACKS_LATE"],
    ),
    "no database": ("data.api", {"DATABASE_URL": GONE}, ["DATABASE_URL"]),
    "no broker": ("data.worker", {"CELERY_BROKER_URL": GONE}, ["CELERY_BROKER_URL"]),
    "no broker of calls": (
        "data.dataservice",
        {"RABBITMQ_URL": GONE, "REDIS_URL": GONE},
        ["RABBITMQ_URL"],
    ),
    "debug outside of development": ("data.api", {"APP_DEBUG": "1"}, ["APP_DEBUG"]),
    "two things at once": (
        "data.dataservice",
        {"APP_PORT": "x", "APP_RPC_CONCURRENCY": "0"},
        ["APP_PORT", "APP_RPC_CONCURRENCY"],
    ),
}


def refused(folder: Path, process: str, env: dict[str, str]) -> str:
    """Start *process*, which must not start, and return what it says."""
    write_project(folder, [steady_port() for _ in range(3)])
    ended = do(folder, env, "mainstay", "run", process, exit_code=78)
    assert CANARY not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize("kind", BAD)
def test_what_a_service_is_told_wrong_is_named_and_it_does_not_start(
    tmp_path: Path, kind: str
) -> None:
    process, changes, named = BAD[kind]
    env = {name: value for name, value in (GOOD | changes).items() if value != GONE}
    said = refused(tmp_path, process, environment(**env))
    for word in named:
        assert word in said


def test_an_unknown_key_of_the_yaml_file_is_named_with_what_may_be_meant(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("log_levle: DEBUG\n")
    env = environment(**GOOD, APP_CONFIG_PATH=str(config))
    said = refused(tmp_path, "data.api", env)
    assert "log_levle" in said
    assert "log_level" in said.replace("log_levle", "")
