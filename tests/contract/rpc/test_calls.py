"""A call brings the result or a typed error, before its deadline, on every broker alike."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from mainstay import context as contexts
from mainstay.context import Context, Principal
from mainstay.errors import (
    Bury,
    Conflict,
    DeadlineExceeded,
    FieldError,
    Invalid,
    MainstayError,
    Malformed,
    NoRoute,
    NotAuthenticated,
    NotFound,
    Overloaded,
    RemoteFailure,
    TooLarge,
    Unavailable,
)
from mainstay.rpc import Call, Calls, Functions
from mainstay.service import Service
from mainstay.testing.wait import async_eventually, eventually
from tests.contract.rpc.conftest import Broker, Serve
from tests.waiting import PATIENCE_SECONDS, join


class Echo:
    def call(self, data: Any) -> Any:
        return data


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def call(self, _: Any) -> Any:
        raise self.error


class Holds:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.go = threading.Event()

    def call(self, data: Any) -> Any:
        self.seen.append(data)
        self.go.wait(PATIENCE_SECONDS)
        return data


def test_a_call_returns_what_the_function_returns(calls: Calls, queue: str, serve: Serve) -> None:
    serve(Echo())
    data = {"text": "привет", "number": 1.5, "none": None, "list": [1, True, "x"]}
    assert calls.call(queue, data) == data


async def test_the_three_faces_share_one_client(calls: Calls, queue: str, serve: Serve) -> None:
    serve(Echo())
    future = calls.submit(queue, 1)
    assert await calls.acall(queue, 2) == 2
    assert await asyncio.to_thread(calls.call, queue, 3) == 3
    assert await asyncio.wrap_future(future) == 1


async def test_async_functions_run_together(calls: Calls, queue: str, serve: Serve) -> None:
    together = asyncio.Barrier(8)

    class Meets:
        async def call(self, data: int) -> int:
            await together.wait()
            return data

    serve(Meets(), concurrency=8)
    assert await asyncio.gather(*(calls.acall(queue, n) for n in range(8))) == list(range(8))


async def test_threads_and_tasks_at_once_get_their_own_answers(
    calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo(), concurrency=16)
    right: list[bool] = []

    def thread(number: int) -> None:
        right.extend(calls.call(queue, [number, n]) == [number, n] for n in range(20))

    async def task(number: int) -> None:
        for n in range(20):
            data = {"task": number, "n": n}
            right.append(await calls.acall(queue, data) == data)

    threads = [threading.Thread(target=thread, args=(number,)) for number in range(32)]
    for one in threads:
        one.start()
    await asyncio.gather(*(task(number) for number in range(32)))
    for one in threads:
        await asyncio.to_thread(one.join)
    assert right == [True] * 64 * 20


def test_a_function_is_called_by_its_name(calls: Calls, queue: str, serve: Serve) -> None:
    functions = Functions()

    def charge(data: int) -> str:
        return f"charged {data}"

    async def refund(data: int) -> str:
        return f"gave back {data}"

    functions.function(charge)
    functions.function(name="give-back")(refund)
    serve(functions)
    assert calls.call(queue, 5, function="charge") == "charged 5"
    assert calls.call(queue, 5, function="give-back") == "gave back 5"
    with pytest.raises(NotFound, match="charge, give-back"):
        calls.call(queue, 5, function="refund")
    with pytest.raises(NotFound):
        calls.call(queue, 5)


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no such card"),
        Conflict("it is charged already"),
        Unavailable("the bank does not answer", retry_after_seconds=7.0),
        Overloaded("too much to do"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_are_for_the_caller_come_back_as_themselves(
    calls: Calls, queue: str, serve: Serve, broker: Broker, error: Exception
) -> None:
    serve(Raises(error))
    with pytest.raises(type(error), match=str(error)) as caught:
        calls.call(queue)
    assert vars(caught.value) == vars(error)
    assert broker.dead_letters(queue) == []


def test_invalid_data_names_its_fields(calls: Calls, queue: str, serve: Serve) -> None:
    fields = (FieldError("/amount", "must be positive"), FieldError("/currency", "is missing"))
    serve(Raises(Invalid("the charge does not fit", errors=fields)))
    with pytest.raises(Invalid) as caught:
        calls.call(queue)
    assert caught.value.errors == fields


def test_an_operation_that_cannot_be_done_is_a_failure_and_no_dead_letter(
    calls: Calls, queue: str, serve: Serve, broker: Broker
) -> None:
    class CannotSort(Bury):
        pass

    serve(Raises(CannotSort("these cannot be sorted: 1 and 'a'")))
    with pytest.raises(RemoteFailure) as caught:
        calls.call(queue)
    assert caught.value.type == "CannotSort"
    assert caught.value.detail == "these cannot be sorted: 1 and 'a'"
    assert broker.dead_letters(queue) == []


def test_what_nobody_foresaw_is_told_without_internals_and_kept(
    calls: Calls, queue: str, serve: Serve, broker: Broker
) -> None:
    serve(Raises(ZeroDivisionError("password=hunter2")))
    with pytest.raises(RemoteFailure) as caught:
        calls.call(queue, {"a": 1}, id="call-1")
    assert caught.value.type == "ZeroDivisionError"
    assert "hunter2" not in str(caught.value)
    [letter] = eventually(lambda: broker.dead_letters(queue))
    assert (letter.id, letter.kind, letter.queue) == ("call-1", "call", queue)
    assert (letter.reason, letter.body) == ("failed:ZeroDivisionError", b'{"a":1}')
    assert "x-correlation-id" in letter.headers


def test_a_result_that_json_cannot_hold_is_a_failure(
    calls: Calls, queue: str, serve: Serve
) -> None:
    class Infinite:
        def call(self, data: Any) -> Any:
            return {"inf": float("inf"), "none": None} if data == "inf" else object()

    serve(Infinite())
    for data in ("inf", "object"):
        with pytest.raises(RemoteFailure, match="JSON"):
            calls.call(queue, data)


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it says nothing")


class Vague(Unavailable):
    retry_after_seconds: Any = object()

    def __init__(self) -> None:
        Exception.__init__(self, "later")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such file: \udcff"),
        Speechless(),
        Bury("no such file: \udcff"),
        NotFound("no such file: \udcff"),
        Invalid("it does not fit", errors=[FieldError("/\udcff", "is no text: \udcff")]),
        Vague(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_cannot_be_written_ends_its_call_and_no_other(
    calls: Calls, queue: str, serve: Serve, broker: Broker, error: Exception
) -> None:
    class Fails:
        def call(self, data: Any) -> Any:
            if data == "fail":
                raise error
            return data

    serve(Fails(), concurrency=1)
    for _ in range(2):
        caught = calls.submit(queue, "fail", timeout_seconds=60.0).exception(PATIENCE_SECONDS)
        assert isinstance(caught, (type(error), RemoteFailure)), caught
    assert calls.call(queue, "well") == "well"
    if not isinstance(error, MainstayError):
        letters = eventually(lambda: broker.dead_letters(queue))
        assert {letter.reason for letter in letters} == {f"failed:{type(error).__name__}"}


def test_a_dead_letter_of_a_call_has_no_secret_of_the_error(
    calls: Calls, queue: str, serve: Serve, broker: Broker
) -> None:
    class Leaks:
        def call(self, data: Any) -> Any:
            raise ValueError(f"no access with {data}")

    serve(Leaks())
    with pytest.raises(RemoteFailure):
        calls.call(queue, "password=hunter2", timeout_seconds=PATIENCE_SECONDS)
    [letter] = eventually(lambda: broker.dead_letters(queue))
    assert letter.detail == "no access with password=***"


def test_a_call_ends_at_its_deadline_and_a_late_reply_finds_nobody(
    calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    serve(held)
    asked = itertools.count(1)

    def is_begun() -> bool:
        with pytest.raises(DeadlineExceeded):
            calls.call(queue, next(asked), timeout_seconds=0.3)
        return bool(held.seen)  # else its time was up before a server had it

    eventually(is_begun)
    held.go.set()
    eventually(lambda: calls.late_replies == len(held.seen))
    assert calls.statistics.snapshot()["timeouts_total"] == next(asked) - 1


async def test_the_deadline_of_the_work_at_hand_holds_for_its_calls(
    calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    serve(held)
    context = Context.extract({"x-timeout-seconds": "0.2"})
    with contexts.use(context), pytest.raises(DeadlineExceeded):
        await calls.acall(queue, timeout_seconds=600.0)
    held.go.set()
    eventually(lambda: context.remaining_seconds(1.0) == 0.0)
    with contexts.use(context), pytest.raises(DeadlineExceeded, match="nothing was sent"):
        await calls.acall(queue)


def test_a_request_whose_deadline_comes_while_it_waits_is_not_done(
    calls: Calls, queue: str, serve: Serve, broker: Broker
) -> None:
    held = Holds()
    serve(held, concurrency=1)
    first = calls.submit(queue, "first")
    eventually(lambda: held.seen == ["first"])
    with pytest.raises(DeadlineExceeded):
        calls.call(queue, "second", timeout_seconds=0.2)
    # Broker and server count from when they get the request: later, by as long as it travelled.
    time.sleep(5.0)
    held.go.set()
    assert first.result(PATIENCE_SECONDS) == "first"
    assert calls.call(queue, "third") == "third"
    assert held.seen == ["first", "third"]
    assert broker.dead_letters(queue) == []


def test_a_cancelled_call_is_forgotten(calls: Calls, queue: str, serve: Serve) -> None:
    held = Holds()
    serve(held)

    async def give_up() -> None:
        task = asyncio.create_task(calls.acall(queue))
        await async_eventually(lambda: held.seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    held.go.set()
    eventually(lambda: calls.late_replies == 1)


def test_a_queue_that_nobody_has_heard_of_is_no_route(calls: Calls, queue: str) -> None:
    with pytest.raises(NoRoute):
        calls.call(queue, timeout_seconds=60.0)


def test_a_queue_whose_servers_have_left_is_no_route_and_no_deadline(
    calls: Calls, queue: str, serve: Serve
) -> None:
    server = serve(Echo())
    assert calls.call(queue, 1) == 1
    server.drain(PATIENCE_SECONDS)
    with pytest.raises(Unavailable):
        calls.call(queue, 2, timeout_seconds=60.0)
    with pytest.raises(NoRoute):
        calls.call(queue, 3, timeout_seconds=60.0)


def test_a_full_queue_refuses(calls: Calls, queue: str, serve: Serve) -> None:
    held = Holds()
    serve(held, concurrency=1, waiting_limit=3)
    futures: list[Future[Any]] = []

    def is_refused() -> bool:
        # One by one: RabbitMQ tells publishers a moment after a quorum queue is full.
        futures.append(calls.submit(queue, len(futures)))
        return any(
            isinstance(f.exception(PATIENCE_SECONDS), Overloaded) for f in futures if f.done()
        )

    eventually(is_refused)
    held.go.set()
    errors = [future.exception(PATIENCE_SECONDS) for future in futures]
    assert errors.count(None) >= 4
    assert all(isinstance(error, Overloaded) for error in errors if error is not None)
    assert calls.call(queue, "again") == "again"


def test_data_that_is_too_large_is_refused_before_it_is_sent(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    held.go.set()
    serve(held)
    with pytest.raises(TooLarge, match="body_limit_bytes"):
        calls.call(queue, "x" * 1_100_000)
    assert calls.call(queue, "x" * 1_000_000) == "x" * 1_000_000
    assert len(held.seen) == 1


@pytest.mark.parametrize("data", [{1, 2}, float("nan"), {"a": float("inf")}, 2**80, "\ud800"])
def test_data_that_json_cannot_hold_is_refused_before_it_is_sent(
    calls: Calls, queue: str, data: Any
) -> None:
    with pytest.raises(Invalid):
        calls.call(queue, data)


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_name_that_the_wire_cannot_carry_fails_alone(
    calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    with pytest.raises(Invalid):
        calls.call("q" * 256)
    with pytest.raises(Invalid):
        calls.call(queue, id="\ud800")
    assert calls.call(queue, "still here") == "still here"


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"timeout_seconds": float("inf")},
    {"timeout_seconds": float("nan")},
    {"timeout_seconds": 1e9},
    {"timeout_seconds": 10**400},
    {"timeout_seconds": "5"},
    {"timeout_seconds": True},
    {"function": None},
    {"function": b"charge"},
    {"function": "\ud800"},
    {"id": 5},
    {"id": ["x"]},
    {"queue": None},
    {"queue": ["q"]},
    {"queue": ""},
    {"queue": "\ud800"},
]


async def test_arguments_that_cannot_be_sent_are_invalid_for_their_caller_alone(
    calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    serve(held)
    waits = calls.submit(queue, "innocent")
    await async_eventually(lambda: held.seen == ["innocent"])
    for bad in BAD_ARGUMENTS:
        arguments = {"queue": queue, **bad}
        with pytest.raises(Invalid):
            calls.call(**arguments)
        with pytest.raises(Invalid):
            await calls.acall(**arguments)
        assert isinstance(calls.submit(**arguments).exception(PATIENCE_SECONDS), Invalid)
    held.go.set()
    assert waits.result(PATIENCE_SECONDS) == "innocent"


def test_the_longest_timeout_that_settings_allow_can_be_sent(
    calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    first = [calls.submit(queue, n, timeout_seconds=31_536_000) for n in range(3)]
    assert [one.result(PATIENCE_SECONDS) for one in first] == [0, 1, 2]
    assert calls.call(queue, "alone", timeout_seconds=31_536_000) == "alone"


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_headers_that_are_larger_than_a_frame_are_invalid_for_their_caller_alone(
    calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    with contexts.use(Context.new()._replace(principal=Principal("me", token="x" * 200_000))):
        with pytest.raises(Invalid, match="headers"):
            calls.call(queue)
        refused = calls.submit(queue)
    answered = calls.submit(queue, "innocent")
    assert isinstance(refused.exception(PATIENCE_SECONDS), Invalid)
    assert answered.result(PATIENCE_SECONDS) == "innocent"


def test_a_server_of_smaller_limits_buries_what_is_too_large_for_it(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo(), settings=broker.settings(body_limit_bytes=1000))
    with pytest.raises(Malformed):
        calls.call(queue, "x" * 2000)
    [letter] = eventually(lambda: broker.dead_letters(queue))
    assert letter.reason == "refused:TooLarge"
    assert calls.call(queue, 1) == 1


def test_context_trace_and_principal_travel(broker: Broker, queue: str, serve: Serve) -> None:
    seen: list[Context | None] = []

    class Looks:
        def call(self, _: Any) -> None:
            seen.append(contexts.current())

    serve(Looks())
    service = Service(broker.settings())
    calls = service.hold(Calls())
    token = service.tokens.issue("user-7", roles=["admin"])
    context = Context.extract({"x-correlation-id": "request-1", "x-timeout-seconds": "60"})
    with contexts.use(context):
        contexts.identify(Principal("user-7", frozenset({"admin"}), token))
        calls.call(queue)
    calls.close()
    [there] = seen
    assert there is not None
    assert there.correlation_id == "request-1"
    assert there.trace_id == context.trace_id
    assert there.principal is not None
    assert there.principal.subject == "user-7"
    assert there.principal.roles == {"admin"}
    assert there.deadline is not None
    assert context.deadline is not None
    # To the millisecond, and no later for having been on its way.
    assert context.deadline - 0.001 <= there.deadline <= time.monotonic() + 60.0


def test_a_forged_principal_is_refused(broker: Broker, queue: str, serve: Serve) -> None:
    serve(Echo())
    calls = Service(broker.settings()).hold(Calls())
    with contexts.use(Context.new()):
        contexts.identify(Principal("root", frozenset({"admin"}), "forged.token.here"))
        with pytest.raises(NotAuthenticated):
            calls.call(queue)
    calls.close()


def test_a_record_is_kept_of_start_and_end_and_does_not_stop_the_call(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    started: list[Call] = []
    ended: list[tuple[str, str]] = []

    def on_end(call: Call, outcome: str) -> None:
        ended.append((call.id, outcome))
        raise OSError("the database is away")

    class Chooses:
        def call(self, data: str) -> str:
            if data == "no":
                raise NotFound("no such thing")
            return data

    serve(Chooses(), on_start=started.append, on_end=on_end)
    assert calls.call(queue, "yes", id="a") == "yes"
    with pytest.raises(NotFound):
        calls.call(queue, "no", id="b")
    assert [(call.id, call.queue, call.data) for call in started] == [
        ("a", queue, "yes"),
        ("b", queue, "no"),
    ]
    assert ended == [("a", "done"), ("b", "refused")]


async def test_an_async_server_has_all_of_that_too(
    broker: Broker, queue: str, serve: Serve
) -> None:
    service = Service(broker.settings())
    calls = service.hold(Calls())
    record: list[tuple[str, str]] = []

    async def on_start(call: Call) -> None:
        record.append((call.id, "begun"))

    def on_end(call: Call, outcome: str) -> None:
        record.append((call.id, outcome))
        raise OSError("the database is away")

    async def once(call: Call, do: Any) -> Any:
        return [call.id, await do()]

    class Who:
        async def call(self, _: Any) -> str:
            context = contexts.current()
            assert context is not None
            return context.principal.subject if context.principal else "nobody"

    serve(Who(), on_start=on_start, on_end=on_end, deduplicate=once)
    assert await calls.acall(queue, id="a") == ["a", "nobody"]
    with contexts.use(Context.new()):
        contexts.identify(Principal("user-7", token=service.tokens.issue("user-7")))
        assert await calls.acall(queue, id="b") == ["b", "user-7"]
    assert record == [("a", "begun"), ("a", "done"), ("b", "begun"), ("b", "done")]
    await calls.aclose()


def test_a_call_that_was_done_before_is_answered_by_whoever_remembers(
    calls: Calls, queue: str, serve: Serve
) -> None:
    answers: dict[str, Any] = {}
    effects: list[Any] = []

    class Charges:
        def call(self, data: Any) -> int:
            effects.append(data)
            return len(effects)

    def once(call: Call, do: Any) -> Any:
        if call.id not in answers:
            answers[call.id] = do()
        return answers[call.id]

    serve(Charges(), deduplicate=once)
    assert calls.call(queue, 5, id="charge-1") == calls.call(queue, 5, id="charge-1") == 1
    assert effects == [5]


async def test_an_async_function_is_stopped_at_its_limit(
    calls: Calls, queue: str, serve: Serve
) -> None:
    class Sleeps:
        async def call(self, _: Any) -> None:
            await asyncio.Event().wait()

    server = serve(Sleeps(), limit_seconds=0.2)
    with pytest.raises(DeadlineExceeded, match="was stopped"):
        await calls.acall(queue)
    eventually(lambda: server.in_hand == 0)


def test_the_client_can_be_used_again_after_it_was_closed(
    calls: Calls, queue: str, serve: Serve
) -> None:
    serve(Echo())
    assert calls.call(queue, 1) == 1
    calls.close()
    calls.close()
    assert calls.call(queue, 2) == 2


def test_a_drained_server_finishes_what_is_in_hand(calls: Calls, queue: str, serve: Serve) -> None:
    held = Holds()
    server = serve(held)
    future = calls.submit(queue, "in hand")
    eventually(lambda: held.seen)
    drained = threading.Thread(target=server.drain, args=(PATIENCE_SECONDS,))
    drained.start()
    held.go.set()
    assert future.result(PATIENCE_SECONDS) == "in hand"
    join(drained)
    assert server.in_hand == 0


def test_what_a_drained_server_cannot_finish_goes_to_another(
    calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    first = serve(held)
    future = calls.submit(queue, "handed over")
    eventually(lambda: held.seen)
    serve(Echo())
    first.drain(0.0)
    assert future.result(PATIENCE_SECONDS) == "handed over"
    held.go.set()


def test_the_depth_of_a_queue_is_known(calls: Calls, queue: str, serve: Serve) -> None:
    held = Holds()
    serve(held, concurrency=1)
    futures = [calls.submit(queue, n, timeout_seconds=PATIENCE_SECONDS) for n in range(3)]
    wanted = {"messages": 3, "messages_ready": 2, "messages_unacknowledged": 1}
    eventually(lambda: calls.depth(queue)["queue"] == wanted)
    assert calls.depth(queue)["dead_letters"] == dict.fromkeys(wanted, 0)
    assert asyncio.run(calls.adepth(queue)) == calls.depth(queue)
    held.go.set()
    for future in futures:
        future.result(PATIENCE_SECONDS)


def test_how_long_calls_have_waited_is_shown(
    broker: Broker, calls: Calls, queue: str, serve: Serve
) -> None:
    held = Holds()
    metrics = serve(held, concurrency=1).service.metrics

    def waited() -> float | None:
        name = f'mainstay_queue_oldest_seconds{{queue="{queue}"}} '
        lines = metrics.exposition()[0].decode().splitlines()
        return next((float(line.removeprefix(name)) for line in lines if name in line), None)

    if broker.room == "rabbitmq":  # keeps no time of what waits
        assert waited() is None
        return
    assert waited() == 0.0
    futures = [calls.submit(queue, n, timeout_seconds=60.0) for n in range(2)]
    eventually(lambda: (waited() or 0.0) > 0.0)
    held.go.set()
    for future in futures:
        future.result(PATIENCE_SECONDS)
    eventually(lambda: waited() == 0.0)


def test_the_broker_can_be_asked_how_it_is(calls: Calls) -> None:
    assert calls.is_named
    calls.ping()
