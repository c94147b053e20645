"""Ask another service over HTTP, on behalf of the work at hand.

The request carries the correlation id, the trace and what is left of the deadline, which is also
how long it may take, with everything that is tried again. What is safe to send twice is, a few
times, with pauses; an answer is read up to a limit; a redirect is an answer and not followed; the
environment's proxies are not used. `Client` blocks, `AsyncClient` is for event loops.
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from mainstay import context as contexts
from mainstay.breakers import Attempt, Breaker
from mainstay.context import Context
from mainstay.errors import (
    DeadlineExceeded,
    Disconnected,
    Invalid,
    MainstayError,
    NotAllowed,
    NotAuthenticated,
    NotConnected,
    NotFound,
    Overloaded,
    RemoteFailure,
    Retry,
    Unavailable,
)
from mainstay.extras import require
from mainstay.pipeline import Step, Steps, adrive, drive
from mainstay.retries import Backoff

require("httpx", extra="fastapi")

import httpx  # noqa: E402 - the check stands first
import orjson  # noqa: E402 - the check stands first

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["AsyncClient", "Client", "Reply", "RequestOptions"]

# Sent twice these do no more than once (RFC 9110, 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_WHOLE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")  # RFC 3986, 3.1
_PASSING = frozenset({502, 503, 504})
_BACKOFF = Backoff(attempts=3, initial_seconds=0.1, max_seconds=2.0)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the other side answered, whatever its status.

    Args:
        headers: By lower-case name.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Parse the body.

        Raises:
            RemoteFailure: It is not JSON.
        """
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise RemoteFailure("NotJSON", "the other service answered no JSON") from error

    def check(self) -> Self:
        """Return this reply when it is a success, else raise what it says.

        Raises:
            Retry: 429, 502, 503, 504: it may succeed later.
            NotAuthenticated, NotAllowed, NotFound: 401, 403, 404.
            RemoteFailure: Anything else that is no success.
        """
        if self.is_success:
            return self
        raise self._error()

    def _error(self) -> MainstayError:
        detail = self._detail()
        match self.status:
            case 401:
                return NotAuthenticated(detail)
            case 403:
                return NotAllowed(detail)
            case 404:
                return NotFound(detail)
            case 429:
                return Overloaded(detail, retry_after_seconds=self.retry_after_seconds)
            case 504:
                return DeadlineExceeded(detail)
            case 502 | 503:
                return Unavailable(detail, retry_after_seconds=self.retry_after_seconds)
        return RemoteFailure(f"HTTP{self.status}", detail)

    @property
    def retry_after_seconds(self) -> float | None:
        """What `Retry-After` says in seconds; a date there is not understood."""
        value = self.headers.get("retry-after", "")
        return float(value) if value.isdecimal() and len(value) < 8 else None

    def _detail(self) -> str:
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            document = None
        detail = document.get("detail") if isinstance(document, dict) else None
        said = f": {detail}" if isinstance(detail, str) else ""
        return f"the other service answered {self.status}{said}"


class RequestOptions(TypedDict, total=False):
    """What one request may have."""

    params: Mapping[str, Any]
    json: Any
    content: bytes
    headers: Mapping[str, str]
    timeout_seconds: float


class _Asking(ABC):
    """What both faces share: which request is sent, how often, and what its failure means."""

    def __init__(
        self,
        base_url: str,
        *,
        service: Service | None = None,
        timeout_seconds: float = 10.0,
        backoff: Backoff = _BACKOFF,
        breaker: Breaker | None = None,
        reply_limit_bytes: int = 10 * 1024 * 1024,
        headers: Mapping[str, str] | None = None,
        passes_principal: bool = False,
        max_connections: int = 100,
        transport: Any = None,
    ) -> None:
        """Store what all requests have in common.

        Args:
            base_url: The other service; every request goes there and nowhere else.
            service: Whose traces get a client span, and whose metrics the breaker's state.
            timeout_seconds: How long a request may take, with everything that is tried again;
                never longer than what is left of the deadline of the work at hand.
            backoff: How often it is tried in all, and the pauses between.
            breaker: Stands before every try.
            reply_limit_bytes: The longest body that is read.
            headers: Sent with every request, unless it has others of the same names, or the work at
                hand does, such as its correlation id.
            passes_principal: Send the token of whoever asks along; only to services of one's own.
            max_connections: How many are open at a time.
            transport: How requests are sent, for tests.
        """
        self._service = service
        self._timeout_seconds = timeout_seconds
        self._backoff = backoff
        self._breaker = breaker
        self._reply_limit = reply_limit_bytes
        self._passes_principal = passes_principal
        self._headers_of_all = httpx.Headers(headers)
        self._base = httpx.URL(base_url)
        if service is not None and breaker is not None:
            breaker.watch(service.metrics.breaker)
        self._open(
            follow_redirects=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=max_connections),
            transport=transport,
        )

    @abstractmethod
    def _open(self, **options: Any) -> None:
        """Make the httpx client of this face."""

    def _steps(self, method: str, path: str, options: RequestOptions) -> Steps[Reply]:
        given = contexts.current()
        seconds = options.get("timeout_seconds", self._timeout_seconds)
        if given is not None:
            seconds = given.remaining_seconds(seconds)
        ends_at = time.monotonic() + seconds
        method = method.upper()
        sent = httpx.Headers(options.get("headers"))
        content = options.get("content")
        if "json" in options:
            content = orjson.dumps(options["json"])
            sent.setdefault("content-type", "application/json")
        is_repeatable = method in _IDEMPOTENT or "idempotency-key" in sent
        url = self._url(path)
        attempt = 0
        while True:
            attempt += 1
            left = ends_at - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"no time was left to ask {self._base.host}")
            request = httpx.Request(
                method,
                url,
                params=options.get("params"),
                content=content,
                headers=self._headers(sent, ends_at),
            )
            failure: Retry | None = None
            try:
                reply: Reply = yield self._step(request, left)
            except (NotConnected, Disconnected) as error:
                # What never left may be sent again, whatever it is.
                if not is_repeatable and not isinstance(error, NotConnected):
                    raise
                failure, wanted = error, None
            else:
                if reply.status not in _PASSING or not is_repeatable:
                    return reply
                wanted = reply.retry_after_seconds
            pause = self._pause(attempt, wanted)
            if pause is None or pause >= ends_at - time.monotonic():
                if failure is not None:
                    raise failure
                return reply
            yield _sleep(pause)

    def _pause(self, attempt: int, retry_after_seconds: float | None) -> float | None:
        """How long to wait after try number *attempt*; ``None`` to give up."""
        if attempt >= self._backoff.attempts:
            return None
        return self._backoff.pause_seconds(attempt, at_least_seconds=retry_after_seconds)

    def _url(self, path: str) -> httpx.URL:
        base = self._base
        whole = path if _WHOLE.match(path) else f"{str(base).rstrip('/')}/{path.lstrip('/')}"
        url = httpx.URL(whole)
        if (url.scheme, url.netloc) != (base.scheme, base.netloc):
            raise Invalid(f"{path!r} leads away from {base.host}: make a client for it")
        return url

    def _headers(self, given: httpx.Headers, ends_at: float) -> httpx.Headers:
        context = contexts.current() or Context.new()
        carried = context.inject()
        if not self._passes_principal:
            carried.pop(contexts.PRINCIPAL_TOKEN, None)
        carried[contexts.TIMEOUT_SECONDS] = f"{max(ends_at - time.monotonic(), 0.0):.3f}"
        headers = self._headers_of_all.copy()
        headers.update(carried)
        headers.update(given)
        return headers

    @abstractmethod
    def _step(self, request: httpx.Request, left: float) -> Step[Reply]:
        """Send *request* and read its reply within *left* seconds."""

    def _failure(self, error: httpx.HTTPError, request: httpx.Request) -> Retry:
        host = request.url.host
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return NotConnected(f"{host} cannot be reached: nothing was sent")
        if isinstance(error, httpx.TimeoutException):
            return DeadlineExceeded(f"{host} did not answer in time")
        return Disconnected(f"the connection to {host} broke: the outcome is unknown")

    def _too_long(self) -> RemoteFailure:
        return RemoteFailure(
            "ReplyTooLong", f"the answer is longer than {self._reply_limit} bytes: ask for less"
        )

    def _spanned(self, method: str) -> AbstractContextManager[object]:
        if self._service is None:
            return nullcontext()
        host = self._base.host
        return self._service.traces.client(f"{method} {host}", attributes={"server.address": host})

    def _guarded(self) -> AbstractContextManager[Attempt]:
        return nullcontext(Attempt()) if self._breaker is None else self._breaker.guard()


def _sleep(seconds: float) -> Step[None]:
    return Step(lambda: time.sleep(seconds), lambda: asyncio.sleep(seconds))


def _reply(response: httpx.Response, body: bytearray, attempt: Attempt) -> Reply:
    attempt.has_failed = response.status_code in _PASSING
    return Reply(response.status_code, response.headers, bytes(body))


class Client(_Asking):
    """Asks another service, blocking; threads may share one."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> Reply:
        """Send one request and return its answer, whatever its status.

        Args:
            path: Below the base URL.
            options: See :class:`RequestOptions`.

        Raises:
            NotConnected: Nothing was sent.
            Disconnected, DeadlineExceeded: The outcome is unknown.
            Unavailable: The breaker is open.
            RemoteFailure: The answer is too long.
        """
        with self._spanned(method):
            return drive(self._steps(method, path, options))

    def get(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return self.request("DELETE", path, **options)

    def close(self) -> None:
        """Close every connection; can be called twice."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _step(self, request: httpx.Request, left: float) -> Step[Reply]:
        return Step(sync=lambda: self._send(request, left))

    def _send(self, request: httpx.Request, left: float) -> Reply:
        with self._guarded() as attempt:
            ends_at = time.monotonic() + left
            request.extensions["timeout"] = httpx.Timeout(left).as_dict()
            try:
                response = self._http.send(request, stream=True)
                try:
                    body = bytearray()
                    for chunk in response.iter_bytes():
                        body += chunk
                        if len(body) > self._reply_limit:
                            raise self._too_long()
                        if time.monotonic() > ends_at:
                            raise DeadlineExceeded(f"{request.url.host} did not end in time")
                finally:
                    response.close()
            except httpx.HTTPError as error:
                raise self._failure(error, request) from error
            return _reply(response, body, attempt)


class AsyncClient(_Asking):
    """Asks another service from an event loop; belongs to the loop that first uses it."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> Reply:
        """As :meth:`Client.request`."""
        with self._spanned(method):
            return await adrive(self._steps(method, path, options))

    async def get(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return await self.request("PUT", path, **options)

    async def delete(self, path: str, **options: Unpack[RequestOptions]) -> Reply:
        return await self.request("DELETE", path, **options)

    async def aclose(self) -> None:
        """Close every connection; can be called twice."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _step(self, request: httpx.Request, left: float) -> Step[Reply]:
        return Step(aio=lambda: self._send(request, left))

    async def _send(self, request: httpx.Request, left: float) -> Reply:
        with self._guarded() as attempt:
            request.extensions["timeout"] = httpx.Timeout(left).as_dict()
            try:
                async with asyncio.timeout(left):
                    response = await self._http.send(request, stream=True)
                    try:
                        body = bytearray()
                        async for chunk in response.aiter_bytes():
                            body += chunk
                            if len(body) > self._reply_limit:
                                raise self._too_long()
                    finally:
                        await response.aclose()
            except httpx.HTTPError as error:
                raise self._failure(error, request) from error
            except TimeoutError as error:
                raise DeadlineExceeded(f"{request.url.host} did not answer in time") from error
            return _reply(response, body, attempt)
