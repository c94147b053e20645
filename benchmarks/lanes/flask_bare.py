"""Flask and nothing else, on the server that ours has."""

from __future__ import annotations

from flask import Flask

from benchmarks.lanes.flask_routes import FlatJson, add_routes
from mainstay.http.bridge import Bridge

app = Flask(__name__)
app.json = FlatJson(app)
add_routes(app)
asgi = Bridge(app)
