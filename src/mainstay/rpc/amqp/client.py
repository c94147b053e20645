"""The client's end: one connection; replies come straight back on the channel of the requests."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import amqp
from amqp import spec

from mainstay.errors import NoRoute, Overloaded
from mainstay.rpc.address import address_of
from mainstay.rpc.amqp.framing import Frames
from mainstay.rpc.amqp.layout import JSON, REPLIES
from mainstay.rpc.line import Line, Note, Outgoing

__all__ = ["AmqpLine"]

TICK_SECONDS = 1.0
LOOK_SECONDS = 1.0
"""How long it is believed that a queue has a server; asked again by the next call only."""

LOOK_TIMEOUT_SECONDS = 1.0
SHORT_BYTES = 255


class AmqpLine(Line):
    """Sends to quorum queues with confirms; a request that nobody can take comes back.

    A queue outlives its servers here, so whether it has any is asked before a call, once a second
    at most: without one, a call is refused at once instead of waiting for its deadline.
    """

    def __init__(self, url: str, note: Note, late: Callable[[], object]) -> None:
        self._url = url
        self._frames: Frames | None = None
        self._channel: Any = None
        self._looker: Any = None
        self._sent = 0
        self._unconfirmed: dict[int, Outgoing] = {}
        self._seen: dict[str, float] = {}
        self._is_blocked = False
        super().__init__(address_of(url), note, late)

    def _open(self) -> None:
        self._sent, self._is_blocked = 0, False
        self._unconfirmed.clear()
        self._seen.clear()
        self._frames = Frames(self._url, on_blocked=self._blocked)
        self._looker = None
        channel = self._channel = self._frames.channel()
        channel.events["basic_ack"].add(self._confirmed)
        channel.events["basic_nack"].add(self._nacked)
        channel.events["basic_return"].add(self._returned)
        channel.confirm_select()
        channel.basic_consume(REPLIES, no_ack=True, callback=self._replied)

    def _serve(self) -> None:
        frames = self._frames
        if frames is None:
            raise ConnectionError("not open")
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(frames, select.POLLIN)
        wake, wire = self._wake.fileno(), frames.fileno()
        next_tick = time.monotonic() + TICK_SECONDS
        while not self._closing.is_set():
            frames.handle()
            ready = {fd for fd, _ in poll.poll(TICK_SECONDS * 1000)}
            if wake in ready:
                self._wake.clear()
            frames.hold()
            self._send_all(self._send)
            frames.flush()
            if wire in ready:
                frames.read()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_SECONDS
                frames.connection.heartbeat_tick()
                for queue in self._waited_for():
                    ready_messages, servers = self._look(queue)
                    # Without a ready message what is waited for is in the hands of a server
                    # that drains: it takes nothing new, and will answer.
                    if ready_messages and not servers:
                        self._abandon(queue)

    def _send(self, call: Outgoing) -> None:
        if max(len(name.encode()) for name in (call.queue, call.function, call.id)) > SHORT_BYTES:
            raise ValueError(f"RabbitMQ takes {SHORT_BYTES} bytes of each")
        if self._is_blocked:
            self._refused(call.wire_id, Overloaded("RabbitMQ has raised an alarm: nothing is sent"))
            return
        if self._seen.get(call.queue, 0.0) <= time.monotonic() and not self._look(call.queue)[1]:
            self._refused(
                call.wire_id,
                NoRoute(
                    f"no server of {call.queue!r} is there: nothing was sent; start one, or try "
                    "again"
                ),
            )
            return
        left_ms = int(call.remaining_seconds * 1000)
        if left_ms <= 0:
            return  # its caller is being told
        message = amqp.Message(
            call.body,
            content_type=JSON,
            delivery_mode=1,
            correlation_id=call.wire_id,
            reply_to=REPLIES,
            expiration=str(left_ms),
            message_id=call.id,
            type=call.function,
            application_headers=call.headers,
        )
        # As basic_publish does it, which would look for news of the broker before each message.
        self._channel.send_method(
            spec.Basic.Publish, "Bssbb", (0, "", call.queue, True, False), message
        )
        self._sent += 1
        self._unconfirmed[self._sent] = call

    def _look(self, queue: str) -> tuple[int, int]:
        """Return how many requests wait in *queue* and how many servers it has.

        A broker that does not answer is not a queue without servers.
        """
        frames = self._frames
        if frames is None:
            return 0, 0
        frames.flush()
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
        finally:
            frames.hold()
        if servers:
            self._seen[queue] = time.monotonic() + LOOK_SECONDS
        return messages, servers

    def _replied(self, message: Any) -> None:
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

    def _shut(self) -> None:
        frames, self._frames = self._frames, None
        if frames is None:
            return
        if self._closing.is_set():
            frames.close()
        else:
            frames.drop()
