"""When is the configuration of an application made, and who sees it?"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mainstay.config import Settings
from mainstay.tasks.celery import create_celery_app, profiles
from mainstay.testing import eventually


def test_threads_that_send_the_first_tasks_all_see_the_whole_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = profiles.configuration
    came: list[int] = []

    def slowly(*args: Any) -> Any:
        eventually(lambda: len(came) == 8)
        return made(*args)

    def url(number: int) -> object:
        came.append(number)
        return app.conf.broker_url

    monkeypatch.setattr(profiles, "configuration", slowly)
    app = create_celery_app(Settings(env="test", celery_broker_url="memory://"))
    with ThreadPoolExecutor(8) as threads:
        urls = list(threads.map(url, range(8)))
    assert urls == ["memory://"] * 8


def test_what_is_configured_by_hand_wins_and_the_rest_stays() -> None:
    app = create_celery_app(Settings(env="test", celery_broker_url="memory://"))
    app.conf.worker_prefetch_multiplier = 3
    assert (app.conf.broker_url, app.conf.worker_prefetch_multiplier) == ("memory://", 3)
    app.config_from_object({"worker_max_tasks_per_child": 7})
    assert (app.conf.broker_url, app.conf.worker_max_tasks_per_child) == ("memory://", 7)


def test_modules_of_tasks_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jobs_of_a_test").mkdir()
    (tmp_path / "jobs_of_a_test" / "__init__.py").touch()
    (tmp_path / "jobs_of_a_test" / "tasks.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    app = create_celery_app(
        Settings(env="test", celery_broker_url="memory://"),
        autodiscover_paths=["jobs_of_a_test", "jobs_of_a_test.taks"],
    )
    app.loader.import_default_modules()
    told = capfd.readouterr().out
    assert told.count("convention_not_found") == 1
    assert "autodiscover_paths names 'jobs_of_a_test.taks', and there is no such module" in told
    assert "jobs_of_a_test.tasks" in sys.modules
    for name in [name for name in sys.modules if name.startswith("jobs_of_a_test")]:
        del sys.modules[name]


def test_a_module_that_is_loaded_without_a_specification_is_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in `python jobs.py`
    monkeypatch.setitem(sys.modules, "jobs_typed_by_hand", ModuleType("jobs_typed_by_hand"))
    app = create_celery_app(
        Settings(env="test", celery_broker_url="memory://"),
        autodiscover_paths=["__main__", "jobs_typed_by_hand"],
    )
    app.loader.import_default_modules()
    assert "convention_not_found" not in capfd.readouterr().out
