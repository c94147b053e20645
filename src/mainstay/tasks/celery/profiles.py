"""What is a Celery application told, so that it loses nothing?

Two profiles, and no third. Both acknowledge a task after its work; they differ in what becomes of
a task whose worker died under it: ``redeliver`` does it again, ``dead-letter`` puts it among the
dead letters. Everything else that loses or doubles work when it is forgotten is set here.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import celery

from mainstay.config import urls
from mainstay.errors import Misconfigured
from mainstay.tasks.celery.queues import TaskQueue, all_problems

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = [
    "CONFIRM_TIMEOUT_SECONDS",
    "DELAY_LIMIT_SECONDS",
    "Profile",
    "acknowledgement",
    "check",
    "configuration",
    "pool_refusals",
    "refusals",
    "result_backend",
    "soft_limit",
    "task_refusals",
    "transport_of",
    "unreadable",
    "unusable_pool",
    "without_confirms",
]

Profile = Literal["redeliver", "dead-letter"]

CONNECT_TIMEOUT_SECONDS = 1.0
CONFIRM_TIMEOUT_SECONDS = 2.0
HEARTBEAT_SECONDS = 10
DELAY_LIMIT_SECONDS = 600.0
"""What is due later than this does not belong in a broker."""
_CONSUMER_TIMEOUT_MARGIN_SECONDS = 60.0
# How often a worker on Redis looks for what others have left; see `transport`.
_LOOK_SECONDS = 1.0
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS; both timeouts of a
# connection that is open are in milliseconds.
_RESULTS_CONNECT_ARGS: Mapping[str, Any] = {
    "connect_timeout": 2,
    "tcp_user_timeout": 5_000,
    "options": "-c statement_timeout=5000",
}
_SERIALIZER = "json"
# The one that Celery sends by default since 2016, with what a worker is to know in the headers.
_TASK_PROTOCOL = 2
_ROOM = "mainstay.tasks.celery"
# They begin and end as they should: for a debugger, or where nothing can be forked.
_POOLS_FOR_DEVELOPMENT = frozenset(
    {"solo", "threads", "celery.concurrency.solo", "celery.concurrency.thread"}
)
# Before Celery 5.7 one option stands for both.
_ACKS_ON_FAILURE = (
    ("acks_on_failure", "acks_on_timeout")
    if hasattr(celery.Task, "acks_on_failure")
    else ("acks_on_failure_or_timeout",)
)


def transport_of(url: str) -> str:
    """Return ``amqp``, ``redis`` or ``memory`` for a broker's URL."""
    scheme = url.partition("://")[0]
    return {"amqps": "amqp", "rediss": "redis", "pyamqp": "amqp"}.get(scheme, scheme)


def without_confirms(transport: str) -> dict[str, Any] | None:
    """Return the transport options of a connection on which nobody waits for the broker's confirms;
    ``None`` where there are none.
    """
    return {"confirm_publish": False} if transport == "amqp" else None


def soft_limit(hard: float) -> float:
    """Return when a task is asked to stop, before it is made to: the task then fails with a
    reason, while one that is killed can only be counted.
    """
    return hard - min(10.0, hard / 10)


def acknowledgement(profile: Profile) -> dict[str, bool]:
    """Return the options of a task under *profile*."""
    return {
        "acks_late": True,
        **dict.fromkeys(_ACKS_ON_FAILURE, False),
        "reject_on_worker_lost": profile == "redeliver",
    }


def _broker(settings: Settings) -> str:
    if settings.celery_task_always_eager and not settings.celery_broker_url:
        return "memory://"  # nothing is ever sent
    return str(settings.need("celery_broker_url"))


def configuration(settings: Settings, queues: Sequence[TaskQueue] = ()) -> dict[str, Any]:
    """Return Celery's settings for *settings*.

    Raises:
        Misconfigured: No broker is named, or a queue cannot be.
    """
    broker = _broker(settings)
    transport = transport_of(broker)
    default = settings.celery_default_queue
    if all(queue.name != default for queue in queues):
        queues = (TaskQueue(name=default), *queues)
    if problems := all_problems(queues):
        raise Misconfigured(
            "the queues of tasks cannot be as they are:\n  " + "\n  ".join(problems)
        )
    hard = settings.celery_task_time_limit
    conf: dict[str, Any] = {
        # Only JSON is ever read: a pickle can do anything.
        "accept_content": [_SERIALIZER],
        "task_serializer": _SERIALIZER,
        "task_protocol": _TASK_PROTOCOL,
        "result_serializer": _SERIALIZER,
        "result_accept_content": [_SERIALIZER],
        "enable_utc": True,
        "timezone": "UTC",
        # --- broker
        "broker_url": broker,
        # kombu fills in the host's name; without one, certificates for other hosts would do.
        "broker_use_ssl": {"server_hostname": None} if broker.startswith("amqps:") else None,
        "broker_connection_timeout": CONNECT_TIMEOUT_SECONDS,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_heartbeat": HEARTBEAT_SECONDS,
        "broker_channel_error_retry": True,
        "broker_transport_options": _transport_options(transport),
        # --- queues
        "task_queues": [queue.declared(transport) for queue in queues],
        "task_default_queue": default,
        "task_default_queue_type": "quorum",
        "task_default_exchange_type": "topic" if transport == "amqp" else "direct",
        "task_default_delivery_mode": "persistent",
        "task_create_missing_queues": True,
        "worker_detect_quorum_queues": True,
        # --- sending: our own sender retries what is safe to retry
        "task_publish_retry": False,
        # --- a task's life
        **{f"task_{name}": value for name, value in acknowledgement(_profile(settings)).items()},
        "task_acks_late": settings.celery_task_acks_late,
        "task_time_limit": hard,
        "task_soft_time_limit": soft_limit(hard),
        "task_track_started": True,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_always_eager": settings.celery_task_always_eager,
        "task_eager_propagates": settings.celery_task_eager_propagates,
        "task_store_eager_result": settings.celery_task_store_eager_result,
        # --- worker
        "worker_consumer": f"{_ROOM}.consumer:GuardedConsumer",
        "worker_prefetch_multiplier": 1,
        "worker_eta_task_limit": 1_000,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "worker_enable_soft_shutdown_on_idle": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_lost_wait": 2.0,
        "worker_send_task_events": False,
        # --- beat
        "beat_scheduler": f"{_ROOM}.beat:Scheduler",
        # --- results, for those who ask for them
        "result_extended": True,
        "result_expires": 86_400,
        "result_backend_max_retries": 3,
        "redis_socket_timeout": CONFIRM_TIMEOUT_SECONDS,
        "redis_socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "redis_socket_keepalive": True,
        "database_engine_options": {"pool_pre_ping": True},
        "database_short_lived_sessions": True,
    }
    if transport == "redis":
        conf["broker_transport"] = f"{_ROOM}.transport:Transport"
    if settings.celery_result_backend is not None:
        conf["result_backend"] = result_backend(settings)
        if settings.celery_result_backend.startswith("postgres"):
            conf["database_engine_options"]["connect_args"] = _RESULTS_CONNECT_ARGS
        if settings.celery_result_backend.startswith("rediss:"):
            # Celery refuses such a URL without a word on whether certificates are verified.
            conf["redis_backend_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return conf


def result_backend(settings: Settings) -> str:
    """Return the result backend in Celery's spelling."""
    url = settings.celery_result_backend
    if url is None:
        return "disabled://"
    scheme = url.partition("://")[0]
    if scheme.startswith(("postgres", "sqlite")):
        return f"db+{urls.sync_url(url)}"
    return url


def unreadable(conf: Mapping[str, Any]) -> list[str]:
    """Say which of Celery's settings make messages that no worker reads, each with what to change;
    whoever sends is told too.
    """
    found = []
    if conf["task_protocol"] != _TASK_PROTOCOL:
        found.append(
            f"task_protocol is {conf['task_protocol']!r}, and workers read {_TASK_PROTOCOL} alone: "
            "leave it out"
        )
    if conf["task_serializer"] != _SERIALIZER:
        found.append(
            f"task_serializer is {conf['task_serializer']!r}, and workers read JSON alone: "
            "leave it out"
        )
    return found


def refusals(conf: Mapping[str, Any], queues: Sequence[TaskQueue] = ()) -> list[str]:
    """Say which of Celery's settings lose or double work, each with what to change."""
    found: list[str] = []
    transport = transport_of(str(conf["broker_url"]))
    found += (problem for queue in queues for problem in queue.unknown_to(transport))
    if not conf["task_acks_late"]:
        found.append(
            "task_acks_late is off: a task is lost when its worker dies: leave it on "
            "(CELERY_TASK_ACKS_LATE=1)"
        )
    elif conf[f"task_{_ACKS_ON_FAILURE[0]}"] and not conf["task_reject_on_worker_lost"]:
        found.append(
            "task_acks_late alone loses the tasks of killed workers: choose a profile "
            f"(CELERY_TASK_PROFILE=redeliver or dead-letter) and leave task_{_ACKS_ON_FAILURE[0]} "
            "and task_reject_on_worker_lost alone"
        )
    found += _limits(conf["task_time_limit"], conf["task_soft_time_limit"], "task")
    if "pickle" in (conf["accept_content"] or ()) or "application/x-python-serialize" in (
        conf["accept_content"] or ()
    ):
        found.append("accept_content has pickle, which runs what a message says: take it out")
    found += unreadable(conf)
    if str(conf.get("result_backend") or "").startswith("rpc://"):
        found.append(
            "result_backend is rpc://, which forgets results with the connection: name a database "
            "or Redis (CELERY_RESULT_BACKEND)"
        )
    options = conf["broker_transport_options"] or {}
    if transport == "amqp":
        if not options.get("confirm_publish"):
            found.append(
                "broker_transport_options has no confirm_publish: accepted tasks may be lost: set "
                "it to True"
            )
        found += _broker_limits(conf, queues)
        found += _declarations(conf)
    if transport == "redis" and not str(conf["broker_transport"] or "").startswith(_ROOM):
        found.append(
            "broker_transport is not Mainstay's: kombu's own loses a task when its worker dies "
            f"while it takes it: leave it at {_ROOM}.transport:Transport"
        )
    return found


def task_refusals(
    name: str,
    task: Any,
    conf: Mapping[str, Any],
    queue: TaskQueue,
    *,
    idle_seconds: float | None = None,
) -> list[str]:
    """Say which options of one task lose or double it, each with what to change.

    Args:
        queue: Where it is sent.
        idle_seconds: How long a transaction of the service's database may send nothing.
    """
    found = _limits(task.time_limit, task.soft_time_limit, f"task {name}")
    if task.serializer not in (None, _SERIALIZER):
        found.append(
            f"task {name}: serializer is {task.serializer!r}, and workers read JSON alone: "
            "leave it out"
        )
    if task.time_limit and task.time_limit != conf["task_time_limit"]:
        if transport_of(str(conf["broker_url"])) == "amqp":
            found += _broker_limit(task.time_limit, queue, f"task {name}: time_limit")
        if (
            getattr(task, "takes_session", False)
            and idle_seconds is not None
            and task.time_limit > idle_seconds
        ):
            found.append(
                f"task {name}: time_limit {task.time_limit:g} s is above the {idle_seconds:g} s "
                "after which PostgreSQL ends a transaction that sends nothing, such as one of a "
                "task between two statements: lower the limit, or raise the other with "
                "Database(idle_in_transaction_timeout_seconds=…) or CELERY_TASK_TIME_LIMIT"
            )
    if not task.acks_late:
        found.append(
            f"task {name}: acks_late is off: it is lost when its worker dies: leave it out"
        )
    elif getattr(task, _ACKS_ON_FAILURE[0]) and not task.reject_on_worker_lost:
        found.append(
            f"task {name}: acks_late alone loses it when its worker is killed: give it "
            "profile='redeliver' or profile='dead-letter' instead"
        )
    return found


def is_prefork(pool: object) -> bool:
    """Is a worker's *pool*, a class or its name, Celery's own of processes?"""
    return _module_of(pool) in ("prefork", "processes", "celery.concurrency.prefork")


def unusable_pool(pool: object) -> list[str]:
    """Say why a worker's *pool*, a class or its name, will not do while one develops either."""
    if is_prefork(pool) or _module_of(pool) in _POOLS_FOR_DEVELOPMENT:
        return []
    problem = (
        f"the pool is {_pool_name(pool)}, in which a worker does not end as it should, and no time "
        "limit ends a task: leave out --pool (-P, worker_pool), or choose prefork"
    )
    return [problem]


def pool_refusals(pool: object) -> list[str]:
    """Say why a worker's *pool*, a class or its name, will not do."""
    if is_prefork(pool):
        return []
    problem = (
        f"the pool is {_pool_name(pool)}: while a task holds up such a worker its leases "
        "end, and others do its tasks too; and no time limit ends a task there: leave out --pool "
        "(-P), or choose prefork"
    )
    return [problem]


def _pool_name(pool: object) -> str:
    return _module_of(pool).rpartition(".")[2]


def _module_of(pool: object) -> str:
    name = pool if isinstance(pool, str) else str(getattr(pool, "__module__", pool))
    return name.partition(":")[0]


def _profile(settings: Settings) -> Profile:
    return settings.celery_task_profile


def _transport_options(transport: str) -> dict[str, Any]:
    # How often a lazy connection is tried when somebody sends: once, and then the sender knows.
    once = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
    if transport == "amqp":
        return once | {
            "confirm_publish": True,
            "connect_retries_timeout": CONNECT_TIMEOUT_SECONDS,
            "read_timeout": None,
            "write_timeout": CONFIRM_TIMEOUT_SECONDS,
        }
    if transport == "redis":
        return once | {
            "connect_retries_timeout": CONNECT_TIMEOUT_SECONDS,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "socket_timeout": CONFIRM_TIMEOUT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "unacked_restore_interval": _LOOK_SECONDS,
            "priority_steps": [0],
        }
    return once


def _limits(hard: float | None, soft: float | None, what: str) -> list[str]:
    if not hard:
        return [f"{what} has no time_limit: set CELERY_TASK_TIME_LIMIT or time_limit=…"]
    if soft and soft >= hard:
        problem = (
            f"{what}: soft_time_limit {soft:g} s is not below time_limit {hard:g} s: such a task "
            "is killed without a reason; lower the soft one"
        )
        return [problem]
    return []


def _broker_limits(conf: Mapping[str, Any], queues: Sequence[TaskQueue]) -> list[str]:
    found = []
    for queue in queues or (TaskQueue(name=conf["task_default_queue"]),):
        found += _broker_limit(conf["task_time_limit"] or 0, queue, "CELERY_TASK_TIME_LIMIT")
    return found


def _broker_limit(hard: float, queue: TaskQueue, what: str) -> list[str]:
    if hard <= queue.consumer_timeout_seconds - _CONSUMER_TIMEOUT_MARGIN_SECONDS:
        return []
    problem = (
        f"{what} {hard:g} s is not a minute below RabbitMQ's consumer_timeout "
        f"({queue.consumer_timeout_seconds:g} s) of queue {queue.name!r}: the broker closes the "
        "channel of such a worker; lower the limit, or raise consumer_timeout in rabbitmq.conf and "
        "say so with TaskQueue(consumer_timeout_seconds=…)"
    )
    return [problem]


def _declarations(conf: Mapping[str, Any]) -> list[str]:
    found = []
    for queue in conf["task_queues"] or ():
        arguments = queue.queue_arguments or {}
        is_quorum = arguments.get("x-queue-type") == "quorum"
        if not arguments.get("x-dead-letter-exchange"):
            found.append(f"queue {queue.name!r} has no dead letters: declare it as TaskQueue(…)")
        if is_quorum and "x-delivery-limit" not in arguments:
            found.append(f"queue {queue.name!r} has no delivery limit: declare it as TaskQueue(…)")
        if is_quorum and queue.exchange is not None and queue.exchange.type == "direct":
            found.append(
                f"queue {queue.name!r} is a quorum queue behind a direct exchange, where tasks "
                "with a countdown block the others: make the exchange a topic exchange"
            )
    return found


def check(problems: Sequence[str]) -> None:
    """Refuse to start when there are *problems*.

    Raises:
        Misconfigured: There are; the message has them all.
    """
    if problems:
        raise Misconfigured("this worker would lose or double tasks:\n  " + "\n  ".join(problems))
