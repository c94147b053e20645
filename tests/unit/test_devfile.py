"""How a second terminal finds the servers of a running `mainstay dev`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainstay.devfile import find, read
from mainstay.processes.state import Lock

DATA = {"APP_ENV": "dev", "DATABASE_URL": "postgresql://data", "REDIS_URL": "redis://r"}
BOOKS = {"APP_ENV": "dev", "DATABASE_URL": "postgresql://books", "REDIS_URL": "redis://r"}
SHARED = {"APP_ENV": "dev", "REDIS_URL": "redis://r"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose dev.json is written, by a supervisor that may be alive or not."""
    (tmp_path / ".mainstay").mkdir()
    services = {}
    for name, env in (("data", DATA), ("books", BOOKS)):
        folder = tmp_path / "services" / name / "inner"
        folder.mkdir(parents=True)
        services[name] = {"path": str(folder.parent), "env": env, "processes": {}}
    (tmp_path / ".mainstay/dev.json").write_text(json.dumps({"pid": 1, "services": services}))
    return tmp_path


@pytest.fixture
def running(project: Path) -> Iterator[Path]:
    lock = Lock(project / ".mainstay")
    lock.take()
    yield project
    lock.release()


def test_the_folder_chooses_the_service(running: Path) -> None:
    assert find(running / "services/data/inner") == DATA
    assert find(running / "services/books") == BOOKS


def test_the_name_chooses_the_service_wherever_one_is(running: Path) -> None:
    assert find(running, "books") == BOOKS
    assert find(running / "services/data", "books") == BOOKS
    assert find(running / "services/data", "unknown") == DATA


def test_outside_of_all_services_there_is_what_they_have_in_common(running: Path) -> None:
    assert find(running) == SHARED


def test_a_service_that_does_not_run_is_not_told_the_database_of_one_that_does(
    running: Path,
) -> None:
    file = running / ".mainstay/dev.json"
    document = json.loads(file.read_text())
    document["services"]["data"]["env"] = SHARED
    file.write_text(json.dumps(document))
    for place in ("services/data", "services/books", "."):
        assert find(running / place, "data") == SHARED
    assert find(running / "services/data") == find(running) == SHARED


def test_the_working_folder_is_where_to_look_unless_told(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(running / "services/data")
    assert find() == DATA


def test_what_a_killed_supervisor_left_is_not_believed(project: Path) -> None:
    assert find(project / "services/data") == {}
    (project / ".mainstay/lock").touch()
    assert find(project / "services/data") == {}
    assert read(project) is None


def test_without_a_project_there_is_nothing(tmp_path: Path) -> None:
    assert find(tmp_path) == {}
    assert find(tmp_path / "missing") == {}


def test_a_file_that_is_not_whole_is_nothing(running: Path) -> None:
    (running / ".mainstay/dev.json").write_text('{"services": ')
    assert find(running) == {}
    (running / ".mainstay/dev.json").write_text("[]")
    assert find(running) == {}


def test_a_project_without_services_has_nothing_in_common(running: Path) -> None:
    (running / ".mainstay/dev.json").write_text('{"services": {}}')
    assert find(running) == {}
