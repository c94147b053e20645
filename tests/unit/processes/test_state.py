"""What a project keeps, and the lock that keeps two supervisors of it apart."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mainstay.errors import MainstayError
from mainstay.processes.state import (
    Lock,
    kept_secrets,
    project_mark,
    reset,
    state_folder,
    write_private,
)
from tests.waiting import PATIENCE_SECONDS, join


def test_the_state_folder_is_private_and_no_part_of_the_repository(tmp_path: Path) -> None:
    folder = state_folder(tmp_path)
    assert folder == tmp_path / ".mainstay"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"
    assert state_folder(tmp_path) == folder


def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / ".mainstay").touch()
    with pytest.raises(MainstayError, match=r"\.mainstay cannot be used"):
        state_folder(tmp_path)


def test_projects_are_told_apart_by_their_path(tmp_path: Path) -> None:
    assert project_mark(tmp_path) == project_mark(tmp_path / "x" / "..")
    assert project_mark(tmp_path) != project_mark(tmp_path / "x")


def test_secrets_are_made_once_and_kept_for_this_user(tmp_path: Path) -> None:
    first = kept_secrets(tmp_path, "jwt_secret_key")
    second = kept_secrets(tmp_path, "jwt_secret_key", "secret_key")
    assert second["jwt_secret_key"] == first["jwt_secret_key"]
    assert min(map(len, second.values())) >= 32
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_secrets_that_cannot_be_read_are_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(MainstayError, match=r"secrets\.json is not JSON"):
        kept_secrets(tmp_path, "secret_key")


def test_a_private_file_is_whole_and_private_also_where_one_was(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "file"
    path.parent.mkdir()
    path.touch(0o644)
    write_private(path, "content")
    assert path.read_text() == "content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_reset_leaves_the_lock_alone(tmp_path: Path) -> None:
    (tmp_path / "run" / "data-api").mkdir(parents=True)
    (tmp_path / "secrets.json").touch()
    (tmp_path / "lock").touch()
    (tmp_path / "link").symlink_to("/")
    reset(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_a_lock_that_is_held_names_its_holder(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    held.take()
    with pytest.raises(MainstayError, match=f"already runs in .* as process {os.getpid()}: stop"):
        Lock(tmp_path).take(patience_seconds=0.05)
    held.release()
    held.release()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path; from mainstay.processes.state import Lock; "
        "Lock(Path(sys.argv[1])).take(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert (tmp_path / "lock").exists()
    lock = Lock(tmp_path)
    lock.take(patience_seconds=PATIENCE_SECONDS)
    lock.release()


def test_only_one_of_many_who_come_at_once_holds_the_lock(tmp_path: Path) -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def take_often() -> None:
        nonlocal inside, most
        for _ in range(20):
            lock = Lock(tmp_path)
            lock.take(patience_seconds=PATIENCE_SECONDS)
            with guard:
                inside += 1
                most = max(most, inside)
            with guard:
                inside -= 1
            lock.release()

    threads = [threading.Thread(target=take_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    join(*threads)
    assert most == 1
