"""What a worker's main process does beside Celery's own work.

It refuses a start that would lose work, serves `/metrics` and health, says whether the worker gets
on, and ends it in time. Celery owns the process; all of this hangs on its signals.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import billiard.util
from celery import signals
from celery.apps import worker as celery_worker
from celery.exceptions import SecurityWarning
from celery.utils.nodenames import NODENAME_DEFAULT
from celery.worker import state as worker_state

from mainstay import failpoints, forks
from mainstay.errors import Misconfigured
from mainstay.metrics import processes
from mainstay.monitor import Monitor
from mainstay.tasks.celery import profiles
from mainstay.tasks.celery.backlog import Backlog
from mainstay.tasks.celery.broker import Broker
from mainstay.tasks.celery.depths import depths_of
from mainstay.tasks.celery.eviction import eviction_of
from mainstay.tasks.celery.profiles import transport_of
from mainstay.tasks.celery.queues import TaskQueue
from mainstay.tasks.celery.results import is_outage
from mainstay.tasks.celery.statuses import database_of

if TYPE_CHECKING:
    from mainstay.resources.sqlalchemy.relay import Relays
    from mainstay.tasks.celery.app import App
    from mainstay.tasks.celery.consumer import GuardedConsumer
    from mainstay.tasks.celery.reconciler import Reconciler
    from mainstay.tasks.celery.staleletters import StaleLetters

__all__ = ["WorkerSide", "leave"]

logger = logging.getLogger(__name__)

POOL = "mainstay.tasks.celery.pool:TaskPool"
LOOP_LIMIT_SECONDS = 30.0
_LAST_WORDS_SECONDS = 5.0
_STORE_ATTEMPTS, _STORE_AGAIN_SECONDS = 60, 2.0


class WorkerSide:
    """One application's part in the process that works for it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.consumer: GuardedConsumer | None = None
        self.is_child = False
        self._worker: Any = None
        self._pid = 0
        self._is_connected = False
        self._monitor: Monitor | None = None
        self._backlog: Backlog | None = None
        self._relays: Relays | None = None
        self._reconciler: Reconciler | None = None
        self.held: weakref.WeakSet[Any] = weakref.WeakSet()
        """The requests of what the worker has taken, until they are forgotten."""
        self._stale_letters: StaleLetters | None = None
        self._ignores_hangup = False
        self._is_told_to_stop = False
        self._knows_eviction = False
        # Celery keeps these weakly: they go with the application.
        signals.celeryd_init.connect(self._on_program)
        signals.worker_init.connect(self._on_init)
        signals.setup_logging.connect(self._on_setup_logging)
        signals.worker_process_init.connect(self._on_child)
        signals.worker_process_shutdown.connect(self._on_child_end)
        signals.worker_ready.connect(self._on_ready)
        signals.worker_shutting_down.connect(self._on_shutting_down)
        signals.worker_shutdown.connect(self._on_shutdown)
        signals.task_revoked.connect(self._on_revoked)

    # --- told by the consumer --------------------------------------------------------------

    def beat(self) -> None:
        """The main loop has come round."""
        lifecycle = self._app.service.lifecycle
        lifecycle.pulse("consumer", limit_seconds=LOOP_LIMIT_SECONDS).beat()
        lifecycle.heartbeat()
        self._app.reports.tell_later()
        if self._reconciler is not None:
            self._reconciler.holds([each.id for each in self.held if not each.acknowledged])

    def took(self, marker: str) -> None:
        """The consumer has taken a marker of the reconciler."""
        if self._reconciler is not None:
            self._reconciler.took(marker)

    def connected(self, consumer: GuardedConsumer) -> None:
        """The consumer has a connection."""
        try:
            self._refuse_for(self._eviction())
        except Misconfigured as error:
            leave(error)
        self.consumer = consumer
        self._is_connected = True
        self.beat()

    def connecting(self) -> None:
        """The consumer has none, and tries: that is all it can do, so it is progress."""
        self._is_connected = False
        self.beat()

    def letter_stored(self, headers: object) -> None:
        """The dead letter of a message with those headers, if it has any, is stored."""
        if self._stale_letters is not None and isinstance(headers, Mapping):
            self._stale_letters.stored(headers)

    def store(self, call: Callable[[], object], what: str, attempt: int = 1) -> None:
        """Do *call*, which stores *what*, on the main loop; again while its server is away, for two
        minutes.
        """
        try:
            call()
        except Exception as error:
            if self.consumer is None or attempt == _STORE_ATTEMPTS or not is_outage(error):
                logger.exception("not stored: %s", what)
                return
            again = (call, what, attempt + 1)
            self.consumer.timer.call_after(_STORE_AGAIN_SECONDS, self.store, again)

    @property
    def is_inside(self) -> bool:
        """Is this another process than the worker's own, made by it?"""
        return self._pid not in (0, os.getpid())

    @property
    def is_taking(self) -> bool:
        """Should the worker be taking what waits: connected, and with somebody free?"""
        worker = self._worker
        if not self._is_connected or worker is None or worker.pool is None:
            return False
        if self._app.service.lifecycle.draining.is_set():
            return False
        return len(worker_state.reserved_requests) < int(worker.pool.num_processes or 1)

    # --- Celery's signals ------------------------------------------------------------------

    def _on_program(self, instance: Any = None, **_: Any) -> None:
        if instance is not None and instance.app is self._app:
            self._app.service.logs.install()
            _speak_in_lines(instance)
            name, _at, host = instance.hostname.partition("@")
            if name == NODENAME_DEFAULT:
                # RabbitMQ gives the queue of a name's remote control to one worker alone, so two
                # of one name on a machine would keep each other out.
                instance.hostname = f"{self._app.service.name}-{os.getpid()}@{host}"

    def _on_init(self, sender: Any = None, **_: Any) -> None:
        if sender is None or sender.app is not self._app:
            return
        self._worker, self._pid = sender, os.getpid()
        self._ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # nohup's doing
        service, settings = self._app.service, self._app.service.settings
        service.resource(Broker).optional = False  # without it there is nothing to do here
        forks.guard()
        try:
            failpoints.arm_from_environment(is_allowed=settings.is_dev)  # the children's too
            self._refuse()
            if profiles.is_prefork(sender.pool_cls):
                sender.pool_cls = POOL
            self._import_ahead()
            _keep_what_is_imported()
            if settings.metrics_enabled:
                processes.prepare_for_children()
            self._monitor = Monitor(service, settings.host, settings.metrics_port)
        except Misconfigured as error:
            leave(error)
        self.beat()

    def _on_setup_logging(self, **_: Any) -> None:
        if not self._is_current():
            return
        self._app.service.logs.install()
        if self._app.service.settings.is_dev:
            # A container of a developer's runs as root; the warning is for everywhere else.
            warnings.filterwarnings("ignore", category=SecurityWarning)
        # Without a handler of its own, and without ours, it writes to the terminal by itself.
        pool = billiard.util.get_logger()
        pool.propagate = True
        pool.setLevel(logging.WARNING)
        for name in ("celery.app.trace", "celery.worker.strategy", "celery.worker.request"):
            logger = logging.getLogger(name)
            if _is_news not in logger.filters:
                logger.addFilter(_is_news)
        # Their lines about each task that goes well would be made only to be dropped.
        for name in ("celery.app.trace", "celery.worker.strategy"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def _on_child_end(self, **_: Any) -> None:
        if self.is_child:  # it ends without what Python does at the end of a process
            self._app.service.logs.close()

    def _on_child(self, **_: Any) -> None:
        if not self._is_current() or self._pid == os.getpid():
            return  # the pool `solo` says so of the worker itself
        if self._pid not in (0, os.getppid()):
            os._exit(0)  # the parent was killed before this child had asked to be killed with it
        self.is_child = True
        if self._monitor is not None:
            self._monitor.forget()
        self._monitor = self._backlog = self._reconciler = None
        self._app.service.forked()

    def _on_ready(self, sender: Any = None, **_: Any) -> None:
        if sender is None or sender.app is not self._app:
            return
        self._stop_on_hangup()
        service = self._app.service
        queues = sorted(self._app.amqp.queues.consume_from)
        self._backlog = Backlog(self._app, queues, depths_of(self._app.conf.broker_url))
        service.metrics.on_scrape(self._backlog.show)
        service.start("worker")
        self._backlog.start()
        self._start_relays()
        self._start_reconciler()
        self._start_stale_letters()

    def _on_shutting_down(self, **_: Any) -> None:
        if self._worker is None or os.getpid() != self._pid:
            return
        self._is_told_to_stop = True
        # In a signal handler: whatever waits for a lock goes to a thread.
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _on_shutdown(self, sender: Any = None, **_: Any) -> None:
        if sender is None or sender is not self._worker:
            return
        service = self._app.service
        if self._is_told_to_stop:
            sender.exitcode = 0  # Celery calls a stop by Ctrl-C a failure
        if sender.exitcode:
            service.logs.write(
                "critical",
                "mainstay",
                f"the worker leaves with exit code {sender.exitcode}",
                event="crashed",
                exit_code=sender.exitcode,
            )
        if self._backlog is not None:
            self._backlog.close()
        if self._relays is not None:
            self._relays.close()
        if self._reconciler is not None:
            self._reconciler.close()
        if self._stale_letters is not None:
            self._stale_letters.close()
        self._app.reports.tell_later()
        service.stop()
        if self._monitor is not None:
            self._monitor.close()

    def _on_revoked(
        self, sender: Any = None, request: Any = None, expired: bool = False, **_: Any
    ) -> None:
        # What has expired is a dead letter, and reported as one.
        if getattr(sender, "app", None) is self._app and not expired:
            self._app.reports.revoked(request.id, name=sender.name)

    # --- what they lead to -----------------------------------------------------------------

    def _refuse(self) -> None:
        app = self._app
        profiles.check(profiles.unusable_pool(self._worker.pool_cls))
        problems = profiles.refusals(app.conf, app.task_queues)
        problems += profiles.pool_refusals(self._worker.pool_cls)
        declared = {queue.name: queue for queue in app.task_queues}
        database = database_of(app.service)
        idle_seconds = None
        if database is not None and database.is_named:
            idle_seconds = database.idle_in_transaction_seconds
        for name, task in sorted(app.tasks.items()):
            if not name.startswith("celery."):
                queue_name = app.queue_of(name, {})
                queue = declared.get(queue_name) or TaskQueue(name=queue_name)
                problems += profiles.task_refusals(
                    name, task, app.conf, queue, idle_seconds=idle_seconds
                )
        problems += self._eviction()
        self._refuse_for(problems)

    def _eviction(self) -> list[str]:
        """Say what is wrong with a Redis that evicts; asked until it has answered once."""
        url = str(self._app.conf.broker_url)
        if self._knows_eviction or transport_of(url) != "redis":
            return []
        try:
            problem = eviction_of(url)
        except Exception:  # noqa: BLE001 - the consumer logs that the broker is away
            return []
        self._knows_eviction = True
        return [] if problem is None else [problem]

    def _refuse_for(self, problems: Sequence[str]) -> None:
        if self._app.service.settings.is_dev:
            for problem in problems:
                self._app.service.logs.write("warning", "mainstay.tasks", problem, event="refusal")
        else:
            profiles.check(problems)

    def _import_ahead(self) -> None:
        """Import what tasks will need before the children are forked, who then have it; connect
        nothing.
        """
        service = self._app.service
        _ = (self._app.reports.store, service.metrics, service.tokens, service.traces)
        database = database_of(service)
        if database is not None and database.is_named:
            import mainstay.resources.sqlalchemy.inbox
            import mainstay.resources.sqlalchemy.relay
            import mainstay.tasks.celery.reconciler  # noqa: F401

            _ = database.engine

    def _stop_on_hangup(self) -> None:
        """Stop when the terminal goes, as other programs do: Celery would start itself again, by a
        command line that is not the one it was started with.
        """
        stop = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if self._ignores_hangup else stop)

    def _start_relays(self) -> None:
        """Relay the outbox, so that a service with a worker needs no further process for it."""
        if database_of(self._app.service) is not None:
            from mainstay.resources.sqlalchemy.relay import Relays

            self._relays = Relays(self._app.service)
            self._relays.start()

    def _start_reconciler(self) -> None:
        """Look for lost tasks, where a database says which there are."""
        app = self._app
        depths = depths_of(app.conf.broker_url)
        if app.lost is None or not app.lost.is_named or depths is None:
            return
        from mainstay.tasks.celery.reconciler import Reconciler

        lost = app.lost
        app.service.metrics.on_scrape(lambda: app.service.metrics.lost(lost.count()))
        self._reconciler = Reconciler(app, app.database, depths)
        self._reconciler.start()

    def _start_stale_letters(self) -> None:
        database = database_of(self._app.service)
        if database is not None and database.is_named:
            from mainstay.tasks.celery.staleletters import StaleLetters

            self._stale_letters = StaleLetters(self._app, database)
            self._stale_letters.start()

    def _drain(self) -> None:
        settings = self._app.service.settings
        ends = time.monotonic() + settings.grace_seconds
        self._app.service.lifecycle.drain()
        time.sleep(max(ends - time.monotonic(), 0))
        # Still here: what is not done goes back to its queue, and is not waited for.
        self._app.service.logs.write(
            "warning",
            "mainstay.tasks",
            "the grace period is over: unfinished tasks go back to their queue",
            event="grace_over",
            tasks=len(worker_state.active_requests),
        )
        os.kill(os.getpid(), signal.SIGQUIT)
        time.sleep(_LAST_WORDS_SECONDS)
        os._exit(0)

    def _is_current(self) -> bool:
        from celery import current_app

        return current_app._get_current_object() is self._app


def _is_news(record: logging.LogRecord) -> bool:
    """Is there no line of ours that says the same, without what the task was given?"""
    return not hasattr(record, "data") and record.msg != "Task handler raised error: %r"


def _speak_in_lines(worker: Any) -> None:
    """Keep Celery's banner and its words on a shutdown, which bypass logging, off the output."""
    worker.quiet = True
    celery_worker.safe_say = lambda *_args, **_kwargs: None


def _keep_what_is_imported() -> None:
    """Take it out of the garbage collector's sight: Celery collects before each fork, and with all
    of it to look through that holds the worker up for half a second, when a child that died is to
    be replaced.
    """
    gc.collect()
    gc.freeze()


def leave(error: Misconfigured) -> NoReturn:
    """End a process that must not start, with what to change."""
    sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    raise SystemExit(error.exit_code) from error
