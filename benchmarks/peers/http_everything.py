"""The usual stack with OpenTelemetry's instrumentation around it."""

from __future__ import annotations

from benchmarks.peers.http_traced import instrument
from benchmarks.peers.http_usual import app

__all__ = ["app"]

instrument(app)
