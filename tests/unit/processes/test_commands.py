"""The command line of each kind of process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mainstay.processes.commands import Serving, command
from mainstay.processes.manifest import ProcessSpec

START = (sys.executable, "-m", "mainstay.processes.start")


def line(*, alone: bool = False, **given: Any) -> tuple[str, ...]:
    process = ProcessSpec(service="data", name="it", **given)
    return command(process, host="127.0.0.1", grace_seconds=25, alone=alone)


def test_an_http_process_is_served_as_its_target_wants_to_be_called() -> None:
    found = line(kind="http", target="data.api:app", port=8000, workers=2, options=("--a", "b"))
    assert found[:6] == (*START, "data.api:app", "--", "mainstay.processes.serve")
    assert " ".join(found[6:]) == (
        "data.api:app --host 127.0.0.1 --port 8000 --workers 2 --grace 25 --a b"
    )


def serving(workers: int) -> tuple[str, ...]:
    return Serving("data.api:app", "127.0.0.1", 8000, workers, 25).by_uvicorn


def test_uvicorn_logs_as_the_service_does() -> None:
    found = serving(workers=2)
    assert found[:2] == ("uvicorn", "data.api:app")
    text = " ".join(found)
    assert "--host 127.0.0.1 --port 8000 --workers 2" in text
    assert "--no-access-log --no-server-header --no-proxy-headers" in text
    assert "--timeout-graceful-shutdown 25 --timeout-keep-alive 75" in text
    configuration = json.loads(Path(found[found.index("--log-config") + 1]).read_text())
    assert configuration == {"version": 1, "incremental": True}


def test_a_lone_uvicorn_leaves_the_word_to_the_service() -> None:
    assert "--log-level warning" in " ".join(serving(workers=1))
    assert "--log-level" not in serving(workers=2)


def test_a_worker_is_celerys_own_command_line_with_what_is_added() -> None:
    found = line(kind="tasks", target="data.worker:app", concurrency=4, options=("--queues", "a,b"))
    assert found[3:10] == (
        *("data.worker:app", "--", "celery", "-q", "-A", "data.worker:app", "worker"),
    )
    assert found[-4:] == ("--concurrency", "4", "--queues", "a,b")
    assert "data.it@%h" in found


def test_a_worker_that_is_alone_does_not_wait_for_others() -> None:
    assert "--without-mingle" in line(kind="tasks", target="a:b", alone=True)
    assert "--without-mingle" not in line(kind="tasks", target="a:b")


def test_beat_is_celerys_own_command_line_and_keeps_no_file() -> None:
    found = line(kind="beat", target="data.worker:app", options=("--pidfile", ""))
    assert found[5:] == (
        *("celery", "-q", "-A", "data.worker:app", "beat", "--loglevel", "INFO"),
        *("--pidfile", ""),
    )


@pytest.mark.parametrize("kind", ["rpc", "events", "loop"])
def test_a_process_with_a_loop_of_its_own_is_a_function_that_is_called(kind: str) -> None:
    assert line(kind=kind, target="data.rpc:serve") == (*START, "data.rpc:serve")


def test_a_relay_is_told_whose_outbox_it_is() -> None:
    found = line(kind="relay", target="data.service:service")
    assert found == (*START, "data.service:service", "--", "mainstay.processes.relay", found[3])


def test_a_command_stands_for_a_target() -> None:
    assert line(kind="loop", run="sh -c 'sleep 1'") == ("sh", "-c", "sleep 1")
