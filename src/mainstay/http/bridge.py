"""Have a WSGI application answer what an ASGI server has read, on threads.

The event loop reads a body to its end before a thread is taken. So a client that sends slowly
keeps no thread waiting, what the server cannot read reaches no application, and a body that breaks
off is never taken for the whole. Refusals are left to the application's own edge: it finds the
reason where it looks for the body.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from queue import SimpleQueue
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote_to_bytes

from mainstay.context import new_id
from mainstay.errors import MainstayError, Malformed, TooLarge
from mainstay.http.entry import PIECE_BYTES
from mainstay.http.lifespan import lifespan
from mainstay.http.problems import MEDIA_TYPE, TimedOut, problem_of
from mainstay.http.wsgi import IN_FLIGHT_LIMIT, MAY_CLOSE, Edge, Pairs

if TYPE_CHECKING:
    from types import TracebackType
    from wsgiref.types import WSGIApplication

    from mainstay.http.environ import Environ
    from mainstay.http.wire import Message, RawHeaders, Receive, Scope, Send

__all__ = ["SPARE_THREADS", "Bridge"]

SPARE_THREADS = 4
"""More than requests in hand take, so that who asks how the process is always finds one."""

_IN_MEMORY_BYTES = 65_536
"""A longer body is kept in a file until the request is answered."""

_PLAIN_LIMIT_BYTES = 1_073_741_824
_PLAIN_SECONDS = 30.0
"""For the body of a request to an application without settings of ours."""

_WHOLE_BYTES = 65_536
"""An answer that announces no more than this leaves in one piece."""

_MOST_KEYS = 500
_CLOSE = (b"connection", b"close")

ExcInfo = tuple[type[BaseException], BaseException, "TracebackType"] | tuple[None, None, None]


class Bridge:
    """An ASGI application that has a WSGI application answer.

    ``asgi = Bridge(app)``, and ``uvicorn books.app:asgi``, are what `mainstay run` does.

    Args:
        app: The application.
        threads: How many requests it works on at a time; by default as many as may be in hand,
            and some to spare.
    """

    def __init__(self, app: WSGIApplication, *, threads: int | None = None) -> None:
        edge = getattr(app, "stations", None)
        self.app = app
        self.edge = edge if isinstance(edge, Edge) else None
        in_hand = IN_FLIGHT_LIMIT if self.edge is None else self.edge.rules.in_flight_limit
        self._threads = _Threads(in_hand + SPARE_THREADS if threads is None else threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})  # the server answers 403

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        environ = environ_of(scope)
        call = _Call(self.app, environ, receive, send)
        if "CONTENT_LENGTH" not in environ and "HTTP_TRANSFER_ENCODING" not in environ:
            await call.answer(self._threads)
            return
        with _Body(*self._limits(environ)) as body:
            await body.read_from(receive, environ.get("CONTENT_LENGTH", ""))
            if body.fault is not None and self.edge is None:
                await _refuse(body.fault, send)
                return
            call.must_close = body.fault is not None
            environ["wsgi.input"] = body
            await call.answer(self._threads)

    def _limits(self, environ: Environ) -> tuple[int, float]:
        """Return how long a body may be, and how many seconds it may take."""
        edge = self.edge
        if edge is None:
            return _PLAIN_LIMIT_BYTES, _PLAIN_SECONDS
        limit, announced = edge.body_limit_bytes, environ.get("CONTENT_LENGTH", "")
        if not announced.isdecimal() or int(announced) > limit:
            limit = edge.body_limit_of(environ)  # looking for the route costs some time
        return limit, edge.timeout_seconds

    async def _live(self, receive: Receive, send: Send) -> None:
        edge = self.edge
        await receive()
        if edge is None:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        else:
            async with lifespan(edge.service, edge.begin, nullcontext()):
                await send({"type": "lifespan.startup.complete"})
                await receive()
        await send({"type": "lifespan.shutdown.complete"})


class _Body(io.RawIOBase):
    """What has come of a request's body, in memory or in a file, or why it did not come."""

    def __init__(self, limit_bytes: int, seconds: float) -> None:
        self._limit = limit_bytes
        self._seconds = seconds
        self._file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - see close
        self.fault: MainstayError | None = None
        """Why not all of it has come; raised to who reads."""

    async def read_from(self, receive: Receive, announced: str) -> None:
        """Take the body as it comes; nothing of one that is announced to be too long."""
        try:
            if announced and (not announced.isdecimal() or int(announced) > self._limit):
                raise self._too_large()
            async with asyncio.timeout(self._seconds):
                await self._take(receive)
        except TimeoutError:
            self.fault = TimedOut("the body did not come in time: send it faster")
        except MainstayError as error:
            self.fault = error
        self._file.seek(0)

    async def _take(self, receive: Receive) -> None:
        length, is_more = 0, True
        while is_more:
            message = await receive()
            if message["type"] != "http.request":
                raise Malformed("the body ended before all of it had come")
            piece = message.get("body", b"")
            is_more = message.get("more_body", False)
            length += len(piece)
            if length > self._limit:
                raise self._too_large()
            self._file.write(piece)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limit} bytes: send less")

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        return self._file.read(-1 if size is None else size)

    def readinto(self, buffer: Any, /) -> int:
        self._check()
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._check()
        return self._file.readline(-1 if size is None else size)

    def _check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        super().close()
        self._file.close()


class _Call:
    """One call of the application, on a thread, and the way of its answer to the event loop."""

    must_close = False
    """Is there more of the request than was read?"""

    def __init__(
        self, app: WSGIApplication, environ: Environ, receive: Receive, send: Send
    ) -> None:
        self._app = app
        self._environ = environ
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[bytes] = self._loop.create_future()
        self._given: tuple[str, Pairs] | None = None
        self._written: list[bytes] = []
        self._has_left = False
        self._is_gone = False

    async def answer(self, threads: _Threads) -> None:
        """Have a thread make the answer, and send it.

        Raises:
            Exception: What the application raised.
        """
        threads.do(self._run)
        try:
            whole = await self._ended
        finally:
            self._is_gone = True
        if not self._has_left:
            await self._send(self._head())
        await self._send_body(whole, more=False)

    # --- on the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            whole = self._work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits hears of it
            self._tell(self._ended.set_exception, _as_exception(error))
        else:
            self._tell(self._ended.set_result, whole)

    def _tell(self, settle: Callable[[Any], None], what: object) -> None:
        def tell() -> None:
            if not self._ended.done():  # given up by a server that stops
                settle(what)

        with suppress(RuntimeError):  # its event loop is closed
            self._loop.call_soon_threadsafe(tell)

    def _work(self) -> bytes:
        """Return what has not left of the answer's body."""
        body = self._app(self._environ, self._start)
        try:
            if isinstance(body, list | tuple):
                return b"".join((*self._written, *body))
            pieces = iter(body)
            first = next(pieces, b"")  # a generator calls `start_response` with it
            if self._is_short:
                return b"".join((*self._written, first, *pieces))
            self._stream((*self._written, first), pieces)
            return b""
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _stream(self, first: Iterable[bytes], others: Iterable[bytes]) -> None:
        watch = self._wait(self._watch())
        try:
            self._wait(self._leave(b"".join(first)))
            for piece in others:
                if self._is_gone:
                    return
                if piece:
                    self._wait(self._leave(piece))
        finally:
            self._loop.call_soon_threadsafe(watch.cancel)

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _start(
        self, status: str, headers: Pairs, exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is not None and exc_info[1] is not None and self._has_left:
            raise exc_info[1]
        self._given = (status, headers)
        return self._written.append

    @property
    def _is_short(self) -> bool:
        """Does the answer announce a body that is to leave in one piece?"""
        _, headers = self._given or ("", [])
        for name, value in headers:
            if name.lower() == "content-length":
                return value.isdecimal() and int(value) <= _WHOLE_BYTES
        return False

    # --- on the event loop -------------------------------------------------------------------

    def _head(self) -> Message:
        if self._given is None:
            raise RuntimeError("the application has not called start_response")
        status, given = self._given
        headers: RawHeaders = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given
        ]
        if self.must_close and _CLOSE not in headers:
            headers.append(_CLOSE)
        return {"type": "http.response.start", "status": int(status[:3]), "headers": headers}

    async def _leave(self, piece: bytes) -> None:
        """Send a piece, once the client has taken those before it."""
        if not self._has_left:
            await self._send(self._head())
            self._has_left = True
        await self._send_body(piece, more=True)

    async def _send_body(self, body: bytes, *, more: bool) -> None:
        # The server waits between two messages, not within one, while nobody reads.
        last = max(len(body) - 1, 0) // PIECE_BYTES * PIECE_BYTES
        for at in range(0, last, PIECE_BYTES):
            piece = body[at : at + PIECE_BYTES]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": body[last:], "more_body": more})

    async def _watch(self) -> asyncio.Task[None]:
        """Begin to look whether the client goes away."""

        async def look() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self._is_gone = True

        return asyncio.create_task(look())


class _Threads:
    """As many threads as are in use at a time, up to *most*; what comes then waits.

    They end with the process, whatever they do: one that hangs does not keep it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle: deque[None] = deque()
        self._begun = 0

    def do(self, task: Callable[[], None]) -> None:
        """Have a thread do *task*, which raises nothing; called by the event loop."""
        self._tasks.put(task)
        try:
            self._idle.pop()
        except IndexError:
            if self._begun < self._most:
                self._begun += 1
                threading.Thread(target=self._work, name="request", daemon=True).start()

    def _work(self) -> NoReturn:
        while True:
            self._tasks.get()()
            self._idle.append(None)


def environ_of(scope: Scope) -> Environ:
    """Return the environ of PEP 3333 for a scope of ASGI, with an empty body.

    A header with an underscore in its name is left away: no application could tell it from one
    with a hyphen, so it would pass what a proxy removes.
    """
    raw: bytes = scope["raw_path"]
    root: str = scope.get("root_path", "")
    path = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("latin-1")
    server, client = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root,
        "PATH_INFO": path.removeprefix(root),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or ""),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        MAY_CLOSE: True,
    }
    for name, value in scope["headers"]:
        key = _keys.get(name) or _key_of(name)
        if key:
            text = value.decode("latin-1")
            joint = "; " if key == "HTTP_COOKIE" else ","
            environ[key] = f"{environ[key]}{joint}{text}" if key in environ else text
    return environ


async def _refuse(error: MainstayError, send: Send) -> None:
    """Answer for an application that has no edge."""
    problem = problem_of(error)
    body = problem.document(instance="", correlation_id=new_id())
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        _CLOSE,
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_keys: dict[bytes, str] = {}


def _key_of(name: bytes) -> str:
    """Return the key of a header in an environ; none for one that is left away."""
    if b"_" in name:
        return ""
    key = name.decode("latin-1").upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = f"HTTP_{key}"
    if len(_keys) < _MOST_KEYS:  # names are the client's choice
        _keys[name] = key
    return key


def _as_exception(error: BaseException) -> Exception:
    """Return *error*, or what stands for it: a future takes no StopIteration, and one that ends
    the process would end the server.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"the application raised {type(error).__name__}: {error}")
