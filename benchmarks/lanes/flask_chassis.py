"""The chassis around Flask, as a service author writes it; the environment says what it does."""

from __future__ import annotations

from benchmarks.lanes.flask_routes import add_routes
from mainstay import Settings
from mainstay.http.flask import create_app

app = create_app(Settings, __name__)
add_routes(app)
