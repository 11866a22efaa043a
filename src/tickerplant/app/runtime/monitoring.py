"""A small HTTP server with the metrics and probes of one process: `/metrics`, `/health/live`, `/health/ready`.

Every process that runs services has this server, also without an API. It runs if the setting `monitoring.port` is set.
It needs no key, and answers while the log and the database are unavailable.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from wsgiref import simple_server

import structlog

from tickerplant.core.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from tickerplant.app.config.groups import MonitoringSettings
    from tickerplant.app.runtime.supervisor import Supervisor

MAX_REQUESTS: Final = 8
"""Maximum requests at a time. A further connection is closed without an answer."""
REQUEST_S: Final = 5.0
"""Maximum seconds in which a client sends its request or reads a part of the answer."""

log = structlog.get_logger(__name__)

StartResponse = Callable[[str, list[tuple[str, str]]], object]


class Monitoring:
    """The WSGI application of the server.

    `supervisor` and `registry` are None until the process has opened its log and store.
    """

    def __init__(self) -> None:
        self.supervisor: Supervisor | None = None
        self.registry: Callable[[], CollectorRegistry] | None = None

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", {"error": "only GET and HEAD are allowed"})
        if path == "/health/live":
            return _state(start, self.supervisor.troubles() if self.supervisor is not None else [])
        if path == "/health/ready":
            return _state(start, self._unready())
        if path == "/metrics" and self.registry is not None:
            from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

            start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
            return [generate_latest(self.registry())]
        if path == "/metrics":
            return _answer(start, "503 Service Unavailable", {"error": "the services have not started yet; try again"})
        return _answer(
            start, "404 Not Found", {"error": "there is no such path; use /metrics, /health/live or /health/ready"}
        )

    def _unready(self) -> Sequence[str]:
        """Return the reasons why the process is not ready, one per service that does not run; [] if it is ready."""
        if self.supervisor is None:
            return ["the services have not started yet: they wait for the log or the database"]
        return [
            f"{status.name} is {status.state}{f' after {status.error}' if status.error else ''}"
            for status in self.supervisor.statuses()
            if status.state != "running"
        ]


def _state(start: StartResponse, wrong: Sequence[str]) -> Iterable[bytes]:
    status = "503 Service Unavailable" if wrong else "200 OK"
    return _answer(start, status, {"status": "failed" if wrong else "ok", "wrong": list(wrong)})


def _answer(start: StartResponse, status: str, body: dict[str, Any]) -> Iterable[bytes]:
    start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(body).encode()]


class _Handler(simple_server.WSGIRequestHandler):
    """Writes no line per request."""

    timeout = REQUEST_S

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    """Answers at most `MAX_REQUESTS` requests at a time, each in a thread."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._places = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind the port without the look-up of the host's name, which may wait for DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the request, or close its connection if `MAX_REQUESTS` requests are in progress."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the request, then release its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the error of a request, such as a connection that the client has closed."""


@contextlib.contextmanager
def monitoring(settings: MonitoringSettings) -> Iterator[Monitoring]:
    """Serve metrics and probes for the block, if a port is set. Raises ConfigError if the port cannot be used."""
    answers = Monitoring()
    if settings.port is None:
        yield answers
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        server = _Server((settings.host, settings.port), family)
    except OSError as error:
        raise ConfigError(
            f"the metrics cannot be served on {settings.host}:{settings.port} ({error.strerror or error}); "
            "correct monitoring.host and monitoring.port"
        ) from None
    server.set_app(answers)
    thread = threading.Thread(target=server.serve_forever, name="monitoring", daemon=True)
    thread.start()
    log.info("metrics and probes", address=f"http://{settings.host}:{server.server_port}/metrics")
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
