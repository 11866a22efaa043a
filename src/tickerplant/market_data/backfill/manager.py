"""The backfill manager: fetches missing bars for as long as the service runs.

No plan is stored. Each round plans from the store: expected bars, minus stored bars, minus answered ranges. A round
scans the store only after the store has applied all earlier records of `market.prices.raw`, so no stored bar is
requested again. For this, the manager appends an empty round to every partition as a barrier, and waits until the store
has applied it. After a kill, the barrier also covers the records of the killed process. The request that was in flight
is sent again; its credits are spent twice.

A round performs these steps in order:

1. append a barrier, and wait for the store,
2. scan the last minutes, the gaps of streams, the users' orders, and some of the history,
3. close the orders that are filled,
4. send requests, the most valuable first, until none is possible or the round reaches its limit of time or requests. A
   gap of a stream, a new order, an almost full disk, and the end of the requests for orders also end this step. The
   scheduler debits and stores each request before it is sent. The last bars of an answer, its splits, dividends, dead
   letters and verdicts form one transaction,
5. append the reasons why gaps cannot be requested,
6. request the splits and dividends of some symbols that are due,
7. end the feed's round, so that the indicators of older bars are recomputed once.

After a round without requests and without unscanned ranges, the manager waits. The wait is up to a minute of its clock,
but at least a second of the machine's clock. Requests for recent gaps are less frequent if few credits are left: a page
of one bar costs as much as a page of thousands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
import structlog

from tickerplant.core import faults
from tickerplant.core.clock import Clock
from tickerplant.core.errors import LogUnavailable, StoreError
from tickerplant.core.free_space import UNLIMITED, FreeSpace
from tickerplant.core.records import BACKFILL_FEED
from tickerplant.core.rules import Rules
from tickerplant.core.schemas import OHLCV, PROGRESS_KEY, RAW, STATE_FEEDS
from tickerplant.core.times import SECOND_US, iso
from tickerplant.core.version import make_version
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill.actions import ActionsRequester
from tickerplant.market_data.backfill.gap_index import GapIndex
from tickerplant.market_data.backfill.ingest import Answer, AnswerIngestor
from tickerplant.market_data.backfill.orders import OpenOrders, read_orders
from tickerplant.market_data.backfill.progress import Progress, read_progress
from tickerplant.market_data.backfill.publish import AnswerRecords, Publisher
from tickerplant.market_data.backfill.rounds import IDLE_S, NextRequest, Round, RoundPlanner
from tickerplant.market_data.backfill.targets import BackfillPlan, Order, WantedRange
from tickerplant.market_data.backfill.vendor_penalties import VendorPenalties
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors.errors import NoData, VendorError
from tickerplant.market_data.vendors.port import BarsAnswer, BarsRequest
from tickerplant.market_data.vendors.scheduler import RequestScheduler
from tickerplant.store import Store
from tickerplant.system_clock import SystemClock

log = structlog.get_logger(__name__)
T = TypeVar("T")

FEED: Final = BACKFILL_FEED
GRACE_US: Final = 90 * SECOND_US
"""Time from the end of an interval until its bar counts as missing: allowed lateness plus the delays of store and
vendor."""
_GRACE_REAL_S: Final = 3.0
"""Minimum of GRACE_US in seconds of the machine's clock, for a manager whose clock is faster."""
_HOLD_BYTES: Final = 1 << 40  # the publisher chooses the content of each transaction
_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 30.0
_SETTLE_POLL_S: Final = 0.05
_ORDERS_POLL_S: Final = 1.0
_PROGRESS_S: Final = 2.0
"""Minimum seconds between two writes of the progress during a round."""


class BackfillManager:
    """Fetches the missing bars of a plan in the background, until cancelled.

    `dsn`: address of the store, which is only read. `rules`: the rules in force, for calendars and the revision window.
    While `space` is low, no request is sent.
    """

    def __init__(
        self,
        event_log: EventLog,
        scheduler: RequestScheduler,
        dsn: str,
        plan: BackfillPlan,
        *,
        rules: Rules,
        clock: Clock | None = None,
        space: FreeSpace = UNLIMITED,
    ) -> None:
        self._space = space
        self.progress = Progress()
        self._log = event_log
        self._scheduler = scheduler
        self._dsn = dsn
        self._plan = plan
        self._clock = clock or SystemClock()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="backfill-log")
        self._publisher = Publisher(event_log, self._call)
        grace_us = max(GRACE_US, int(_GRACE_REAL_S * self._clock.speed * SECOND_US))
        self._gaps = GapIndex(rules, event_log.partitions(RAW), grace_us)
        self._penalties = VendorPenalties()
        self._rounds = RoundPlanner(scheduler, self._gaps, self._penalties, self.progress, self._clock)
        self._orders = OpenOrders(self._read_orders, plan, self.progress, self._clock, self._rounds.lookback_us)
        self._actions = ActionsRequester(scheduler, self._publisher, self.progress, self._clock)
        self._ingestor = AnswerIngestor(
            scheduler, self._gaps, self._penalties, self._publisher, self.progress, self._clock, self._feed_symbols
        )
        self._stream_gaps: list[tuple[int, int]] = []
        self._gap_reported = asyncio.Event()
        self._progress_s = 0.0

    def wake(self, start_us: int, end_us: int, symbols: Sequence[str] = ()) -> None:
        """Report that a stream delivered nothing in `[start_us, end_us)`. Call it from the event loop of `run`."""
        self._stream_gaps.append((start_us, end_us))
        self._gap_reported.set()

    # The loop --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fetch until cancelled, or until the work of a plan with `once` is done.

        Retries while the log or the store is unavailable. Raises Fenced when another process has taken over the
        backfill or the request scheduler.
        """
        wait_s, reported = _RETRY_S, ""
        try:
            while True:
                started_s = time.monotonic()
                try:
                    await self._run_connected()
                    return
                except (LogUnavailable, StoreError) as error:
                    if time.monotonic() - started_s > 2 * _RETRY_MAX_S:
                        wait_s, reported = _RETRY_S, ""
                    if str(error) != reported:
                        reported = str(error)
                        log.warning(
                            "the backfill waits and retries until the log and the store are available", reason=reported
                        )
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _RETRY_MAX_S)
        finally:
            self._executor.shutdown(wait=False)

    async def _run_connected(self) -> None:
        """Run rounds until the work of a plan with `once` is done, or the log or the store fails."""
        writer = await self._call(lambda: FeedWriter(self._log, FEED, hold_bytes=_HOLD_BYTES, clock=self._clock.now_us))
        store: Store | None = None
        try:
            store = await Store.open(self._dsn, min_size=1, max_size=2)
            self._actions.restore(writer.cursor.resume_token)
            if not self.progress.orders:
                former = await self._call(lambda: read_progress(self._log))
                self.progress.orders = former.orders if former is not None else []
            self._gaps.clear()
            while not await self._step(writer, store):
                pass
        finally:
            await self._call(writer.close)
            if store is not None:
                await store.close()

    async def _step(self, writer: FeedWriter, store: Store) -> bool:
        """Run one round, and wait if it had nothing to do; return True if the work of a plan with `once` is done."""
        await self._wait_for_space()
        await self._orders.accept_new()
        plan = self._plan
        nothing_wanted = not (plan.depths or plan.ranges or self._orders or self._until_due_s() == 0)
        if not nothing_wanted and await self._round(writer, store):
            await self._store_progress(writer)
            return False
        wait_s = self._until_due_s()
        done = wait_s is None or wait_s > plan.once_wait_s
        if done:
            self._orders.finish_all()
        if nothing_wanted:
            self._stream_gaps.clear()
        await self._store_progress(writer)
        if not plan.once:
            await self._idle()
        elif not done:
            await self._clock.sleep(max(1.0, wait_s or 0.0))
        return plan.once and done

    async def _wait_for_space(self) -> None:
        """Wait while the disk is almost full."""
        if self._space.is_low():
            log.warning("the backfill waits until the disk has room", reason=self._space.reason)
            while self._space.is_low():  # noqa: ASYNC110 - a disk has no event
                await asyncio.sleep(_RETRY_S)

    async def _idle(self) -> None:
        """Wait for IDLE_S, a new order, or a postponed bar that is due, whichever is first."""
        due_s = self._until_due_s()
        wait_s = IDLE_S if due_s is None else min(IDLE_S, max(1.0, due_s))
        until_s = self._clock.monotonic() + max(wait_s, self._clock.speed)  # at least a second of the machine's clock
        while (left_s := until_s - self._clock.monotonic()) > 0:
            # A gap does not end the wait: the minute of the reconnection ends later, and is stored later.
            await asyncio.sleep(min(_ORDERS_POLL_S, self._clock.real_s(left_s)))
            if await self._orders.accept_new():
                return

    def _until_due_s(self) -> float | None:
        """Return the seconds until the first postponed bar is due; None if no bar is postponed."""
        now_us = self._clock.now_us()
        due_us = self._gaps.due_us(now_us)
        return None if due_us is None else max(0.0, (due_us - now_us) / SECOND_US)

    async def _call(self, work: Callable[[], T]) -> T:
        """Run a blocking call on the log in a thread, one at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _read_orders(self) -> list[Order]:
        return await self._call(lambda: read_orders(self._log))

    # One round -------------------------------------------------------------------------------------------------------

    async def _round(self, writer: FeedWriter, store: Store) -> bool:
        """Run one round; return True if the next round should follow at once."""
        await self._wait_for_store(writer, store)
        self._rounds.forget()
        self._gap_reported.clear()
        gaps, self._stream_gaps = self._stream_gaps, []
        self._gaps.set_ordered(self._orders.ranges)
        await self._gaps.scan(store, self._wanted(), gaps, self._clock.now_us())
        self._orders.finish(self._gaps.is_filled)
        self._update_progress()
        # If a user waits for an order or a command, gaps are requested without saving credits.
        round_ = await self._rounds.start(urgent=self._plan.once or bool(self._orders))
        while (task := self._rounds.next_task(round_)) is not None:
            if self._space.is_low() or (round_.requests and self._gap_reported.is_set()):
                break
            if (request := self._rounds.next_request(round_, task)) is not None:
                await self._request(writer, store, round_, request)
            await self._append_reasons(writer)
            if await self._orders.has_new():
                break
            await asyncio.sleep(0)
        await self._append_reasons(writer, everything=True)
        round_.requests += await self._actions.request_due(writer, store, self._plan.all_symbols)
        await self._publisher.end_round(writer, self._actions.resume_token())
        return round_.requests > 0 or self._gaps.has_unscanned

    async def _wait_for_store(self, writer: FeedWriter, store: Store) -> None:
        """Wait until the store has applied all records that `market.prices.raw` contains now."""
        generation = self._log.identity().generation
        ends = await self._publisher.barrier(writer)
        while True:
            async with store.read() as session:
                applied = await session.applied()
            behind = [
                p for p, offset in ends.items()
                if (raw := applied.get((RAW, p))) is None or raw.position <= offset
                or (bars := applied.get((OHLCV, p))) is None or bars.cause < make_version(generation, offset)
            ]  # fmt: skip
            if not behind:
                return
            await asyncio.sleep(_SETTLE_POLL_S)

    def _wanted(self) -> Iterator[WantedRange]:
        yield from self._plan.wanted(self._clock.now_us(), self._rounds.lookback_us)
        yield from self._orders.ranges

    def _feed_symbols(self) -> list[str]:
        """Return the symbols that the feed of the backfill announces."""
        ranges = (*self._plan.ranges, *self._orders.ranges)
        return list(dict.fromkeys([*self._plan.all_symbols, *(one.symbol for one in ranges)]))

    # Requests --------------------------------------------------------------------------------------------------------

    async def _request(self, writer: FeedWriter, store: Store, round_: Round, request: NextRequest) -> None:
        """Send a request, and ingest its answer."""
        self.progress.requests += 1
        self.progress.request = _describe(request.choice.name, request.request)
        bars = await self._send(request)
        if bars is not None:
            faults.reach("backfill.request.after")
            answer = Answer(request.choice, request.request, request.tasks, bars)
            await self._ingestor.ingest(writer, store, answer)
        self._rounds.update(round_, request)
        if time.monotonic() - self._progress_s >= _PROGRESS_S:
            await self._store_progress(writer)

    async def _send(self, request: NextRequest) -> BarsAnswer | None:
        """Send a request and return the answer; None for an error that contains no information about the bars."""
        faults.reach("backfill.request.before")
        choice, bars = request.choice, request.request
        try:
            return await self._scheduler.bars(choice, bars, request.purpose)
        except VendorError as error:
            log.info("a vendor sent no bars", vendor=choice.name, request=self.progress.request, reason=str(error))
            if isinstance(error, NoData):
                return BarsAnswer(dict.fromkeys(bars.symbols, error))
            self.progress.failed += 1
            if not error.about_vendor:
                for symbol in bars.symbols:
                    self._penalties.add_error((symbol, bars.interval), choice.name, error, self._clock.now_us())
            return None

    async def _append_reasons(self, writer: FeedWriter, *, everything: bool = False) -> None:
        """Append the reasons why gaps cannot be requested, many in one record."""
        if rows := self._rounds.drain_reasons(everything=everything):
            await self._publisher.append_records(writer, AnswerRecords(rows))

    # Progress --------------------------------------------------------------------------------------------------------

    def _update_progress(self) -> None:
        progress = self.progress
        progress.missing, progress.later = self._gaps.counts()
        progress.working = progress.missing > progress.later or self._gaps.has_unscanned
        if not progress.later:
            progress.blocked, progress.again_us = "", 0
        progress.at_us = self._clock.now_us()

    async def _store_progress(self, writer: FeedWriter) -> None:
        """Store the progress in the log."""
        self._progress_s = time.monotonic()
        self._update_progress()
        data = msgspec.json.encode(self.progress)
        await self._call(lambda: writer.put_state(STATE_FEEDS, 0, PROGRESS_KEY, data))


def _describe(vendor: str, request: BarsRequest) -> str:
    symbols = ", ".join(request.symbols[:3])
    if len(request.symbols) > 3:
        symbols += f" and {len(request.symbols) - 3} more"
    return f"{vendor}: {request.interval} of {symbols}, {iso(request.start_us)} to {iso(request.end_us)}"
