"""Does any message stop a worker, jam it or vanish? A hundred thousand of them, and the books.

    python -m tests.chaos.malformed --size full --seed 7 --room rabbitmq

sends malformed messages to a worker, or to a server of calls, with sound ones between them, and
prints one line a room. Each message must end done, dead with a reason, or, where somebody waits for
it, answered; each sound one done, once; and no process may end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import amqp

from mainstay.config import Settings
from mainstay.context import TIMEOUT_SECONDS
from mainstay.deadletters import DeadLetter, DeadLetters
from mainstay.resources.amqp.connection import connect as connect_amqp
from mainstay.resources.amqp.deadletters import AmqpDeadLetters
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect as connect_redis
from mainstay.resources.sqlalchemy.migrate import upgrade
from mainstay.rpc.redis_streams.layout import reply_key
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app
from mainstay.testing import PostgreSQL, RabbitMQ, Redis
from mainstay.testing.ports import steady_port
from tests.chaos import mutations
from tests.chaos.mutations import CallMessage
from tests.chaos.processes import Process
from tests.chaos.target import DONE
from tests.watchdog import guard

__all__ = ["ROOMS", "Verdict", "bombard"]

SIZES = {"short": 1_000, "full": 100_000}
QUEUE = "malformed"
_ROUND = 500
_SOUND_SHARE = 10
_CONTROL_SHARE = 25
_LOOK_SECONDS = 0.02
_IDLE_LOOKS = 4_000
_CONFIRM_SECONDS = 300.0
# Of messages to whose options something was done: what is to follow on them may die by itself.
_FOLLOWED = "option "
_NO_REASONS = ("", "unknown", "rejected")


@dataclass
class Books:
    """What was sent and what became of it, each by its unit."""

    sound: set[str] = field(default_factory=set)
    malformed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    forgiven: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    nameless: int = 0

    def bury(self, letter: DeadLetter) -> bool:
        """Enter a dead letter; for `DeadLetters.discard`, which is to take each."""
        texts = (letter.id, *letter.headers.values(), letter.detail)
        found = mutations.units_in(" ".join(texts)) or mutations.units_in(
            (letter.body + letter.envelope).decode(errors="replace")
        )
        self.reasons[letter.reason] += 1
        if found:
            self.dead[found[0]] += 1
        else:
            self.nameless += 1
        return True

    def open(self, units: Sequence[str]) -> list[str]:
        """Return those of *units* of which nothing was heard yet."""
        return [
            unit
            for unit in units
            if unit not in self.done
            and unit not in self.dead
            and unit not in self.answered
            and unit not in self.forgiven
        ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The books of one room, drawn up.

    Args:
        both: Done and dead: what was to follow on a task could not be sent.
        nameless: Dead letters of what was to follow on a task, where nothing tells on which.
        reasonless: Dead letters that do not say why.
        unheard: Calls that came too late and were dropped in silence, as they are to be.
    """

    room: str
    seed: int
    accepted: int
    done: int
    dead: int
    answered: int
    unheard: int
    lost: int
    double: int
    both: int
    phantom: int
    nameless: int
    reasonless: int
    exits: int
    sound: int
    sound_done: int
    seconds: float
    examples: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        bad = self.lost + self.double + self.phantom + self.reasonless + self.exits
        return not bad and self.sound_done == self.sound

    def __str__(self) -> str:
        rest = f" | {'; '.join(self.examples)}" if self.examples else ""
        return (
            f"{'ok ' if self.is_good else 'BAD'} {self.room:9s} seed={self.seed} "
            f"accepted={self.accepted} done={self.done} dead={self.dead} "
            f"answered={self.answered} unheard={self.unheard} lost={self.lost} "
            f"double={self.double} both={self.both} phantom={self.phantom} "
            f"nameless={self.nameless} "
            f"reasonless={self.reasonless} exits={self.exits} "
            f"sound={self.sound_done}/{self.sound} in {self.seconds:.0f} s{rest}"
        )


class Room(ABC):
    """A queue, the process that serves it, and the ways to put anything at all on it."""

    name: ClassVar[str]
    command: ClassVar[Sequence[str]]
    is_on_rabbitmq: ClassVar[bool] = False

    def __init__(self, folder: Path, url: str, database_url: str) -> None:
        self.url = url
        self.books = Books()
        self._marks = folder / "done"
        self._marks.touch()
        self._read = 0
        port = steady_port()
        broker = "RABBITMQ_URL" if url.startswith("amqp") else "REDIS_URL"
        environment = {
            "APP_ENV": "test",
            "APP_METRICS_PORT": str(port),
            "APP_JWT_SECRET_KEY": "thirty-two bytes that nobody knows",
            "CELERY_BROKER_URL": url,
            "CELERY_DEFAULT_QUEUE": QUEUE,
            broker: url,
            "DATABASE_URL": database_url,
            DONE: str(self._marks),
        }
        self.process = Process(self.name, self.command, environment, folder / "log", port)

    @abstractmethod
    def send(self, unit: str, seed: str | None) -> None:
        """Put the message of *unit* on the queue: malformed by *seed*, or sound."""

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was sent is on the queue."""

    @property
    @abstractmethod
    def letters(self) -> DeadLetters: ...

    def close(self) -> None:
        """Let go of what was opened."""
        self.process.close()

    def control(self, seed: str) -> None:  # noqa: B027 - a server of calls takes no commands
        """Send a remote-control message."""

    def look(self) -> int:
        """Enter what has become of messages since the last look; returns how many were heard of."""
        with self._marks.open() as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        self.books.done.update(line.strip() for line in lines)
        return len(lines) + self.letters.discard(QUEUE, self.books.bury)


class _Confirmed:
    """A channel of RabbitMQ on which anything at all is published, and confirmed."""

    def __init__(self, url: str) -> None:
        self.connection = connect_amqp(url, heartbeat_seconds=0)
        self.channel = self.connection.channel()
        self.channel.confirm_select()
        self.channel.events["basic_ack"].add(self._stored)
        self.replies: set[str] = set()
        self._sent = self._confirmed = 0

    def listen(self, queue: str) -> None:
        """Write down the correlation ids of what comes to *queue*."""

        def heard(message: Any) -> None:
            self.replies.add(str(message.properties.get("correlation_id", "")))

        self.channel.basic_consume(queue, no_ack=True, callback=heard)

    def publish(self, body: bytes, headers: dict[str, Any] | None, **properties: Any) -> None:
        if headers is not None:
            properties["application_headers"] = headers
        message = amqp.Message(body, **properties)
        self.channel.send_method(
            amqp.spec.Basic.Publish, "Bssbb", (0, "", QUEUE, False, False), message
        )
        self._sent += 1

    def flush(self) -> None:
        while self._confirmed < self._sent:
            self.connection.drain_events(timeout=_CONFIRM_SECONDS)

    def hear(self) -> int:
        """Read what has come; returns how much is news."""
        before = len(self.replies)
        try:
            while True:
                self.connection.drain_events(timeout=0.05)
        except TimeoutError:
            return len(self.replies) - before

    def _stored(self, number: int, multiple: bool) -> None:
        self._confirmed = number if multiple else self._confirmed + 1

    def close(self) -> None:
        self.connection.close()


class Tasks(Room):
    """A Celery worker."""

    command = (
        "-m", "celery", "-A", "tests.chaos.target", "worker", "--without-mingle",
        "--concurrency", "2",
    )  # fmt: skip

    def __init__(self, folder: Path, url: str, database_url: str) -> None:
        super().__init__(folder, url, database_url)
        settings = Settings(env="test", celery_broker_url=url, celery_default_queue=QUEUE)
        self._service = Service(settings)
        self._app = create_celery_app(self._service)

    def control(self, seed: str) -> None:
        exchange = self._app.control.mailbox.exchange
        with self._app.producer_pool.acquire(block=True) as producer:
            producer.publish(
                mutations.control_message(seed),
                exchange=exchange,
                declare=[exchange],
                content_type="application/json",
                content_encoding="utf-8",
            )

    def close(self) -> None:
        super().close()
        self._service.lifecycle.stop()


class TasksOnRabbitMQ(Tasks):
    name = "rabbitmq"
    is_on_rabbitmq = True

    def __init__(self, folder: Path, url: str, database_url: str) -> None:
        super().__init__(folder, url, database_url)
        self._wire = _Confirmed(url)

    def send(self, unit: str, seed: str | None) -> None:
        message = (
            mutations.sound_task(unit)
            if seed is None
            else mutations.task_message(seed, unit, for_amqp=True)
        )
        if seed is not None:
            self.books.malformed[unit] = message.what
        self._wire.publish(
            message.body,
            message.headers,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            **message.properties,
        )

    def flush(self) -> None:
        self._wire.flush()

    @property
    def letters(self) -> DeadLetters:
        return AmqpDeadLetters(self.url)

    def close(self) -> None:
        super().close()
        self._wire.close()


class TasksOnRedis(Tasks):
    name = "redis"

    def __init__(self, folder: Path, url: str, database_url: str) -> None:
        super().__init__(folder, url, database_url)
        self._client = connect_redis(url)
        self._pipe = self._client.pipeline(transaction=False)

    def send(self, unit: str, seed: str | None) -> None:
        if seed is None:
            item = mutations.sound_item(unit, QUEUE)
        else:
            item = mutations.item(seed, unit, QUEUE)
            self.books.malformed[unit] = item.what
        self._pipe.lpush(QUEUE, item.data)

    def control(self, seed: str) -> None:
        super().control(seed)
        # What is no envelope either.
        self._client.publish("/0.celery.pidbox", mutations.control_message(seed))

    def flush(self) -> None:
        self._pipe.execute()

    @property
    def letters(self) -> DeadLetters:
        return RedisDeadLetters(self._client, {})

    def close(self) -> None:
        super().close()
        self._client.close()


class CallsOnRabbitMQ(Room):
    """A server of calls."""

    name = "rpc-amqp"
    is_on_rabbitmq = True
    command = ("-m", "tests.chaos.target", QUEUE)

    def __init__(self, folder: Path, url: str, database_url: str) -> None:
        super().__init__(folder, url, database_url)
        self._wire = _Confirmed(url)
        self._wire.listen("amq.rabbitmq.reply-to")

    def send(self, unit: str, seed: str | None) -> None:
        message = _call(unit, seed, self.books, for_amqp=True)
        seconds = min(message.timeout_seconds, 86_400.0)
        self._wire.publish(
            message.body,
            message.headers | {TIMEOUT_SECONDS: f"{message.timeout_seconds:.3f}"},
            content_type="application/json",
            correlation_id=unit,
            message_id=message.id,
            type=message.function,
            reply_to="amq.rabbitmq.reply-to" if message.reply_to is None else message.reply_to,
            expiration=str(int(seconds * 1000)),
        )

    def flush(self) -> None:
        self._wire.flush()

    @property
    def letters(self) -> DeadLetters:
        return AmqpDeadLetters(self.url)

    def look(self) -> int:
        heard = self._wire.hear()
        self.books.answered |= self._wire.replies
        return heard + super().look()

    def close(self) -> None:
        super().close()
        self._wire.close()


class CallsOnRedis(Room):
    """A server of calls."""

    name = "rpc-redis"
    command = ("-m", "tests.chaos.target", QUEUE)
    replies: ClassVar[str] = reply_key("0" * 32)

    def __init__(self, folder: Path, url: str, database_url: str) -> None:
        super().__init__(folder, url, database_url)
        self._client = connect_redis(url)
        self._pipe = self._client.pipeline(transaction=False)
        self._last: bytes | Any = self._client.xadd(self.replies, {"made": "here"})

    def send(self, unit: str, seed: str | None) -> None:
        message = _call(unit, seed, self.books, for_amqp=False)
        deadline = time.time() + message.timeout_seconds
        headers = message.headers | {TIMEOUT_SECONDS: f"{message.timeout_seconds:.3f}"}
        fields: dict[str, bytes | None] = {
            "reply_to": (self.replies if message.reply_to is None else message.reply_to).encode(),
            "wire_id": unit.encode(),
            "id": message.id.encode(),
            "function": message.function.encode(),
            "headers": json.dumps(headers).encode(),
            "body": message.body,
            "deadline_ms": f"{deadline * 1000:.0f}".encode(),
        }
        fields.update(message.fields)
        entry: Mapping[Any, Any] = {name: each for name, each in fields.items() if each is not None}
        self._pipe.xadd(QUEUE, entry)  # type: ignore[arg-type] # narrower than it takes

    def flush(self) -> None:
        self._pipe.execute()

    @property
    def letters(self) -> DeadLetters:
        return RedisDeadLetters(self._client, {})

    def look(self) -> int:
        found: Any = self._client.xrange(self.replies, min=f"({self._last.decode()}")
        for position, fields in found:
            self._last = position
            self.books.answered.add(fields[b"wire_id"].decode(errors="replace"))
        return len(found) + super().look()

    def close(self) -> None:
        super().close()
        self._client.close()


ROOMS: Mapping[str, type[Room]] = {
    each.name: each for each in (TasksOnRabbitMQ, TasksOnRedis, CallsOnRabbitMQ, CallsOnRedis)
}


def bombard(room: Room, *, seed: int, count: int, tell: Callable[[str], object] = str) -> Verdict:
    """Send *count* malformed messages, with sound ones between, and draw up the books.

    Args:
        tell: Told how it goes, now and then.
    """
    began = time.monotonic()
    room.process.start().ready(timeout_seconds=_CONFIRM_SECONDS)
    sent: list[str] = []
    numbers = iter(range(1, 10 * count))
    for first in range(0, count, _ROUND):
        size = min(_ROUND, count - first)
        round_ = [True] * size + [False] * max(size // _SOUND_SHARE, 1)
        random.Random(f"{seed}-{first}").shuffle(round_)
        units = []
        for is_malformed in round_:
            unit = mutations.unit_of(seed, next(numbers))
            units.append(unit)
            if is_malformed:
                room.send(unit, f"{seed}-{unit}")
            else:
                room.books.sound.add(unit)
                room.send(unit, None)
            if len(units) % _CONTROL_SHARE == 0:
                room.control(f"{seed}-{unit}-control")
        room.flush()
        sent += units
        if not _heard_of(room, units):
            break
        if first // _ROUND % 20 == 0:
            tell(f"{room.name} {len(sent)} sent, {time.monotonic() - began:.0f} s")
    _heard_of(room, sent)
    while room.look():
        time.sleep(0.5)
    return _verdict(room, seed, sent, time.monotonic() - began)


def _heard_of(room: Room, units: Sequence[str]) -> bool:
    """Wait until something was heard of each; not when nothing is heard for a long while.

    Looks are counted, not seconds: a machine that sleeps is no worker that stands still.
    """
    idle = 0
    while room.books.open(units):
        if room.look():
            idle = 0
            continue
        idle += 1
        if idle > _IDLE_LOOKS:
            return False
        time.sleep(_LOOK_SECONDS)
    return True


def _verdict(room: Room, seed: int, sent: Sequence[str], seconds: float) -> Verdict:
    books = room.books
    accepted = set(sent)
    lost = books.open(sent)
    ended = set(books.done) | set(books.dead)
    followed = {
        unit
        for unit, what in books.malformed.items()
        if any(each.startswith(_FOLLOWED) for each in what)
    }
    double = [unit for unit, count in books.done.items() if count > 1]
    double += [unit for unit, count in books.dead.items() if count > 1 and unit not in followed]
    phantom = ended - accepted
    wrong = [f"lost {unit} {books.malformed.get(unit, 'sound')}" for unit in lost]
    wrong += [f"double {unit} {books.malformed.get(unit, 'sound')}" for unit in double]
    wrong += [f"sound and dead {unit}" for unit in books.sound & set(books.dead)]
    return Verdict(
        room=room.name,
        seed=seed,
        accepted=len(sent),
        done=len(set(books.done) & accepted),
        dead=len(set(books.dead) & accepted),
        answered=len(books.answered - ended),
        unheard=len(books.forgiven - ended - books.answered),
        lost=len(lost),
        double=len(double),
        both=len(set(books.done) & set(books.dead)),
        phantom=len(phantom),
        nameless=books.nameless,
        reasonless=sum(books.reasons[each] for each in _NO_REASONS),
        exits=len(room.process.crashes),
        sound=len(books.sound),
        sound_done=sum(books.done[unit] == 1 and not books.dead[unit] for unit in books.sound),
        seconds=seconds,
        examples=tuple(wrong[:10]),
    )


def _call(unit: str, seed: str | None, books: Books, *, for_amqp: bool) -> CallMessage:
    if seed is None:
        return mutations.sound_call(unit)
    message = mutations.call_message(seed, unit, for_amqp=for_amqp)
    books.malformed[unit] = message.what
    if message.is_late:
        books.forgiven.add(unit)
    return message


@contextmanager
def opened(name: str, folder: Path) -> Iterator[Room]:
    """Open a room on private servers."""
    with ExitStack() as stack:
        database_url = stack.enter_context(PostgreSQL()).create_database("malformed")
        upgrade(database_url, say=lambda _line: None)
        if ROOMS[name].is_on_rabbitmq:
            url = stack.enter_context(RabbitMQ()).url
        else:
            url = stack.enter_context(Redis()).url
        room = ROOMS[name](folder, url, database_url)
        stack.callback(room.close)
        yield room


def main(arguments: Sequence[str] | None = None) -> int:
    """Bombard what was asked for; 0 when all books balance."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.malformed", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="short")
    parser.add_argument("--count", type=int, help="how many malformed messages, whatever the size")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--room", choices=sorted(ROOMS), action="append")
    parser.add_argument("--folder", type=Path, help="where to keep the logs; else they are removed")
    asked = parser.parse_args(arguments)
    is_good = True
    for name in asked.room or ROOMS:
        with (
            tempfile.TemporaryDirectory(prefix="mainstay-malformed-") as scratch,
            opened(name, _folder(asked.folder, name) or Path(scratch)) as room,
        ):
            count = asked.count or SIZES[asked.size]
            verdict = bombard(
                room, seed=asked.seed, count=count, tell=lambda line: _say(line, sys.stderr)
            )
            _say(str(verdict), sys.stdout)
            is_good &= verdict.is_good
    return 0 if is_good else 1


def _folder(kept: Path | None, name: str) -> Path | None:
    if kept is None:
        return None
    folder = kept / name
    folder.mkdir(parents=True)
    return folder


def _say(line: str, to: Any) -> None:
    to.write(line + "\n")
    to.flush()


if __name__ == "__main__":
    guard()
    raise SystemExit(main())
