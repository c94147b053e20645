"""When is the configuration of an application made, and who sees it?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
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
