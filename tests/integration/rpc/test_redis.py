"""What only a real Redis shows: TLS, lost data, statistics that several processes share."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from mainstay.errors import DeadlineExceeded, NotConnected
from mainstay.resources.redis.client import connect
from mainstay.rpc import Calls, Server
from mainstay.rpc.redis_streams import StreamsIntake
from mainstay.rpc.redis_streams.connection import Connection
from mainstay.service import Service
from mainstay.testing.plugin import leave_out
from mainstay.testing.ports import steady_port
from mainstay.testing.servers import Redis
from mainstay.testing.wait import eventually
from tests.integration.rpc.certificates import certificate
from tests.integration.rpc.settings import patient
from tests.waiting import PATIENCE_SECONDS


class Echo:
    def call(self, data: Any) -> Any:
        return data


def caller(url: str) -> Calls:
    return Service(patient(redis_url=url)).hold(Calls())


def server(url: str, target: Any) -> Server:
    return Server(
        patient(redis_url=url),
        queue="q",
        target=target,
    )


def test_calls_go_over_tls_and_only_to_who_is_trusted(tmp_path: Path) -> None:
    if Redis.program() is None:
        leave_out("redis-server is not installed: apt-get install redis-server")
    public, private = certificate(tmp_path)
    port = steady_port()
    config = {
        "tls-port": str(port),
        "tls-cert-file": str(public),
        "tls-key-file": str(private),
        "tls-auth-clients": "no",
    }
    with Redis(config=config) as redis:
        url = f"rediss://:{redis.password}@127.0.0.1:{port}/0"
        with server(f"{url}?ssl_ca_certs={public}", Echo()) as served:
            assert served.is_ready(PATIENCE_SECONDS)
            calls = caller(f"{url}?ssl_ca_certs={public}")
            # Larger than what a TLS record, or one read, holds.
            big = "x" * 900_000
            assert [calls.call("q", data) for data in (1, big, 2)] == [1, big, 2]
            futures = [calls.submit("q", n) for n in range(200)]
            assert [future.result() for future in futures] == list(range(200))
            calls.close()
            stranger = caller(url)
            with pytest.raises(NotConnected):
                stranger.call("q", 1)
            stranger.close()


def test_calls_go_over_a_unix_socket(tmp_path: Path) -> None:
    if Redis.program() is None:
        leave_out("redis-server is not installed: apt-get install redis-server")
    with Redis(config={"unixsocket": str(tmp_path / "s")}) as redis:
        url = f"unix://:{redis.password}@{tmp_path / 's'}?db=1"
        calls = caller(url)
        with server(url, Echo()) as served:
            assert served.is_ready(PATIENCE_SECONDS)
            assert calls.call("q", 1) == 1
        calls.close()


def test_a_redis_that_has_lost_its_data_is_served_again(redis_server: Redis) -> None:
    url = redis_server.start().url
    redis_server.clear()
    calls = caller(url)
    with server(url, Echo()) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        assert calls.call("q", 1) == 1
        redis_server.command("FLUSHALL")
        redis_server.command("SCRIPT FLUSH")
        eventually(lambda: calls.call("q", 2, timeout_seconds=1.0) == 2)
    calls.close()


@pytest.mark.parametrize("victim", ["victim", "q", "mainstay:replies:x", "{q}:servers"])
def test_an_answer_goes_to_who_waits_and_to_no_key_that_a_call_names(
    redis_url: str, victim: str
) -> None:
    calls = caller(redis_url)
    with server(redis_url, Echo()) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        with connect(redis_url) as client:
            client.xadd("victim", {"of": "somebody else"})
            client.xadd("mainstay:replies:x", {"of": "somebody else"})
            client.xadd(
                "q", {"reply_to": victim, "wire_id": "1", "headers": "{}", "body": b'{"data": 1}'}
            )
            assert calls.call("q", 2, timeout_seconds=PATIENCE_SECONDS) == 2
            assert (client.xlen("victim"), client.xlen("mainstay:replies:x")) == (1, 1)
            eventually(lambda: client.xlen("q") == 0)
    calls.close()


def test_the_processes_of_a_service_share_their_statistics(redis_url: str) -> None:
    one, other = caller(redis_url), caller(redis_url)
    go = threading.Event()

    class Waits:
        def call(self, data: Any) -> Any:
            if data == "wait":
                go.wait(PATIENCE_SECONDS)
            return data

    with server(redis_url, Waits()) as served:
        assert served.is_ready(PATIENCE_SECONDS)
        for calls in (one, other):
            for n in range(5):
                calls.call("q", n)
        with pytest.raises(DeadlineExceeded):
            one.call("q", "wait", timeout_seconds=0.1)
        go.set()
    eventually(lambda: other.statistics.snapshot()["latency"]["count"] == 10)
    eventually(lambda: other.statistics.snapshot()["timeouts_total"] == 1)
    latency = one.statistics.snapshot()["latency"]
    assert latency["p50"] is not None
    assert latency["p95"] is not None
    assert 0.0 < latency["p50"] <= latency["p95"]
    one.close()
    other.close()


def test_while_redis_is_away_each_process_tells_what_it_knows(redis_server: Redis) -> None:
    redis_server.start().clear()
    calls = caller(redis_server.url)
    calls.statistics.answered(0.5)
    assert calls.statistics.snapshot()["latency"]["count"] == 1
    redis_server.kill()
    calls.statistics.answered(0.5)
    assert calls.statistics.snapshot()["latency"]["count"] == 2
    redis_server.start()
    eventually(lambda: calls.statistics.snapshot()["latency"]["count"] == 2)
    calls.close()


def test_a_slow_server_keeps_its_call_while_it_says_that_it_lives(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = caller(redis_url)
    seen: list[str] = []
    go = threading.Event()

    class Slow:
        def call(self, data: Any) -> str:
            seen.append("slow")
            go.wait(PATIENCE_SECONDS)
            return "slow"

    class Fast:
        def call(self, data: Any) -> str:
            seen.append("fast")
            return "fast"

    looks: list[object] = []
    abandoned = StreamsIntake._abandoned

    def look(intake: StreamsIntake, pending: list[list[Any]]) -> None:
        looks.append(intake)
        abandoned(intake, pending)

    monkeypatch.setattr(StreamsIntake, "_abandoned", look)
    settings = patient(redis_url=redis_url)
    slow = Server(settings, queue="q", target=Slow(), lease_seconds=4.0)
    slow.start()
    assert slow.is_ready(PATIENCE_SECONDS)
    pending = calls.submit("q", 1, timeout_seconds=60.0)
    eventually(lambda: seen == ["slow"])
    with Server(settings, queue="q", target=Fast(), lease_seconds=4.0) as fast:
        assert fast.is_ready(PATIENCE_SECONDS)
        connection = Connection(redis_url, timeout_seconds=PATIENCE_SECONDS)
        # It looks three times a lease for what was left.
        eventually(lambda: looks.count(fast._intake) >= 4)
        assert seen == ["slow"]
        go.set()
        assert pending.result(PATIENCE_SECONDS) == "slow"
        eventually(lambda: connection.ask("XLEN", "q") == 0)
        connection.close()
    slow.drain(PATIENCE_SECONDS)
    calls.close()


class Ends:
    """Ends as it is told to, when it is told to."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.go = threading.Event()

    def call(self, data: Any) -> Any:
        self.has_begun.set()
        self.go.wait(PATIENCE_SECONDS)
        if data == "fail":
            raise ZeroDivisionError
        return data


@pytest.mark.parametrize("end", ["answer", "fail", "give back"])
def test_a_call_that_another_server_has_taken_is_left_to_it(redis_url: str, end: str) -> None:
    calls, target = caller(redis_url), Ends()
    stale = Server(
        patient(redis_url=redis_url),
        queue="q",
        target=target,
        lease_seconds=60.0,
    )
    stale.start()
    assert stale.is_ready(PATIENCE_SECONDS)
    calls.submit("q", end, timeout_seconds=60.0)
    assert target.has_begun.wait(PATIENCE_SECONDS)
    with connect(redis_url) as client:
        [taken] = pending(client)
        client.xclaim("q", "servers", "another", 0, [taken["message_id"]])
        if end == "give back":
            stale.drain(0.0)
            target.go.set()
        else:
            target.go.set()
            stale.drain(PATIENCE_SECONDS)
        [left] = pending(client)
        assert (left["consumer"], left["times_delivered"]) == (b"another", 2)
        assert (client.xlen("q"), client.xlen("q_dlq")) == (1, 0)
    calls.close()


def test_a_call_that_is_given_back_counts_as_never_delivered(redis_url: str) -> None:
    calls, target = caller(redis_url), Ends()
    served = server(redis_url, target)
    served.start()
    assert served.is_ready(PATIENCE_SECONDS)
    calls.submit("q", 1, timeout_seconds=60.0)
    assert target.has_begun.wait(PATIENCE_SECONDS)
    served.drain(0.0)
    with connect(redis_url) as client:
        [left] = pending(client)
        assert left["times_delivered"] == 0
    target.go.set()
    calls.close()


def test_a_dead_letter_is_counted_once_it_is_stored(
    redis_url: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    calls, target = caller(redis_url), Ends()
    target.go.set()
    said = b""

    def says(words: bytes) -> bool:
        nonlocal said
        said += capfdbinary.readouterr().out
        return words in said

    def count(served: Server) -> int:
        text = served.service.metrics.exposition()[0].decode()
        return text.count('mainstay_dead_lettered_total{queue="q"} 1.0')

    settings = patient(redis_url=redis_url)
    with (
        connect(redis_url) as client,
        Server(settings, queue="q", target=target, lease_seconds=1.0) as served,
    ):
        assert served.is_ready(PATIENCE_SECONDS)
        client.set("q_dlq", "in the way")
        calls.submit("q", "fail", timeout_seconds=60.0)
        eventually(lambda: says(b"was not stored"))
        assert (count(served), b"call_dead_lettered" in said) == (0, False)
        client.delete("q_dlq")
        eventually(lambda: count(served) == 1)
        eventually(lambda: says(b"call_dead_lettered"))
        assert client.xlen("q_dlq") == 1
    calls.close()


def pending(client: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.xpending_range("q", "servers", "-", "+", 5)
    return found
