"""What any room of tasks promises, the one in memory included."""

from __future__ import annotations

from mainstay import context
from mainstay.context import Context
from mainstay.tasks.status import State
from tests.contract.tasks.rooms import Room


def test_a_task_is_done_and_its_result_is_told(room: Room) -> None:
    status = room.ended(room.send("add", 40, 2))
    assert status.state is State.SUCCESS
    assert status.result == 42
    assert status.attempts == 1
    assert status.name == "add"


def test_an_id_that_was_never_issued_is_told_from_one_that_waits(room: Room) -> None:
    assert room.status("never-issued") is None
    assert room.status(room.send("add", 1, 1)) is not None


def test_the_context_of_the_sender_travels(room: Room) -> None:
    sender = Context.new()
    with context.use(sender):
        id = room.send("tell_context")
    told = room.ended(id).result
    assert told["correlation_id"] == sender.correlation_id
    assert told["trace_id"] == sender.trace_id
    assert told["parent_id"] == sender.span_id
    status = room.status(id)
    assert status is not None
    assert status.correlation_id == sender.correlation_id


def test_a_passing_failure_is_tried_again_until_it_is_done(room: Room) -> None:
    status = room.ended(room.send("flaky", "k", 4))
    assert status.state is State.SUCCESS
    assert status.result == 4
    assert status.attempts == 4
    assert status.error is None


def test_a_failure_that_does_not_pass_is_given_up_in_the_end(room: Room) -> None:
    id = room.send("never_up", "k")
    status = room.ended(id)
    assert status.state is State.FAILURE
    assert status.attempts == 5
    assert room.letter(id).reason == "failed:ConnectionRefusedError"


def test_a_permanent_failure_is_one_try_and_a_dead_letter_with_its_reason(room: Room) -> None:
    sender = Context.new()
    with context.use(sender):
        id = room.send("broken", "colour")
    status = room.ended(id)
    assert status.state is State.FAILURE
    assert status.attempts == 1
    assert status.error == {"type": "ValueError", "detail": "no such thing as colour"}
    letter = room.letter(id)
    assert letter.reason == "failed:ValueError"
    assert letter.name == "broken"
    assert "no such thing as colour" in letter.detail
    assert letter.headers[context.CORRELATION_ID] == sender.correlation_id


SECRETIVE = 'token=abc-123, "password": "hunter2", postgresql://u:hunter3@host/d'


def test_an_error_is_told_and_stored_without_the_secrets_in_it(room: Room) -> None:
    id = room.send("broken", SECRETIVE)
    status = room.ended(id)
    assert status.error is not None
    told = (status.error["detail"], room.letter(id).detail)
    assert all("no such thing as token=***" in each for each in told)
    assert not any(secret in f"{told}" for secret in ("abc-123", "hunter2", "hunter3"))


def test_what_is_refused_and_what_is_buried_are_not_tried_again(room: Room) -> None:
    refused, buried = room.send("refused"), room.send("buried")
    assert room.ended(refused).attempts == 1
    assert room.ended(buried).attempts == 1
    assert room.letter(refused).reason == "refused:Refuse"
    assert room.letter(buried).reason == "failed:Bury"


def test_a_task_that_nobody_knows_is_a_dead_letter(room: Room) -> None:
    id = room.send("no_such_task")
    assert room.ended(id).state is State.FAILURE
    assert room.letter(id).reason == "unknown-task"


def test_a_result_that_json_cannot_hold_does_not_undo_the_work(room: Room) -> None:
    status = room.ended(room.send("give_set"))
    assert status.state is State.SUCCESS
    assert status.result is None
    assert status.error is not None
    assert status.error["type"] == "ResultNotKept"
    assert "set" in status.error["detail"]


def test_a_task_that_returns_work_that_nobody_does_has_failed(room: Room) -> None:
    for kind in ("coroutine", "generator"):
        id = room.send("lazy", kind)
        assert room.ended(id).state is State.FAILURE
        letter = room.letter(id)
        assert letter.reason == "failed:TypeError"
        assert f"task lazy returned a {kind}" in letter.detail


def test_an_error_with_half_a_surrogate_pair_is_told_and_buried(room: Room) -> None:
    id = room.send("half_said")
    assert room.ended(id).error == {"type": "ValueError", "detail": "bad \\udcff name"}
    letter = room.letter(id)
    assert (letter.reason, letter.detail) == ("failed:ValueError", "bad \\udcff name")


def test_an_error_without_words_is_told_and_buried(room: Room) -> None:
    id = room.send("wordless")
    status = room.ended(id)
    assert status.state is State.FAILURE
    assert status.error is not None
    assert status.error["type"] == "Wordless"
    assert room.letter(id).reason == "failed:Wordless"
