"""The service of live feeds: appends vendors' streams to the log, and runs the backfill beside them.

In: parsed batches of a vendor's stream. Out: ticks, watermarks and the state of the feed on `market.prices.raw`, and
the gaps that the backfill must fill. Begin with `MarketData.run`.

A feed has two tasks: the stream with its socket, and the writer. A queue of `QUEUE_EVENTS` events connects them. An
event contains the ticks of a few milliseconds, or more while the queue is full. A busy process thus handles fewer and
larger batches. When the largest batch is full, the stream stops reading the socket, and the vendor's limit for slow
clients applies. All calls to the log run in one thread, so they never block the event loop.

Times are those of `Clock`, which may be faster than the machine's clock. The rate of marks then follows the machine's
clock. Watermarks allow for the market time that passes while a message is in transit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import structlog

from tickerplant.core.arrow_values import times_of
from tickerplant.core.clock import Clock
from tickerplant.core.errors import LogError, LogUnavailable
from tickerplant.core.free_space import UNLIMITED, FreeSpace
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US
from tickerplant.log import trouble_reports
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill.publish import answers_batch
from tickerplant.market_data.disk_pause import DiskPause, pause_rows
from tickerplant.market_data.feed import cursor as feed_cursor
from tickerplant.market_data.feed.validation import FUTURE_US
from tickerplant.market_data.feed.writer import MARK_EVERY_US, FeedWriter
from tickerplant.market_data.flood_control import MAX_NOTES, FloodControl
from tickerplant.market_data.vendors.gathering import Gatherer
from tickerplant.market_data.vendors.legacy_streams import LegacyTickStream, adapt
from tickerplant.market_data.vendors.port import (
    Connected,
    Disconnected,
    KeyRejected,
    StreamEvent,
    Ticks,
    TickStream,
)
from tickerplant.system_clock import SystemClock

log = structlog.get_logger(__name__)
T = TypeVar("T")

OnGap = Callable[[int, int, Sequence[str]], None]
"""Callback for a range `[start_us, end_us)` that the feed did not deliver, with the symbols concerned. It must not
block."""

QUEUE_EVENTS: Final = 2  # the stream gathers further ticks into its next event
MARK_EVERY_S: Final = 1.0
"""Minimum seconds, by `Clock`, between two marks that a feed appends to a partition."""
MARK_TURNS: Final = 20
"""Maximum number of turns in which a feed marks all its partitions."""
_MARK_REAL_S: Final = 0.5  # real seconds between two marks of a partition, for clocks of speed 2 to 90
_MARK_LONGEST_S: Final = 45.0  # a feed that is silent for 90 s of log time is considered down
_TURN_REAL_S: Final = 0.05
_QUIET_REAL_S: Final = 0.2
_RETRY_S: Final = 1.0  # by the machine's clock, because an outage of the log takes real time
_SKEW_TURN_US: Final = 60 * SECOND_US


@dataclass(frozen=True, slots=True)
class MarketDataConfig:
    """The name and the symbols of a feed, and the distances of its watermark.

    `order_slack_us`: distance of the watermark from the newest tick. Vendors' times have a resolution of one second,
    and messages of one second may arrive in any order. `quiet_slack_us`: if no ticks arrive, the watermark follows our
    clock at this distance plus the measured delay of the feed. The distance is at least 0.2 s of the machine's clock.
    `gather_s`: maximum seconds, by the machine's clock, in which slowly arriving ticks are gathered into one record; 0
    disables gathering.
    """

    symbols: Sequence[str]
    feed: str = "twelvedata"
    order_slack_us: int = SECOND_US
    quiet_slack_us: int = 3 * SECOND_US
    gather_s: float = 0.0


@dataclass(slots=True)
class FeedCounters:
    """Counters of a feed since the service started, for metrics and tests.

    `lag_us`: maximum recent delay from the time in a message to its arrival; 0 if the times are ahead of our clock.
    `skew_us`: lower bound of the lead of the vendor's clock over ours, from messages that arrived before their own
    time; 0 if no message did.
    """

    messages: int = 0
    ticks: int = 0
    dead: int = 0
    repeats: int = 0
    conflicts: int = 0
    batches: int = 0
    connects: int = 0
    losses: int = 0
    rejected: int = 0
    log_waits: int = 0
    watermark_us: int = 0
    lag_us: int = 0
    skew_us: int = 0
    connected: bool = False
    unwanted: int = 0
    """Count of ticks of symbols that were not requested; they are not stored."""
    dead_dropped: int = 0
    """Count of refused rows that are not in the dead-letter topic, because a minute had more than
    `flood.MAX_DEAD_ROWS`."""
    floods: int = 0
    """Count of connections that were dropped because most of their messages were unusable."""


@dataclass(frozen=True, slots=True)
class FeedEvents:
    """The counters of a feed that only grow, for the metric `tickerplant_service_events`."""

    messages: int
    ticks: int
    dead: int
    dead_dropped: int
    unwanted: int
    floods: int
    repeats: int
    conflicts: int
    losses: int

    @classmethod
    def of(cls, counts: FeedCounters) -> FeedEvents:
        """Return a copy of the current counts."""
        return cls(**{name: getattr(counts, name) for name in cls.__slots__})


class MarketData:
    """Runs one live feed. `metrics` is called with the counters after each event, in the event loop.

    `on_gap` is called in the event loop with each range that the feed missed. Ticks can be missed between two
    connections, between two runs of the service, or on a live connection. The first connection of a new feed reports no
    range.
    """

    def __init__(
        self,
        event_log: EventLog,
        config: MarketDataConfig,
        stream: TickStream | LegacyTickStream,
        *,
        clock: Clock | None = None,
        on_gap: OnGap | None = None,
        metrics: Callable[[FeedCounters], None] | None = None,
        space: FreeSpace = UNLIMITED,
    ) -> None:
        self.config = config
        self.counts = FeedCounters()
        self._log = event_log
        self._clock = clock or SystemClock()
        self._on_gap = on_gap
        self._metrics = metrics
        self._symbols = [check_symbol(symbol) for symbol in config.symbols]
        self._stream = FloodControl(adapt(stream), self._symbols, self._clock)
        self._pause = DiskPause(self._stream, space, self._clock)
        self._rejected: set[str] = set()
        self._key_rejected = False
        self._down_since_us: int | None = None
        self._counted_before = feed_cursor.Cursor(feed=config.feed)
        self._start_us = 0
        self._newest_us = 0
        self._skew = (0, 0, 0)
        self._mark_s = max(MARK_EVERY_S, min(_MARK_REAL_S * self._clock.speed, _MARK_LONGEST_S))
        self._quiet_us = max(config.quiet_slack_us, int(_QUIET_REAL_S * self._clock.speed * SECOND_US))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="market-data-log")

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set, then append a `down` record and return. Call it once.

        Raises Fenced when another process has taken over the feed. While the log is unavailable, the service waits: the
        queue fills and the socket is not read.
        """
        queue: asyncio.Queue[StreamEvent] = asyncio.Queue(QUEUE_EVENTS)
        events = Gatherer(queue, self.config.gather_s)
        writer = await self._open()
        self._counted_before = msgspec.structs.replace(writer.cursor)
        if writer.cursor.state != feed_cursor.NEW:
            self._down_since_us = max(writer.cursor.watermark_us, 0)
        tasks = [
            asyncio.create_task(self._pause.run(queue), name="stream"),
            asyncio.create_task(self._write(writer, events), name="writer"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            waiting = {stopping, *tasks}
            while not stopping.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a task that ends here has failed
        finally:
            stopping.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            await self._finish(writer, events)

    async def _finish(self, writer: FeedWriter, events: Gatherer) -> None:
        """Write the events that already arrived, append a `down` record, and close the writer."""
        try:
            while not events.empty():
                await self._handle(writer, events.get_nowait())
            await self._call(lambda: writer.down(reason="stopped"))
        except LogUnavailable as error:
            log.warning("the feed stopped without a `down` record: log unavailable; the next start appends the record",
                        feed=self.config.feed, error=str(error))  # fmt: skip
        finally:
            await self._call(writer.close)
            self._update_counters(writer)
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

    async def _append(self, writer: FeedWriter, work: Callable[[], object]) -> None:
        """Call the writer, and wait without a limit until the log contains the records."""
        try:
            await self._call(work)
            return
        except LogUnavailable as error:
            log.warning(
                "the log is unavailable; the feed keeps its records and retries",
                feed=self.config.feed,
                error=str(error),
            )
        while True:
            self.counts.log_waits += 1
            await asyncio.sleep(_RETRY_S)
            with contextlib.suppress(LogUnavailable):
                await self._call(writer.recover)
                return

    # The stream ------------------------------------------------------------------------------------------------------

    async def _write(self, writer: FeedWriter, events: Gatherer) -> None:
        clock = self._clock
        marked_s, turn = clock.monotonic(), 0
        turns = max(1, min(writer.partitions, MARK_TURNS, int(clock.real_s(self._mark_s) / _TURN_REAL_S)))
        every_s = self._mark_s / turns
        while True:
            wait_s = max(0.0, marked_s + every_s - clock.monotonic())
            event: StreamEvent | None = None
            # No wait_for: before Python 3.12, it may lose a cancellation at the moment of an event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(clock.real_s(wait_s)):
                    event = await events.get()
            if event is not None:
                await self._handle(writer, event)
            if (paused := self._pause.due()) is not None:
                await self._append_pause(writer, *paused)
            if clock.monotonic() - marked_s >= every_s:
                marked_s, turn = clock.monotonic(), (turn + 1) % turns
                if self.counts.connected:
                    # Ticks in the queue may be older than our clock, so only the feed's own times count.
                    by_ticks_us = self._newest_us - self.config.order_slack_us
                    watermark_us = self._watermark_by_clock_us() if events.empty() else by_ticks_us
                    await self._mark(writer, watermark_us, range(turn, writer.partitions, turns))

    async def _mark(self, writer: FeedWriter, watermark_us: int, partitions: range) -> None:
        await self._append(writer, lambda: writer.mark(watermark_us, partitions=partitions))
        self._update_counters(writer)

    async def _handle(self, writer: FeedWriter, event: StreamEvent) -> None:
        if isinstance(event, Ticks):
            await self._on_ticks(writer, event)
        elif isinstance(event, Connected):
            await self._on_connected(writer, event)
        elif isinstance(event, Disconnected):
            await self._on_disconnected(writer, event)
        elif isinstance(event, KeyRejected):
            if not self._key_rejected:  # one line per outage; the stream tries again
                log.error("the vendor rejected the key; set a valid key", feed=self.config.feed, reason=event.reason)
            self._key_rejected = True
        if self._metrics is not None:
            self._metrics(self.counts)

    async def _on_connected(self, writer: FeedWriter, event: Connected) -> None:
        self.counts.connects += 1
        self.counts.connected = True
        self._key_rejected = False
        # A subscription takes effect a moment after it was sent.
        self._start_us = event.at_us + self._quiet_us
        gap = writer.cursor.state != feed_cursor.NEW
        await self._append(writer, lambda: self._start(writer, gap=gap))
        if (paused := self._pause.end(self._start_us)) is not None:
            await self._append_pause(writer, *paused)
        since_us, self._down_since_us = self._down_since_us, None
        if self._on_gap is not None and since_us is not None and since_us < self._start_us:
            self._on_gap(since_us, self._start_us, self._expected())

    async def _append_pause(self, writer: FeedWriter, start_us: int, end_us: int) -> None:
        """Append the reason why the feed misses a range: the disk is almost full."""
        rows = answers_batch(pause_rows(self._expected(), start_us, end_us, self._pause.reason))

        def append() -> None:
            writer.append_answers(rows)
            writer.commit()

        await self._append(writer, append)

    async def _on_disconnected(self, writer: FeedWriter, event: Disconnected) -> None:
        self.counts.losses += 1
        self.counts.connected = False
        watermark_us = max(writer.cursor.watermark_us, 0) or event.since_us
        since_us = min(self._complete_until_us(event.since_us), watermark_us)
        self._down_since_us = since_us if self._down_since_us is None else min(self._down_since_us, since_us)
        await self._append(writer, lambda: writer.down(since_us, event.reason[:200]))

    async def _on_ticks(self, writer: FeedWriter, event: Ticks) -> None:
        counts = self.counts
        counts.messages += event.messages
        counts.batches += 1
        for note in event.notes[:MAX_NOTES]:
            log.warning("message from the vendor", feed=self.config.feed, message=note[:500])
        await self._update_rejected(writer, event)
        if event.gap is not None:
            await self._on_live_gap(writer, *event.gap)
        batch, dead, dead_before = self._stream.wanted(event), event.dead, writer.cursor.dead
        if batch is not None and batch.num_rows:
            self._note_times(event.received_us, batch)
            watermark_us = self._newest_us - self.config.order_slack_us

            def append() -> None:
                writer.append_dead_letters(dead)
                writer.append_ticks(batch, watermark_us)

            await self._append(writer, append)
        elif dead:

            def append_dead() -> None:
                writer.append_dead_letters(dead)
                writer.commit()

            await self._append(writer, append_dead)
        counts.unwanted += event.unwanted
        self._update_counters(writer)
        refused = writer.cursor.dead - dead_before
        unusable = refused + event.unwanted + event.control
        if unusable:
            why = "the symbols were not requested" if event.unwanted else "the messages have no prices"
            why = writer.last_refusal[:200] if refused else why
            usable = max((batch.num_rows if batch is not None else 0) - refused, 0)
            await self._on_unusable(unusable, usable, why)

    async def _on_unusable(self, unusable: int, usable: int, why: str) -> None:
        """Count unusable messages. In a flood, the stream drops its connection, and health shows the reason."""
        flood = self._stream.observe(unusable, usable, why)
        if flood is None:
            return
        self.counts.floods += 1
        log.error(
            "the vendor's connection is dropped, and opened again after a pause", feed=self.config.feed, reason=flood
        )
        key, now_s = trouble_reports.feed_key(self.config.feed), self._clock.now_us() / SECOND_US
        with contextlib.suppress(LogError):
            await self._call(lambda: trouble_reports.report(self._log, key, flood, now_s, permanent=False))

    async def _on_live_gap(self, writer: FeedWriter, start_us: int, end_us: int) -> None:
        """Append a `down` and a `start` record: a live connection missed the ticks of a range."""
        seconds = (end_us - start_us) / SECOND_US
        log.warning(
            "ticks were missed on a live connection; the gap is recorded", feed=self.config.feed, seconds=seconds
        )
        self.counts.losses += 1
        self._start_us = end_us

        def append() -> None:
            writer.down(start_us, f"no prints for {seconds:g} s")
            self._start(writer, gap=True)

        await self._append(writer, append)
        if self._on_gap is not None:
            self._on_gap(start_us, end_us, self._expected())

    async def _update_rejected(self, writer: FeedWriter, event: Ticks) -> None:
        """Update the set of symbols that the vendor rejects; the connection stays open."""
        before = len(self._rejected)
        if event.rejected:
            log.warning(
                "the vendor rejected symbols; correct or remove them", feed=self.config.feed, symbols=event.rejected
            )
            self._rejected.update(event.rejected)
        elif self._rejected and event.batch is not None:
            column = event.batch["symbol"]
            names = column.dictionary.take(pa.array(np.unique(column.indices.to_numpy(zero_copy_only=False))))
            self._rejected.difference_update(names.to_pylist())
        if len(self._rejected) != before:
            self.counts.rejected = len(self._rejected)
            await self._append(writer, lambda: self._start(writer, gap=False))

    # State -----------------------------------------------------------------------------------------------------------

    def _expected(self) -> list[str]:
        return [symbol for symbol in self._symbols if symbol not in self._rejected]

    def _start(self, writer: FeedWriter, *, gap: bool) -> None:
        writer.start(self._expected(), start_us=self._start_us, gap=gap, live=True)

    def _note_times(self, at_us: int, batch: pa.RecordBatch) -> None:
        """Update the newest time of the feed, its lag, and the lead of its clock over ours."""
        times = times_of(batch["time"])
        valid = times[times <= at_us + FUTURE_US]  # a time that the writer rejects must not advance the watermark
        if not len(valid):
            return
        newest_us, counts = int(valid.max()), self.counts
        self._newest_us = max(self._newest_us, newest_us)
        counts.lag_us = max(at_us - newest_us, counts.lag_us - counts.lag_us // 1_000, 0)
        # The largest lead of messages over our clock, in this minute and in the previous one.
        began_us, before, now = self._skew
        if at_us - began_us > _SKEW_TURN_US:
            began_us, before, now = at_us, now, 0
        now = max(now, newest_us - at_us)
        self._skew = (began_us, before, now)
        counts.skew_us = max(before, now)

    def _update_counters(self, writer: FeedWriter) -> None:
        """Set the counters from the feed's cursor, which counts over all runs."""
        cursor, counts = writer.cursor, self.counts
        before = self._counted_before
        counts.ticks, counts.dead = cursor.ticks - before.ticks, cursor.dead - before.dead
        counts.repeats, counts.conflicts = cursor.repeats - before.repeats, cursor.conflicts - before.conflicts
        counts.watermark_us = cursor.watermark_us
        counts.dead_dropped = writer.dead_budget.dropped

    def _complete_until_us(self, since_us: int) -> int:
        """Return the time up to which all ticks certainly arrived, for a connection that was alive until `since_us`.

        This is the time of the newest tick, or `since_us` if no tick arrived or `since_us` is earlier. A heartbeat that
        was answered later does not show that later ticks arrived. Requesting a range without trades costs little.
        """
        return min(self._newest_us, since_us) if self._newest_us else since_us

    def _watermark_by_clock_us(self) -> int:
        by_clock_us = self._clock.now_us() - self._quiet_us - self.counts.lag_us
        return max(by_clock_us, self._newest_us - self.config.order_slack_us)


async def run_feeds(stop: asyncio.Event, feeds: Sequence[MarketData], backfill: Awaitable[None] | None) -> None:
    """Run feeds and the backfill until `stop`, then append a `down` record to each feed.

    Raises the first error of these tasks.
    """
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
