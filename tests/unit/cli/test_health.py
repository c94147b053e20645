"""`mainstay health` tells of each process whether it answers, is well and goes on."""

from __future__ import annotations

import http.server
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mainstay.cli import app
from mainstay.processes import manifest
from mainstay.processes.environment import heartbeat_file
from mainstay.processes.ports import steady_port
from mainstay.processes.state import state_folder


class Process:
    """Answers the health routes as it is told to."""

    def __init__(self) -> None:
        self.status = {"/healthz": 200, "/health": 200}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = outer.status[self.path]
                word = "healthy" if status == 200 else "unhealthy"
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps({"checks": {"database": {"status": word}}}).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.close()


@pytest.fixture
def project(tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.joinpath("mainstay.toml").write_text(
        f"""
[service.shop]
path = "."
[service.shop.process.worker]
kind = "tasks"
target = "shop.worker:app"
metrics_port = {process.port}
"""
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_process_that_answers_well_is_healthy(project: Path) -> None:
    result = CliRunner().invoke(app, ["health", "shop.worker"])
    assert result.exit_code == 0
    assert result.output == "shop.worker  healthy\n"


@pytest.mark.parametrize("path", ["/healthz", "/health"])
def test_a_process_that_says_so_is_unhealthy(project: Path, process: Process, path: str) -> None:
    process.status[path] = 503
    result = CliRunner().invoke(app, ["health", "--json"])
    assert result.exit_code == 1
    (told,) = json.loads(result.output)["processes"]
    assert (told["process"], told["healthy"]) == ("shop.worker", False)
    assert told["detail"] == f"{path} answers 503: database"


@pytest.mark.parametrize("source", ["environment", "file"])
def test_a_process_that_does_not_answer_where_it_should_is_unhealthy(
    project: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "environment":
        monkeypatch.setenv("APP_METRICS_PORT", str(steady_port()))
    else:
        (worker,) = manifest.load(project / "mainstay.toml").services
        (worker.path / ".env").write_text(f"APP_METRICS_PORT={steady_port()}\n")
    result = CliRunner().invoke(app, ["health", "worker"])
    assert result.exit_code == 1
    assert "does not answer" in result.output


def test_a_process_whose_heart_has_stopped_is_unhealthy_though_it_answers(project: Path) -> None:
    (worker,) = manifest.load(project / "mainstay.toml").processes
    beat = heartbeat_file(state_folder(project), worker)
    beat.parent.mkdir(parents=True)
    beat.touch()
    assert CliRunner().invoke(app, ["health"]).exit_code == 0
    os.utime(beat, (time.time() - 60, time.time() - 60))
    result = CliRunner().invoke(app, ["health"])
    assert result.exit_code == 1
    assert re.search(r"no heartbeat for \d+ s", result.output)
