"""Give Celery's integration tests an application of `create_celery_app`; a plugin of pytest.

It is loaded in both runs, for the time limits; ``FOREIGN_CELERY=mainstay`` puts the application in.
Load it after ``celery.contrib.pytest``, whose fixtures it changes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from celery.contrib import pytest as fixtures
from celery.contrib.testing import tasks  # noqa: F401 - it defines the task that a worker is tried with
from celery.contrib.testing.app import DEFAULT_TEST_CONFIG, setup_default_app

from mainstay.config import Settings
from mainstay.service import Service
from mainstay.tasks.celery import create_celery_app

_IS_OURS = os.environ["FOREIGN_CELERY"] == "mainstay"
_BACKEND = os.environ["TEST_BACKEND"]
_TEST_SECONDS = float(os.environ["FOREIGN_TEST_SECONDS"])
_ENDS = float(os.environ["FOREIGN_ENDS"])
# On a busy machine a worker takes longer than the ten seconds that Celery gives it.
_WORKER_SECONDS = 60.0
# The first and the last are in its settings, and a heartbeat of 0 would be no heartbeat.
_NOT_HANDED_ON = ("broker_url", "broker_heartbeat", "result_backend")

_counts: Counter[str] = Counter()


@pytest.fixture(scope="session", autouse=True)
def _properties(record_testsuite_property: Callable[[str, object], None]) -> Iterator[None]:
    yield
    for name, count in _counts.items():
        record_testsuite_property(name, count)


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    return {"ping_task_timeout": _WORKER_SECONDS, "shutdown_timeout": _WORKER_SECONDS}


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    # Before the marks of the tests themselves, which allow five minutes.
    for item in items:
        item.add_marker(pytest.mark.timeout(_TEST_SECONDS), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > _ENDS:
        _counts["not_run"] += 1
        pytest.fail("not run: the time of this run is over", pytrace=False)


@contextmanager
def _create_app(
    enable_logging: bool = False,
    use_trap: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **config: Any,
) -> Iterator[Any]:
    """Take the place of the function of that name, which makes each application of the tests."""
    settings = Settings(
        env="test",  # a task of the suite has limits that a worker elsewhere refuses to start with
        service_name="foreign",
        celery_broker_url=config["broker_url"],
        celery_result_backend=_BACKEND.removeprefix("db+"),
        celery_default_queue="celery",
        celery_task_eager_propagates=False,
        metrics_port=0,
    )
    app = create_celery_app(Service(settings), name="celery.tests")
    given = DEFAULT_TEST_CONFIG | config
    app.conf.update({k: v for k, v in given.items() if k not in _NOT_HANDED_ON})
    # As Celery's defaults: most of these tests wait for a result, some for the state RETRY.
    app.conf.update(task_ignore_result=False, task_track_started=False)
    if app.conf.result_backend is None:
        # A third of the tests leave themselves out, or fail, by what they read there.
        _counts["result_backend_is_none"] += 1
        app.conf.result_backend = _BACKEND
    _counts["applications"] += 1
    with setup_default_app(app, use_trap=use_trap):
        yield app


if _IS_OURS:
    fixtures._create_app = _create_app
