"""Limits of HTTP connections: their number, the time and size of a request, and the time to read an answer.

uvicorn limits the idle time between two requests (`timeout_keep_alive`) and pings WebSockets. It has no limit for
connections that send no request or an incomplete one, and none for clients that do not read. `ConnectionGuard` adds
these.

At the maximum, a new connection replaces the one that has waited longest for bytes of its client. If every connection
has a request in progress, the new one gets 503. Idle sockets therefore cannot shut other clients out.
"""

from __future__ import annotations

import asyncio
import resource
import time
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from tickerplant.api.http.errors import error_body
from tickerplant.api.load import LoadCounters

MAX_CONNECTIONS: Final = 2_000
RESERVED_DESCRIPTORS: Final = 256
"""File descriptors that connections leave to the rest of the process: log, database, files, child processes."""
MIN_CONNECTIONS: Final = 16
REQUEST_S: Final = 20.0
"""Maximum seconds from the start of a connection, or from the last answer, until a request is complete."""
UNREAD_S: Final = 30.0
"""Maximum seconds for which a client may read nothing of an answer."""
ANSWER_S: Final = 300.0
"""Maximum seconds for reading one answer."""
MIN_WAIT_S: Final = 1.0
"""Seconds that a connection has for its request before a new connection may replace it."""
SWEEP_S: Final = 1.0
MAX_HEAD_BYTES: Final = 32 * 1024
"""Maximum bytes of a request's first line and headers. uvicorn answers 400 to a larger head."""

_FULL: Final = error_body(
    "too_many_connections", "the maximum number of connections is open", "close unused connections, then try again"
)


def _refusal() -> bytes:
    """Return the whole answer to a connection beyond the maximum."""
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(_FULL)}\r\n"
    return f"{head}retry-after: 2\r\nconnection: close\r\n\r\n".encode() + _FULL


class ConnectionGuard:
    """The limits of one server's HTTP connections. Belongs to the server's event loop."""

    def __init__(self, load: LoadCounters, max_connections: int = MAX_CONNECTIONS) -> None:
        self.max_connections = min(max_connections, max(MIN_CONNECTIONS, descriptor_limit() - RESERVED_DESCRIPTORS))
        self.load = load
        self.waiting: dict[GuardedHttp, float] = {}
        """Start of the wait (monotonic seconds) of each connection that waits for its client, longest wait first."""
        self.connections: set[Any] = set()
        """All open connections, WebSockets included."""

    def protocol(self) -> type[GuardedHttp]:
        """Return the protocol class for uvicorn."""
        return type("GuardedHttp", (GuardedHttp,), {"guard": self})

    def admit(self, connection: GuardedHttp) -> bool:
        """Return whether a new connection may stay. May close another one for it."""
        self.connections = connection.connections
        if len(self.connections) <= self.max_connections:
            return True
        oldest = next(iter(self.waiting), None)
        if oldest is None or time.monotonic() - self.waiting[oldest] < MIN_WAIT_S:
            self.load.refuse("too_many_connections")
            return False
        self.close(oldest, "idle_connection")
        return True

    def close(self, connection: GuardedHttp, reason: str) -> None:
        """Close a connection at once, and count the reason."""
        self.waiting.pop(connection, None)
        self.load.refuse(reason)
        connection.connections.discard(connection)
        connection.transport.abort()

    async def sweep(self) -> None:
        """Close connections that exceed a time limit, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for connection, since in list(self.waiting.items()):
                if now - since <= REQUEST_S:
                    break
                self.close(connection, "slow_request")
            for connection in list(self.connections):
                if isinstance(connection, GuardedHttp) and connection.is_unread(now):
                    self.close(connection, "unread_answer")


class GuardedHttp(H11Protocol):
    """uvicorn's protocol of one HTTP connection, with the limits of `guard`."""

    guard: ConnectionGuard
    _refused = False
    _unread_bytes = 0
    _unread_since = 0.0
    _sending_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or answer 503 and close it."""
        super().connection_made(transport)
        if self.guard.admit(self):
            self.guard.waiting[self] = time.monotonic()
            return
        self._refused = True
        self.connections.discard(self)
        transport.write(_refusal())
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the guard."""
        self.guard.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client. Bytes of a refused connection are dropped."""
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        """Handle parsed parts of requests. A connection with a complete request no longer waits for its client."""
        super().handle_events()
        cycle: RequestResponseCycle | None = self.cycle
        if self.transport.get_protocol() is not self or (
            cycle is not None and not cycle.more_body and not cycle.response_complete
        ):
            self.guard.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has already arrived."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self.guard.waiting.pop(self, None)
            self.guard.waiting[self] = time.monotonic()

    def is_unread(self, now: float) -> bool:
        """Return True if the client reads nothing of its answer, or reads it for too long."""
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unread_bytes, self._sending_since = 0, 0.0
            return False
        self._sending_since = self._sending_since or now
        if size != self._unread_bytes:
            self._unread_bytes, self._unread_since = size, now
        return now - self._unread_since > UNREAD_S or now - self._sending_since > ANSWER_S


def descriptor_limit() -> int:
    """Return the maximum count of file descriptors that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
