"""The usual stack of extensions for Flask: an id, metrics and a JSON line a request.

prometheus-flask-exporter as its README has it; structlog with the id bound before each request.
"""

from __future__ import annotations

import time
import uuid

import structlog
from flask import Flask, Response, g, request
from prometheus_flask_exporter import PrometheusMetrics

from benchmarks.lanes.flask_routes import FlatJson, add_routes
from benchmarks.peers.usual_logs import configure_logs

__all__ = ["app", "with_usual_stack"]

configure_logs()
logger = structlog.get_logger()


def with_usual_stack(app: Flask) -> Flask:
    """Add the extensions and the hooks."""
    PrometheusMetrics(app)

    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()
        g.request_id = request.headers.get("X-Request-ID") or str(uuid.uuid4())
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)

    @app.after_request
    def log_request(response: Response) -> Response:
        response.headers["X-Request-ID"] = g.request_id
        logger.info(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            duration_ms=round((time.perf_counter() - g.started) * 1000, 3),
        )
        return response

    return app


app = Flask(__name__)
app.json = FlatJson(app)
add_routes(app)
with_usual_stack(app)
