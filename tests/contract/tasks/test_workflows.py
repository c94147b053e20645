"""A workflow comes to its end, each step once, whatever dies on the way, and can be asked for."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest
from celery import chain, chord, group
from celery.canvas import Signature
from sqlalchemy import select, text

from mainstay.context import new_id
from mainstay.deadletters import DeadLetter
from mainstay.errors import Conflict
from mainstay.resources.sqlalchemy import Database, tables, workflows
from mainstay.resources.sqlalchemy.deadletters import DatabaseDeadLetters, keep
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.celery.workflows import AGAIN
from mainstay.tasks.status import State, TaskStatus
from mainstay.tasks.workflow import StepState, Workflow, WorkflowState
from mainstay.testing import eventually
from tests.contract.tasks import sample, test_outages
from tests.contract.tasks.conftest import results_url
from tests.contract.tasks.rooms import ON_DATABASES, CeleryRoom, worker_of
from tests.contract.tasks.sample import gate_of
from tests.contract.tasks.test_processes import proxied, through
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture
def room(database_room: CeleryRoom) -> CeleryRoom:
    """A room on a broker and a database, with the worker that the tests share."""
    return database_room


@pytest.fixture(params=ON_DATABASES)
def own_room(request: pytest.FixtureRequest, room_on: Callable[[str], CeleryRoom]) -> CeleryRoom:
    """A room with a queue and a database of its own, and no worker yet."""
    return room_on(request.param)


def database_of(room: CeleryRoom) -> Database:
    return room.service.resource(Database)


def step(room: CeleryRoom, name: str, *args: object, **kwargs: object) -> Signature:
    return room.app.signature(name, args=args, kwargs=kwargs)


def start(room: CeleryRoom, canvas: Signature) -> str:
    return room.app.workflows.start(canvas, name="a workflow")


def got(room: CeleryRoom, id: str) -> Workflow:
    found = room.app.workflows.get(id)
    assert found is not None
    return found


def ended(room: CeleryRoom, id: str, *, timeout_seconds: float = 90.0) -> Workflow:
    eventually(
        lambda: got(room, id).state is not WorkflowState.RUNNING, timeout_seconds=timeout_seconds
    )
    return got(room, id)


def states(workflow: Workflow) -> list[str]:
    return [str(step.state) for step in workflow.steps]


def assert_states(room: CeleryRoom, expected: dict[str, WorkflowState]) -> None:
    """All that are asked for are told of; one that is not known is left out."""
    ids = [*expected, "never accepted"]
    assert room.app.workflows.states(ids) == expected
    with database_of(room).session() as session:
        assert room.app.workflows.states(iter(ids), session=session) == expected


def result_of(room: CeleryRoom, workflow: Workflow) -> object:
    """Return the result of the last step."""
    status = room.status(workflow.steps[-1].task_id)
    assert status is not None
    return status.result


def rows(room: CeleryRoom) -> Counter[str]:
    with database_of(room).session(read_only=True) as session:
        return Counter(session.execute(text("select key from effects")).scalars())


def test_chains_groups_and_chords_are_done_as_celery_does_them(room: CeleryRoom) -> None:
    def listed(*args: object) -> Signature:
        return step(room, "listed", *args)

    canvas = chain(
        listed(1),
        group(listed(2), chain(listed(3), listed(4))),
        chord([listed(5), group(listed(6), listed(7))], listed(8)),
        group(listed(9), listed().set(immutable=True)),
    )
    workflow = ended(room, start(room, canvas))
    assert workflow.state is WorkflowState.SUCCESS
    assert workflow.name == "a workflow"
    assert set(states(workflow)) == {"success"}
    assert [each.attempts for each in workflow.steps] == [1] * 10
    for each in workflow.steps:
        assert each.started_at is not None
        assert each.finished_at is not None
        assert each.started_at <= each.finished_at
    assert result_of(room, workflow) == []
    last_but_one = room.status(workflow.steps[-2].task_id)
    assert last_but_one is not None
    both = [[[1], 2], [[[1], 3], 4]]
    assert last_but_one.result == [[[[both, 5], [both, 6], [both, 7]], 8], 9]
    assert len(room.effects()) == 10


def test_what_waits_for_a_step_that_failed_is_skipped_and_done_when_it_is_done_again(
    room: CeleryRoom,
) -> None:
    keys = [new_id() for _ in range(3)]
    canvas = chain(
        step(room, "stored", key=keys[0]),
        group(step(room, "passes_gate", key=keys[1]), step(room, "listed", 1)),
        step(room, "stored", key=keys[2]),
        step(room, "listed", "end"),
    )
    id = start(room, canvas)
    failed = ended(room, id)
    assert failed.state is WorkflowState.FAILURE
    assert states(failed) == ["success", "failure", "success", "skipped", "skipped"]
    assert failed.steps[1].error == {"type": "ValueError", "detail": "the gate is shut"}
    assert [room.letter(failed.steps[1].task_id).reason] == ["failed:ValueError"]
    assert_states(room, {id: WorkflowState.FAILURE})

    gate_of(room.effects_file, keys[1], 0).touch()
    assert room.app.workflows.retry(id) == [failed.steps[1].task_id]
    with pytest.raises(Conflict, match="nothing to do again"):
        room.app.workflows.retry(id)
    done = ended(room, id)
    assert (done.id, states(done)) == (id, ["success"] * 5)
    waiting = start(room, step(room, "elsewhere").set(queue="nobody"))
    assert_states(room, {id: WorkflowState.SUCCESS, waiting: WorkflowState.RUNNING})
    assert [each.attempts for each in done.steps] == [1, 2, 1, 1, 1]
    assert [each.task_id for each in done.steps] == [each.task_id for each in failed.steps]
    assert result_of(room, done) == [keys[2], "end"]
    assert rows(room) == Counter([keys[0], keys[2]])
    assert Counter(line.partition(" ")[0] for line in room.effects()) == {
        "passes_gate": 2,
        "listed": 2,
    }


def letters_of(room: CeleryRoom, id: str) -> list[DeadLetter]:
    kept = DatabaseDeadLetters(database_of(room))
    found = [letter for queue in kept.queues() for letter in kept.letters(queue)]
    return [letter for letter in (*room.dead(), *found) if letter.id == id]


def again_of(room: CeleryRoom, id: str) -> list[str]:
    """Return after which retry each letter was written."""
    return [letter.headers.get(AGAIN, "0") for letter in letters_of(room, id)]


def are_letters_due(room: CeleryRoom) -> bool:
    with database_of(room).session(read_only=True) as session:
        table = tables.table("workflow_steps", database_of(room).engine.dialect.name)
        return bool(session.execute(select(table.c.letters_due_at)).scalars().one())


def test_a_step_that_is_done_again_leaves_no_dead_letter(room: CeleryRoom) -> None:
    key = new_id()
    other = room.send("no_such_task")
    many = {f"x-header-{number}": "x" for number in range(70)}  # more than a letter keeps
    first = step(room, "passes_gate", key=key).set(headers=many)
    id = start(room, chain(first, step(room, "listed")))
    failed = ended(room, id).steps[0].task_id
    room.letter(failed)

    def fails_again(retries: int) -> None:
        """Each life has a letter of its own, which takes the place of the one before."""
        room.app.workflows.retry(id)
        eventually(lambda: got(room, id).steps[0].attempts == retries + 1)
        assert states(ended(room, id)) == ["failure", "skipped"]
        eventually(lambda: again_of(room, failed) == [str(retries)])

    fails_again(1)
    fails_again(2)
    in_database = replace(room.letter(failed), envelope=b"{}")
    with database_of(room).session() as session:
        keep(session, in_database)
    assert len(letters_of(room, failed)) == 2

    gate_of(room.effects_file, key, 0).touch()
    room.app.workflows.retry(id)
    assert ended(room, id).state is WorkflowState.SUCCESS
    eventually(lambda: letters_of(room, failed) == [])
    assert [letter.reason for letter in letters_of(room, other)] == ["unknown-task"]


def test_a_letter_of_a_step_that_is_done_again_is_taken_though_somebody_looks_at_it(
    room: CeleryRoom,
) -> None:
    key = new_id()
    id = start(room, step(room, "passes_gate", key=key))
    failed = ended(room, id).steps[0].task_id
    room.letter(failed)
    gate_of(room.effects_file, key, 0).touch()
    seen = room.letters.letters(room.queue)
    with closing(seen):  # type: ignore[type-var] # it is a generator
        next(seen)
        room.app.workflows.retry(id)
        assert ended(room, id).state is WorkflowState.SUCCESS
        if transport_of(room.url) == "amqp":  # where looking at letters is to hold them
            told = f"may still be in {room.queue}_dlq (somebody else looks at them)"
            lines = worker_of(room).lines
            eventually(
                lambda: [each for each in lines() if told in each["msg"] and failed in each["msg"]]
            )
    eventually(lambda: letters_of(room, failed) == [])


def test_a_letter_that_is_stored_after_its_step_is_done_again_is_taken(
    own_room: CeleryRoom, request: pytest.FixtureRequest
) -> None:
    key = new_id()
    results = results_url(request, "redis")
    assert results is not None

    async def until(condition: Callable[[], object]) -> None:
        await asyncio.to_thread(eventually, condition)

    async def scenario() -> None:
        async with test_outages.proxy_to(results) as proxy:
            away = test_outages.through(proxy, results)
            with own_room.worker(CELERY_RESULT_BACKEND=away) as first:
                await asyncio.to_thread(first.ready)
                canvas = step(own_room, "hold_kept", key, "failed at first")
                canvas = canvas.set(ignore_result=False)
                id = await asyncio.to_thread(start, own_room, canvas)
                await until(lambda: own_room.effects() == [f"hold_kept {key}"])
                proxy.refuse()
                proxy.reset()
                own_room.release(key)
                failed = (await asyncio.to_thread(ended, own_room, id)).steps[0].task_id
                # Its state is told, and its letter is not stored before its result is.
                await until(lambda: test_outages.waits(first))
                assert letters_of(own_room, failed) == []
                with own_room.worker() as second:
                    await asyncio.to_thread(own_room.app.workflows.retry, id)
                    workflow = await asyncio.to_thread(ended, own_room, id)
                    assert workflow.state is WorkflowState.SUCCESS
                    await until(lambda: not are_letters_due(own_room))
                    assert first.metric("mainstay_dead_lettered_total") == 0
                    proxy.heal()
                    await until(lambda: first.metric("mainstay_dead_lettered_total") == 1)
                    await until(lambda: letters_of(own_room, failed) == [])
                    assert second.is_running
        assert own_room.effects() == [f"hold_kept {key}"] * 2

    asyncio.run(scenario())


def test_a_step_is_done_again_though_its_broker_is_away_and_its_letter_is_taken_later(
    own_room: CeleryRoom,
) -> None:
    key = new_id()

    async def scenario() -> None:
        async with proxied(own_room) as proxy:
            away = through(own_room, proxy)
            with away.worker() as worker:
                await asyncio.to_thread(worker.ready)
                canvas = chain(step(away, "passes_gate", key=key), step(away, "listed"))
                id = await asyncio.to_thread(start, away, canvas)
                failed = (await asyncio.to_thread(ended, away, id)).steps[0].task_id
                await asyncio.to_thread(away.letter, failed)
                gate_of(away.effects_file, key, 0).touch()
                proxy.refuse()
                proxy.reset()
                assert await asyncio.to_thread(away.app.workflows.retry, id) == [failed]
                await asyncio.to_thread(eventually, lambda: worker.lines("relay_held_up"))
                proxy.heal()
                workflow = await asyncio.to_thread(ended, away, id)
                assert workflow.state is WorkflowState.SUCCESS
                await asyncio.to_thread(eventually, lambda: letters_of(away, failed) == [])
            assert away.effects().count(f"passes_gate {key}") == 2
            away.close()

    asyncio.run(scenario())


def test_a_workflow_goes_on_from_a_dead_letter_that_is_put_back(room: CeleryRoom) -> None:
    canvas = chain(step(room, "passes_gate", key="k"), step(room, "listed"))
    id = start(room, canvas)
    failed = ended(room, id).steps[0].task_id
    assert room.letter(failed).name == "passes_gate"
    gate_of(room.effects_file, "k", 0).touch()
    assert room.letters.retry(room.queue, lambda letter: letter.id == failed) == 1
    eventually(lambda: states(got(room, id)) == ["success", "success"])


def test_a_workflow_leaves_with_the_commit_and_only_with_it(own_room: CeleryRoom) -> None:
    def canvas() -> Signature:
        return chain(step(own_room, "listed", 1), step(own_room, "listed", 2))

    ours = own_room.app.workflows
    with database_of(own_room).session() as session:
        never = ours.start(canvas(), name="never", session=session)
        session.rollback()
    with database_of(own_room).session() as session:
        once = ours.start(canvas(), name="once", workflow_id=new_id(), session=session)
    assert ours.start(canvas(), name="once", workflow_id=once) == once
    assert ours.get(never) is None
    assert states(got(own_room, once)) == ["waiting", "pending"]
    with own_room.worker() as worker:
        worker.ready()
        assert ended(own_room, once).state is WorkflowState.SUCCESS
    assert len(own_room.effects()) == 2


@pytest.mark.parametrize("point", ["tasks.before_commit", "tasks.after_commit"])
def test_a_step_whose_process_dies_at_its_commit_has_its_effect_once(
    own_room: CeleryRoom, point: str
) -> None:
    keys = [new_id() for _ in range(4)]
    header = [step(own_room, "stored", key=key) for key in keys[:3]]
    with own_room.worker(MAINSTAY_FAILPOINT=f"{point}:kill@2") as worker:
        worker.ready()
        id = start(own_room, chord(header, step(own_room, "stored", key=keys[3])))
        assert ended(own_room, id).state is WorkflowState.SUCCESS
        assert worker.lines("worker_lost")
    assert rows(own_room) == Counter(keys)


def test_a_chord_is_complete_when_the_worker_of_a_member_is_killed(own_room: CeleryRoom) -> None:
    key = new_id()
    members = [step(own_room, "listed", n) for n in range(10)]
    members.insert(4, step(own_room, "fall_first", key=key))
    id = start(own_room, chord(members, step(own_room, "listed", "end")))
    with own_room.worker(concurrency=2) as worker:
        assert worker.process.wait(PATIENCE_SECONDS) == -9
    assert got(own_room, id).state is WorkflowState.RUNNING
    with own_room.worker(concurrency=2) as worker:
        worker.ready()
        workflow = ended(own_room, id)
    assert workflow.state is WorkflowState.SUCCESS
    results = [[n] for n in range(10)]
    assert result_of(own_room, workflow) == [[*results[:4], key, *results[4:]], "end"]
    assert own_room.effects().count(f"fall_first {key}") == 2


def test_many_members_that_end_together_are_counted_once_each(room: CeleryRoom) -> None:
    members = [step(room, "add", n, 0) for n in range(60)]
    workflow = ended(room, start(room, chord(members, step(room, "listed"))))
    assert workflow.state is WorkflowState.SUCCESS
    assert result_of(room, workflow) == [list(range(60))]
    assert Counter(line.partition(" ")[0] for line in room.effects()) == {"add": 60, "listed": 1}


def test_a_step_that_is_called_off_can_be_done_after_all(own_room: CeleryRoom) -> None:
    id = start(own_room, chain(step(own_room, "listed", 1), step(own_room, "listed", 2)))
    store = own_room.app.reports.store
    assert store is not None
    store.record(TaskStatus(id=got(own_room, id).steps[0].task_id, state=State.REVOKED))
    workflow = got(own_room, id)
    assert workflow.state is WorkflowState.FAILURE
    assert states(workflow) == ["revoked", "skipped"]
    own_room.app.workflows.retry(id)
    with own_room.worker() as worker:
        worker.ready()
        assert states(ended(own_room, id)) == ["success", "success"]
        # Both messages of the first step have been taken.
        eventually(lambda: len(worker.lines("task")) == 3)
    assert len(own_room.effects()) == 2


def test_workers_that_have_heard_of_it_do_a_step_again_that_was_called_off(
    room: CeleryRoom,
) -> None:
    worker = worker_of(room)
    with database_of(room).session() as session:
        canvas = chain(step(room, "listed", 1), step(room, "listed", 2))
        id = room.app.workflows.start(canvas, name="called off", session=session)
        found = workflows.find(session.connection(), id)
        assert found is not None
        first = found.steps[0].task_id
        room.app.control.revoke(first)
        eventually(lambda: first in room.revoked(worker))
    assert states(ended(room, id)) == ["revoked", "skipped"]
    assert room.effects() == []
    room.app.workflows.retry(id)
    workflow = ended(room, id)
    assert states(workflow) == ["success", "success"]
    status = room.status(first)
    assert status is not None
    assert status.worker.startswith("python-service-")


def test_values_come_to_the_next_step_as_they_were(room: CeleryRoom) -> None:
    kept = start(room, chain(step(room, "valued", "all"), step(room, "typed")))
    nan = start(room, chain(step(room, "valued", "nan"), step(room, "typed")))
    workflow = ended(room, kept)
    assert result_of(room, workflow) == [f"{type(each).__name__} {each}" for each in sample.VALUES]
    first = room.status(workflow.steps[0].task_id)
    assert first is not None
    assert first.result == sample.VALUES
    json.dumps(first.as_dict())
    failed = ended(room, nan)
    assert states(failed) == ["failure", "skipped"]
    assert failed.steps[0].error is not None
    assert "it['of'] is nan" in failed.steps[0].error["detail"]


def test_asyncio_has_the_same(room: CeleryRoom) -> None:
    async def scenario() -> None:
        ours = room.app.workflows
        canvas = chain(step(room, "passes_gate", key="a"), step(room, "listed"))
        async with database_of(room).asession() as session:
            first = await ours.astart(canvas, name="first", session=session)
        second = await ours.astart(canvas, name="second")
        for id in (first, second):
            await asyncio.to_thread(ended, room, id)
        gate_of(room.effects_file, "a", 0).touch()
        assert len(await ours.aretry(first)) == 1
        async with database_of(room).asession() as session:
            assert len(await ours.aretry(second, session=session)) == 1
        for id in (first, second):
            await asyncio.to_thread(ended, room, id)
            found = await ours.aget(id)
            assert found is not None
            assert [each.state for each in found.steps] == [StepState.SUCCESS] * 2
        assert await ours.aget("never heard of") is None
        done = dict.fromkeys((first, second), WorkflowState.SUCCESS)
        ids = [*done, "never heard of"]
        assert await ours.astates(ids) == done
        async with database_of(room).asession() as session:
            assert await ours.astates(ids, session=session) == done
        await database_of(room).aclose()

    asyncio.run(scenario())
