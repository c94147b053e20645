"""Have a WSGI application answer what an ASGI server has read, on threads.

The event loop reads a body to its end before a thread is taken. So a client that sends slowly
keeps no thread waiting, what the server cannot read reaches no application, and a body that breaks
off is never taken for the whole. Refusals are left to the application's own edge, which is told why
not all of the body has come.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext, suppress
from queue import SimpleQueue
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import unquote_to_bytes

from mainstay.context import new_id
from mainstay.errors import MainstayError, Overloaded
from mainstay.http import bodies
from mainstay.http.connections import forget_forwarded
from mainstay.http.entry import PIECE_BYTES
from mainstay.http.environ import COUNT, is_forwarded
from mainstay.http.lifespan import lifespan, on_uvicorn
from mainstay.http.problems import MEDIA_TYPE, problem_of
from mainstay.http.routes import path_below
from mainstay.http.wsgi import (
    BODY_FAULT,
    IN_FLIGHT_LIMIT,
    MAY_CLOSE,
    Edge,
    Pairs,
    close,
    is_short,
)
from mainstay.lifecycle import Lifecycle

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

_ALL_BYTES = 268_435_456
"""Of bodies that a process holds at a time; more where a single one may be longer."""

_PLAIN_LIMIT_BYTES = 1_073_741_824
_PLAIN_SECONDS = 30.0
"""For the body of a request to an application without settings of ours."""

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

    Raises:
        Misconfigured: The application, as it is now, cannot be served.
    """

    def __init__(self, app: WSGIApplication, *, threads: int | None = None) -> None:
        edge = getattr(app, "stations", None)
        self.app = app
        self.edge = edge if isinstance(edge, Edge) else None
        if self.edge is not None:
            self.edge.check()
        in_hand = IN_FLIGHT_LIMIT if self.edge is None else self.edge.rules.in_flight_limit
        self._bodies = _Bodies()
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
        if is_forwarded(environ):
            forget_forwarded(scope, receive)
            environ = environ_of(scope)
        call = _Call(self.app, environ, receive, send)
        try:
            if "CONTENT_LENGTH" not in environ and "HTTP_TRANSFER_ENCODING" not in environ:
                await call.answer(self._threads)
                return
            with _Body(self._bodies, *self._limits(environ)) as body:
                fault = await body.read_from(receive, environ.get("CONTENT_LENGTH", ""))
                if fault is not None and self.edge is None:
                    await _refuse(fault, send)
                    return
                environ["wsgi.input"] = body.file
                if fault is not None:
                    environ[BODY_FAULT] = fault
                    call.must_close = True
                await call.answer(self._threads)
        except asyncio.CancelledError:
            if not call.has_left:  # the server's patience with what is in hand is over
                with suppress(Exception):
                    await _refuse(Overloaded("the service is shutting down: ask again"), send)
            raise

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
        await receive()
        phase = "startup"
        try:
            async with self._life():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except BaseException as error:
            await send({"type": f"lifespan.{phase}.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        edge = self.edge
        if edge is None:
            with on_uvicorn(Lifecycle(), delay_seconds=0.0, grace_seconds=_PLAIN_SECONDS):
                yield
            return
        try:
            async with lifespan(edge.service, edge.begin, nullcontext()):
                yield
        finally:
            edge.end()


class _Bodies:
    """How many bytes of bodies this process holds."""

    held_bytes = 0


class _Body:
    """A request's body as far as it has come, in memory or in a file.

    Args:
        all: What the process holds.
        limit_bytes: How long it may be.
        seconds: How long it may take.
    """

    def __init__(self, all: _Bodies, limit_bytes: int, seconds: float) -> None:
        self._all = all
        self._limit = limit_bytes
        self._seconds = seconds
        self._length = 0
        self.file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 - see __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._all.held_bytes -= self._length
        self.file.close()

    async def read_from(self, receive: Receive, announced: str) -> MainstayError | None:
        """Take the body as it comes, and return why not all of it has come, if so.

        Nothing is taken of one that is announced to be too long.
        """
        try:
            if announced and (not announced.isdecimal() or int(announced) > self._limit):
                raise bodies.too_large(self._limit)
            async with asyncio.timeout(self._seconds):
                await self._take(receive)
        except TimeoutError:
            return bodies.too_late()
        except OSError:
            return Overloaded("the service has no room for the body: ask again")
        except MainstayError as error:
            return error
        self.file.seek(0)
        return None

    async def _take(self, receive: Receive) -> None:
        is_more = True
        while is_more:
            message = await receive()
            if message["type"] != "http.request":
                raise bodies.cut_short()
            piece = message.get("body", b"")
            is_more = message.get("more_body", False)
            self._length += len(piece)
            self._all.held_bytes += len(piece)
            if self._length > self._limit:
                raise bodies.too_large(self._limit)
            if self._all.held_bytes > max(_ALL_BYTES, 2 * self._limit):
                raise Overloaded("the service has too many long bodies in hand: ask again")
            self.file.write(piece)


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
        self.has_left = False
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
        if not self.has_left:
            await self._send(self._head())
        await self._send_body(whole, more=False)

    # --- on the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        if self._ended.done():
            return  # nobody waits for it any more
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
            # A generator calls `start_response` with its first piece; the head waits for a byte.
            first = next(filter(None, pieces), b"")
            if self._given is not None and is_short(self._given[1]):
                return b"".join((*self._written, first, *pieces))
            self._stream((*self._written, first), pieces)
            return b""
        finally:
            close(body)

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
        if exc_info is not None and exc_info[1] is not None and self.has_left:
            raise exc_info[1]
        self._written.clear()
        self._given = (status, headers)
        return self._written.append

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
        if not self.has_left:
            await self._send(self._head())
            self.has_left = True
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
        try:
            self._idle.pop()
        except IndexError:
            if self._begun < self._most:
                threading.Thread(target=self._work, name="request", daemon=True).start()
                self._begun += 1
        self._tasks.put(task)

    def _work(self) -> NoReturn:
        while True:
            self._tasks.get()()
            self._idle.append(None)


def environ_of(scope: Scope) -> Environ:
    """Return the environ of PEP 3333 for a scope of ASGI, with an empty body.

    A header with an underscore in its name is left away: no application could tell it from one
    with a hyphen, so it would pass what a proxy removes.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    root = scope.get("root_path", "").encode().decode("latin-1")
    path = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("latin-1")
    server, client = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.rstrip("/"),
        "PATH_INFO": path_below(root, path),
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
        COUNT: len(scope["headers"]),  # each of those that are joined below, too
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
    id = new_id()
    body = problem.document(instance="", correlation_id=id)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"x-correlation-id", id.encode()),
        *((name.encode(), value.encode()) for name, value in problem.headers),
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
    raised = RuntimeError(f"the application raised {type(error).__name__}: {error}")
    raised.__cause__ = error
    return raised
