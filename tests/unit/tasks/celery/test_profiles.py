from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest
from celery import _state, shared_task
from celery.concurrency import prefork, solo, thread
from celery.concurrency.base import BasePool

from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.tasks.celery import App, TaskQueue, create_celery_app, get_celery_app
from mainstay.tasks.celery.base import Task
from mainstay.tasks.celery.profiles import (
    acknowledgement,
    pool_refusals,
    refusals,
    result_backend,
    soft_limit,
    task_refusals,
    unusable_pool,
)
from mainstay.tasks.memory import MemoryTasks

AMQP, REDIS = "amqp://u:p@127.0.0.1:1/v", "redis://127.0.0.1:1/0"
# Celery has two options of this name since 5.7, and one before.
ACKS_ON_FAILURE = next(
    f"task_{name}" for name in acknowledgement("redeliver") if name.startswith("acks_on_failure")
)


def app_for(url: str, **settings: Any) -> App:
    return create_celery_app(Settings(env="test", celery_broker_url=url, **settings))


def nothing() -> None: ...


def works(*, session: Any) -> None: ...


@pytest.mark.parametrize("url", [AMQP, REDIS])
@pytest.mark.parametrize("profile", ["redeliver", "dead-letter"])
def test_what_we_set_ourselves_is_not_refused(url: str, profile: str) -> None:
    app = app_for(url, celery_task_profile=profile)
    assert refusals(app.conf, app.task_queues) == []
    assert app.conf.task_acks_late is True
    assert app.conf[ACKS_ON_FAILURE] is False
    assert app.conf.task_reject_on_worker_lost is (profile == "redeliver")
    assert app.conf.task_soft_time_limit < app.conf.task_time_limit


@pytest.mark.parametrize(
    ("url", "change", "said"),
    [
        (REDIS, {"task_acks_late": False}, "CELERY_TASK_ACKS_LATE"),
        (REDIS, {ACKS_ON_FAILURE: True, "task_reject_on_worker_lost": False}, "profile"),
        (REDIS, {"task_time_limit": None}, "CELERY_TASK_TIME_LIMIT"),
        (REDIS, {"task_soft_time_limit": 300}, "lower the soft one"),
        (REDIS, {"accept_content": ["json", "pickle"]}, "pickle"),
        (REDIS, {"task_protocol": 1}, "task_protocol is 1"),
        (REDIS, {"task_serializer": "pickle"}, "task_serializer is 'pickle'"),
        (REDIS, {"result_backend": "rpc://"}, "CELERY_RESULT_BACKEND"),
        (REDIS, {"broker_transport": "redis"}, "broker_transport"),
        (AMQP, {"task_time_limit": 1800, "task_soft_time_limit": 1700}, "consumer_timeout"),
        (AMQP, {"broker_transport_options": {}}, "confirm_publish"),
    ],
)
def test_what_loses_or_doubles_work_is_refused_with_what_to_change(
    url: str, change: dict[str, Any], said: str
) -> None:
    app = app_for(url)
    app.conf.update(change)
    assert any(said in problem for problem in refusals(app.conf, app.task_queues))


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        (AMQP, {"time_limit": 7200}, "consumer_timeout (1800 s) of queue 'default'"),
        (AMQP, {"time_limit": 1790, "name": "slow"}, None),
        (AMQP, {"time_limit": 7200, "name": "slow"}, "consumer_timeout (3600 s) of queue 'slow'"),
        (REDIS, {"time_limit": 7200}, None),
    ],
)
def test_the_limits_of_a_task_fit_the_queue_it_is_sent_to(
    url: str, options: dict[str, Any], said: str | None
) -> None:
    slow = TaskQueue(name="slow", consumer_timeout_seconds=3600)
    app = create_celery_app(Settings(env="test", celery_broker_url=url), queues=[slow])
    app.conf.task_routes = {"slow": {"queue": "slow"}}
    task = app.task(nothing, lazy=False, shared=False, **options)
    queue = slow if app.queue_of(task.name, {}) == "slow" else TaskQueue(name="default")
    problems = task_refusals(task.name, task, app.conf, queue)
    assert len(problems) == (said is not None)
    assert all(str(said) in problem for problem in problems)


@pytest.mark.parametrize(
    ("function", "idle_seconds", "is_refused"),
    [(works, 300.0, True), (works, 900.0, False), (works, None, False), (nothing, 300.0, False)],
)
def test_a_task_with_a_session_ends_before_its_database_ends_the_transaction(
    function: Any, idle_seconds: float | None, is_refused: bool
) -> None:
    app = app_for(REDIS)
    task = app.task(function, time_limit=900, lazy=False, shared=False)
    problems = task_refusals(
        "slow", task, app.conf, TaskQueue(name="default"), idle_seconds=idle_seconds
    )
    assert len(problems) == is_refused
    assert all("Database(idle_in_transaction_timeout_seconds=…)" in each for each in problems)


def test_a_task_that_is_sent_as_what_no_worker_reads_is_refused() -> None:
    app = app_for(REDIS)
    task = app.task(nothing, serializer="yaml", lazy=False, shared=False)
    (problem,) = task_refusals("bill", task, app.conf, TaskQueue(name="default"))
    assert "task bill: serializer is 'yaml'" in problem


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "custom", BasePool])
def test_a_pool_in_which_no_worker_ends_well_is_refused_in_development_too(pool: object) -> None:
    (problem,) = unusable_pool(pool)
    assert "choose prefork" in problem


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads", solo.TaskPool, thread.TaskPool])
def test_a_pool_in_which_a_worker_ends_well_will_do_in_development(pool: object) -> None:
    assert unusable_pool(pool) == []


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent", "eventlet", solo.TaskPool])
def test_a_pool_in_which_leases_end_is_refused(pool: object) -> None:
    (problem,) = pool_refusals(pool)
    assert "choose prefork" in problem


@pytest.mark.parametrize("pool", ["prefork", "processes", prefork.TaskPool])
def test_processes_are_not_refused(pool: object) -> None:
    assert pool_refusals(pool) == []


def test_each_queue_has_its_own_delivery_limit() -> None:
    queues = [TaskQueue(name="slow", delivery_limit=50), TaskQueue(name="odd", delivery_limit=1)]
    app = create_celery_app(Settings(env="test", celery_broker_url=AMQP), queues=queues)
    limits = [app.delivery_limit_of(name) for name in ("slow", "odd", "default", "unheard-of")]
    assert limits == [50, 1, 5, 5]


def test_a_queue_has_its_dead_letters_and_its_limits() -> None:
    queue: Any = TaskQueue(name="q", ttl_seconds=1.5, max_length=10).declared("amqp")
    assert queue.exchange.type == "topic"
    assert queue.queue_arguments["x-queue-type"] == "quorum"
    assert queue.queue_arguments["x-dead-letter-routing-key"] == "q_dlq"
    assert queue.queue_arguments["x-overflow"] == "reject-publish"
    assert queue.queue_arguments["x-message-ttl"] == 1500
    assert queue.queue_arguments["x-delivery-limit"] > 5
    assert queue.dead.name == "q_dlq"


def test_a_queue_that_nobody_declared_is_made_as_the_others() -> None:
    app = app_for(AMQP)
    assert app.amqp.queues["gpu"].queue_arguments["x-dead-letter-exchange"] == "gpu_dlx"


def test_results_are_spelt_as_celery_spells_them() -> None:
    def spelt(url: str | None) -> str:
        return result_backend(Settings(env="test", celery_result_backend=url))

    assert spelt(None) == "disabled://"
    assert spelt("redis://h/1") == "redis://h/1"
    assert spelt("postgresql://u:p@h/d").startswith("db+postgresql+psycopg://")


def test_the_configuration_says_where_results_are() -> None:
    assert app_for(REDIS).conf.result_backend is None
    assert app_for(REDIS, celery_result_backend="redis://h/1").conf.result_backend == "redis://h/1"
    database = app_for(REDIS, celery_result_backend="sqlite:///r.db")
    assert database.conf.result_backend == "db+sqlite:///r.db"


def test_certificates_of_a_result_backend_are_verified() -> None:
    app = app_for(REDIS, celery_result_backend="rediss://h/1")
    assert app.backend.connparams["ssl_cert_reqs"] == ssl.CERT_REQUIRED


def test_a_soft_limit_leaves_time_to_say_why() -> None:
    assert soft_limit(300) == 290
    assert soft_limit(10) == 9


def test_options_of_a_task_are_checked_when_it_is_made() -> None:
    app = app_for(REDIS)
    for option in ("once", "fenced"):
        with pytest.raises(Misconfigured, match=f"{option}=True needs a parameter `session`"):
            app.task(nothing, name=option, lazy=False, shared=False, **{option: True})
    with pytest.raises(Misconfigured, match="unknown"):
        app.task(nothing, name="b", profile="hope", lazy=False, shared=False)
    task = app.task(
        nothing, name="c", profile="dead-letter", time_limit=10, lazy=False, shared=False
    )
    assert task.reject_on_worker_lost is False
    assert task.soft_time_limit == 9


async def never_run() -> None: ...


def never_begun() -> Iterator[int]:
    yield 1


async def never_asked() -> AsyncIterator[int]:
    yield 1


class Waiting:
    __name__ = "waiting"

    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    "function",
    [never_run, never_begun, never_asked, Waiting(), partial(never_run)],
    ids=["async def", "generator", "async generator", "object", "partial"],
)
def test_a_task_whose_body_no_worker_would_run_is_refused_when_it_is_defined(
    function: Any,
) -> None:
    app = app_for(REDIS)
    with pytest.raises(Misconfigured, match=r"task charge is .* no worker would run"):
        app.task(function, name="charge")
    with pytest.raises(Misconfigured, match="task charge"):
        app.task(name="charge")(function)
    with pytest.raises(Misconfigured, match="task charge"):
        MemoryTasks().task(function, name="charge")


def test_a_task_of_a_class_of_its_own_and_one_that_is_shared_are_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is shared is made in every application of the process.
    monkeypatch.setattr(_state, "_on_app_finalizers", set())
    app = app_for(REDIS)

    class Charge(Task):
        name = "charge"

        async def run(self) -> None: ...

    with pytest.raises(Misconfigured, match="task charge"):
        app.register_task(Charge())

    def share() -> None:
        # At once where an application is finalized already.
        shared_task(never_begun, name="shared")
        app.finalize()

    with pytest.raises(Misconfigured, match="task shared"):
        share()


def test_the_session_is_no_argument_of_the_sender() -> None:
    app = app_for("memory://", celery_default_queue="nobody-takes-it")

    @app.task
    def store(key: str, *, session: Any) -> None: ...

    with pytest.raises(TypeError):
        store.delay()
    assert store.delay("k").id


def test_the_application_of_a_service_is_found_again() -> None:
    app = app_for(REDIS)
    assert get_celery_app(app.service) is app
    with pytest.raises(Misconfigured, match="create_celery_app"):
        get_celery_app(object())


def test_importing_reads_no_settings() -> None:
    class Needy(Settings):
        must: str

    app = create_celery_app(Needy)

    @app.task
    def later() -> None: ...

    with pytest.raises(Misconfigured):
        _ = app.conf.broker_url
