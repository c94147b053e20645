"""Private servers: they come back with their data, stay on loopback and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import amqp
import psycopg
import pytest
import redis

from mainstay.processes import facts
from mainstay.testing import PostgreSQL, RabbitMQ, Redis, Server, ServerFailed, eventually
from mainstay.testing.plugin import leave_out


@pytest.fixture(params=[Redis, PostgreSQL])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind: type[Server] = request.param
    if kind.program() is None:
        leave_out(f"{kind.package} is not installed: apt-get install {kind.package}")
    with kind() as server:
        yield server


def store(server: Server) -> None:
    if isinstance(server, Redis):
        assert server.command("SET answer 42") == "OK"
    elif isinstance(server, PostgreSQL):
        server.sql("create table answer as select 42")


def stored(server: Server) -> str:
    if isinstance(server, Redis):
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            return str(client.get("answer"))
    with psycopg.connect(server.url) as connection:
        row = connection.execute("select * from answer").fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_data_and_url_survive_the_end_of_the_process(server: Server, end: str) -> None:
    url = server.url
    store(server)
    pid = server.pid
    assert pid is not None
    getattr(server, end)()
    assert not facts.is_alive(pid)
    assert server.pid is None
    server.start()
    assert server.url == url
    assert stored(server) == "42"


def test_a_paused_server_is_mute_and_then_goes_on(server: Server) -> None:
    store(server)
    server.pause()
    assert server.is_running()
    server.start()
    assert stored(server) == "42"


def test_closing_leaves_no_process_and_no_file(server: Server) -> None:
    pid, folder = server.pid, server.folder
    assert pid is not None
    server.close()
    server.close()
    assert not facts.is_alive(pid)
    assert not folder.exists()


def test_a_server_that_cannot_start_says_what_its_log_says() -> None:
    if Redis.program() is None:
        leave_out("redis-server is not installed: apt-get install redis-server")
    server = Redis(config={"no-such-setting": "1"})
    with pytest.raises(ServerFailed, match=r"(?s)redis-server did not start.*no-such-setting"):
        server.__enter__()


def test_a_killed_test_process_leaves_no_server_behind(tmp_path: Path) -> None:
    if Redis.program() is None:
        leave_out("redis-server is not installed: apt-get install redis-server")
    program = "from mainstay.testing import Redis; print(Redis().start().pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as tests:
        assert tests.stdout is not None
        server = int(tests.stdout.readline())
        assert facts.is_alive(server)
        tests.send_signal(signal.SIGKILL)
    eventually(lambda: not facts.is_alive(server))


def test_each_test_gets_an_empty_redis(redis_server: Redis, redis_url: str) -> None:
    assert redis_server.command("DBSIZE") == "0"
    assert redis_server.command("SET left behind") == "OK"
    redis_server.clear()
    assert redis_server.command("DBSIZE") == "0"
    assert redis_url == redis_server.url


def test_each_test_gets_an_empty_database(postgres: PostgreSQL, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        tables = connection.execute("select count(*) from pg_tables where schemaname = 'public'")
        assert tables.fetchone() == (0,)
    with pytest.raises(RuntimeError, match="does not exist"):
        postgres.sql("select * from answer")


def test_each_test_gets_an_empty_embedded_database(embedded_database_url: str) -> None:
    with psycopg.connect(embedded_database_url) as connection:
        tables = connection.execute("select count(*) from pg_tables where schemaname = 'public'")
        assert tables.fetchone() == (0,)


def test_each_test_gets_an_empty_embedded_valkey(embedded_valkey_url: str) -> None:
    with redis.Redis.from_url(embedded_valkey_url) as client:
        assert client.dbsize() == 0


class TestRabbitMQ:
    def test_each_test_gets_a_virtual_host(self, rabbitmq: RabbitMQ, rabbitmq_vhost: str) -> None:
        with connected(rabbitmq, rabbitmq_vhost) as connection:
            connection.channel().queue_declare("orders", durable=True, auto_delete=False)
        listed = rabbitmq.ctl("list_queues", "-p", rabbitmq_vhost, "--formatter", "json", "name")
        assert '"orders"' in listed

    def test_a_killed_broker_comes_back_with_its_queues(
        self, rabbitmq: RabbitMQ, rabbitmq_vhost: str
    ) -> None:
        with connected(rabbitmq, rabbitmq_vhost) as connection:
            connection.channel().queue_declare("orders", durable=True, auto_delete=False)
        rabbitmq.settle()
        rabbitmq.kill()
        assert rabbitmq.pid is None
        rabbitmq.start()
        with connected(rabbitmq, rabbitmq_vhost) as connection:
            connection.channel().queue_declare("orders", passive=True)

    def test_deleting_a_virtual_host_twice_is_fine(self, rabbitmq: RabbitMQ) -> None:
        rabbitmq.start().create_vhost("orders")
        rabbitmq.delete_vhost("orders")
        rabbitmq.delete_vhost("orders")

    def test_the_management_interface_says_why_it_refuses(self, rabbitmq: RabbitMQ) -> None:
        with pytest.raises(RuntimeError, match="GET /vhosts/nowhere: 404"):
            rabbitmq.start().manage("GET", "/vhosts/nowhere")

    def test_a_failing_command_says_why(self, rabbitmq: RabbitMQ) -> None:
        with pytest.raises(RuntimeError, match="rabbitmqctl delete_vhost nowhere"):
            rabbitmq.start().ctl("delete_vhost", "nowhere")

    @pytest.mark.parametrize("has_erl_call", [True, False])
    def test_an_erlang_expression_is_evaluated_in_the_node(
        self, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch, *, has_erl_call: bool
    ) -> None:
        rabbitmq.start()
        if not has_erl_call:
            monkeypatch.setattr("mainstay.testing.servers.rabbitmq.shutil.which", lambda _: None)
        assert rabbitmq.evaluate("length(nodes()) + 2.") == "2"
        with pytest.raises(RuntimeError, match="no_such_module"):
            rabbitmq.evaluate("no_such_module:call().")


def connected(server: RabbitMQ, vhost: str) -> amqp.Connection:
    return amqp.Connection(
        f"127.0.0.1:{server.port}",
        userid="mainstay",
        password=server.password,
        virtual_host=vhost,
    )
