"""Call a function that another process serves, and get what it returns or the error it raises.

calls = service.hold(Calls())
calls.call("data_queue", {"payload": 1})                # blocks this thread
await calls.acall("data_queue", {"payload": 1})         # or this task
calls.submit("data_queue", {"payload": 1}).result()     # or neither
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from mainstay import context as contexts
from mainstay import forks
from mainstay.context import TIMEOUT_SECONDS, Context
from mainstay.errors import DeadlineExceeded, Invalid, MainstayError
from mainstay.pipeline import outcome_of
from mainstay.rpc import rooms, wire
from mainstay.rpc.depths import Depths
from mainstay.rpc.inbox import Inbox
from mainstay.rpc.line import Line, Outgoing
from mainstay.rpc.statistics import Statistics
from mainstay.service import Resource, Service

__all__ = ["Calls"]


class Calls(Resource):
    """The service's calls to others: one connection a process, for all its threads and loops.

    Which broker is said by the URL: ``amqp(s)://`` RabbitMQ, ``redis(s)://`` Redis or Valkey,
    ``memory://`` this process.

    Args:
        broker_url: The broker; `rabbitmq_url` of the settings by default, else `redis_url`.
        optional: Without it the service is degraded, not unhealthy.
    """

    name = "calls"

    def __init__(self, *, broker_url: str | None = None, optional: bool = False) -> None:
        self._broker_url = broker_url
        self.optional = optional
        self._generation = -1
        self._line: Line | None = None
        self._lock = threading.Lock()

    def bind(self, service: Service) -> None:
        super().bind(service)
        self._settings = service.settings
        self.statistics = Statistics(service)
        self.depths = Depths(service, lambda: self.broker_url)

    @property
    def broker_url(self) -> str:
        """The broker's address.

        Raises:
            Misconfigured: Nobody named one.
        """
        return rooms.broker_url(self._settings, self._broker_url)

    @property
    def is_named(self) -> bool:
        settings = self._settings
        return bool(self._broker_url or settings.rabbitmq_url or settings.redis_url)

    @property
    def late_replies(self) -> int:
        """How many answers came when nobody waited for them any more."""
        line = self._line
        return 0 if line is None else line.late_replies

    def call(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Any:
        """Call the server of *queue* and return its result.

        The caller's context goes along: correlation id, trace, principal, deadline.

        Args:
            queue: Where the server listens.
            data: What JSON can hold, or a Pydantic model; within `body_limit_bytes`.
            function: Which function, where the server offers more than one.
            timeout_seconds: When to stop waiting; `rpc_timeout_seconds` by default, and never
                later than the deadline of the work at hand, and within a year. A request that
                still waits in its queue then is not done at all.
            id: The call's own, by which a server can tell that it is the same call, tried again.

        Raises:
            DeadlineExceeded: No answer in time: it may be done or not.
            NoRoute: No server is there: nothing was sent.
            Overloaded: The queue takes no more: nothing is done.
            NotConnected: The broker cannot be reached: nothing was sent.
            Disconnected: The connection broke before the answer: it may be done or not.
            TooLarge, Invalid: The data, or another argument, cannot be sent.
            RemoteFailure: The function failed; has the type and the detail.
            Refuse, Retry: The server said so, with the same class.
        """
        wire.check_names(queue, function, id)
        name = _span_name(queue, function)
        with self.service.traces.client(name, attributes=_facts(queue)) as context:
            started = time.perf_counter()
            try:
                call = self._prepare(context, queue, function, data, timeout_seconds, id)
                answer = _Answer()
                call.done = answer.come
                self._send(call)
                result = self._decode(answer.wait())
            except BaseException as error:
                self._note(queue, error, started)
                raise
            self._note(queue, None, started)
            return result

    async def acall(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Any:
        """As :meth:`call`, without stopping the event loop. Cancelling it forgets the answer."""
        wire.check_names(queue, function, id)
        name = _span_name(queue, function)
        with self.service.traces.client(name, attributes=_facts(queue)) as context:
            started = time.perf_counter()
            try:
                call = self._prepare(context, queue, function, data, timeout_seconds, id)
                body = await self._await(call)
                result = self._decode(body)
            except BaseException as error:
                self._note(queue, error, started)
                raise
            self._note(queue, None, started)
            return result

    def submit(
        self,
        queue: str,
        data: Any = None,
        *,
        function: str = "",
        timeout_seconds: float | None = None,
        id: str | None = None,
    ) -> Future[Any]:
        """As :meth:`call`, and return at once; the future has the result or the error.

        What is wrong before anything is sent is in the future, too. Its callbacks run on the
        thread that talks to the broker: they must not wait.
        """
        started = time.perf_counter()
        future: Future[Any] = Future()
        try:
            wire.check_names(queue, function, id)
        except Invalid as error:
            future.set_exception(error)
            return future

        def done(body: bytes | None, error: MainstayError | None) -> None:
            try:
                result = self._decode(body) if body is not None else None
            except MainstayError as said:
                error = said
            self._note(queue, error, started)
            if future.set_running_or_notify_cancel():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

        context = contexts.current() or Context.new()
        try:
            call = self._prepare(context, queue, function, data, timeout_seconds, id)
        except MainstayError as error:
            done(None, error)
        else:
            call.done = done
            self._send(call)
        return future

    def depth(self, queue: str) -> Mapping[str, Mapping[str, int] | None]:
        """Return what is in *queue* and among its dead letters.

        ``{"queue": {"messages", "messages_ready", "messages_unacknowledged"}, "dead_letters":
        likewise}``; ``None`` where the broker cannot be asked. Asked once a second at most.
        """
        return self.depths.of(queue)

    async def adepth(self, queue: str) -> Mapping[str, Mapping[str, int] | None]:
        """As :meth:`depth`, without stopping the event loop."""
        return await asyncio.to_thread(self.depths.of, queue)

    def ping(self) -> Mapping[str, object] | None:
        rooms.ping(self.broker_url)
        return None

    def close(self) -> None:
        if self._generation != forks.generation():
            return  # nothing was opened here; what the parent holds is the parent's
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()
        self.statistics.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def _prepare(
        self,
        context: Context,
        queue: str,
        function: str,
        data: Any,
        timeout_seconds: float | None,
        id: str | None,
    ) -> Outgoing:
        settings = self._settings
        timeout = settings.rpc_timeout_seconds
        if timeout_seconds is not None:
            timeout = wire.checked_timeout(timeout_seconds)
        timeout = context.remaining_seconds(timeout)
        if timeout <= 0.0:
            raise DeadlineExceeded(
                f"the deadline had passed before the call to {queue!r}: nothing was sent"
            )
        body = wire.encode_request(data, limit_bytes=settings.body_limit_bytes)
        headers = context.inject()
        headers[TIMEOUT_SECONDS] = f"{timeout:.3f}"
        return Outgoing(
            id or "",
            queue,
            function,
            headers,
            body,
            time.monotonic() + timeout,
            _nobody,
        )

    def _send(self, call: Outgoing) -> None:
        line = self._line
        if line is None or self._generation != forks.generation():
            line = self._opened()
        line.send(call)

    def _opened(self) -> Line:
        if self._generation != forks.generation():
            # The parent's lock may have been held, and its connection is its own.
            self._lock, self._line = threading.Lock(), None
            self._generation = forks.generation()
        with self._lock:
            if self._line is None:
                self._line = rooms.line(
                    self.broker_url, self._tell, self.service.metrics.late_reply
                )
            return self._line

    async def _await(self, call: Outgoing) -> bytes:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()
        inbox = Inbox.of(loop)
        call.done = lambda body, error: inbox.put(answer, body, error)
        self._send(call)
        try:
            return await answer
        except asyncio.CancelledError:
            line = self._line
            if line is not None:
                line.forget(call)
            raise

    def _decode(self, body: bytes) -> Any:
        return wire.decode_answer(body, limit_bytes=self._settings.body_limit_bytes)

    def _note(self, queue: str, error: BaseException | None, started: float) -> None:
        seconds = time.perf_counter() - started
        outcome = outcome_of(error)
        self.service.metrics.call("client", queue, outcome, seconds)
        if isinstance(error, DeadlineExceeded):
            self.statistics.timed_out()
        elif outcome in ("done", "failed", "refused"):
            self.statistics.answered(seconds)

    def _tell(self, level: str, message: str) -> None:
        self.service.logs.write(level, "mainstay.rpc", message, event="calls_connection")


def _nobody(body: bytes | None, error: MainstayError | None) -> None:
    """Stand in until the face that sends a call says who waits for it."""


class _Answer:
    """What one thread waits for; a future would be four times as much work."""

    __slots__ = ("_bell", "_body", "_error")

    def __init__(self) -> None:
        self._bell = threading.Lock()
        self._bell.acquire()
        self._body = b""
        self._error: MainstayError | None = None

    def come(self, body: bytes | None, error: MainstayError | None) -> None:
        self._body, self._error = body or b"", error
        self._bell.release()

    def wait(self) -> bytes:
        self._bell.acquire()
        if self._error is not None:
            raise self._error
        return self._body


def _span_name(queue: str, function: str) -> str:
    return f"{queue} {function}" if function else queue


def _facts(queue: str) -> dict[str, object]:
    # OpenTelemetry's semantic conventions for messaging.
    return {"messaging.destination.name": queue, "messaging.operation.type": "send"}
