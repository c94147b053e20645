"""FastAPI and nothing else."""

from __future__ import annotations

from fastapi import FastAPI

from benchmarks.lanes.http_routes import add_routes

app = FastAPI()
add_routes(app)
