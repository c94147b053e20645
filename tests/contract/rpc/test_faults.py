"""Servers, brokers and connections that go away: each call still ends, and none is lost."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mainstay.errors import (
    DeadlineExceeded,
    Disconnected,
    MainstayError,
    NotConnected,
    Unavailable,
)
from mainstay.resources.redis.client import connect as connect_redis
from mainstay.rpc import Calls
from mainstay.testing.servers import RabbitMQ, Redis
from mainstay.testing.wait import eventually
from tests.contract.rpc.conftest import Broker, Serve, Spawn
from tests.contract.rpc.test_calls import Echo, Holds
from tests.waiting import PATIENCE_SECONDS

REAL = pytest.mark.parametrize("broker", ["valkey", "redis", "rabbitmq"], indirect=True)


def works(calls: Calls, queue: str) -> bool:
    answer: object = calls.call(queue, "again", timeout_seconds=1.0)
    return answer == "again"


@REAL
def test_the_call_of_a_killed_server_is_done_by_another(
    calls: Calls, queue: str, spawn: Spawn, tmp_path: Path
) -> None:
    first, second = spawn(), spawn()
    pid = calls.call(
        queue, {"do": "die once", "file": str(tmp_path / "died")}, timeout_seconds=PATIENCE_SECONDS
    )
    assert (tmp_path / "died").exists()
    assert pid in (first.pid, second.pid)


@pytest.mark.parametrize(
    ("broker", "kind"),
    [
        ("valkey", "quorum"),
        ("redis", "quorum"),
        ("rabbitmq", "quorum"),
        ("rabbitmq", "classic"),
    ],
    indirect=["broker"],
)
def test_a_call_that_kills_its_servers_is_buried_after_a_few(
    broker: Broker, calls: Calls, queue: str, spawn: Spawn, kind: str
) -> None:
    options = ("delivery_limit=1", f"type={kind}")
    current = spawn(*options)
    calls.submit(queue, {"do": "die"}, timeout_seconds=60.0, id="poison")
    servers = [current]

    def is_served() -> bool:
        if servers[-1].has_ended:
            servers.append(spawn(*options, wait=False))
        return works(calls, queue)

    def is_buried() -> bool:
        if servers[-1].has_ended:
            servers.append(spawn(*options, wait=False))
        return len(broker.dead_letters(queue)) == 1

    eventually(is_buried)
    assert len(servers) <= 3
    [letter] = broker.dead_letters(queue)
    assert (letter.id, letter.reason) == ("poison", "delivery-limit")
    assert letter.body == b'{"do":"die"}'
    assert "x-correlation-id" in letter.headers
    eventually(is_served)


@REAL
def test_calls_whose_only_server_was_killed_do_not_wait_for_their_deadline(
    calls: Calls, queue: str, spawn: Spawn, tmp_path: Path
) -> None:
    server = spawn()
    file = tmp_path / "begun"
    pending = calls.submit(
        queue,
        {"do": "hold", "file": str(file), "until": str(tmp_path / "never")},
        timeout_seconds=600.0,
    )
    eventually(file.exists)
    server.kill()
    assert isinstance(pending.exception(PATIENCE_SECONDS), Unavailable)


@REAL
def test_sigterm_finishes_what_is_in_hand_and_exits_0(
    calls: Calls, queue: str, spawn: Spawn, tmp_path: Path
) -> None:
    server = spawn()
    file = tmp_path / "begun"
    gate = tmp_path / "gate"
    pending = calls.submit(queue, {"do": "hold", "file": str(file), "until": str(gate)})
    eventually(file.exists)
    server.stop()
    eventually(server.is_shutting_down)
    gate.touch()
    assert pending.result(PATIENCE_SECONDS) == server.pid
    code, said = server.wait()
    assert code == 0, said
    assert '"event":"startup_success"' in said
    assert '"event":"shutting_down"' in said


@REAL
def test_a_message_that_is_no_call_is_buried_and_stops_nobody(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    bodies = [b"", b"not json", b"\xff\xfe", b"[" * 100 + b"]" * 100, b'{"a":' * 2000, b"x" * 2**21]
    for body in bodies:
        broker.send_raw(queue, body)
    letters = eventually(
        lambda: found if len(found := broker.dead_letters(queue)) == len(bodies) else None
    )
    assert letters is not None
    assert {letter.body for letter in letters} == set(bodies)
    reasons = {letter.reason for letter in letters}
    assert reasons == {"decode:JSON", "refused:TooDeep", "refused:TooLarge"}
    assert all(letter.id for letter in letters)
    eventually(lambda: works(calls, queue))


@REAL
def test_a_dead_letter_that_is_put_back_is_done(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    seen: list[Any] = []

    class Mended:
        is_broken = True

        def call(self, data: Any) -> Any:
            if self.is_broken:
                raise ZeroDivisionError
            seen.append(data)
            return data

    target = Mended()
    serve(target)
    pending = calls.submit(queue, {"a": 1})
    assert pending.exception(PATIENCE_SECONDS) is not None
    eventually(lambda: broker.dead_letters(queue))
    target.is_broken = False
    assert broker.retry_dead_letters(queue) == 1
    eventually(lambda: seen == [{"a": 1}])
    assert broker.dead_letters(queue) == []


@REAL
def test_pending_calls_fail_at_once_when_connections_are_cut(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    serve(held, concurrency=64)
    pending: list[Future[Any]] = [
        calls.submit(queue, n, timeout_seconds=PATIENCE_SECONDS) for n in range(20)
    ]
    eventually(lambda: len(held.seen) == 20)
    broker.cut()
    for future in pending:
        assert isinstance(future.exception(PATIENCE_SECONDS), Disconnected)
    held.go.set()
    eventually(lambda: works(calls, queue))


@REAL
def test_a_broker_that_was_killed_is_found_again(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    serve(held)
    pending = calls.submit(queue, 1, timeout_seconds=PATIENCE_SECONDS)
    eventually(lambda: held.seen)
    assert broker.raw is not None
    broker.wait_until_stored(queue)
    broker.raw.kill()
    assert isinstance(pending.exception(PATIENCE_SECONDS), Disconnected)
    for _ in range(20):
        with pytest.raises(NotConnected):
            calls.call(queue, 2, timeout_seconds=60.0)
    with pytest.raises(OSError, match="refused"):
        calls.ping()
    held.go.set()
    broker.raw.start()
    eventually(lambda: works(calls, queue))


@REAL
def test_a_broker_that_is_paused_delays_no_deadline(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    eventually(lambda: works(calls, queue))
    assert broker.raw is not None
    broker.raw.pause()
    try:
        pending = calls.submit(queue, 1, timeout_seconds=0.5)
        with pytest.raises(DeadlineExceeded):
            calls.call(queue, 2, timeout_seconds=0.3)
        assert isinstance(pending.exception(PATIENCE_SECONDS), DeadlineExceeded)
    finally:
        broker.raw.resume()
    eventually(lambda: works(calls, queue))


@REAL
def test_a_server_waits_for_its_broker(
    broker: Broker, calls: Calls, queue: str, spawn: Spawn
) -> None:
    assert broker.raw is not None
    broker.raw.kill()
    spawn(wait=False)
    with pytest.raises(NotConnected):
        calls.call(queue, 1)
    broker.raw.start()
    eventually(lambda: works(calls, queue))


@REAL
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_connection_of_its_own(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    eventually(lambda: works(calls, queue))
    reader, writer = os.pipe()
    # A fork beside threads is what servers such as gunicorn do; this child only calls.
    pid = os.fork()
    if pid == 0:
        said = b"failed"
        try:
            if [calls.call(queue, n) for n in range(20)] == list(range(20)):
                said = b"worked"
        except MainstayError as error:
            said = repr(error).encode()
        finally:
            os.write(writer, said)
            os._exit(0)
    os.close(writer)
    assert [calls.call(queue, n) for n in range(20)] == list(range(20))
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"worked"
    os.waitpid(pid, 0)


@REAL
def test_nothing_is_left_behind(broker: Broker, calls: Calls, queue: str, serve: Serve) -> None:
    server = serve(Echo())
    for n in range(300):
        assert calls.call(queue, n) == n
    server.drain(PATIENCE_SECONDS)
    calls.close()
    if isinstance(broker.raw, RabbitMQ):
        vhost = broker.url.rsplit("/", 1)[1]
        rows = broker.raw.manage("GET", f"/queues/{vhost}?columns=name,messages")
        assert {row["name"] for row in rows} == {queue, f"{queue}_dlq"}
        assert not any(row.get("messages") for row in rows)
    elif isinstance(broker.raw, Redis):
        with connect_redis(broker.url) as client:
            # Other tests share the server; what is kept of this one has its queue in the name,
            # or is a place for replies.
            keys = {name.decode() for name in client.scan_iter()}
            kept = {name for name in keys if queue in name or "replies" in name}
            assert kept <= {queue, f"{{{queue}}}:servers"}
            assert client.xlen(queue) == 0
            groups: Any = client.xinfo_consumers(queue, "servers")
            assert groups == []
