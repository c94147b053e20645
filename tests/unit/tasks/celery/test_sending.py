from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import amqp
import pytest
from amqp.exceptions import MessageNacked
from celery import chain

from mainstay.config import Settings
from mainstay.errors import (
    Disconnected,
    Invalid,
    MainstayError,
    Misconfigured,
    NoRoute,
    NotConnected,
    Overloaded,
)
from mainstay.resources.sqlalchemy import Database
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app, sending
from mainstay.tasks.celery.app import App
from mainstay.tasks.celery.sending import publish


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_YOUNG_PAUSE_SECONDS", 0.0)


def nothing() -> None: ...


class Broker:
    """What befalls each try to send: as it connects, or as it sends; nothing befalls the last."""

    def __init__(self, *tries: tuple[str, Exception]) -> None:
        self._tries = list(tries)
        self.producer_pool = self
        self.known: set[str] = set()

    @contextmanager
    def acquire(self, **_: object) -> Iterator[Any]:
        moment, error = self._tries.pop(0) if self._tries else ("", Exception())

        def befall(which: str) -> Callable[[object], None]:
            def do(_producer: object) -> None:
                if which == moment:
                    raise error

            return do

        kind = type("Producer", (), {"channel": property(befall("connect"))})
        producer = kind()
        producer.send = befall("send")
        producer.connection = SimpleNamespace(collect=lambda _seconds: None)
        yield producer


def outcome_of(
    *tries: tuple[str, Exception], known: frozenset[str] = frozenset({"bill"})
) -> type[MainstayError] | None:
    broker = Broker(*tries)
    broker.known |= known
    try:
        publish(cast("App", broker), "bill", lambda producer: producer.send(producer))
    except MainstayError as error:
        return type(error)
    return None


RESET = ("send", ConnectionResetError())
AWAY = ("connect", ConnectionRefusedError())
NOWHERE = ("send", amqp.NotFound("no queue"))
FULL = ("send", MessageNacked())


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection has been idle for longer than brokers keep it."""
    monkeypatch.setattr(sending, "_IDLE_SECONDS", -1.0)


def connections_of(app: App, sends: int) -> set[object]:
    """Send some tasks; return the connections to the broker that they went over."""
    used = set()

    def send(producer: Any) -> None:
        used.add(producer.connection.connection)
        producer.publish({}, routing_key="bill", declare=[app.amqp.queues["bill"]])

    for _ in range(sends):
        publish(app, "bill", send)
    return used


@pytest.fixture
def app() -> Iterator[App]:
    made = create_celery_app(Settings(env="test", celery_broker_url="memory://"))
    yield made
    made.service.stop()


def test_a_connection_is_kept_from_task_to_task(app: App) -> None:
    assert len(connections_of(app, sends=3)) == 1


@pytest.mark.usefixtures("idle")
def test_a_connection_that_was_idle_for_long_is_replaced_before_a_task_is_sent(app: App) -> None:
    assert len(connections_of(app, sends=3)) == 3


@pytest.mark.usefixtures("idle")
def test_the_connection_of_a_senders_own_producer_is_left_to_its_other_users(app: App) -> None:
    used = set()

    def send(given: Any) -> None:
        used.add(given.connection.connection)
        given.publish({}, routing_key="bill", declare=[app.amqp.queues["bill"]])

    with app.connection_for_write() as connection:
        producer = app.amqp.Producer(connection)
        for _ in range(3):
            sending.publish_with(producer, "bill", send)
    assert len(used) == 1


def test_a_broken_connection_is_replaced() -> None:
    assert outcome_of(RESET) is None


@pytest.mark.parametrize(
    ("what", "told"), [(AWAY, NotConnected), (NOWHERE, NoRoute), (FULL, Overloaded)]
)
def test_what_is_certain_is_told(what: tuple[str, Exception], told: type[MainstayError]) -> None:
    assert outcome_of(what) is told


@pytest.mark.parametrize("what", [AWAY, NOWHERE, FULL])
def test_what_an_earlier_try_may_have_stored_is_not_said_to_be_refused(
    what: tuple[str, Exception],
) -> None:
    assert outcome_of(RESET, what) is Disconnected


def test_a_queue_that_is_not_known_yet_may_still_be_being_made() -> None:
    assert outcome_of(FULL, FULL, known=frozenset()) is None
    assert outcome_of(FULL, RESET, NOWHERE, known=frozenset()) is Disconnected


def test_a_queue_that_has_taken_something_is_full() -> None:
    broker = Broker()
    publish(cast("App", broker), "bill", lambda producer: producer.send(producer))
    assert outcome_of(FULL, known=frozenset(broker.known)) is Overloaded


def test_patience_is_for_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_YOUNG_SECONDS", 0.0)
    broker = Broker(FULL)
    with pytest.raises(Overloaded):
        publish(cast("App", broker), "bill", lambda producer: producer.send(producer))
    assert broker.known == {"bill"}


@pytest.mark.parametrize("broker", ["amqp://u:p@127.0.0.1:1/v", "redis://127.0.0.1:1/0"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers": {"a": object()}}, "its headers cannot be written"),
        ({"headers": {"a": {"b": {1, 2}}}}, "its headers cannot be written"),
        ({"serializer": "pickle"}, "the serializer 'pickle'"),
        ({"serializer": "yaml"}, "the serializer 'yaml'"),
        ({"link": ["x"]}, "link takes signatures"),
        ({"link_error": object()}, "link_error takes signatures"),
    ],
)
def test_options_that_nobody_would_understand_are_refused_at_once(
    broker: str, options: dict[str, Any], message: str
) -> None:
    # The broker is not there: to ask it would be `NotConnected`.
    app = create_celery_app(Settings(env="test", celery_broker_url=broker))
    with pytest.raises(Invalid, match=message):
        app.send_task("bill", **options)
    app.service.stop()


def test_a_task_with_a_session_is_not_mapped() -> None:
    app = create_celery_app(
        Service(Settings(env="test", celery_broker_url="memory://"), Database())
    )

    @app.task(name="stores")
    def stores(number: int, *, session: object) -> None: ...

    for canvas in (stores.map([1]), stores.starmap([(1,)]), stores.chunks([(1,), (2,)], 1)):
        with pytest.raises(Invalid, match="group"):
            canvas.apply_async()


@pytest.mark.parametrize("broker", ["amqp://u:p@127.0.0.1:1/v", "redis://127.0.0.1:1/0"])
@pytest.mark.parametrize(
    ("setting", "value"), [("task_protocol", 1), ("task_serializer", "pickle")]
)
def test_settings_that_make_what_no_worker_reads_are_refused_when_a_task_is_sent(
    broker: str, setting: str, value: object
) -> None:
    app = create_celery_app(Settings(env="test", celery_broker_url=broker))
    app.conf.update({setting: value})
    task = app.task(nothing, name="bill")
    ways: list[Callable[[], object]] = [
        task.delay,
        chain(task.si(), task.si()).delay,
        lambda: app.send_task("bill"),
    ]
    for send in ways:
        with pytest.raises(Misconfigured, match=setting):
            send()
    app.service.stop()
