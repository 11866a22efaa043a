"""The sandbox's sockets: one port for all vendors' REST and streams. What is said is decided elsewhere, purely.

HTTP/1.1 with connections kept alive is written out here, for faults need what no framework gives: an answer that breaks
off, a connection reset before any, a socket that is open and mute.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import numpy as np
import numpy.typing as npt
import structlog
from websockets.frames import Opcode
from websockets.http11 import Request as UpgradeRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from tickerplant.core.errors import BadInput
from tickerplant.core.times import SECOND_US, BoolArray
from tickerplant.protocols.http_types import Reply, Request, json_reply
from tickerplant.protocols.twelvedata import stream as twelvedata_stream
from tickerplant.protocols.twelvedata.rest import TwelveData
from tickerplant.protocols.yahoo import stream as yahoo_stream
from tickerplant.sandbox.corporate_actions import Tape
from tickerplant.sandbox.endpoint import SandboxPlace
from tickerplant.sandbox.fault_injector import Mangler
from tickerplant.sandbox.fault_script import Order, read_order
from tickerplant.sandbox.model import Market, Prints
from tickerplant.sandbox.quotas import SECRETS
from tickerplant.sandbox.request_router import CONTROL, SLOW, Admitted, Front, SandboxSettings

TICK_S: Final = 0.01  # prints of 10 ms go together: 100 wake-ups a second
_SLOW_BYTES: Final = 8 * 1024 * 1024  # a client this far behind is dropped, as the vendor does
_MAX_BEHIND_S: Final = 10.0  # after a pause longer than this (real time) the stream skips; the counts say so
_CATCH_UP_S: Final = 0.25  # what is sent at once after a pause, so that clients can keep up
_GOODBYE_S: Final = 2.0
_MAX_BODY: Final = 1 << 20
_TOO_MANY: Final = 1008

log = structlog.get_logger(__name__)


class Session(Protocol):
    """One connection of a vendor's stream: bool[symbols] that it wants, and what it is answered."""

    wanted: BoolArray

    def receive(self, text: str | bytes, unknown: set[str]) -> dict[str, Any] | None:
        """Return the answer to a message, or None."""
        ...


class Frames(Protocol):
    """Makes frames of prints."""

    def make(self, prints: Prints, sent_ns: int | None) -> list[bytes]:
        """Return one frame for each print."""
        ...


@dataclass(eq=False, slots=True)
class Connection:
    """A stream's socket."""

    vendor: str
    session: Session
    protocol: ServerProtocol
    writer: asyncio.StreamWriter

    def abort(self) -> None:
        """Break the connection."""
        self.writer.transport.abort()

    def close(self, code: int, reason: str) -> None:
        """Say good-bye; the client's answer ends it."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code, reason)
            _flush(self.protocol, self.writer)
            asyncio.get_running_loop().call_later(_GOODBYE_S, self.abort)


@dataclass(slots=True)
class Stream:
    """A vendor's stream: its connections, oldest first, and what was counted."""

    vendor: str
    frames: Frames
    mangler: Mangler
    session: Callable[[], Session]
    connections: list[Connection] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Sandbox:
    """The server. Orders (`GET /sandbox/orders?do=…`, see `sandbox.orders`) make it misbehave."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.market = Market(settings.market)
        self.clock = settings.clock
        self._tape = Tape(self.market, settings.splits)
        self._front = Front(settings, self._tape, self.clock.now_us())
        seed, symbols = settings.market.seed, len(self.market.symbols)
        self._streams = {
            twelvedata_stream.PATH: Stream(
                "twelvedata",
                twelvedata_stream.Frames(self.market),
                Mangler("twelvedata", seed, symbols),
                lambda: twelvedata_stream.Session(self.market, settings.max_symbols),
            ),
            yahoo_stream.PATH: Stream(
                "yahoo",
                yahoo_stream.YahooFrames(self._tape),
                Mangler("yahoo", seed, symbols),
                lambda: yahoo_stream.YahooSession(self._tape),
            ),
        }
        self._key_check = TwelveData()
        self._server: asyncio.Server | None = None
        self._pump: asyncio.Task[None] | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._skipped_us = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> SandboxPlace:
        """Listen and return where; port 0 takes a free one."""
        self._server = await asyncio.start_server(self._client, host, port)
        port = self._server.sockets[0].getsockname()[1]
        self._pump = asyncio.create_task(self._run())
        shown = f"[{host}]" if ":" in host else host
        return SandboxPlace(
            f"http://{shown}:{port}",
            f"ws://{shown}:{port}{twelvedata_stream.PATH}",
            tuple(self.market.symbols),
            self.clock,
        )

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for writer in list(self._clients):
            writer.transport.abort()
        if self._server is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), _GOODBYE_S)

    def order(self, order: Order) -> None:
        """Take an order. From the server's thread."""
        now_us = self.clock.now_us()
        self._front.take(order, now_us)
        for stream in self._streams.values():
            if not order.of(stream.vendor):
                continue
            for connection in list(stream.connections):
                if order.do in ("disconnect", "down"):
                    connection.abort()
                elif order.do == "garbage":
                    connection.writer.write(b"\x81\x05{oops")

    # HTTP ------------------------------------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it ends."""
        self._clients.add(writer)
        try:
            while (head := await _head(reader)) is not None and await self._serve(head, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # the client went away, or speaks no HTTP
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _serve(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another may follow."""
        request = await _request(head, reader)
        if request.headers.get("upgrade", "").lower() == "websocket":
            await self._stream(head, request, reader, writer)
            return False
        reply = await self._answer(request)
        if reply.wait_s:
            await self.clock.sleep(reply.wait_s)
        if reply.reset:
            writer.transport.abort()
            return False
        keep = request.headers.get("connection", "").lower() != "close" and not reply.cut
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        writer.write(_response_head(reply, keep=keep) + (b"" if request.method == "HEAD" else body))
        await writer.drain()
        return keep

    async def _answer(self, request: Request) -> Reply:
        now_us = self.clock.now_us()
        self._scripted(now_us)
        if request.path.startswith(CONTROL):
            if request.path == f"{CONTROL}orders" and "do" in request.query:
                return self._ordered(request)
            streams: dict[str, Any] = {stream.vendor: self._counts(stream) for stream in self._streams.values()}
            streams["skipped_us"] = self._skipped_us
            control, args = self._front.control, (request, now_us, streams)
            # Years of bars take a while: not on the loop that streams. The books are read by their own thread alone.
            return await asyncio.to_thread(control, *args) if request.path in SLOW else control(*args)
        found = self._front.admit(request, now_us)
        if isinstance(found, Admitted):
            try:
                reply = await asyncio.to_thread(found.answer)
            except Exception as error:  # a mistake of the sandbox's: loud, and no silence for the client to wait on
                log.exception("the sandbox failed to answer", path=request.path)
                reply = Reply(500, f"the sandbox failed: {type(error).__name__}: {error}".encode(), "text/plain")
            return self._front.finish(found, reply, self.clock.now_us())
        return found

    def _ordered(self, request: Request) -> Reply:
        try:
            # A client that sends its key with everything is not refused for that.
            self.order(read_order({name: value for name, value in request.query.items() if name not in SECRETS}))
        except BadInput as error:
            return json_reply({"status": "error", "message": str(error)}, 400)
        return json_reply({"status": "ok"})

    def _scripted(self, now_us: int) -> None:
        """Take the orders of the script whose time has come."""
        for order in self._front.orders.due(now_us):
            self.order(order)

    def _counts(self, stream: Stream) -> dict[str, Any]:
        return {"connections": len(stream.connections), **stream.counts, "spoiled": dict(stream.mangler.counts)}

    # Streams ---------------------------------------------------------------------------------------------------------

    async def _stream(
        self, head: bytes, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Speak WebSocket on a connection until it ends."""
        protocol = ServerProtocol(max_size=_MAX_BODY)
        protocol.receive_data(head)
        upgrade = next((event for event in protocol.events_received() if isinstance(event, UpgradeRequest)), None)
        if upgrade is None:
            return
        stream = self._streams.get(request.path)
        refused = self._turned_away(stream, request)
        if stream is None or refused is not None:
            refused = refused or json_reply({"code": 404, "message": "no such stream", "status": "error"}, 404)
            if not refused.reset:
                writer.write(_response_head(refused, keep=False) + refused.body)
            else:
                writer.transport.abort()
            return
        protocol.send_response(protocol.accept(upgrade))
        _flush(protocol, writer)
        while len(stream.connections) >= self.settings.connections:
            stream.connections.pop(0).close(_TOO_MANY, "too many connections")
        connection = Connection(stream.vendor, stream.session(), protocol, writer)
        stream.connections.append(connection)
        stream.counts["opened"] += 1
        stream.counts["most_connections"] = max(stream.counts["most_connections"], len(stream.connections))
        try:
            while data := await reader.read(65_536):
                protocol.receive_data(data)
                self._hear(connection)
                if protocol.close_expected():
                    return
        finally:
            with contextlib.suppress(ValueError):
                stream.connections.remove(connection)

    def _turned_away(self, stream: Stream | None, request: Request) -> Reply | None:
        """Return the answer to who may not have a stream now."""
        now_us = self.clock.now_us()
        self._scripted(now_us)
        if stream is None:
            return None
        orders, vendor = self._front.orders, stream.vendor
        down = orders.active("down", vendor, now_us)
        if down is not None and down.choice("how") == "reset":
            return Reply(0, reset=True)
        if down is not None or orders.active("refuse", vendor, now_us):
            return json_reply({"code": 500, "message": "try again later", "status": "error"}, 500)
        return self._key_check.bad_key(request) if vendor == "twelvedata" else None

    def _hear(self, connection: Connection) -> None:
        """Answer what came on a stream's connection."""
        protocol, now_us = connection.protocol, self.clock.now_us()
        mute = self._front.orders.active("mute", connection.vendor, now_us)
        alive = mute is not None and mute.choice("heartbeats") == "yes"
        unknown = self._front.unknown(connection.vendor, now_us)
        for event in protocol.events_received():
            if getattr(event, "opcode", None) not in (Opcode.TEXT, Opcode.BINARY):
                continue
            answer = connection.session.receive(bytes(event.data), unknown)  # type: ignore[union-attr]
            if answer is None or (mute is not None and not (alive and answer.get("event") == "heartbeat")):
                continue
            protocol.send_text(msgspec.json.encode(answer))
        if mute is not None and not alive:
            protocol.data_to_send()  # pongs too are swallowed
        else:
            _flush(protocol, connection.writer)

    async def _run(self) -> None:
        """Send the prints of every 10 ms to whoever has subscribed to them."""
        done_us = self.clock.now_us()
        longest_us, piece_us = (int(s * self.clock.speed * SECOND_US) for s in (_MAX_BEHIND_S, _CATCH_UP_S))
        behind = False
        while True:
            await asyncio.sleep(TICK_S / 10 if behind else TICK_S)
            now_us = self.clock.now_us()
            self._scripted(now_us)
            from_us = max(done_us, now_us - longest_us)
            if from_us > done_us:
                self._skipped_us += from_us - done_us
            done_us = from_us
            if behind and self._full():
                continue
            done_us = min(now_us, from_us + piece_us)
            behind = done_us < now_us
            prints: Prints | None = None
            for stream in self._streams.values():
                if any(connection.session.wanted.any() for connection in stream.connections):
                    prints = prints or self._tape.prints(from_us, done_us)
                    self._send(stream, prints, done_us)

    def _full(self) -> bool:
        """Whether a client has much to read yet: what lies behind waits for it, within the longest pause."""
        every = (connection for stream in self._streams.values() for connection in stream.connections)
        return any(connection.writer.transport.get_write_buffer_size() > _SLOW_BYTES // 4 for connection in every)

    def _send(self, stream: Stream, prints: Prints, now_us: int) -> None:
        orders = self._front.orders
        prints = stream.mangler.mangle(prints, orders, now_us)
        if orders.active("mute", stream.vendor, now_us):
            stream.counts["swallowed"] += len(prints.codes)
            return
        frames = stream.frames.make(prints, now_us * 1_000 if self.settings.stamp else None)
        for connection in list(stream.connections):
            self._send_to(connection, stream, prints.codes, frames)

    def _send_to(
        self, connection: Connection, stream: Stream, codes: npt.NDArray[np.int64], frames: list[bytes]
    ) -> None:
        wanted = connection.session.wanted
        if not wanted.all():
            frames = [frames[at] for at in np.flatnonzero(wanted[codes]).tolist()]
        if not frames or connection.protocol.state is not State.OPEN:
            return
        # Whole frames, many in one write: the client sees messages, and 10,000 a second cost no 10,000 system calls.
        connection.writer.write(b"".join(frames))
        stream.counts["sent"] += len(frames)
        if connection.writer.transport.get_write_buffer_size() > _SLOW_BYTES:
            stream.counts["too_slow"] += 1
            connection.abort()


def _flush(protocol: ServerProtocol, writer: asyncio.StreamWriter) -> None:
    for data in protocol.data_to_send():
        if data:
            writer.write(data)


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    """Return the head of the next request, or None at the end of the connection."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None


async def _request(head: bytes, reader: asyncio.StreamReader) -> Request:
    """Return the request, its body read. Raises ValueError for what is no HTTP."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _MAX_BODY:
        raise ValueError("the body is too long")
    body = await reader.readexactly(length) if length else b""
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(unquote(parts.path), query, headers, method, body)


def _response_head(reply: Reply, *, keep: bool) -> bytes:
    try:
        phrase = http.HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = "Unknown"
    every = {
        "Content-Type": reply.content_type,
        "Content-Length": str(len(reply.body)),
        "Connection": "keep-alive" if keep else "close",
        **reply.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    return f"HTTP/1.1 {reply.status} {phrase}\r\n{lines}\r\n".encode("latin-1")


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
