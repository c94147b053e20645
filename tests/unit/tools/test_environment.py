"""An installation into `.venv` that did not come to its end is repaired by the next run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.installers import Installer, kill, output

ROOT = Path(__file__).parents[3]


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path)


class Project:
    """A folder with `tools/environment.py` in it."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / ".venv"
        self.pyproject = folder / "pyproject.toml"
        self.program = (folder / "tools" / "environment.py", "dev")
        self.program[0].parent.mkdir(parents=True)
        shutil.copy2(ROOT / "tools" / "environment.py", self.program[0])
        self.pyproject.write_text("[dependency-groups]\ndev = ['pytest']\n")
        (folder / "constraints.txt").touch()

    def is_whole(self) -> bool:
        """Whether one installation, the last one, wrote everything there is."""
        half, whole = self.venv / "half", self.venv / "whole"
        return whole.exists() and half.read_text() == whole.read_text()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def run(installer: Installer, project: Project) -> str:
    process = installer.start(project.program)
    said = output(process)
    assert process.returncode == 0, said
    return said


def test_what_is_installed_is_not_installed_again(installer: Installer, project: Project) -> None:
    run(installer, project)

    assert run(installer, project) == ""
    assert len(installer.started()) == 1
    assert project.is_whole()


def test_an_installation_that_was_killed_is_begun_anew(
    installer: Installer, project: Project
) -> None:
    with installer.that("wait"):
        kill(installer.start_and_wait(project.program), with_its_children=True)
        (project.venv / "left").touch()

    run(installer, project)

    assert project.is_whole()
    assert not (project.venv / "left").exists()
    assert run(installer, project) == ""


def test_an_installer_that_outlives_its_run_is_waited_for(
    installer: Installer, project: Project
) -> None:
    with installer.that("wait"):
        kill(installer.start_and_wait(project.program), with_its_children=False)
        next_run = installer.start(project.program)
        assert next_run.stdout is not None
        assert "Waiting for another process" in next_run.stdout.readline()
        assert len(installer.started()) == 1
    output(next_run)

    assert len(installer.started()) == 2
    assert project.is_whole()


def test_two_runs_at_once_install_once(installer: Installer, project: Project) -> None:
    with installer.that("wait"):
        runs = [installer.start_and_wait(project.program), installer.start(project.program)]
        assert runs[1].stdout is not None
        assert "Waiting for another process" in runs[1].stdout.readline()
    said = [output(process) for process in runs]

    assert [process.returncode for process in runs] == [0, 0], said
    assert len(installer.started()) == 1
    assert project.is_whole()


def test_a_run_goes_on_when_venv_is_removed_while_it_waits(
    installer: Installer, project: Project
) -> None:
    with installer.that("wait"):
        first = installer.start_and_wait(project.program)
        second = installer.start(project.program)
        assert second.stdout is not None
        assert "Waiting for another process" in second.stdout.readline()
        shutil.rmtree(project.venv)
        kill(first, with_its_children=True)
    said = output(second)

    assert second.returncode == 0, said
    assert project.is_whole()


def test_what_failed_is_installed_over_by_the_next_run(
    installer: Installer, project: Project
) -> None:
    run(installer, project)
    project.pyproject.write_text("[dependency-groups]\ndev = ['pytest>=9']\n")
    with installer.that("fail"):
        failed = installer.start(project.program)
        assert "could not be installed" in output(failed)
        assert failed.returncode == 1
    (project.venv / "by-hand").touch()

    run(installer, project)

    assert "--reinstall" not in installer.started()[1]
    assert "--reinstall" in installer.started()[2]
    assert project.is_whole()
    assert (project.venv / "by-hand").exists()


def test_what_was_installed_before_an_interruption_is_not_taken_for_complete(
    installer: Installer, project: Project
) -> None:
    run(installer, project)
    before = project.pyproject.read_text()
    project.pyproject.write_text("[dependency-groups]\ndev = ['pytest<8']\n")
    with installer.that("wait"):
        kill(installer.start_and_wait(project.program), with_its_children=True)
    project.pyproject.write_text(before)

    run(installer, project)

    assert len(installer.started()) == 3
    assert project.is_whole()


def test_a_venv_is_made_again_by_a_python_that_is_in_it(
    installer: Installer, project: Project
) -> None:
    with installer.that("wait"):
        kill(installer.start_and_wait(project.program), with_its_children=True)
    run_by_itself = installer.start(
        (
            "-c",
            "import os, sys; os.execv(sys.argv[1], sys.argv[1:])",
            project.venv / "bin" / "python",
            *project.program,
        )
    )
    said = output(run_by_itself)

    assert run_by_itself.returncode == 0, said
    answer = subprocess.check_output([project.venv / "bin" / "python", "-c", "print('runs')"])
    assert answer == b"runs\n"
