"""A plain `Celery`, set up so that nothing accepted is lost.

    celery_app = create_celery_app(service, autodiscover_paths=["data.tasks"])

    @celery_app.task
    def thumbnail(path: str) -> str: ...

Its settings are read when they are first needed, so importing a module reads no environment.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, overload

import celery
from amqp import PreconditionFailed
from celery.app import backends
from celery.app.amqp import AMQP
from celery.signals import import_modules
from celery.utils import uuid
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)
from typing_extensions import override

from mainstay.context import CORRELATION_ID
from mainstay.errors import Disconnected, Invalid, Misconfigured, NoRoute, Unconfirmed
from mainstay.service import Service, services_of
from mainstay.tasks.celery import profiles, sending
from mainstay.tasks.celery.alarms import Alarm, Blocked
from mainstay.tasks.celery.broker import Broker
from mainstay.tasks.celery.eager import Eager
from mainstay.tasks.celery.letters import Undertaker
from mainstay.tasks.celery.lost import LostTasks
from mainstay.tasks.celery.profiles import (
    CONFIRM_TIMEOUT_SECONDS,
    DELAY_LIMIT_SECONDS,
    transport_of,
)
from mainstay.tasks.celery.queues import DELIVERY_LIMIT, DeclaredQueues, TaskQueue
from mainstay.tasks.celery.recording import Acceptance, Keeper, Recorder
from mainstay.tasks.celery.reports import Reports
from mainstay.tasks.celery.results import backend_of
from mainstay.tasks.celery.senders import Senders
from mainstay.tasks.celery.settings import CelerySettings
from mainstay.tasks.celery.statuses import DatabaseStatuses, database_of
from mainstay.tasks.celery.worker import WorkerSide, leave
from mainstay.tasks.celery.workflows import WORKFLOW, Workflows
from mainstay.tasks.effects import check_function, takes_session
from mainstay.tasks.status import StatusStore, TaskStatus
from mainstay.texts import causes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, scoped_session

    from mainstay.config import Settings
    from mainstay.logs.redaction import Redaction
    from mainstay.resources.sqlalchemy import Database
    from mainstay.resources.sqlalchemy.outbox import Outbox
    from mainstay.tasks.celery.base import Task

T = TypeVar("T")

# What a delay puts before the routing key, and how the exchanges begin that it comes through.
_DELAY = re.compile(r"^(?:[01]\.){28}")
_DELAYED_EXCHANGES = "celery_delayed_"

__all__ = ["App", "asend", "create_celery_app", "get_celery_app", "send"]


def create_celery_app(
    service: Service | Settings | type[Settings],
    *,
    autodiscover_paths: Sequence[str] = (),
    queues: Sequence[TaskQueue] = (),
    name: str | None = None,
) -> App:
    """Return a `Celery` for *service*; ``celery -A … worker|beat|inspect`` works on it.

    Args:
        service: The service, or its settings, which then make one.
        autodiscover_paths: Modules that define tasks, imported when a worker starts; a package
            stands for its module ``tasks`` too.
        queues: What else than the default queue is consumed and sent to, beside those of its
            :class:`~mainstay.tasks.celery.CelerySettings`.
        name: Celery's own name of the application: the prefix of tasks in ``__main__``.
    """
    return App(Service.of(service), modules=autodiscover_paths, queues=queues, name=name)


def get_celery_app(holder: Any) -> App:
    """Return the Celery application of a service, or of a web application made for it.

    Raises:
        Misconfigured: It has none.
    """
    for service in services_of(holder):
        broker = service.find(Broker)
        if broker is not None:
            return broker.app
    raise Misconfigured(
        f"{type(holder).__name__} has no Celery application: make one with "
        "create_celery_app(service), for the same service"
    )


def send(
    task: Task,
    /,
    *args: Any,
    task_id: str | None = None,
    session: Session | scoped_session[Any] | None = None,
    **kwargs: Any,
) -> str:
    """Send *task* and return its id, once the broker has confirmed it.

    With a *session* it leaves with the commit of that, and never without: it is written into the
    service's outbox, and relayed afterwards, at least once, as soon as the broker takes it.

    Args:
        task_id: The id, where the sender makes it: sending twice under one id is one task.
        session: The unit of work that the task is a part of.
        args, kwargs: The task's own.

    Raises:
        TooLarge: No worker would take the arguments.
        Unavailable: The broker did not accept it; see :func:`mainstay.tasks.celery.sending.publish`
            for what each kind says.
        Overloaded: With a session: more messages wait in the outbox than may.
    """
    id = task_id or uuid()
    options: dict[str, Any] = {} if session is None else {"session": session}
    task.apply_async(args, kwargs, task_id=id, **options)
    return id


async def asend(
    task: Task,
    /,
    *args: Any,
    task_id: str | None = None,
    session: AsyncSession | None = None,
    **kwargs: Any,
) -> str:
    """As :func:`send`, without stopping the event loop: on a thread of its own, or in the
    *session*.
    """
    call = partial(send, task, *args, task_id=task_id, **kwargs)
    if session is not None:
        return await session.run_sync(lambda unit: call(session=unit))
    id: str = await task.app.aside(call)
    return id


class TaskAMQP(AMQP):
    """Celery's table of queues and its publisher, with queues as :class:`TaskQueue` makes them."""

    def Queues(self, *args: Any, **kwargs: Any) -> DeclaredQueues:  # noqa: N802 - Celery's name
        queues = super().Queues(*args, **kwargs)
        queues.transport = transport_of(self.app.conf.broker_url)
        made: DeclaredQueues = queues
        return made

    @cached_property
    def send_task_message(self) -> Callable[..., Any]:
        """As Celery's, and a task that expires keeps no time to live with the broker: RabbitMQ
        would let it go without a word to those who wait for its result, and a worker tells them.
        """
        send: Callable[..., Any] = super().send_task_message

        def send_without_ttl(*args: Any, **options: Any) -> Any:
            options.pop("expiration", None)
            return send(*args, **options)

        return send_without_ttl

    def TaskConsumer(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - likewise
        try:
            return super().TaskConsumer(*args, **kwargs)
        except PreconditionFailed as error:
            # Celery would take it for a connection that broke, and try again for ever.
            leave(
                Misconfigured(
                    f"a queue is declared otherwise on the broker ({error.reply_text}): delete it "
                    "there when it is empty, or declare it in the code as it is there"
                )
            )

    queues_cls = DeclaredQueues


class App(celery.Celery):
    """The application; made by :func:`create_celery_app`."""

    task_cls = "mainstay.tasks.celery.base:Task"
    amqp_cls = TaskAMQP
    control_cls = "mainstay.tasks.celery.control:Control"

    def __init__(
        self,
        service: Service,
        *,
        modules: Sequence[str],
        queues: Sequence[TaskQueue],
        name: str | None,
    ) -> None:
        super().__init__(main=name)
        self.service = service
        self._given_queues = tuple(queues)
        self.eager = Eager()
        self.workflows = Workflows(self)
        self.reports = Reports(self)
        self.undertaker = Undertaker(self)
        self.alarm = Alarm(lambda: str(self.conf.broker_url))
        self.known: set[str] = set()
        """Names of tasks that this process has sent, or found to be refused for good."""
        self._senders = Senders()
        self._delayed_pid = 0
        self._configuring = threading.RLock()
        self._configured: Any = None
        self.outbox = _outbox_of(service)
        self.lost = _lost_of(service, self.outbox)
        service.hold(Broker(self))
        self.worker = WorkerSide(self)
        if modules:
            self._modules = list(modules)
            import_modules.connect(self._warn_of_missing, sender=self)
            self.autodiscover_tasks(self._modules, related_name="tasks")
            self.autodiscover_tasks(self._modules, related_name=None)

    if TYPE_CHECKING:  # Celery's own is without types

        @overload
        def task(self, function: Callable[..., Any], /, **options: Any) -> Task: ...
        @overload
        def task(self, /, **options: Any) -> Callable[[Callable[..., Any]], Task]: ...
        def task(self, /, *args: Any, **options: Any) -> Any: ...
    else:

        def task(self, /, *args: Any, **options: Any) -> Any:
            """As Celery's.

            Raises:
                Misconfigured: The function is an ``async def`` or a generator, here and not when
                    the task is first used.
            """

            def checked(*functions: Any) -> Any:
                for each in filter(callable, functions):
                    name = options.get("name") or self.gen_task_name(each.__name__, each.__module__)
                    check_function(name, each)
                return super(App, self).task(*functions, **options)

            return checked(*args) if args else checked

    # --- asked by people -------------------------------------------------------------------

    def status(self, task_id: str) -> TaskStatus | None:
        """Return what has become of a task; ``None`` for an id that was never issued.

        Raises:
            Misconfigured: Nobody keeps statuses: the service has neither a database nor Redis.
        """
        return self._statuses().find(task_id)

    async def astatus(self, task_id: str) -> TaskStatus | None:
        """As :meth:`status`, without stopping the event loop."""
        store = self._statuses()
        if isinstance(store, DatabaseStatuses):
            return await store.afind(task_id)
        return await self.aside(partial(store.find, task_id))

    async def astatuses(self, task_ids: Collection[str]) -> dict[str, TaskStatus]:
        """Return what has become of those tasks, by id; without the ids never issued."""
        if not task_ids:
            return {}
        store = self._statuses()
        if isinstance(store, DatabaseStatuses):
            found = await store.afind_all(task_ids)
        else:
            found = await self.aside(lambda: [store.find(id) for id in task_ids])
        return {status.id: status for status in found if status is not None}

    def _statuses(self) -> StatusStore:
        store = self.reports.store
        if store is None:
            raise Misconfigured(
                "nobody keeps the statuses of tasks: give the service a Database, or name Redis "
                "in CELERY_RESULT_BACKEND or REDIS_URL"
            )
        return store

    # --- asked by tasks --------------------------------------------------------------------

    @property
    def redaction(self) -> Redaction:
        """Masks the secrets in what is stored or shown of an error."""
        return self.service.logs.redaction

    @cached_property
    def task_queues(self) -> Sequence[TaskQueue]:
        """The queues that are declared: those of the settings, and what was given beside them."""
        settings = self.service.settings
        listed = settings.task_queues if isinstance(settings, CelerySettings) else ()
        return (*listed, *self._given_queues)

    def delivery_limit_of(self, queue: str) -> int:
        """After so many unfinished deliveries a message of *queue* is a dead letter."""
        return self._delivery_limits.get(queue, DELIVERY_LIMIT)

    def is_uncounted(self, queue: str) -> bool:
        """Is *queue* one whose broker does not count how often it delivers a message?"""
        return queue in self._classic_queues

    @cached_property
    def _classic_queues(self) -> frozenset[str]:
        if transport_of(self.conf.broker_url) != "amqp":
            return frozenset()
        return frozenset(queue.name for queue in self.task_queues if queue.kind == "classic")

    @cached_property
    def _delivery_limits(self) -> Mapping[str, int]:
        return {queue.name: queue.delivery_limit for queue in self.task_queues}

    @property
    def database(self) -> Database:
        """The database whose sessions tasks are given."""
        database = database_of(self.service)
        if database is None:
            raise Misconfigured(
                "a task asks for a session, and the service holds no database: "
                "Service(settings, Database(…))"
            )
        return database

    # --- sending ---------------------------------------------------------------------------

    def send_task(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        session: Session | scoped_session[Any] | None = None,
        **options: Any,
    ) -> Any:
        """As Celery's, and within two seconds: confirmed by the broker, or an error that says
        what is known; see :func:`mainstay.tasks.celery.sending.publish`.

        With a *session*, and when it is due later than in ten minutes, it waits in the outbox.

        Raises:
            Misconfigured: The application's settings would make a message that no worker reads.
        """
        sending.check_settings(name, self.conf)
        id = task_id or uuid()
        delay = sending.delay_seconds(countdown, eta)
        travelling = [args, kwargs, options.get("chain"), options.get("link"), options.get("chord")]
        sending.check_body(name, travelling, self.service.settings.body_limit_bytes)
        headers = sending.context_headers() | dict(options.pop("headers", None) or {})
        transport = transport_of(self.conf.broker_url)
        sending.check_options(name, headers, options, transport)
        sending.keep_results_of_canvas(options, is_default=name not in self._tasks)
        self._check_mapped(name, kwargs or {})
        is_amqp = transport == "amqp"
        if is_amqp:
            options = self._to_its_queue(options)
        if delay and options.get("retries"):
            self.reports.held_back(id, delay)
        if session is not None or delay > DELAY_LIMIT_SECONDS:
            outbox = self._outbox_for(name, session, delay)
            recorder = Recorder()
            result = super().send_task(
                name, args, kwargs, task_id=id, producer=recorder, headers=headers, **options
            )
            message = recorder.message(id, name)
            is_tracked = self._is_tracked(name, headers, options)
            own = outbox.database.session() if session is None else nullcontext(session)
            with own as unit:
                outbox.put(unit, message, delay_seconds=delay, is_tracked=is_tracked)
            return result
        if is_amqp:
            # Celery's tasks and signatures hand over None for an option that was not given.
            if options.get("mandatory") is None:
                options["mandatory"] = True
            if options.get("confirm_timeout") is None:
                options["confirm_timeout"] = CONFIRM_TIMEOUT_SECONDS
            countdown, eta = _whole_seconds(countdown, eta)
            self.alarm.check(name)
        is_delayed = is_amqp and bool(countdown or eta)
        if is_delayed:
            self._declare_delays()
        options["retry"] = False
        acceptance = None
        if self._is_tracked(name, headers, options):
            acceptance = Acceptance(
                self.reports,
                id,
                name,
                self.amqp.queues[self.queue_of(name, options)] if is_delayed else None,
                headers[CORRELATION_ID],
                delay_seconds=delay,
            )
            if not self.reports.keeps_messages:
                acceptance.note(self.queue_of(name, options))
        connection = options.pop("connection", None)

        def deliver(with_producer: Any) -> Any:
            via = with_producer or self.amqp.Producer(connection, auto_declare=False)
            if is_delayed:
                self._bind_to_delays(via.channel, self.queue_of(name, options))
            if acceptance is not None and self.reports.keeps_messages:
                via = Keeper(via, id, name, acceptance.keep)
            return super(App, self).send_task(
                name,
                args,
                kwargs,
                countdown=countdown,
                eta=eta,
                task_id=id,
                producer=via,
                headers=headers,
                **options,
            )

        try:
            if producer is not None or connection is not None:
                return sending.publish_with(producer, name, deliver)
            return sending.publish(self, name, deliver)
        except Exception as error:
            is_certain = not isinstance(error, Unconfirmed | Disconnected)  # else it may be stored
            if any(isinstance(cause, Blocked) for cause in causes(error)):
                self.alarm.seen()
            if is_delayed and isinstance(error, NoRoute):
                self._delayed_pid = 0  # the broker has lost what carries delays, too
            if acceptance is not None and is_certain:
                acceptance.refused(error, self.queue_of(name, options))
            raise

    def _check_mapped(self, name: str, kwargs: Mapping[str, Any]) -> None:
        """Refuse a map of a task that Celery would call without what a worker gives it."""
        if name not in ("celery.map", "celery.starmap"):
            return
        mapped = kwargs["task"]["task"]
        if getattr(self._tasks.get(mapped), "takes_session", False):
            raise Invalid(
                f"{mapped} was not sent: it takes a session, and within map, starmap and chunks "
                "a task is only called: send a group of it instead"
            )

    async def aside(self, call: Callable[[], T]) -> T:
        """Do something that waits for the broker on a thread of the senders."""
        return await self._senders.do(call)

    def close_senders(self) -> None:
        """Let the senders' threads and connections go."""
        self._senders.close()
        self.undertaker.close()
        if "amqp" in self.__dict__:
            # The pool itself stays: kombu shares it between the applications of one broker, and
            # each connection connects again when it is used again.
            pool = self.pool
            for connection in list(pool._resource.queue):
                pool.collect_resource(connection)

    def _outbox_for(self, name: str, session: object, delay_seconds: float) -> Outbox:
        if self.outbox is not None and self.outbox.is_named:
            return self.outbox
        if session is None:
            raise sending.due_too_late(name, delay_seconds)
        raise Misconfigured(
            f"{name} is to leave with a commit, and the service holds no database: "
            "Service(settings, Database(…))"
        )

    def _is_tracked(
        self, name: str, headers: Mapping[str, Any], options: Mapping[str, Any]
    ) -> bool:
        if options.get("retries"):
            return False
        if WORKFLOW in headers:
            return True
        task = self._tasks.get(name)
        return getattr(task, "track_status", True) and not name.startswith("celery.")

    def queue_of(self, name: str, options: Mapping[str, Any]) -> str:
        """Return where Celery will send a task."""
        task = self._tasks.get(name)
        queue = options.get("queue") or getattr(task, "queue", None)
        if queue is None and self.conf.task_routes:
            queue = self.amqp.router.route({}, name, task_type=task).get("queue")
        return str(getattr(queue, "name", queue) or self.conf.task_default_queue)

    def _to_its_queue(self, options: dict[str, Any]) -> dict[str, Any]:
        """Name the queue where *options* have its exchange and routing key: so Celery sends a
        retry back, and would take the default queue for one that is due later.
        """
        key = _DELAY.sub("", options.get("routing_key") or "")
        if options.get("queue") is not None or not key:
            return options
        exchange = str(options.get("exchange") or "")
        was_delayed = exchange.startswith(_DELAYED_EXCHANGES)
        for queue in self.amqp.queues.values():
            if queue.routing_key == key and (was_delayed or queue.exchange.name == exchange):
                others = {n: v for n, v in options.items() if n not in ("exchange", "routing_key")}
                return others | {"queue": queue.name}
        return options

    def _declare_delays(self) -> None:
        """Declare what carries a delay on RabbitMQ: a worker does so too, but may come later."""
        if self._delayed_pid == os.getpid():
            return
        try:
            with self.connection_for_write() as connection:
                declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
        except Exception as error:
            answer = sending.translated(error, "a task with a countdown")
            if answer is None:
                raise
            raise answer from error
        self._delayed_pid = os.getpid()

    def _bind_to_delays(self, channel: Any, queue: str) -> None:
        """Have what is delayed come to *queue*: where that is not there, or no longer, the broker
        would take the task and drop it when its delay ends.
        """
        found = self.amqp.queues[queue]
        found(channel).declare()
        # Kombu asks a connection for a new channel, and leaves it open.
        holder: Any = SimpleNamespace(channel=lambda: channel)
        bind_queue_to_native_delayed_delivery_exchange(holder, found)

    # --- Celery's own ----------------------------------------------------------------------

    def type_checker(self, fun: Any, bound: bool = False) -> Any:
        if not takes_session(fun):
            return super().type_checker(fun, bound=bound)
        # The session is ours to give: whoever sends the task gives the other arguments.
        import inspect

        signature = inspect.signature(fun)
        kept = [each for name, each in signature.parameters.items() if name != "session"]
        rest = signature.replace(parameters=kept[1:] if bound else kept)

        def check(*args: Any, **kwargs: Any) -> None:
            rest.bind(*args, **kwargs)

        return staticmethod(check)

    @override
    def _get_backend(self) -> Any:
        # Celery's own property would take the environment variable as it is, in a spelling that
        # Celery does not know.
        url = self.conf.get("result_backend") or profiles.result_backend(self.service.settings)
        kind, url = backends.by_url(url, self.loader)
        return backend_of(kind)(app=self, url=url)

    def _load_config(self) -> Any:
        # Threads that send the first tasks come here together, and each is to see all of it.
        with self._configuring:
            if self._configured is None or self._conf is not self._configured:
                self._configured = self._configuration()
            return self._configured

    def _configuration(self) -> Any:
        try:
            # Made before Celery begins: what it adds later would be missing for a while.
            ours = profiles.configuration(self.service.settings, self.task_queues)
            self._pending_defaults.appendleft(lambda: ours)
            return super()._load_config()
        except Misconfigured as error:
            if not _is_celery_command():
                raise
            sys.stderr.write(f"{error}\n")
            raise SystemExit(Misconfigured.exit_code) from error

    def _warn_of_missing(self, **_: object) -> None:
        """Warn of modules that do not exist: Celery skips them without a message."""
        for name in self._modules:
            try:
                # `find_spec` refuses what is loaded without a specification, as `__main__` may be.
                is_there = name in sys.modules or find_spec(name) is not None
            except (ModuleNotFoundError, ValueError):
                is_there = False
            if not is_there:
                self.service.logs.write(
                    "warning",
                    "mainstay.tasks",
                    f"autodiscover_paths names {name!r}, and there is no such module: tasks of it "
                    "are unknown here",
                    event="convention_not_found",
                )


def _outbox_of(service: Service) -> Outbox | None:
    """Return the outbox of *service*, where it holds a database."""
    database = database_of(service)
    if database is None:
        return None
    from mainstay.resources.sqlalchemy.outbox import Outbox

    return service.find(Outbox) or service.hold(Outbox(database))


def _lost_of(service: Service, outbox: Outbox | None) -> LostTasks | None:
    """Return the lost tasks of *service*, where it holds a database to find them with."""
    if outbox is None:
        return None
    return service.find(LostTasks) or service.hold(LostTasks(outbox))


def _whole_seconds(countdown: float | None, eta: Any) -> tuple[float | None, Any]:
    """Round a delay up to whole seconds, which is what RabbitMQ's delay queues know."""
    if isinstance(eta, datetime):
        aware = eta if eta.tzinfo else eta.replace(tzinfo=UTC)
        countdown, eta = (aware - datetime.now(UTC)).total_seconds(), None
    if countdown is None or countdown <= 0:
        return None, eta
    return float(math.ceil(countdown)), eta


def _is_celery_command() -> bool:
    command = Path(sys.argv[0])
    return "celery" in (command.name, command.parent.name)
