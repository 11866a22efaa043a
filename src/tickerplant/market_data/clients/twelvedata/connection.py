"""One connection of Twelve Data's stream: what came and goes on together, and whether the line is dead."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from websockets.exceptions import ConnectionClosed

from tickerplant.market_data.clients.frames import FrameConnection
from tickerplant.market_data.clients.twelvedata.quotes import is_answer, is_heartbeat, is_price
from tickerplant.market_data.vendors.port import Connected, Received, StreamEvent

if TYPE_CHECKING:
    from tickerplant.market_data.clients.twelvedata.stream import TwelveDataStream

GATHER_MESSAGES: Final = 16_384
HEARTBEAT: Final = '{"action":"heartbeat"}'
MANY_FAILURES: Final = 6
"""For so many counts a connection that was turned away: the next is not tried at once."""


class Line:
    """One connection: what came and is not passed on yet, when it was heard, what is to be sent.

    Between socket and queue wait at most two lists: one that the queue has no room for, and one that gathers, up to
    `GATHER_MESSAGES` and what one read brings; then the socket is not read.
    """

    def __init__(self, stream: TwelveDataStream, connection: FrameConnection, out: asyncio.Queue[StreamEvent]) -> None:
        self.since_us = stream.clock.now_us()
        """Since when nothing more came, once it has ended."""
        self.connected = False
        self._stream = stream
        self._connection = connection
        self._out = out
        self._clock = stream.clock
        self._began_s = self._read_s = self._message_s = self._clock.monotonic()
        self._priced_us = self.since_us
        self._answered = False
        self._reason = ""
        self._paused = False
        self._gathered: list[bytes] = []
        self._gathered_us = 0
        self._passing: Received | None = None
        self._due = asyncio.Event()
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def answered(self) -> bool:
        """Whether the vendor has said anything to the subscription; a socket that opens and is mute is no good one."""
        return self._answered

    def send(self, texts: Sequence[str]) -> None:
        """Send these, in order, as soon as the vendor's limit lets."""
        for text in texts:
            self._outbox.put_nowait(text)

    async def listen(self, subscriptions: Sequence[str]) -> tuple[str, int]:
        """Subscribe and pass on what comes; return why it ended, and for how many failures that counts at least."""
        connection, clock = self._connection, self._clock
        connection.heard = self._heard
        connection.take = self._take
        for text in subscriptions:
            await self._stream.turn()
            await connection.send(text)
        await self._out.put(Connected(clock.now_us()))
        self.connected = True
        self._stream.silence.connected(clock.monotonic(), self._stream.hours.regime(clock.now_us()))
        self._stream.begin(clock.now_us())
        closed = asyncio.create_task(connection.wait_closed())
        tasks = [asyncio.create_task(work()) for work in (self._pass_on, self._send, self._watch)]
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
            rest = self._rest()
            if not closed.cancelled():
                for event in rest:
                    await self._out.put(event)
            else:  # told to stop: what there is room for
                with contextlib.suppress(asyncio.QueueFull):
                    for event in rest:
                        self._out.put_nowait(event)
        return self._why()

    def _why(self) -> tuple[str, int]:
        if self._reason:
            return self._reason, 0
        code, text = self._connection.close_code, (self._connection.close_reason or "")[:200]
        if code in (None, 1006):
            return "connection dropped", 0
        reason = f"closed by the vendor: {code} {text}".rstrip()
        if code == 1008:
            return f"{reason} (a key has 3 connections, the oldest is closed for a fourth)", MANY_FAILURES
        return reason, MANY_FAILURES - 2 if code in (1012, 1013) else 0

    def _heard(self) -> None:
        self._read_s = self._clock.monotonic()

    def _take(self, texts: list[bytes]) -> None:
        self._message_s = self._read_s
        if not self._gathered:
            self._gathered_us = self.since_us = self._clock.now_us()
            if self._passing is None:
                self._loop.call_later(self._stream.settings.gather_s, self._due.set)
        self._gathered += texts
        if len(self._gathered) >= GATHER_MESSAGES and not self._paused:
            self._paused = True
            self._connection.transport.pause_reading()
            self._due.set()

    async def _pass_on(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._gathered:
                texts: list[str | bytes] = list(self._gathered)
                self._passing = Received(texts, self._gathered_us)
                self._note(self._gathered, self._gathered_us)
                self._gathered = []
                if self._paused:
                    self._paused = False
                    self._read_s = self._message_s = self._clock.monotonic()
                    self._connection.transport.resume_reading()
                await self._out.put(self._passing)
                self._passing = None

    def _rest(self) -> list[Received]:
        rest = [] if self._passing is None else [self._passing]
        if self._gathered:
            rest.append(Received(list(self._gathered), self._gathered_us))
        return rest

    def _note(self, texts: list[bytes], at_us: int) -> None:
        """Take note of what kinds of messages came."""
        stream = self._stream
        if not self._answered:
            self._answered = any(map(is_answer, texts))
        if not stream.beats_answered:
            stream.beats_answered = any(map(is_heartbeat, texts))
            stream.pongs_count = stream.pongs_count and not stream.beats_answered
        if any(map(is_price, reversed(texts))):
            self._priced_us = at_us
            stream.silence.heard(self._clock.monotonic(), stream.hours.regime(at_us), len(texts))

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                text = await self._outbox.get()
                await self._stream.turn()
                await self._connection.send(text)
                if text == HEARTBEAT:
                    await self._connection.ping()

    async def _watch(self) -> None:
        """Send heartbeats; end the connection when nothing, or no price, came for too long."""
        stream, clock, settings = self._stream, self._clock, self._stream.settings
        mute_s, beat_s = stream.stretched(settings.mute_s), stream.stretched(settings.heartbeat_s)
        step_s = min(mute_s, beat_s, stream.stretched(settings.silent_s)) / 4
        beat_at_s = self._began_s + beat_s
        while True:
            await clock.sleep(step_s)
            now_s, now_us = clock.monotonic(), clock.now_us()
            regime = stream.hours.regime(now_us)
            if self._passing is not None:  # the writer is behind: what is not read says nothing of the vendor
                self._read_s = self._message_s = self._began_s = now_s
                stream.silence.connected(now_s, regime)
                continue
            heard_s = self._read_s if stream.pongs_count else self._message_s
            if now_s - heard_s > mute_s:
                stream.pongs_count = not stream.beats_answered and now_s - self._read_s <= mute_s
                return self._end("mute", self.since_us)
            if not self._answered and now_s - self._began_s > mute_s:
                return self._end("no answer to the subscription", self.since_us)
            if stream.silence.too_long(now_s, regime):
                return self._end("no prices, though the connection lives", self._priced_us)
            if now_s >= beat_at_s:
                beat_at_s = now_s + beat_s
                if self._outbox.empty():
                    self.send([HEARTBEAT])
            self.send(stream.due(now_s))

    def _end(self, reason: str, since_us: int) -> None:
        self._reason, self.since_us = reason, since_us
        self._connection.transport.abort()
