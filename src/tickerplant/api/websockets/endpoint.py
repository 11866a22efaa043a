"""The WebSocket `/v1/stream`: sockets in and out of the hub. Plain ASGI: no middleware per message.

Queues: each client has one outbox (see `hub`); a client whose socket has taken nothing for `STALL_S` or whose outbox is
full is dropped with close code 4008. Messages from clients are handled one after the other; what a client sends
meanwhile waits in its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from tickerplant.api.http.asgi import Receive, Scope, Send
from tickerplant.api.positions import Position
from tickerplant.api.websockets import protocol
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.outbox import Outbox, frames_of, to_text
from tickerplant.api.websockets.protocol import (
    CHANNELS,
    CLOSE_FULL,
    CLOSE_SLOW,
    Filter,
    Ping,
    Refusal,
    Subscribe,
    describe,
)
from tickerplant.api.websockets.rows import ANALYTICS, BARS, KINDS, TICKS, TOPIC_OF, Part, Words, digest
from tickerplant.core.errors import LogError
from tickerplant.log.port import EventLog, TopicPartition, at_positions

Seeder: TypeAlias = Callable[[set[str] | None], Awaitable[list[Part]]]

SEEDED: Final = (TICKS, BARS, ANALYTICS)
"""The channels that have a newest state, which a subscription begins with."""

DROP_EXTENSION: Final = "tickerplant.drop"
"""The server's own WebSocket protocol offers `drop(text, code, reason)` here: it does not wait for a full socket."""

STALL_S: Final = 15.0
"""A healthy client takes a frame within milliseconds; 15 s is longer than any pause of a garbage collector."""
BEAT_S: Final = 5.0
MAX_CLIENTS: Final = 1_000
CATCH_UP_S: Final = 120.0
CHUNK_BYTES: Final = 1024 * 1024
ARRIVE_S: Final = 10.0
"""How long to wait for the tail to reach a `since` that the store has reached before it."""

logger = logging.getLogger(__name__)


class Resync(Exception):
    """A `since` cannot be gone on from: the client begins again with a snapshot."""


class Stream:
    """All that the stream's connections share. `hub` belongs to the loop that runs this."""

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        seeder: Seeder | None = None,
        *,
        stall_s: float = STALL_S,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self.log = log
        self.hub = hub
        self.max_clients = max_clients
        self.connections: set[Connection] = set()
        self._seeder = seeder
        self._seeded: set[str] = set()
        self._seeded_all = False
        self._seed_lock = asyncio.Lock()
        self._stall_s = stall_s

    async def watch(self) -> None:
        """Say positions and drop stalled clients, until cancelled."""
        beat_at = time.monotonic() + BEAT_S
        while True:
            await asyncio.sleep(min(1.0, self._stall_s / 4))
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check(now, self._stall_s)
            if now >= beat_at:
                beat_at = now + BEAT_S
                self.hub.beat()

    async def ensure(self, wanted: Filter) -> None:
        """Have the hub know the newest state of what is wanted, from the store where the log's end did not say it."""
        if self._seeder is None or self._seeded_all:
            return
        everything = any(wanted.every(kind) for kind in SEEDED)
        named = wanted.named() if any(wanted.wants(kind) for kind in SEEDED) else set()
        missing = None if everything else named - self._seeded
        if missing is not None and not missing:
            return
        async with self._seed_lock:
            try:
                self.hub.seed(await self._seeder(missing))
            except Exception as error:  # the stream goes on without the past; the store's health is said elsewhere
                logger.warning("a snapshot goes without the store's state: %s", error)
                return
            if missing is None:
                self._seeded_all = True
            else:
                self._seeded |= missing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        if len(self.connections) >= self.max_clients:
            await send(
                {
                    "type": "websocket.close",
                    "code": CLOSE_FULL,
                    "reason": f"{self.max_clients} clients are connected, which is the most; try again later",
                }
            )
            return
        connection = Connection(self, receive, send, scope.get("extensions", {}).get(DROP_EXTENSION))
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.hub.leave(connection.outbox)


class Connection:
    """One client: a task that receives commands and one that sends what its outbox has."""

    def __init__(
        self, stream: Stream, receive: Receive, send: Send, drop: Callable[[str, int, str], None] | None
    ) -> None:
        self._stream = stream
        self._hub = stream.hub
        self._receive = receive
        self._send = send
        self._drop = drop
        self._ready = asyncio.Event()
        self._drained = asyncio.Event()
        self._failed = asyncio.Event()
        self._sending_since: float | None = None
        self.outbox: Outbox = self._hub.join(self._wake)

    def _wake(self) -> None:
        self._ready.set()
        self._drained.clear()
        if self.outbox.failure is not None:
            self._failed.set()

    def check(self, now: float, stall_s: float) -> None:
        """Fail the client when its socket has taken nothing for too long."""
        since = self._sending_since
        if since is not None and now - since > stall_s and self.outbox.failure is None:
            self.outbox.failure = f"too slow: nothing was read for {now - since:.0f} s; read faster"
            self._failed.set()

    async def run(self) -> None:
        """Serve until the client leaves or fails."""
        welcome = {
            "type": "welcome",
            "protocol": 1,
            "channels": CHANNELS,
            "max_symbols": protocol.MAX_SYMBOLS,
            "position": self._hub.position,
        }
        self.outbox.put(to_text(welcome))
        tasks = [
            asyncio.create_task(self._receiving()),
            asyncio.create_task(self._sending()),
            asyncio.create_task(self._failed.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results[:2]:
            if isinstance(result, Exception) and not _is_disconnect(result):
                logger.error("a stream connection failed", exc_info=result)
        if self.outbox.failure is not None:
            self._hub.counts.dropped += 1
            logger.info("a stream client is dropped: %s", self.outbox.failure)
            await self._close(CLOSE_SLOW, self.outbox.failure)

    async def _close(self, code: int, reason: str) -> None:
        text = to_text({"type": "error", "code": "slow_client", "message": reason})
        if self._drop is not None:
            self._drop(text, code, reason)
            return
        with contextlib.suppress(Exception):
            async with asyncio.timeout(1.0):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _sending(self) -> None:
        outbox, ready, send = self.outbox, self._ready, self._send
        while True:
            await ready.wait()
            ready.clear()
            self._sending_since = time.monotonic()
            while True:
                text = outbox.take()
                if text is None:
                    text = self._hub.conflated(outbox) if outbox.conflating else None
                if text is None:
                    break
                await send({"type": "websocket.send", "text": text})
                self._sending_since = time.monotonic()
            self._sending_since = None
            self._drained.set()

    async def _receiving(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                await self._handle(message.get("text") or message.get("bytes") or "")
            except Refusal as refusal:
                self.outbox.put(to_text({"type": "error", "code": refusal.code, "message": refusal.message}))
            # Answers are small, but a client may ask without reading: it asks again when it has read.
            await self._drain()

    async def _drain(self) -> None:
        while self.outbox.ready or self._sending_since is not None:
            self._drained.clear()
            await self._drained.wait()

    async def _handle(self, text: str | bytes) -> None:
        command = protocol.parse_command(text)
        if isinstance(command, Ping):
            self._say("pong", command.id)
        elif isinstance(command, Subscribe):
            await self._subscribe(command)
        else:
            self._hub.subscribe(self.outbox, command.left(self.outbox.subscription))
            self._say("subscription", command.id, channels=describe(self.outbox.subscription))

    def _say(self, kind: str, tag: Any, **fields: Any) -> None:
        message = {"type": kind, **fields}
        if tag is not None:
            message["id"] = tag
        self.outbox.put(to_text(message), counted=False)

    async def _subscribe(self, command: Subscribe) -> None:
        outbox = self.outbox
        subscription = outbox.subscription | command.pairs
        protocol.check_size(subscription)
        wanted = Filter(command.pairs, without=outbox.subscription)
        resync: str | None = None
        if command.since is not None:
            self._say("subscription", command.id, channels=describe(subscription))
            outbox.catching_up = True
            try:
                await self._catch_up(wanted, command.since, subscription)
                self._say("live", command.id, position=self._hub.position)
                return
            except Resync as reason:
                resync = str(reason)
                self._hub.counts.resyncs += 1
            finally:
                outbox.catching_up = False
        await self._stream.ensure(wanted)
        # No await from here on: the snapshot and the stream after it meet exactly.
        if resync is None:
            self._say("subscription", command.id, channels=describe(subscription))
        else:
            self._say("resync", command.id, message=resync)
        outbox.put(to_text(self._hub.snapshot(Filter(command.pairs))), counted=False)
        self._hub.subscribe(outbox, subscription)

    async def _catch_up(self, wanted: Filter, since: Position, subscription: protocol.Subscription) -> None:
        """Send what lies between `since` and now, then join the stream. Raises Resync."""
        hub, outbox = self._hub, self.outbox
        positions = await self._checked(wanted, since)
        deadline = time.monotonic() + CATCH_UP_S
        while True:
            recent = hub.recent(positions)
            if recent is None:
                await self._from_log(wanted, positions, deadline)
                continue
            chunk = _first_bytes([part for part in recent if part.source in positions], CHUNK_BYTES)
            for frame in frames_of(wanted, chunk):
                outbox.put(frame.text, counted=False)
            for part in chunk:
                positions[part.source] = part.offset + 1
            if all(positions[source] >= hub.positions.get(source, 0) for source in positions):
                hub.subscribe(outbox, subscription)
                return
            if not chunk:  # only markers lie between: nothing to send, and nothing missed
                hub.subscribe(outbox, subscription)
                return
            await self._drain()
            if time.monotonic() > deadline:
                raise Resync("the stretch since that position is read too slowly; ask REST for it")

    async def _checked(self, wanted: Filter, since: Position) -> dict[TopicPartition, int]:
        hub, log = self._hub, self._stream.log
        if (since.log_id, since.generation) != (hub.identity.log_id, hub.identity.generation):
            raise Resync("the position is of another log (the plant's data was made anew or moved to a new log)")
        topics = {TOPIC_OF[kind] for kind in KINDS if wanted.wants(kind)}
        positions = {source: offset for source, offset in hub.positions.items() if source.topic in topics}
        positions.update((source, offset) for source, offset in since.flat().items() if source in positions)
        loop = asyncio.get_running_loop()
        for topic in topics:
            for source, (earliest, end) in (await loop.run_in_executor(None, log.offsets, topic)).items():
                offset = positions.get(source, end)
                if offset < earliest:
                    raise Resync(f"the log no longer keeps {topic} from that position on; ask REST for the stretch")
                if offset > end:
                    raise Resync(f"the position lies after the end of {topic}, so it is of another log")
        give_up = time.monotonic() + ARRIVE_S
        while any(hub.positions[source] < offset for source, offset in positions.items()):
            if time.monotonic() > give_up:
                raise Resync("the stream lags behind that position; try again later")
            await asyncio.sleep(0.02)
        return positions

    async def _from_log(self, wanted: Filter, positions: dict[TopicPartition, int], deadline: float) -> None:
        """Send from the log until the hub's recent records cover the positions, which are moved on."""
        log, hub = self._stream.log, self._hub
        loop = asyncio.get_running_loop()
        topics = sorted({source.topic for source in positions})
        reader = await loop.run_in_executor(None, lambda: log.reader(topics, start=at_positions(positions)))

        def read() -> list[Part]:
            deliveries = reader.poll(timeout_s=0.1, max_records=256, max_bytes=CHUNK_BYTES)
            words = Words()
            return [digest(delivery, words) for delivery in deliveries]

        try:
            while hub.recent(positions) is None:
                reached = dict(hub.positions)
                parts = await loop.run_in_executor(None, read)
                if not parts:  # all that had been committed is read: up to where the hub was, nothing is left
                    for source in positions:
                        positions[source] = max(positions[source], reached.get(source, 0))
                for frame in frames_of(wanted, parts):
                    self.outbox.put(frame.text, counted=False)
                for part in parts:
                    positions[part.source] = part.offset + 1
                await self._drain()
                if time.monotonic() > deadline:
                    raise Resync("the stretch since that position is too long to be streamed; ask REST for it")
        except LogError as error:
            raise Resync(f"the log cannot be read from that position: {error}") from error
        finally:
            await loop.run_in_executor(None, reader.close)


def _first_bytes(parts: list[Part], limit: int) -> list[Part]:
    total = 0
    for number, part in enumerate(parts):
        total += part.size_bytes
        if total > limit and number:
            return parts[:number]
    return parts


def _is_disconnect(error: Exception) -> bool:
    """Say whether an error is only that the connection is over, which the server says in several ways."""
    closed = isinstance(error, RuntimeError) and "websocket.close" in str(error)  # a frame that was too large, say
    names = ("ClientDisconnected", "WebSocketDisconnect", "InvalidState")
    return closed or isinstance(error, OSError) or type(error).__name__ in names
