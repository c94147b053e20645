"""Clients that do not finish asking, or do not read the answer, keep nothing that others need."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import orjson
import pytest

from mainstay.processes.ports import steady_port
from mainstay.testing.wait import eventually
from tests.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[3]


@contextmanager
def serving(http: str, app: str = "app") -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = steady_port()
    target = f"tests.integration.http.connections_{app}:app"
    command = [sys.executable, "-m", "uvicorn", target, "--port", str(port), "--http", http,
        "--timeout-keep-alive", "300",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: _ready(port))
        yield port, process
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="module", params=["httptools", "h11", "httptools flask"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    with serving(*request.param.split()) as (port, _):
        yield port


def _ready(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200


def until_closed(port: int, data: bytes) -> bytes:
    """Send *data* and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(data)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    found = b""
    while chunk := client.recv(65_536):
        found += chunk
    return found


def problem(answer: bytes) -> tuple[int, str]:
    """Return the status and the kind of the one problem document that *answer* is."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    document = orjson.loads(body)
    assert document["correlation_id"].encode() in head
    assert int(head[9:12]) == document["status"]
    return document["status"], document["type"].rpartition(":")[2]


def test_a_connection_that_never_speaks_is_closed(port: int) -> None:
    assert until_closed(port, b"") == b""


def test_headers_that_do_not_come_to_an_end_are_not_waited_for(port: int) -> None:
    answer = until_closed(port, b"GET / HTTP/1.1\r\nHost: h\r\nX-Half: ")
    # h11 does not tell that a request has been begun, so there is nobody to answer.
    assert answer == b"" or problem(answer) == (408, "timed-out")


def test_headers_without_end_are_not_kept(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nX-Long: ")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.sendall(b"a" * 100_000_000)


def test_what_is_no_http_is_a_problem_document(port: int) -> None:
    assert problem(until_closed(port, b"\x16\x03\x01\x00garbage\r\n\r\n")) == (400, "malformed")


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"X-A: b\x00c\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read(
    port: int, headers: bytes
) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    answer = until_closed(
        port, b"POST / HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n0\r\n\r\n" + smuggled
    )
    assert problem(answer) == (400, "malformed")


def test_garbage_behind_a_request_does_not_cost_it_its_answer(port: int) -> None:
    request = b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"
    answer = until_closed(port, request + b"\x16\x03\x01 garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.partition(b"\r\n\r\n")[2].startswith(b"null")


def test_an_answer_that_nobody_reads_is_let_go_and_takes_little_memory(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    clients = []
    try:
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /long HTTP/1.1\r\nHost: h\r\n\r\n")
            clients.append(client)
        eventually(lambda: httpx.get(f"{url}/begun", trust_env=False).json() == 20)
        # 160 MB are on their way, and almost none of them wait in the process.
        assert (
            httpx.get(f"{url}/unsent", trust_env=False, timeout=PATIENCE_SECONDS).json() < 8_000_000
        )
        eventually(lambda: httpx.get(f"{url}/unsent", trust_env=False).json() == 0)
    finally:
        for client in clients:
            client.close()
    answer = httpx.get(f"{url}/long", trust_env=False, timeout=PATIENCE_SECONDS)
    assert (len(answer.content), set(answer.content)) == (8_000_000, {ord("a")})


def test_bodies_that_do_not_come_keep_nobody_waiting(port: int) -> None:
    head = b"POST /stored HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
    with ExitStack() as stack, asking(port) as client:
        slow = [stack.enter_context(silent(port)) for _ in range(100)]
        for one in slow:
            one.sendall(head + b"a")
        assert {client.get("/slow").status_code for _ in range(20)} == {200}
        for one in slow:
            one.sendall(b"a" * 99)
            assert one.recv(65_536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "lines",
    [
        (b"Transfer-Encoding: chunked", b"", b"3", b"abc", b"zz", b"abc", b"0", b"", b""),
        (b"Transfer-Encoding: chunked", b"", b"3", b"abcdef", b"0", b"", b""),
        (b"Transfer-Encoding: chunked", b"", b"3", b"abc", b""),
        (b"Content-Length: 10", b"", b"abc"),
        (b"Transfer-Encoding: chunked, identity", b"", b"3", b"abc", b"0", b"", b""),
    ],
    ids=["bad length", "more than announced", "cut short", "shorter", "coding"],
)
def test_a_body_that_is_not_whole_is_not_acted_on(
    request: pytest.FixtureRequest, port: int, lines: tuple[bytes, ...]
) -> None:
    # What does not look at the body is not told of it by FastAPI.
    paths = [b"/stored", b"/done"] if "flask" in request.node.name else [b"/stored"]
    with asking(port) as client:
        before = client.get("/stored").json()
        for path in paths:
            with silent(port) as other:
                other.sendall(b"\r\n".join((b"POST " + path + b" HTTP/1.1", b"Host: h", *lines)))
                other.shutdown(socket.SHUT_WR)
                answer = read_all(other)
            assert not answer or problem(answer) == (400, "malformed")
        # What came later has been done: whatever came before has been, or never will be.
        assert client.post("/stored", content=b"whole").json() == 5
        assert client.get("/stored").json() == before + 1


def asking(port: int) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_SECONDS
    )


def silent(port: int) -> socket.socket:
    """Open a connection that says nothing; the server closes it if it stays so."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_many_requests_on_one_connection_are_not_hurried(port: int) -> None:
    with asking(port) as client:
        first = client.get("/peer").json()
        with silent(port) as other:
            other.setblocking(False)
            # Longer in all than a connection may take to become a request.
            while not is_closed(other):
                assert client.get("/slow").status_code == 200
        assert client.get("/peer").json() == first


def test_a_connection_that_is_kept_alive_may_rest_for_as_long_as_the_server_says(port: int) -> None:
    with asking(port) as client:
        first = client.get("/peer").json()
        with silent(port) as other:
            read_all(other)  # longer than a connection may take to become a request
        assert client.get("/peer").json() == first


def test_a_line_that_begins_nothing_keeps_no_connection(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        client.sendall(b"\r\n")  # no byte of a request, but uvicorn waits for the rest
        read_all(client)  # h11 takes it for a request that did not come in time


def test_half_a_request_behind_a_whole_one_is_not_waited_for() -> None:
    with serving("httptools") as (port, _):
        answers = until_closed(port, b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /slow HT")
    first, second = answers.split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"200", b"408")


def test_what_was_sent_before_the_server_stopped_is_answered() -> None:
    with serving("httptools") as (port, process):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
            process.terminate()
            eventually(lambda: _is_refused(port), every_seconds=0.01)
            client.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = read_all(client)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer


def _is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False
