"""Limits of HTTP connections: their number, the time and size of a request, and the time to read an answer.

uvicorn limits the idle time between two requests (`timeout_keep_alive`) and pings WebSockets. It has no limit for
connections without a complete request, and none for clients that do not read. `ConnectionGuard` adds these limits.

At the maximum, a new connection replaces a connection of the client with the most connections. The replaced connection
has waited longest for bytes. If none of that client's connections waits, it is a connection of any client. If no
connection has waited long enough, the new connection gets 503. Idle sockets therefore cannot exclude other clients. One
client may have all but a tenth of the connections. Above that share, the client's new connections replace its own
connections.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from tickerplant.api.http.errors import error_body
from tickerplant.api.http.loop_turns import LoopTurns, PacedFlow, PacedProtocol
from tickerplant.api.http.repeated_requests import RepeatedRequests, RepeatingProtocol
from tickerplant.api.load import LoadCounters

MAX_CONNECTIONS: Final = 2_000
RESERVED_DESCRIPTORS: Final = 256
"""File descriptors reserved for other parts of the process: log, database, files, child processes."""
MIN_CONNECTIONS: Final = 16
OTHERS_SHARE: Final = 0.1
"""Share of connections, and of the stream's clients, that is reserved for other clients."""
REQUEST_S: Final = 20.0
"""Maximum seconds from the start of a connection, or from the last answer, until a request is complete."""
ANSWER_S: Final = 300.0
"""Maximum seconds for reading one answer."""
MIN_WAIT_S: Final = 1.0
"""Seconds that a connection has for its request before a new connection may replace it."""
SWEEP_S: Final = 1.0
MAX_REST_BYTES: Final = 64 * 1024
"""Maximum bytes of a body that a client sends after the answer. Further bytes are dropped, and the connection ends."""
LINGER_S: Final = 2.0
"""Seconds in which a client that exceeds `MAX_REST_BYTES` can read the answer. An immediate close could discard it."""
MAX_HEAD_BYTES: Final = 32 * 1024
"""Maximum bytes of a request's first line and headers. uvicorn answers 400 to a larger head."""

_FULL: Final = error_body(
    "too_many_connections", "the maximum number of connections is open", "close unused connections, then try again"
)


def _refusal() -> bytes:
    """Return the complete answer to a connection beyond the maximum."""
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(_FULL)}\r\n"
    return f"{head}retry-after: 2\r\nconnection: close\r\n\r\n".encode() + _FULL


class ConnectionGuard:
    """The limits of one server's HTTP connections. Belongs to the server's event loop."""

    def __init__(
        self, load: LoadCounters, max_connections: int = MAX_CONNECTIONS, turns: LoopTurns | None = None,
        repeated: RepeatedRequests | None = None,
    ) -> None:  # fmt: skip
        self.max_connections = min(max_connections, max(MIN_CONNECTIONS, descriptor_limit() - RESERVED_DESCRIPTORS))
        self.max_of_client = share_of_client(self.max_connections)
        self.load = load
        self.turns = turns or LoopTurns()
        self.repeated = repeated
        self.waiting: dict[GuardedHttp, float] = {}
        """Start of the wait (monotonic seconds) of each connection that waits for its client, longest wait first."""
        self.connections: set[Any] = set()
        """All open connections, WebSockets included."""
        self.of_client: Counter[str] = Counter()
        """Count of open connections by client."""

    def protocol(self) -> type[GuardedHttp]:
        """Return the protocol class for uvicorn."""
        return type("GuardedHttp", (GuardedHttp,), {"guard": self, "turns": self.turns, "repeated": self.repeated})

    def admit(self, connection: GuardedHttp) -> bool:
        """Return whether a new connection may stay. May close another connection instead."""
        self.connections, client = connection.connections, connection.client_name
        if self.of_client[client] > self.max_of_client:
            oldest = self._oldest(client)
        elif len(self.connections) > self.max_connections:
            [(greatest, _)] = self.of_client.most_common(1)
            oldest = self._oldest(greatest) or self._oldest(None)
        else:
            return True
        if oldest is None or time.monotonic() - self.waiting[oldest] < MIN_WAIT_S:
            self.load.refuse("too_many_connections")
            return False
        self.close(oldest, "idle_connection")
        return True

    def _oldest(self, client: str | None) -> GuardedHttp | None:
        """Return the longest waiting connection of `client`, or of any client if `client` is None.

        Returns None if no connection waits.
        """
        return next((one for one in self.waiting if client in (None, one.client_name)), None)

    def count(self, client: str, change: int) -> None:
        """Add `change` to the count of a client's open connections."""
        self.of_client[client] += change
        if not self.of_client[client]:
            del self.of_client[client]

    def close(self, connection: Any, reason: str) -> None:
        """Close a connection at once, and count the reason."""
        self.waiting.pop(connection, None)
        self.load.refuse(reason)
        connection.connections.discard(connection)
        connection.transport.abort()

    async def sweep(self) -> None:
        """Close connections that exceed a time limit, and drop ended answers, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            if self.repeated is not None:
                self.repeated.cache.sweep()
            now = time.monotonic()
            for connection, since in list(self.waiting.items()):
                if now - since <= REQUEST_S:
                    break
                self.close(connection, "slow_request")
            for connection in list(self.connections):
                if isinstance(connection, PacedProtocol) and connection.is_unread(now):
                    self.close(connection, connection.unread_reason)


class GuardedHttp(PacedProtocol, RepeatingProtocol):
    """uvicorn's protocol of one HTTP connection, with the limits of `guard`."""

    guard: ConnectionGuard
    _refused = False
    _ending: asyncio.TimerHandle | None = None
    _rest_bytes = 0
    _sending_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or answer 503 and close it."""
        super().connection_made(transport)
        self.flow = PacedFlow(transport, self.continue_parsing)
        self.guard.count(self.client_name, 1)
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
        self.guard.count(self.client_name, -1)
        if self._ending is not None:
            self._ending.cancel()
        super().connection_lost(exc)
        assert isinstance(self.flow, PacedFlow)
        self.flow.detach()

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client. Bytes of a refused or ending connection are dropped."""
        if self._refused or self._ending is not None:
            return
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            self._rest_bytes += len(data)
            if self._rest_bytes > MAX_REST_BYTES:
                self._held.clear()
                self.transport.resume_reading()
                self._ending = self.loop.call_later(LINGER_S, self.transport.abort)
        else:
            self._rest_bytes = 0

    def may_parse(self) -> bool:
        """Return False while a request's body or a further request waits for the application."""
        return not self.flow.read_paused and not self.awaits_answer

    def continue_parsing(self) -> None:
        """Parse held bytes, or resume reading. After a handshake, the stream's protocol parses further bytes."""
        if self.transport.get_protocol() is self:
            super().continue_parsing()
        else:
            self._held.clear()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Pass the connection on to the stream's protocol, which counts it instead."""
        self.guard.count(self.client_name, -1)
        super().handle_websocket_upgrade(event)

    def handle_events(self) -> None:
        """Handle parsed parts of requests. A connection with a complete request no longer waits for its client."""
        super().handle_events()
        cycle: RequestResponseCycle | None = self.cycle
        if self.transport.get_protocol() is not self or (
            cycle is not None and not cycle.more_body and not cycle.response_complete
        ):
            self.guard.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        """Mark the connection as waiting for its next request, unless the request has already arrived."""
        super().on_response_complete()
        if not self.transport.is_closing() and self.cycle.response_complete:
            self.answered()

    def answered(self) -> None:
        """Mark the connection as waiting for its next request."""
        self.guard.waiting.pop(self, None)
        self.guard.waiting[self] = time.monotonic()

    def await_answer(self) -> None:
        """Mark the connection as one that does not wait for its client."""
        self.guard.waiting.pop(self, None)

    def in_turn(self, work: Callable[[], None]) -> None:
        """Run `work` when it is the client's turn."""
        self.turns.wait(self.client_name, work)

    def go_on(self) -> None:
        """Parse held bytes, or read on."""
        self.continue_parsing()

    def is_unread(self, now: float) -> bool:
        """Return True if the client has read nothing for `UNREAD_S` seconds, or has read an answer for `ANSWER_S`."""
        if not self.transport.get_write_buffer_size():
            self._sending_since = 0.0
        else:
            self._sending_since = self._sending_since or now
        return super().is_unread(now) or (self._sending_since > 0 and now - self._sending_since > ANSWER_S)


def share_of_client(places: int) -> int:
    """Return the maximum number of these places that one client may use."""
    return places - max(1, int(places * OTHERS_SHARE))


def descriptor_limit() -> int:
    """Return the maximum count of file descriptors that this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
