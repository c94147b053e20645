"""Flask and nothing else; its answers as ours are written, in the order of their making."""

from __future__ import annotations

from flask import Flask
from flask.json.provider import DefaultJSONProvider

from benchmarks.lanes.flask_routes import add_routes


class Flat(DefaultJSONProvider):
    sort_keys = False
    compact = True


app = Flask(__name__)
app.json = Flat(app)
add_routes(app)
