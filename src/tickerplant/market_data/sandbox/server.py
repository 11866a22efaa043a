"""The sandbox's sockets: one port for REST and WebSocket. All that is said is decided in `protocol` and `model`."""

from __future__ import annotations

import asyncio
import contextlib
import http
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec
import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tickerplant.core.times import SECOND_US
from tickerplant.market_data.sandbox.model import Market, MarketSettings
from tickerplant.market_data.sandbox.protocol import (
    WEBSOCKET_PATH,
    Credits,
    Frames,
    Refused,
    Session,
    answer,
    check_key,
)

TICK_S: Final = 0.01  # prints of 10 ms go together: 100 wake-ups a second
_SLOW_BYTES: Final = 8 * 1024 * 1024  # a client this far behind is dropped, as the vendor does
_MAX_BEHIND_US: Final = 2 * SECOND_US  # after a pause longer than this the stream skips, it does not catch up
_GOODBYE_S: Final = 2.0
_ANSWER_S: Final = 120.0  # years of bars take over 10 s, the library's own limit, on a machine with much else to do


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """The sandbox's market and manners. `stamp` adds `sent_ns` (the clock at sending) to each message of the stream.

    `credits_per_minute` 0 means no limit. `errors_200`: errors come with HTTP 200, as the vendor's sometimes do.
    """

    market: MarketSettings = field(default_factory=MarketSettings)
    stamp: bool = False
    credits_per_minute: int = 0
    errors_200: bool = False
    connections: int = 3


class SandboxPlace(NamedTuple):
    """Where a running sandbox answers. Any key but one that begins with `bad` is good."""

    url: str
    stream_url: str
    symbols: tuple[str, ...]


class Sandbox:
    """The server. Orders (`GET /sandbox/orders?do=…`) make it misbehave:

    `disconnect` drops every connection, `mute&seconds=` keeps them open and says nothing, `refuse&seconds=` turns
    connections away, `429&seconds=` answers REST with a spent quota, `garbage` sends a text that is no JSON.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.market = Market(settings.market)
        self.sent = 0
        """Messages with a price sent since the start, over all connections."""
        self._frames = Frames(self.market)
        self._credits = Credits(settings.credits_per_minute)
        self._sessions: dict[ServerConnection, Session] = {}
        self._server: Server | None = None
        self._pump: asyncio.Task[None] | None = None
        self._until: dict[str, float] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> SandboxPlace:
        """Listen and return where; port 0 takes a free one."""
        self._server = await serve(
            self._connection,
            host,
            port,
            process_request=self._request,
            compression=None,
            ping_interval=None,
            open_timeout=_ANSWER_S,
        )
        port = self._server.sockets[0].getsockname()[1]
        self._pump = asyncio.create_task(self._run())
        shown = f"[{host}]" if ":" in host else host
        return SandboxPlace(
            f"http://{shown}:{port}", f"ws://{shown}:{port}{WEBSOCKET_PATH}", tuple(self.market.symbols)
        )

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        for connection in list(self._sessions):
            connection.transport.abort()
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), _GOODBYE_S)

    def order(self, what: str, seconds: float = 10.0) -> bool:
        """Take an order of the class's docstring; return False for one that is not known. From the server's thread."""
        if what in ("mute", "refuse", "429"):
            self._until[what] = time.monotonic() + seconds
        elif what == "disconnect":
            for connection in list(self._sessions):
                connection.transport.abort()
        elif what == "garbage":
            for connection in list(self._sessions):
                connection.transport.write(b"\x81\x05{oops")
        else:
            return False
        return True

    def _is(self, what: str) -> bool:
        return time.monotonic() < self._until.get(what, 0.0)

    # HTTP ------------------------------------------------------------------------------------------------------------

    async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query))
        key = query.get("apikey") or request.headers.get("X-TD-APIKEY") or _authorization(request)
        if parts.path == WEBSOCKET_PATH:
            try:
                if self._is("refuse"):
                    raise Refused(500, "try again later")
                check_key(key)
            except Refused as refused:
                return _response(refused.code, msgspec.json.encode(refused.body), "application/json", {})
            return None
        now_us = time.time_ns() // 1_000
        if parts.path == "/sandbox/orders":
            known = self.order(query.get("do", ""), float(query.get("seconds", "10")))
            return _response(
                200 if known else 400, b'{"status":"ok"}' if known else b'{"status":"error"}', "application/json", {}
            )
        if self._is("429"):
            body = Refused(
                429, "You have run out of API credits for the current minute. Wait for the next minute."
            ).body
            return _response(429, msgspec.json.encode(body), "application/json", self._credits.headers())
        # The model takes milliseconds for long histories: not on the loop that streams.
        reply = await asyncio.to_thread(
            answer, self.market, parts.path, query | {"apikey": key or ""}, self._credits, now_us,
            errors_200=self.settings.errors_200,
        )  # fmt: skip
        return _response(reply.status, reply.body, reply.content_type, dict(reply.headers))

    # WebSocket -------------------------------------------------------------------------------------------------------

    async def _connection(self, connection: ServerConnection) -> None:
        while len(self._sessions) >= self.settings.connections:
            oldest = next(iter(self._sessions))
            self._sessions.pop(oldest)
            asyncio.ensure_future(oldest.close(1008, "too many connections"))  # noqa: RUF006 - it ends by itself
        session = self._sessions[connection] = Session(self.market)
        try:
            async for message in connection:
                if not self._is("mute"):
                    await connection.send(msgspec.json.encode(session.receive(message)).decode())
        except ConnectionClosed:
            pass
        finally:
            self._sessions.pop(connection, None)

    async def _run(self) -> None:
        """Send the prints of every 10 ms to whoever has subscribed to them."""
        done_us = time.time_ns() // 1_000
        while True:
            await asyncio.sleep(TICK_S)
            now_ns = time.time_ns()
            now_us = now_ns // 1_000
            from_us = max(done_us, now_us - _MAX_BEHIND_US)
            done_us = now_us
            if not self._sessions or self._is("mute"):
                continue
            wanted = np.logical_or.reduce([session.wanted for session in self._sessions.values()])
            if not wanted.any():
                continue
            prints = self.market.prints(from_us, now_us)
            frames = self._frames.make(prints, now_ns if self.settings.stamp else None)
            for connection, session in list(self._sessions.items()):
                self._send(connection, session, prints.codes, frames)

    def _send(self, connection: ServerConnection, session: Session, codes: Any, frames: list[bytes]) -> None:
        if not session.wanted.all():
            frames = [frames[at] for at in np.flatnonzero(session.wanted[codes]).tolist()]
        if not frames:
            return
        # Whole frames, many in one write: the client sees messages, and 10,000 a second cost no 10,000 system calls.
        connection.transport.write(b"".join(frames))
        self.sent += len(frames)
        if connection.transport.get_write_buffer_size() > _SLOW_BYTES:
            connection.transport.abort()


def _authorization(request: Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key if scheme.lower() == "apikey" else None


def _response(status: int, body: bytes, content_type: str, headers: dict[str, str]) -> Response:
    every = {"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close", **headers}
    return Response(status, http.HTTPStatus(status).phrase, Headers(every), body)


@contextlib.contextmanager
def running(settings: SandboxSettings | None = None, host: str = "127.0.0.1", port: int = 0) -> Iterator[SandboxPlace]:
    """Run a sandbox in a thread of its own while the block runs; yield where it answers."""
    ready: list[SandboxPlace | BaseException] = []
    up, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        sandbox = Sandbox(settings or SandboxSettings())
        loops.append(asyncio.get_running_loop())
        ready.append(await sandbox.start(host, port))
        up.set()
        await stop.wait()
        await sandbox.stop()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            ready.append(error)
            up.set()

    thread = threading.Thread(target=work, name="sandbox", daemon=True)
    thread.start()
    up.wait()
    place = ready[0]
    if isinstance(place, BaseException):
        raise place
    try:
        yield place
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)
