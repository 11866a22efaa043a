"""The WebSocket endpoint `/v1/stream`: it connects client sockets to the hub. Plain ASGI, no middleware per message.

Each client has one queue, its `Outbox`. A client whose socket accepts nothing for `STALL_S`, or whose outbox is
full, is dropped with close code 4008. Commands of one client are handled one after the other; further commands wait in
the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final

from tickerplant.api.blocking import Pools, ask_log, in_thread
from tickerplant.api.fair_places import FairPlaces, PlaceLimits, client_name
from tickerplant.api.http.asgi import Receive, Scope, Send
from tickerplant.api.http.connections import share_of_client
from tickerplant.api.http.loop_turns import LoopTurns
from tickerplant.api.load import LoadCounters
from tickerplant.api.positions import Position
from tickerplant.api.websockets import protocol
from tickerplant.api.websockets.hub import Hub
from tickerplant.api.websockets.outbox import Outbox, frames_of, to_text
from tickerplant.api.websockets.protocol import (
    CHANNELS,
    CLOSE_FAULT,
    CLOSE_FULL,
    CLOSE_SLOW,
    Filter,
    Ping,
    Refusal,
    Subscribe,
    describe,
)
from tickerplant.api.websockets.rows import (
    KINDS,
    TOPIC_OF,
    DictionaryCache,
    StreamRecord,
    decode_record,
)
from tickerplant.api.websockets.server_protocol import DROP_EXTENSION
from tickerplant.api.websockets.stored_state import StoredState
from tickerplant.core.errors import LogError, LogUnavailable
from tickerplant.log.port import EventLog, TopicPartition, at_positions

STALL_S: Final = 15.0
"""Seconds after which a client is dropped if its socket has accepted nothing. A client's usual pauses are shorter."""
POSITION_S: Final = 5.0
"""Seconds between two `position` messages."""
MAX_CLIENTS: Final = 1_000
CATCH_UP_S: Final = 120.0
"""Maximum seconds for sending a client the records after its position."""
CATCHING_UP: Final = PlaceLimits(running=4, reserved=1, waiting=MAX_CLIENTS, waiting_of_client=MAX_CLIENTS)
"""Limits of the clients that read records from the log at a time. Each has one reader and one chunk in memory."""
STEP_S: Final = 0.01
"""Seconds of CPU time after which the event loop runs other callbacks while records are applied."""
CHUNK_BYTES: Final = 1024 * 1024
TAIL_WAIT_S: Final = 10.0
"""Maximum seconds to wait for the tail to reach a `since` position that the store has already reached."""
PAIRS_PER_S: Final = 100_000
"""Rate of one client's commands, in pairs of its subscription per second. Faster commands wait."""
TAIL_POLL_S: Final = 0.02
"""Seconds between two checks of the tail's positions."""

logger = logging.getLogger(__name__)


class Resync(Exception):
    """The stream cannot resume from a `since` position; the client starts again with a snapshot."""


class Stream:
    """The state that all connections share. `hub` belongs to the event loop that runs the stream."""

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        stored: StoredState | None = None,
        *,
        pools: Pools,
        load: LoadCounters | None = None,
        turns: LoopTurns | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        self.log = log
        self.hub = hub
        self.pools = pools
        self.load = load or LoadCounters()
        self.turns = turns or LoopTurns()
        self.max_clients = MAX_CLIENTS
        self.catching_up = FairPlaces(CATCHING_UP, self.load)
        self.connections: set[Connection] = set()
        self.stored = stored
        self.in_step = asyncio.Lock()
        """Lock held while records are applied, and while a client receives a position or a subscription."""
        self._stall_s = stall_s

    async def apply(self, records: Sequence[StreamRecord], lagging: bool) -> None:
        """Apply records of the tail. Lets the event loop run after each `STEP_S` of CPU time."""
        async with self.in_step:
            began = time.thread_time()
            for _ in self.hub.apply_in_steps(records, lagging=lagging):
                if time.thread_time() - began > STEP_S:
                    await asyncio.sleep(0)
                    began = time.thread_time()

    async def watch(self) -> None:
        """Send positions and drop stalled clients, until cancelled."""
        position_at = time.monotonic() + POSITION_S
        while True:
            await asyncio.sleep(min(1.0, self._stall_s / 4))
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check(now, self._stall_s)
            if now >= position_at:
                position_at = now + POSITION_S
                async with self.in_step:
                    self.hub.send_position()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        await send({"type": "websocket.accept"})
        client = client_name((scope.get("client") or ("",))[0])
        own = sum(connection.client == client for connection in self.connections)
        if (full := len(self.connections) >= self.max_clients) or own >= share_of_client(self.max_clients):
            self.load.refuse("stream_full")
            limit = f"{self.max_clients} clients" if full else f"{own} clients of one address"
            reason = f"the maximum of {limit} is connected; try again later"
            await send({"type": "websocket.close", "code": CLOSE_FULL, "reason": reason})
            return
        connection = Connection(self, client, receive, send, scope.get("extensions", {}).get(DROP_EXTENSION))
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.hub.leave(connection.outbox)


class Connection:
    """One client: one task receives commands, one task sends the messages of its outbox."""

    def __init__(
        self, stream: Stream, client: str, receive: Receive, send: Send, drop: Callable[[str, int, str], None] | None
    ) -> None:
        self.client = client
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
        """Fail the client if its socket has accepted nothing for `stall_s` seconds."""
        since = self._sending_since
        if since is not None and now - since > stall_s and self.outbox.failure is None:
            self.outbox.failure = f"too slow: the client read nothing for {now - since:.0f} s; read faster"
            self._failed.set()

    async def run(self) -> None:
        """Serve until the client leaves or fails."""
        welcome = {
            "type": "welcome",
            "protocol": 1,
            "channels": CHANNELS,
            "max_symbols": protocol.MAX_SYMBOLS,
            "max_channels": protocol.MAX_CHANNELS,
            "max_pairs": protocol.MAX_PAIRS,
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
        faults = [result for result in results[:2] if isinstance(result, Exception) and not _is_disconnect(result)]
        for fault in faults:
            logger.error("stream connection failed", exc_info=fault)
        if self.outbox.failure is not None:
            self._hub.counters.dropped += 1
            self._stream.load.refuse("slow_client")
            logger.info("stream client dropped: %s", self.outbox.failure)
            await self._close(CLOSE_SLOW, self.outbox.failure)
        elif faults:
            await self._send_close(CLOSE_FAULT, "an error in the server ended the connection; connect again")

    async def _close(self, code: int, reason: str) -> None:
        text = to_text({"type": "error", "code": "slow_client", "message": reason})
        if self._drop is not None:
            self._drop(text, code, reason)
            return
        await self._send_close(code, reason)

    async def _send_close(self, code: int, reason: str) -> None:
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
                text = outbox.pop()
                if text is None:
                    text = await self._conflated() if outbox.conflating else None
                if text is None:
                    break
                await send({"type": "websocket.send", "text": text})
                self._sending_since = time.monotonic()
            self._sending_since = None
            self._drained.set()

    async def _conflated(self) -> str | None:
        async with self._stream.in_step:
            return self._hub.conflated(self.outbox)

    async def _receiving(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._stream.turns.of(self.client)
            try:
                await self._handle(message.get("text") or message.get("bytes") or "")
            except Refusal as refusal:
                self.outbox.put(to_text({"type": "error", "code": refusal.code, "message": refusal.message}))
            # A client may send commands without reading the answers. Its next command waits until the answers are sent.
            await self._drain()
            await asyncio.sleep(len(self.outbox.subscription) / PAIRS_PER_S)

    async def _drain(self) -> None:
        while self.outbox.ready or self._sending_since is not None:
            self._drained.clear()
            await self._drained.wait()

    async def _handle(self, text: str | bytes) -> None:
        command = protocol.parse_command(text)
        if isinstance(command, Ping):
            self._reply("pong", command.id)
        elif isinstance(command, Subscribe):
            await self._subscribe(command)
        else:
            async with self._stream.in_step:
                self._hub.subscribe(self.outbox, command.apply(self.outbox.subscription))
            self._reply("subscription", command.id, channels=describe(self.outbox.subscription))

    def _reply(self, kind: str, tag: Any, **fields: Any) -> None:
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
            self._reply("subscription", command.id, channels=describe(subscription))
            outbox.catching_up = True
            try:
                await self._catch_up(wanted, command.since, subscription)
                self._reply("live", command.id, position=self._hub.position)
                return
            except Resync as reason:
                resync = str(reason)
                self._hub.counters.resyncs += 1
            finally:
                outbox.catching_up = False
        if self._stream.stored is not None:
            await self._stream.stored.add_to(self._hub, wanted, self.client)
        async with self._stream.in_step:
            # No await from here on, so that no record is lost between the snapshot and the stream.
            if resync is None:
                self._reply("subscription", command.id, channels=describe(subscription))
            else:
                self._reply("resync", command.id, message=resync)
            chosen = Filter(command.pairs) if outbox.subscription else wanted
            outbox.put(to_text(self._hub.snapshot(chosen)), counted=False)
            self._hub.subscribe(outbox, subscription)

    async def _catch_up(self, wanted: Filter, since: Position, subscription: protocol.Subscription) -> None:
        """Send the records since a position, then join the stream. Raises Resync."""
        positions = await self._start_positions(wanted, since)
        deadline = time.monotonic() + CATCH_UP_S
        while True:
            async with self._stream.in_step:
                joined = self._send_recent(wanted, positions, subscription)
            if joined:
                return
            if joined is None:
                async with self._place(deadline):
                    await self._from_log(wanted, positions, deadline)
                continue
            if self._hub.is_behind(positions):  # otherwise the hub would send the records from the log again
                await asyncio.sleep(TAIL_POLL_S)
            await self._drain()
            if time.monotonic() > deadline:
                raise Resync("the client reads the records since that position too slowly; use REST for them")

    def _send_recent(
        self, wanted: Filter, positions: dict[TopicPartition, int], subscription: protocol.Subscription
    ) -> bool | None:
        """Send one chunk of the hub's records, advance `positions`, and join the stream if no record is left.

        Returns whether the client has joined; None if the hub no longer has all records from these positions on.
        """
        hub, outbox = self._hub, self.outbox
        recent = hub.recent(positions)
        if recent is None:
            return None
        chunk = _first_bytes([record for record in recent if record.source in positions], CHUNK_BYTES)
        for frame in frames_of(wanted, chunk):
            outbox.put(frame.text, counted=False)
        for record in chunk:
            positions[record.source] = record.offset + 1
        if hub.is_behind(positions):
            return False
        if chunk and any(positions[source] < hub.positions.get(source, 0) for source in positions):
            return False
        # If the chunk is empty, only records without rows are left, so the client misses no row.
        hub.subscribe(outbox, subscription)
        return True

    @contextlib.asynccontextmanager
    async def _place(self, deadline: float) -> AsyncIterator[None]:
        """Hold a place of the clients that read the log, for the block. Raises Resync if no place becomes free."""
        places, client = self._stream.catching_up, self.client
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await places.admit(client)
        except TimeoutError:
            raise Resync("too many clients read old records; use REST for them, or try again later") from None
        began = time.monotonic()
        try:
            yield
        finally:
            places.release(client, time.monotonic() - began)

    async def _start_positions(self, wanted: Filter, since: Position) -> dict[TopicPartition, int]:
        hub, log = self._hub, self._stream.log
        if (since.log_id, since.generation) != (hub.identity.log_id, hub.identity.generation):
            raise Resync("the position belongs to another log (the data folder is new, or the log was replaced)")
        topics = {TOPIC_OF[kind] for kind in KINDS if wanted.wants(kind)}
        positions = {source: offset for source, offset in hub.positions.items() if source.topic in topics}
        positions.update((source, offset) for source, offset in since.flat().items() if source in positions)
        for topic in topics:
            for source, (earliest, end) in (await self._offsets(log, topic)).items():
                offset = positions.get(source, end)
                if offset < earliest:
                    raise Resync(f"the log no longer contains {topic} from that position on; use REST for the range")
                if offset > end:
                    raise Resync(f"the position is after the end of {topic}, so it belongs to another log")
        deadline = time.monotonic() + TAIL_WAIT_S
        while hub.is_behind(positions):
            if time.monotonic() > deadline:
                raise Resync("the stream is behind that position; try again later")
            await asyncio.sleep(TAIL_POLL_S)
        return positions

    async def _offsets(self, log: EventLog, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        try:
            return await ask_log(self._stream.pools.log, partial(log.offsets, topic))
        except LogUnavailable as error:
            raise Resync(str(error)) from error

    async def _from_log(self, wanted: Filter, positions: dict[TopicPartition, int], deadline: float) -> None:
        """Send records from the log and advance `positions`, until the hub's recent records cover them.

        Threads read and encode.
        """
        log, hub, pool = self._stream.log, self._hub, self._stream.pools.catch_up
        topics = sorted({source.topic for source in positions})
        reader = await in_thread(pool, lambda: log.reader(topics, start=at_positions(positions)))

        def read() -> tuple[list[str], dict[TopicPartition, int]]:
            consumed = reader.poll(timeout_s=0.1, max_records=256, max_bytes=CHUNK_BYTES)
            dictionaries = DictionaryCache()
            records = [decode_record(each, dictionaries) for each in consumed]
            texts = [frame.text for frame in frames_of(wanted, records)]
            return texts, {record.source: record.offset + 1 for record in records}

        try:
            while hub.recent(positions) is None:
                reached = dict(hub.positions)
                texts, read_to = await in_thread(pool, read)
                if not read_to:  # all committed records are read, at least up to the hub's positions before the poll
                    for source in positions:
                        positions[source] = max(positions[source], reached.get(source, 0))
                for text in texts:
                    self.outbox.put(text, counted=False)
                positions.update(read_to)
                await self._drain()
                if time.monotonic() > deadline:
                    raise Resync("too many records since that position; use REST for them")
        except LogError as error:
            raise Resync(f"the log cannot be read from that position: {error}") from error
        finally:
            await in_thread(pool, reader.close)


def _first_bytes(records: list[StreamRecord], limit: int) -> list[StreamRecord]:
    total = 0
    for index, record in enumerate(records):
        total += record.size_bytes
        if total > limit and index:
            return records[:index]
    return records


def _is_disconnect(error: Exception) -> bool:
    """Return True if an error only means that the connection is closed. The server raises several types for it."""
    # The server raises this RuntimeError after a frame that was too large, for example.
    closed = isinstance(error, RuntimeError) and "websocket.close" in str(error)
    names = ("ClientDisconnected", "WebSocketDisconnect", "InvalidState")
    return closed or isinstance(error, OSError) or type(error).__name__ in names
