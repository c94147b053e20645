"""FastAPI's own telemetry and nothing else."""

from __future__ import annotations

from fastapi import FastAPI
from opentelemetry import trace

from benchmarks.lanes.http_routes import add_routes
from benchmarks.peers.http_traced import provider

trace.set_tracer_provider(provider())
app = FastAPI()
add_routes(app)
