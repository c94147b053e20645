"""The tasks that every room is asked to do; run by `celery -A tests.contract.tasks.sample`."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from celery import group
from celery.exceptions import Ignore, Reject
from sqlalchemy import event, text
from typing_extensions import override

from mainstay import context
from mainstay.config import Settings
from mainstay.errors import Bury, Refuse, Unavailable
from mainstay.resources.sqlalchemy import Database, first_time
from mainstay.retries import Backoff
from mainstay.service import Service
from mainstay.tasks.celery import Task, TaskQueue, create_celery_app
from mainstay.tasks.celery.transport import Channel

EFFECTS = "SAMPLE_EFFECTS"
LEASE_SECONDS = "SAMPLE_LEASE_SECONDS"
URGENT = "SAMPLE_URGENT"
BACKOFF = Backoff(attempts=5, initial_seconds=0.1, max_seconds=1.0)


def effect(*words: object) -> None:
    """Leave a mark outside of anything under test: a line in a file, one write."""
    line = " ".join(map(str, words)) + "\n"
    with Path(os.environ[EFFECTS]).open("ab", buffering=0) as file:
        file.write(line.encode())


def add(a: int, b: int) -> int:
    effect("add", a, b)
    return a + b


def tell_context() -> dict[str, str]:
    current = context.current()
    assert current is not None
    return {
        "correlation_id": current.correlation_id,
        "trace_id": current.trace_id,
        "parent_id": current.parent_id,
    }


_tries: dict[str, int] = {}


def flaky(key: str, good_try: int) -> int:
    """Fail in passing until the *good_try*-th time."""
    effect("flaky", key)
    lines = Path(os.environ[EFFECTS]).read_text().splitlines()
    tries = lines.count(f"flaky {key}")
    if tries < good_try:
        raise Unavailable("the neighbour does not answer")
    return tries


def never_up(key: str) -> None:
    effect("never_up", key)
    raise ConnectionRefusedError("nobody there")


def broken(key: str) -> None:
    effect("broken", key)
    raise ValueError(f"no such thing as {key}")


def refused() -> None:
    raise Refuse("this can not be asked for")


def buried() -> None:
    raise Bury("this can never be done")


def kill_first(key: str) -> str:
    """Kill the process that does it, the first time."""
    effect("kill_first", key)
    lines = Path(os.environ[EFFECTS]).read_text().splitlines()
    if lines.count(f"kill_first {key}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def kill_always(key: str) -> None:
    effect("kill_always", key)
    os.kill(os.getpid(), signal.SIGKILL)


def gate_of(effects: Path, key: str, delivery: int = 0) -> Path:
    """Return the file that lets a task go on; each delivery may have one of its own."""
    return effects.with_name(f"gate-{key}-{delivery}")


def wait_at(gate: Path) -> None:
    while not gate.exists():
        time.sleep(0.02)


def hold(key: str) -> str:
    """Wait until a gate is open."""
    effect("hold", key)
    wait_at(gate_of(Path(os.environ[EFFECTS]), key))
    effect("released", key)
    return "released"


def deaf(key: str) -> None:
    """Take no notice of being told to end, until a gate is open."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    effect("deaf", key)
    wait_at(gate_of(Path(os.environ[EFFECTS]), key))


def stubborn(key: str) -> None:
    """Sleep on when asked to stop."""
    effect("stubborn", key)
    while True:
        try:
            time.sleep(3600)
        except Exception:  # noqa: BLE001, S112 - that is what stubborn means
            continue


class Wordless(Exception):
    """An error whose own words are broken."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def wordless() -> None:
    raise Wordless


def half_said() -> None:
    """Fail with half of a surrogate pair, as the name of a file can have."""
    raise ValueError("bad \udcff name")


def give_set() -> set[int]:
    return {1, 2}


def lazy(kind: str) -> object:
    """Return work that is still to be done."""
    effect("lazy", kind)

    async def later() -> None: ...

    return later() if kind == "coroutine" else (each for each in "abc")


def hungry() -> None:
    raise MemoryError("no more")


def greedy() -> int:
    """Take all the memory there is, of a little more than what is in use."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, hard))
    taken = []
    try:
        while True:
            taken.append(bytearray(2**20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def frozen() -> int:
    """Say how many objects the garbage collector leaves alone in this process."""
    return gc.get_freeze_count()


def engine_id() -> list[int]:
    """Say which process' engine this is."""
    database = service.resource(Database)
    with database.session(read_only=True) as session:
        session.execute(text("select 1"))
    return [os.getpid(), id(database.engine)]


PLAIN: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        add,
        tell_context,
        flaky,
        never_up,
        broken,
        refused,
        buried,
        wordless,
        half_said,
        give_set,
        lazy,
    )
}
"""What any room can do."""

if LEASE_SECONDS in os.environ:
    Channel.lease_seconds = float(os.environ[LEASE_SECONDS])


def urgent(name: str) -> TaskQueue:
    """Return the queue of that name as one with priorities."""
    return TaskQueue(
        name=name,
        kind="classic",
        classic_because="tasks have priorities",
        max_priority=9,
        max_length=1_000,
    )


service = Service(Settings, Database())
celery_app = create_celery_app(
    service, queues=[urgent(os.environ[URGENT])] if URGENT in os.environ else ()
)

_more: tuple[Callable[..., Any], ...] = (
    kill_first,
    deaf,
    kill_always,
    hold,
    hungry,
    greedy,
    frozen,
    engine_id,
)
for _each in (*PLAIN.values(), *_more):
    celery_app.task(_each, name=_each.__name__, backoff=BACKOFF)
celery_app.task(hold, name="hold_limited", time_limit=120, soft_time_limit=1)
celery_app.task(stubborn, name="stubborn", time_limit=2, soft_time_limit=1)
celery_app.task(kill_first, name="kill_first_dead", profile="dead-letter")


@celery_app.task(name="steps", bind=True)
def steps(self: Any, total: int) -> int:
    for step in range(1, total + 1):
        self.progress(step, total, note=f"step {step}")
    return total


@celery_app.task(name="reject_first", bind=True)
def reject_first(self: Any, key: str) -> str:
    """Give the message back the first time, as Celery's documentation does it."""
    effect("reject_first", key)
    if not self.request.delivery_info["redelivered"]:
        raise Reject("not yet", requeue=True)
    return "done"


def ends(self: Any, how: str, key: str) -> object:
    """End in one of the ways in which a task can."""
    effect("ends", how, key)
    is_first = not self.request.delivery_info["redelivered"] and not self.request.retries
    match how:
        case "passing" if is_first:
            raise Unavailable("the neighbour does not answer")
        case "failing":
            raise ValueError("no such thing")
        case "refusing":
            raise Refuse("this can not be asked for")
        case "burying":
            raise Bury("this can never be done")
        case "ignoring":
            raise Ignore("nothing to do")
        case "rejecting":
            raise Reject("not for me", requeue=False)
        case "requeueing" if is_first:
            raise Reject("not yet", requeue=True)
        case "retrying" if is_first:
            raise self.retry(countdown=0)
        case "replacing":
            raise self.replace(celery_app.signature("listed", args=("instead",)))
        case "exiting" if is_first:
            raise SystemExit(1)
        case "hungry":
            raise MemoryError("no more")
        case "killed" | "killed for good" if is_first:
            os.kill(os.getpid(), signal.SIGKILL)
        case "unencodable":
            return {1, 2}
        case "too slow":
            time.sleep(3600)
        case "deaf":
            while True:
                with suppress(Exception):
                    time.sleep(3600)
    return how


@celery_app.task(name="hold_kept", bind=True)
def hold_kept(self: Any, key: str, end: str) -> str:
    """Wait at a gate, telling of it meanwhile, and end well or not, or not at first."""
    effect("hold_kept", key)
    gate = gate_of(Path(os.environ[EFFECTS]), key)
    while not gate.exists():
        self.progress(1, 2)
        time.sleep(0.02)
    tries = Path(os.environ[EFFECTS]).read_text().splitlines().count(f"hold_kept {key}")
    if end == "failed" or (end == "failed at first" and tries == 1):
        raise ValueError("at the end")
    return key


@celery_app.task(name="starts")
def starts() -> Any:
    return celery_app.signature("answered", args=(3,)).apply_async()


@celery_app.task(name="fans_out", bind=True)
def fans_out(self: Any, number: int) -> None:
    add = celery_app.signature("add")
    raise self.replace(group(add.clone((number, 1)), add.clone((number, 2))))


class Unready(Task):
    """A task that fails before its function is called."""

    abstract = True

    @override
    def before_start(self, _id: str, args: tuple[Any, ...], *_: object) -> None:
        raise Ignore("not now") if args[0] == "ignoring at its start" else ValueError("not ready")


_kept: dict[str, Any] = {"bind": True, "ignore_result": False, "backoff": BACKOFF}
celery_app.task(ends, name="ends", **_kept)
celery_app.task(ends, name="ends_dead", profile="dead-letter", **_kept)
celery_app.task(ends, name="ends_unready", base=Unready, **_kept)
celery_app.task(ends, name="ends_limited", time_limit=2, soft_time_limit=1, **_kept)


@celery_app.task(name="retry_first", bind=True)
def retry_first(self: Any, key: str, countdown: int) -> str:
    """Ask for another try the first time, a while later."""
    effect("retry_first", key)
    if not self.request.retries:
        raise self.retry(countdown=countdown)
    return "done"


@celery_app.task(name="store_once", once=True)
def store_once(key: str, *, session: Any) -> str:
    session.execute(text("insert into effects (key) values (:key)"), {"key": key})
    return key


@celery_app.task(name="store_slowly", once=True)
def store_slowly(key: str, *, session: Any) -> str:
    effect("store_slowly", key)
    time.sleep(0.2)  # so that some are in hand at any time; nothing waits for it to be over
    session.execute(text("insert into effects (key) values (:key)"), {"key": key})
    return key


def store_once_and_die(key: str, *, session: Any) -> str:
    """Kill the process between the commit and all that comes after it, the first time."""
    effect("store_once_and_die", key)
    session.execute(text("insert into effects (key) values (:key)"), {"key": key})
    event.listen(session, "after_commit", lambda _session: os.kill(os.getpid(), signal.SIGKILL))
    return key


celery_app.task(store_once_and_die, name="store_once_and_die", once=True)
celery_app.task(store_once_and_die, name="store_and_die_dead", once=True, profile="dead-letter")


@celery_app.task(name="store_in_steps", fenced=True)
def store_in_steps(key: str, *, session: Any) -> str:
    """Commit, wait at a gate of the delivery's own, and write once more."""
    if first_time(session, "first"):
        session.execute(text("insert into effects (key) values (:key)"), {"key": f"{key} first"})
        session.commit()
    effect("store_in_steps", key)
    marks = Path(os.environ[EFFECTS]).read_text().splitlines()
    gate = gate_of(Path(os.environ[EFFECTS]), key, marks.count(f"store_in_steps {key}"))
    wait_at(gate)
    session.execute(text("insert into effects (key) values (:key)"), {"key": f"{key} second"})
    return key


@celery_app.task(name="store_and_fail")
def store_and_fail(key: str, *, session: Any) -> None:
    session.execute(text("insert into effects (key) values (:key)"), {"key": key})
    raise ValueError("after the write")


@celery_app.task(name="answered", ignore_result=False)
def answered(number: int, *, by: int = 1) -> float:
    return number / by


@celery_app.task(name="listed")
def listed(*given: Any) -> list[Any]:
    """Return what a step was given."""
    effect("listed", json.dumps(given))
    return list(given)


VALUES = [Decimal("1.10"), UUID(int=5), date(2026, 1, 2), b"\xff", {"__type__": "uuid", "a": 1}]


@celery_app.task(name="valued")
def valued(kind: str) -> object:
    return VALUES if kind == "all" else {"of": float("nan")}


@celery_app.task(name="typed")
def typed(values: list[Any]) -> list[str]:
    """Say of which types a step was given values."""
    return [f"{type(each).__name__} {each}" for each in values]


@celery_app.task(name="stored")
def stored(*given: Any, key: str, session: Any) -> str:
    """Have an effect, and neither ask nor say whether it is the first time."""
    session.execute(text("insert into effects (key) values (:key)"), {"key": key})
    return key


@celery_app.task(name="passes_gate")
def passes_gate(*given: Any, key: str) -> str:
    """Fail for good until a gate is open."""
    effect("passes_gate", key)
    if not gate_of(Path(os.environ[EFFECTS]), key).exists():
        raise ValueError("the gate is shut")
    return key


@celery_app.task(name="fall_first")
def fall_first(*given: Any, key: str) -> str:
    """Kill the worker, all of it, the first time."""
    effect("fall_first", key)
    if Path(os.environ[EFFECTS]).read_text().splitlines().count(f"fall_first {key}") == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return key


celery_app.conf.beat_schedule = {
    "soon": {"task": "listed", "schedule": 1.0, "args": ("soon",)},
    "hourly": {"task": "listed", "schedule": 3600.0, "args": ("hourly",)},
}
