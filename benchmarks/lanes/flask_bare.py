"""Flask and nothing else."""

from __future__ import annotations

from flask import Flask

from benchmarks.lanes.flask_routes import FlatJson, add_routes

app = Flask(__name__)
app.json = FlatJson(app)
add_routes(app)
