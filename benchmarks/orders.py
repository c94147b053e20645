"""What the rows about idempotency keys ask, and what they must hear."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Mapping
from itertools import count

import orjson

from benchmarks.load import HOST, request
from benchmarks.programs import LaneFailed
from benchmarks.row import OURS_LANE
from benchmarks.serving import Served

__all__ = ["PRICED", "keyed", "keyless", "ordered"]

PRICED = b'{"sku":"sku-0042","count":3,"price":37.5}'

_BODY = orjson.dumps(
    {"sku": "sku-0042", "count": 3, "customer": "somebody who buys things", "note": "x" * 80}
)
_REPLAYED = (b"idempotency-replayed: true", b"idempotent-replayed: true")


def ordered(*, is_keyed: bool = True) -> Iterator[bytes]:
    """Order the same again and again, each time under a key of its own."""
    run = secrets.token_hex(8)
    for number in count():
        key = (f"idempotency-key: {run}-{number:012}",) if is_keyed else ()
        yield request("/orders", method="POST", headers=key, body=_BODY)


def keyed(
    name: str,
    app: str,
    variables: Mapping[str, str],
    packages: tuple[str, ...] = (),
) -> Served:
    """A lane that gives the answer to a key again; only ours writes a line a request."""
    return Served(
        name,
        app,
        ordered(),
        packages,
        holds=PRICED,
        variables=variables,
        is_logged=name == OURS_LANE,
        proof=_gives_again,
    )


def keyless(app: str, variables: Mapping[str, str]) -> Served:
    """Our lane, asked without a key."""
    return Served(
        "without a key",
        app,
        ordered(is_keyed=False),
        holds=PRICED,
        variables=variables,
        server=None,
    )


def _gives_again(port: int) -> None:
    """Pass when the answer to a key is given again.

    Raises:
        LaneFailed: The work is done twice.
    """
    twice = next(ordered())
    first, second = (_answer(port, twice) for _ in range(2))
    if PRICED not in first or PRICED not in second:
        raise LaneFailed(f"a wrong answer: {first!r}, then {second!r}")
    if not any(mark in second.lower() for mark in _REPLAYED):
        raise LaneFailed(f"a key is taken twice: {second!r}")


def _answer(port: int, asked: bytes) -> bytes:
    with socket.create_connection((HOST, port), timeout=5.0) as connection:
        connection.sendall(asked.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1))
        with connection.makefile("rb") as answer:
            return answer.read()
