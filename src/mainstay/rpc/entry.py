"""One call on its way through the stations of a server."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mainstay import context as contexts
from mainstay.auth import WORK
from mainstay.context import PRINCIPAL_TOKEN, Principal
from mainstay.errors import DeadlineExceeded, MainstayError, NotAuthenticated
from mainstay.pipeline import Entry, Step, outcome_of
from mainstay.rpc import wire
from mainstay.rpc.intake import Delivery
from mainstay.rpc.target import Resolver

if TYPE_CHECKING:
    from mainstay.service import Service
    from mainstay.traces import SpanKind

__all__ = ["Call", "CallEntry", "Deduplicate", "Desk", "OnEnd", "OnStart"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as those see it who keep a record of calls.

    Args:
        id: The call's own; the same when its caller, or the broker, sends it again.
        queue: Where it came.
        function: Which function it asks for; empty where there is only one.
        data: What the caller sent.
        correlation_id: Of the request that caused it.
        deliveries: How often it has been delivered, this one included.
    """

    id: str
    queue: str
    function: str
    data: Any
    correlation_id: str
    deliveries: int


OnStart = Callable[[Call], object]
OnEnd = Callable[[Call, str], object]
Deduplicate = Callable[[Call, Callable[[], Any]], Any]


@dataclass(frozen=True, slots=True)
class Desk:
    """What every call of one server is done with."""

    service: Service
    queue: str
    resolve: Resolver
    limit_seconds: float
    on_start: OnStart | None = None
    on_end: OnEnd | None = None
    deduplicate: Deduplicate | None = None

    @property
    def is_watched(self) -> bool:
        """Does anybody keep a record of calls?"""
        watchers = (self.on_start, self.on_end, self.deduplicate)
        return watchers != (None, None, None)


class CallEntry(Entry[bytes]):
    """A call that could be read; its stations end in the body of the answer."""

    kind: ClassVar[str] = "call"
    span_kind: ClassVar[SpanKind] = "server"

    def __init__(self, desk: Desk, delivery: Delivery, data: Any) -> None:
        self._desk = desk
        self._delivery = delivery
        self._function = delivery.function
        self._data = data

    @property
    def headers(self) -> Mapping[str, str]:
        return self._delivery.headers

    @property
    def limit_seconds(self) -> float | None:
        # What is left now, not what was left when it was sent.
        deadline = self._delivery.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    @property
    def name(self) -> str:
        # Names that callers make up must not become labels.
        if not self._function:
            return self._desk.queue
        known = self._function if self._function in self._desk.resolve else "unknown"
        return f"{self._desk.queue} {known}"

    def authenticate(self) -> Step[Principal | None] | None:
        token = self._delivery.headers.get(PRINCIPAL_TOKEN)
        if not token or not self._desk.service.tokens.can_verify:
            return None  # an unverified name grants nothing, so there is nobody
        tokens = self._desk.service.tokens

        async def aio() -> Principal:
            try:
                return await tokens.averify(token, typ=WORK)
            except NotAuthenticated:
                return await tokens.averify(token)

        return Step(lambda: tokens.verify_work(token), aio)

    def admit(self) -> None:
        if self._delivery.has_expired:
            raise DeadlineExceeded(
                f"the caller of {self._desk.queue!r} had given up before the call could begin"
            )

    def handle(self) -> Step[bytes]:
        return Step(self._do, self._ado)

    def measure(self, outcome: str, seconds: float) -> None:
        self._desk.service.metrics.call("server", self._desk.queue, outcome, seconds)

    def log(self, outcome: str, seconds: float, error: BaseException | None) -> None:
        foreseen = error is None or isinstance(error, (MainstayError, asyncio.CancelledError))
        level = "error" if not foreseen else "info" if outcome == "done" else "warning"
        name = self.name
        facts: dict[str, object] = {}
        if error is not None and foreseen:
            facts = {"error": None, "error_type": type(error).__name__, "detail": str(error)}
        elif error is not None:
            facts = {"error": error}
        if self._delivery.deliveries > 1:
            facts["deliveries"] = self._delivery.deliveries
        self._desk.service.logs.write(
            level,
            "mainstay.rpc",
            f"call {name} {outcome}",
            event="call",
            name=name,
            queue=self._desk.queue,
            call_id=self._delivery.id,
            outcome=outcome,
            duration_ms=round(seconds * 1000, 3),
            **facts,  # type: ignore[arg-type] # `error` among them has the type of its parameter
        )

    # The handler, and those who keep a record of it.

    def _do(self) -> bytes:
        desk, data = self._desk, self._data
        if not desk.is_watched:
            return self._encode(desk.resolve(self._function)(data))
        call = self._call()
        self._tell(desk.on_start, call)
        try:
            function = desk.resolve(self._function)
            if desk.deduplicate is None:
                result = function(data)
            else:
                result = desk.deduplicate(call, lambda: function(data))
            answer = self._encode(result)
        except BaseException as error:
            self._tell(self._desk.on_end, call, outcome_of(error))
            raise
        self._tell(self._desk.on_end, call, "done")
        return answer

    async def _ado(self) -> bytes:
        if not self._desk.is_watched:
            return self._encode(await self._limited(None))
        call = self._call()
        await self._atell(self._desk.on_start, call)
        try:
            answer = self._encode(await self._limited(call))
        except BaseException as error:
            await self._atell(self._desk.on_end, call, outcome_of(error))
            raise
        await self._atell(self._desk.on_end, call, "done")
        return answer

    async def _limited(self, call: Call | None) -> Any:
        function = self._desk.resolve(self._function)
        hook = self._desk.deduplicate
        limit = asyncio.timeout(self._desk.limit_seconds)
        try:
            async with limit:
                if hook is None or call is None:
                    return await function(self._data)
                return await hook(call, lambda: function(self._data))
        except TimeoutError as error:
            if not limit.expired():  # the handler's own
                raise
            raise DeadlineExceeded(
                f"{self.name!r} took longer than {self._desk.limit_seconds} s and was stopped"
            ) from error

    def _encode(self, result: Any) -> bytes:
        limit = self._desk.service.settings.body_limit_bytes
        return wire.encode_result(result, limit_bytes=limit)

    def _call(self) -> Call:
        context = contexts.current()
        return Call(
            self._delivery.id,
            self._desk.queue,
            self._function,
            self._data,
            "" if context is None else context.correlation_id,
            self._delivery.deliveries,
        )

    def _tell(self, observer: Callable[..., object] | None, *facts: object) -> None:
        if observer is None:
            return
        try:
            observer(*facts)
        except Exception as error:  # noqa: BLE001 - the record of a call must not stop the call
            self._not_told(error)

    async def _atell(self, observer: Callable[..., object] | None, *facts: object) -> None:
        if observer is None:
            return
        try:
            if inspect.iscoroutinefunction(observer):
                await observer(*facts)
            else:
                await asyncio.to_thread(observer, *facts)
        except Exception as error:  # noqa: BLE001 - likewise
            self._not_told(error)

    def _not_told(self, error: Exception) -> None:
        self._desk.service.logs.write(
            "error",
            "mainstay.rpc",
            f"the record of a call to {self._desk.queue!r} was not written; the call goes on",
            event="call_not_recorded",
            call_id=self._delivery.id,
            error=error,
        )
