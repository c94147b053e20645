"""A server that is gone is named and answered for, and work goes on when it is back."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from mainstay.testing.servers import PostgreSQL, RabbitMQ, Redis, Server
from mainstay.testing.wait import eventually
from tests.services.data.platform import API, Platform

# A request is answered within two seconds; the client gives up where it would hang.
PATIENCE_SECONDS = 10


@pytest.fixture
def client(real_platform: Platform) -> httpx.Client:
    return httpx.Client(
        base_url=real_platform.url, headers=real_platform.headers, timeout=PATIENCE_SECONDS
    )


def stop(server: Server) -> None:
    server.stop()


def kill(server: Server) -> None:
    server.kill()


def pause(server: Server) -> None:
    server.pause()


@pytest.mark.parametrize("fault", [stop, kill, pause])
@pytest.mark.parametrize(
    ("server", "checks", "path"),
    [
        ("postgres", {"database"}, "process"),
        ("postgres", {"database"}, "process-async"),
        ("rabbitmq", {"broker", "calls"}, "process"),
        ("rabbitmq", {"broker", "calls"}, "process-async"),
    ],
)
def test_without_a_server_requests_get_a_503_and_afterwards_all_is_well(
    request: pytest.FixtureRequest,
    client: httpx.Client,
    server: str,
    checks: set[str],
    path: str,
    fault: Callable[[Server], None],
) -> None:
    broken: PostgreSQL | RabbitMQ | Redis = request.getfixturevalue(server)

    def works() -> bool:
        answer = client.post(f"{API}/data/{path}", json={"payload": 1})
        return answer.is_success and client.get("/ready").status_code == 200

    assert eventually(works, timeout_seconds=60)
    fault(broken)
    try:

        def told() -> bool:
            ready = client.get("/ready")
            unwell = {
                name
                for name, check in ready.json()["checks"].items()
                if check["status"] != "healthy"
            }
            return ready.status_code == 503 and checks <= unwell

        assert eventually(told, timeout_seconds=20)
        for _ in range(3):
            answer = client.post(f"{API}/data/{path}", json={"payload": 1})
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.elapsed.total_seconds() < PATIENCE_SECONDS
        assert client.get("/healthz").status_code == 200
    finally:
        broken.resume()
        broken.start()
    assert eventually(works, timeout_seconds=60)
