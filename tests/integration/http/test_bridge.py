"""WSGI applications without an edge, behind the bridge: PEP 3333 holds, and all comes whole."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from mainstay import Service, Settings
from mainstay.http import bridge
from mainstay.http.bridge import Bridge
from mainstay.http.flask import create_app
from mainstay.testing.wait import eventually
from tests.servers import exchange, served
from tests.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

Environ = dict[str, Any]
TEXT = [("Content-Type", "text/plain")]


class Subject:
    """An application whose answer is the test's, and what it has seen."""

    def __init__(self, answer: Callable[[Environ, StartResponse], Iterable[bytes]]) -> None:
        self.answer = answer
        self.environs: list[Environ] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.environs.append(environ)
        return self.answer(environ, start_response)


def echoing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("201 Made", TEXT)
    return [body]


@pytest.fixture
def echo() -> Iterator[tuple[Subject, int]]:
    subject = Subject(echoing)
    with served(Bridge(subject)) as port:
        yield subject, port


def get(port: int, path: str = "/", **options: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{port}{path}"
    return httpx.get(url, trust_env=False, timeout=PATIENCE_SECONDS, **options)


def test_the_environ_is_that_of_the_pep(echo: tuple[Subject, int]) -> None:
    subject, port = echo
    head = (
        b"GET /caf%C3%A9/a%2Fb?q=%C3%A9&q=1 HTTP/1.1\r\nHost: h\r\nX-Two: a\r\nX-Two: b\r\n"
        b"Cookie: a=1\r\nCookie: b=2\r\nX_Two: c\r\nContent-Type: text/plain\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert exchange(port, head).startswith(b"HTTP/1.1 201 ")
    environ = subject.environs[0]
    assert environ["PATH_INFO"] == "/café/a/b".encode().decode("latin-1")
    assert environ["QUERY_STRING"] == "q=%C3%A9&q=1"
    assert environ["HTTP_X_TWO"] == "a,b"  # what a proxy has not removed as X-Two is no X-Two
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert "HTTP_CONTENT_TYPE" not in environ
    assert (environ["REMOTE_ADDR"], environ["SERVER_PROTOCOL"]) == ("127.0.0.1", "HTTP/1.1")
    assert environ["wsgi.errors"] is sys.stderr


def test_an_application_below_a_path_is_told_both_halves() -> None:
    subject = Subject(echoing)
    with served(Bridge(subject), root_path="/shop") as port:
        get(port, "/orders")
    environ = subject.environs[0]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", "/orders")


@pytest.mark.parametrize("size", [0, 10, 200_000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_comes_whole(echo: tuple[Subject, int], size: int, is_chunked: bool) -> None:
    _, port = echo
    body = b"x" * size
    content: Any = iter([body[: size // 2], body[size // 2 :]]) if is_chunked else body
    answer = httpx.post(f"http://127.0.0.1:{port}/", content=content, trust_env=False)
    assert (answer.status_code, answer.content) == (201, body)


def test_a_body_can_be_read_by_lines() -> None:
    def lines(environ: Environ, start_response: StartResponse) -> list[bytes]:
        read = environ["wsgi.input"]
        found = [read.readline(), *read]
        start_response("200 OK", TEXT)
        return [b"|".join(found)]

    with served(Bridge(Subject(lines))) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"a\nbc\nd", trust_env=False)
    assert answer.content == b"a\n|bc\n|d"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [("_PLAIN_LIMIT_BYTES", 5, 413), ("_PLAIN_SECONDS", 0.1, 408)],
    ids=["too long", "too slow"],
)
@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_what_does_not_come_whole_does_not_come_to_the_application(
    monkeypatch: pytest.MonkeyPatch,
    echo: tuple[Subject, int],
    name: str,
    value: float,
    status: int,
    framing: bytes,
) -> None:
    subject, port = echo
    monkeypatch.setattr(bridge, name, value)
    head = b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n"
    answer = exchange(port, head + b"6\r\nabcdef\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in answer
    assert subject.environs == []


def test_an_answer_leaves_piece_by_piece() -> None:
    taken = threading.Event()

    def pieces(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)(b"written, ")
        yield b"first, "
        taken.wait(PATIENCE_SECONDS)
        yield b""
        yield b"second"

    with served(Bridge(Subject(pieces))) as port:
        url = f"http://127.0.0.1:{port}/"
        with httpx.stream("GET", url, trust_env=False, timeout=PATIENCE_SECONDS) as answer:
            coming = answer.iter_raw()
            assert next(coming) == b"written, first, "
            taken.set()
            assert b"".join(coming) == b"second"


def test_an_answer_whose_client_has_gone_is_closed() -> None:
    begun, closed = threading.Event(), threading.Event()

    def endless(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        try:
            while True:
                yield b"again"
                begun.set()
        finally:
            closed.set()

    with served(Bridge(Subject(endless))) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert begun.wait(PATIENCE_SECONDS)
        assert closed.wait(PATIENCE_SECONDS)


def failing_at_once(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise ValueError("no answer")


def failing_after_its_head(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"half"
    raise ValueError("no more")


def exiting(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise SystemExit(3)


def stopping(environ: Environ, start_response: StartResponse) -> list[bytes]:
    raise StopIteration


def never_starting(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return [b"an answer without a head"]


@pytest.mark.parametrize("answer", [failing_at_once, exiting, stopping, never_starting])
def test_what_has_no_answer_is_a_500_and_the_server_goes_on(
    answer: Callable[[Environ, StartResponse], Iterable[bytes]],
) -> None:
    subject = Subject(answer)
    with served(Bridge(subject, threads=1)) as port:
        assert get(port).status_code == 500
        subject.answer = echoing
        assert get(port).status_code == 201


def test_an_answer_that_breaks_off_is_not_taken_for_the_whole() -> None:
    with (
        served(Bridge(Subject(failing_after_its_head))) as port,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        get(port)


def test_an_error_page_takes_the_place_of_an_answer_that_has_not_left() -> None:
    def replaced(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        try:
            raise ValueError("no")
        except ValueError:
            start_response("503 Later", TEXT, sys.exc_info())
        return [b"later"]

    with served(Bridge(Subject(replaced))) as port:
        assert (get(port).status_code, get(port).content) == (503, b"later")


def test_no_more_threads_are_taken_than_are_said() -> None:
    gate, at_work = threading.Event(), []

    def waiting(environ: Environ, start_response: StartResponse) -> list[bytes]:
        at_work.append(threading.current_thread())
        gate.wait(PATIENCE_SECONDS)
        return echoing(environ, start_response)

    with served(Bridge(Subject(waiting), threads=2)) as port:
        asking = [threading.Thread(target=get, args=(port,)) for _ in range(5)]
        for one in asking:
            one.start()
        eventually(lambda: len(at_work) == 2)
        gate.set()
        for one in asking:
            one.join(PATIENCE_SECONDS)
    assert (len(at_work), len(set(at_work))) == (5, 2)


def test_the_bodies_of_all_requests_together_have_a_limit(
    monkeypatch: pytest.MonkeyPatch, echo: tuple[Subject, int]
) -> None:
    _, port = echo
    monkeypatch.setattr(bridge, "_PLAIN_LIMIT_BYTES", 100)
    monkeypatch.setattr(bridge, "_ALL_BYTES", 150)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", port)) as first,
        socket.create_connection(("127.0.0.1", port)) as second,
    ):
        for slow in (first, second):
            slow.sendall(head + b"a" * 99)

        def is_refused() -> bool:
            answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"a" * 90, trust_env=False)
            return (answer.status_code, "retry-after" in answer.headers) == (503, True)

        eventually(is_refused)
        for slow in (first, second):
            slow.sendall(b"a")
            assert slow.recv(65_536).startswith(b"HTTP/1.1 201 ")
    answer = httpx.post(f"http://127.0.0.1:{port}/", content=b"a" * 90, trust_env=False)
    assert answer.status_code == 201


@pytest.mark.parametrize("phase", ["start", "stop"])
def test_a_service_that_cannot_start_or_stop_says_so_to_its_server(
    monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"no {phase}")

    service = Service(Settings(env="test", service_name="orders"))
    asgi = Bridge(create_app(service, __name__))
    monkeypatch.setattr(Service, phase, fail)
    asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return asked.pop(0)

    async def send(message: Any) -> None:
        told.append(message)

    with pytest.raises(RuntimeError):
        asyncio.run(asgi({"type": "lifespan"}, receive, send))
    kind = "startup" if phase == "start" else "shutdown"
    assert told[-1] == {"type": f"lifespan.{kind}.failed", "message": f"no {phase}"}


def test_an_application_can_be_served_twice() -> None:
    app = create_app(Settings(env="test", service_name="orders"), __name__)
    for _ in range(2):
        with served(Bridge(app)) as port:
            assert get(port, "/ready").status_code == 200
