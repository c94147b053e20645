"""The server's end: takes from a quorum queue, answers, and only then acknowledges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import amqp

from mainstay import failpoints
from mainstay.context import TIMEOUT_SECONDS
from mainstay.deadletters import DeadLetter, dead_letters_of
from mainstay.resources.amqp.deadletters import headers_of
from mainstay.rpc.amqp.acknowledgements import Acknowledgements
from mainstay.rpc.amqp.framing import Frames
from mainstay.rpc.amqp.layout import JSON, declare
from mainstay.rpc.amqp.messages import Message, publish, short
from mainstay.rpc.amqp.replies import is_address
from mainstay.rpc.intake import Delivery, Intake, Listener, Settlement, Terms

__all__ = ["AmqpIntake"]

DELIVERIES = "x-mainstay-deliveries"
"""How often a call was delivered before; on classic queues, which do not count."""

# The flags of what an answer has: its content type, delivery mode, correlation id.
_BEFORE_CORRELATION_ID = b"\x94\x00" + short(JSON) + b"\x01"


@dataclass(slots=True, eq=False)
class _Copy:
    """A message on its way into a queue, in place of another.

    Args:
        original: Acknowledged once the copy is stored.
        letter: What the copy is, among the dead letters; ``None`` where the call is put back.
        was_returned: Has the broker found no queue for it?
    """

    message: Any
    queue: str
    original: Message
    letter: DeadLetter | None = None
    was_returned: bool = False


class AmqpIntake(Intake):
    def __init__(self, url: str, terms: Terms, listener: Listener) -> None:
        super().__init__(url, terms, listener)
        self._frames: Frames | None = None
        self._channel: Any = None
        self._tag: str | None = None
        self._acknowledgements = Acknowledgements(0)
        # Copies go out on a channel of their own, whose confirms are theirs alone.
        self._letters: Any = None
        self._letters_sent = 0
        self._unconfirmed: dict[int, _Copy] = {}
        self._homeless: list[_Copy] = []
        self._postponed: list[Message] = []

    def _open(self) -> None:
        self._postponed.clear()
        self._homeless.clear()
        self._letters_sent = 0
        self._unconfirmed.clear()
        self._tag = None
        frames = self._frames = Frames(self._url, self._wake, on_blocked=self._blocked)
        channel = self._channel = frames.channel(delivered=self._delivered)
        self._acknowledgements = Acknowledgements(channel.channel_id)
        letters = self._letters = frames.channel()
        letters.events["basic_ack"].add(self._stored)
        letters.events["basic_nack"].add(self._not_stored)
        letters.events["basic_return"].add(self._returned)
        letters.confirm_select()
        self._declare()
        channel.basic_qos(0, self.terms.capacity, False)
        if not self._is_stopping:
            self._tag = channel.basic_consume(self.terms.queue, on_cancel=self._cancelled)

    def _declare(self) -> None:
        try:
            declare(self._channel, self.terms)
        except amqp.PreconditionFailed as error:
            self._note(
                "error",
                f"the queue {self.terms.queue!r}, or its dead letters, exists with other "
                "arguments: delete it when it is empty, or serve it with its own limits "
                f"({error.reply_text})",
            )
            raise

    def _serve(self) -> None:
        frames = self._frames
        if frames is None:
            raise ConnectionError("not open")
        while True:
            self._house()
            with self._settling:
                self._settle_all(frames)
            if self._is_stopping and self._tag is not None:
                tag, self._tag = self._tag, None
                self._channel.basic_cancel(tag)
                continue  # what was given back meanwhile
            if self._closing.is_set() and not (self._is_copying or frames.wants_write):
                return
            self._beat()
            frames.turn()

    def _delivered(self, message: Message) -> None:
        found = message.properties.get("application_headers") or {}
        if message.is_again and self.terms.queue_type == "classic":
            self._count_delivery(message, found)
        elif DELIVERIES in found and self._is_copying:
            # While the original is not acknowledged, a crash would leave both of them.
            self._postponed.append(message)
        else:
            self._accept(message, found)

    def _accept(self, message: Message, found: dict[str, Any]) -> None:
        self._took(self._read(message, found))

    def _read(self, message: Message, found: dict[str, Any]) -> Delivery:
        properties = message.properties
        headers = {name.lower(): value for name, value in found.items() if isinstance(value, str)}
        return Delivery(
            id=properties.get("message_id") or properties.get("correlation_id") or "",
            function=properties.get("type") or "",
            headers=headers,
            body=message.body,
            deadline=_deadline(headers, properties),
            receipt=message,
            deliveries=_deliveries(found, message),
            flaw=message.flaw,
        )

    def _count_delivery(self, message: Message, headers: dict[str, Any]) -> None:
        """Put a call back with the count of deliveries that a classic queue does not keep."""
        delivery = self._read(message, headers)
        count = delivery.deliveries
        if count - 1 > self.terms.delivery_limit:
            detail = f"delivered {count - 1} times without an end: it kills its servers"
            letter = delivery.letter(self.terms.queue, reason="delivery-limit", detail=detail)
            self._bury(message, letter)
            return
        properties = dict(message.properties)
        properties["application_headers"] = headers | {DELIVERIES: count - 1}
        again = amqp.Message(message.body, **properties)
        self._send_copy(_Copy(again, self.terms.queue, message))

    def _cancelled(self, _tag: str) -> None:
        raise ConnectionError("the broker has cancelled the consumer: its queue was deleted")

    def _settle_all(self, frames: Frames) -> None:
        out: list[bytes] = []
        done: list[int] = []
        while self._settled:
            delivery, settlement = self._settled.popleft()
            if not self._let_go(delivery):
                continue
            message: Message = delivery.receipt
            if settlement.give_back:
                out.append(self._acknowledgements.reject(message.tag, requeue=True))
                continue
            if settlement.answer is not None:
                out.append(self._reply(frames, message, settlement.answer))
            if settlement.letter is None:
                done.append(message.tag)
            else:
                self._bury(message, settlement.letter)
        if out or done:
            self._send(frames, b"".join(out), done)

    def _settle_alone(self, delivery: Delivery, settlement: Settlement) -> bool:
        frames = self._frames
        if frames is None or not frames.is_shared:
            return False
        message: Message = delivery.receipt
        reply = b""
        if settlement.answer is not None:
            reply = self._reply(frames, message, settlement.answer)
        with suppress(OSError):  # then the intake's own thread hears it too
            self._send(frames, reply, [message.tag])
        if frames.wants_write:
            self._wake.set()
        return True

    def _send(self, frames: Frames, replies: bytes, done: Sequence[int]) -> None:
        if failpoints.is_armed("rpc.after_reply"):
            frames.send(replies)  # else a death here would be one before the replies
            failpoints.reach("rpc.after_reply")
            replies = b""
        # After the replies, on the same channel, so RabbitMQ does them in this order.
        frames.send(replies + self._acknowledgements.done(done))

    def _reply(self, frames: Frames, message: Message, answer: bytes) -> bytes:
        address = message.properties.get("reply_to")
        if not address or not is_address(address):
            return b""
        # Not mandatory: RabbitMQ finds no queue of this name, and would send back a copy of every
        # answer that it delivers.
        return publish(
            self._channel.channel_id,
            address,
            _BEFORE_CORRELATION_ID + short(message.properties.get("correlation_id", "")),
            answer,
            mandatory=False,
            frame_bytes=frames.frame_bytes,
        )

    def _bury(self, message: Message, letter: DeadLetter) -> None:
        properties = message.properties
        # The whole message but for its deadline and where to reply to, which mean nothing any more.
        kept = {
            name: properties[name]
            for name in ("content_type", "correlation_id", "message_id", "type")
            if name in properties
        }
        headers = dict(letter.headers) | headers_of(letter)
        copy = amqp.Message(letter.body, delivery_mode=2, application_headers=headers, **kept)
        self._send_copy(_Copy(copy, dead_letters_of(self.terms.queue), message, letter))

    def _send_copy(self, copy: _Copy) -> None:
        self._letters_sent += 1
        copy.was_returned = False
        # What comes back has lost its number, so it carries one.
        copy.message.properties["app_id"] = str(self._letters_sent)
        self._unconfirmed[self._letters_sent] = copy
        arguments = (0, "", copy.queue, True, False)
        self._letters.send_method(amqp.spec.Basic.Publish, "Bssbb", arguments, copy.message)

    @property
    def _is_copying(self) -> bool:
        return bool(self._unconfirmed or self._homeless)

    def _house(self) -> None:
        """Declare again what was deleted, for copies that found no queue."""
        if self._homeless:
            homeless, self._homeless = self._homeless, []
            self._note(
                "warning",
                f"the queue {homeless[0].queue!r} is gone, and is declared again: do not delete "
                f"it while {self.terms.queue!r} is served",
            )
            self._declare()
            for copy in homeless:
                self._send_copy(copy)

    def _returned(self, _error: object, _exchange: str, _queue: str, message: Any) -> None:
        copy = self._unconfirmed.get(int(message.properties["app_id"]))
        if copy is not None:
            copy.was_returned = True

    def _stored(self, number: int, multiple: bool) -> None:
        for copy in self._confirmed(number, multiple):
            # What no queue takes is returned first, and acknowledged all the same.
            if copy.was_returned:
                self._homeless.append(copy)
                continue
            self._settle_original(copy, is_stored=True)
            if copy.letter is not None:
                self._buried(copy.letter.id, copy.letter.reason)
        self._resume()

    def _not_stored(self, number: int, multiple: bool) -> None:
        for copy in self._confirmed(number, multiple):
            # Then the broker dead-letters it itself; only the reason is lost.
            self._settle_original(copy, is_stored=False)
            self._note("error", f"RabbitMQ refuses a message for {copy.queue!r}: it is rejected")
        self._resume()

    def _settle_original(self, copy: _Copy, *, is_stored: bool) -> None:
        with self._settling:
            tag, settled = copy.original.tag, self._acknowledgements
            frame = settled.done([tag]) if is_stored else settled.reject(tag, requeue=False)
            if self._frames is not None:
                self._frames.send(frame)

    def _resume(self) -> None:
        if not self._is_copying:
            postponed, self._postponed = self._postponed, []
            for message in postponed:
                self._accept(message, message.properties["application_headers"])

    def _confirmed(self, number: int, multiple: bool) -> list[_Copy]:
        numbers = [n for n in self._unconfirmed if n <= number] if multiple else [number]
        found = [self._unconfirmed.pop(n, None) for n in numbers]
        return [copy for copy in found if copy is not None]

    def _blocked(self, is_blocked: bool) -> None:
        self._note("warning", f"{self.address} has {'raised' if is_blocked else 'ended'} an alarm")

    def _shut(self) -> None:
        with self._settling:
            frames, self._frames = self._frames, None
        if frames is None:
            return
        if self._closing.is_set():
            frames.close()
        else:
            frames.drop()


def _deadline(headers: dict[str, str], properties: dict[str, Any]) -> float | None:
    """Say when the caller gives up.

    What it waited in the queue is not known without a common clock: the broker drops what waited
    too long, and the deadline that is counted from here is at most that much too late.
    """
    try:
        left = float(headers[TIMEOUT_SECONDS])
    except (KeyError, ValueError):
        return None
    if "expiration" in properties and 0.0 <= left < 86_400.0:
        return time.monotonic() + left
    return None


def _deliveries(headers: dict[str, Any], message: Message) -> int:
    # 0 the first time on 3.10, absent then on 4.x; of a classic queue, ours.
    count = headers.get("x-delivery-count", headers.get(DELIVERIES))
    earlier = count if isinstance(count, int) else 0
    if "x-delivery-count" in headers:
        return earlier + 1
    return earlier + (2 if message.is_again else 1)
