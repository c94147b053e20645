"""Where migrations are looked for; what they do is in tests/integration/database."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.resources.sqlalchemy import migrate


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("layout", ["shop_flat", "src/shop_below"])
def test_a_services_folder_is_found_around_the_package_of_its_models(
    layout: str, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / layout
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "alembic.ini").touch()
    monkeypatch.syspath_prepend(str(package.parent))
    assert migrate.folder_of([f"{package.name}.models"]) == tmp_path


def test_else_it_is_the_working_folder(elsewhere: Path) -> None:
    assert migrate.folder_of(["no_such_package.models"]) is None
    (elsewhere / "alembic.ini").touch()
    assert migrate.folder_of([]) == elsewhere


def test_a_database_in_memory_needs_no_lock() -> None:
    migrate.upgrade("sqlite://", say=lambda line: None)
