"""What mainstay.toml may say, and how it is told when it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainstay.errors import Misconfigured
from mainstay.processes.manifest import Manifest, find, load

CONTRACT = """
[service.data]
path = "services/data"
database = true

[service.data.process.api]
kind = "http"
target = "data.api:app"
port = 8000
[service.data.process.worker]
kind = "tasks"
target = "data.worker:celery_app"
metrics_port = 8100
"""


def written(folder: Path, text: str) -> Manifest:
    path = folder / "mainstay.toml"
    path.write_text(text)
    return load(path)


def test_a_project_is_read_as_it_is_declared(tmp_path: Path) -> None:
    manifest = written(tmp_path, CONTRACT)
    (data,) = manifest.services
    assert (data.name, data.path, data.database) == ("data", tmp_path / "services/data", True)
    api, worker = data.processes
    assert (api.full_name, api.kind, api.target, api.port) == (
        *("data.api", "http", "data.api:app", 8000),
    )
    assert (worker.full_name, worker.health_port) == ("data.worker", 8100)
    assert (data.prefix, api.health_port, api.workers) == ("APP_", 8000, None)


def test_the_manifest_is_found_from_any_folder_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "mainstay.toml").write_text(CONTRACT)
    inner = tmp_path / "services" / "data"
    inner.mkdir(parents=True)
    assert find(inner) == tmp_path / "mainstay.toml"


def test_a_folder_outside_any_project_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"no mainstay\.toml in .* or above it"):
        find(tmp_path)


PROCESS = "[service.data.process.api]\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[service.data]\npath = 3", ["[service.data]", "path", "text", "3"]),
        ("[service.data]\ndatabase = 'yes'", ["[service.data]", "database", "true or false"]),
        ("[service.data]\ndatabse = true", ["[service.data]", "databse", "database"]),
        ("[service.data]\nprefix = 'app'", ["[service.data]", "prefix", "APP_"]),
        ("[service.Data]\n", ["[service.Data]", "small letters"]),
        ("[services.data]\n", ["services", "accepted: service"]),
        ("", ["service", "missing"]),
        ("service = 1", ["service", "table"]),
        (PROCESS + "target = 'a:b'", ["[service.data.process.api]", "kind", "http, tasks"]),
        (PROCESS + "kind = 'web'\ntarget = 'a:b'", ["kind", "http, tasks", "'web'"]),
        (PROCESS + "kind = 'rpc'", ["target", "run", "exactly one"]),
        (PROCESS + "kind = 'rpc'\ntarget = 'a:b'\nrun = 'x'", ["target", "exactly one"]),
        (PROCESS + "kind = 'rpc'\ntarget = 'a.b'", ["target", "module:attribute"]),
        (PROCESS + "kind = 'http'\ntarget = 'a:b'", ["port", "missing"]),
        (PROCESS + "kind = 'rpc'\nrun = 'x'\nport = 70000", ["port", "1 to 65535", "70000"]),
        (PROCESS + "kind = 'rpc'\nrun = 'x'\nport = true", ["port", "whole number"]),
        (PROCESS + "kind = 'rpc'\nrun = 'x'\nworker = 2", ["worker", "workers"]),
        (PROCESS + "kind = 'rpc'\nrun = 'x'\noptions = 'a'", ["options", "list"]),
        (PROCESS + "kind = 'rpc'\nrun = 'x'\nenv = {A = 1}", ["env", "A"]),
        ("[service.data\n", ["not valid TOML", "line 1"]),
    ],
)
def test_what_is_not_accepted_is_refused_by_file_table_and_key(
    tmp_path: Path, text: str, named: list[str]
) -> None:
    with pytest.raises(Misconfigured) as refusal:
        written(tmp_path, text)
    for part in [str(tmp_path / "mainstay.toml"), *named]:
        assert part in str(refusal.value)


def test_two_processes_may_not_share_a_port(tmp_path: Path) -> None:
    shared = '[service.b.process.w]\nkind = "tasks"\nrun = "x"\nmetrics_port = 8000\n'
    with pytest.raises(Misconfigured, match=r"\[service\.b\.process\.w\] metrics_port = 8000.*api"):
        written(tmp_path, CONTRACT + shared)


def test_processes_are_chosen_by_full_name_by_service_or_by_their_own(tmp_path: Path) -> None:
    other = '[service.b.process.w]\nkind = "loop"\nrun = "x"\n'
    manifest = written(tmp_path, CONTRACT + other)

    def chosen(*names: str) -> list[str]:
        return [process.full_name for process in manifest.select(names)]

    assert chosen() == ["data.api", "data.worker", "b.w"]
    assert chosen("data.worker") == ["data.worker"]
    assert chosen("w", "data") == ["data.api", "data.worker", "b.w"]
    with pytest.raises(Misconfigured, match=r"'wrong' is no process.*data\.api"):
        manifest.select(["wrong"])


def test_a_name_that_several_services_use_needs_the_services_name(tmp_path: Path) -> None:
    other = '[service.b.process.api]\nkind = "loop"\nrun = "x"\n'
    manifest = written(tmp_path, CONTRACT + other)
    with pytest.raises(Misconfigured, match=r"several processes.*data\.api, b\.api"):
        manifest.select(["api"])
