"""The service of the feeds: a vendor's stream and its first history into the log.

Three tasks share a process: the stream's socket, the writer, the backfill. Between socket and writer is a queue of
`QUEUE_EVENTS` events, each what came within a few milliseconds or, while the queue was full, since then: a busy plant
takes fewer and larger batches. When the largest has gathered the socket is not read, and the vendor decides what a slow
client is. All calls of the log run in one thread, so they never block the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from tickerplant.core.errors import LogUnavailable
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US, times_of
from tickerplant.log.port import EventLog
from tickerplant.market_data import cursors
from tickerplant.market_data.backfill import DEFAULT_DEPTHS, BackfillSummary, Depth, backfill
from tickerplant.market_data.checks import FUTURE_US
from tickerplant.market_data.clients.twelvedata_client import TwelveDataRest
from tickerplant.market_data.clients.twelvedata_messages import QuoteColumns, SubscribeStatus, read_messages
from tickerplant.market_data.clients.twelvedata_ws_client import (
    Connected,
    Lost,
    Received,
    Refused,
    StreamEvent,
    StreamSettings,
    TwelveDataStream,
)
from tickerplant.market_data.feed import FeedWriter, now_us

log = structlog.get_logger(__name__)
T = TypeVar("T")

QUEUE_EVENTS: Final = 2  # one is written, one waits, the next gathers
MARK_EVERY_S: Final = 1.0
MARK_TURNS: Final = 20
"""In how many turns the partitions of a feed are marked, at most."""
_RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class MarketDataConfig:
    """Which vendor, which symbols, how much history.

    `order_slack_us`: the vendor's times are whole seconds, and messages of one second may come in any order: nothing
    before the newest second less this comes in order. `quiet_slack_us`: with no prints the watermark follows our clock
    less this, and less the delay that the feed has shown. `stamped` is for a sandbox that adds `sent_ns`.
    """

    rest_url: str
    stream_url: str
    key: str = field(repr=False)
    symbols: Sequence[str]
    feed: str = "twelvedata"
    source: str = "twelvedata"
    depths: Sequence[Depth] = DEFAULT_DEPTHS
    requests_per_minute: float = 0
    order_slack_us: int = SECOND_US
    quiet_slack_us: int = 3 * SECOND_US
    stamped: bool = False
    stream: StreamSettings = field(default_factory=StreamSettings)


@dataclass(slots=True)
class FeedCounts:
    """What the feed has done since the service began; the numbers that metrics and tests read."""

    messages: int = 0
    ticks: int = 0
    dead: int = 0
    batches: int = 0
    connects: int = 0
    losses: int = 0
    log_waits: int = 0
    watermark_us: int = 0
    connected: bool = False
    backfill: BackfillSummary | None = None


class MarketData:
    """Runs one vendor's feeds. `metrics` is called with the counts after each batch, from the event loop."""

    def __init__(
        self,
        event_log: EventLog,
        config: MarketDataConfig,
        *,
        metrics: Callable[[FeedCounts], None] | None = None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        self.config = config
        self.counts = FeedCounts()
        self._log = event_log
        self._metrics = metrics
        self._clock = clock
        self._symbols = [check_symbol(symbol) for symbol in config.symbols]
        self._columns = QuoteColumns(source=config.source, stamped=config.stamped)
        self._columns.expect(self._symbols)
        self._refused: dict[str, str] = {}
        self._before = (0, 0)
        self._from_us = 0
        self._newest_us = 0
        self._lag_us = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="market-data-log")

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then say `down` and leave. Once only.

        Raises Fenced when another process has taken over the feed. LogUnavailable is waited out: meanwhile the queue
        fills and the socket is not read.
        """
        config = self.config
        queue: asyncio.Queue[StreamEvent] = asyncio.Queue(QUEUE_EVENTS)
        stream = TwelveDataStream(
            config.stream_url, config.key, self._symbols, settings=config.stream, clock=self._clock
        )
        writer = await self._open()
        self._before = (writer.cursor.ticks, writer.cursor.dead)
        tasks = [
            asyncio.create_task(stream.run(queue), name="stream"),
            asyncio.create_task(self._write(writer, queue), name="writer"),
            asyncio.create_task(self._history(), name="backfill"),
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            waiting = {stopping, *tasks}
            while not stopping.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # the backfill ends by itself; whatever else ends here has failed
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
        while True:
            try:
                return await self._call(lambda: FeedWriter(self._log, self.config.feed, clock=self._clock))
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
        marked_s, turn = time.monotonic(), 0
        turns = min(writer.partitions, MARK_TURNS)
        while True:
            wait_s = max(0.0, marked_s + MARK_EVERY_S / turns - time.monotonic())
            event: StreamEvent | None = None
            # Not wait_for: before Python 3.12 it may lose a cancellation that comes together with an event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    event = await queue.get()
            if event is not None:
                await self._take(writer, event)
            if time.monotonic() - marked_s >= MARK_EVERY_S / turns:
                marked_s, turn = time.monotonic(), (turn + 1) % turns
                if self.counts.connected:
                    # What waits in the queue may be older than our clock says: then the feed's own times alone count.
                    said_us = self._quiet_us() if queue.empty() else self._newest_us - self.config.order_slack_us
                    await self._mark(writer, said_us, range(turn, writer.partitions, turns))

    async def _mark(self, writer: FeedWriter, watermark_us: int, partitions: range) -> None:
        await self._say(writer, lambda: writer.mark(watermark_us, partitions=partitions))
        self._counted(writer)

    async def _take(self, writer: FeedWriter, event: StreamEvent) -> None:
        counts = self.counts
        if isinstance(event, Received):
            await self._received(writer, event)
        elif isinstance(event, Connected):
            counts.connects += 1
            counts.connected = True
            self._columns.forget_volumes()
            self._from_us = event.at_us
            hole = writer.cursor.state != cursors.NEW
            await self._say(writer, lambda: self._start(writer, hole=hole))
        elif isinstance(event, Lost):
            counts.losses += 1
            counts.connected = False
            since_us = min(event.since_us, max(writer.cursor.watermark_us, 0) or event.since_us)
            await self._say(writer, lambda: writer.down(since_us, event.reason[:200]))
        elif isinstance(event, Refused):
            log.error("the vendor does not take the key", feed=self.config.feed, reason=event.reason)
        if self._metrics is not None:
            self._metrics(counts)

    def _start(self, writer: FeedWriter, *, hole: bool) -> None:
        expected = [symbol for symbol in self._symbols if symbol not in self._refused]
        writer.start(expected, from_us=self._from_us, hole=hole, live=True)

    async def _received(self, writer: FeedWriter, event: Received) -> None:
        counts = self.counts
        messages = read_messages(event.texts)
        counts.messages += len(event.texts)
        counts.batches += 1
        for status in messages.statuses:
            await self._subscribed(writer, status)
        dead = messages.dead
        if messages.prices:
            batch, odd = self._columns.ticks(messages.prices, event.at_us)
            dead = [*dead, *odd]
            times = times_of(batch["time"])
            # A time that the feed will refuse must not move the watermark.
            sound = times[times <= event.at_us + FUTURE_US]
            if len(sound):
                self._newest_us = max(self._newest_us, int(sound.max()))
                lag_us = event.at_us - int(sound.max())
                self._lag_us = max(lag_us, self._lag_us - self._lag_us // 1_000)
            watermark_us = self._newest_us - self.config.order_slack_us

            def say() -> None:
                writer.dead(dead)
                writer.ticks(batch, watermark_us)

            await self._say(writer, say)
        elif dead:

            def bury() -> None:
                writer.dead(dead)
                writer.commit()

            await self._say(writer, bury)
        self._counted(writer)

    def _counted(self, writer: FeedWriter) -> None:
        """Take the numbers from the feed's cursor, which counts over all runs."""
        cursor, counts = writer.cursor, self.counts
        counts.ticks = cursor.ticks - self._before[0]
        counts.dead = cursor.dead - self._before[1]
        counts.watermark_us = cursor.watermark_us

    async def _subscribed(self, writer: FeedWriter, status: SubscribeStatus) -> None:
        """Take note of what the vendor does not bring; that is no reason to connect again."""
        for text in status.messages:
            log.warning("the vendor says", feed=self.config.feed, status=status.status, message=text)
        new = {symbol: why for symbol, why in status.fails if symbol not in self._refused}
        if new:
            log.warning("symbols not subscribed", feed=self.config.feed, symbols=new)
            self._refused.update(new)
            await self._say(writer, lambda: self._start(writer, hole=False))

    def _quiet_us(self) -> int:
        by_clock = self._clock() - self.config.quiet_slack_us - self._lag_us
        return max(by_clock, self._newest_us - self.config.order_slack_us)

    # History ---------------------------------------------------------------------------------------------------------

    async def _history(self) -> None:
        config = self.config
        if not config.depths:
            return
        rest = TwelveDataRest(
            config.rest_url, config.key, requests_per_minute=config.requests_per_minute, source=config.source
        )
        try:
            while True:
                try:
                    self.counts.backfill = await backfill(
                        self._log, config.feed, rest, self._symbols, config.depths, call=self._call, clock=self._clock
                    )
                    return
                except LogUnavailable:
                    await asyncio.sleep(_RETRY_S)
        finally:
            await rest.close()
