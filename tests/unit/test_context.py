"""What travels with work: read strictly, written the same on every wire."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay import context as contexts
from mainstay.context import Context, Principal
from tests.waiting import PATIENCE_SECONDS, join

TRACE, SPAN = "a" * 32, "b" * 16


def test_at_the_edge_ids_are_made() -> None:
    one, other = Context.new(), Context.new()

    assert one.correlation_id != other.correlation_id
    assert len(one.correlation_id) == len(one.trace_id) == 32
    assert len(one.span_id) == 16
    assert (one.parent_id, one.sampled, one.deadline, one.principal) == ("", True, None, None)
    int(one.trace_id, 16)


def test_a_trace_goes_on() -> None:
    context = Context.extract(
        {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1,other=2"}
    )

    assert (context.trace_id, context.parent_id, context.sampled) == (TRACE, SPAN, False)
    assert context.span_id != SPAN
    assert context.tracestate == "vendor=1,other=2"


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}",
        f"01-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-zz",
    ],
)
def test_a_traceparent_that_is_none_is_not_believed(header: str) -> None:
    context = Context.extract({"traceparent": header, "tracestate": "x=1"})

    assert context.trace_id != TRACE
    assert context.parent_id == ""
    assert context.tracestate == ""


@pytest.mark.parametrize("state", ["a" * 513, "x=\n", "x=ä"])
def test_a_tracestate_that_is_none_is_dropped(state: str) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": state}

    assert Context.extract(headers).tracestate == ""


@pytest.mark.parametrize("name", ["x-correlation-id", "x-request-id"])
def test_a_correlation_id_goes_on(name: str) -> None:
    assert Context.extract({name: "Order-7_a.b"}).correlation_id == "Order-7_a.b"


def test_the_correlation_id_is_preferred_to_the_request_id() -> None:
    headers = {"x-correlation-id": "mine", "x-request-id": "theirs"}

    assert Context.extract(headers).correlation_id == "mine"


@given(st.text())
def test_only_what_has_the_exact_form_is_taken(text: str) -> None:
    taken = Context.extract({"x-correlation-id": text}).correlation_id

    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert set(taken) <= allowed
    assert 1 <= len(taken) <= 128
    if text and set(text) <= allowed and len(text) <= 128:
        assert taken == text


@given(st.dictionaries(st.sampled_from(["traceparent", "x-timeout-seconds"]), st.text()))
def test_no_header_makes_it_fail(headers: dict[str, str]) -> None:
    Context.extract(headers).inject()


@pytest.mark.parametrize("timeout", ["", "soon", "nan", "inf", "-1", "1e9"])
def test_a_deadline_that_is_none_lifts_no_limit(timeout: str) -> None:
    assert Context.extract({"x-timeout-seconds": timeout}).deadline is None


@pytest.mark.parametrize(
    ("asked", "granted"),
    [(None, 30), ("5", 5), ("0", 0), ("60", 30), ("-1", 30), ("nan", 30), ("soon", 30)],
)
def test_a_caller_may_only_shorten_our_own_limit(asked: str | None, granted: float) -> None:
    headers = {} if asked is None else {"x-timeout-seconds": asked}
    before = time.monotonic()
    deadline = Context.extract(headers, limit_seconds=30).deadline

    assert deadline is not None
    assert before + granted <= deadline <= time.monotonic() + granted


def test_what_is_left_of_a_deadline_travels_on() -> None:
    context = Context.extract({"x-timeout-seconds": "5"})

    assert 4 < context.remaining_seconds(30) <= 5
    assert context.remaining_seconds(1) == 1
    assert 4 < float(context.inject()["x-timeout-seconds"]) <= 5


def test_a_deadline_that_is_over_leaves_nothing() -> None:
    context = Context("c", TRACE, SPAN, deadline=time.monotonic() - 1)

    assert context.remaining_seconds(30) == 0
    assert context.inject()["x-timeout-seconds"] == "0.000"


def test_a_deadline_ends_for_everybody_who_has_the_context_when_the_answer_begins() -> None:
    context = Context.extract({"x-timeout-seconds": "5"})
    of_a_task, assigned = context.child(), context._replace(principal=Principal("user-7"))
    assert context.wait is not None
    context.wait.is_over = True
    for one in (context, of_a_task, assigned):
        assert one.remaining_seconds(30) == 30
        assert "x-timeout-seconds" not in one.inject()


def test_without_a_deadline_the_default_holds() -> None:
    assert Context.new().remaining_seconds(7) == 7
    assert "x-timeout-seconds" not in Context.new().inject()


def test_what_is_sent_is_what_is_read() -> None:
    sent = Context("c-1", TRACE, SPAN, sampled=False, tracestate="x=1")

    received = Context.extract(sent.inject())

    assert received.correlation_id == "c-1"
    assert (received.trace_id, received.parent_id) == (TRACE, SPAN)
    assert (received.sampled, received.tracestate) == (False, "x=1")


def test_a_principal_travels_as_its_token_and_is_never_read_from_a_header() -> None:
    context = Context("c", TRACE, SPAN, principal=Principal("user-7", token="signed"))

    headers = context.inject()

    assert headers["x-mainstay-token"] == "signed"
    assert Context.extract(headers).principal is None
    assert "x-mainstay-token" not in Context("c", TRACE, SPAN, principal=Principal("x")).inject()
    assert "signed" not in repr(context)


def test_a_child_has_this_span_for_its_parent() -> None:
    parent = Context("c", TRACE, SPAN, sampled=False, tracestate="x=1", deadline=5.0)

    child = parent.child()

    assert child.parent_id == SPAN
    assert child.span_id not in (SPAN, "")
    assert child.inject() | {"traceparent": ""} == parent.inject() | {"traceparent": ""}


def test_the_current_context_ends_with_its_block() -> None:
    context = Context.new()
    assert contexts.current() is None

    def work() -> None:
        with contexts.use(context):
            assert contexts.current() is context
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    assert contexts.current() is None


def test_who_asks_is_known_until_the_work_ends() -> None:
    token = contexts.activate(Context.new())
    contexts.identify(Principal("user-7", frozenset({"admin"})))
    context = contexts.current()
    contexts.restore(token)

    assert context is not None
    assert context.principal == Principal("user-7", frozenset({"admin"}))
    assert contexts.current() is None
    contexts.identify(Principal("nobody"))
    assert contexts.current() is None


async def test_tasks_have_contexts_of_their_own() -> None:
    async def work(name: str) -> str:
        with contexts.use(Context(name, TRACE, SPAN)):
            await asyncio.sleep(0)
            context = contexts.current()
            assert context is not None
            return context.correlation_id

    assert tuple(await asyncio.gather(work("a"), work("b"))) == ("a", "b")


def test_a_thread_begins_without_one() -> None:
    seen: list[Context | None] = []
    with contexts.use(Context.new()):
        thread = threading.Thread(target=lambda: seen.append(contexts.current()))
        thread.start()
        join(thread)

    assert seen == [None]


def test_a_forked_child_draws_other_ids_than_its_parent() -> None:
    program = """
import os
from mainstay.context import Context
Context.new()
child = os.fork()
os.write(1, Context.new().trace_id.encode() + b"\\n")
if child:
    os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    one, other = done.stdout.split()
    assert one != other


def test_new_ids_are_hexadecimal() -> None:
    assert len(bytes.fromhex(contexts.new_id())) == 16
