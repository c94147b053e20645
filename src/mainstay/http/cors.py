"""Which scripts of other sites may call this service, and read what it answers?

https://fetch.spec.whatwg.org/#http-cors-protocol. Cookies never go along: a site that may call
is one that has a token.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ASKED_HEADERS", "METHODS", "SHOWN_HEADERS", "Cors"]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ASKED_HEADERS = (
    "Authorization", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID",
    "Traceparent", "Tracestate", "X-Correlation-ID", "X-Request-ID",
)  # fmt: skip
SHOWN_HEADERS = (
    "ETag", "Idempotency-Replayed", "Location", "RateLimit", "RateLimit-Policy", "Retry-After",
    "X-Correlation-ID", "X-Record-ID",
)  # fmt: skip

# What any page may send.
_SAFELISTED = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
_AGE_SECONDS = "600"
_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"

Pairs = list[tuple[str, str]]


class Cors:
    """Answers for the sites that are allowed.

    Args:
        origins: Their origins, ``https://shop.example``; ``*`` for every site.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)
        self._is_open = "*" in self._origins
        allowed = sorted({*_SAFELISTED, *ASKED_HEADERS})
        self._allowed_headers = frozenset(name.lower() for name in allowed)
        self._preflight: Pairs = [
            ("vary", _VARY),
            ("access-control-allow-methods", ", ".join(METHODS)),
            ("access-control-max-age", _AGE_SECONDS),
            ("access-control-allow-headers", ", ".join(allowed)),
        ]
        self._shown = ("access-control-expose-headers", ", ".join(SHOWN_HEADERS))

    def headers(self, origin: str | None) -> Pairs:
        """Return what an answer to *origin* says besides, a refusal too."""
        if origin is None:
            return [("vary", "Origin")]
        allowed = self._allowing(origin)
        return [self._shown, *allowed, ("vary", "Origin")]

    def preflight(self, origin: str, method: str, headers: str | None) -> tuple[int, Pairs, str]:
        """Answer a browser that asks whether a script of *origin* may ask; besides what every
        answer says to it.

        Args:
            method: With which method it would.
            headers: With which headers; names joined by commas.

        Returns:
            Status, headers and text.
        """
        refused = [] if self._allowing(origin) else ["origin"]
        if method not in METHODS:
            refused.append("method")
        names = {name.strip().lower() for name in (headers or "").split(",")} - {""}
        if not names <= self._allowed_headers:
            refused.append("headers")
        pairs = [("content-type", "text/plain; charset=utf-8"), *self._preflight]
        if refused:
            return 400, pairs, f"Disallowed CORS {', '.join(refused)}"
        return 200, pairs, "OK"

    def _allowing(self, origin: str) -> Pairs:
        if self._is_open:
            return [("access-control-allow-origin", "*")]
        if origin in self._origins:
            return [("access-control-allow-origin", origin)]
        return []
