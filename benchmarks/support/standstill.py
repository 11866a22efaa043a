"""Standstills: the times without progress of each partition, measured at WebSocket clients and in the tables."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import asyncpg
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

CHANNELS = ("ticks", "bars", "analytics")
RECEIVE_S = 0.2
TABLES_S = 0.1
RECONNECT_S = 0.1


class Standstill(NamedTuple):
    """A time without progress in one partition of a topic."""

    seconds: float
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.topic}/{self.partition})"


class Progress:
    """The times between two advances of each partition. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._last: dict[tuple[str, int], float] = {}
        self._pauses: list[tuple[float, Standstill]] = []

    def note(self, topic: str, partition: int) -> None:
        """Record that a partition advanced just now."""
        now_s = time.monotonic()
        with self._guard:
            last_s = self._last.get((topic, partition))
            self._last[topic, partition] = now_s
            if last_s is not None:
                self._pauses.append((now_s, Standstill(now_s - last_s, topic, partition)))

    def note_all(self) -> None:
        """Record that all known partitions advanced just now."""
        for topic, partition in list(self._last):
            self.note(topic, partition)

    def have_advanced(self, since_s: float) -> bool:
        """Return whether every known partition has advanced since this time of the monotonic clock."""
        with self._guard:
            return bool(self._last) and min(self._last.values()) >= since_s

    def longest(self, since_s: float) -> Standstill:
        """Return the longest standstill that ended after `since_s`, or that has not ended yet.

        Forgets all ended standstills.
        """
        now_s = time.monotonic()
        with self._guard:
            ended = [pause for at_s, pause in self._pauses if at_s >= since_s]
            lasting = [Standstill(now_s - last_s, *source) for source, last_s in self._last.items()]
            self._pauses.clear()
        return max([*ended, *lasting], default=Standstill(0.0, "", 0))


class StreamClient(threading.Thread):
    """A client of all symbols. It prefers the first of its addresses, and resumes at its position after a loss.

    `ticks` is the count of received ticks, `skipped` the count of conflated rows. `problems` are texts of messages
    after which a client must read over REST.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.progress = Progress()
        self.ticks = self.skipped = self.connections = 0
        self.problems: list[str] = []
        self._addresses = addresses
        self._connected_to = ""
        self._socket: ClientConnection | None = None
        self._position: dict[str, Any] | None = None
        self._ending = threading.Event()

    def is_home(self) -> bool:
        """Return whether the client is connected to its first address. Drop a connection to another address."""
        if self._connected_to not in ("", self._addresses[0]) and self._socket is not None:
            self._socket.close()
        return self._connected_to == self._addresses[0]

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Follow the stream until the end."""
        while not self._ending.is_set():
            for address in self._addresses:
                if self._connect(address):
                    break
            self._ending.wait(RECONNECT_S)

    def _connect(self, address: str) -> bool:
        """Follow the stream of an address until the connection ends. Return False if it sent no subscription."""
        before = self.connections
        try:
            with connect(f"ws://{address}/v1/stream", max_size=None, compression=None, open_timeout=5) as socket:
                self._socket = socket
                self._follow(socket, address)
        except (OSError, EOFError, WebSocketException):
            pass
        self._connected_to = ""
        return self.connections > before

    def _follow(self, socket: ClientConnection, address: str) -> None:
        """Receive until the end. The position of a connection that is catching up counts only after `live`."""
        command: dict[str, Any] = {"action": "subscribe", "symbols": ["*"], "channels": CHANNELS}
        position, ticks, is_live = copy.deepcopy(self._position), 0, False
        if position is not None:
            command["since"] = position
        socket.send(json.dumps(command))
        while not self._ending.is_set():
            try:
                message = json.loads(socket.recv(timeout=RECEIVE_S))
            except TimeoutError:
                continue
            kind = message["type"]
            if kind in CHANNELS:
                assert position is not None
                for partition, offset in message["offsets"].items():
                    position["offsets"].setdefault(message["topic"], {})[partition] = offset
                    self.progress.note(message["topic"], int(partition))
                ticks += len(message["rows"]) if kind == "ticks" else 0
            elif kind in ("snapshot", "live", "conflated", "position"):
                position = message["position"]
            if kind == "subscription":
                self._connected_to = address
                self.connections += 1
            elif kind == "conflated":
                self.skipped += message["skipped"]
                self.progress.note_all()
            elif kind in ("resync", "error"):
                self.problems.append(json.dumps(message)[:200])
            is_live = is_live or kind in ("snapshot", "live")
            if is_live:
                self._position, self.ticks, ticks = position, self.ticks + ticks, 0


class TableProbe(threading.Thread):
    """Watches the positions of the tables, which advance when rows are committed."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.progress = Progress()
        self._dsn = dsn
        self._ending = threading.Event()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Read the positions ten times a second until the end."""
        asyncio.run(self._watch())

    async def _watch(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        known: dict[tuple[str, int], int] = {}
        try:
            while not self._ending.is_set():
                for topic, partition, position in await connection.fetch(
                    "SELECT topic, partition, position FROM positions WHERE topic ~ '(raw|ohlcv|analytics)$'"
                ):
                    if known.get((topic, partition)) != position:
                        known[topic, partition] = position
                        self.progress.note(topic, partition)
                await asyncio.sleep(TABLES_S)
        finally:
            await connection.close()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float) -> None:
    """Wait until the condition holds. Raises SystemExit after the timeout."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"after {timeout_s:g} s: {what}")
        time.sleep(0.05)
