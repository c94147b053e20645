"""`mainstay db` looks after the databases of a project's services."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mainstay.cli import db
from mainstay.cli.services import selected
from mainstay.errors import Misconfigured
from mainstay.resources.sqlalchemy import Database, inbox
from mainstay.resources.sqlalchemy.status import TaskStatuses

TABLES = ("inbox", "outbox", "idempotency_keys", "workflows", "task_status", "dead_letters")

MANIFEST = """
[service.shop]
path = "services/shop"
database = true
env = {{ DATABASE_URL = "sqlite:///{folder}/shop.db", APP_ENV = "test" }}
[service.shop.process.worker]
kind = "tasks"
run = "true"

[service.stock]
path = "services/stock"
database = true
env = {{ DATABASE_URL = "sqlite:///{folder}/stock.db", APP_ENV = "test" }}

[service.ticker]
path = "services/ticker"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mainstay.toml").write_text(MANIFEST.format(folder=tmp_path))
    for name in ("shop", "stock", "ticker"):
        (tmp_path / "services" / name).mkdir(parents=True)
    for variable in ("DATABASE_URL", "APP_DATABASE_URL", "APP_ENV"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MAINSTAY_EMBEDDED", "0")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before


def run(*words: str) -> Result:
    return CliRunner().invoke(db.app, list(words), catch_exceptions=False)


def test_every_service_with_a_database_is_brought_to_head(project: Path) -> None:
    done = run("upgrade")
    assert done.exit_code == 0
    assert "shop: mainstay: applied 0001" in done.output
    assert "stock: mainstay: applied 0001" in done.output
    assert (project / "shop.db").exists()
    assert "shop: the schema is up to date" in run("upgrade").output
    assert "shop: mainstay at 0007 (newest)" in run("current").output


def test_one_service_can_be_named_or_stood_in(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [each.name for each in selected(with_database=True)] == ["shop", "stock"]
    assert [each.name for each in selected()] == ["shop", "stock", "ticker"]
    assert [each.name for each in selected("ticker", with_database=True)] == ["ticker"]
    monkeypatch.chdir(project / "services" / "stock")
    (stock,) = selected()
    assert (stock.name, stock.path) == ("stock", project / "services" / "stock")
    assert stock.settings.database_url == f"sqlite:///{project}/stock.db"
    with pytest.raises(Misconfigured, match="nobody"):
        selected("nobody")


def test_outside_of_a_project_the_environment_names_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_ENV", "test")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/alone.db")
    monkeypatch.setenv("SERVICE_NAME", "alone")
    (alone,) = selected()
    assert (alone.name, alone.path) == ("alone", tmp_path)
    assert "alone: mainstay: applied 0001" in run("upgrade").output


def test_a_database_that_is_behind_fails_the_check(project: Path) -> None:
    behind = run("check", "--service", "shop")
    assert behind.exit_code == 1
    assert "shop: mainstay: revision 0001 is not applied" in behind.output
    run("upgrade", "--service", "shop")
    good = run("check", "--service", "shop", "--json")
    assert (good.exit_code, json.loads(good.output)) == (0, {"shop": []})
    assert "agree" in run("check", "--service", "shop").output


def test_where_a_database_stands_is_one_json_document(project: Path) -> None:
    assert json.loads(run("current", "--json").output)["stock"] == [
        {
            "tree": "mainstay",
            "current": [],
            "heads": ["0007"],
            "pending": ["0001", "0002", "0003", "0004", "0005", "0006", "0007"],
            "unknown": [],
        }
    ]


def test_what_concerns_one_service_asks_which(project: Path) -> None:
    with pytest.raises(Misconfigured, match="--service: shop, stock"):
        run("revision", "-m", "more")
    with pytest.raises(Misconfigured, match=r"alembic\.ini"):
        run("downgrade", "--service", "shop")


HELD_BY_AN_APPLICATION = """
from flask import request
class App: pass
main = App()
main.service = Service(Settings, Database(models='{}.tables'))
"""


def application(project: Path, name: str, source: str) -> Path:
    """Make a package of the service stock, and what its process runs of it."""
    package = project / "services" / "stock" / name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tables.py").write_text(
        "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\n"
        "class Base(DeclarativeBase): pass\n"
        "class Item(Base):\n"
        "    __tablename__ = 'items'\n"
        "    id: Mapped[int] = mapped_column(primary_key=True)\n"
    )
    (package / "api.py").write_text(
        "from mainstay import Service, Settings\n"
        "from mainstay.resources.sqlalchemy import Database\n" + source
    )
    with (project / "mainstay.toml").open("a") as manifest:
        manifest.write(f'[service.stock.process.api]\nkind = "rpc"\ntarget = "{name}.api:main"\n')
    return package


@pytest.mark.parametrize(
    "holds",
    [
        "service = Service(Settings, Database(models='{}.tables'))",
        "database = Database(models=['{}.tables'])",
        HELD_BY_AN_APPLICATION,
    ],
)
def test_a_service_with_models_and_no_migrations_is_led_to_them(
    project: Path, holds: str, request: pytest.FixtureRequest
) -> None:
    name = f"stock_{abs(hash(holds))}"
    application(project, name, holds.format(name))
    assert "stock: the schema is" not in run("upgrade", "--service", "stock").output
    upgraded = run("upgrade", "--service", "stock").output
    assert "has no migrations: `mainstay db init` writes it" in upgraded
    lacking = run("check", "--service", "stock")
    assert lacking.exit_code == 1
    assert "stock: add table items" in lacking.output
    with pytest.raises(Misconfigured, match="mainstay db init"):
        run("revision", "-m", "first", "--service", "stock")
    assert "alembic.ini" in run("init", "--service", "stock").output
    assert "wrote" in run("revision", "-m", "first", "--service", "stock").output
    assert run("check", "--service", "stock").exit_code == 1  # not applied
    run("upgrade", "--service", "stock")
    agreed = run("check", "--service", "stock")
    assert (agreed.exit_code, "agree" in agreed.output) == (0, True)
    with pytest.raises(Misconfigured, match=r"alembic\.ini.* already"):
        run("init", "--service", "stock")


def test_models_that_nothing_names_are_asked_for(project: Path) -> None:
    with pytest.raises(Misconfigured, match="--models"):
        run("init", "--service", "shop")
    assert not (project / "services" / "shop" / "alembic.ini").exists()
    run("init", "--service", "shop", "--models", "shop.tables", "--models", "shop.more")
    env = (project / "services" / "shop" / "migrations" / "env.py").read_text()
    assert 'models=["shop.tables", "shop.more"]' in env


def test_a_process_that_cannot_be_imported_is_no_agreement(project: Path) -> None:
    application(project, "stock_broken", "raise ZeroDivisionError('on purpose')\n")
    run("upgrade", "--service", "stock")
    with pytest.raises(Misconfigured, match=r"stock_broken\.api cannot be imported.*on purpose"):
        run("check", "--service", "stock")


def test_a_service_without_a_database_says_which_variable_names_one(project: Path) -> None:
    with pytest.raises(Misconfigured, match="DATABASE_URL"):
        run("upgrade", "--service", "ticker")


def test_a_purge_tells_what_it_deleted_and_leaves_what_is_young(project: Path) -> None:
    run("upgrade")
    database = Database(url=f"sqlite:///{project}/shop.db")
    inbox.claim(database, "young")
    TaskStatuses(database).succeeded("young")
    database.close()
    nothing = dict.fromkeys(TABLES, 0)
    assert json.loads(run("purge", "--json").output) == {"shop": nothing, "stock": nothing}
    assert "shop: deleted 0 of inbox" in run("purge").output
