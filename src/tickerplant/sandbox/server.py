"""The sandbox's sockets: one port for the REST APIs and streams of all vendors.

`request_router` and the protocols compute responses; this module sends them at the clock's time. It applies the faults
of connections: resets, truncated responses, mute streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import structlog
from websockets.frames import Opcode
from websockets.http11 import Request as UpgradeRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from tickerplant.core.errors import BadInput
from tickerplant.core.times import SECOND_US
from tickerplant.protocols.http_types import Request, Response, json_response
from tickerplant.protocols.market import TradeBatch
from tickerplant.protocols.stream_types import FrameEncoder, StreamSession
from tickerplant.protocols.twelvedata import stream as twelvedata_stream
from tickerplant.protocols.twelvedata.rest import TwelveData
from tickerplant.protocols.yahoo import stream as yahoo_stream
from tickerplant.sandbox.corporate_actions import TradedMarket
from tickerplant.sandbox.endpoint import SandboxEndpoint
from tickerplant.sandbox.fault_injector import FaultyResponse, TradeFaults
from tickerplant.sandbox.fault_script import Fault, parse_fault
from tickerplant.sandbox.http1 import MAX_BODY_BYTES, read_head, read_request, response_head
from tickerplant.sandbox.model import SimulatedMarket
from tickerplant.sandbox.quotas import SECRETS
from tickerplant.sandbox.request_router import (
    CONTROL,
    FAULT_ROUTES,
    SLOW_ROUTES,
    AdmittedRequest,
    RequestRouter,
    SandboxSettings,
    key_is_valid,
)

TICK_S: Final = 0.01
"""Minimum seconds between two sends: at most 100 wake-ups a second."""
LONGEST_TICK_S: Final = 0.05
"""Maximum seconds between two sends, which bounds the delay of trades. At low rates, a send costs 0.6 ms of CPU even
for a few trades."""
_TRADES_PER_TICK: Final = 10
_SLOW_BYTES: Final = 8 * 1024 * 1024  # a client with a larger backlog is disconnected, as at the vendor
_MAX_BEHIND_S: Final = 10.0  # after a longer pause (by the machine's clock) the stream skips trades; see `skipped_us`
_CATCH_UP_S: Final = 0.25  # seconds of trades per batch after a pause, so that clients can keep up
_CLOSE_TIMEOUT_S: Final = 2.0
_TOO_MANY: Final = 1008

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Connection:
    """The socket of one client of a stream, with its subscriptions."""

    vendor: str
    session: StreamSession
    protocol: ServerProtocol
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame. The client's answer, or a timeout of 2 s, ends the connection."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code, reason)
            _flush(self.protocol, self.writer)
            asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self.abort)


@dataclass(slots=True)
class Stream:
    """A vendor's stream with its connections, oldest first, and counters."""

    vendor: str
    encoder: FrameEncoder
    faults: TradeFaults
    new_session: Callable[[], StreamSession]
    connections: list[Connection] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Sandbox:
    """The server. Faults (`GET /sandbox/faults?do=...`, see `fault_script`) change its behaviour."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.model = SimulatedMarket(settings.market)
        self.clock = settings.clock
        self._market = TradedMarket(self.model, settings.splits)
        self._router = RequestRouter(settings, self._market, self.clock.now_us())
        seed, instruments = settings.market.seed, self._market.instruments
        self._streams = {
            twelvedata_stream.PATH: Stream(
                "twelvedata",
                twelvedata_stream.TwelveDataFrames(instruments),
                TradeFaults("twelvedata", seed, len(instruments)),
                lambda: twelvedata_stream.TwelveDataSession(instruments, settings.max_symbols),
            ),
            yahoo_stream.PATH: Stream(
                "yahoo",
                yahoo_stream.YahooFrames(instruments),
                TradeFaults("yahoo", seed, len(instruments)),
                lambda: yahoo_stream.YahooSession(instruments),
            ),
        }
        self._twelvedata = TwelveData()
        self._server: asyncio.Server | None = None
        self._sender: asyncio.Task[None] | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._skipped_us = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> SandboxEndpoint:
        """Listen and return the addresses; port 0 selects a free port."""
        self._server = await asyncio.start_server(self._client, host, port)
        port = self._server.sockets[0].getsockname()[1]
        self._sender = asyncio.create_task(self._run())
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return SandboxEndpoint(
            f"http://{authority}", f"ws://{authority}{twelvedata_stream.PATH}", self.model.symbols, self.clock
        )

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for writer in list(self._clients):
            writer.transport.abort()
        if self._server is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), _CLOSE_TIMEOUT_S)

    def apply(self, fault: Fault) -> None:
        """Apply a fault, also to open connections. Must be called from the server's thread."""
        self._router.apply(fault, self.clock.now_us())
        for stream in self._streams.values():
            if not fault.affects(stream.vendor):
                continue
            for connection in list(stream.connections):
                if fault.do in ("disconnect", "down"):
                    connection.abort()
                elif fault.do == "garbage":
                    connection.writer.write(b"\x81\x05{oops")

    # HTTP ------------------------------------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Respond to the requests of one connection until it ends."""
        self._clients.add(writer)
        try:
            while (head := await read_head(reader)) is not None and await self._serve(head, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # the client disconnected, or did not send HTTP
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _serve(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Respond to one request; return True if the connection remains open for another."""
        request = await read_request(head, reader)
        if request.headers.get("upgrade", "").lower() == "websocket":
            await self._stream(head, request, reader, writer)
            return False
        response = await self._respond(request)
        truncated = False
        if isinstance(response, FaultyResponse):
            if response.delay_s:
                await self.clock.sleep(response.delay_s)
            if response.reset:
                writer.transport.abort()
                return False
            truncated = response.truncated
        keep_alive = request.headers.get("connection", "").lower() != "close" and not truncated
        body = response.body[: len(response.body) // 2] if truncated else response.body
        writer.write(response_head(response, keep_alive=keep_alive) + (b"" if request.method == "HEAD" else body))
        await writer.drain()
        return keep_alive

    async def _respond(self, request: Request) -> Response:
        now_us = self.clock.now_us()
        self._apply_due(now_us)
        if request.path.startswith(CONTROL):
            return await self._control(request, now_us)
        admitted = self._router.admit(request, now_us)
        if not isinstance(admitted, AdmittedRequest):
            return admitted
        try:
            response = await asyncio.to_thread(admitted.respond)
        except Exception as error:  # a bug of the sandbox: report it to the client, which would otherwise wait
            log.exception("the sandbox failed to answer", path=request.path)
            response = Response(500, f"the sandbox failed: {type(error).__name__}: {error}".encode(), "text/plain")
        return self._router.finish(admitted, response, self.clock.now_us())

    async def _control(self, request: Request, now_us: int) -> Response:
        if request.path in FAULT_ROUTES and "do" in request.query:
            return self._apply_request(request)
        streams: dict[str, Any] = {stream.vendor: self._counts(stream) for stream in self._streams.values()}
        streams["skipped_us"] = self._skipped_us
        control, args = self._router.control, (request, now_us, streams)
        # A request for years of bars takes long, and must not block the loop that streams. Quotas are read only on the
        # loop's thread.
        return await asyncio.to_thread(control, *args) if request.path in SLOW_ROUTES else control(*args)

    def _apply_request(self, request: Request) -> Response:
        try:
            # Keys are removed: some clients add a key to every request.
            self.apply(parse_fault({name: value for name, value in request.query.items() if name not in SECRETS}))
        except BadInput as error:
            return json_response({"status": "error", "message": str(error)}, 400)
        return json_response({"status": "ok"})

    def _apply_due(self, now_us: int) -> None:
        """Apply the faults of the script that are due."""
        for fault in self._router.faults.due(now_us):
            self.apply(fault)

    def _counts(self, stream: Stream) -> dict[str, Any]:
        return {"connections": len(stream.connections), **stream.counts, "spoiled": dict(stream.faults.counts)}

    # Streams ---------------------------------------------------------------------------------------------------------

    async def _stream(
        self, head: bytes, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve a WebSocket connection until it ends."""
        protocol = ServerProtocol(max_size=MAX_BODY_BYTES)
        protocol.receive_data(head)
        upgrade = next((event for event in protocol.events_received() if isinstance(event, UpgradeRequest)), None)
        if upgrade is None:
            return
        stream = self._streams.get(request.path)
        refused = self._refuse_stream(stream, request)
        if stream is None or refused is not None:
            refused = refused or json_response({"code": 404, "message": "no such stream", "status": "error"}, 404)
            if isinstance(refused, FaultyResponse) and refused.reset:
                writer.transport.abort()
            else:
                writer.write(response_head(refused, keep_alive=False) + refused.body)
            return
        protocol.send_response(protocol.accept(upgrade))
        _flush(protocol, writer)
        while len(stream.connections) >= self.settings.connections:
            stream.connections.pop(0).close(_TOO_MANY, "too many connections")
        connection = Connection(stream.vendor, stream.new_session(), protocol, writer)
        stream.connections.append(connection)
        stream.counts["opened"] += 1
        stream.counts["most_connections"] = max(stream.counts["most_connections"], len(stream.connections))
        try:
            while data := await reader.read(65_536):
                protocol.receive_data(data)
                self._receive(connection)
                if protocol.close_expected():
                    return
        finally:
            with contextlib.suppress(ValueError):
                stream.connections.remove(connection)

    def _refuse_stream(self, stream: Stream | None, request: Request) -> Response | None:
        """Return the response to a refused stream; None if it is accepted."""
        now_us = self.clock.now_us()
        self._apply_due(now_us)
        if stream is None:
            return None
        faults, vendor = self._router.faults, stream.vendor
        down = faults.active("down", vendor, now_us)
        if down is not None and down.choice("how") == "reset":
            return FaultyResponse(0, reset=True)
        if down is not None or faults.active("refuse", vendor, now_us):
            return json_response({"code": 500, "message": "try again later", "status": "error"}, 500)
        if vendor == "twelvedata" and not key_is_valid(self._twelvedata.api_key(request)):
            return self._twelvedata.key_error()
        return None

    def _receive(self, connection: Connection) -> None:
        """Answer the messages received on a stream's connection."""
        protocol, now_us = connection.protocol, self.clock.now_us()
        mute = self._router.faults.active("mute", connection.vendor, now_us)
        heartbeats = mute is not None and mute.choice("heartbeats") == "yes"
        hidden = self._router.hidden(connection.vendor, now_us)
        for event in protocol.events_received():
            if getattr(event, "opcode", None) not in (Opcode.TEXT, Opcode.BINARY):
                continue
            answer = connection.session.receive(bytes(event.data), hidden)  # type: ignore[union-attr]
            if answer is None or (mute is not None and not (heartbeats and answer.get("event") == "heartbeat")):
                continue
            protocol.send_text(msgspec.json.encode(answer))
        if mute is not None and not heartbeats:
            protocol.data_to_send()  # discards pongs too
        else:
            _flush(protocol, connection.writer)

    async def _run(self) -> None:
        """Send the trades of every `tick_s` to their subscribers."""
        done_us, tick_s = self.clock.now_us(), tick_s_of(self.settings.market.rate * self.clock.speed)
        longest_us, piece_us = (int(s * self.clock.speed * SECOND_US) for s in (_MAX_BEHIND_S, _CATCH_UP_S))
        behind = False
        while True:
            await asyncio.sleep(TICK_S / 10 if behind else tick_s)
            now_us = self.clock.now_us()
            self._apply_due(now_us)
            start_us = max(done_us, now_us - longest_us)
            if start_us > done_us:
                self._skipped_us += start_us - done_us
            done_us = start_us
            if behind and self._has_backlog():
                continue
            done_us = min(now_us, start_us + piece_us)
            behind = done_us < now_us
            trades: TradeBatch | None = None
            for stream in self._streams.values():
                if any(connection.session.subscribed.any() for connection in stream.connections):
                    trades = trades or self._market.trades(start_us, done_us)
                    self._send(stream, trades, done_us)

    def _has_backlog(self) -> bool:
        """Return True if a connection has over 2 MiB of unsent data. The stream then waits at most `_MAX_BEHIND_S`."""
        every = (connection for stream in self._streams.values() for connection in stream.connections)
        return any(connection.writer.transport.get_write_buffer_size() > _SLOW_BYTES // 4 for connection in every)

    def _send(self, stream: Stream, trades: TradeBatch, now_us: int) -> None:
        faults = self._router.faults
        trades = stream.faults.apply(trades, faults, now_us)
        if faults.active("mute", stream.vendor, now_us):
            stream.counts["swallowed"] += len(trades.codes)
            return
        frames = stream.encoder.encode(trades, now_us * 1_000 if self.settings.stamp else None)
        for connection in list(stream.connections):
            self._send_to(connection, stream, trades.codes, frames)

    def _send_to(
        self, connection: Connection, stream: Stream, codes: npt.NDArray[np.int64], frames: list[bytes]
    ) -> None:
        subscribed = connection.session.subscribed
        if not subscribed.all():
            frames = [frames[at] for at in np.flatnonzero(subscribed[codes]).tolist()]
        if not frames or connection.protocol.state is not State.OPEN:
            return
        # Many complete frames per write: 10,000 messages a second must not cost 10,000 system calls.
        connection.writer.write(b"".join(frames))
        stream.counts["sent"] += len(frames)
        if connection.writer.transport.get_write_buffer_size() > _SLOW_BYTES:
            stream.counts["too_slow"] += 1
            connection.abort()


def tick_s_of(rate: float) -> float:
    """Return the seconds between two sends for `rate` trades per second of the machine's clock.

    >>> [tick_s_of(rate) for rate in (1, 50, 500, 10_000)]
    [0.05, 0.05, 0.02, 0.01]
    """
    return min(LONGEST_TICK_S, max(TICK_S, _TRADES_PER_TICK / rate))


def _flush(protocol: ServerProtocol, writer: asyncio.StreamWriter) -> None:
    for data in protocol.data_to_send():
        if data:
            writer.write(data)


@contextlib.contextmanager
def running(
    settings: SandboxSettings | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[SandboxEndpoint]:
    """Run a sandbox in its own thread inside the block; yield its endpoint. Raises the error of a failed start."""
    started: list[SandboxEndpoint | BaseException] = []
    ready, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        sandbox = Sandbox(settings or SandboxSettings())
        loops.append(asyncio.get_running_loop())
        started.append(await sandbox.start(host, port))
        ready.set()
        await stop.wait()
        await sandbox.stop()

    def work() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            started.append(error)
            ready.set()

    thread = threading.Thread(target=work, name="sandbox", daemon=True)
    thread.start()
    ready.wait()
    endpoint = started[0]
    if isinstance(endpoint, BaseException):
        raise endpoint
    try:
        yield endpoint
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)
