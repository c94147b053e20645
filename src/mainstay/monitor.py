"""What does a process answer that is asked how it is? The five routes, and a port for them.

Processes that serve HTTP answer them on their own port; all others start a :class:`Monitor`.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, NamedTuple

import orjson

from mainstay.context import Context
from mainstay.errors import Misconfigured

if TYPE_CHECKING:
    from mainstay.health import Report
    from mainstay.service import Service

__all__ = ["PATHS", "Answer", "Monitor", "aanswer", "answer"]

PATHS = frozenset({"/health", "/ready", "/readyz", "/healthz", "/metrics"})
"""What :func:`answer` knows."""

_JSON = "application/json"
_PROBLEM = "application/problem+json"
_NOTHING_ELSE = "only GET and HEAD of /health, /healthz, /metrics and /ready are answered"
_NOTHING_HERE = "there is nothing here; /health, /healthz, /metrics and /ready are answered"
_REQUEST_SECONDS = 5.0
_POLL_SECONDS = 0.1  # how long it takes at most to hear that it is to close


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    content_type: str
    body: bytes


def answer(service: Service, path: str) -> Answer | None:
    """Answer one of the five routes; ``None`` for any other path.

    Takes up to two seconds when a server that is asked does not answer, so not on an event loop:
    there it is :func:`aanswer`.

    Args:
        service: Whose health and metrics are asked for.
        path: Without a query.
    """
    match path:
        case "/health":
            return _shown(service.health.health())
        case "/ready" | "/readyz":
            return _shown(service.health.ready())
        case "/healthz":
            return _shown(service.health.alive())
        case "/metrics" if service.settings.metrics_enabled:
            body, content_type = service.metrics.exposition()
            return Answer(200, content_type, body)
        case _:
            return None


async def aanswer(service: Service, path: str) -> Answer | None:
    """As :func:`answer`, without stopping the event loop."""
    match path:
        case "/health":
            return _shown(await service.health.ahealth())
        case "/ready" | "/readyz":
            return _shown(await service.health.aready())
        case "/metrics":
            return await service.health.aside(lambda: answer(service, path))
        case _:
            return answer(service, path)


class Monitor:
    """Serves the five routes from a thread of its own, beside work that has no port.

    Args:
        service: Who answers.
        host: The address to listen on.
        port: 0 takes a free one; it is in :attr:`port` and in the log.

    Raises:
        Misconfigured: The address cannot be had.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        try:
            self._server = _Server((host, port), service)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise Misconfigured(
                f"/metrics and /health cannot be served on {host}:{port}: {reason}; give this "
                f"process another metrics_port (APP_METRICS_PORT), or 0 for a free one"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(_POLL_SECONDS,),
            name="monitor",
            daemon=True,
        )
        self._thread.start()
        service.logs.write(
            "info",
            "mainstay",
            f"/metrics and /health are on http://{host}:{self.port}",
            event="monitor_started",
            port=self.port,
        )

    def close(self) -> None:
        """Stop answering. Can be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_REQUEST_SECONDS)

    def forget(self) -> None:
        """In a forked child: let go of the port, which is the parent's."""
        self._server.socket.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # More than a scraper and a few probes: somebody who only opens connections.
    most_at_once = 32
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], service: Service) -> None:
        self.service = service
        self._places = threading.BoundedSemaphore(self.most_at_once)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer asks the resolver for the host's full name here, which can take seconds.
        TCPServer.server_bind(self)

    def process_request(self, request: object, client_address: object) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)  # type: ignore[arg-type]  # a socket
            return
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]  # likewise
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]  # likewise
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the asker went away, and the next one will ask again."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "mainstay"
    sys_version = ""
    timeout = _REQUEST_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._send(
            answer(self.server.service, path) or self._problem(404, "Not found", _NOTHING_HERE)
        )

    do_HEAD = do_GET  # noqa: N815 - the names are http.server's

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server refuses by itself: other methods, headers that are too long."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == 501 else HTTPStatus(code)
        self.request_version = "HTTP/1.1"  # or what cannot be read is answered as HTTP/0.9
        self._send(self._problem(status, status.phrase, _NOTHING_ELSE))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a probe a second is no news."""

    def _problem(self, status: int, title: str, detail: str) -> Answer:
        headers = getattr(self, "headers", None) or {}
        context = Context.extract({name.lower(): value for name, value in headers.items()})
        problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": getattr(self, "path", "/"),
            "correlation_id": context.correlation_id,
        }
        return Answer(status, _PROBLEM, orjson.dumps(problem, default=str))

    def _send(self, sent: Answer) -> None:
        self.send_response(sent.status)
        if sent.status == 405:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", sent.content_type)
        self.send_header("Content-Length", str(len(sent.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent.body)


def _shown(report: Report) -> Answer:
    body = orjson.dumps(report.as_dict(), default=str)
    return Answer(report.http_status, _JSON, body)
