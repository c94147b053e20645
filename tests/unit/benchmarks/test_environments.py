"""An environment of the benchmarks is complete, or it is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.installers import Installer, kill, output

ROOT = Path(__file__).parents[3]
PREPARE = """
import sys
from pathlib import Path
from benchmarks import environments
environments.WORKSHOP = Path(sys.argv[1])
environment = environments.Environment("peers", ("flask",), sys.argv[2])
environment.prepare(upgrade=sys.argv[3:] == ["upgrade"])
"""


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bench" / "peers"


def prepare(folder: Path, decides: str = "", *options: str) -> tuple[str | Path, ...]:
    return ("-c", PREPARE, folder.parent, decides, *options)


def is_whole(folder: Path) -> bool:
    half, whole = folder / "half", folder / "whole"
    return whole.exists() and half.read_text() == whole.read_text()


def test_an_environment_is_made_once(installer: Installer, folder: Path) -> None:
    said = [output(installer.start(prepare(folder), ROOT)) for _ in range(2)]

    assert "installing" in said[0]
    assert said[1] == ""
    assert is_whole(folder)


def test_an_environment_is_made_again_when_its_installation_was_killed(
    installer: Installer, folder: Path
) -> None:
    output(installer.start(prepare(folder, "old"), ROOT))
    with installer.that("wait"):
        kill(installer.start_and_wait(prepare(folder, "new"), ROOT), with_its_children=True)
        (folder / "left").touch()

    process = installer.start(prepare(folder, "old"), ROOT)

    assert "installing" in output(process)
    assert is_whole(folder)
    assert not (folder / "left").exists()


def test_an_environment_is_made_again_when_its_installation_has_failed(
    installer: Installer, folder: Path
) -> None:
    with installer.that("fail"):
        failed = installer.start(prepare(folder), ROOT)
        assert "could not be made" in output(failed)
        assert failed.returncode == 1

    output(installer.start(prepare(folder), ROOT))

    assert is_whole(folder)


@pytest.mark.parametrize("is_killed", [False, True])
def test_two_runs_at_once_never_install_at_once(
    installer: Installer, folder: Path, is_killed: bool
) -> None:
    with installer.that("wait"):
        first = installer.start_and_wait(prepare(folder), ROOT)
        if is_killed:
            kill(first, with_its_children=False)
        second = installer.start(prepare(folder), ROOT)
        assert second.stdout is not None
        assert "Waiting for another process" in second.stdout.readline()
        assert len(installer.started()) == 1
    said = output(second)
    if not is_killed:
        output(first)

    assert second.returncode == 0, said
    assert len(installer.started()) == (2 if is_killed else 1)
    assert is_whole(folder)


def test_an_upgrade_makes_an_environment_again(installer: Installer, folder: Path) -> None:
    output(installer.start(prepare(folder), ROOT))

    output(installer.start(prepare(folder, "", "upgrade"), ROOT))

    assert len(installer.started()) == 2
    assert is_whole(folder)


def test_an_upgrade_is_not_done_again_by_a_run_that_waited_for_it(
    installer: Installer, folder: Path
) -> None:
    output(installer.start(prepare(folder), ROOT))
    with installer.that("wait"):
        first = installer.start_and_wait(prepare(folder, "", "upgrade"), ROOT)
        second = installer.start(prepare(folder, "", "upgrade"), ROOT)
        assert second.stdout is not None
        assert "Waiting for another process" in second.stdout.readline()
    output(first)
    said = output(second)

    assert second.returncode == 0, said
    assert len(installer.started()) == 2
    assert is_whole(folder)
