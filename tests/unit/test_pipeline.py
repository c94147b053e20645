"""The stations: in their order, once each, and closed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mainstay import context as contexts
from mainstay.config import Settings
from mainstay.context import Context, Principal
from mainstay.errors import (
    DeadlineExceeded,
    LimitExceeded,
    NotAllowed,
    NotAuthenticated,
    RemoteFailure,
    Unavailable,
)
from mainstay.pipeline import Entry, Step, Steps, adrive, drive, outcome_of, stations
from mainstay.service import Service
from mainstay.traces import Traces


def step(result: Any, seen: list[str] | None = None, name: str = "") -> Step[Any]:
    """A step that returns *result*, or raises it, in either world."""

    def sync() -> Any:
        if seen is not None:
            seen.append(name)
        if isinstance(result, BaseException):
            raise result
        return result

    async def aio() -> Any:
        await asyncio.sleep(0)
        return sync()

    return Step(sync, aio)


class Work(Entry[Any]):
    """Work that notes what happens to it."""

    kind = "test"
    span_kind = "server"

    def __init__(
        self,
        result: Any = "answer",
        *,
        headers: Mapping[str, str] | None = None,
        principal: Any = None,
        admission: Any = None,
    ) -> None:
        self._headers = headers or {}
        self._result = result
        self._principal = principal
        self._admission = admission
        self.seen: list[str] = []
        self.contexts: list[Context | None] = []

    @property
    def headers(self) -> Mapping[str, str]:
        return self._headers

    @property
    def name(self) -> str:
        return "work"

    def authenticate(self) -> Step[Principal | None] | None:
        if self._principal is None:
            return None
        return step(self._principal, self.seen, "authenticate")

    def admit(self) -> Step[None] | None:
        return step(self._admission, self.seen, "admit")

    def deduplicate(self) -> Steps[Any]:
        self.seen.append("deduplicate")
        return (yield self.handle())

    def handle(self) -> Step[Any]:
        self.contexts.append(contexts.current())
        return step(self._result, self.seen, "handle")

    def measure(self, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append(f"measure {outcome}")

    def log(self, outcome: str, seconds: float, error: BaseException | None) -> None:
        self.contexts.append(contexts.current())
        self.seen.append(f"log {outcome} {type(error).__name__}")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def service() -> Service:
    return Service(Settings(env="test"))


@pytest.fixture(params=["sync", "aio"])
def lead(request: pytest.FixtureRequest, service: Service) -> Any:
    """Take an entry through the stations, in either world."""

    def lead(entry: Entry[Any]) -> Any:
        if request.param == "sync":
            return drive(stations(entry, service))
        return asyncio.run(adrive(stations(entry, service)))

    return lead


def test_the_stations_come_in_their_order(lead: Any) -> None:
    work = Work(principal=Principal("user-7"))

    assert lead(work) == "answer"
    assert work.seen == [
        *("authenticate", "admit", "deduplicate", "handle", "measure done", "log done NoneType")
    ]


def test_the_context_that_came_in_is_current_until_the_line_is_written(lead: Any) -> None:
    work = Work(
        headers={"x-correlation-id": "c-1", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        principal=Principal("user-7"),
    )

    lead(work)

    for context in work.contexts:
        assert context is not None
        assert (context.correlation_id, context.trace_id) == ("c-1", "a" * 32)
        assert context.principal == Principal("user-7")
    assert contexts.current() is None


@pytest.mark.parametrize(
    ("station", "error", "outcome"),
    [
        ("principal", NotAuthenticated("no"), "refused"),
        (
            "admission",
            LimitExceeded("no", retry_after_seconds=1, limit=1, window_seconds=1),
            "retry",
        ),
        ("result", RuntimeError("no"), "failed"),
        ("result", SystemExit(1), "failed"),
    ],
)
def test_what_raises_is_counted_and_logged_once_and_leaves(
    lead: Any, station: str, error: BaseException, outcome: str
) -> None:
    work = Work(**{station: error})  # type: ignore[arg-type]  # one of its arguments

    with pytest.raises(type(error)) as caught:
        lead(work)

    assert caught.value is error
    assert work.seen[-2:] == [f"measure {outcome}", f"log {outcome} {type(error).__name__}"]
    assert sum(entry.startswith("log") for entry in work.seen) == 1
    assert contexts.current() is None


def test_nobody_who_was_not_admitted_is_handled(lead: Any) -> None:
    work = Work(admission=NotAllowed("no"))

    with pytest.raises(NotAllowed):
        lead(work)

    assert "handle" not in work.seen


def test_an_answer_that_is_known_already_needs_no_handler(lead: Any) -> None:
    class Known(Work):
        def deduplicate(self) -> Steps[Any]:
            return (yield step("known already"))

    work = Known()

    assert lead(work) == "known already"
    assert "handle" not in work.seen


def test_a_station_may_answer_what_a_step_raised(lead: Any) -> None:
    class Patient(Work):
        def deduplicate(self) -> Steps[Any]:
            try:
                return (yield self.handle())
            except Unavailable:
                return "instead"

    assert lead(Patient(Unavailable("gone"))) == "instead"


def test_cancelled_work_is_closed_and_stays_cancelled(service: Service) -> None:
    under_way = asyncio.Event()

    async def forever() -> None:
        under_way.set()
        await asyncio.sleep(3600)

    class Waits(Work):
        def handle(self) -> Step[Any]:
            return Step(aio=forever)

    work = Waits()

    async def main() -> None:
        task = asyncio.ensure_future(adrive(stations(work, service)))
        await under_way.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert work.seen[-2:] == ["measure cancelled", "log cancelled CancelledError"]


def test_a_span_covers_the_work(
    service: Service, exporter: InMemorySpanExporter, lead: Any
) -> None:
    service.traces = Traces(service.settings, exporter=exporter)
    work = Work(RuntimeError("no"), headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})

    with pytest.raises(RuntimeError):
        lead(work)
    service.traces.close()

    (span,) = exporter.get_finished_spans()
    (context, _) = work.contexts
    assert context is not None
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.span_id:016x}" == context.span_id
    assert f"{span.parent.span_id:016x}" == "b" * 16
    assert span.attributes is not None
    assert span.attributes["mainstay.outcome"] == "failed"


def test_a_step_of_the_wrong_world_says_so() -> None:
    def only_sync() -> Steps[Any]:
        return (yield Step(sync=lambda: 1))

    async def one() -> int:
        return 1

    def only_aio() -> Steps[Any]:
        return (yield Step(aio=one))

    with pytest.raises(TypeError, match=r"adrive\(\)"):
        drive(only_aio())
    with pytest.raises(TypeError, match=r"drive\(\)"):
        asyncio.run(adrive(only_sync()))


def test_entries_have_defaults() -> None:
    class Least(Entry[int]):
        kind = "least"
        span_kind = "internal"
        headers: Mapping[str, str] = {}
        name = "least"

        def handle(self) -> Step[int]:
            return step(7)

        def measure(self, outcome: str, seconds: float) -> None:
            """Count nothing."""

        def log(self, outcome: str, seconds: float, error: BaseException | None) -> None:
            """Say nothing."""

    assert drive(stations(Least(), Service(Settings(env="test")))) == 7


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (DeadlineExceeded("x"), "expired"),
        (Unavailable("x"), "retry"),
        (NotAllowed("x"), "refused"),
        (asyncio.CancelledError(), "cancelled"),
        (RemoteFailure("ValueError", "x"), "failed"),
        (KeyError("x"), "failed"),
    ],
)
def test_every_end_has_a_name(error: BaseException | None, outcome: str) -> None:
    assert outcome_of(error) == outcome
