"""Workflows where they are started: with eager execution, as a service's own tests have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group

from mainstay import Service, Settings
from mainstay.errors import Conflict, Invalid, NotFound, TooLarge
from mainstay.resources.sqlalchemy import Database, migrate
from mainstay.tasks.celery import App, create_celery_app
from mainstay.tasks.workflow import Workflow, WorkflowState

done: list[str] = []
broken: set[str] = set()


def made(tmp_path: Path, **settings: Any) -> App:
    url = f"sqlite:///{tmp_path}/test.db"
    migrate.upgrade(url, say=lambda _line: None)
    settings = {"env": "test", "database_url": url, "celery_broker_url": "memory://"} | settings
    app = create_celery_app(Service(Settings(**settings), Database()))

    @app.task(name="given", shared=False)
    def given(*values: Any) -> list[Any]:
        return list(values)

    @app.task(name="piece", track_status=False, shared=False)
    def piece(*values: Any) -> str:
        name = str(values[-1])
        if name in broken:
            raise ValueError(name)
        done.append(name)
        return name

    @app.task(name="a_set", shared=False)
    def a_set() -> set[int]:
        return {1}

    @app.task(name="replaces", bind=True, shared=False)
    def replaces(self: Any) -> Any:
        return self.replace(app.signature("given"))

    return app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = made(tmp_path, celery_task_always_eager=True, celery_task_eager_propagates=False)
    yield app
    app.service.stop()
    done.clear()
    broken.clear()


def step(app: App, name: str, *args: object) -> Any:
    return app.signature(name, args=args)


def got(app: App, id: str) -> Workflow:
    found = app.workflows.get(id)
    assert found is not None
    return found


def states(workflow: Workflow) -> list[str]:
    return [str(step.state) for step in workflow.steps]


def test_steps_are_given_what_celery_gives_them(app: App) -> None:
    canvases = [
        step(app, "given", 1),
        chain(step(app, "given", 1), step(app, "given", 2)),
        chain(step(app, "given", 1), group([step(app, "given", 2)] * 2), step(app, "given", 3)),
        chord([step(app, "given", n) for n in range(3)], step(app, "given", 4)),
        chain(chord([step(app, "given", 1)], step(app, "given", 2)), step(app, "given", 3)),
        chain(step(app, "given", 1), step(app, "given", 2).set(immutable=True)),
    ]
    for canvas in canvases:
        workflow = got(app, app.workflows.start(canvas, name="same"))
        last = app.status(workflow.steps[-1].task_id)
        assert last is not None
        assert last.result == canvas.apply().get()
        assert workflow.state is WorkflowState.SUCCESS


def test_eager_steps_are_done_after_the_commit_and_not_after_a_rollback(app: App) -> None:
    canvas = chain(step(app, "piece", "a"), step(app, "piece", "b"))
    with app.database.session() as session:
        app.workflows.start(canvas, name="never", session=session)
        session.rollback()
    assert done == []
    with app.database.session() as session:
        id = app.workflows.start(canvas, name="once", session=session)
        assert done == []
    assert done == ["a", "b"]
    assert states(got(app, id)) == ["success", "success"]


def test_an_eager_failure_is_recorded_and_can_be_done_again(app: App) -> None:
    broken.add("b")
    canvas = chain(*(step(app, "piece", name) for name in "abc"))
    id = app.workflows.start(canvas, name="contract")
    assert states(got(app, id)) == ["success", "failure", "skipped"]
    broken.clear()
    app.workflows.retry(id)
    assert states(got(app, id)) == ["success", "success", "success"]
    assert done == ["a", "b", "c"]


def test_an_eager_failure_that_propagates_comes_when_the_others_are_done(tmp_path: Path) -> None:
    app = made(tmp_path, celery_task_always_eager=True)
    broken.add("a")
    with pytest.raises(ValueError, match="a"):
        app.workflows.start(group(step(app, "piece", "a"), step(app, "piece", "b")), name="both")
    assert done == ["b"]
    app.service.stop()
    done.clear()
    broken.clear()


def test_what_cannot_be_passed_on_is_the_failure_of_the_step_that_returned_it(app: App) -> None:
    id = app.workflows.start(chain(step(app, "a_set"), step(app, "given")), name="set")
    workflow = got(app, id)
    assert states(workflow) == ["failure", "skipped"]
    assert workflow.steps[0].error is not None
    assert "JSON cannot hold" in workflow.steps[0].error["detail"]
    alone = app.workflows.start(step(app, "a_set"), name="nobody is given it")
    assert states(got(app, alone)) == ["success"]


def test_a_step_cannot_replace_itself(app: App) -> None:
    workflow = got(app, app.workflows.start(step(app, "replaces"), name="replaces"))
    assert workflow.steps[0].error is not None
    assert workflow.steps[0].error["type"] == "Bury"


def test_one_id_is_one_workflow(app: App) -> None:
    canvas = step(app, "piece", "a")
    assert app.workflows.start(canvas, name="first", workflow_id="w") == "w"
    assert app.workflows.start(canvas, name="second", workflow_id="w") == "w"
    assert done == ["a"]
    assert got(app, "w").name == "first"


def test_what_is_not_there_and_what_has_not_failed_is_told_apart(app: App) -> None:
    assert app.workflows.get("never heard of") is None
    with pytest.raises(NotFound):
        app.workflows.retry("never heard of")
    id = app.workflows.start(step(app, "piece", "a"), name="good")
    with pytest.raises(Conflict):
        app.workflows.retry(id)


def test_what_no_worker_would_take_is_refused_before_anything_is_written(app: App) -> None:
    canvas = chain(step(app, "piece", "a"), step(app, "piece", "x" * 2_000_000))
    with pytest.raises(TooLarge):
        app.workflows.start(canvas, name="large", workflow_id="large")
    with pytest.raises(Invalid):
        app.workflows.start(group([]), name="empty", workflow_id="large")
    with pytest.raises(Invalid, match="name"):
        app.workflows.start(step(app, "piece", "a"), name="n" * 256, workflow_id="large")
    assert app.workflows.get("large") is None
    assert done == []
