"""What the HTTP rows ask, and what they must hear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.load import always, request
from mainstay import Service, Settings

__all__ = ["ANSWER", "asked", "bearer", "guarded_by"]

ANSWER = b'{"item_id":42,"name":"lantern","detail":true}'

_SECRET = "for-these-measurements-and-nothing-else"


def asked(*headers: str, sampled: bool = True) -> Iterator[bytes]:
    """Ask for an item, under a correlation id and inside a trace of the caller's.

    Args:
        headers: More of them.
        sampled: Does the caller record the trace?
    """
    trace = f"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{int(sampled):02}"
    ids = ("x-request-id: 7c4b8a52f0a94f0ab2e7a4a8d3c5b6e1", f"traceparent: {trace}")
    return always(request("/items/42?detail=true", headers=(*ids, *headers)))


def bearer() -> str:
    """Return the header with a token that whoever is :func:`guarded_by` our secret accepts."""
    signing = Service(Settings(env="test", jwt_secret_key=_SECRET))
    return f"authorization: Bearer {signing.tokens.issue('user-7', roles=['admin'])}"


def guarded_by(otlp: str) -> Mapping[str, str]:
    """Return the environment of a server with tokens, a rate limit, and traces sent to *otlp*."""
    return {
        "JWT_SECRET_KEY": _SECRET,
        "APP_RATE_LIMIT": "1000000/second",
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
