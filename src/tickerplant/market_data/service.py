"""The service of a live feed: a vendor's stream into the log, beside the backfill of what it did not bring.

A feed has two tasks: the stream's socket, and the writer. Between socket and writer is a queue of
`QUEUE_EVENTS` events, each what came within a few milliseconds or, while the queue was full, since then: a busy plant
takes fewer and larger batches. When the largest has gathered the socket is not read, and the vendor decides what a slow
client is. All calls of the log run in one thread, so they never block the loop.

Time is the clock's, which may be fast. What a feed may cost the log (marks) then goes by the machine's clock, and what
is said of the market's time allows for the longer stretches of it that pass while a message is on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa
import structlog

from tickerplant.core.clock import Clock
from tickerplant.core.errors import LogUnavailable
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US, times_of
from tickerplant.log.port import EventLog
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.validation import FUTURE_US
from tickerplant.market_data.feed.writer import MARK_EVERY_US, FeedWriter
from tickerplant.market_data.vendors.port import Connected, Lost, Received, Refused, Said, StreamEvent, TickStream
from tickerplant.system_clock import SystemClock

log = structlog.get_logger(__name__)
T = TypeVar("T")

OnHole = Callable[[int, int, Sequence[str]], None]
"""Told of a stretch `[since_us, until_us)` that the feed has not brought, and of which symbols; must be quick."""

QUEUE_EVENTS: Final = 2  # one is written, one waits, the next gathers
MARK_EVERY_S: Final = 1.0
MARK_TURNS: Final = 20
"""In how many turns the partitions of a feed are marked, at most."""
_MARK_REAL_S: Final = 0.5  # in turn, and half as often beside batches
_MARK_LONGEST_S: Final = 45.0  # a feed that is silent for 90 s of log time is taken as down
_TURN_REAL_S: Final = 0.05
_QUIET_REAL_S: Final = 0.2
_RETRY_S: Final = 1.0  # of the machine's clock, as the log's troubles are
_SKEW_TURN_US: Final = 60 * SECOND_US


@dataclass(frozen=True, slots=True)
class MarketDataConfig:
    """Which feed, which symbols.

    `order_slack_us`: the vendor's times are whole seconds, and messages of one second may come in any order: nothing
    before the newest second less this comes in order. `quiet_slack_us`: with no prints the watermark follows our clock
    less this, and less the delay that the feed has shown; by a fast clock at least 0.2 s of the machine's.
    """

    symbols: Sequence[str]
    feed: str = "twelvedata"
    order_slack_us: int = SECOND_US
    quiet_slack_us: int = 3 * SECOND_US


@dataclass(slots=True)
class FeedCounts:
    """What the feed has done since the service began; the numbers that metrics and tests read.

    `lag_us`: how long after the time it bears a message came, at worst of late; 0 where times are ahead. `skew_us`: how
    far the vendor's clock is ahead of ours at least (then messages come before their time), 0 if it need not be.
    """

    messages: int = 0
    ticks: int = 0
    dead: int = 0
    batches: int = 0
    connects: int = 0
    losses: int = 0
    refused: int = 0
    log_waits: int = 0
    watermark_us: int = 0
    lag_us: int = 0
    skew_us: int = 0
    connected: bool = False


class MarketData:
    """Runs one feed of a stream. `metrics` is called with the counts after each batch, from the event loop.

    `on_hole` is told, from the event loop, what
    the feed has missed, whenever it is up again: since it was lost, or since the service's last run.
    """

    def __init__(
        self,
        event_log: EventLog,
        config: MarketDataConfig,
        stream: TickStream,
        *,
        clock: Clock | None = None,
        on_hole: OnHole | None = None,
        metrics: Callable[[FeedCounts], None] | None = None,
    ) -> None:
        self.config = config
        self.counts = FeedCounts()
        self._log = event_log
        self._stream = stream
        self._clock = clock or SystemClock()
        self._on_hole = on_hole
        self._metrics = metrics
        self._symbols = [check_symbol(symbol) for symbol in config.symbols]
        self._refused: set[str] = set()
        self._lost_us: int | None = None
        self._before = (0, 0)
        self._from_us = 0
        self._newest_us = 0
        self._skew = (0, 0, 0)
        self._mark_s = max(MARK_EVERY_S, min(_MARK_REAL_S * self._clock.speed, _MARK_LONGEST_S))
        self._quiet_us = max(config.quiet_slack_us, int(_QUIET_REAL_S * self._clock.speed * SECOND_US))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="market-data-log")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then say `down` and leave. Once only.

        Raises Fenced when another process has taken over the feed. LogUnavailable is waited out: meanwhile the queue
        fills and the socket is not read.
        """
        queue: asyncio.Queue[StreamEvent] = asyncio.Queue(QUEUE_EVENTS)
        writer = await self._open()
        self._before = (writer.cursor.ticks, writer.cursor.dead)
        if writer.cursor.state != feed_cursor.NEW:
            self._lost_us = max(writer.cursor.watermark_us, 0)
        tasks = [
            asyncio.create_task(self._stream.run(queue), name="stream"),
            asyncio.create_task(self._write(writer, queue), name="writer"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            waiting = {stopping, *tasks}
            while not stopping.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # what ends here has failed
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await self._leave(writer, queue)

    async def _leave(self, writer: FeedWriter, queue: asyncio.Queue[StreamEvent]) -> None:
        """Write what was already received, say down, let go."""
        try:
            while not queue.empty():
                await self._take(writer, queue.get_nowait())
            await self._call(lambda: writer.down(reason="stopped"))
        except LogUnavailable as error:
            log.warning("stopped without a word: the log is out of reach", feed=self.config.feed, error=str(error))
        finally:
            await self._call(writer.close)
            self._counted(writer)
            self._executor.shutdown(wait=False)

    # The log ---------------------------------------------------------------------------------------------------------

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _open(self) -> FeedWriter:
        clock = self._clock
        mark_every_us = int(2 * self._mark_s * SECOND_US) if clock.speed > 1 else MARK_EVERY_US

        def make() -> FeedWriter:
            return FeedWriter(self._log, self.config.feed, clock=clock.now_us, mark_every_us=mark_every_us)

        while True:
            try:
                return await self._call(make)
            except LogUnavailable:
                self.counts.log_waits += 1
                await asyncio.sleep(_RETRY_S)

    async def _say(self, writer: FeedWriter, work: Callable[[], object]) -> None:
        """Say something, and wait until the log has it however long that takes."""
        try:
            await self._call(work)
            return
        except LogUnavailable as error:
            log.warning("log out of reach, holding what came", feed=self.config.feed, error=str(error))
        while True:
            self.counts.log_waits += 1
            await asyncio.sleep(_RETRY_S)
            with contextlib.suppress(LogUnavailable):
                await self._call(writer.recover)
                return

    # The stream ------------------------------------------------------------------------------------------------------

    async def _write(self, writer: FeedWriter, queue: asyncio.Queue[StreamEvent]) -> None:
        clock = self._clock
        marked_s, turn = clock.monotonic(), 0
        turns = max(1, min(writer.partitions, MARK_TURNS, int(clock.real_s(self._mark_s) / _TURN_REAL_S)))
        every_s = self._mark_s / turns
        while True:
            wait_s = max(0.0, marked_s + every_s - clock.monotonic())
            event: StreamEvent | None = None
            # Not wait_for: before Python 3.12 it may lose a cancellation that comes together with an event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(clock.real_s(wait_s)):
                    event = await queue.get()
            if event is not None:
                await self._take(writer, event)
            if clock.monotonic() - marked_s >= every_s:
                marked_s, turn = clock.monotonic(), (turn + 1) % turns
                if self.counts.connected:
                    # What waits in the queue may be older than our clock says: then the feed's own times alone count.
                    said_us = self._heard_to_us() if queue.empty() else self._newest_us - self.config.order_slack_us
                    await self._mark(writer, said_us, range(turn, writer.partitions, turns))

    async def _mark(self, writer: FeedWriter, watermark_us: int, partitions: range) -> None:
        await self._say(writer, lambda: writer.mark(watermark_us, partitions=partitions))
        self._counted(writer)

    async def _take(self, writer: FeedWriter, event: StreamEvent) -> None:
        counts = self.counts
        if isinstance(event, Received):
            await self._received(writer, event)
        elif isinstance(event, Connected):
            await self._connected(writer, event)
        elif isinstance(event, Lost):
            counts.losses += 1
            counts.connected = False
            since_us = min(self._surely_heard_us(event.since_us), max(writer.cursor.watermark_us, 0) or event.since_us)
            self._lost_us = since_us if self._lost_us is None else min(self._lost_us, since_us)
            await self._say(writer, lambda: writer.down(since_us, event.reason[:200]))
        elif isinstance(event, Refused):
            log.error("the vendor does not take the key", feed=self.config.feed, reason=event.reason)
        if self._metrics is not None:
            self._metrics(counts)

    async def _connected(self, writer: FeedWriter, event: Connected) -> None:
        self.counts.connects += 1
        self.counts.connected = True
        self._stream.reconnected()
        # A subscription that was sent is in force a moment later.
        self._from_us = event.at_us + self._quiet_us
        hole = writer.cursor.state != feed_cursor.NEW
        await self._say(writer, lambda: self._start(writer, hole=hole))
        lost_us, self._lost_us = self._lost_us, None
        if self._on_hole is not None and lost_us is not None and lost_us < self._from_us:
            self._on_hole(lost_us, self._from_us, self._expected())

    def _expected(self) -> list[str]:
        return [symbol for symbol in self._symbols if symbol not in self._refused]

    def _start(self, writer: FeedWriter, *, hole: bool) -> None:
        writer.start(self._expected(), from_us=self._from_us, hole=hole, live=True)

    async def _received(self, writer: FeedWriter, event: Received) -> None:
        counts = self.counts
        said = self._stream.read(event)
        counts.messages += said.messages
        counts.batches += 1
        for note in said.notes:
            log.warning("the vendor says", feed=self.config.feed, message=note[:500])
        await self._note_refused(writer, said)
        if said.hole is not None:
            await self._missed(writer, *said.hole)
        if said.ticks is not None and said.ticks.num_rows:
            batch, dead = said.ticks, said.dead
            self._note_times(event.at_us, batch)
            watermark_us = self._newest_us - self.config.order_slack_us

            def say() -> None:
                writer.dead(dead)
                writer.ticks(batch, watermark_us)

            await self._say(writer, say)
        elif said.dead:

            def bury() -> None:
                writer.dead(said.dead)
                writer.commit()

            await self._say(writer, bury)
        self._counted(writer)

    async def _missed(self, writer: FeedWriter, since_us: int, until_us: int) -> None:
        """Say of a connection that lives that it has brought nothing of a stretch."""
        seconds = (until_us - since_us) / SECOND_US
        log.warning("prints were missed, though the connection lives", feed=self.config.feed, seconds=seconds)
        self.counts.losses += 1
        self._from_us = until_us

        def say() -> None:
            writer.down(since_us, f"no prints for {seconds:g} s")
            self._start(writer, hole=True)

        await self._say(writer, say)
        if self._on_hole is not None:
            self._on_hole(since_us, until_us, self._expected())

    def _note_times(self, at_us: int, batch: pa.RecordBatch) -> None:
        """Take note of how far the feed has come, how late it is, and how its clock differs from ours."""
        times = times_of(batch["time"])
        sound = times[times <= at_us + FUTURE_US]  # a time that the feed will refuse must not move the watermark
        if not len(sound):
            return
        newest_us, counts = int(sound.max()), self.counts
        self._newest_us = max(self._newest_us, newest_us)
        counts.lag_us = max(at_us - newest_us, counts.lag_us - counts.lag_us // 1_000, 0)
        # The most that messages came before their time, of this minute and the one before.
        began_us, before, now = self._skew
        if at_us - began_us > _SKEW_TURN_US:
            began_us, before, now = at_us, now, 0
        now = max(now, newest_us - at_us)
        self._skew = (began_us, before, now)
        counts.skew_us = max(before, now)

    def _counted(self, writer: FeedWriter) -> None:
        """Take the numbers from the feed's cursor, which counts over all runs."""
        cursor, counts = writer.cursor, self.counts
        counts.ticks = cursor.ticks - self._before[0]
        counts.dead = cursor.dead - self._before[1]
        counts.watermark_us = cursor.watermark_us

    async def _note_refused(self, writer: FeedWriter, said: Said) -> None:
        """Take note of what the vendor does not bring, and of what it brings after all; no reason to connect again."""
        before = len(self._refused)
        if said.refused:
            log.warning("symbols not subscribed", feed=self.config.feed, symbols=said.refused)
            self._refused.update(said.refused)
        elif self._refused and said.ticks is not None:
            column = said.ticks["symbol"]
            names = column.dictionary.take(pa.array(np.unique(column.indices.to_numpy(zero_copy_only=False))))
            self._refused.difference_update(names.to_pylist())
        if len(self._refused) != before:
            self.counts.refused = len(self._refused)
            await self._say(writer, lambda: self._start(writer, hole=False))

    def _surely_heard_us(self, since_us: int) -> int:
        """Return up to when all has come of a feed that was heard by our clock until `since_us`: the last print.

        That it lived after it (it answered a heartbeat) does not show that prints of then have come. What was not
        traded since is asked for in vain, which costs little.
        """
        return min(self._newest_us, since_us) if self._newest_us else since_us

    def _heard_to_us(self) -> int:
        by_clock = self._clock.now_us() - self._quiet_us - self.counts.lag_us
        return max(by_clock, self._newest_us - self.config.order_slack_us)


async def together(stop: asyncio.Event, feeds: Sequence[MarketData], backfill: Awaitable[None] | None) -> None:
    """Run feeds and the backfill until `stop`, then have the feeds say good-bye. Raises what any of them raises."""
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(feed.run(stopping), name=feed.config.feed) for feed in feeds]
    if backfill is not None:
        tasks.append(asyncio.ensure_future(_as_task(backfill)))
    waiting = asyncio.create_task(stop.wait())
    try:
        while not waiting.done():
            done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()
                tasks.remove(task)  # type: ignore[arg-type]
    finally:
        stopping.set()
        waiting.cancel()
        for task in tasks[len(feeds) :]:
            task.cancel()
        await asyncio.gather(waiting, *tasks, return_exceptions=True)


async def _as_task(work: Awaitable[None]) -> None:
    await work
