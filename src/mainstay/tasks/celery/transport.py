"""Kombu's Redis transport, changed so that no task is ever in nobody's hands.

Kombu pops a message and registers it as unacknowledged afterwards: a worker killed in between
loses it, and one killed later blocks it for the visibility timeout. Here the server itself moves
a message from the queue (a list) to a *flight* (a list of one consumer and one queue). Every
consumer holds a lease that it renews, by the server's clock. The flights of a consumer whose lease
ended, or that the server has no connection of any more, go back to their queues, each message with
its delivery count raised; the guard of the next worker buries what came back too often.

Keys::

    <queue>                               waiting, the oldest at the right
    <queue>_dlq                           dead letters (a stream)
    mainstay:flight:<consumer>:<queue>    being worked on
    mainstay:flights                      the flights, by when their consumer's lease ends
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from queue import Empty
from typing import Any, ClassVar

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps, loads
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from typing_extensions import override

from mainstay import forks
from mainstay.context import PRINCIPAL_TOKEN
from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.tasks.celery.letters import (
    DELIVERIES,
    OF_ONE_LIFE,
    letter_of,
    minimal_letter_of,
    was_stored,
)

__all__ = ["FLIGHTS", "Channel", "Message", "QoS", "Transport", "requeue"]

logger = logging.getLogger(__name__)

FLIGHTS = "mainstay:flights"
FLIGHT_PREFIX = "mainstay:flight:"
_CLIENT_PREFIX = "mainstay-worker-"
LEASE_SECONDS = 12
WAIT_SECONDS = 1.0
WAIT_SECONDS_OF_MANY = 0.2
_EARLY_LOOKS = 10
_LATER_LOOKS = 3
# A flight whose lease ended is looked at for this long: its consumer may only have been stopped.
_REMEMBERED_MS = 3_600_000

# Every script below that takes a message out of a flight does nothing when it is not there any
# more: the lease had ended, and the message is somebody else's now. A script that fails is not
# rolled back, so what can fail comes before the removal.
_RENEW = """
local now = redis.call('TIME')
local ends = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], ends, ARGV[i]) end
return ends
"""
_TAKE = """
for i = 1, #KEYS, 2 do
  local item = redis.call('LMOVE', KEYS[i], KEYS[i + 1], 'RIGHT', 'LEFT')
  if item then return {KEYS[i], item} end
end
return false
"""
_GIVE_BACK = """
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
redis.call(ARGV[3], KEYS[2], ARGV[2])
redis.call('LREM', KEYS[1], 1, ARGV[1])
return 1
"""
_BURY = """
if not redis.call('LPOS', KEYS[1], ARGV[1]) then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
redis.call('LREM', KEYS[1], 1, ARGV[1])
return 1
"""
_BEHIND_OTHERS = "LPUSH"
_BEFORE_OTHERS = "RPUSH"


class Taken(dict[str, Any]):
    """A message's envelope, the bytes it was read from, and the flight that holds them."""

    item: bytes = b""
    flight: str = ""
    queue: str = ""


class Message(virtual.Message):
    """A message whose envelope may be anything: what cannot be read is an error of the message,
    not of the worker.
    """

    _tags: ClassVar[Any] = count(1)

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            if not isinstance(payload.get("headers"), dict | None):
                raise TypeError("headers are no table")
            super().__init__(payload, channel=channel, **kwargs)
        except Exception:  # noqa: BLE001 - anything can come out of a list that anybody may write
            self.errors = [sys.exc_info()]
            empty = {"properties": {"delivery_tag": "", "delivery_info": {}}}
            super().__init__(empty, channel=channel, **kwargs)
            self._raw = payload
        # Tags that came with messages need not differ; ours do.
        self.delivery_tag = str(next(self._tags))
        if not isinstance(self.delivery_info, dict):
            self.delivery_info = {}
        # As RabbitMQ tells it: a task may ask its request.
        self.delivery_info["redelivered"] = bool(self.headers.get(DELIVERIES))


class QoS(virtual.QoS):
    """Acknowledgement by flights."""

    restore_at_shutdown = True

    def ack(self, delivery_tag: str) -> None:
        message = self._delivered.get(delivery_tag)
        if message is not None:
            with self.channel.settling():
                self.channel.land(message._raw)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        message = self._delivered.get(delivery_tag)
        if message is not None:
            with self.channel.settling():
                if requeue:
                    self.channel.give_back(message._raw, counted=True)
                elif self.channel.bury(message):
                    was_stored(message)
        super().ack(delivery_tag)

    @override
    def restore_unacked(self, client: Any = None) -> None:
        """Give everything back at the end; being stopped is not the message's fault."""
        self._flush()
        for message in list(self._delivered.values()):
            self.channel.give_back(message._raw, counted=False)
        self._delivered.clear()

    @override
    def restore_visible(self, *_args: object, **_kwargs: object) -> None:
        self.channel.renew()
        self.channel.look_around()


class Channel(kombu_redis.Channel):
    """A channel whose messages are always in a queue, in a flight or among the dead letters."""

    QoS: Any = QoS
    Message = Message
    _in_poll: Any
    _brpop_sent_at: Any
    client_name: Any

    lease_seconds: float = LEASE_SECONDS
    from_transport_options: Any = (
        *kombu_redis.Channel.from_transport_options,
        "lease_seconds",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._consumer = os.urandom(8).hex()
        self._flights: dict[str, str] = {}
        self._missed: set[str] = set()
        self._looks = 0
        self._is_in_doubt = False
        self.client_name = _CLIENT_PREFIX + self._consumer
        super().__init__(*args, **kwargs)

    # --- taking ----------------------------------------------------------------------------

    @override
    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        if self._is_asking:
            # The server may have moved a message for the answer that was lost with its connection:
            # it would be in a flight that is renewed for as long as the worker lives.
            self._is_asking = False
            raise redis.ConnectionError("an answer of Redis was lost: what it moved goes back")
        self._is_asking = True
        keys = [self._q_for_pri(queue, pri) for pri in self.priority_steps for queue in queues]
        flights = [self._flight(key) for key in keys]
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = time.monotonic()
        self._asked = keys[0]
        if len(keys) == 1 or self._found_nothing:
            # Blocking is for one key: with several, the turn passes on soon.
            wait = WAIT_SECONDS if len(keys) == 1 else WAIT_SECONDS_OF_MANY
            self._is_blocking = True
            connection.send_command("BLMOVE", keys[0], flights[0], "RIGHT", "LEFT", wait)
            return
        self._is_blocking = False
        pairs = [name for pair in zip(keys, flights, strict=True) for name in pair]
        connection.send_command("EVAL", _TAKE, len(pairs), *pairs)

    _asked = ""
    _is_asking = False
    _is_blocking = False
    _found_nothing = False

    @override
    def _brpop_read(self, **options: Any) -> bool:
        self._is_asking = False
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BLMOVE", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            self._found_nothing = reply is None and not self._is_blocking
            if reply is None:
                if len(self.active_queues) > 1:
                    self._queue_cycle.rotate(self._asked.rsplit(self.sep, 1)[0])
                raise Empty
            key, item = (self._asked.encode(), reply) if self._is_blocking else reply
            key = key.decode()
            queue = key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.connection._deliver(self._open(key, queue, item), queue)
            return True
        finally:
            self._in_poll = None
            if hasattr(self, "_flush_brpop_reauth"):  # since kombu 5.7
                self._flush_brpop_reauth()

    def _open(self, key: str, queue: str, item: bytes) -> Taken:
        try:
            taken = Taken(loads(item))
        except Exception:  # noqa: BLE001 - broken bytes are an envelope without anything in it
            taken = Taken()
        taken.item, taken.flight, taken.queue = item, self._flight(key), key
        return taken

    def _flight(self, key: str) -> str:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = f"{FLIGHT_PREFIX}{self._consumer}:{key}"
            self.renew()  # registered before anything can be in it
            if not self._looks:
                self.look_around()
        return flight

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        """As `basic_get` asks: without waiting."""
        key = self._q_for_pri(queue, 0)
        flight = self._flight(key)
        with self.conn_or_acquire() as client:
            item = client.lmove(key, flight, "RIGHT", "LEFT")
        if item is None:
            raise Empty
        return self._open(key, queue, item)

    @override
    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except (RecursionError, MemoryError) as error:  # kombu foresees ValueError alone
            logger.warning("a message of remote control was not read: %s", type(error).__name__)
            return None

    @override
    def _receive(self) -> bool:
        """As kombu's, which waits for a message; the worker's loop must not. A mailbox that was
        opened anew may have been given the number of the socket that this event was meant for.
        """
        connection = self.subclient.connection
        if connection is None or connection._sock is None or not connection.can_read(timeout=0):
            return False
        return bool(super()._receive())

    # --- letting go ------------------------------------------------------------------------

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Notice when the server does not answer; :meth:`verify` then says so."""
        try:
            yield
        except self.connection_errors:
            self._is_in_doubt = True
            raise

    def verify(self) -> None:
        """Make sure that everything that was settled is.

        Celery logs what cannot be settled, and takes it for settled: it would stay in a flight
        that is renewed for as long as the worker lives, and take the place of another message.

        Raises:
            redis.ConnectionError: Something is not: begin anew, and what is held goes back.
        """
        if self._is_in_doubt:
            raise redis.ConnectionError("a message could not be settled")

    def land(self, taken: Taken) -> None:
        """The work is done: the message is no more."""
        with self.conn_or_acquire() as client:
            client.lrem(taken.flight, 1, taken.item)

    def give_back(self, taken: Taken, *, counted: bool) -> None:
        """Return the message to its queue: behind the others when it is *counted* as a delivery
        that failed, before them when it was only interrupted.
        """
        if counted:
            self._put_back(taken, _counted(taken.item), _BEHIND_OTHERS)
        else:
            self._put_back(taken, taken.item, _BEFORE_OTHERS)

    def _put_back(self, taken: Taken, item: bytes, where: str) -> None:
        with self.conn_or_acquire() as client:
            client.eval(_GIVE_BACK, 2, taken.flight, taken.queue, taken.item, item, where)

    def bury(self, message: Any) -> bool:
        """Put the message among the dead letters, with the reason that was noted on it; says
        whether it is there now. One that was somebody else's already is left alone.

        A letter that cannot be made, or that the server does not take, leaves a minimal one. When
        that is not taken either, the message goes back to its queue, behind the others, and nothing
        is held against it.
        """
        taken: Taken = message._raw
        queue = taken.queue.rsplit(self.sep, 1)[0]
        letters = (
            lambda: letter_of(message, queue=queue, envelope=_without_token(taken)),
            lambda: minimal_letter_of(message, queue=queue, envelope=_bare(taken)),
        )
        for letter in letters:
            try:
                return self._bury(taken, letter())
            except (redis.ConnectionError, redis.TimeoutError, OSError):
                raise
            except Exception as error:  # noqa: BLE001 - a message that nobody can bury ends every worker
                logger.warning(
                    "a dead letter of %s could not be stored: %s", queue, type(error).__name__
                )
        self._put_back(taken, taken.item, _BEHIND_OTHERS)
        return False

    def _bury(self, taken: Taken, letter: DeadLetter) -> bool:
        fields = [part for pair in letter.to_fields().items() for part in pair]
        stream = dead_letters_of(letter.queue)
        with self.conn_or_acquire() as client:
            return bool(client.eval(_BURY, 2, taken.flight, stream, taken.item, *fields))

    @override
    def _restore(self, message: Any, leftmost: bool = False) -> None:
        self.give_back(message._raw, counted=leftmost)

    # --- leases ----------------------------------------------------------------------------

    def renew(self) -> None:
        """Hold on to this consumer's flights for another lease."""
        if self._flights:
            flights = list(self._flights.values())
            with self.conn_or_acquire() as client:
                client.eval(_RENEW, 1, FLIGHTS, int(self.lease_seconds * 1000), *flights)

    def look_around(self) -> None:
        """Reclaim what others have left; called every second, and not always looking: a
        worker that has just been started is often there for one that has just died.
        """
        self._looks += 1
        if self._looks <= _EARLY_LOOKS or self._looks % _LATER_LOOKS == 0:
            self.reclaim()

    def reclaim(self) -> None:
        """Give back what is in the flights of consumers that are gone."""
        with self.conn_or_acquire() as client:
            flights = dict(client.zrange(FLIGHTS, 0, -1, withscores=True))
            seconds, microseconds = client.time()
            now_ms = seconds * 1000 + microseconds // 1000
            alone = self._without_connection(client, [name.decode() for name in flights])
            for name, lease_ends_ms in flights.items():
                flight = name.decode()
                if lease_ends_ms < now_ms or flight in alone:
                    forget = now_ms - lease_ends_ms > _REMEMBERED_MS
                    self._reclaim(client, flight, forget=forget)

    def _without_connection(self, client: Any, flights: list[str]) -> set[str]:
        """Return the flights whose consumer had no connection now and at the look before."""
        try:
            names = {each["name"] for each in client.client_list()}
        except redis.ResponseError:  # not every user may ask; then the leases decide
            return set()
        missing = {
            flight
            for flight in flights
            if _CLIENT_PREFIX + flight.removeprefix(FLIGHT_PREFIX).partition(":")[0] not in names
        }
        twice, self._missed = missing & self._missed, missing
        return twice

    def _reclaim(self, client: Any, flight: str, *, forget: bool) -> None:
        key = flight.removeprefix(FLIGHT_PREFIX).partition(":")[2]
        # Another worker may do the same, and the consumer may live after all. redis-py says so of a
        # connection that breaks meanwhile, too: the next command on it finds that.
        with suppress(redis.WatchError), client.pipeline(transaction=True) as pipe:
            pipe.watch(flight)
            items = pipe.lrange(flight, 0, -1)
            if not items and not forget:
                return
            pipe.multi()
            for item in items:
                pipe.rpush(key, _counted(item))
            pipe.delete(flight)
            if forget:
                pipe.zrem(FLIGHTS, flight)
            pipe.execute()

    def close(self) -> None:
        flights, self._flights = self._flights, {}
        # Made before, because a closed channel makes none; it connects when it is used.
        client = self._create_client() if flights else None
        try:
            super().close()  # gives back what is not acknowledged
        except self.connection_errors:
            # It stopped at the reply that it waited for, or when it gave back: now to its end.
            with suppress(*self.connection_errors):
                super().close()
        if client is None:
            return
        # Else the leases end by themselves.
        with suppress(*self.connection_errors):
            for flight in flights.values():
                if not client.llen(flight):
                    client.zrem(FLIGHTS, flight)
        client.connection_pool.disconnect()

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        if getattr(self.connection, "client", None) is None:
            # An error that Celery expects, unlike kombu's own, when a task is settled too late.
            raise redis.ConnectionError("the connection that the message came by was closed")
        # redis-py 8 tries ten times with growing pauses, so that an outage looks like a hang.
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        # Here a broken connection is replaced, once; a server that hangs is not asked again.
        params["retry"] = Retry(ConstantBackoff(0), 1, (redis.exceptions.ConnectionError,))
        if asynchronous:
            params["connection_class"] = _unregistering(params["connection_class"], self)
        return params


class Transport(kombu_redis.Transport):
    """`redis://` and `rediss://` of a Mainstay application."""

    Channel = Channel


def _unregistering(kind: type[Any], channel: Channel) -> type[Any]:
    """Return a *kind* of connection that leaves the poller of *channel* before it is closed.

    Children that were forked meanwhile hold its socket open too. Closed here alone, it would stay
    in the poller and be readable for ever: the worker would take all of a processor. kombu's
    `_on_connection_disconnect` comes too late, epoll cannot unregister a closed descriptor.
    """
    generation = forks.generation()

    class Connection(kind):
        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            cycle = getattr(channel.connection, "cycle", None)
            # A child shares the poller: it would take the socket of its parent out of it.
            if self._sock is not None and cycle and generation == forks.generation():
                with suppress(OSError, ValueError, KeyError, AttributeError):
                    cycle.poller.unregister(self._sock)
            super().disconnect(*args, **kwargs)

    return Connection


def _encoded(payload: Any) -> bytes:
    text: str = dumps(payload)
    return text.encode()


def _without_token(taken: Taken) -> bytes:
    headers = taken.get("headers")
    if not isinstance(headers, dict) or PRINCIPAL_TOKEN not in headers:
        return taken.item
    kept = {name: value for name, value in headers.items() if name != PRINCIPAL_TOKEN}
    return _encoded(taken | {"headers": kept})


def _bare(taken: Taken) -> bytes:
    """Return the message for a minimal letter: without the token, where that can be done."""
    try:
        return _without_token(taken)
    except Exception:  # noqa: BLE001 - what was read and cannot be written is kept as it came
        return taken.item


def _counted(item: bytes) -> bytes:
    """Return the message with one more delivery noted in it."""
    try:
        payload = loads(item)
        headers = payload.setdefault("headers", {})
        headers[DELIVERIES] = int(headers.get(DELIVERIES) or 0) + 1
        return _encoded(payload)
    except Exception:  # noqa: BLE001 - unreadable: the guard says so when it is read next
        return item


def _anew(item: bytes) -> bytes:
    """Return the message without what its life that is over had left in it."""
    try:
        payload = loads(item)
        headers = payload["headers"]
        kept = {name: value for name, value in headers.items() if name not in OF_ONE_LIFE}
        if len(kept) == len(headers):
            return item
        return _encoded(payload | {"headers": kept})
    except Exception:  # noqa: BLE001 - unreadable: it goes back as it came, for who can read it
        return item


def requeue(pipe: Any, letter: DeadLetter) -> None:
    """Add the commands that put a task's dead letter back, as if it had never been delivered."""
    pipe.lpush(letter.queue, _anew(letter.envelope))
