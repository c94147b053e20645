"""The client's end: one connection; replies come straight back on the channel of the requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import amqp
from amqp import spec

from mainstay.errors import NoRoute, Overloaded, Unconfirmed
from mainstay.resources.amqp.alarms import ALARM_MESSAGE
from mainstay.rpc.amqp.framing import Frames
from mainstay.rpc.amqp.layout import JSON, REPLIES
from mainstay.rpc.amqp.messages import Message, publish, short, table
from mainstay.rpc.line import Line, Note, Outgoing

__all__ = ["AmqpLine"]

LOOK_SECONDS = 1.0
"""How long it is believed that a queue has a server; asked again by the next call only."""

LOOK_TIMEOUT_SECONDS = 1.0

# The flags of what a request has: its content type, headers, delivery mode, correlation id, where
# to reply to, expiration, id, type.
_BEFORE_HEADERS = b"\xb7\xa0" + short(JSON)
_AFTER_HEADERS = b"\x01"  # not to be kept on a disk for its own sake
_REPLY_TO = short(REPLIES)


class AmqpLine(Line):
    """Sends to quorum queues with confirms; a request that nobody can take comes back.

    A queue outlives its servers here, so whether it has any is asked before a call, once a second
    at most: without one, a call is refused at once instead of waiting for its deadline.
    """

    def __init__(self, url: str, note: Note, late: Callable[[], object]) -> None:
        self._frames: Frames | None = None
        self._channel = self._frame_bytes = 0
        self._looker: Any = None
        # Held by who sends: requests are confirmed by their number in the order of the wire.
        self._sending = threading.Lock()
        self._sent = 0
        self._unconfirmed: dict[int, Outgoing] = {}
        self._burst: list[tuple[Outgoing, bytes]] = []
        self._seen: dict[str, float] = {}
        self._is_blocked = False
        super().__init__(url, note, late)

    def _open(self) -> None:
        self._sent, self._is_blocked = 0, False
        self._unconfirmed.clear()
        self._burst.clear()
        self._seen.clear()
        self._looker = None
        frames = self._frames = Frames(self._url, self._wake, on_blocked=self._blocked)
        channel = frames.channel(delivered=self._replied, acknowledged=self._confirmed)
        channel.events["basic_nack"].add(self._nacked)
        channel.events["basic_return"].add(self._returned)
        channel.confirm_select()
        channel.basic_consume(REPLIES, no_ack=True)
        self._channel, self._frame_bytes = channel.channel_id, frames.frame_bytes

    def _serve(self) -> None:
        frames = self._frames
        if frames is None:
            raise ConnectionError("not open")
        while not self._closing.is_set():
            for call in self._unsent():
                self._prepare(call)
            if self._burst:
                burst, self._burst = self._burst, []
                self._publish(burst)
            if frames.turn():
                for queue in self._waited_for():
                    ready_messages, servers = self._look(queue)
                    # Without a ready message what is waited for is in the hands of a server
                    # that drains: it takes nothing new, and will answer.
                    if ready_messages and not servers:
                        self._abandon(queue)

    def _send_alone(self, call: Outgoing) -> bool:
        frames = self._frames
        if frames is None or not frames.is_shared or self._is_blocked or not self._is_seen(call):
            return False
        call.sent_at = time.monotonic()
        request = self._encoded(call, self._request)
        if request is not None:
            with suppress(OSError):  # then the line's own thread hears it too, and tells the caller
                self._publish([(call, request)])
            if frames.wants_write:
                self._wake.set()
        return True

    def _publish(self, burst: Sequence[tuple[Outgoing, bytes]]) -> None:
        with self._sending:
            if self._frames is not None:
                for call, _ in burst:
                    self._sent += 1
                    self._unconfirmed[self._sent] = call
                self._frames.send(b"".join([request for _, request in burst]))

    def _prepare(self, call: Outgoing) -> None:
        if call.remaining_seconds <= 0:
            return  # its caller is being told
        if self._is_blocked:
            self._refused(call.wire_id, Overloaded(f"{ALARM_MESSAGE}: nothing was sent"))
            return
        request = self._encoded(call, self._request)
        if request is None:
            return
        if not self._is_seen(call) and not self._look(call.queue)[1]:
            self._refused(
                call.wire_id,
                NoRoute(
                    f"no server of {call.queue!r} is there: nothing was sent; start one, or try "
                    "again"
                ),
            )
            return
        self._burst.append((call, request))

    def _request(self, call: Outgoing) -> bytes:
        properties = (
            _BEFORE_HEADERS,
            table(call.headers),
            _AFTER_HEADERS,
            short(call.wire_id),
            _REPLY_TO,
            short(str(max(int(call.remaining_seconds * 1000), 0))),
            short(call.id),
            short(call.function),
        )
        return publish(
            self._channel,
            call.queue,
            b"".join(properties),
            call.body,
            mandatory=True,
            frame_bytes=self._frame_bytes,
        )

    def _is_seen(self, call: Outgoing) -> bool:
        return self._seen.get(call.queue, 0.0) > time.monotonic()

    def _look(self, queue: str) -> tuple[int, int]:
        """Return how many requests wait in *queue* and how many servers it has.

        A broker that does not answer is not a queue without servers.
        """
        frames = self._frames
        if frames is None:
            return 0, 0
        try:
            if self._looker is None:
                self._looker = frames.channel()
            declare: tuple[Any, ...] = (0, queue, True, False, False, False, False, {})
            self._looker.send_method(spec.Queue.Declare, "BsbbbbbF", declare)
            _, messages, servers = self._looker.wait(
                spec.Queue.DeclareOk, timeout=LOOK_TIMEOUT_SECONDS, returns_tuple=True
            )
        except amqp.NotFound:  # which also closes the channel
            self._looker = None
            return 0, 0
        except TimeoutError:
            self._looker = None  # its late answer must not be taken for another's
            messages, servers = 0, 1
        if servers:
            self._seen[queue] = time.monotonic() + LOOK_SECONDS
        return messages, servers

    def _replied(self, message: Message) -> None:
        self._answered(message.properties.get("correlation_id", ""), message.body)

    def _returned(self, _error: object, _exchange: str, queue: str, message: Any) -> None:
        self._seen.pop(queue, None)
        self._refused(
            message.properties.get("correlation_id", ""),
            NoRoute(f"there is no queue {queue!r}: nothing was sent; start its server"),
        )

    def _confirmed(self, number: int, multiple: bool) -> None:
        self._settled(number, multiple)

    def _nacked(self, number: int, multiple: bool) -> None:
        for call in self._settled(number, multiple):
            self._refused(call.wire_id, Overloaded(f"the queue {call.queue!r} takes no more calls"))

    def _settled(self, number: int, multiple: bool) -> list[Outgoing]:
        if not multiple:
            call = self._unconfirmed.pop(number, None)
            return [] if call is None else [call]
        settled = []
        for known in list(self._unconfirmed):
            if known > number:
                break
            settled.append(self._unconfirmed.pop(known))
        return settled

    def _blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        self._note("warning", f"{self.address} has {'raised' if is_blocked else 'ended'} an alarm")
        if is_blocked:
            with self._sending:
                unread = list(self._unconfirmed.values())
            for call in unread:
                self._refused(
                    call.wire_id, Unconfirmed(f"{ALARM_MESSAGE}: the call may be sent or not")
                )

    def _shut(self) -> None:
        with self._sending:
            frames, self._frames = self._frames, None
        if frames is None:
            return
        if self._closing.is_set():
            frames.close()
        else:
            frames.drop()
