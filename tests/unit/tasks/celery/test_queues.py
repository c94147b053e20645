"""A queue that cannot be as it is declared is refused, with what to change."""

from __future__ import annotations

from typing import Any

import pytest

from mainstay.config import Settings
from mainstay.errors import Misconfigured
from mainstay.tasks.celery import CelerySettings, TaskQueue, create_celery_app
from mainstay.tasks.celery.profiles import refusals

AMQP, REDIS = "amqp://u:p@127.0.0.1:1/v", "redis://127.0.0.1:1/0"


class Queues(CelerySettings):
    celery_default_queue: str = "contracts"
    task_queues = (
        TaskQueue(name="contracts", max_length=1000, ttl_seconds=60),
        TaskQueue(
            name="urgent",
            kind="classic",
            classic_because="tasks have priorities",
            max_priority=9,
            max_length=10,
        ),
    )


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        ({"name": ""}, "printable"),
        ({"name": "with space"}, "printable"),
        ({"name": "q" * 201}, "printable"),
        ({"name": "amq.mine"}, "the broker's"),
        ({"name": "orders_dlq"}, "dead letters"),
        ({"name": "q", "routing_key": "orders.#"}, "wildcards"),
        ({"name": "q", "kind": "stream"}, "quorum or classic"),
        ({"name": "q", "kind": "classic", "max_length": 1}, "classic_because"),
        ({"name": "q", "kind": "classic", "classic_because": "old"}, "set max_length"),
        ({"name": "q", "max_priority": 9}, "quorum queues have no priorities"),
        ({"name": "q", "delivery_limit": 0}, "delivery_limit must be"),
        ({"name": "q", "ttl_seconds": 0}, "ttl_seconds must be"),
        ({"name": "q", "max_length": 0}, "max_length must be"),
    ],
)
def test_what_cannot_work_is_refused_when_the_application_is_configured(
    queue: dict[str, Any], said: str
) -> None:
    app = create_celery_app(
        Settings(env="test", celery_broker_url=AMQP), queues=[TaskQueue(**queue)]
    )
    with pytest.raises(Misconfigured, match=said):
        _ = app.conf.task_queues


def test_all_that_is_wrong_is_said_at_once() -> None:
    queues = [
        TaskQueue(name="a", exchange="x", routing_key="k"),
        TaskQueue(name="b", exchange="x", routing_key="k"),
        TaskQueue(name="c", delivery_limit=0),
        TaskQueue(name="c"),
    ]
    app = create_celery_app(Settings(env="test", celery_broker_url=AMQP), queues=queues)
    with pytest.raises(Misconfigured) as refused:
        _ = app.conf.task_queues
    for said in ("done twice", "delivery_limit", "'c' is declared twice"):
        assert said in str(refused.value)


def test_the_settings_list_the_queues() -> None:
    app = create_celery_app(Queues(env="test", celery_broker_url=AMQP))
    assert [queue.name for queue in app.conf.task_queues] == ["contracts", "urgent"]
    assert app.conf.task_default_queue == "contracts"
    assert app.delivery_limit_of("contracts") == 5
    urgent = app.amqp.queues["urgent"].queue_arguments
    assert (urgent["x-queue-type"], urgent["x-max-priority"]) == ("classic", 9)
    assert "x-delivery-limit" not in urgent
    assert urgent["x-dead-letter-exchange"] == "urgent_dlx"
    assert refusals(app.conf, app.task_queues) == []


def test_what_is_given_beside_the_settings_is_declared_too() -> None:
    app = create_celery_app(
        Queues(env="test", celery_broker_url=AMQP), queues=[TaskQueue(name="gpu")]
    )
    assert [queue.name for queue in app.conf.task_queues] == ["contracts", "urgent", "gpu"]


def test_what_redis_does_not_do_is_refused_there() -> None:
    app = create_celery_app(Queues(env="test", celery_broker_url=REDIS))
    said = refusals(app.conf, app.task_queues)
    for option in ("'contracts': ttl_seconds", "'contracts': max_length", "'urgent': max_priority"):
        assert any(option in problem and "RabbitMQ" in problem for problem in said)
