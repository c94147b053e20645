"""The worker's consumer, with a guard before Celery's own strategy.

No message can stop the worker, jam it or vanish: what Celery cannot take becomes a dead letter
with its reason. `Consumer.create_task_handler` is the one method used here that Celery does not
document; a contract test holds it for every supported version, and another one what
`watch_again` knows of a child.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.app.task import Context
from celery.exceptions import NotRegistered
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from kombu.utils.functional import retry_over_time
from typing_extensions import override

from mainstay.config.urls import mask
from mainstay.errors import Bury
from mainstay.tasks.celery import compression
from mainstay.tasks.celery.guard import DEPTH_LIMIT, Limits, Surprise, surprise, undecodable
from mainstay.tasks.celery.letters import DELIVERIES, note, on_stored, text_of_header, was_stored
from mainstay.tasks.celery.profiles import transport_of, without_confirms
from mainstay.tasks.celery.sending import MARKER
from mainstay.texts import tls_reason

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = ["GuardedConsumer", "Recent", "watch_again"]

logger = logging.getLogger(__name__)

# What Celery puts around the arguments, which are what the sender has measured.
_ENVELOPE_BYTES = 65_536
# An unforeseen error may have left something reserved: one may be chance, two soon after one
# another are not.
_UNFORESEEN_LIMIT = 2
_UNFORESEEN_WINDOW_SECONDS = 600.0
_BEAT_SECONDS = 1.0
_RECONNECT_SECONDS = 0.5
_RECONNECT_MOST_SECONDS = 2.0
_EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


class Recent:
    """Says when something has happened *limit* times within *window_seconds*."""

    def __init__(self, limit: int, *, window_seconds: float) -> None:
        self._last: deque[float] = deque(maxlen=limit)
        self._window_seconds = window_seconds

    def note(self, now: float) -> bool:
        """It has happened, *now*; says whether that was once too often."""
        self._last.append(now)
        is_full = len(self._last) == self._last.maxlen
        return is_full and now - self._last[0] < self._window_seconds


def watch_again(pool: Any) -> None:
    """Have the children of *pool* watched whose end was noticed before it could be collected.

    Celery forgets what it watched of such a child, and after a reconnect registers nothing for it,
    an error that ends the worker.
    """
    for child in getattr(getattr(pool, "_pool", None), "_pool", ()):
        if getattr(child, "_sentinel_poll", 0) is None:
            del child._sentinel_poll


def _after_it(message: Any) -> dict[str, Any]:
    """Return what comes after a task, as far as its body can be read."""
    try:
        _args, _kwargs, embedded = message.payload
        return {name: embedded.get(name) for name in ("chord", "chain", "errbacks")}
    except Exception:  # noqa: BLE001 - that may be what it died of
        return {}


class GuardedConsumer(Consumer):
    """Celery's consumer; ``worker_consumer`` names it."""

    app: App
    connection: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unforeseen = Recent(_UNFORESEEN_LIMIT, window_seconds=_UNFORESEEN_WINDOW_SECONDS)
        super().__init__(*args, **kwargs)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        take: Callable[[Any], None] = super().create_task_handler(*args, **kwargs)
        watch_again(self.pool)  # here, because the pool registers its children next
        settings = self.app.service.settings
        most = settings.body_limit_bytes + _ENVELOPE_BYTES
        compression.bound(most)
        limits = cache(partial(Limits, most, DEPTH_LIMIT))
        # KeyError is among kombu's connection errors on Redis, and among a message's surprises.
        broken = tuple(kind for kind in self.connection_errors if kind is not KeyError)

        def on_message(message: Any) -> None:
            if self._marked(message) or self._counted(message):
                return
            deliveries = self.app.delivery_limit_of(self.queue_of(message))
            try:
                found = surprise(message, limits(deliveries))
                if found is None:
                    if message.headers.get(DELIVERIES):
                        self.app.service.metrics.redelivered()
                    take(message)
                    return
            except broken:  # the broker's trouble is Celery's
                raise
            except Exception as error:
                logger.exception("a message was not foreseen by the guard")
                found = Surprise(f"refused:{type(error).__name__}", str(error)[:500])
                self._note_unforeseen()
            self.bury(message, found)

        return on_message

    def _marked(self, message: Any) -> bool:
        """Take a marker of the reconciler; says whether it is one."""
        marker = message.headers.get(MARKER) if isinstance(message.headers, dict) else None
        if not isinstance(marker, str):
            return False
        self.app.worker.took(marker)
        message.ack_log_error(logger, self.connection_errors)
        return True

    def _counted(self, message: Any) -> bool:
        """Count a delivery where RabbitMQ does not: a classic queue only says that there was one.
        Says whether the message comes again, with its number.
        """
        if not message.delivery_info.get("redelivered"):
            return False
        queue = self.queue_of(message)
        if not self.app.is_uncounted(queue) or not self.app.undertaker.put_back(message, queue):
            return False
        message.ack_log_error(logger, self.connection_errors)
        return True

    def bury(self, message: Any, found: Surprise) -> None:
        """Put *message* among the dead letters of its queue."""
        queue = self.queue_of(message)
        note(message, found.reason, found.detail)
        if not self.settle(message, queue):
            return  # it comes again
        headers = message.headers if isinstance(message.headers, dict) else {}
        id, name = headers.get("id"), text_of_header(headers.get("task"))
        self.app.service.logs.write(
            "error",
            "mainstay.tasks",
            f"a message of {queue} is dead: {found.reason}",
            event="dead_letter",
            queue=queue,
            name=name,
            reason=found.reason,
            detail=found.detail,
            task_id=id if isinstance(id, str) else "",
        )
        if isinstance(id, str) and 0 < len(id) <= 255:
            self.app.reports.died(id, found.reason, found.detail, name=name, queue=queue)
            self._fail_result(message, id, found)

    def _fail_result(self, message: Any, id: str, found: Surprise) -> None:
        """Have those hear of it who wait for the result, and the chord that the task is a part of.

        A task that a worker has begun does this itself; this one was never begun.
        """
        backend = self.app.backend
        headers = message.headers if isinstance(message.headers, dict) else {}
        request = Context(headers, **_after_it(message))
        told = {"request": request, "store_result": not headers.get("ignore_result")}
        if found.reason == "expired":
            mark = partial(backend.mark_as_revoked, id, "expired", **told)
        elif found.reason == "unknown-task":
            error: Exception = NotRegistered(str(headers.get("task")))
            mark = partial(backend.mark_as_failure, id, error, **told)
        else:
            error = Bury(f"{found.reason}: {found.detail}")
            mark = partial(backend.mark_as_failure, id, error, **told)
        self.app.worker.store(mark, f"the result of task {id} ({found.reason})")

    def settle(self, message: Any, queue: str) -> bool:
        """Let go of *message*, whose reason was noted; its dead letter is stored first. Says
        whether it was.
        """
        stored: list[bool] = []
        on_stored(message, lambda: stored.append(True))
        if transport_of(self.app.conf.broker_url) == "redis":
            message.reject_log_error(logger, self.connection_errors)
        elif self.app.undertaker.copy(message, queue):
            was_stored(message)
            message.ack_log_error(logger, self.connection_errors)
        else:
            message.reject_log_error(logger, self.connection_errors)
            if message.acknowledged:
                was_stored(message)  # by the broker
        if stored:
            self.app.service.metrics.dead_letter(queue)
            self.app.worker.letter_stored(message.headers)
        return bool(stored)

    def queue_of(self, message: Any) -> str:
        """Return the name of the queue that *message* came from."""
        info = message.delivery_info
        tag = info.get("consumer_tag")
        for queue, its_tag in getattr(self.task_consumer, "_active_tags", {}).items():
            if its_tag == tag:
                return str(queue)
        taken = getattr(message, "_raw", None)
        return str(getattr(taken, "queue", "") or info.get("routing_key") or "unknown")

    @override
    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        # The consumer of remote control shares this method; it acknowledges nothing, and to
        # reject its messages would close the channel.
        if message.delivery_info.get("consumer_tag") in (message.channel.no_ack_consumers or ()):
            return
        self.bury(message, undecodable(exc))

    @override
    def on_unknown_message(self, body: Any, message: Any) -> None:
        self.bury(message, Surprise("malformed:headers", "it is no task"))

    @override
    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        name = message.headers.get("task", "")
        self.bury(
            message,
            Surprise("unknown-task", f"no task is called {name!r} here: is its module imported?"),
        )
        signals.task_unknown.send(
            sender=self, message=message, exc=exc, name=name, id=message.headers.get("id")
        )

    @override
    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        self.bury(message, Surprise("malformed:task", str(exc)[:500]))
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    @override
    def shutdown(self) -> None:
        if self.connection is None:
            # It was lost before. Celery asks it which errors do not matter while its channels are
            # closed, and so would end with another.
            self.connection = self.app.connection_for_read()
        super().shutdown()

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.call_repeatedly(_BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self.app.worker.beat()
        self._hold_leases()
        # Celery looks every five seconds for children that died without a sign.
        maintain = getattr(self.pool, "maintain_pool", None)
        if maintain is not None:
            maintain()

    def _hold_leases(self) -> None:
        # kombu's own timer passes over a channel that takes nothing more; a worker that is asked
        # to end takes nothing more, and still works on what it has.
        connection = self.connection
        if transport_of(self.app.conf.broker_url) != "redis" or connection is None:
            return
        is_draining = self.app.service.lifecycle.draining.is_set()
        for channel in list(connection.transport.channels or ()):
            if not is_draining:
                channel.verify()  # raises what Celery takes for a lost connection
            try:
                channel.renew()
            except self.connection_errors as error:
                logger.warning(
                    "the lease of this worker's tasks was not renewed: %s", type(error).__name__
                )

    @override
    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        # For events, which nobody waits for: a confirm that an alarm of RabbitMQ holds back would
        # hold up the loop.
        options = without_confirms(transport_of(self.app.conf.broker_url))
        return self.ensure_connected(
            self.app.connection_for_write(url, heartbeat=heartbeat, transport_options=options)
        )

    @override
    def ensure_connected(self, conn: Any) -> Any:
        """As Celery's, but soon again, and without a word missing from `/healthz` meanwhile."""
        worker = self.app.worker
        worker.connecting()

        def keep_trying() -> None:
            worker.connecting()
            worker_state.maybe_shutdown()

        def tell(error: BaseException, interval: float) -> None:
            worker.connecting()
            logger.error(
                "the broker %s cannot be reached (%s)%s; trying again in %.1f s",
                mask(str(self.app.conf.broker_url)),
                getattr(error, "reply_text", None) or type(error).__name__,
                tls_reason(error) or ": is it up, and is CELERY_BROKER_URL right?",
                interval,
            )

        def tell_refusal(error: BaseException, intervals: Iterator[float], _tries: int) -> float:
            interval = next(intervals)
            tell(error, interval)
            return interval

        pauses = {
            "interval_start": _RECONNECT_SECONDS,
            "interval_step": _RECONNECT_SECONDS,
            "interval_max": _RECONNECT_MOST_SECONDS,
            "callback": keep_trying,
        }
        # A broker that answers, and lets nobody in by this name or password, ends kombu's own
        # attempts; Celery would then begin anew at once, dozens of times a second.
        conn = retry_over_time(
            conn.ensure_connection,
            (*conn.connection_errors, *conn.channel_errors),
            kwargs={"errback": tell, **pauses},
            errback=tell_refusal,
            **pauses,
        )
        self.first_connection_attempt = False
        worker.connected(self)
        return conn

    def _note_unforeseen(self) -> None:
        if self._unforeseen.note(time.monotonic()):
            logger.critical("leaving: more than one message was not foreseen by the guard")
            worker_state.should_stop = _EXIT_CODE
