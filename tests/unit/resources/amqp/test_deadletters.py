"""Dead letters on RabbitMQ, where the broker itself cannot be made to take its time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import amqp
import pytest

from mainstay.resources.amqp import AmqpDeadLetters


def test_what_was_looked_at_is_ready_again_when_the_look_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[Any] = [amqp.Message(b"{}", message_id=id) for id in ("a", "b")]
    for tag, message in enumerate(messages, 1):
        message.delivery_info = {"delivery_tag": tag}
    # Two are there; once they were looked at, the broker gives them back one by one.
    ready = iter((2, 0, 1, 2))
    channel = MagicMock(is_open=True)
    channel.basic_consume.side_effect = lambda _queue, callback: [*map(callback, messages)]
    channel.queue_declare.side_effect = lambda *_, **__: SimpleNamespace(
        message_count=next(ready), consumer_count=0
    )
    connection = MagicMock()
    connection.__enter__.return_value.channel.return_value = channel
    monkeypatch.setattr("mainstay.resources.amqp.deadletters.connect", lambda _url: connection)

    found = list(AmqpDeadLetters("amqp://nowhere").letters("work"))

    assert [letter.id for letter in found] == ["a", "b"]
    assert list(ready) == []
