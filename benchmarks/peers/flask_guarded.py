"""The usual stack with traces, tokens and a rate limit: OpenTelemetry's instrumentation,
Flask-JWT-Extended and Flask-Limiter, each as its documentation has it.
"""

from __future__ import annotations

import os

from flask import Flask
from flask_jwt_extended import JWTManager, verify_jwt_in_request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from opentelemetry.instrumentation.flask import FlaskInstrumentor

from benchmarks.lanes.flask_routes import FlatJson, add_routes
from benchmarks.peers.flask_usual import with_usual_stack
from benchmarks.peers.http_traced import provider

app = Flask(__name__)
app.json = FlatJson(app)
app.config.update(
    JWT_SECRET_KEY=os.environ["JWT_SECRET_KEY"],
    JWT_DECODE_AUDIENCE="python-service",
    JWT_DECODE_ISSUER="python-service",
)
JWTManager(app)
Limiter(
    get_remote_address,
    app=app,
    default_limits=["1000000/second"],
    storage_uri="memory://",
)


@app.before_request
def check_token() -> None:
    verify_jwt_in_request()


add_routes(app)
with_usual_stack(app)
FlaskInstrumentor().instrument_app(app, tracer_provider=provider())
