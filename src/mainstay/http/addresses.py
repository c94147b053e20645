"""Who is at the other end of the connection, when proxies of ours stand between?

Only as many hops are believed as the settings count, from the right: what a client writes into
`X-Forwarded-For` by itself stands to the left of what our own proxies add, and is never read.
"""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["client_address", "client_scheme"]


def client_address(peer: str, forwarded_for: str | None, hops: int) -> str:
    """Return the address of the client.

    Args:
        peer: The address that the connection came from.
        forwarded_for: All `X-Forwarded-For` values of the request, joined by commas.
        hops: How many proxies of ours every request passes.
    """
    if hops == 0 or forwarded_for is None:
        return peer
    entries = forwarded_for.split(",")
    # Fewer entries than proxies: the request went around them, and what it says is its own.
    if len(entries) < hops:
        return peer
    return _address(entries[-hops]) or peer


def client_scheme(scheme: str, forwarded_proto: str | None, hops: int) -> str:
    """Return the scheme that the client used; its proxies must set `X-Forwarded-Proto`."""
    if hops == 0 or forwarded_proto is None:
        return scheme
    entries = forwarded_proto.split(",")
    # Many proxies set this header instead of adding to it: then there is one value for all.
    said = (entries[-hops] if len(entries) >= hops else entries[0]).strip().lower()
    if said not in ("http", "https"):
        return scheme
    return said.replace("http", "ws", 1) if scheme.startswith("ws") else said


def _address(text: str) -> str | None:
    text = text.strip()
    if text.startswith("["):  # [2001:db8::1]:4711
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:  # 192.0.2.1:4711
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None
