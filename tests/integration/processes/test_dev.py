"""`mainstay dev` from outside: it starts, reloads, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from mainstay.devfile import find
from mainstay.processes import facts
from mainstay.testing.wait import eventually

if TYPE_CHECKING:
    from tests.integration.processes.conftest import Project

Ready = Callable[..., "subprocess.Popen[bytes]"]


def left(project: Project) -> set[str]:
    return {entry.name for entry in project.state.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_every_process_and_frees_the_lock(
    project: Project, ready: Ready, number: signal.Signals
) -> None:
    running = ready()
    for name, port in project.ports.items():
        assert f"{name}.api" in project.said
        assert project.ask(name, "APP_METRICS_PORT") == str(port)
    running.send_signal(number)
    assert running.wait(90) == 0
    assert project.said.count("drained") == 2
    eventually(lambda: project.processes() == set())
    assert not left(project) & {"lock", "dev.json"}


def test_a_second_interrupt_does_not_wait(project: Project, ready: Ready) -> None:
    stubborn = (
        "import signal, threading\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def serve(): print('stays', flush=True); threading.Event().wait()\n"
    )
    (project.folder / "services/data/data_work.py").write_text(stubborn)
    running = project.start("dev", "--only", "data", APP_GRACE_SECONDS="600")
    project.says("stays")
    running.send_signal(signal.SIGINT)
    project.says("Ctrl-C again")
    running.send_signal(signal.SIGINT)
    assert running.wait(90) == 0
    eventually(lambda: project.processes() == set())


def test_a_killed_supervisor_takes_everything_with_it(project: Project, ready: Ready) -> None:
    running = ready()
    running.kill()
    running.wait()
    eventually(lambda: project.processes() == set())


def test_a_start_after_everything_was_killed_finds_its_data_again(
    project: Project, ready: Ready
) -> None:
    running = ready()
    with redis.Redis.from_url(project.ask("data", "REDIS_URL")) as client:
        client.set("kept", "1")
        assert client.waitaof(1, 0, 60_000)[0] == 1
    for pid in project.processes():
        os.kill(pid, signal.SIGKILL)
    running.wait()
    again = ready()
    with redis.Redis.from_url(project.ask("data", "REDIS_URL")) as client:
        assert client.get("kept") == b"1"
    again.send_signal(signal.SIGINT)
    assert again.wait(90) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="marks are read from /proc")
def test_processes_that_a_dead_leash_left_are_named_and_stopped_and_servers_adopted(
    project: Project, ready: Ready
) -> None:
    running = ready()
    servers = {pid for pid in project.processes() if is_server(pid)}
    strays = {pid for pid in project.processes() if is_marked(pid)}
    leash = child_running(running.pid, "leash.py")
    os.kill(leash, signal.SIGKILL)
    running.kill()
    running.wait()
    assert len(strays) == 2
    again = ready()
    for pid in strays:
        assert f"process {pid} is left over from an earlier run and is stopped" in project.said
    assert "taken over" in project.said
    assert servers == {pid for pid in project.processes() if is_server(pid)}
    again.send_signal(signal.SIGINT)
    assert again.wait(90) == 0
    eventually(lambda: project.processes() == set())


def test_a_second_dev_is_told_who_runs(project: Project, ready: Ready) -> None:
    running = ready()
    code, said = project.do("dev")
    assert code == 1
    assert said.startswith("mainstay: mainstay dev already runs in")
    assert f"as process {running.pid}" in said
    assert project.ask("data") == "first"


def test_a_taken_port_is_named_with_who_holds_it_before_anything_starts(
    project: Project,
) -> None:
    with socket.create_server(("127.0.0.1", project.ports["books"])):
        code, said = project.do("dev")
    assert code == 1
    assert f"port {project.ports['books']} of books.api is taken by process {os.getpid()}" in said
    assert facts.command_line(os.getpid())[:40] in said  # type: ignore[index]
    assert "up" not in said.split()
    assert project.processes() == set()
    assert "valkey" not in left(project)


def test_a_change_starts_its_service_again_and_no_other(project: Project, ready: Ready) -> None:
    ready(reload=True)
    work = project.folder / "services/data/data_work.py"
    before = work.read_text()
    change(project, work, before.replace('"first"', '"second"'))
    eventually(lambda: project.ask("data") == "second")
    assert project.ask("books") == "first"
    assert "services/data/data_work.py changed: starting data.api again" in project.said


def test_bad_configuration_waits_for_the_change_that_mends_it(project: Project) -> None:
    work = project.folder / "services/data/data_work.py"
    sound = work.read_text()
    work.write_text(
        "from mainstay.errors import Misconfigured\nraise Misconfigured('APP_X is wrong')\n"
    )
    project.start("dev")
    project.says("APP_X is wrong")
    project.says("data.api refuses its configuration")
    project.says("Not everything is ready")
    assert project.ask("books") == "first"
    change(project, work, sound)
    eventually(lambda: project.ask("data") == "first")


def test_what_ends_again_and_again_is_not_ready_without_a_port(project: Project) -> None:
    with project.manifest.open("a") as manifest:
        manifest.write('[service.data.process.mill]\nkind = "loop"\ntarget = "mill:grind"\n')
    service = project.folder / "services/data"
    (service / "mill.py").write_text(
        "from pathlib import Path\n"
        "def grind():\n"
        "    with Path('ends').open('a') as ends: ends.write('.')\n"
        "    raise SystemExit(3)\n"
    )
    work = service / "data_work.py"
    waits = "import pathlib, time\nwhile not pathlib.Path('ends').exists(): time.sleep(0.01)\n"
    last = "while len(pathlib.Path('ends').read_text()) < 2: time.sleep(0.01)\n"
    work.write_text(waits + last + work.read_text())
    project.start("dev")
    project.says("Not everything is ready")
    assert "(loop; no port)  does not run well" in project.said


def test_without_reload_bad_configuration_is_exit_code_78(project: Project) -> None:
    work = project.folder / "services/data/data_work.py"
    work.write_text(
        "from mainstay.errors import Misconfigured\nraise Misconfigured('APP_X is wrong')\n"
    )
    code, said = project.do("dev", "--no-reload")
    assert code == 78
    assert "APP_X is wrong" in said
    eventually(lambda: project.processes() == set())


def test_only_what_is_asked_for_runs(project: Project, ready: Ready) -> None:
    ready("--only", "books.api")
    assert project.ask("books") == "first"
    with pytest.raises(OSError, match="refused"):
        project.ask("data")


def test_a_service_that_does_not_run_is_not_told_the_database_of_one_that_does(
    project: Project, ready: Ready
) -> None:
    has_database(project, "data", "books")
    ready("--only", "books.api")
    services = project.folder / "services"
    books, data = find(services / "books"), find(services / "data")
    assert books["DATABASE_URL"].endswith("/books")
    assert data["APP_SERVICE_NAME"] == "data"
    assert data["REDIS_URL"] == books["REDIS_URL"]
    for other in (data, find(services / "books", "data"), find(project.folder)):
        assert "DATABASE_URL" not in other


def test_a_second_terminal_finds_the_servers_while_dev_runs(project: Project, ready: Ready) -> None:
    running = ready()
    folder = project.folder / "services/data"
    found = find(folder)
    assert found["REDIS_URL"] == project.ask("data", "REDIS_URL")
    assert found["APP_SERVICE_NAME"] == "data"
    assert (project.state / "dev.json").stat().st_mode & 0o777 == 0o600
    document = json.loads((project.state / "dev.json").read_text())
    assert document["pid"] == running.pid
    assert document["services"]["data"]["processes"]["api"]["metrics_port"] == project.ports["data"]
    running.send_signal(signal.SIGTERM)
    running.wait(90)
    assert find(folder) == {}


def test_a_server_of_ones_own_is_used_and_none_is_embedded(project: Project, ready: Ready) -> None:
    ready(REDIS_URL="redis://mine.invalid:6379/0")
    assert project.ask("data", "REDIS_URL") == "redis://mine.invalid:6379/0"
    assert project.ask("data", "CELERY_BROKER_URL") == "redis://mine.invalid:6379/0"
    assert "valkey" not in left(project)


def test_a_reset_forgets_the_data(project: Project, ready: Ready) -> None:
    running = ready()
    with redis.Redis.from_url(project.ask("data", "REDIS_URL")) as client:
        client.set("kept", "1")
    secret = project.ask("data", "JWT_SECRET_KEY")
    running.send_signal(signal.SIGINT)
    running.wait(90)
    ready("--reset")
    with redis.Redis.from_url(project.ask("data", "REDIS_URL")) as client:
        assert client.get("kept") is None
    assert project.ask("data", "JWT_SECRET_KEY") != secret


def test_a_server_that_dies_is_started_again_where_it_was(project: Project, ready: Ready) -> None:
    ready()
    url = project.ask("data", "REDIS_URL")
    (server,) = {pid for pid in project.processes() if is_server(pid)}
    os.kill(server, signal.SIGKILL)
    project.says("Valkey has ended; starting it again")
    with redis.Redis.from_url(url) as client:
        assert eventually(lambda: answers(client))


def test_an_embedded_database_is_created_and_migrated(project: Project, ready: Ready) -> None:
    has_database(project)
    running = ready()
    url = project.ask("data", "DATABASE_URL")
    assert url.endswith("/data")
    assert "migrating data" in project.said
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'mainstay'"
        assert connection.execute(query).fetchone() != (0,)
    running.send_signal(signal.SIGINT)
    assert running.wait(90) == 0


def test_an_interrupt_on_the_way_up_leaves_nothing_behind(project: Project, ready: Ready) -> None:
    has_database(project)
    starting = project.start("dev")
    project.says("preparing its data folder")
    starting.send_signal(signal.SIGINT)
    assert starting.wait(90) == 0
    eventually(lambda: project.processes() == set())
    assert not left(project) & {"lock", "dev.json"}
    ready("--only", "data")
    assert project.ask("data", "DATABASE_URL").startswith("postgresql://")


def change(project: Project, file: Path, text: str) -> None:
    """Write *file* until that is noticed: watching may begin a moment after all is ready."""

    def is_noticed() -> bool:
        if f"{file.name} changed" not in project.said:
            file.write_text(text)
        return f"{file.name} changed" in project.said

    eventually(is_noticed, every_seconds=0.5)


def has_database(project: Project, *services: str) -> None:
    text = project.manifest.read_text()
    for name in services or ("data",):
        path = f'path = "services/{name}"'
        text = text.replace(path, f"{path}\ndatabase = true")
    project.manifest.write_text(text)


def answers(client: redis.Redis) -> bool:
    return bool(client.ping())


def is_server(pid: int) -> bool:
    program = facts.executable(pid)
    return program is not None and program.name in ("valkey-server", "postgres")


def is_marked(pid: int) -> bool:
    return "MAINSTAY_RUN" in (facts.environment(pid) or {})


def child_running(parent: int, words: str) -> int:
    (found,) = (
        pid
        for pid in facts.pids()
        if facts.parent(pid) == parent and words in (facts.command_line(pid) or "")
    )
    return found
