"""`mainstay run` from outside: the same processes, against servers that are named."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from mainstay.processes import facts
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.integration.processes.conftest import Project


def test_one_process_takes_the_place_of_the_command(project: Project) -> None:
    running = project.start("run", "data.api", APP_ENV="test")
    project.says("up")
    assert f"up {running.pid}" in project.said
    assert "mainstay.processes.start" in (facts.command_line(running.pid) or "")
    assert project.ask("data", "APP_SERVICE_NAME") == "data"
    assert project.ask("data", "MAINSTAY_EMBEDDED") == "0"
    running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE_SECONDS) == 0


def test_one_process_takes_its_port_from_the_environment(project: Project) -> None:
    project.start("run", "data.api", APP_METRICS_PORT=str(project.ports["books"]), APP_ENV="test")
    project.says("up")
    assert project.ask("books", "MAINSTAY_PROCESS") == "data.api"


def test_several_processes_share_a_supervisor_and_their_lines_stay_as_they_are(
    project: Project,
) -> None:
    running = project.start("run", APP_ENV="test")
    project.says("up", times=2)
    assert project.said.startswith("up ")
    running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE_SECONDS) == 0
    assert project.said.count("drained") == 2
    eventually(lambda: project.processes() == set())


def test_a_killed_supervisor_takes_everything_with_it(project: Project) -> None:
    running = project.start("run", APP_ENV="test")
    project.says("up", times=2)
    running.kill()
    running.wait()
    eventually(lambda: project.processes() == set())


def test_servers_that_are_named_nowhere_are_exit_code_78(project: Project) -> None:
    text = project.manifest.read_text()
    project.manifest.write_text(
        text.replace('path = "services/data"', 'path = "services/data"\ndatabase = true')
    )
    code, said = project.do("run", "data.api")
    assert code == 78
    assert "data needs DATABASE_URL" in said
    assert "mainstay dev" in said


def test_a_manifest_that_does_not_fit_is_exit_code_78(project: Project) -> None:
    project.manifest.write_text("[service.data]\nport = 1\n")
    code, said = project.do("run")
    assert code == 78
    assert said.startswith(f"mainstay: {project.manifest}: [service.data] port is not known")


def test_a_process_that_is_not_declared_is_usage(project: Project) -> None:
    code, said = project.do("run", "wrong")
    assert code == 2
    assert "choose from: data.api, books.api" in said


def test_an_unknown_option_is_usage(project: Project) -> None:
    code, said = project.do("run", "--wrong")
    assert code == 2
    assert "No such option" in said
