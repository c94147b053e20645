"""The usual stack of extensions for Flask: an id, metrics and a JSON line a request.

prometheus-flask-exporter as its README has it; structlog rendering JSON, with the id bound before
each request, as its page on frameworks has it.
"""

from __future__ import annotations

import logging
import sys
import time
import uuid

import structlog
from flask import Flask, Response, g, request
from prometheus_flask_exporter import PrometheusMetrics

from benchmarks.lanes.flask_routes import FlatJson, add_routes

__all__ = ["app", "with_usual_stack"]

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.JSONRenderer(),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    cache_logger_on_first_use=True,
)
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
