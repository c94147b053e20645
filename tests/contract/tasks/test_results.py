"""Who wants Celery's own results has them, with all that Celery knows of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import chord
from celery.canvas import Signature
from celery.exceptions import ChordError, NotRegistered, TaskRevokedError
from celery.result import AsyncResult

from mainstay.config import Settings
from mainstay.context import new_id
from mainstay.errors import Bury
from mainstay.tasks.celery import App, create_celery_app
from tests.contract.tasks.rooms import CeleryRoom
from tests.contract.tasks.test_any_room import SECRETIVE
from tests.waiting import PATIENCE_SECONDS


@pytest.fixture(params=["rabbitmq and postgresql", "redis and redis", "redis and sqlite"])
def asked(request: pytest.FixtureRequest) -> Iterator[tuple[CeleryRoom, App, str]]:
    """A room, an application that reads results, and where they are."""
    broker, _and, kind = str(request.param).partition(" and ")
    server: CeleryRoom = request.getfixturevalue(f"{broker}_room")
    room = server.another()
    if kind == "postgresql":
        url = request.getfixturevalue("database_url")
    elif kind == "redis":
        url = server.url
    else:
        url = f"sqlite:///{room.effects_file}.db"
    settings = Settings(
        env="test",
        celery_broker_url=room.url,
        celery_default_queue=room.queue,
        celery_result_backend=url,
    )
    app = create_celery_app(settings)
    yield room, app, url
    if kind == "redis":
        # A result that is collected later would open the connection of its channel again.
        app.backend.on_result_fulfilled = lambda _result: None
        app.backend.result_consumer.stop()
    app.backend.cleanup()
    app.service.stop()
    room.close()


def test_a_result_says_what_was_asked_who_did_it_and_how_it_ended(
    asked: tuple[CeleryRoom, App, str],
) -> None:
    room, app, url = asked
    with room.worker(CELERY_RESULT_BACKEND=url) as worker:
        worker.ready()
        good = app.send_task("answered", (42,), {"by": 2}, ignore_result=False)
        assert good.get(timeout=PATIENCE_SECONDS) == 21
        bad = app.send_task("answered", (42,), {"by": 0}, ignore_result=False)
        with pytest.raises(ZeroDivisionError):
            bad.get(timeout=PATIENCE_SECONDS)
        # Anybody who knows the id has the same.
        read = AsyncResult(good.id, app=app)
        assert (read.state, read.result) == ("SUCCESS", 21)
        assert (read.name, list(read.args), read.kwargs) == ("answered", [42], {"by": 2})
        assert (read.retries, read.queue) == (0, room.queue)
        assert read.worker.startswith("python-service-")
        failed = AsyncResult(bad.id, app=app)
        assert failed.state == "FAILURE"
        assert "ZeroDivisionError" in failed.traceback
        secretive = app.send_task("broken", (SECRETIVE,), ignore_result=False)
        with pytest.raises(ValueError, match=r"no such thing as token=\*\*\*"):
            secretive.get(timeout=PATIENCE_SECONDS)
        kept = f"{secretive.result} {secretive.traceback}"
        assert "ValueError: no such thing as token=***" in kept
        assert not any(secret in kept for secret in ("abc-123", "hunter2", "hunter3"))
        assert AsyncResult("never issued", app=app).state == "PENDING"
        # One that nobody asked for is not kept.
        ignored = app.send_task("listed", (1,), ignore_result=True)
        app.send_task("answered", (1,), ignore_result=False).get(timeout=PATIENCE_SECONDS)
        assert ignored.state == "PENDING"


def test_who_waits_for_a_task_that_is_never_begun_hears_of_its_end(
    asked: tuple[CeleryRoom, App, str],
) -> None:
    room, app, url = asked

    def kept(name: str, *args: object, **options: object) -> Signature:
        return app.signature(name, args=args).set(ignore_result=False, **options)

    # Before there is a worker: no broker may let it go without a word.
    late = kept("answered", 1, expires=0.001).apply_async()
    with room.worker(CELERY_RESULT_BACKEND=url) as worker:
        worker.ready()
        assert error_of(late) is TaskRevokedError
        assert room.letter(late.id).reason == "expired"
        unreadable = new_id()
        room.publish("{", {"id": unreadable, "task": "answered", "ignore_result": False})
        for result, error in (
            (kept("answered", 1, expires=-5).apply_async(), TaskRevokedError),
            (kept("no_such_task").apply_async(), NotRegistered),
            (AsyncResult(unreadable, app=app), Bury),
        ):
            assert error_of(result) is error
        members = [kept("listed", 1), kept("no_such_task")]
        whole = chord(members, kept("listed", "end")).apply_async()
        # Each of Celery's result backends says it in its own way.
        assert error_of(whole) in (ChordError, NotRegistered)


def error_of(result: AsyncResult) -> type[BaseException]:
    """Return what kind of error waiting for *result* ends with, and keep nothing of it."""
    try:
        given = result.get(timeout=PATIENCE_SECONDS)
    except Exception as error:  # noqa: BLE001 - whichever it is
        return type(error)
    raise AssertionError(f"no error: {given!r}")


def test_a_chord_of_celerys_own_is_complete_when_the_worker_of_a_member_is_killed(
    asked: tuple[CeleryRoom, App, str],
) -> None:
    room, app, url = asked

    def kept(name: str, *args: object, **kwargs: object) -> Signature:
        return app.signature(name, args=args, kwargs=kwargs).set(ignore_result=False)

    members = [kept("listed", 1), kept("fall_first", key="k"), kept("listed", 2)]
    result = chord(members, kept("listed", "end")).apply_async()
    with room.worker(CELERY_RESULT_BACKEND=url, concurrency=2) as worker:
        assert worker.process.wait(PATIENCE_SECONDS) == -9
    with room.worker(CELERY_RESULT_BACKEND=url, concurrency=2) as worker:
        worker.ready()
        assert result.get(timeout=PATIENCE_SECONDS) == [[[1], "k", [2]], "end"]
