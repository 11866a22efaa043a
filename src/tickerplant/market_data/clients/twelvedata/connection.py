"""One connection of Twelve Data's stream: gathers and parses messages, sends heartbeats, detects a dead connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from websockets.exceptions import ConnectionClosed

from tickerplant.market_data.clients.frames import FrameConnection
from tickerplant.market_data.clients.twelvedata.quotes import ParsedMessages, read_messages
from tickerplant.market_data.clients.twelvedata.session import Session
from tickerplant.market_data.vendors.port import Connected, StreamEvent, Ticks

GATHER_MESSAGES: Final = 16_384
FEW_MESSAGES: Final = 64
"""Minimum messages per `StreamConfig.longest_gather_s` at which messages are gathered only for
`StreamSettings.gather_s`. At a lower rate, they are gathered for `StreamConfig.longest_gather_s`."""
GATHER_BYTES: Final = 4 << 20
"""Maximum bytes of messages that wait for the parser, besides the messages of one read: about 28,000 prints."""
HEARTBEAT: Final = '{"action":"heartbeat"}'
MANY_FAILURES: Final = 6
"""Minimum count of failures after the vendor refused a connection, closed it with code 1008, or flooded it. The next
attempt follows after 16 to 32 s."""


class Connection:
    """One connection: messages that are not delivered yet, the times of the last messages, and messages to send.

    At most two batches are between socket and queue. One is parsed and waits for room in the queue. The other is being
    gathered, with at most `GATHER_MESSAGES` or `GATHER_BYTES`, and the messages of one read. While the gathered batch
    is full, the socket is not read.
    """

    def __init__(self, session: Session, socket: FrameConnection, out: asyncio.Queue[StreamEvent]) -> None:
        self.since_us = session.clock.now_us()
        """Time since which no message, or no price, arrived; valid after the connection has ended."""
        self.connected = False
        self._session = session
        self._socket = socket
        self._out = out
        self._clock = session.clock
        self._began_s = self._read_s = self._message_s = self._clock.monotonic()
        self._priced_us = self.since_us
        self._answered = False
        self._reason = ""
        self._flooded = False
        self._paused = False
        self._gathered: list[bytes] = []
        self._arrivals: list[tuple[int, int]] = []
        self._gathered_us = 0
        self._gathered_s = self._parsed_s = 0.0
        self._few = True
        self._gathered_bytes = 0
        self._delivering: Ticks | None = None
        self._due = asyncio.Event()
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def answered(self) -> bool:
        """Return True if the vendor has answered the subscription. An open socket is not an answer."""
        return self._answered

    def send(self, texts: Sequence[str]) -> None:
        """Send messages, in order, as soon as the vendor's limit allows."""
        for text in texts:
            self._outbox.put_nowait(text)

    async def listen(self, subscriptions: Sequence[str]) -> tuple[str, int]:
        """Subscribe and deliver messages until the connection ends; return the reason and a minimum failure count."""
        socket, clock, session = self._socket, self._clock, self._session
        socket.on_read, socket.on_flood = self._on_read, self._on_flood
        socket.on_messages = self._on_messages
        for text in subscriptions:
            await session.wait_to_send()
            await socket.send(text)
        await self._out.put(Connected(clock.now_us()))
        self.connected = True
        session.liveness.start(clock.monotonic(), session.subscriptions.hours.open_markets(clock.now_us()))
        session.parser.start_connection(clock.now_us())
        closed = asyncio.create_task(socket.wait_closed())
        tasks = [asyncio.create_task(work()) for work in (self._deliver, self._send, self._watch)]
        try:
            waiting = {closed, *tasks}
            while not closed.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in (closed, *tasks):
                task.cancel()
            await asyncio.gather(closed, *tasks, return_exceptions=True)
            remaining = self._remaining()
            if not closed.cancelled():
                for event in remaining:
                    await self._out.put(event)
            else:  # cancelled: deliver only the events that fit into the queue
                with contextlib.suppress(asyncio.QueueFull):
                    for event in remaining:
                        self._out.put_nowait(event)
        return self._close_reason()

    def _close_reason(self) -> tuple[str, int]:
        if self._reason:
            return self._reason, MANY_FAILURES if self._flooded else 0
        code, text = self._socket.close_code, (self._socket.close_reason or "")[:200]
        if code in (None, 1006):
            return "connection dropped", 0
        reason = f"closed by the vendor: {code} {text}".rstrip()
        if code == 1008:
            return f"{reason} (a key has 3 connections, the oldest is closed for a fourth)", MANY_FAILURES
        return reason, MANY_FAILURES - 2 if code in (1012, 1013) else 0

    # Messages --------------------------------------------------------------------------------------------------------

    def _on_read(self) -> None:
        self._read_s = self._clock.monotonic()

    def _on_flood(self, reason: str) -> None:
        self._reason, self._flooded, self.since_us = reason, True, self._clock.now_us()

    def _on_messages(self, texts: list[bytes]) -> None:
        self._message_s = self._read_s
        self._gathered_us = self.since_us = self._clock.now_us()
        if not self._gathered:
            self._gathered_s = self._loop.time()
            if self._delivering is None:
                session = self._session
                self._loop.call_later(
                    session.longest_gather_s if self._few else session.settings.gather_s, self._due.set
                )
        self._gathered += texts
        self._arrivals.append((self._gathered_us, len(texts)))
        if self._few and len(self._gathered) >= FEW_MESSAGES:
            self._due.set()
        self._gathered_bytes += sum(map(len, texts))
        if (len(self._gathered) >= GATHER_MESSAGES or self._gathered_bytes >= GATHER_BYTES) and not self._paused:
            self._paused = True
            self._socket.transport.pause_reading()
            self._due.set()

    async def _deliver(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._gathered:
                self._delivering = self._parse()
                if self._paused:
                    self._paused = False
                    self._read_s = self._message_s = self._clock.monotonic()
                    self._socket.transport.resume_reading()
                await self._out.put(self._delivering)
                self._delivering = None

    def _parse(self) -> Ticks:
        """Return the gathered messages as one event."""
        texts, self._gathered, self._gathered_bytes = self._gathered, [], 0
        now_s, session = self._loop.time(), self._session
        since_s, self._parsed_s = now_s - self._parsed_s, now_s
        self._few = len(texts) * session.longest_gather_s < FEW_MESSAGES * since_s
        times_us, counts = zip(*self._arrivals, strict=True)
        arrivals_us, self._arrivals = np.repeat(np.array(times_us, np.int64), counts), []
        messages = read_messages(texts)
        self._note(messages, self._gathered_us)
        event = session.parser.ticks(messages, arrivals_us, self._clock.monotonic())
        event.waited_s = now_s - self._gathered_s
        return event

    def _remaining(self) -> list[Ticks]:
        remaining = [] if self._delivering is None else [self._delivering]
        if self._gathered:
            remaining.append(self._parse())
        return remaining

    def _note(self, messages: ParsedMessages, at_us: int) -> None:
        """Update the state of the vendor from the kinds of messages."""
        session = self._session
        subscribed = any(status.event == "subscribe-status" for status in messages.statuses)
        self._answered = self._answered or subscribed or bool(messages.prices)
        if messages.heartbeats and not session.heartbeats_answered:
            session.heartbeats_answered, session.pongs_count = True, False
        if messages.prices:
            self._priced_us = at_us
            markets = session.subscriptions.hours.open_markets(at_us)
            session.liveness.observe(self._clock.monotonic(), markets, len(messages.prices))

    # Liveness --------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                text = await self._outbox.get()
                await self._session.wait_to_send()
                await self._socket.send(text)
                if text == HEARTBEAT:
                    await self._socket.ping()

    async def _watch(self) -> None:
        """Send heartbeats and due subscriptions; end a connection on which no message or price arrives for too long."""
        session, clock, settings = self._session, self._clock, self._session.settings
        mute_s, heartbeat_s = session.stretched(settings.mute_s), session.stretched(settings.heartbeat_s)
        step_s = min(mute_s, heartbeat_s, session.stretched(settings.silent_s)) / 4
        heartbeat_at_s = self._began_s + heartbeat_s
        while True:
            await clock.sleep(step_s)
            now_s, now_us = clock.monotonic(), clock.now_us()
            markets = session.subscriptions.hours.open_markets(now_us)
            if self._delivering is not None:  # the writer is behind: an unread socket may be alive
                self._read_s = self._message_s = self._began_s = now_s
                session.liveness.start(now_s, markets)
                continue
            alive_s = self._read_s if session.pongs_count else self._message_s
            if now_s - alive_s > mute_s:
                session.pongs_count = not session.heartbeats_answered and now_s - self._read_s <= mute_s
                return self._end("mute", self.since_us)
            if not self._answered and now_s - self._began_s > mute_s:
                return self._end("no answer to the subscription", self.since_us)
            if session.liveness.is_too_long(now_s, markets):
                return self._end("no prices on a live connection", self._priced_us)
            if now_s >= heartbeat_at_s:
                heartbeat_at_s = now_s + heartbeat_s
                if self._outbox.empty():
                    self.send([HEARTBEAT])
            self.send(session.subscriptions.due_messages(now_s))

    def _end(self, reason: str, since_us: int) -> None:
        self._reason, self.since_us = reason, since_us
        self._socket.transport.abort()
