"""Serve the calls of one queue, until the process is told to stop.

    class DataService:
        def call(self, data): ...

    raise SystemExit(run(service, queue="data_queue", target=DataService()))

What becomes of a call:

==============================  ===================  ==============================================
the handler …                   the caller hears     and the call
==============================  ===================  ==============================================
returns                         the result           is done
raises of the *refuse* family   that error           is done
raises of the *retry* family    that error           is done: whether to try again is the caller's
raises of the *bury* family     `RemoteFailure`      is done: it is an answer like another
raises anything else            `RemoteFailure`      is a dead letter: a bug, kept to be looked at
is not begun at the deadline    (has given up)       is dropped
cannot be told what to do       `Malformed`          is a dead letter
takes the process with it       the next's answer    is given to another, a few times; then it is
                                                     a dead letter
==============================  ===================  ==============================================

Dead letters of ``<queue>`` are in ``<queue>_dlq``. A call may come twice, after a crash between
the effect and the answer or because its caller tries again: `Call.id` tells, and *deduplicate*
is where to ask whether it was done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from mainstay import failpoints
from mainstay.deadletters import reason_of
from mainstay.errors import DeadlineExceeded, MainstayError, Misconfigured, NotConnected
from mainstay.health import Check
from mainstay.monitor import Monitor
from mainstay.pipeline import adrive, drive, stations
from mainstay.rpc import rooms, wire
from mainstay.rpc.depths import Depths
from mainstay.rpc.entry import CallEntry, Deduplicate, Desk, OnEnd, OnStart
from mainstay.rpc.hands import Loop, Threads
from mainstay.rpc.intake import Delivery, Listener, QueueType, Settlement, Terms
from mainstay.rpc.target import Resolver, Target
from mainstay.rpc.wire import Unreadable
from mainstay.service import Service
from mainstay.stop import Stop
from mainstay.texts import text_of

if TYPE_CHECKING:
    from mainstay.config import Settings

__all__ = ["Server", "run"]

PULSE_SECONDS = 10.0
"""The thread that talks to the broker turns at least every second or two."""

_TICK_SECONDS = 0.5


class Server:
    """Takes calls from a queue and answers them, on threads of its own.

    For a process that does nothing else, :func:`run` is all there is to write. A process may hold
    servers of several queues.

    Args:
        service: Whose calls they are.
        queue: Where callers send.
        target: An object with ``call(data)``, or functions by name (a mapping, or `Functions`).
            Plain functions run on threads, ``async`` ones on one event loop.
        concurrency: How many calls are in hand at most, and how many the broker hands out ahead.
        limit_seconds: How long a call may take. An ``async`` handler is stopped then; a plain one
            cannot be, and the process says that it is stuck.
        waiting_limit: How many calls may wait; beyond, callers hear `Overloaded`.
        delivery_limit: How often a call is delivered again whose server did not come to an end
            with it; then it is a dead letter.
        lease_seconds: On Redis, how long after a server's death its calls go to another.
        queue_type: On RabbitMQ. A ``quorum`` queue is on the disks of most nodes before a call
            is delivered; a ``classic`` one is not, loses what waits when its node dies (callers
            hear `Disconnected`), and is two to three times as fast.
        broker_url: The broker; `rabbitmq_url` of the settings by default, else `redis_url`.
        on_start: Told of each call before its handler, in the same thread and context.
        on_end: Told of its outcome afterwards: ``done``, ``refused``, ``retry``, ``failed``,
            ``expired``, ``cancelled``. When one of the two raises, that is logged and the call
            goes on: a record that cannot be written is no reason to refuse work.
        deduplicate: Given each call and its handler; returns the handler's result, or the one of
            the first time. Both are ``async`` where the target is.
    """

    def __init__(
        self,
        service: Service | Settings | type[Settings],
        *,
        queue: str,
        target: Target,
        concurrency: int = 16,
        limit_seconds: float = 60.0,
        waiting_limit: int = 10_000,
        delivery_limit: int = 5,
        lease_seconds: float = 5.0,
        queue_type: QueueType = "quorum",
        broker_url: str | None = None,
        on_start: OnStart | None = None,
        on_end: OnEnd | None = None,
        deduplicate: Deduplicate | None = None,
    ) -> None:
        if not queue or concurrency < 1 or delivery_limit < 1 or waiting_limit < 1:
            raise Misconfigured(
                "a call server needs the name of a queue, and limits of 1 or more: "
                f"queue={queue!r}, concurrency={concurrency}, waiting_limit={waiting_limit}, "
                f"delivery_limit={delivery_limit}"
            )
        self.service = Service.of(service)
        self.queue = queue
        self._resolve = Resolver(target, queue)
        self._desk = Desk(
            self.service, queue, self._resolve, limit_seconds, on_start, on_end, deduplicate
        )
        self._url = rooms.broker_url(self.service.settings, broker_url)
        self._pulse_name = f"calls:{queue}"
        self._is_draining = False
        self._threads: Threads | None = None
        self._loop: Loop | None = None
        self._intake = rooms.intake(
            self._url,
            Terms(
                queue,
                concurrency,
                waiting_limit,
                delivery_limit,
                limit_seconds,
                lease_seconds,
                queue_type,
            ),
            Listener(
                take=self._take,
                buried=self._count_buried,
                note=self._tell,
                pulse=self.service.lifecycle.pulse(self._pulse_name, limit_seconds=PULSE_SECONDS),
            ),
        )

    def start(self) -> None:
        """Begin to connect and to take calls; returns at once."""
        if self._resolve.has_blocking:
            self._threads = Threads(self._intake.terms.capacity, self._work)
        if self._resolve.has_async:
            self._loop = Loop(self._awork)
        depths = Depths(self.service, lambda: self._url)
        self.service.metrics.on_scrape(lambda: self._show(depths))
        self.service.health.add(Check(self._pulse_name, self._connected))
        self._intake.start()

    def is_ready(self, timeout_seconds: float = 0.0) -> bool:
        """Does it take calls? Waits for that, *timeout_seconds* at most."""
        return self._intake.is_up.wait(timeout_seconds)

    @property
    def in_hand(self) -> int:
        """How many calls are being done."""
        return self._intake.in_hand

    def drain(self, grace_seconds: float, *, is_hurried: Callable[[], bool] | None = None) -> None:
        """Stop taking calls, finish what is in hand, give back the rest, and disconnect.

        Args:
            grace_seconds: How long what is in hand may take.
            is_hurried: Asked while waiting; once it says so, nothing is waited for any more.
        """
        self._is_draining = True
        self._intake.stop_taking()
        until = time.monotonic() + grace_seconds
        while self._intake.in_hand and time.monotonic() < until:
            if is_hurried is not None and is_hurried():
                break
            time.sleep(0.01)
        self._intake.give_back_rest()
        self._intake.close()
        if self._threads is not None:
            self._threads.close()
        if self._loop is not None:
            self._loop.close()
        self.service.lifecycle.end_pulse(self._pulse_name)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain(self.service.settings.grace_seconds)

    # One call.

    def _take(self, delivery: Delivery) -> None:
        if self._is_draining:
            self._intake.settle(delivery, Settlement(give_back=True))
        elif self._loop is not None and self._resolve.is_async(delivery.function):
            self._loop.give(delivery)
        elif self._threads is not None:
            self._threads.give(delivery)
        elif self._loop is not None:  # an unknown function: anybody can say so
            self._loop.give(delivery)

    def _work(self, delivery: Delivery) -> None:
        if not self._intake.holds(delivery):
            return  # its connection broke: the broker has given it to somebody else
        try:
            failpoints.reach("rpc.before_work")
            entry = self._entry(delivery)
            answer: bytes = drive(stations(entry, self.service))
            settlement = Settlement(answer)
            failpoints.reach("rpc.before_reply")
        except BaseException as error:  # noqa: BLE001 - the one place that decides
            settlement = self._failed(delivery, error)
        self._intake.settle(delivery, settlement)

    async def _awork(self, delivery: Delivery) -> None:
        if not self._intake.holds(delivery):
            return
        try:
            failpoints.reach("rpc.before_work")
            entry = self._entry(delivery)
            answer: bytes = await adrive(stations(entry, self.service))
            settlement = Settlement(answer)
            failpoints.reach("rpc.before_reply")
        except BaseException as error:  # noqa: BLE001 - the one place that decides
            settlement = self._failed(delivery, error)
        self._intake.settle(delivery, settlement)

    def _entry(self, delivery: Delivery) -> CallEntry:
        if delivery.deliveries > 1:
            self.service.metrics.redelivered()
        if delivery.flaw:
            raise Unreadable("decode:Shape", delivery.flaw)
        limit = self.service.settings.body_limit_bytes
        data = wire.decode_request(delivery.body, limit_bytes=limit)
        return CallEntry(self._desk, delivery, data)

    def _failed(self, delivery: Delivery, error: BaseException) -> Settlement:
        """Decide what becomes of a call that did not end well; never raises."""
        try:
            return self._decided(delivery, error)
        except Exception as flaw:  # noqa: BLE001 - an author's own error may raise when it is asked
            self.service.logs.write(
                "error",
                "mainstay.rpc",
                f"the error of the call {delivery.id} cannot be told",
                event="call_error_unreadable",
                queue=self.queue,
                error=flaw,
            )
            reason = f"failed:{type(error).__name__}"
            letter = delivery.letter(self.queue, reason=reason)
            return Settlement(wire.encode_unforeseen(error), letter)

    def _decided(self, delivery: Delivery, error: BaseException) -> Settlement:
        if not self._intake.holds(delivery):
            return Settlement(give_back=True)  # it was given back while it was being done
        if isinstance(error, DeadlineExceeded) and delivery.has_expired:
            return Settlement()
        answer = wire.encode_error(error)
        if isinstance(error, Unreadable):
            reason = error.reason
        elif isinstance(error, MainstayError):
            return Settlement(answer)
        else:
            reason = reason_of(error)
        detail = self.service.logs.redaction.text(text_of(error))[:1000]
        return Settlement(answer, delivery.letter(self.queue, reason=reason, detail=detail))

    # What others ask.

    def _connected(self) -> None:
        if not self._intake.is_up.is_set() and not self._is_draining:
            raise NotConnected(f"{self.queue!r} is not being served: the broker does not answer")

    def _count_buried(self, id: str, reason: str) -> None:
        self.service.metrics.dead_letter(self.queue)
        self._tell(
            "warning",
            f"the call {id} is among the dead letters: {reason}",
            "call_dead_lettered",
        )

    def _show(self, depths: Depths) -> None:
        found = depths.of(self.queue)
        queue, dead = found["queue"], found["dead_letters"]
        if queue is not None:
            self.service.metrics.queue(
                self.queue,
                states={
                    "ready": queue["messages_ready"],
                    "unacknowledged": queue["messages_unacknowledged"],
                },
                oldest_seconds=rooms.oldest_seconds(self._url, self.queue),
                dead_letters=None if dead is None else dead["messages"],
            )

    def _tell(self, level: str, message: str, event: str = "calls_connection") -> None:
        self.service.logs.write(level, "mainstay.rpc", message, event=event, queue=self.queue)


def run(
    service: Service | Settings | type[Settings],
    *,
    queue: str,
    target: Target,
    concurrency: int = 16,
    limit_seconds: float = 60.0,
    waiting_limit: int = 10_000,
    delivery_limit: int = 5,
    lease_seconds: float = 5.0,
    queue_type: QueueType = "quorum",
    broker_url: str | None = None,
    on_start: OnStart | None = None,
    on_end: OnEnd | None = None,
    deduplicate: Deduplicate | None = None,
    monitored: bool = True,
) -> int:
    """Serve the calls of *queue* until SIGTERM or SIGINT; return the exit code, 0.

    What is in hand then is finished within `grace_seconds`, the rest is given back; a second
    signal gives it back at once. A broker that goes away is waited for, as long as it takes.

    Args:
        monitored: Answer `/metrics` and the health routes on `metrics_port`.

    The other arguments are those of :class:`Server`.
    """
    service = Service.of(service)
    server = Server(
        service,
        queue=queue,
        target=target,
        concurrency=concurrency,
        limit_seconds=limit_seconds,
        waiting_limit=waiting_limit,
        delivery_limit=delivery_limit,
        lease_seconds=lease_seconds,
        queue_type=queue_type,
        broker_url=broker_url,
        on_start=on_start,
        on_end=on_end,
        deduplicate=deduplicate,
    )
    with Stop() as stop:
        settings = service.settings
        monitor = Monitor(service, settings.host, settings.metrics_port) if monitored else None
        server.start()
        service.start(f"the server of {queue}")
        while not service.lifecycle.draining.is_set() and not stop.wait(_TICK_SECONDS):
            service.lifecycle.heartbeat()
        service.lifecycle.drain()
        server.drain(settings.grace_seconds, is_hurried=lambda: stop.wait(0.0))
        if monitor is not None:
            monitor.close()
        service.stop()
    return 0
