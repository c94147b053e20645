"""Dead letters can be listed, retried and discarded, on every broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import amqp
import pytest

from mainstay.deadletters import DeadLetter, DeadLetters, by_cause, dead_letters_of
from mainstay.errors import Unavailable
from mainstay.processes.ports import steady_port
from mainstay.resources.amqp import AmqpDeadLetters, Publisher, connect, deadletters
from mainstay.resources.amqp.deadletters import headers_of
from mainstay.resources.amqp.layout import DEAD_LETTERS
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect as connect_redis
from mainstay.testing.servers import RabbitMQ
from mainstay.testing.wait import eventually


class Broker(Protocol):
    @property
    def store(self) -> DeadLetters: ...

    def bury(self, letter: DeadLetter) -> None: ...
    def bodies(self, queue: str) -> list[bytes]: ...


class OnRedis:
    def __init__(self, url: str) -> None:
        self._client = connect_redis(url)
        self.store = RedisDeadLetters(self._client, {"task": self._requeue, "call": self._requeue})

    def bury(self, letter: DeadLetter) -> None:
        fields: Any = letter.to_fields()
        self._client.xadd(dead_letters_of(letter.queue), fields)

    def bodies(self, queue: str) -> list[bytes]:
        found: Any = self._client.lrange(queue, 0, -1)
        return list(found)

    def close(self) -> None:
        self._client.close()

    @staticmethod
    def _requeue(pipe: Any, letter: DeadLetter) -> None:
        pipe.rpush(letter.queue, letter.body)


class OnRabbitMQ:
    def __init__(self, url: str, management_url: str) -> None:
        self._connection = connect(url)
        self._channel = self._connection.channel()
        self._publisher = Publisher(lambda: connect(url, confirm_publish=True))
        self.store = AmqpDeadLetters(url, management_url=management_url)

    def bury(self, letter: DeadLetter) -> None:
        for name in (letter.queue, dead_letters_of(letter.queue)):
            self._channel.queue_declare(
                name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"}
            )
        headers = {"task": letter.name, "id": letter.id} | headers_of(letter)
        self._publisher.publish(
            letter.body,
            routing_key=dead_letters_of(letter.queue),
            properties={"message_id": letter.id, "application_headers": headers},
        )

    def bodies(self, queue: str) -> list[bytes]:
        found = []
        channel = self._connection.channel()
        while (message := channel.basic_get(queue)) is not None:
            body = message.body
            found.append(body if isinstance(body, bytes) else body.encode())
        channel.close()
        return found

    def close(self) -> None:
        self._publisher.close()
        self._connection.close()


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    made: OnRedis | OnRabbitMQ
    if request.param == "redis":
        made = OnRedis(request.getfixturevalue("redis_url"))
    else:
        server: RabbitMQ = request.getfixturevalue("rabbitmq")
        made = OnRabbitMQ(request.getfixturevalue("rabbitmq_url"), server.management_url)
    yield made
    made.close()


def letter(number: int, *, queue: str = "work", reason: str = "failed:ValueError") -> DeadLetter:
    return DeadLetter(
        id=f"id-{number}",
        kind="task",
        queue=queue,
        reason=reason,
        name="orders.charge",
        detail="no such card",
        died_at=1_800_000_000.0 + number,
        body=b"body %d" % number,
    )


def named(id: str) -> Callable[[DeadLetter], bool]:
    return lambda found: found.id == id


def ids(broker: Broker, queue: str = "work") -> list[str]:
    return [found.id for found in broker.store.letters(queue)]


def buried(broker: Broker, *letters: DeadLetter) -> None:
    for one in letters:
        broker.bury(one)
    queues = {one.queue for one in letters}
    eventually(lambda: queues <= set(broker.store.queues()))


def test_a_letter_tells_what_died_where_and_why(broker: Broker) -> None:
    buried(broker, letter(1))
    (found,) = broker.store.letters("work")
    assert (found.id, found.kind, found.queue, found.name) == (
        "id-1",
        "task",
        "work",
        "orders.charge",
    )
    assert (found.reason, found.detail) == ("failed:ValueError", "no such card")
    assert found.died_at == 1_800_000_001.0
    assert found.body == b"body 1"


def test_a_letter_is_listed_as_soon_as_it_is_there(broker: Broker) -> None:
    for number in range(3):
        queue = f"work-{number}"
        broker.bury(letter(number, queue=queue))
        assert queue in broker.store.queues()


def test_looking_at_letters_leaves_them_where_they_are(broker: Broker) -> None:
    buried(broker, *(letter(number) for number in range(30)))
    assert ids(broker) == [f"id-{number}" for number in range(30)]
    eventually(lambda: len(ids(broker)) == 30)


def test_letters_that_were_just_looked_at_can_be_put_back(broker: Broker) -> None:
    buried(broker, *(letter(number) for number in range(50)))
    for number in range(3):
        assert len(ids(broker)) == 50 - number
        assert broker.store.retry("work", named(f"id-{number}")) == 1


def test_letters_are_grouped_by_what_they_died_of(broker: Broker) -> None:
    buried(broker, letter(1), letter(2), letter(3, reason="expired"))
    causes = by_cause(broker.store.letters("work"))
    assert [(cause.reason, cause.count) for cause in causes] == [
        ("failed:ValueError", 2),
        ("expired", 1),
    ]


def test_a_retried_letter_is_back_in_its_queue_and_gone_from_here(broker: Broker) -> None:
    buried(broker, letter(1), letter(2), letter(3))
    assert broker.store.retry("work", lambda found: found.id == "id-2") == 1
    assert broker.bodies("work") == [b"body 2"]
    eventually(lambda: ids(broker) == ["id-1", "id-3"])


def test_what_dies_again_meanwhile_is_not_retried_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainstay.resources.redis.deadletters._PAGE", 2)
    buried(broker, *(letter(number) for number in range(4)))
    again = iter(range(4, 20))

    def matching(_found: DeadLetter) -> bool:
        if (number := next(again, None)) is not None:
            broker.bury(letter(number))
        return True

    assert broker.store.retry("work", matching) == 4
    eventually(lambda: ids(broker) == [f"id-{number}" for number in range(4, 8)])


def test_a_discarded_letter_is_gone(broker: Broker) -> None:
    buried(broker, letter(1), letter(2))
    assert broker.store.discard("work", lambda found: found.id == "id-1") == 1
    assert broker.bodies("work") == []
    eventually(lambda: ids(broker) == ["id-2"])


def test_a_queue_without_dead_letters_has_none(broker: Broker) -> None:
    assert list(broker.store.letters("unknown")) == []
    assert broker.store.retry("unknown", lambda _: True) == 0


def test_the_brokers_own_dead_letters_are_understood(rabbitmq_url: str) -> None:
    with connect(rabbitmq_url) as connection:
        channel = connection.channel()
        channel.queue_declare("work_dlq", durable=True, auto_delete=False)
        channel.queue_declare(
            "work",
            durable=True,
            auto_delete=False,
            arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work_dlq"},
        )
        channel.basic_publish(amqp.Message(b"{}", expiration="0", message_id="m"), "", "work")
        store = AmqpDeadLetters(rabbitmq_url, known=["work", "other"])
        eventually(lambda: store.queues() == ["work"])
    (found,) = store.letters("work")
    assert (found.id, found.queue, found.reason) == ("m", "work", "expired")


def test_a_token_that_the_broker_kept_is_shown_to_nobody(rabbitmq_url: str) -> None:
    with connect(rabbitmq_url) as connection:
        channel = connection.channel()
        channel.queue_declare("work_dlq", durable=True, auto_delete=False)
        message = amqp.Message(b"{}", application_headers={"x-mainstay-token": "secret", "id": "i"})
        channel.basic_publish(message, "", "work_dlq")
        store = AmqpDeadLetters(rabbitmq_url, known=["work"])
        eventually(lambda: store.queues() == ["work"])
    (found,) = store.letters("work")
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("prefetch", "count"),
    [(deadletters._PREFETCH, 2_200), (50, 120)],  # RabbitMQ gives 2,000 where nobody says more
)
def test_more_letters_than_a_consumer_may_hold_are_all_seen(
    rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch, prefetch: int, count: int
) -> None:
    monkeypatch.setattr(deadletters, "_PREFETCH", prefetch)
    with connect(rabbitmq_url) as connection:
        channel = connection.channel()
        arguments = dict(DEAD_LETTERS)
        channel.queue_declare("work_dlq", durable=True, auto_delete=False, arguments=arguments)
        for number in range(count):
            message = amqp.Message(b"{}", message_id=f"{number}")
            channel.basic_publish(message, "", "work_dlq")
    store = AmqpDeadLetters(rabbitmq_url)
    eventually(lambda: len(list(store.letters("work"))) == count)
    first = next(store.letters("work"))
    assert store.discard("work", named(f"{count - 1}")) == 1
    assert store.discard("work", named(first.id)) == 1
    assert len({letter.id for letter in store.letters("work")}) == count - 2
    assert store.discard("work", lambda _: True) == count - 2
    assert list(store.letters("work")) == []


def test_a_letter_without_an_id_can_be_told_from_others(broker: Broker) -> None:
    nameless = [replace(letter(number), id="", name="", reason="decode:x") for number in (1, 2)]
    buried(broker, *nameless)
    first, second = broker.store.letters("work")
    assert first.id != second.id
    assert ids(broker) == [first.id, second.id]
    assert broker.store.discard("work", lambda found: found.id == second.id) == 1
    eventually(lambda: ids(broker) == [first.id])


@pytest.mark.parametrize("store", ["redis", "rabbitmq"])
def test_a_broker_that_does_not_answer_is_said_to(store: str) -> None:
    gone = steady_port()
    letters: DeadLetters = (
        RedisDeadLetters(connect_redis(f"redis://127.0.0.1:{gone}"), {})
        if store == "redis"
        else AmqpDeadLetters(f"amqp://127.0.0.1:{gone}", known=["work"])
    )
    for ask in (letters.queues, lambda: list(letters.letters("work"))):
        with pytest.raises(Unavailable, match="does not answer"):
            ask()


def test_text_that_no_store_can_keep_is_kept_readably(broker: Broker) -> None:
    buried(broker, replace(letter(1), detail="no file \udcff", name="x\ud800"))
    (found,) = broker.store.letters("work")
    assert found.detail == "no file \\udcff"
    assert found.name == "x\\ud800"


@pytest.mark.parametrize("how", ["looks", "asks", "consumes"])
def test_who_discards_all_is_told_of_letters_that_somebody_else_holds(
    rabbitmq_url: str, rabbitmq: RabbitMQ, how: str
) -> None:
    broker = OnRabbitMQ(rabbitmq_url, rabbitmq.management_url)
    for number in range(3):
        broker.bury(letter(number))
    other = connect(rabbitmq_url)
    channel = other.channel()
    looking = broker.store.letters("work")
    held: list[amqp.Message] = []
    if how == "looks":
        next(looking)
    elif how == "asks":
        channel.basic_get(dead_letters_of("work"))
    else:
        tag = channel.basic_consume(dead_letters_of("work"), callback=held.append)
        eventually(lambda: len(held) == 3 or other.drain_events(timeout=1))
        channel.basic_cancel(tag)
    store = AmqpDeadLetters(rabbitmq_url)
    assert not store.discard_all("work", lambda each: each.id == "id-0")
    looking.close()  # type: ignore[attr-defined] # it is a generator
    other.close()
    eventually(lambda: store.discard_all("work", lambda each: each.id == "id-0"))
    assert [each.id for each in store.letters("work")] == ["id-1", "id-2"]
    assert store.discard_all("elsewhere", lambda _: True)
    broker.close()
