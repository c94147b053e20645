"""Tasks that are done where they are sent, for a service's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery.result import AsyncResult

from mainstay.config import Settings
from mainstay.tasks.celery import App, Task, create_celery_app


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., tuple[App, Task]]]:
    apps: list[App] = []

    def make(**settings: bool) -> tuple[App, Task]:
        app = create_celery_app(
            Settings(
                env="test",
                celery_broker_url="memory://",
                celery_result_backend=f"sqlite:///{tmp_path}/results.db",
                celery_task_always_eager=True,
                **settings,
            )
        )
        apps.append(app)

        @app.task(name="eager_divide", shared=False, ignore_result=False)
        def divide(a: int, b: int) -> float:
            return a / b

        return app, divide

    yield make
    for app in apps:
        app.service.stop()


def test_what_a_task_raises_is_raised_where_it_is_sent(
    made: Callable[..., tuple[App, Task]],
) -> None:
    _app, divide = made()
    assert divide.delay(4, 2).get() == 2
    with pytest.raises(ZeroDivisionError):
        divide.delay(1, 0)


def test_or_it_is_only_told(made: Callable[..., tuple[App, Task]]) -> None:
    _app, divide = made(celery_task_eager_propagates=False)
    result = divide.delay(1, 0)
    assert result.state == "FAILURE"
    assert isinstance(result.result, ZeroDivisionError)


def test_a_result_is_kept_for_others_where_that_is_asked_for(
    made: Callable[..., tuple[App, Task]],
) -> None:
    app, divide = made(celery_task_store_eager_result=True)
    kept = AsyncResult(divide.delay(4, 2).id, app=app)
    assert (kept.state, kept.result, kept.name) == ("SUCCESS", 2, "eager_divide")
