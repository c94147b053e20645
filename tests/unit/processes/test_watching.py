"""Which change starts which service again."""

from __future__ import annotations

import itertools
from pathlib import Path
from queue import SimpleQueue

import pytest

from mainstay.processes.watching import Watcher, affected, is_source, library_folder
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

ROOT = Path("/project")
SERVICES = {"data": ROOT / "services/data", "books": ROOT / "services/books", "all": ROOT}
LIBRARY = Path("/library/mainstay")


@pytest.mark.parametrize(
    ("changed", "services"),
    [
        ("services/data/data/work.py", {"data"}),
        ("services/books/config.yml", {"books"}),
        ("README.py", {"all"}),
        ("/elsewhere/x.py", set()),
        ("/library/mainstay/logs/lines.py", {"data", "books", "all"}),
    ],
)
def test_a_change_concerns_the_innermost_service(changed: str, services: set[str]) -> None:
    assert affected([ROOT / changed], SERVICES, LIBRARY) == services


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("data/work.py", True),
        (".env", True),
        ("config.yml", True),
        ("templates/page.html", True),
        ("data/__pycache__/work.cpython-311.py", False),
        (".mainstay/run/x.json", False),
        (".venv/lib/x.py", False),
        (".git/config.toml", False),
        ("notes.txt", False),
    ],
)
def test_only_what_a_process_may_read_is_a_source(path: str, matters: bool) -> None:
    assert is_source(ROOT / path, [ROOT]) is matters


def test_the_folders_above_a_project_may_have_any_name() -> None:
    root = Path("/builds/dist/project")
    assert is_source(root / "work.py", [root])


def test_the_librarys_own_folder_is_known() -> None:
    assert (library_folder() / "processes" / "watching.py").is_file()


def test_a_change_is_told_once_it_is_quiet(tmp_path: Path) -> None:
    told: SimpleQueue[set[Path]] = SimpleQueue()
    watcher = Watcher([tmp_path, tmp_path / "missing"], changed=told.put, failed=pytest.fail)
    watcher.start()
    work = tmp_path / "work.py"
    # Watching begins a moment after the start, so the file is touched until that is noticed.
    numbers = itertools.count()

    def is_noticed() -> bool:
        work.write_text(f"# {next(numbers)}\n")
        return not told.empty()

    eventually(is_noticed, every_seconds=0.05)
    assert told.get(timeout=PATIENCE_SECONDS) == {work}
    watcher.stop()
    watcher.stop()


def test_a_system_that_can_watch_no_more_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path, **options: object) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.watch", refuse)
    told: SimpleQueue[str] = SimpleQueue()
    watcher = Watcher([tmp_path], changed=lambda _: None, failed=told.put)
    watcher.start()
    assert told.get(timeout=PATIENCE_SECONDS) == "OS file watch limit reached"
