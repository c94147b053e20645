"""How is a task handed to the broker, so that the sender knows what became of it?

Within two seconds: accepted, or one of the errors that say what is known. A connection that a
restarted broker has closed is replaced and the task is sent again under the same id; whatever
else is unclear is the sender's to decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import amqp
import amqp.serialization
from amqp.exceptions import MessageNacked
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601
from kombu.exceptions import EncodeError, LimitExceeded
from kombu.utils.json import dumps

from mainstay import context as contexts
from mainstay.errors import (
    Disconnected,
    Invalid,
    MainstayError,
    Misconfigured,
    NoRoute,
    NotConnected,
    Overloaded,
    TooLarge,
    Unconfirmed,
)
from mainstay.resources.amqp.alarms import ALARM_MESSAGE
from mainstay.tasks.celery.alarms import Blocked, sending, watch
from mainstay.tasks.celery.guard import depth_limit_of, depth_of
from mainstay.tasks.celery.profiles import DELAY_LIMIT_SECONDS, HEARTBEAT_SECONDS, unreadable
from mainstay.texts import causes, tls_reason

if TYPE_CHECKING:
    from mainstay.tasks.celery.app import App

__all__ = [
    "MARKER",
    "abandon",
    "check_body",
    "check_options",
    "check_settings",
    "context_headers",
    "delay_seconds",
    "due_too_late",
    "keep_results_of_canvas",
    "publish",
    "publish_with",
    "translated",
]

T = TypeVar("T")

SEND_TIMEOUT_SECONDS = 2.0
SENT_AT = "x-mainstay-sent-at"
MARKER = "x-mainstay-marker"
"""The header of a marker of the reconciler: its id."""
_NO_ROUTE = 312
_NOT_FOUND = 404
_PRECONDITION_FAILED = 406
_GOODBYE_SECONDS = 0.1
# Nobody sends heartbeats on a connection between two tasks: the broker closes it after two
# intervals of them, and what is sent on it then may be stored or not.
_IDLE_SECONDS = float(HEARTBEAT_SECONDS)
_USED_AT = "mainstay_used_at"
# A queue of which this process knows nothing yet may refuse because another connection is still
# declaring it (RabbitMQ, quorum queues): send again for so long, with such pauses.
_YOUNG_SECONDS, _YOUNG_PAUSE_SECONDS = 0.5, 0.1
# What is certainly small is not encoded a second time only to be measured.
_CERTAINLY_SMALL = 8


def context_headers() -> dict[str, str]:
    """Return the headers that carry the work at hand to the worker.

    The deadline stays behind: it is the caller's, who does not wait for the task.
    """
    headers = (contexts.current() or contexts.Context.new()).inject()
    headers.pop(contexts.TIMEOUT_SECONDS, None)
    headers[SENT_AT] = f"{time.time():.3f}"
    return headers


def delay_seconds(countdown: float | None, eta: Any) -> float:
    """Return in how many seconds a task is due; 0 for one that is due at once."""
    if eta is not None:
        moment = maybe_iso8601(eta)
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        countdown = (aware - datetime.now(UTC)).total_seconds()
    return max(countdown or 0.0, 0.0)


def due_too_late(name: str, seconds: float) -> Invalid:
    """Return what is raised for a task that no broker should keep until it is due."""
    return Invalid(
        f"{name} is due in {seconds:.0f} s; a broker keeps a task for {DELAY_LIMIT_SECONDS:.0f} s "
        "at most, and what is due later waits in the service's database: give it one, "
        "Service(settings, Database(…))"
    )


def check_body(name: str, body: object, limit_bytes: int) -> None:
    """Refuse what no worker would take.

    Raises:
        TooLarge: It has more bytes, or more levels, than a worker accepts.
    """
    depth = depth_limit_of(name)
    if depth_of(body, depth - 1) is None:
        raise TooLarge(f"the arguments of {name} are nested more than {depth} levels deep")
    if _characters(body, limit_bytes) * _CERTAINLY_SMALL < limit_bytes:
        return
    try:
        size = len(dumps(body))
    except Exception:  # noqa: BLE001 - the encoder says so itself, in its own words, when it is sent
        return
    if size > limit_bytes:
        raise TooLarge(
            f"the arguments of {name} are {size} bytes of JSON, {limit_bytes} are accepted: store "
            "them and send where they are"
        )


def check_settings(name: str, conf: Mapping[str, Any]) -> None:
    """Refuse to send what no worker reads because of an application's settings.

    Raises:
        Misconfigured: There is such a setting.
    """
    if problems := unreadable(conf):
        raise Misconfigured(f"{name} was not sent: {'; '.join(problems)}")


def check_options(
    name: str, headers: Mapping[str, Any], options: Mapping[str, Any], transport: str
) -> None:
    """Refuse options that no worker, or no broker, would understand.

    Raises:
        Invalid: One of them, with what to change.
    """
    serializer = options.get("serializer")
    if serializer not in (None, "json"):
        raise Invalid(
            f"{name} was not sent: no worker reads what the serializer {serializer!r} writes: "
            "leave it out, and send JSON"
        )
    for option in ("link", "link_error"):
        for each in maybe_list(options.get(option)) or ():
            if not isinstance(each, Mapping) or "task" not in each:
                raise Invalid(
                    f"{name} was not sent: {option} takes signatures, such as task.s(…), and not "
                    f"{type(each).__name__}"
                )
    try:
        if transport == "amqp":
            amqp.serialization.dumps("F", [headers])
        else:
            dumps(headers)
    except Exception as error:
        raise Invalid(f"{name} was not sent: its headers cannot be written: {error}") from error


def keep_results_of_canvas(options: dict[str, Any], *, is_default: bool) -> None:
    """Have the result of a task kept when Celery's canvas needs it: a chord asks the result backend
    for those of its members, and whoever has sent a canvas may ask for that of its end.

    Args:
        options: What the task is sent with.
        is_default: Nobody has said of this task whether its results are ignored.
    """
    is_undecided = is_default and options.get("ignore_result") is None
    # Nothing says so of a chord's body or the last of a chain, but that Celery has given each part
    # of a canvas its id before any was sent, and an address for its answer with that.
    is_part = options.get("group_id") or options.get("reply_to")
    if options.get("chord") or (is_undecided and is_part):
        options["ignore_result"] = False


def publish(app: App, name: str, send: Callable[[Any], T]) -> T:
    """Call *send* with a producer that is connected; again with another when it was not, or when a
    queue refuses that may still be being made.

    Raises:
        NotConnected: The broker cannot be reached: nothing was sent.
        NoRoute: No queue took it: nothing was stored.
        Overloaded: The queue is full, or every connection of this process is busy.
        Unconfirmed: No confirm came in time: it may be stored or not.
        Disconnected: The connection broke: it may be stored or not.
    """
    began = time.monotonic()
    broken: Disconnected | None = None
    while True:
        try:
            sent = _publish_once(app, name, send)
        except Disconnected as error:
            if time.monotonic() >= began + SEND_TIMEOUT_SECONDS:
                raise
            broken = error
        except (NotConnected, NoRoute, Overloaded) as error:
            # Certain of this try alone: an earlier one may be stored.
            if broken is not None:
                raise broken from error
            if not isinstance(error, Overloaded) or name in app.known:
                raise
            if time.monotonic() >= began + _YOUNG_SECONDS or not _is_nacked(error):
                app.known.add(name)
                raise
            time.sleep(_YOUNG_PAUSE_SECONDS)
        else:
            app.known.add(name)
            return sent


def publish_with(
    producer: Any, name: str, send: Callable[[Any], T], *, is_pooled: bool = False
) -> T:
    """Call *send* with the caller's *producer*, as Celery does for each member of a group.

    Args:
        producer: The caller's, or ``None`` where the connection is given in another way.
        is_pooled: It was taken from the pool for this task alone.

    Raises:
        NotConnected, NoRoute, Overloaded, Unconfirmed, Disconnected: As :func:`publish`.
    """
    try:
        if producer is None:
            return send(None)
        try:
            _connect(producer, name, is_pooled=is_pooled)
            with sending():
                sent = send(producer)
            _note_use(producer)
            return sent
        except BaseException:
            abandon(producer)
            raise
    except MainstayError:
        raise
    except Exception as error:
        answer = translated(error, name)
        if answer is None:
            raise
        raise answer from error


def translated(error: BaseException, name: str) -> MainstayError | None:
    """Return what a sender is told for *error* of a client library; ``None`` for any other."""
    for each in causes(error):
        code = getattr(each, "reply_code", None)
        if isinstance(each, Blocked):
            return Unconfirmed(f"{ALARM_MESSAGE}: {name} may be stored or not")
        if isinstance(each, MessageNacked):
            return Overloaded(f"{name} was not sent: its queue takes no more messages")
        if code in (_NO_ROUTE, _NOT_FOUND):
            return NoRoute(f"{name} was not sent: no queue takes it")
        if code == _PRECONDITION_FAILED:
            return Misconfigured(
                f"{name} was not sent: its queue is declared otherwise on the broker: delete that "
                "queue when it is empty, or declare it in the code as it is there"
            )
        if _is_of_redis(each, "OutOfMemoryError"):
            return Overloaded(f"{name} was not sent: Redis has no memory left")
        if isinstance(each, TimeoutError) or _is_of_redis(each, "TimeoutError"):
            return Unconfirmed(
                f"the broker did not confirm {name} within {SEND_TIMEOUT_SECONDS:g} s: it may be "
                "stored or not"
            )
        if _is_of_redis(each, "ResponseError"):
            if str(each).startswith("WRONGTYPE"):
                return NoRoute(f"{name} was not sent: what Redis has of its queue's name is none")
            return NotConnected(f"{name} was not sent: Redis takes no writes now")
        if isinstance(each, amqp.AMQPError | OSError) or _is_of_redis(each, "RedisError"):
            return Disconnected(
                f"the connection to the broker broke while {name} was sent: it may be stored or not"
            )
    return None


def _publish_once(app: App, name: str, send: Callable[[Any], T]) -> T:
    try:
        with app.producer_pool.acquire(block=True, timeout=SEND_TIMEOUT_SECONDS) as producer:
            return publish_with(producer, name, send, is_pooled=True)
    except LimitExceeded as error:
        raise Overloaded(
            f"{name} was not sent: every connection of this process is busy"
        ) from error


def _is_nacked(error: BaseException) -> bool:
    return any(isinstance(one, MessageNacked) for one in causes(error))


def _connect(producer: Any, name: str, *, is_pooled: bool) -> None:
    try:
        connection = producer.connection
        used_at = getattr(connection, _USED_AT, None)
        is_idle = used_at is not None and time.monotonic() - used_at > _IDLE_SECONDS
        if is_pooled and is_idle:  # others may use the connection of a sender's own
            abandon(producer)
            producer.revive(connection)
        producer.channel  # noqa: B018 - a pooled producer connects when its channel is asked for
        watch(connection)
    except Exception as error:
        if isinstance(error, EncodeError) or translated(error, name) is None:
            raise
        hint = tls_reason(error) or ": is it up, and does CELERY_BROKER_URL name it?"
        raise NotConnected(f"{name} was not sent: the broker cannot be reached{hint}") from error


def _note_use(producer: Any) -> None:
    if producer.connection is not None:
        setattr(producer.connection, _USED_AT, time.monotonic())


def abandon(producer: Any) -> None:
    """Close the connection of *producer* without a word, before its pool does.

    The pool would take leave of the broker, and wait for ever for one that hangs to answer. Nor
    may the connection be used again: a confirm that comes late would count for the next task.
    """
    with suppress(Exception):
        producer.connection.collect(_GOODBYE_SECONDS)


def _is_of_redis(error: BaseException, name: str) -> bool:
    # By name, because what is on RabbitMQ imports no client of Redis: a fifth of a worker's start.
    wanted = f"redis.exceptions.{name}"
    return any(f"{kind.__module__}.{kind.__qualname__}" == wanted for kind in type(error).__mro__)


def _characters(value: object, limit: int) -> int:
    """Count the characters of all text in *value*, eight for anything else; stops at *limit*."""
    total, pending = 0, [value]
    while pending and total <= limit:
        each = pending.pop()
        if isinstance(each, str | bytes):
            total += len(each)
        elif isinstance(each, Mapping):
            pending.extend(each.keys())
            pending.extend(each.values())
        elif isinstance(each, list | tuple | set | frozenset):
            pending.extend(each)
        else:
            total += 8
    return total
