"""What the chassis answers by itself, whatever the framework: bytes that are ready to be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import orjson

from mainstay import monitor

if TYPE_CHECKING:
    from mainstay.service import Service

__all__ = ["READING", "Answering", "Asked", "Reply", "keys", "machine_paths", "reply_of"]

READING = "GET, HEAD, OPTIONS"
"""The methods that these addresses take, as `Allow` has them."""

_KEYS_TYPE = "application/jwk-set+json"  # RFC 7517, 8.5
_KEYS_SECONDS = 300


class Reply(NamedTuple):
    """One answer. Header names are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Asked(NamedTuple):
    """What the reply to a request depends on.

    Args:
        encodings: Its `Accept-Encoding`.
        root_path: The path that the application is served below.
    """

    encodings: str
    root_path: str


Answering = Callable[[Asked], Reply]


def machine_paths(service: Service) -> frozenset[str]:
    """Return the addresses that machines ask: health, readiness, metrics."""
    return monitor.PATHS if service.settings.metrics_enabled else monitor.PATHS - {"/metrics"}


def reply_of(answer: monitor.Answer) -> Reply:
    """Return what a machine is sent."""
    headers = {"cache-control": "no-store", "content-type": answer.content_type}
    return Reply(answer.status, headers, answer.body)


def keys(service: Service) -> dict[str, Answering]:
    """Return what answers `/.well-known/jwks.json`, where tokens are signed with a private key:
    with its public half, others verify them.
    """
    if service.settings.jwt_private_key is None:
        return {}
    headers = {"cache-control": f"public, max-age={_KEYS_SECONDS}", "content-type": _KEYS_TYPE}
    path = "/.well-known/jwks.json"
    return {path: lambda _: Reply(200, headers, orjson.dumps(service.tokens.jwks()))}
