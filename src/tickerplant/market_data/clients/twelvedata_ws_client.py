"""The stream of Twelve Data: connect, subscribe, listen, and again, until told to stop.

What came within a few milliseconds goes on together. The queue to the writer is bounded: when it is full this end stops
reading, the socket's buffers fill, and the vendor's own limit decides; nothing is dropped here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake, InvalidStatus

from tickerplant.market_data.clients.twelvedata_messages import without_key

log = structlog.get_logger(__name__)

GATHER_MESSAGES: Final = 16_384
_MAX_MESSAGE_BYTES: Final = 1 << 20
_SUBSCRIBE_CHUNK: Final = 2_000  # symbols in one message: 20 KB of the vendor's megabyte


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How the stream is kept alive.

    `mute_s`: so long without any message (answers to heartbeats are some), or without an answer to the subscription,
    and the connection is taken as dead.
    `steady_s`: a connection that lived this long was a good one, and the pauses begin again with the shortest.
    """

    heartbeat_s: float = 10.0
    mute_s: float = 25.0
    gather_s: float = 0.003
    connect_timeout_s: float = 10.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 60.0
    steady_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection is up, the subscription is sent."""

    at_us: int


@dataclass(frozen=True, slots=True)
class Received:
    """Messages that came together, as text, and when by our clock."""

    texts: list[str | bytes]
    at_us: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection is gone, or mute since `since_us`."""

    since_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The vendor turned the key away (401, 403): trying goes on, at the longest pause."""

    reason: str


StreamEvent: TypeAlias = Connected | Received | Lost | Refused


class TwelveDataStream:
    """One connection to the vendor's stream, kept up. `run` puts what happens into a bounded queue."""

    def __init__(
        self,
        url: str,
        key: str,
        symbols: Sequence[str],
        *,
        settings: StreamSettings | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._url = url
        self._key = key
        self._symbols = list(symbols)
        self._settings = settings or StreamSettings()
        self._clock = clock
        self._heard_us = 0
        self._heard_s = 0.0
        self._answered = False

    async def run(self, out: asyncio.Queue[StreamEvent]) -> None:
        """Work until cancelled. Never raises for what the network or the vendor does."""
        failures = 0
        settings = self._settings
        while True:
            reason = "closed"
            connected = False
            try:
                # The key goes in a header: an address ends up in logs, of proxies too.
                async with connect(
                    self._url,
                    additional_headers={"X-TD-APIKEY": self._key},
                    open_timeout=settings.connect_timeout_s,
                    close_timeout=1.0,
                    ping_interval=None,
                    max_size=_MAX_MESSAGE_BYTES,
                    compression=None,
                ) as connection:
                    connected = True
                    await self._subscribe(connection)
                    await out.put(Connected(self._clock()))
                    began_s = time.monotonic()
                    reason = await self._listen(connection, out)
                    if time.monotonic() - began_s >= settings.steady_s:
                        failures = 0
            except InvalidStatus as error:
                reason = f"HTTP {error.response.status_code}"
                if error.response.status_code in (401, 403):
                    failures = 100
                    await out.put(Refused(reason))
            except (OSError, TimeoutError, ConnectionClosed, InvalidHandshake) as error:
                reason = without_key(f"{type(error).__name__}: {error}")
            if connected:
                await out.put(Lost(self._heard_us or self._clock(), reason))
            pause_s = self._pause(failures)
            failures += 1
            log.warning("stream lost, connecting again", feed="twelvedata", reason=reason, pause_s=round(pause_s, 2))
            await asyncio.sleep(pause_s)

    def _pause(self, failures: int) -> float:
        """Return a pause that doubles with each failure up to the longest, between half and all of it."""
        longest = min(self._settings.backoff_max_s, self._settings.backoff_first_s * 2.0 ** min(failures, 16))
        return longest * random.uniform(0.5, 1.0)

    async def _subscribe(self, connection: ClientConnection) -> None:
        for at in range(0, len(self._symbols), _SUBSCRIBE_CHUNK):
            names = ",".join(self._symbols[at : at + _SUBSCRIBE_CHUNK])
            text = msgspec.json.encode({"action": "subscribe", "params": {"symbols": names}}).decode()
            await connection.send(text)

    async def _listen(self, connection: ClientConnection, out: asyncio.Queue[StreamEvent]) -> str:
        """Pass on what comes; return why it ended."""
        self._heard_us, self._heard_s = self._clock(), time.monotonic()
        self._answered = False
        heartbeat = asyncio.create_task(self._beat(connection))
        gathered: list[str | bytes] = []
        flush: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        due, room = asyncio.Event(), asyncio.Event()

        async def pass_on() -> None:
            while True:
                await due.wait()
                due.clear()
                while gathered:
                    texts = gathered.copy()
                    await out.put(Received(texts, self._heard_us))
                    del gathered[: len(texts)]  # only now: cancelled while the queue is full, nothing is lost
                    room.set()

        passing = asyncio.create_task(pass_on())
        try:
            while True:
                message = await connection.recv(decode=False)
                if not gathered:
                    self._heard_us, self._heard_s = self._clock(), time.monotonic()
                    flush = loop.call_later(self._settings.gather_s, due.set)
                gathered.append(message)
                if not self._answered:
                    self._answered = _is_answer(message)
                if len(gathered) >= GATHER_MESSAGES:
                    room.clear()
                    due.set()
                    await room.wait()  # while the queue is full nothing more is read
        except ConnectionClosedOK:
            reason = "closed by the vendor"
        except ConnectionClosed as error:
            reason = "mute" if heartbeat.done() and not heartbeat.cancelled() else str(error)
        finally:
            if flush is not None:
                flush.cancel()
            for task in (heartbeat, passing):
                task.cancel()
            await asyncio.gather(heartbeat, passing, return_exceptions=True)
        if gathered:
            await out.put(Received(gathered.copy(), self._heard_us))
        return reason

    async def _beat(self, connection: ClientConnection) -> None:
        """Send heartbeats; end the connection when nothing came for too long."""
        text = '{"action":"heartbeat"}'
        settings = self._settings
        began_s = sent_s = time.monotonic()
        while True:
            await asyncio.sleep(min(settings.heartbeat_s, settings.mute_s) / 4)
            now_s = time.monotonic()
            unanswered_s = 0.0 if self._answered else now_s - began_s
            if max(now_s - self._heard_s, unanswered_s) > settings.mute_s:
                connection.transport.abort()
                return
            if now_s - sent_s >= settings.heartbeat_s:
                sent_s = now_s
                await connection.send(text)


def _is_answer(message: str | bytes) -> bool:
    """Return whether a message shows that the subscription arrived: its status, or a price."""
    text = message if isinstance(message, str) else message.decode("utf-8", "replace")
    return "subscribe-status" in text or '"price"' in text
