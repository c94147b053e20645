"""What does a scenario play on: private servers, the subject's processes, faults and the ledger?"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar

import psycopg

from mainstay.config import Settings
from mainstay.deadletters import DeadLetter, DeadLetters
from mainstay.processes import commands
from mainstay.processes.manifest import ProcessSpec
from mainstay.resources.amqp.deadletters import AmqpDeadLetters
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect
from mainstay.resources.sqlalchemy import Database
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.rpc import Calls
from mainstay.service import Service
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.celery.depths import depths_of
from mainstay.tasks.celery.transport import requeue
from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from mainstay.testing.ports import steady_port
from tests.chaos.deaths import Death
from tests.chaos.ledger import Books, Execution, Ledger, balance, units_in
from tests.chaos.processes import Process
from tests.chaos.subject.service import CALLS_QUEUE, EFFECTS_TABLE, EXECUTIONS, QUEUE
from tests.chaos.waiting import until

__all__ = ["DURABLE", "Broker", "Servers", "Size", "Stage"]

Broker = Literal["rabbitmq", "redis"]
Size = Literal["short", "full"]
N = TypeVar("N", int, float)

_SUBJECT = "tests.chaos.subject"
_UNDER_WAY = """
select (select count(*) from mainstay.idempotency_keys where done_at is null),
       (select count(*) from mainstay.outbox where published_at is null)
"""
# All that a virtual host has in its queues, dead letters aside.
_MESSAGES = """
lists:sum([begin {ok, {_, N}, _} = ra:leader_query(amqqueue:get_pid(Q),
                                                   fun rabbit_fifo:query_messages_total/1), N end
           || Q <- rabbit_amqqueue:list(<<"%s">>),
              amqqueue:get_type(Q) =:= rabbit_quorum_queue,
              not lists:suffix("_dlq", binary_to_list(element(4, amqqueue:get_name(Q))))]).
"""
_CUT = '[rabbit_networking:close_connection(P, "chaos") || P <- rabbit_networking:connections()].'


DURABLE = {"appendfsync": "always"}
"""What a Redis is told that must lose nothing when it is killed: by default it answers up to two
seconds before it writes, while its disk is slow."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of one scenario. Each scenario may stop, kill and pause them."""

    postgres: PostgreSQL
    rabbitmq: RabbitMQ
    redis: Redis

    def versions(self) -> dict[str, str]:
        """Return what they are."""
        redis = subprocess.run(
            [str(self.redis.program()), "--version"], capture_output=True, text=True, check=True
        )
        return {
            "PostgreSQL": self.postgres.sql("show server_version").split()[0],
            "RabbitMQ": self.rabbitmq.manage("GET", "/overview")["rabbitmq_version"],
            "Redis": redis.stdout.partition("v=")[2].split()[0],
        }

    def up(self) -> None:
        """Have all three answer again, whatever was done to them."""
        for server in (self.postgres, self.rabbitmq, self.redis):
            server.start()


class Stage:
    """One scenario's place: a database, a broker, processes that end with it.

    Args:
        folder: For logs and the ledger; empty.
        servers: Private ones, running.
        broker: Which of them carries tasks and calls.
        seed: Of all that is left to chance.
        size: How much is played.
        say: Told what a long scenario has to say meanwhile.
    """

    def __init__(
        self,
        folder: Path,
        servers: Servers,
        broker: Broker,
        *,
        seed: int,
        size: Size,
        say: Callable[[str], object] = print,
    ) -> None:
        self.folder = folder
        self.servers = servers
        self.broker = broker
        self.seed = seed
        self.size = size
        self.say = say
        self.random = random.Random(seed)
        self.ledger = Ledger(folder, seed)
        self.faults: Counter[str] = Counter()
        """How often each kind of fault was done."""
        self._struck: list[tuple[float, str]] = []
        self.reasons: Counter[str] = Counter()
        """Of the dead letters that the books found."""
        self.figures: dict[str, float] = {}
        """What else the scenario has to tell; printed behind the books."""
        self.deaths: list[Death] = []
        """Which processes were killed that did tasks."""
        self._processes: list[Process] = []
        self.name = f"chaos_{seed:x}_{os.getpid()}_{folder.name}"
        self._exits = ExitStack()

    # --- set-up ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        servers = self.servers
        servers.up()
        self.database_url = servers.postgres.create_database(self.name)
        self._exits.callback(servers.postgres.drop_database, self.name)
        if self.broker == "rabbitmq":
            self.broker_url = servers.rabbitmq.create_vhost(self.name)
            self._exits.callback(servers.rabbitmq.delete_vhost, self.name)
        else:
            servers.redis.clear()
            self.broker_url = servers.redis.url
        upgrade(self.database_url, say=lambda _line: None)
        self.sql(EFFECTS_TABLE)
        self.calls = Calls(broker_url=self.broker_url)
        service = Service(
            Settings(
                env="test",
                log_level="CRITICAL",  # what befalls the stage's own connections is no news
                celery_broker_url=self.broker_url,
                celery_default_queue=QUEUE,
                database_url=self.database_url,
            ),
            Database(),
            self.calls,
        )
        self.app: App = create_celery_app(service)
        self._exits.callback(service.lifecycle.stop)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for process in self._processes:
                process.close()
            self.servers.up()
        finally:
            self._exits.close()

    def pick(self, *, short: N, full: N) -> N:
        """Return the figure of the size that is played."""
        return short if self.size == "short" else full

    @property
    def server(self) -> RabbitMQ | Redis:
        """The broker that is played on."""
        return self.servers.rabbitmq if self.broker == "rabbitmq" else self.servers.redis

    def keep_declarations(self) -> None:
        """Have the broker still know after a kill what was declared until now."""
        if self.broker == "rabbitmq":
            self.servers.rabbitmq.settle()

    def note(self, name: str, seconds: float, *, limit: float) -> None:
        """Print a duration with the result. In full, which is played on a machine that does nothing
        else, it must be below *limit*: how long something takes is no promise on a busy machine.
        """
        self.figures[name] = round(seconds, 3)
        if self.size == "full":
            assert seconds < limit, f"{name}: {seconds:.1f} is not below {limit:g}"

    @property
    def gate(self) -> str:
        """A file that work can wait for; see `open_gate`."""
        return str(self.folder / "gate")

    def open_gate(self) -> None:
        """Let go on with what waits for `gate`, and begin without waiting what begins from now."""
        Path(self.gate).touch()

    def create_database(self, name: str) -> str:
        """Create a further database, an empty one, and return its URL."""
        whole = f"{name}_{self.name}"[:63]
        self._exits.callback(self.servers.postgres.drop_database, whole)
        return self.servers.postgres.create_database(whole)

    # --- the subject -----------------------------------------------------------------------

    def worker(self, *, concurrency: int = 2, **environment: str) -> Process:
        """Start a Celery worker of the subject; not ready yet."""
        command = ["-m", "celery", "-A", f"{_SUBJECT}.worker", "worker", "--without-mingle"]
        command += ["--concurrency", str(concurrency)]
        return self._process("worker", command, environment)

    def callee(self, **environment: str) -> Process:
        """Start a call server of the subject; not ready yet."""
        return self._process("callee", ["-m", f"{_SUBJECT}.callee"], environment)

    def sender(self) -> Process:
        """Start a service that only sends; it writes into the ledger by itself."""
        command = ["-m", f"{_SUBJECT}.sender", str(self.folder), str(self.seed)]
        return self._process("sender", command, {})

    def api(self, module: str = "api", *, lives: Sequence[str] = (), **environment: str) -> Process:
        """Start an API of the subject, as `mainstay run` does; not ready yet."""
        port = steady_port()
        api = ProcessSpec("chaos", "api", "http", target=f"{_SUBJECT}.{module}:app", port=port)
        _python, *words = commands.command(api, host="127.0.0.1", grace_seconds=10.0, alone=True)
        return self._process("api", words, environment, port, lives)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process of the subject."""
        broker = "RABBITMQ_URL" if self.broker == "rabbitmq" else "REDIS_URL"
        return {
            "APP_ENV": "test",
            "APP_SERVICE_NAME": "chaos",
            "APP_GRACE_SECONDS": "10",
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_DEFAULT_QUEUE": QUEUE,
            broker: self.broker_url,
            "DATABASE_URL": self.database_url,
            EXECUTIONS: str(self.ledger.executions_file),
            **more,
        }

    def _process(
        self,
        kind: str,
        command: list[str],
        environment: dict[str, str],
        port: int = 0,
        lives: Sequence[str] = (),
    ) -> Process:
        port = port or steady_port()
        name = f"{kind}-{len(self._processes)}"
        process = Process(
            name,
            command,
            self.environment(APP_METRICS_PORT=str(port), **environment),
            self.folder / f"{name}.log",
            port,
            lives,
        )
        self._processes.append(process)
        return process.start()

    # --- faults ----------------------------------------------------------------------------

    def fault(self, kind: str) -> None:
        """Count a fault of *kind*, which has just been done."""
        self.faults[kind] += 1
        self._struck.append((time.time(), kind))

    def kill_child(self, process: Process) -> None:
        """End one of the process' children with SIGKILL."""
        if children := process.children:
            child = self.random.choice(children)
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                return
            self.deaths.append(Death(child, time.time()))
            self.fault("child killed")

    def kill(self, process: Process, *, whole: bool = False) -> list[int]:
        """End the process with SIGKILL, and its children with it where *whole*; returns its
        children.
        """
        children = process.children
        if not (process.kill_group() if whole else process.kill()):
            return []
        now = time.time()
        self.deaths += (Death(child, now) for child in children)
        self.fault("process group killed" if whole else "process killed")
        return children

    def cut(self) -> None:
        """Close every connection to the broker."""
        if self.broker == "rabbitmq":
            self.servers.rabbitmq.evaluate(_CUT)
        else:
            self.servers.redis.command("CLIENT KILL TYPE normal")
        self.fault("connections cut")

    @contextmanager
    def every(self, seconds: float, act: Callable[[], None]) -> Iterator[None]:
        """Do *act* again and again while the body runs, *seconds* apart on average."""
        over = threading.Event()
        raised: list[BaseException] = []

        def again() -> None:
            try:
                while not over.wait(seconds * self.random.uniform(0.5, 1.5)):
                    act()
            except BaseException as error:  # noqa: BLE001 - it is raised where the body is
                raised.append(error)

        storm = threading.Thread(target=again, daemon=True)
        storm.start()
        try:
            yield
        finally:
            over.set()
            storm.join()
        if raised:
            raise raised[0]

    # --- the end ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until nothing waits any more and nothing is under way."""
        quiet = 0
        # Redis is looked into key by key, while messages move from one to another.
        enough = 1 if self.broker == "rabbitmq" else 3

        def is_quiet() -> bool:
            nonlocal quiet
            waiting = self.waiting()
            quiet = 0 if waiting else quiet + 1
            assert not waiting, f"still waiting: {waiting}"
            return quiet >= enough

        until(is_quiet, timeout_seconds=900.0, every_seconds=0.2)

    def waiting(self) -> str:
        """Return what is queued, held back until it is due, or under way; empty for nothing."""
        keys, unpublished = self.sql(_UNDER_WAY).split("|")
        if int(keys) or int(unpublished):
            return f"{keys} keys under way, {unpublished} rows of the outbox"
        messages = self._in_rabbitmq() if self.broker == "rabbitmq" else self._in_redis()
        return f"{messages} messages" if messages else ""

    def behind(self) -> int:
        """Return how many tasks no worker has taken yet; cheap, to be asked often."""
        return self._ready(QUEUE)

    def _in_rabbitmq(self) -> int:
        # Cheap to ask, but says nothing of what is under way or held back. The management
        # interface would, up to five seconds late.
        if ready := self._ready(QUEUE, CALLS_QUEUE):
            return ready
        return int(self.servers.rabbitmq.evaluate(_MESSAGES % self.name))

    def _in_redis(self) -> int:
        with connect(self.broker_url) as client:
            calls = int(client.xlen(CALLS_QUEUE))  # what is in hand is in there as well
        return calls + self._ready(QUEUE)  # streams of calls are no lists of tasks

    def _ready(self, *queues: str) -> int:
        depths = depths_of(self.broker_url)
        if depths is None:
            return 0
        try:
            found = depths.look(queues).values()
        finally:
            depths.close()
        return sum(depth.ready + (depth.unacknowledged or 0) for depth in found)

    def reply_paths(self) -> list[str]:
        """Return what is there for replies to callers, and would stay for ever."""
        if self.broker == "redis":
            with connect(self.broker_url) as client:
                paths = [name.decode() for name in client.scan_iter("mainstay:replies:*")]
                return [path for path in paths if client.ttl(path) == -1]
        queues = self.servers.rabbitmq.manage("GET", f"/queues/{self.name}?columns=name")
        return [one["name"] for one in queues if "reply" in one["name"] or "amq." in one["name"]]

    @property
    def letters(self) -> DeadLetters:
        if self.broker == "rabbitmq":
            return AmqpDeadLetters(self.broker_url, known=(QUEUE, CALLS_QUEUE))
        return RedisDeadLetters(connect(self.broker_url), {"task": requeue})

    def dead(self) -> list[DeadLetter]:
        """Return the dead letters of the subject's queues."""
        return [*self.letters.letters(QUEUE), *self.letters.letters(CALLS_QUEUE)]

    def books(self) -> Books:
        """Draw up the books, from what can be seen from outside."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute("select unit, count(*) from public.effects group by unit")
            effects = {str(unit): int(count) for unit, count in rows}
        self.reasons.clear()
        dead = []
        for letter in self.dead():
            self.reasons[f"{letter.reason} {_without_numbers(letter.detail)[:80]}".strip()] += 1
            dead += units_in(f"{letter.id} {letter.body.decode(errors='replace')}")
        return balance(self.ledger.outcomes(), effects, dead, self.ledger.executions())

    def evidence(self, books: Books) -> Iterator[str]:
        """Tell of each unit that spoils the *books*, and of each process that ended by itself, what
        was said, and which faults struck in the ten seconds before and after.
        """
        yield from self.crash_reports()
        yield from self.history(books.wrong)

    def crash_reports(self) -> Iterator[str]:
        """Tell of each process that ended by itself what it logged last, and which faults struck in
        the ten seconds before and after.
        """
        for process in self._processes:
            for crash in process.crashes:
                faults = self._struck_between(crash.at, crash.at)
                yield f"{process.name} left with {crash.code}; {faults}\n{crash.last_words}"

    def last_words(self) -> Iterator[str]:
        """Tell what each process logged last."""
        for process in self._processes:
            yield f"{process.name} logged last:\n{process.last_words()}"

    def history(self, units: Iterable[str]) -> Iterator[str]:
        """Tell of each of *units* what its client was told, when it was begun, and which faults
        struck in the ten seconds before and after.
        """
        begun_by_unit: dict[str, list[Execution]] = {unit: [] for unit in sorted(units)}
        for one in self.ledger.begun():
            if one.unit in begun_by_unit:
                begun_by_unit[one.unit].append(one)
        for unit, begun in begun_by_unit.items():
            told = self.ledger.told(unit)
            moments = [one.at for one in begun] + [at for _, at in told]
            first, last = min(moments, default=0.0), max(moments, default=0.0)
            faults = self._struck_between(first, last)
            said = ", ".join(f"{outcome} {at - first:+.1f} s" for outcome, at in told)
            times = ", ".join(f"{one.at - first:+.1f} s by {one.pid}" for one in begun)
            yield f"{unit}: {said or 'nothing said'}; begun {times or 'never'}; {faults}"

    def _struck_between(self, first: float, last: float) -> str:
        return ", ".join(
            f"{kind} {at - first:+.1f} s"
            for at, kind in self._struck
            if first - 10.0 < at < last + 10.0
        )

    def stop(self) -> dict[str, int]:
        """Ask every process to stop, for good; returns the exit codes of those that did not end
        well.
        """
        with ThreadPoolExecutor(len(self._processes)) as pool:
            codes = list(pool.map(Process.stop, self._processes))
        names = [process.name for process in self._processes]
        return {name: code for name, code in zip(names, codes, strict=True) if code}

    @property
    def crashes(self) -> int:
        """How many processes ended that nobody had killed."""
        return sum(len(process.crashes) for process in self._processes)

    def sql(self, statement: str) -> str:
        """Run one statement in the subject's database."""
        return self.servers.postgres.sql(statement, database=self.name)


def _without_numbers(detail: str) -> str:
    # What differs between two letters of one cause.
    return re.sub(r"unit-\S+|\d+", "…", detail)
