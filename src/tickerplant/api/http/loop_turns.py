"""Turns of the server's event loop: received bytes are parsed in small pieces, and clients share the turns.

One read of a socket may contain 40,000 frames of a WebSocket, or as many chunks of a body. Parsing them takes half a
second. The protocols of this server therefore hold received bytes, and parse one piece per turn. While a connection has
held bytes, its socket is not read, so that TCP slows the client down.

Limits per round: `TURN_ITEMS` pieces or commands, and `TURN_S` of CPU time. The next turn belongs to the client that
has used the least time. A round begins in the next iteration of the loop or after a pause: `PAUSE_FACTOR` times the
last round's CPU time. Clients' bytes therefore take at most a quarter of the loop's time.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl

from tickerplant.api.fair_places import UsedTime, client_name

TURN_ITEMS: Final = 16
"""Maximum pieces and commands per round. Each may start the work of one request."""
TURN_S: Final = 0.005
"""CPU seconds after which the remaining pieces wait for the next round."""
PAUSE_FACTOR: Final = 3.0
SHORT_S: Final = 0.001
"""CPU seconds below which no pause follows a round. A round with one request takes less."""
ITEM_S: Final = 0.0005
"""Seconds that each piece or command adds to its client's used time, besides the time of parsing."""
PIECE_BYTES: Final = 2 * 1024
"""Bytes of a piece: most requests, or 340 chunks of a body, which take some 5 ms."""
UNREAD_S: Final = 30.0
"""Maximum seconds for which a client may read none of the bytes that are sent to it."""


class LoopTurns:
    """The turns of one event loop. A turn is taken at once if no client waits and the round has turns left."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._used = UsedTime()
        self._left = TURN_ITEMS
        self._spent_s = 0.0
        self._scheduled = False

    def take(self, client: str, work: Callable[[], None]) -> None:
        """Run `work` at once, or when it is its client's turn."""
        if self._has_turns() and not self._waiting:
            self._run(client, work)
        else:
            self.wait(client, work)

    def wait(self, client: str, work: Callable[[], None]) -> None:
        """Run `work` in a later round, when it is its client's turn."""
        self._waiting.setdefault(client, deque()).append(work)
        self._schedule()

    async def of(self, client: str) -> None:
        """Wait for a turn of the client."""
        if self._has_turns() and not self._waiting:
            self._run(client, _nothing)
            return
        turn = asyncio.Event()
        self.wait(client, turn.set)
        await turn.wait()

    def _has_turns(self) -> bool:
        return self._left > 0 and self._spent_s < TURN_S

    def _schedule(self) -> None:
        """Schedule the next round, if it is not scheduled yet."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        """End the round. The next round begins at once, or after a pause."""
        if self._spent_s < SHORT_S:
            self._begin()
        else:
            asyncio.get_running_loop().call_later(PAUSE_FACTOR * self._spent_s, self._begin)

    def _begin(self) -> None:
        self._scheduled, self._left, self._spent_s = False, TURN_ITEMS, 0.0
        while self._waiting and self._has_turns():
            client = self._used.least(self._waiting)
            queue = self._waiting[client]
            work = queue.popleft()
            if not queue:
                del self._waiting[client]
            self._run(client, work)
        if self._waiting:
            self._schedule()

    def _run(self, client: str, work: Callable[[], None]) -> None:
        self._left -= 1
        self._schedule()
        began = time.thread_time()
        try:
            work()
        finally:
            seconds = time.thread_time() - began
            self._spent_s += seconds
            self._used.add(client, seconds + ITEM_S)


def _nothing() -> None:
    pass


class PacedProtocol(asyncio.Protocol):
    """Mixin of a server's protocol: it holds received bytes, and passes one piece per turn to the protocol's parser.

    A class that uses it has `transport` and `connections` (uvicorn), and defines `may_parse`.
    """

    turns: LoopTurns
    piece_bytes = PIECE_BYTES
    transport: asyncio.Transport
    client_name = ""
    unread_reason = "unread_answer"
    """Reason for closing a connection whose client does not read, as `/health` and the metrics count it."""
    _in_turn = False
    _unread_bytes = 0
    _unread_since = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._held = bytearray()

    def may_parse(self) -> bool:
        """Return False while the application has not received the data that was parsed before."""
        raise NotImplementedError

    def connection_made(self, transport: Any) -> None:
        """Store the client's address."""
        peer = transport.get_extra_info("peername")
        self.client_name = client_name(str(peer[0])) if isinstance(peer, tuple) else ""
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the held bytes."""
        self._held.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hold bytes of the client, and parse the first piece at once if it is the client's turn."""
        self._held += data
        if not self._in_turn and self.may_parse():
            self._in_turn = True
            self.turns.take(self.client_name, self._parse_piece)
        if self._held and not self.transport.is_closing():
            self.transport.pause_reading()

    def continue_parsing(self) -> None:
        """Parse held bytes in a later turn, or read the socket if none are held.

        Call this method when the result of `may_parse` becomes true.
        """
        if not self._held:
            if not self.transport.is_closing() and self.may_parse():
                self.transport.resume_reading()
        elif not self._in_turn and self.may_parse():
            self._in_turn = True
            self.turns.wait(self.client_name, self._parse_piece)

    def _parse_piece(self) -> None:
        self._in_turn = False
        if not self._held or self.transport.is_closing() or not self.may_parse():
            return
        piece = bytes(self._held[: self.piece_bytes])
        del self._held[: self.piece_bytes]
        try:
            super().data_received(piece)
        except Exception:
            self.transport.abort()
            raise
        self.continue_parsing()

    def is_unread(self, now: float) -> bool:
        """Return True if the client has read none of the bytes sent to it for `UNREAD_S` seconds."""
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unread_bytes = 0
            return False
        if size != self._unread_bytes:
            self._unread_bytes, self._unread_since = size, now
        return now - self._unread_since > UNREAD_S


class PacedFlow(FlowControl):
    """uvicorn's flow control of an HTTP connection, which resumes reading through `PacedProtocol.continue_parsing`."""

    def __init__(self, transport: asyncio.Transport, resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self._resume = resume

    def detach(self) -> None:
        """Drop the reference to the protocol, which refers to this object. Call it after the connection's end."""
        self._resume = _nothing

    def resume_reading(self) -> None:
        """Resume reading, with the held bytes first."""
        if self.read_paused:
            self.read_paused = False
            self._resume()
