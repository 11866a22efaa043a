"""uvicorn's protocol of one WebSocket connection, with limits for the memory that a client can occupy.

- Frames are parsed in turns (`http.loop_turns`), and only after the application has received all earlier messages.
- No frame is parsed while the client does not read: each ping is answered, and the answers would collect in memory.
- A message has at most `MAX_FRAGMENTS` fragments. The library limits their total size, but not their number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode

from tickerplant.api.http.loop_turns import PacedProtocol

if TYPE_CHECKING:
    from websockets.frames import Frame
    from websockets.http11 import Request

    from tickerplant.api.http.connections import ConnectionGuard

DROP_EXTENSION: Final = "tickerplant.drop"
"""ASGI extension of this server: `drop(text, code, reason)` closes a connection even if its socket is full."""
ABORT_S: Final = 5.0
"""Seconds that a dropped client has to read the reason."""
MAX_FRAGMENTS: Final = 1_024
"""Maximum fragments of a message. Another fragment closes the connection with code 1008."""


def stream_protocol(guard: ConnectionGuard) -> type[StreamProtocol]:
    """Return the protocol class of WebSockets for uvicorn."""
    return type("StreamProtocol", (StreamProtocol,), {"guard": guard, "turns": guard.turns})


class StreamProtocol(PacedProtocol, WebSocketsSansIOProtocol):
    """The protocol of a stream client. The application can drop a client whose socket is full, unlike in plain ASGI."""

    guard: ConnectionGuard
    piece_bytes = 1024
    unread_reason = "slow_client"

    def connection_made(self, transport: Any) -> None:
        """Count the connection."""
        super().connection_made(transport)
        self.guard.count(self.client_name, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the count."""
        self.guard.count(self.client_name, -1)
        self.connections.add(self)  # the guard removes a connection that it closes, and uvicorn fails if it is missing
        super().connection_lost(exc)

    def may_parse(self) -> bool:
        """Return False while a message waits for the application, or the client does not read."""
        return not self.read_paused and self.writable.is_set()

    def resume_writing(self) -> None:
        """Continue parsing, because the client reads again."""
        super().resume_writing()
        self.continue_parsing()

    async def receive(self) -> Any:
        """Return the next message. The next frames are parsed when the application has received all messages."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.continue_parsing()
        return message

    def handle_cont(self, event: Frame) -> None:
        """Add a fragment to the message, or close the connection if there are too many."""
        if len(self.frames) < MAX_FRAGMENTS:
            super().handle_cont(event)
        elif not self.close_sent:
            self.conn.fail(CloseCode.POLICY_VIOLATION, f"a message has at most {MAX_FRAGMENTS} fragments")
            self.handle_parser_exception()

    def handle_connect(self, event: Request) -> None:
        """Accept the handshake, and give the application the extension."""
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = dict(self.scope.get("extensions") or {})
            extensions[DROP_EXTENSION] = self._drop
            self.scope["extensions"] = extensions

    def _drop(self, text: str, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_text(text.encode())
        self.conn.send_close(code, reason.encode()[:120].decode(errors="ignore"))
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.stop_keepalive()
        # The application returns now; the connection stays open for the client to read the reason, at most `ABORT_S`.
        self.close_timer = self.loop.call_later(ABORT_S, self.transport.abort)
