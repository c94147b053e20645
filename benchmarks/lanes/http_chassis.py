"""The chassis, as a service author writes it; what it does is said by the environment."""

from __future__ import annotations

from benchmarks.lanes.http_routes import add_routes
from mainstay import Settings
from mainstay.http.fastapi import create_app

app = create_app(Settings)
add_routes(app)
