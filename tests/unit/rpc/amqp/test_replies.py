from __future__ import annotations

import base64

import pytest

from mainstay.rpc.amqp.replies import is_address

PREFIX = "amq.rabbitmq.reply-to."
# As RabbitMQ 3.10 makes it.
MADE = f"{PREFIX}g1h2AA5yZXBseUAyNDM5NzI1MgAAAx0AAAAAawAtdw==.lXO2O35thxHCo9NF/SyyUA=="


def of(process: bytes) -> str:
    return f"{PREFIX}{base64.b64encode(process).decode()}.key"


@pytest.mark.parametrize(
    "address",
    [
        MADE,
        of(b"\x83Xw\x07reply@5" + bytes(12)),
        of(b"\x83gv\x00\x07reply@5" + bytes(9)),
    ],
)
def test_what_a_broker_makes_is_an_address(address: str) -> None:
    assert is_address(address)


@pytest.mark.parametrize(
    "address", ["answers", "answers_dlq", "amq.gen-JzTY20BRgKO", "amq.rabbitmq.reply-to", ""]
)
def test_the_name_of_a_queue_is_none(address: str) -> None:
    assert not is_address(address)


@pytest.mark.parametrize(
    "address",
    [
        PREFIX,
        f"{PREFIX}.",
        f"{PREFIX}x",
        f"{PREFIX}x.key",
        f"{PREFIX}ñ.key",
        MADE.rpartition(".")[0],
        MADE.replace(".g1", "."),
        of(b""),
        of(b"junk"),
        of(b"\x83h\x00"),
        of(b"\x83Xv\xff\xffreply@5" + bytes(12)),
        of(b"\x83Xv\x00\x07reply@x" + bytes(12)),
        of(b"\x83Xv\x00\x05reply" + bytes(12)),
        of(b"\x83Xv\x00\x07reply@5" + bytes(9)),
    ],
)
def test_what_a_broker_cannot_decode_is_none(address: str) -> None:
    assert not is_address(address)
