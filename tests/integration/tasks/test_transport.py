"""Messages on a real Redis, one at a time."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Queue

from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.resources.redis import RedisDeadLetters
from mainstay.resources.redis.client import connect
from mainstay.tasks.celery import transport
from mainstay.tasks.celery.letters import note, on_stored
from mainstay.tasks.celery.transport import FLIGHT_PREFIX, FLIGHTS, Channel, Transport, requeue
from mainstay.testing import Redis, eventually

ITEM = b'{"body": "W10=", "headers": {"task": "add", "id": "1"}, "properties": {}}'


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    made = connect(redis_url)
    yield made
    made.close()


@pytest.fixture
def channel(redis_url: str) -> Iterator[Channel]:
    with Connection(redis_url, transport=Transport) as connection:
        yield connection.channel()


def taken(client: redis.Redis, channel: Channel, item: bytes = ITEM) -> Any:
    """Put a message on a queue and take it, as a consumer does."""
    client.lpush("q", item)
    message: Any = channel.basic_get("q")  # type: ignore[no-untyped-call] # kombu leaves it untyped
    note(message, "failed:ValueError", "no such thing")
    return message


def letters(client: redis.Redis) -> list[DeadLetter]:
    return list(RedisDeadLetters(client, {"task": requeue}).letters("q"))


def broken(*_args: object, **_options: object) -> Any:
    raise UnicodeEncodeError("utf-8", "x", 0, 1, "as broken as can be")


def test_a_connection_that_breaks_while_it_looks_around_ends_no_worker(
    client: redis.Redis, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight = f"{FLIGHT_PREFIX}gone:q"
    client.zadd(FLIGHTS, {flight: 1})
    client.lpush(flight, ITEM)
    look = redis.client.Pipeline.lrange

    def break_and_look(pipe: Any, *args: Any) -> Any:
        monkeypatch.undo()
        client.client_kill_filter(_type="normal", skipme=True)
        return look(pipe, *args)

    monkeypatch.setattr(redis.client.Pipeline, "lrange", break_and_look)
    channel.reclaim()
    channel.reclaim()
    assert client.llen("q") == 1


def in_flight(client: redis.Redis) -> int:
    return sum(client.llen(name) for name in client.scan_iter(f"{FLIGHT_PREFIX}*"))


def test_a_letter_that_cannot_be_made_leaves_a_minimal_one(
    client: redis.Redis, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = taken(client, channel)
    monkeypatch.setattr(transport, "letter_of", broken)
    message.reject()
    (letter,) = letters(client)
    assert (letter.reason, letter.envelope) == ("failed:ValueError", ITEM)
    assert in_flight(client) == 0


def test_a_minimal_letter_keeps_no_token(
    client: redis.Redis, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"task": "add", "id": "1", "x-mainstay-token": "secret"}
    message = taken(client, channel, json.dumps({"headers": headers, "properties": {}}).encode())
    monkeypatch.setattr(transport, "letter_of", broken)
    message.reject()
    (letter,) = letters(client)
    assert json.loads(letter.envelope)["headers"] == {"task": "add", "id": "1"}


def test_what_the_server_does_not_bury_waits_behind_the_others(
    client: redis.Redis, channel: Channel
) -> None:
    client.rpush(dead_letters_of("q"), b"the dead letters of another program")
    message = taken(client, channel)
    client.lpush("q", b"another")
    message.reject()
    assert client.lrange("q", 0, -1) == [ITEM, b"another"]
    assert (client.llen(dead_letters_of("q")), in_flight(client)) == (1, 0)


def test_what_the_server_does_not_take_back_stays_where_it_is(
    client: redis.Redis, channel: Channel
) -> None:
    message = taken(client, channel)
    client.set("q", "the value of another program")
    with pytest.raises(redis.ResponseError):
        message.requeue()
    assert in_flight(client) == 1
    client.delete("q")
    message.requeue()
    assert (client.llen("q"), in_flight(client)) == (1, 0)


def test_what_cannot_be_buried_at_all_goes_back_and_is_not_counted(
    client: redis.Redis, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = taken(client, channel)
    told: list[bool] = []
    on_stored(message, lambda: told.append(True))
    for name in ("letter_of", "minimal_letter_of"):
        monkeypatch.setattr(transport, name, broken)
    message.reject()
    assert client.lrange("q", 0, -1) == [ITEM]
    assert (letters(client), in_flight(client), told) == ([], 0, [])


def test_a_dead_letter_is_told_of_once_it_is_stored(client: redis.Redis, channel: Channel) -> None:
    message = taken(client, channel)
    counts: list[int] = []
    on_stored(message, lambda: counts.append(len(letters(client))))
    message.reject()
    assert counts == [1]


@pytest.mark.parametrize("settle", ["ack", "reject", "requeue"])
def test_a_message_that_cannot_be_settled_ends_the_connection_and_goes_back(
    client: redis.Redis, redis_url: str, settle: str
) -> None:
    options = {"socket_timeout": 0.2}
    with Connection(redis_url, transport=Transport, transport_options=options) as connection:
        channel: Any = connection.channel()
        message = taken(client, channel)
        channel.verify()
        client.client_pause(1000)
        with pytest.raises(redis.TimeoutError):
            getattr(message, settle)()
        eventually(client.ping)
        with pytest.raises(redis.ConnectionError, match="settled"):
            channel.verify()
    assert (client.lrange("q", 0, -1), in_flight(client)) == ([ITEM], 0)


def test_what_is_somebody_elses_by_now_is_not_buried(client: redis.Redis, channel: Channel) -> None:
    message = taken(client, channel)
    told: list[bool] = []
    on_stored(message, lambda: told.append(True))
    for flight in client.scan_iter(f"{FLIGHT_PREFIX}*"):
        client.delete(flight)
    message.reject()
    assert (letters(client), client.llen("q"), told) == ([], 0, [])


def test_what_was_moved_for_an_answer_that_was_lost_goes_back(
    client: redis.Redis, redis_url: str
) -> None:
    options = {"priority_steps": [0]}
    with Connection(redis_url, transport=Transport, transport_options=options) as connection:
        channel: Any = connection.channel()
        held: list[Any] = []
        Consumer(channel, [Queue("q")], on_message=held.append).consume()
        cycle = channel.connection.cycle
        cycle.on_poll_start()
        client.lpush("q", ITEM)
        eventually(lambda: in_flight(client) == 1)
        # As kombu lets go of a connection whose answer is overdue, and goes on with another.
        channel.client.connection.disconnect()
        with pytest.raises(redis.ConnectionError, match="lost"):
            cycle.on_poll_start()
    with Connection(redis_url, transport=Transport) as connection:
        other: Any = connection.channel()
        eventually(lambda: other.reclaim() or client.llen("q") == 1)
    assert (held, in_flight(client)) == ([], 0)


def test_a_connection_is_let_go_of_though_its_server_is_gone() -> None:
    with Redis() as server:
        connection = Connection(
            server.url, transport=Transport, transport_options={"priority_steps": [0]}
        )
        channel: Any = connection.default_channel
        connection.Producer().publish({}, routing_key="q", declare=[Queue("q")])
        held: list[Any] = []
        Consumer(channel, [Queue("q")], on_message=held.append).consume()
        mailbox = Queue("mailbox", Exchange("control", type="fanout"), auto_delete=True)
        Consumer(connection.channel(), [mailbox]).consume()
        eventually(lambda: connection.drain_events(timeout=1) or held)
        if not channel._in_poll:
            channel._brpop_start()
        server.kill()
        # As Celery does both, one after the other, and then settles what it had in hand.
        connection.collect()
        connection.close()
        with pytest.raises(redis.ConnectionError):
            held[0].ack()


def test_a_channel_whose_connection_was_closed_says_so(redis_url: str) -> None:
    connection = Connection(redis_url, transport=Transport)
    channel: Any = connection.channel()
    connection.collect()
    with pytest.raises(redis.ConnectionError, match="closed"):
        channel.reclaim()


@contextmanager
def mailbox(url: str) -> Iterator[tuple[Any, Callable[[], object], list[object]]]:
    """A channel that listens to remote control, what sends to it, and what it has read."""
    with Connection(url, transport=Transport) as connection:
        channel: Any = connection.channel()
        control = Exchange("control", type="fanout")
        read: list[object] = []
        with Consumer(
            channel,
            [Queue("mailbox", control)],
            no_ack=True,
            callbacks=[lambda body, _message: read.append(body)],
        ):
            channel.connection.cycle._register_LISTEN(channel)
            publish = connection.Producer().publish
            yield channel, partial(publish, {"method": "ping"}, exchange=control), read


def test_a_connection_that_was_replaced_is_polled_no_more(redis_url: str) -> None:
    with mailbox(redis_url) as (channel, ping, read):
        cycle, connection = channel.connection.cycle, channel.subclient.connection
        held_by_a_child = os.dup(connection._sock.fileno())
        try:
            connection.disconnect()
            assert not cycle.poller.poll(0)
        finally:
            os.close(held_by_a_child)
        cycle._register_LISTEN(channel)
        ping()
        eventually(lambda: cycle.poller.poll(0))
        eventually(lambda: channel._receive() or read)


def test_a_child_that_closes_what_it_inherited_leaves_the_poller_of_its_parent_alone(
    redis_url: str,
) -> None:
    with mailbox(redis_url) as (channel, ping, _read):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads
            child = os.fork()
        if child == 0:
            try:
                channel.subclient.connection.disconnect()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        ping()
        assert eventually(lambda: channel.connection.cycle.poller.poll(0))


def test_an_empty_mailbox_is_not_waited_for(redis_url: str) -> None:
    with mailbox(redis_url) as (channel, ping, read):
        ping()
        eventually(lambda: channel._receive() or read)
        assert not channel._receive()
    assert read == [{"method": "ping"}]


def test_a_text_of_any_depth_in_the_mailbox_is_passed_over(
    client: redis.Redis, redis_url: str
) -> None:
    with mailbox(redis_url) as (channel, ping, read):
        client.publish("/0.control", '{"a":' * 100_000 + "1" + "}" * 100_000)
        ping()
        while not read:
            channel._receive_one(channel.subclient)
    assert read == [{"method": "ping"}]


def test_a_letter_that_is_put_back_begins_a_life_of_its_own(client: redis.Redis) -> None:
    headers = {"task": "add", "id": "1", "expires": "2001-01-01T00:00:00Z", "x-delivery-count": 5}
    item = json.dumps({"headers": headers, "properties": {}}).encode()
    letter = DeadLetter("1", "task", "q", "expired", envelope=item)
    client.xadd(dead_letters_of("q"), letter.to_fields())  # type: ignore[arg-type] # narrower than it takes
    assert RedisDeadLetters(client, {"task": requeue}).retry("q", lambda _letter: True) == 1
    (found,) = client.lrange("q", 0, -1)
    assert json.loads(found) == {"headers": {"task": "add", "id": "1"}, "properties": {}}


@pytest.mark.parametrize("item", [b"\xff{nonsense", b"5", b'{"headers": [1]}', b"{}"])
def test_an_unreadable_letter_is_put_back_as_it_is(client: redis.Redis, item: bytes) -> None:
    letter = DeadLetter("", "task", "q", "decode:DecodeError", envelope=item)
    client.xadd(dead_letters_of("q"), letter.to_fields())  # type: ignore[arg-type] # narrower than it takes
    assert RedisDeadLetters(client, {"task": requeue}).retry("q", lambda _letter: True) == 1
    assert client.lrange("q", 0, -1) == [item]
