"""OpenTelemetry's instrumentation of FastAPI and nothing else; FastAPI's own spans are off."""

from __future__ import annotations

from fastapi import FastAPI

from benchmarks.lanes.http_routes import add_routes
from benchmarks.peers.http_traced import instrument

app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
add_routes(app)
instrument(app)
