"""``mainstay config``, as one types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mainstay.cli import app
from mainstay.errors import Misconfigured
from tests.waiting import PATIENCE_SECONDS

CANARY = "canary-5e1f0c2b"
MANIFEST = """
[service.orders]
path = "services/orders"
prefix = "ORDERS_"
[service.orders.process.api]
kind = "http"
target = "orders.api:app"
port = 8000

[service.plain]
path = "services/plain"
prefix = "PLAIN_"
[service.plain.process.job]
kind = "loop"
run = "true"

[service.named]
path = "services/named"
settings = "named_settings:Chosen"
[service.named.process.job]
kind = "loop"
run = "true"
"""
ORDERS = """
import mainstay
class Settings(mainstay.Settings, prefix="ORDERS_"):
    service_name: str = "orders"
    partner_token: str | None = None
"""
NAMED = """
import mainstay
class Chosen(mainstay.Settings):
    service_name: str = "chosen"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mainstay.toml").write_text(MANIFEST)
    package = tmp_path / "services" / "orders" / "orders"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "settings.py").write_text(ORDERS)
    (tmp_path / "services" / "plain").mkdir()
    (tmp_path / "services" / "named").mkdir()
    (tmp_path / "services" / "named" / "named_settings.py").write_text(NAMED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAINSTAY_EMBEDDED", "0")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("orders", "named_settings"):
            del sys.modules[name]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", *arguments])


def settings_of(result: Result, service: str) -> dict[str, Any]:
    services = {each["service"]: each["settings"] for each in json.loads(result.stdout)["services"]}
    settings: dict[str, Any] = services[service]
    return settings


def test_a_table_shows_value_origin_and_variables(project: Path) -> None:
    (project / "services" / "orders" / "config.yml").write_text("port: 8123\n")
    result = run("--service", "orders")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()[1:]}
    assert rows["port"] == ["port", "8123", "config.yml", "ORDERS_PORT"]
    assert rows["service_name"][1:3] == ["orders", "default"]
    assert rows["redis_url"][1:] == ["-", "default", "ORDERS_REDIS_URL,", "REDIS_URL"]
    assert "or POSTGRES_HOST …" in result.stdout


def test_a_slip_of_the_pen_in_a_variables_name_is_pointed_out(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_PROT", "8123")
    monkeypatch.setenv("ORDERS_PARTNER_TOKEN_FILE", os.devnull)
    result = run("--service", "orders")
    assert result.exit_code == 0
    assert result.stderr == (
        "note: ORDERS_PROT is set and no setting is read from it; did you mean 'ORDERS_PORT'?\n"
    )


def test_json_has_every_service_and_typed_values(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_PORT", "8123")
    result = run("--json")
    assert settings_of(result, "orders")["port"] == {
        "value": 8123,
        "origin": "environment ORDERS_PORT",
        "variables": ["ORDERS_PORT"],
        "parts": [],
    }
    assert settings_of(result, "orders")["redis_url"]["value"] is None
    assert settings_of(result, "orders")["rabbitmq_url"]["parts"] == [
        "RABBITMQ_HOST RABBITMQ_PORT RABBITMQ_USER RABBITMQ_PASSWORD RABBITMQ_PASS".split()
    ]


def test_the_settings_class_is_found_by_convention_by_name_or_made_of_the_prefix(
    project: Path,
) -> None:
    result = run("--json")
    assert "partner_token" in settings_of(result, "orders")
    assert settings_of(result, "named")["service_name"]["value"] == "chosen"
    assert settings_of(result, "plain")["port"]["variables"] == ["PLAIN_PORT"]


def test_the_manifests_environment_counts_and_ones_own_wins(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = MANIFEST.replace('prefix = "PLAIN_"', 'prefix = "PLAIN_"\nenv = {PLAIN_COMMIT = "toml"}')
    (project / "mainstay.toml").write_text(text)
    assert settings_of(run("--json"), "plain")["commit"]["value"] == "toml"
    monkeypatch.setenv("PLAIN_COMMIT", "mine")
    assert settings_of(run("--json"), "plain")["commit"]["value"] == "mine"


def test_secrets_are_masked_everywhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDERS_PARTNER_TOKEN", CANARY)
    monkeypatch.setenv("JWT_SECRET_KEY", CANARY * 3)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{CANARY}@db/d")
    for arguments in ((), ("--json",), ("--check",)):
        result = run(*arguments)
        assert result.exit_code == 0
        assert CANARY not in result.output
    assert settings_of(run("--json"), "orders")["jwt_secret_key"]["value"] == "***"


def test_check_says_nothing_when_all_is_well(project: Path) -> None:
    result = run("--check")
    assert (result.exit_code, result.output) == (0, "")


def test_check_names_what_is_wrong_in_every_service(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_PORT", "x")
    monkeypatch.setenv("PLAIN_PORT", "y")
    refused = run("--check").exception
    assert isinstance(refused, Misconfigured)
    assert "orders: bad configuration: port: 'x' from environment ORDERS_PORT" in str(refused)
    assert "plain: bad configuration: port: 'y' from environment PLAIN_PORT" in str(refused)


def test_bad_configuration_is_exit_code_78(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from mainstay.cli import main; main()", "config", "--check"],
        env={**os.environ, "ORDERS_PORT": "x"},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 78
    assert "ORDERS_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_is_not_there_is_named_with_those_that_are(project: Path) -> None:
    refused = run("--service", "books").exception
    assert isinstance(refused, Misconfigured)
    assert "'books' is no service of" in str(refused)
    assert "choose from: orders, plain, named" in str(refused)


def test_a_settings_class_that_is_named_and_not_there_is_refused(project: Path) -> None:
    (project / "mainstay.toml").write_text(MANIFEST.replace(":Chosen", ":Gone"))
    refused = run().exception
    assert isinstance(refused, Misconfigured)
    assert "[service.named] settings = 'named_settings:Gone' names no settings class" in str(
        refused
    )


def test_an_error_inside_a_settings_module_is_not_hidden(project: Path) -> None:
    (project / "services/orders/orders/settings.py").write_text("import no_such_module_at_all\n")
    assert isinstance(run().exception, ModuleNotFoundError)


def test_outside_a_project_it_shows_what_every_service_has(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    result = run("--json")
    assert settings_of(result, "python-service")["port"]["value"] == 8000
    assert isinstance(run("--service", "orders").exception, Misconfigured)


def test_a_broken_manifest_is_not_taken_for_none(project: Path) -> None:
    (project / "mainstay.toml").write_text("[service\n")
    refused = run().exception
    assert isinstance(refused, Misconfigured)
    assert "is not valid TOML" in str(refused)


def test_examples_are_written_and_found_stale(project: Path) -> None:
    page = project / "docs" / "settings.md"
    options = ("--write-examples", "--reference", str(page))
    result = run(*options, "--check")
    assert result.exit_code == 1
    assert "services/orders/.env.example is stale" in result.stderr
    assert not page.exists()

    assert run(*options).exit_code == 0
    assert "#ORDERS_PARTNER_TOKEN=" in (project / "services/orders/.env.example").read_text()
    assert "#port: 8000" in (project / "services/plain/config.yml.example").read_text()
    assert page.read_text().startswith("# Settings\n")
    assert (run(*options, "--check").exit_code, run(*options).output) == (0, "")

    page.write_text(page.read_text() + "by hand\n")
    result = run(*options, "--check")
    assert (result.exit_code, result.stderr.count("is stale")) == (1, 1)


def test_examples_do_not_need_settings_that_load(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_PORT", "x")
    assert run("--write-examples").exit_code == 0
