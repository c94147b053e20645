"""What the HTTP rows ask, and what they must hear."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.load import always, request

__all__ = ["ANSWER", "asked"]

ANSWER = b'{"item_id":42,"name":"lantern","detail":true}'


def asked(*headers: str, sampled: bool = True) -> Iterator[bytes]:
    """Ask for an item, under a correlation id and inside a trace of the caller's.

    Args:
        headers: More of them.
        sampled: Does the caller record the trace?
    """
    trace = f"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{int(sampled):02}"
    ids = ("x-request-id: 7c4b8a52f0a94f0ab2e7a4a8d3c5b6e1", f"traceparent: {trace}")
    return always(request("/items/42?detail=true", headers=(*ids, *headers)))
