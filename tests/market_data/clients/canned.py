"""An HTTP server that returns answers prepared by a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(vendor: str, name: str) -> bytes:
    return (GOLDEN / vendor / f"{name}.json").read_bytes().strip()


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0


@dataclass
class Canned:
    """The answers of the server and the requests that it received.

    `answers` contains a list per prefix of path and query. Each request consumes one answer; the last one repeats.
    `asked` contains path and query of each request.
    """

    url: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def put(self, path: str, *answers: Answer | bytes) -> None:
        self.answers[path] = [answer if isinstance(answer, Answer) else Answer(answer) for answer in answers]

    def next(self, address: str) -> Answer:
        parts = urlsplit(address)
        self.asked.append((parts.path, {name: found[0] for name, found in parse_qs(parts.query).items()}))
        for beginning, answers in self.answers.items():
            if f"{parts.path}?{parts.query}".startswith(beginning):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return Answer(b"not found", 404)


@contextmanager
def serving() -> Iterator[Canned]:
    canned = Canned()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = canned.next(self.path)
            time.sleep(answer.delay_s)
            try:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
            except OSError:  # the client has disconnected
                pass

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    canned.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield canned
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
