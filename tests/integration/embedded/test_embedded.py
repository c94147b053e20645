"""The servers that need nothing installed but Python, through every kind of death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from mainstay.embedded import Postgres, Server, Valkey, homes
from mainstay.errors import Misconfigured, Unavailable
from mainstay.processes import facts
from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS, join

Make = Callable[..., Server]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "it"


@pytest.fixture
def made(folder: Path) -> Iterator[list[Server]]:
    """Servers that are ended after the test, the newest first."""
    servers: list[Server] = []
    yield servers
    for server in reversed(servers):
        server.stop()


@pytest.fixture
def postgres(folder: Path, made: list[Server]) -> Callable[[], Postgres]:
    def start() -> Postgres:
        server = Postgres(folder)
        made.append(server)
        server.start()
        return server

    return start


@pytest.fixture
def valkey(folder: Path, made: list[Server]) -> Callable[[], Valkey]:
    def start() -> Valkey:
        server = Valkey(folder)
        made.append(server)
        server.start()
        return server

    return start


def write_row(server: Postgres, database: str) -> None:
    with psycopg.connect(server.url(database)) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('кот')")


def rows(server: Postgres, database: str) -> list[tuple[str, ...]]:
    with psycopg.connect(server.url(database)) as connection:
        return connection.execute("SELECT upper(word) FROM kept").fetchall()


def test_a_database_is_created_once_and_its_rows_outlive_a_stop(
    postgres: Callable[[], Postgres],
) -> None:
    server = postgres()
    assert server.create_database("data-x")
    assert not server.create_database("data-x")
    write_row(server, "data-x")
    server.stop()
    server.stop()
    assert not server.is_running()
    again = postgres()
    assert rows(again, "data-x") == [("КОТ",)]
    assert again.port == server.port


def test_postgresql_is_adopted_when_its_launcher_was_killed(
    postgres: Callable[[], Postgres], folder: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from mainstay.embedded import Postgres; "
        "server = Postgres(Path(sys.argv[1])); server.start(); print(server.pid, flush=True)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    left = int(subprocess.check_output(command, text=True))
    server = postgres()
    assert server.adopted
    assert server.pid == left
    assert server.create_database("data")
    server.stop()
    eventually(lambda: not facts.is_alive(left))


def test_postgresql_comes_back_with_its_rows_after_it_was_killed(
    postgres: Callable[[], Postgres],
) -> None:
    server = postgres()
    server.create_database("data")
    write_row(server, "data")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    again = postgres()
    assert not again.adopted
    assert rows(again, "data") == [("КОТ",)]


def test_postgresql_lets_nobody_in_without_the_password(
    postgres: Callable[[], Postgres], folder: Path
) -> None:
    server = postgres()
    url = server.url("postgres").replace(server.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)
    assert (folder / "password").stat().st_mode & 0o777 == 0o600
    assert server.password not in (facts.command_line(server.pid or 0) or "")


def test_servers_listen_on_loopback_alone(
    postgres: Callable[[], Postgres], made: list[Server], tmp_path: Path
) -> None:
    cache = Valkey(tmp_path / "cache")
    made.append(cache)
    cache.start()
    address = _address_of_this_machine()
    for server in (postgres(), cache):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, server.port), timeout=PATIENCE_SECONDS)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(
    postgres: Callable[[], Postgres], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres().stop()
    (folder / "data" / "postgresql.conf").write_text("no_such_setting = 1\n")
    monkeypatch.setattr(Postgres, "retry_seconds", 0.0)
    with pytest.raises(Unavailable, match=r"(?s)PostgreSQL does not start.*no_such_setting"):
        postgres()


def test_data_that_a_killed_initdb_left_half_made_is_made_anew(
    postgres: Callable[[], Postgres], folder: Path
) -> None:
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    assert postgres().create_database("data")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other users can reach; unlike /var/tmp, it goes with an interrupted run."""
    with tempfile.TemporaryDirectory(prefix="mainstay-shared-") as name:
        shared = Path(name)
        shared.chmod(0o755)
        monkeypatch.setattr(homes, "_SHARED", shared)
        yield shared


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_root_runs_postgresql_as_another_user_where_namespaces_are_closed(
    shared: Path, postgres: Callable[[], Postgres], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "namespaces_are_open", lambda: False)
    server = postgres()
    server.create_database("data")
    assert server.pid is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    again = postgres()
    assert again.adopted
    again.stop()
    elsewhere = server.data.parent.parent
    assert elsewhere.parent == shared
    server.erase()
    assert not elsewhere.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_does_not_touch_another_users_data(
    postgres: Callable[[], Postgres], folder: Path
) -> None:
    (folder / "data").mkdir(parents=True)
    os.chown(folder / "data", 12345, -1)
    with pytest.raises(Misconfigured, match=r"belongs to another user.*DATABASE_URL"):
        postgres()


@pytest.mark.parametrize(("kind", "variable"), [(Postgres, "DATABASE_URL"), (Valkey, "REDIS_URL")])
def test_a_platform_without_the_wheel_is_told_which_variable_to_set(
    kind: type[Server],
    variable: str,
    folder: Path,
    made: list[Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mainstay.embedded.homes.find_spec", lambda _: None)
    monkeypatch.setattr("mainstay.embedded.valkey.find_spec", lambda _: None)
    with pytest.raises(Misconfigured, match=rf"no embedded .*set {variable} to"):
        kind(folder).start()


def client_of(server: Valkey) -> redis.Redis:
    return redis.Redis.from_url(server.url(), decode_responses=True)


def test_valkey_keeps_what_was_written_when_it_is_killed(valkey: Callable[[], Valkey]) -> None:
    server = valkey()
    with client_of(server) as client:
        client.xadd("work", {"task": "1"})
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        # "everysec" holds a write back for up to a second: wait until it is on its way to disk.
        assert client.waitaof(1, 0, 60_000)[0] == 1
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    again = valkey()
    assert again.port == server.port
    with client_of(again) as client:
        assert client.xlen("work") == 1


def test_valkey_is_adopted_when_its_launcher_was_killed(
    valkey: Callable[[], Valkey], folder: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from mainstay.embedded import Valkey; "
        "server = Valkey(Path(sys.argv[1])); server.start(); print(server.pid, flush=True)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    left = int(subprocess.check_output(command, text=True))
    server = valkey()
    assert server.adopted
    assert server.pid == left


def test_valkey_asks_for_its_password_and_shows_it_to_nobody(
    valkey: Callable[[], Valkey], folder: Path
) -> None:
    server = valkey()
    with (
        redis.Redis(port=server.port) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()
    assert server.password not in (facts.command_line(server.pid or 0) or "")
    assert (folder / "valkey.conf").stat().st_mode & 0o777 == 0o600


def test_a_port_that_was_taken_meanwhile_is_replaced(
    valkey: Callable[[], Valkey], folder: Path
) -> None:
    server = valkey()
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        again = valkey()
        assert again.port != server.port
        assert again.is_running()


def test_a_pid_that_belongs_to_somebody_else_is_left_alone(
    valkey: Callable[[], Valkey], folder: Path
) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "valkey.pid").write_text(f"{os.getpid()}\n")
    (folder / "port").write_text(f"{steady_port()}\n")
    assert not Valkey(folder).stop_left_running()
    assert not valkey().adopted


def test_what_was_left_running_can_be_stopped(valkey: Callable[[], Valkey], folder: Path) -> None:
    left = valkey()
    assert Valkey(folder).stop_left_running()
    eventually(lambda: not left.is_running())


def test_whoever_holds_the_leash_is_told_of_each_group(folder: Path) -> None:
    held: list[int] = []
    server = Valkey(folder, hold=held.append, release=held.remove)
    server.start()
    assert held == [server.pid]
    server.stop()
    assert held == []


def test_two_servers_start_at_once(tmp_path: Path, made: list[Server]) -> None:
    servers = [Postgres(tmp_path / "postgres"), Valkey(tmp_path / "valkey")]
    made.extend(servers)
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    join(*threads)
    assert all(server.is_running() for server in servers)


def _address_of_this_machine() -> str:
    """Return an address of this machine that is none of loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent; the system only picks a way out
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])
