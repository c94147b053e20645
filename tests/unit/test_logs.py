"""Lines: what is on them, that there is one of each, and that nothing stops the work."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import select
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay import Service
from mainstay import context as contexts
from mainstay import otlp as telemetry
from mainstay.config import Settings
from mainstay.context import Context, Principal
from mainstay.logs import Handler, Line, Logs, output
from mainstay.metrics import Metrics
from mainstay.testing.otlp import OtlpReceiver, attributes
from mainstay.testing.wait import eventually
from mainstay.traces import Traces
from tests.waiting import PATIENCE_SECONDS


class Lines(io.BytesIO):
    """Standard output of a test."""

    @property
    def all(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def one(self) -> dict[str, object]:
        (line,) = self.all
        return line


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def logs(lines: Lines) -> Logs:
    return Logs(settings(), stream=lines)


@pytest.fixture
def installed(logs: Logs) -> Iterator[Logs]:
    """Logs that every logger of the process writes through, until the test ends."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook
    try:
        logs.install()
        yield logs
    finally:
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook = hooks
        root.handlers[:] = handlers
        root.setLevel(level)


def settings(**values: object) -> Settings:
    given = {"env": "test", "service_name": "orders", "instance": "host-1", "log_format": "json"}
    return Settings(**(given | values))


def test_a_line_has_the_keys_of_the_contract_in_their_order(logs: Logs, lines: Lines) -> None:
    logs.write("info", "orders.api", "charged", event="card_charged", amount=5)

    assert list(lines.one) == [
        *("ts", "level", "service", "logger", "instance", "env", "msg", "event", "amount")
    ]
    assert lines.one | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "service": "orders",
        "logger": "orders.api",
        "instance": "host-1",
        "env": "test",
        "msg": "charged",
        "event": "card_charged",
        "amount": 5,
    }


def test_the_order_is_the_same_on_a_line_that_was_cleaned(logs: Logs, lines: Lines) -> None:
    logs.write("info", "x", "y", event="z", url="amqp://u:p@h", error=ValueError("no"))

    assert list(lines.one) == [
        *("ts", "level", "service", "logger", "instance", "env", "msg", "event"),
        *("exception_type", "stack", "url"),
    ]


def test_the_time_is_utc_with_microseconds(logs: Logs, lines: Lines) -> None:
    before = datetime.now(UTC)
    logs.write("info", "x", "now")
    after = datetime.now(UTC)

    written = str(lines.one["ts"])
    assert len(written) == len("2026-01-01T00:00:00.000000Z")
    assert written.endswith("Z")
    assert before <= datetime.fromisoformat(written) <= after


def test_the_context_of_the_work_is_on_the_line(logs: Logs, lines: Lines) -> None:
    context = Context.new()
    with contexts.use(context):
        contexts.identify(Principal("user-7"))
        logs.write("info", "x", "done")

    assert lines.one["correlation_id"] == context.correlation_id
    assert lines.one["trace_id"] == context.trace_id
    assert lines.one["span_id"] == context.span_id
    assert lines.one["user"] == "user-7"


def of_a_request(logs: Logs) -> Line:
    return logs.line("info", "orders.http", "request", method="GET", route="/cards/{id}")


def test_a_prepared_line_is_the_same_as_one_that_is_not(logs: Logs, lines: Lines) -> None:
    with contexts.use(Context.new()):
        of_a_request(logs).write(0.0125)
        facts = {"method": "GET", "route": "/cards/{id}", "duration_ms": 12.5}
        logs.write("info", "orders.http", "request", **facts)  # type: ignore[arg-type]

    prepared, written = lines.all
    assert list(prepared) == list(written)
    assert prepared | {"ts": ""} == written | {"ts": ""}
    assert len(str(prepared["ts"])) == len(str(written["ts"]))


@pytest.mark.parametrize("subject", ["user-7", 'a "b" \\ c', "zoë", "new\nline", "caf\udce9"])
def test_who_asks_is_on_a_prepared_line(logs: Logs, lines: Lines, subject: str) -> None:
    with contexts.use(Context.new()):
        contexts.identify(Principal(subject))
        of_a_request(logs).write(0.001)

    assert lines.one["user"] == subject.replace("\udce9", "\\udce9")


@pytest.mark.parametrize("id", ["order-7_a.b", "d3b07384-d113-4ec5-a5a6-c0b1d5f0a2bb"])
def test_an_id_of_any_form_is_on_a_prepared_line(logs: Logs, lines: Lines, id: str) -> None:
    with contexts.use(Context.extract({"x-correlation-id": id})):
        of_a_request(logs).write(0.001)

    assert lines.one["correlation_id"] == id


def test_a_prepared_line_needs_no_context(logs: Logs, lines: Lines) -> None:
    of_a_request(logs).write(0.001)

    assert "correlation_id" not in lines.one
    assert lines.one["duration_ms"] == 1.0


def test_a_prepared_line_hides_what_is_made_a_secret_later(logs: Logs, lines: Lines) -> None:
    line = logs.line("info", "x", "request", route="/cards/hunter22")
    with contexts.use(Context.new()):
        line.write(0.001)
        logs.hide("hunter22")
        line.write(0.001)

    assert [one["route"] for one in lines.all] == ["/cards/hunter22", "/cards/***"]


def test_a_prepared_line_is_text_where_lines_are(lines: Lines) -> None:
    logs = Logs(settings(log_format="text"), stream=lines)
    with contexts.use(Context.extract({"x-correlation-id": "c-1"})):
        of_a_request(logs).write(0.001)

    (text,) = lines.getvalue().decode().splitlines()
    assert text[13:].startswith("INFO     orders.http  request  correlation_id=c-1 method=GET")


def test_a_prepared_line_below_the_level_is_not_written(lines: Lines) -> None:
    logs = Logs(settings(log_level="WARNING"), stream=lines)
    with contexts.use(Context.new()):
        of_a_request(logs).write(0.001)

    assert lines.all == []


async def test_lines_of_one_iteration_go_out_together_each_with_its_own_time(
    logs: Logs, lines: Lines
) -> None:
    line = of_a_request(logs)
    for name in ("a", "b"):
        with contexts.use(Context(name, "1" * 32, "2" * 16)):
            line.write_later(0.001)
    assert lines.all == []

    await asyncio.sleep(0)

    first, second = lines.all
    assert (first["correlation_id"], second["correlation_id"]) == ("a", "b")
    assert str(first["ts"]) < str(second["ts"])
    with contexts.use(Context("c", "1" * 32, "2" * 16)):
        line.write_later(0.001)
    await asyncio.sleep(0)
    assert len(lines.all) == 3


async def test_what_has_to_be_looked_at_closely_keeps_its_place(logs: Logs, lines: Lines) -> None:
    line = of_a_request(logs)
    for id in ("a", f"eyJ{'h' * 20}.{'p' * 20}.sig", "b"):
        with contexts.use(Context.extract({"x-correlation-id": id})):
            line.write_later(0.001)
    line.write_later(0.001)

    await asyncio.sleep(0)

    assert [one.get("correlation_id") for one in lines.all] == ["a", "***", "b", None]


async def test_lines_that_go_out_together_stay_whole_on_a_pipe(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    monkeypatch.setattr(logs._output, "write", written.append)
    line = of_a_request(logs)
    with contexts.use(Context.new()):
        for _ in range(100):
            line.write_later(0.001)

    await asyncio.sleep(0)

    assert 1 < len(written) < 20
    assert all(len(piece) <= select.PIPE_BUF for piece in written)
    assert len(b"".join(written).splitlines()) == 100


async def test_lines_keep_the_order_and_the_time_in_which_they_were_logged(
    logs: Logs, lines: Lines
) -> None:
    for path in ("/orders", "/auth/token", "/cards"):
        route = logs.line("info", "orders.http", "request", method="GET", route=path)
        with contexts.use(Context.new()):
            route.write_later(0.001)
    moment = datetime.now(UTC)
    await asyncio.to_thread(logs.write, "warning", "orders", "slow")
    logs.write("info", "orders", "next")

    assert [line.get("route", line["msg"]) for line in lines.all] == [
        *("/orders", "/auth/token", "/cards", "slow", "next")
    ]
    times = [datetime.fromisoformat(str(line["ts"])) for line in lines.all]
    assert times == sorted(times)
    assert times[2] <= moment <= times[3]


async def test_a_record_of_the_standard_library_follows_the_requests_before_it(
    installed: Logs, lines: Lines
) -> None:
    with contexts.use(Context.new()):
        of_a_request(installed).write_later(0.001)
    logging.getLogger("orders").warning("after it")

    assert [line["msg"] for line in lines.all] == ["request", "after it"]


async def test_a_forked_child_does_not_write_the_lines_of_its_parent(
    logs: Logs, lines: Lines
) -> None:
    with contexts.use(Context.new()):
        of_a_request(logs).write_later(0.001)

    written = written_by_a_fork(lambda: logs.write("info", "orders", "in the child"), lines)
    assert json.loads(written)["msg"] == "in the child"
    await asyncio.sleep(0)
    assert lines.one["msg"] == "request"


@pytest.mark.parametrize("is_first", [True, False], ids=["at once", "after another line"])
def test_a_forked_child_writes_its_first_request(
    logs: Logs, lines: Lines, *, is_first: bool
) -> None:
    line = of_a_request(logs)

    async def serve() -> None:
        if not is_first:
            logs.write("info", "orders", "in the child")
        with contexts.use(Context.new()):
            line.write_later(0.001)
        await asyncio.sleep(0)

    written = written_by_a_fork(lambda: asyncio.run(serve()), lines).splitlines()

    assert json.loads(written[-1])["msg"] == "request"
    assert len(written) == (1 if is_first else 2)


def written_by_a_fork(work: Callable[[], object], lines: Lines) -> bytes:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
        child = os.fork()
    if child == 0:
        try:
            work()
            os.write(writing, lines.getvalue())
        finally:
            os._exit(0)
    os.close(writing)
    written = os.read(reading, select.PIPE_BUF)
    os.close(reading)
    os.waitpid(child, 0)
    return written


def test_an_iteration_that_never_ended_stops_nothing(logs: Logs, lines: Lines) -> None:
    line = of_a_request(logs)
    broken = asyncio.new_event_loop()
    asyncio.events._set_running_loop(broken)
    try:
        line.write_later(0.001)
    finally:
        asyncio.events._set_running_loop(None)
        broken.close()

    async def later() -> None:
        line.write_later(0.001)
        await asyncio.sleep(0)

    asyncio.run(later())
    assert len(lines.all) == 2


def test_what_is_below_the_level_is_not_written(lines: Lines) -> None:
    logs = Logs(settings(log_level="WARNING"), stream=lines)

    logs.write("info", "x", "unheard")
    logs.write("warning", "x", "heard")

    assert lines.one["msg"] == "heard"
    assert not logs.is_on("info")
    assert logs.is_on("error")


def test_an_error_adds_its_type_and_its_stack(logs: Logs, lines: Lines) -> None:
    try:
        raise LookupError("no such card") from ValueError("the cause")
    except LookupError as error:
        logs.write("error", "x", "failed", error=error)

    assert lines.one["exception_type"] == "LookupError"
    stack = str(lines.one["stack"])
    assert "LookupError: no such card" in stack
    assert "ValueError: the cause" in stack
    assert "test_logs.py" in stack


def test_an_endless_stack_is_cut_in_the_middle(logs: Logs, lines: Lines) -> None:
    logs.write("error", "x", "failed", error=ValueError("a" * 100_000))

    stack = str(lines.one["stack"])
    assert len(stack) < 20_000
    assert stack.startswith("ValueError: aaa")
    assert "characters left out" in stack


def test_authors_log_with_the_standard_library(installed: Logs, lines: Lines) -> None:
    logging.getLogger("orders.cards").info(
        "charged %s", "card-1", extra={"event": "card_charged", "amount": 5}
    )

    assert lines.one["logger"] == "orders.cards"
    assert lines.one["msg"] == "charged card-1"
    assert lines.one["event"] == "card_charged"
    assert lines.one["amount"] == 5
    assert "taskName" not in lines.one


def test_a_logged_exception_is_one_line(installed: Logs, lines: Lines) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("orders").exception("not found")

    assert lines.one["level"] == "error"
    assert lines.one["exception_type"] == "KeyError"


def test_arguments_that_do_not_fit_still_make_a_line(logs: Logs, lines: Lines) -> None:
    record = logging.LogRecord("orders", 30, "x.py", 1, "%d cards", ("five",), None)

    Handler(logs).handle(record)

    assert lines.one["msg"] == "%d cards (its arguments do not fit)"


def test_installing_twice_writes_once(installed: Logs, lines: Lines) -> None:
    installed.install()

    logging.getLogger("orders").warning("once")

    assert len(lines.all) == 1
    assert sum(isinstance(handler, Handler) for handler in logging.getLogger().handlers) == 1


def test_handlers_of_libraries_that_would_write_a_second_line_are_removed(
    logs: Logs, lines: Lines, installed: Logs, capfd: pytest.CaptureFixture[str]
) -> None:
    library = logging.getLogger("uvicorn.error")
    library.addHandler(logging.StreamHandler())
    library.propagate = False

    logs.install()
    library.warning("from uvicorn")

    assert lines.one["msg"] == "from uvicorn"
    assert capfd.readouterr().err == ""


def test_a_handler_that_writes_elsewhere_stays(installed: Logs) -> None:
    elsewhere = logging.FileHandler(os.devnull)
    logging.getLogger().addHandler(elsewhere)

    installed.install()

    assert elsewhere in logging.getLogger().handlers
    elsewhere.close()


def test_the_access_log_of_a_server_is_off(installed: Logs, lines: Lines) -> None:
    logging.getLogger("uvicorn.access").info("GET / 200")

    assert lines.all == []
    assert not logging.getLogger("uvicorn.access").propagate


def test_a_warning_is_a_line(installed: Logs, lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert lines.one["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in str(lines.one["msg"])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1 << 80, str(1 << 80)),
        (Decimal("1.50"), "1.50"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        ({"b"}, ["b"]),
        ({1: "a"}, {"1": "a"}),
        (float("nan"), None),
        ("caf\udce9", "caf\\udce9"),
        (b"\xff", "b'\\xff'"),
    ],
)
def test_values_that_json_cannot_hold_are_written_as_text(
    logs: Logs, lines: Lines, value: object, written: object
) -> None:
    logs.write("info", "x", "y", value=value)

    assert lines.one["value"] == written


def test_a_value_that_cannot_be_shown_stops_nothing(logs: Logs, lines: Lines) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    logs.write("info", "x", "y", value=Broken())

    assert lines.one["value"] == "<Broken that cannot be shown>"


def test_something_that_holds_itself_is_written_to_a_depth(logs: Logs, lines: Lines) -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless

    logs.write("info", "x", "y", value=endless)

    assert isinstance(lines.one["value"], dict)


def test_a_field_does_not_replace_a_key_of_the_contract(logs: Logs, lines: Lines) -> None:
    logs.write("info", "x", "y", service="mine", level="mine")

    assert lines.one["service"] == "orders"
    assert lines.one["service_"] == "mine"
    assert lines.one["level_"] == "mine"


def test_a_value_without_end_is_cut(logs: Logs, lines: Lines) -> None:
    logs.write("info", "x", "y", value="a" * 1_000_000)

    assert str(lines.one["value"]).endswith("(1000000 characters)")
    assert len(lines.getvalue()) < 20_000


def test_a_reader_that_went_away_stops_nothing(logs: Logs) -> None:
    closed = io.BytesIO()
    closed.close()

    Logs(settings(), stream=closed).write("info", "x", "into the void")


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.integers(), st.lists)))
def test_whatever_is_logged_is_one_line_of_json(fields: dict[str, Any]) -> None:
    lines = Lines()

    Logs(settings(), stream=lines).write("info", "x", str(fields), **fields)

    assert lines.one["service"] == "orders"


def test_text_is_for_people(lines: Lines) -> None:
    logs = Logs(settings(log_format="text"), stream=lines)

    logs.write("warning", "orders.api", "slow", event="slow_call", seconds=1.5, why="no idea")

    (text,) = lines.getvalue().decode().splitlines()
    assert text[13:] == "WARNING  orders.api  slow  event=slow_call seconds=1.5 why='no idea'"


def test_text_is_coloured_on_a_terminal_only(lines: Lines) -> None:
    class Terminal(Lines):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    for stream in (lines, terminal):
        Logs(settings(log_format="text"), stream=stream).write(
            "error", "x", "y", error=ValueError("z")
        )

    assert b"\x1b[31m" in terminal.getvalue()
    assert b"\x1b" not in lines.getvalue()
    assert lines.getvalue().endswith(b"\nValueError: z\n")


def test_lines_go_to_standard_output_as_it_is_at_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs = Logs(settings())

    logs.write("info", "x", "captured")

    assert json.loads(capsys.readouterr().out)["msg"] == "captured"


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )


SET_UP = """
import logging, os, sys, threading
from mainstay.config import Settings
from mainstay.logs import Logs
logs = Logs(Settings(env="test", service_name="orders", log_format="json"))
logs.install()
"""


def test_a_crash_is_one_line() -> None:
    done = run(f"{SET_UP}\nraise LookupError('gone')")

    line = json.loads(done.stdout)
    assert done.returncode == 1
    assert done.stderr == ""
    assert line["event"] == "crashed"
    assert line["level"] == "critical"
    assert line["exception_type"] == "LookupError"


def test_the_crash_of_a_thread_is_one_line() -> None:
    program = "t = threading.Thread(target=lambda: 1 / 0, name='poller'); t.start(); t.join()"

    done = run(f"{SET_UP}\n{program}")

    line = json.loads(done.stdout)
    assert done.stderr == ""
    assert line["event"] == "crashed"
    assert line["thread"] == "poller"


def test_output_that_was_replaced_by_a_logger_does_not_come_back() -> None:
    program = """
class Proxy:
    def write(self, text): text and logging.getLogger("stdout").warning(text)
    def flush(self): pass
sys.stdout = Proxy()
print("printed", end="")
"""
    done = run(f"{SET_UP}\n{program}")

    assert json.loads(done.stdout)["msg"] == "printed"


def test_lines_of_many_processes_stay_whole() -> None:
    program = """
pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(200):
            logs.write("info", "x", "y" * 500, number=number)
        logs.close()
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
"""
    done = run(f"{SET_UP}\n{program}")

    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 800


def test_a_pipe_that_does_not_block_gets_whole_lines() -> None:
    program = """
os.set_blocking(1, False)
for _ in range(300):
    logs.write("info", "x", "y" * 10_000)
"""
    done = run(f"{SET_UP}\n{program}")

    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 300


@pytest.fixture(params=["its own way into the pipe", "the one that it was given"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a pipe is written to: /proc may belong to somebody else."""
    if request.param == "the one that it was given":
        monkeypatch.setattr(output, "_own", lambda _fd: -1)


@contextmanager
def unread() -> Iterator[int]:
    """Have a pipe as standard output that nobody reads, and give its other end."""
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "w") as stdout, redirect_stdout(stdout):
        yield ours
    os.close(ours)


def read_lines(pipe: int, until: str) -> list[dict[str, Any]]:
    """Read what is written until a line of that event or message."""
    text = b""
    while not (text.endswith(b"\n") and until.encode() in text[text.rfind(b"\n", 0, -1) + 1 :]):
        assert select.select([pipe], [], [], PATIENCE_SECONDS)[0], "nothing more is written"
        text += os.read(pipe, 65_536)
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.usefixtures("way")
def test_lines_that_nobody_reads_hold_nobody_up_and_come_in_order() -> None:
    dropped: list[int] = []
    logs = Logs(settings(), dropped=dropped.append)
    with unread() as pipe:
        for number in range(500):  # three times what a pipe holds
            logs.write("info", "x", "y" * 300, number=number)
        logs.write("info", "x", "last")
        lines = read_lines(pipe, "last")
    assert [line.get("number") for line in lines[:-1]] == list(range(500))
    assert dropped == []


@pytest.mark.usefixtures("way")
def test_lines_beyond_what_is_kept_are_dropped_counted_and_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "_MOST_BYTES", 10_000)
    service = Service(settings())
    with unread() as pipe:
        for number in range(1000):
            service.logs.write("info", "x", "y" * 300, number=number)
        *lines, told = read_lines(pipe, "log_lines_dropped")
        service.logs.write("info", "x", "goes on")
        assert [line["msg"] for line in read_lines(pipe, "goes on")] == ["goes on"]
    assert [line["number"] for line in lines] == list(range(len(lines)))
    assert told["lines"] == 1000 - len(lines)
    registry = service.metrics.registry
    assert registry.get_sample_value("mainstay_log_lines_dropped_total") == told["lines"]
    service.stop()


@pytest.mark.usefixtures("way")
def test_a_line_that_is_longer_than_all_that_is_kept_goes_out_and_so_do_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "_MOST_BYTES", 1_000)
    logs = Logs(settings())
    with unread() as pipe:
        logs.write("info", "x", "long", rows=["r" * 1000] * 500)
        assert len(read_lines(pipe, "long")[0]["rows"]) == 500
        logs.write("info", "x", "next")
        assert read_lines(pipe, "next")[0]["msg"] == "next"


@pytest.mark.usefixtures("way")
def test_lines_together_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_MOST_BYTES", 1)
    dropped: list[int] = []
    with unread() as pipe:
        out = output.Output(None, dropped=dropped.append)
        for _ in range(1000):
            out.write(b"y" * 99 + b"\n" + b"y" * 99 + b"\n")
        assert sum(dropped) % 2 == 0
        assert len(read_whole(pipe)) + sum(dropped) == 2000


def read_whole(pipe: int) -> list[bytes]:
    """Read what is there."""
    text = b""
    while select.select([pipe], [], [], 0)[0]:
        text += os.read(pipe, 65_536)
    return text.splitlines()


def test_where_no_thread_can_be_started_lines_are_dropped_and_nothing_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    dropped: list[int] = []
    logs = Logs(settings(), dropped=dropped.append)
    with unread():
        for number in range(500):
            logs.write("info", "x", "y" * 300, number=number)
        logs.close()
    assert dropped


def test_standard_output_that_comes_and_goes_costs_no_descriptors() -> None:
    logs = Logs(settings())
    with unread():
        logs.write("info", "x", "first")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            with redirect_stdout(io.StringIO()):
                logs.write("info", "x", "elsewhere")
            logs.write("info", "x", "here")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.usefixtures("way")
def test_a_pipe_whose_reader_has_gone_takes_nothing_down() -> None:
    logs = Logs(settings())
    with unread() as pipe, Path(os.devnull).open("rb") as nothing:
        for number in range(500):
            logs.write("info", "x", "y" * 300, number=number)
        os.dup2(nothing.fileno(), pipe)  # which closes the reader's end
        logs.write("info", "x", "unheard")
        logs.close()


def test_lines_are_sent_to_the_collector(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, installed: Logs
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    installed.install()
    context = Context.new()

    with contexts.use(context):
        installed.write("warning", "orders.api", "slow", event="slow_call", password="geheim-7")
    installed.close()

    record = eventually(lambda: next(iter(otlp.logs), None))
    assert record is not None
    assert record.body.string_value == "slow"
    assert record.severity_text == "WARNING"
    assert record.trace_id.hex() == context.trace_id
    assert record.span_id.hex() == context.span_id
    assert attributes(record.attributes) == {
        "event.name": "slow_call",
        "correlation_id": context.correlation_id,
        "password": "***",
    }


def test_a_prepared_line_is_sent_too(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, installed: Logs
) -> None:
    line = of_a_request(installed)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    installed.install()

    with contexts.use(Context.new()):
        line.write(0.5)
    installed.close()

    record = eventually(lambda: next(iter(otlp.logs), None))
    assert record is not None
    assert attributes(record.attributes)["route"] == "/cards/{id}"


def test_a_collector_that_is_down_costs_no_line_and_no_time(
    monkeypatch: pytest.MonkeyPatch, installed: Logs, lines: Lines
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    installed.install()

    for number in range(5_000):
        installed.write("info", "orders", "x", number=number)
    dropped = installed.dropped
    installed.close()

    assert dropped > 0
    assert sum(line["logger"] == "orders" for line in lines.all) == 5_000
    assert not [thread for thread in threading.enumerate() if thread.name == "otlp-logs"]


def test_an_opentelemetry_that_cannot_be_imported_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, installed: Logs, lines: Lines
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mainstay.logs.records", None)
    installed.install()

    installed.write("info", "orders", "one")
    installed.write("info", "orders", "two")

    assert [line["level"] for line in lines.all] == ["warning", "info", "info"]


BAD_VARIABLES = {
    "OTEL_EXPORTER_OTLP_HEADERS": "bad",
    "OTEL_RESOURCE_ATTRIBUTES": "a=b,c",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "soon",
    "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many",
    "OTEL_BSP_SCHEDULE_DELAY": "soon",
    "OTEL_BSP_MAX_QUEUE_SIZE": "1",
    "OTEL_TRACES_SAMPLER": "sometimes",
    "OTEL_METRIC_EXPORT_INTERVAL": "soon",
}


@pytest.mark.parametrize("variable", BAD_VARIABLES)
def test_what_opentelemetry_cannot_read_costs_a_warning_and_never_the_process(
    variable: str,
    otlp: OtlpReceiver,
    monkeypatch: pytest.MonkeyPatch,
    installed: Logs,
    lines: Lines,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    monkeypatch.setenv(variable, BAD_VARIABLES[variable])
    installed.install()
    traces, metrics = Traces(settings()), Metrics(settings())

    def work() -> None:
        installed.write("info", "orders", "one")
        if (span := traces.start("x", kind="server", context=Context.new())) is not None:
            span.end("x", "done", None)
        metrics.up()
        installed.write("info", "orders", "two")
        for each in (traces, metrics, installed):
            each.close()

    # In a thread, because what it would do otherwise is to wait for itself.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert [line["msg"] for line in lines.all if line["logger"] == "orders"] == ["one", "two"]
    assert any(line["level"] in ("warning", "error") for line in lines.all)


def test_what_is_logged_as_the_sender_is_made_is_a_line(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, installed: Logs, lines: Lines
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    resource = telemetry.resource

    def with_a_word(settings: Settings) -> Any:
        word = threading.Thread(
            target=logging.getLogger("anything").warning, args=("while it is made",), daemon=True
        )
        word.start()
        word.join(PATIENCE_SECONDS)
        return resource(settings)

    monkeypatch.setattr(telemetry, "resource", with_a_word)
    installed.install()

    logging.getLogger("orders").info("x")  # holds the lock of its handler meanwhile
    eventually(lambda: len(lines.all) == 2)
    installed.close()

    assert [line["msg"] for line in lines.all] == ["x", "while it is made"]
    sent = eventually(lambda: {record.body.string_value for record in otlp.logs})
    assert sent == {"x", "while it is made"}


def test_logs_are_not_sent_when_their_exporter_is_none(
    otlp: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, installed: Logs
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    installed.install()

    installed.write("info", "x", "y")
    installed.close()

    assert otlp.logs == []
