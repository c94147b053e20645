"""A message leaves with its commit: at least once, at most when it may, and never without."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import text

from mainstay.errors import Disconnected, NoRoute, NotConnected, Overloaded, Refuse, Unconfirmed
from mainstay.outgoing import OutboxMessage
from mainstay.resources.sqlalchemy import claims, deadletters, migrate, relay, tables
from mainstay.resources.sqlalchemy.deadletters import DatabaseDeadLetters
from mainstay.resources.sqlalchemy.outbox import RelayBehind
from mainstay.retries import Backoff
from mainstay.testing.wait import eventually
from tests.integration.outbox.scene import Broker, Scene, message
from tests.waiting import PATIENCE_SECONDS, join


@pytest.fixture
def scene(address: str) -> Iterator[Scene]:
    migrate.upgrade(address, say=lambda _line: None)
    made = Scene(address)
    yield made
    made.close()


def waiting(scene: Scene) -> int:
    found = scene.outbox.backlog("task")
    return found.ready + found.scheduled


def table(scene: Scene, name: str = "outbox") -> str:
    return tables.names(scene.database.engine.dialect.name)[name]


def rows(scene: Scene, columns: str, name: str = "outbox") -> list[tuple[object, ...]]:
    with scene.database.session(read_only=True) as session:
        query = f"select {columns} from {table(scene, name)}"  # noqa: S608 - the test's own words
        return [tuple(row) for row in session.execute(text(query))]


# --- written with the commit ---------------------------------------------------------------------


def test_a_commit_sends_exactly_what_was_put_into_it(scene: Scene) -> None:
    sent = message("charge", key="card-1")
    with scene.relaying():
        scene.send(sent)
        assert eventually(lambda: scene.broker.published) == [sent]
    assert waiting(scene) == 0


def test_a_rollback_sends_nothing(scene: Scene) -> None:
    def fail() -> None:
        with scene.database.session() as session:
            scene.outbox.put(session, message())
            raise RuntimeError("out of luck")

    with scene.relaying():
        with pytest.raises(RuntimeError):
            fail()
        (last,) = scene.send(message())
        eventually(lambda: last in scene.broker.ids)
    assert scene.broker.ids == [last]


def test_relays_are_told_of_the_commit_and_not_of_a_savepoint(scene: Scene) -> None:
    told: list[str] = []
    scene.outbox.on_commit(lambda: told.append("commit"))
    with scene.database.session() as session:
        with session.begin_nested():
            scene.outbox.put(session, message())
        assert told == []
    assert told == ["commit"]


async def test_a_message_leaves_with_a_session_of_asyncio(scene: Scene) -> None:
    kept, undone = message(), message()
    async with scene.database.asession() as session:
        await session.run_sync(lambda unit: scene.outbox.put(unit, kept))
    async with scene.database.asession() as session:
        await session.run_sync(lambda unit: scene.outbox.put(unit, undone))
        await session.rollback()
    with scene.relaying():
        eventually(lambda: scene.broker.published)
    assert scene.broker.ids == [kept.id]
    await scene.database.aclose()


def test_what_has_left_is_kept_without_its_token_until_it_is_purged(scene: Scene) -> None:
    with scene.relaying():
        (id,) = scene.send(message())
        eventually(lambda: scene.broker.published)
    assert scene.broker.published[0].token == "a secret"
    assert rows(scene, "id, token") == [(id, None)]
    assert scene.outbox.purge(older_than_seconds=3600) == 0
    scene.send(message())
    assert scene.outbox.purge(older_than_seconds=0) == 1
    assert len(rows(scene, "id")) == 1


def test_with_too_much_waiting_no_more_is_taken_until_some_has_left(address: str) -> None:
    migrate.upgrade(address, say=lambda _line: None)
    scene = Scene(address, limit=3)
    scene.send(*(message() for _ in range(3)))
    eventually(lambda: not sends(scene))  # it looks once a second
    with pytest.raises(Overloaded) as refused:
        scene.send(message())
    assert refused.value.retry_after_seconds
    scene.send(message(), delay_seconds=60)  # which does not wait for anybody
    with scene.relaying():
        assert eventually(lambda: sends(scene))
    scene.close()


def test_what_its_queue_does_not_take_counts_as_waiting(address: str) -> None:
    migrate.upgrade(address, say=lambda _line: None)
    scene = Scene(address, limit=3)
    scene.broker.refuses = lambda _each: Overloaded("full")
    with scene.relaying():
        scene.send(*(message() for _ in range(3)))
        eventually(lambda: scene.outbox.backlog("task").scheduled == 3)
        eventually(lambda: not sends(scene))
    scene.close()


def sends(scene: Scene) -> bool:
    try:
        scene.send(message())
    except Overloaded:
        return False
    return True


# --- relayed -------------------------------------------------------------------------------------


def test_two_relays_publish_each_message_once(scene: Scene) -> None:
    other = Scene(scene.database.url, broker=scene.broker)
    with scene.relaying(), other.relaying():
        ids = scene.send(*(message() for _ in range(200)))
        eventually(lambda: waiting(scene) == 0)
    assert Counter(scene.broker.ids) == Counter(ids)
    other.close()


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_two_relays_that_claim_at_a_time_claim_different_messages(address: str) -> None:
    migrate.upgrade(address, say=lambda _line: None)
    both_have_claimed = threading.Barrier(2)
    waited: set[int] = set()

    class Slow(Broker):
        def publish(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
            if threading.get_ident() not in waited:
                waited.add(threading.get_ident())
                both_have_claimed.wait(PATIENCE_SECONDS)
            return super().publish(messages)

    broker = Slow()
    scenes = [Scene(address, broker=broker) for _ in range(2)]
    ids = scenes[0].send(*(message() for _ in range(100)))
    with scenes[0].relaying(), scenes[1].relaying():
        eventually(lambda: waiting(scenes[0]) == 0)
    assert Counter(broker.ids) == Counter(ids)
    for scene in scenes:
        scene.close()


def test_what_is_about_one_thing_leaves_in_the_order_of_its_commits(address: str) -> None:
    migrate.upgrade(address, say=lambda _line: None)
    broker = Broker(keeps_order=True)
    scenes = [Scene(address, broker=broker) for _ in range(3)]
    committed: dict[str, list[str]] = {key: [] for key in "abcd"}
    with scenes[0].database.session() as session:
        session.execute(text("create table things (key varchar(9) primary key, version integer)"))
        for key in committed:
            session.execute(text("insert into things values (:key, 0)"), {"key": key})

    def write(scene: Scene, number: int) -> None:
        for turn in range(10):
            key = "abcd"[(number + turn) % 4]
            with scene.database.session() as session:
                # Put before the change that orders the transactions, and by several writers.
                sent = message(key=key)
                scene.outbox.put(session, sent)
                step = "update things set version = version + 1 where key = :key returning version"
                version = session.execute(text(step), {"key": key}).scalar_one()
                by_version[key, version] = sent.id

    by_version: dict[tuple[str, int], str] = {}
    with scenes[0].relaying(), scenes[1].relaying():
        writers = [threading.Thread(target=write, args=(scenes[2], n)) for n in range(6)]
        for writer in writers:
            writer.start()
        join(*writers)
        eventually(lambda: waiting(scenes[0]) == 0)
    for key, ids in committed.items():
        ids += [by_version[each] for each in sorted(by_version) if each[0] == key]
        assert [each.id for each in broker.published if each.key == key] == ids
    assert sum(map(len, committed.values())) == len(broker.published) == 60
    for scene in scenes:
        scene.close()


def test_what_is_due_later_waits_until_then(scene: Scene) -> None:
    (later,) = scene.send(message(), delay_seconds=1.0)
    (much_later,) = scene.send(message(), delay_seconds=3600)
    with scene.relaying():
        (now,) = scene.send(message())
        eventually(lambda: len(scene.broker.published) == 2)
    assert scene.broker.ids == [now, later]
    assert scene.outbox.backlog("task").scheduled == 1
    assert scene.outbox.withdraw("task", much_later)
    assert not scene.outbox.withdraw("task", much_later)
    assert waiting(scene) == 0


def test_of_much_that_is_due_at_a_time_nothing_waits_for_the_next_look(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_DUE_AT_A_TIME", 2)
    for name in ("_LOOK_SECONDS", "_LOOK_SECONDS_OF_SQLITE"):
        monkeypatch.setattr(relay, name, 3600.0)
    ids = scene.send(*(message() for _ in range(10)), delay_seconds=0.001)
    with scene.relaying():
        eventually(lambda: Counter(scene.broker.ids) == Counter(ids))


@pytest.mark.parametrize("slack", [0, 1000])
@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_what_was_written_early_and_committed_late_leaves_too(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, slack: int
) -> None:
    monkeypatch.setattr(claims, "_SLACK", slack)
    early, late = message(), [message() for _ in range(30)]
    with scene.relaying():
        with scene.database.session() as session:
            scene.outbox.put(session, early)
            scene.send(*late)
            eventually(lambda: len(scene.broker.published) == 30)
        eventually(lambda: early.id in scene.broker.ids)


@pytest.mark.parametrize(
    "outage", [NotConnected("gone"), Disconnected("broken"), Unconfirmed("silent")]
)
def test_an_outage_of_the_broker_buries_nothing(
    scene: Scene, outage: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_OUTAGE", Backoff(initial_seconds=0.01, max_seconds=0.01))
    asked = []

    def refuse(each: object) -> Exception:
        asked.append(each)
        return outage

    scene.broker.refuses = refuse
    with scene.relaying():
        ids = scene.send(*(message() for _ in range(10)))
        eventually(lambda: len(asked) > 30)
        assert scene.broker.published == []
        scene.broker.refuses = lambda _each: None
        eventually(lambda: waiting(scene) == 0)
    assert Counter(scene.broker.ids) == Counter(ids)
    assert scene.broker.buried_ids == []


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (NoRoute("no queue takes it"), "refused:NoRoute"),
        (Refuse("too large"), "refused:Refuse"),
        (ValueError("cannot be written"), "failed:ValueError"),
        (ValueError("refused for token=abc-123"), "failed:ValueError"),
    ],
)
def test_one_broken_message_is_buried_with_its_reason_and_holds_up_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, poison: Exception, reason: str
) -> None:
    monkeypatch.setattr(relay, "_REFUSAL", Backoff(attempts=3, initial_seconds=0.05))
    broken, sound = message("broken"), [message() for _ in range(5)]
    scene.broker.refuses = lambda each: poison if each.name == "broken" else None
    scene.send(broken, *sound)
    with scene.relaying():
        eventually(lambda: scene.broker.buried_ids)
    assert scene.broker.ids == [each.id for each in sound]
    assert scene.broker.buried_ids == [broken.id]

    letters = DatabaseDeadLetters(scene.database)
    assert letters.queues() == ["mails"]
    (letter,) = letters.letters("mails")
    assert (letter.id, letter.name, letter.reason) == (broken.id, "broken", reason)
    assert letter.detail == str(poison).replace("abc-123", "***")
    assert "a secret" not in str(rows(scene, "*", "dead_letters"))

    assert letters.retry("mails", lambda each: each.id == broken.id) == 1
    assert list(letters.letters("mails")) == []
    scene.broker.refuses = lambda _each: None
    with scene.relaying():
        eventually(lambda: broken.id in scene.broker.ids)
    again = scene.broker.published[-1]
    assert (again.body, again.headers, again.route) == (broken.body, broken.headers, broken.route)


def test_a_letter_that_dies_again_meanwhile_is_not_retried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "_PAGE", 1)
    letters = DatabaseDeadLetters(scene.database)
    letter = deadletters.letter_of(message(), "no-route", "")
    again = iter(range(9))

    def bury() -> None:
        with scene.database.session() as session:
            deadletters.keep(session, letter)

    def matching(_letter: object) -> bool:
        if next(again, None) is not None:
            bury()
        return True

    bury()
    bury()
    assert letters.discard("mails", matching) == 2
    assert len(list(letters.letters("mails"))) == 2
    assert list(letters.letters("nobody")) == []


def test_what_a_full_queue_refused_before_is_not_given_up_sooner(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_REFUSAL", Backoff(attempts=3, initial_seconds=0.05))
    said = iter([Overloaded("full")] * 4 + [NoRoute("its queue is made anew")] * 2)
    scene.broker.refuses = lambda _each: next(said, None)
    (id,) = scene.send(message())
    with scene.relaying():
        eventually(lambda: waiting(scene) == 0)
    assert (scene.broker.ids, scene.broker.buried_ids) == ([id], [])


def test_a_dead_letter_can_be_thrown_away(scene: Scene) -> None:
    scene.broker.refuses = lambda _each: Refuse("no")
    with scene.relaying():
        scene.send(message())
        eventually(lambda: scene.broker.buried_ids)
    letters = DatabaseDeadLetters(scene.database)
    assert letters.discard("mails", lambda _letter: True) == 1
    assert letters.queues() == []


def test_a_full_queue_holds_up_its_own_messages_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_REFUSAL", Backoff(attempts=2, initial_seconds=0.05))
    monkeypatch.setattr(relay, "_LARGEST_BATCH", 25)
    tried: list[str] = []

    def refuse(each: object) -> Exception | None:
        if getattr(each, "destination", "") != "full":
            return None
        tried.append("full")
        return Overloaded("it takes no more")

    scene.broker.refuses = refuse
    held = scene.send(*(message(queue="full") for _ in range(30)))
    with scene.relaying():
        (free,) = scene.send(message())
        eventually(lambda: len(tried) > 4 * 30)  # they are never given up
        assert scene.broker.ids == [free]
        scene.broker.refuses = lambda _each: None
        eventually(lambda: set(held) < set(scene.broker.ids))
    assert scene.broker.buried_ids == []


def test_what_breaks_the_connection_is_found_and_put_off(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_OUTAGE", Backoff(initial_seconds=0.01, max_seconds=0.01))

    class Fragile(Broker):
        """A batch with a poisonous message in it breaks off there."""

        def publish(self, messages: Sequence[OutboxMessage]) -> list[Exception | None]:
            answers: list[Exception | None] = []
            for each in messages:
                is_over = bool(answers and answers[-1]) or each.name == "poison"
                answers.append(Disconnected("broken") if is_over else None)
                if not is_over:
                    self.published.append(each)
            return answers

    other = Scene(scene.database.url, broker=Fragile())
    sent = [message("poison" if n in (7, 20) else "sound") for n in range(30)]
    other.send(*sent)
    with other.relaying():
        eventually(lambda: len(other.broker.published) == 28)
    assert Counter(other.broker.ids) == Counter(e.id for e in sent if e.name == "sound")
    assert other.outbox.backlog("task").scheduled == 2
    other.close()


def test_a_put_off_message_is_not_overtaken_by_others_of_its_key(address: str) -> None:
    migrate.upgrade(address, say=lambda _line: None)
    scene = Scene(address, broker=Broker(keeps_order=True))
    first, second, other = message(key="a"), message(key="a"), message(key="b")
    is_full = [True]
    scene.broker.refuses = lambda each: (
        Overloaded("full") if each.id == first.id and is_full[0] else None
    )
    scene.send(first)
    with scene.relaying():
        eventually(lambda: scene.outbox.backlog("task").scheduled == 1)
        scene.send(second, other)
        eventually(lambda: other.id in scene.broker.ids)
        is_full[0] = False
        eventually(lambda: len(scene.broker.published) == 3)
    assert scene.broker.ids == [other.id, first.id, second.id]
    scene.close()


# --- told ----------------------------------------------------------------------------------------


def test_health_and_metrics_tell_what_waits(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.broker.refuses = lambda _each: NotConnected("gone")
    scene.send(message(), message())
    scene.send(message(), delay_seconds=3600)
    assert (scene.outbox.ping() or {})["oldest_seconds"]
    with scene.relaying():
        told, _type = scene.service.metrics.exposition()
    assert b'mainstay_outbox_messages{kind="task",state="ready"} 2.0' in told
    assert b'mainstay_outbox_messages{kind="task",state="scheduled"} 1.0' in told
    assert b'mainstay_outbox_oldest_seconds{kind="task"} ' in told
    monkeypatch.setattr("mainstay.resources.sqlalchemy.outbox.LATE_SECONDS", 0.0)
    with pytest.raises(RelayBehind):
        scene.outbox.ping()
    assert scene.service.health.health().status == "degraded"
