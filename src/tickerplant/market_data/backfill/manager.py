"""The backfill manager: fetches what is missing, for as long as the service runs.

No plan is kept. A round plans from the store: what is expected less what is there, less what vendors have answered. So
that nothing is asked for twice, a round begins only when the store has applied everything that raw held: the manager
writes a mark into every partition and waits until the store has seen what came of it. After a kill that covers what
the killed process had said, too; the one request that was in flight is asked for again, and its credits are spent.

A round does, in this order:

1. mark, and wait for the store,
2. look: of the last minutes, of the stretches that a stream has lost, of what was ordered, of some of the history,
3. requests, the largest value first, until nothing can be asked for, a hole is reported, or the round is long enough:
   each is debited and kept by the desk, asked, and its bars, splits and answers are committed together,
4. end the feed's round, so that indicators of older bars are computed once again.

Between rounds it rests for a minute of its clock, and longer where holes keep coming and credits are few: a page of one
bar costs as much as one of thousands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import structlog

from tickerplant.core import faults
from tickerplant.core.clock import Clock
from tickerplant.core.errors import LogUnavailable, StoreError
from tickerplant.core.rules import Rules
from tickerplant.core.schemas import NOT_OFFERED, OHLCV, PROGRESS_KEY, RAW, STATE_FEEDS
from tickerplant.core.times import MINUTE_US, SECOND_US, iso
from tickerplant.core.version import make_version
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill.actions import Actions
from tickerplant.market_data.backfill.gap_index import Ledger
from tickerplant.market_data.backfill.ingest import Taker
from tickerplant.market_data.backfill.planner import OVERLAP_BARS, Agenda, Task, page, together
from tickerplant.market_data.backfill.progress import Order, Progress, read_orders, read_progress
from tickerplant.market_data.backfill.publish import Publisher, Saying, Told
from tickerplant.market_data.backfill.series import Depth, Wanted
from tickerplant.market_data.backfill.vendor_penalties import Setbacks
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors.errors import NoData, VendorError
from tickerplant.market_data.vendors.port import BarsAnswer, BarsRequest, kind_of
from tickerplant.market_data.vendors.scheduler import Blocked, Choice, Purpose, RequestScheduler
from tickerplant.store import Store
from tickerplant.system_clock import SystemClock

log = structlog.get_logger(__name__)
T = TypeVar("T")

FEED: Final = "backfill"
GRACE_US: Final = 90 * SECOND_US
"""A bar is missing when its interval has been over for so long: lateness, the tables, and a vendor's own delay."""
_GRACE_REAL_S: Final = 3.0
_REST_S: Final = 60.0
_REST_LONGEST_S: Final = 1_800.0
_ROUND_S: Final = 60.0
_ROUND_REQUESTS: Final = 50
_HOLD_BYTES: Final = 1 << 40  # what belongs together is committed together
_ONCE_WAIT_S: Final = 90.0
"""A minute's credits are waited for; those of tomorrow are not."""
_RETRY_S: Final = 1.0
_RETRY_LONGEST_S: Final = 30.0
_SETTLE_LOOK_S: Final = 0.05
_PROGRESS_S: Final = 2.0
_ORDER_S: Final = 1.0
_MOST_SAID: Final = 100_000
_TOLD_AGAIN_US: Final = 10 * MINUTE_US
"""A gap whose reason stays is told again only when the time until which it stays has moved by more than this."""
_MOST_TOLD: Final = 1_000
_AT_ONCE: Final = 50


@dataclass(slots=True)
class _Round:
    """One round: since when, and how many requests it made. `heal`: whether it may ask for holes."""

    began_s: float
    heal: bool
    requests: int = 0


class BackfillManager:
    """Fetches what is missing of `symbols` to the `depths`, in the background, until cancelled.

    `dsn`: the store, which is read only. `rules`: those in force, for calendars and memory. `once`: `run` returns when
    nothing is left that could be asked for now, or within `once_wait_s` of the clock; for a command. `order`: what is
    wanted in place of the depths, as if a user had left it; of them it takes how far back. Without depths it only
    carries out what is ordered.
    """

    def __init__(
        self,
        event_log: EventLog,
        desk: RequestScheduler,
        dsn: str,
        symbols: Sequence[str],
        depths: Sequence[Depth],
        *,
        rules: Rules,
        clock: Clock | None = None,
        wanted: Sequence[Wanted] = (),
        once: bool = False,
        once_wait_s: float = _ONCE_WAIT_S,
        order: Order | None = None,
    ) -> None:
        self.progress = Progress()
        self._log = event_log
        self._desk = desk
        self._dsn = dsn
        self._symbols = list(dict.fromkeys(symbols))
        self._depths = list(depths)
        self._clock = clock or SystemClock()
        self._asked = tuple(wanted)
        self._once, self._once_wait_s = once, once_wait_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="backfill-log")
        self._publisher = Publisher(event_log, self._call)
        self._grace_us = max(GRACE_US, int(_GRACE_REAL_S * self._clock.speed * SECOND_US))
        self._ledger = Ledger(rules, event_log.partitions(RAW), self._grace_us)
        self._setbacks = Setbacks()
        self._actions = Actions(desk, self._publisher, self.progress, self._clock)
        self._taker = Taker(
            desk, self._ledger, self._setbacks, self._publisher, self.progress, self._clock, self._all_symbols
        )
        self._holes: list[tuple[int, int]] = []
        self._hurry = asyncio.Event()
        self._said: dict[tuple[str, str, int, int], tuple[str, int]] = {}
        self._untold: list[Told] = []
        self._told_s = 0.0
        self._healed_s = -1e9
        self._orders: dict[str, list[Wanted]] = {}
        self._orders_s = 0.0
        self._only_ordered = order is not None
        if order is not None:
            self._obey(order)
            self._symbols = list(order.symbols) or self._symbols

    def wake(self, since_us: int, until_us: int, symbols: Sequence[str] = ()) -> None:
        """Say that a stream has brought nothing of `[since_us, until_us)`; from the event loop of `run`."""
        self._holes.append((since_us, until_us))
        self._hurry.set()

    # The loop --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled (with `once`: until done). Waits out a log or a store that is out of reach.

        Raises Fenced when another process has taken over the backfill or the desk.
        """
        wait_s, said = _RETRY_S, ""
        try:
            while True:
                began_s = time.monotonic()
                try:
                    await self._work()
                    return
                except (LogUnavailable, StoreError) as error:
                    if time.monotonic() - began_s > 2 * _RETRY_LONGEST_S:
                        wait_s, said = _RETRY_S, ""
                    if str(error) != said:
                        said = str(error)
                        log.warning("backfill waits", reason=said)
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, _RETRY_LONGEST_S)
        finally:
            self._executor.shutdown(wait=False)

    async def _work(self) -> None:
        writer = await self._call(lambda: FeedWriter(self._log, FEED, hold_bytes=_HOLD_BYTES, clock=self._clock.now_us))
        store: Store | None = None
        try:
            store = await Store.open(self._dsn, min_size=1, max_size=2)
            self._actions.begin(writer.cursor.resume_token)
            if not self.progress.orders:
                former = await self._call(lambda: read_progress(self._log))
                self.progress.orders = former.orders if former is not None else []
            self._ledger.clear()
            while not await self._go(writer, store):
                pass
        finally:
            await self._call(writer.close)
            if store is not None:
                await store.close()

    async def _go(self, writer: FeedWriter, store: Store) -> bool:
        """Run a round, and rest when there was nothing to do; return whether `once` is over."""
        await self._take_orders()
        idle = not (self._depths or self._asked or self._orders or self._until_due_s() == 0)
        if not idle and await self._round(writer, store):
            await self._tell(writer)
            return False
        wait_s = self._until_due_s()
        done = wait_s is None or wait_s > self._once_wait_s
        if done:
            self.progress.finished(self._orders)
            self._orders.clear()
        if idle:
            self._holes.clear()
        await self._tell(writer)
        if not self._once:
            await self._rest()
        elif not done:
            await self._clock.sleep(max(1.0, wait_s or 0.0))
        return self._once and done

    async def _rest(self) -> None:
        """Wait until there may be something to do: a while, an order, or a vendor that can be asked again."""
        due_s = self._until_due_s()
        wait_s = _REST_S if due_s is None else min(_REST_S, max(1.0, due_s))
        until_s = self._clock.monotonic() + max(wait_s, self._clock.speed)  # by the machine's clock a second at least
        while (left_s := until_s - self._clock.monotonic()) > 0:
            # A hole is no reason to go on: the minute in which a stream came back is over, and in the tables, later.
            await asyncio.sleep(min(_ORDER_S, self._clock.real_s(left_s)))
            if await self._take_orders():
                return

    def _until_due_s(self) -> float | None:
        """Return seconds until a missing bar may be asked for again, None for nothing that waits."""
        now_us = self._clock.now_us()
        due_us = self._ledger.due_us(now_us)
        return None if due_us is None else max(0.0, (due_us - now_us) / SECOND_US)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    # One round -------------------------------------------------------------------------------------------------------

    async def _round(self, writer: FeedWriter, store: Store) -> bool:
        """Run one round; return whether there is more to do at once."""
        await self._settle(writer, store)
        self._forget()
        self._hurry.clear()
        holes, self._holes = self._holes, []
        self._ledger.order(self._ordered())
        await self._ledger.look(store, self._wanted(), holes, self._clock.now_us())
        self._finish_orders()
        self._count()
        # Who has asked for it, and waits, is not put off so that credits last.
        round_ = _Round(self._clock.monotonic(), self._once or bool(self._orders) or self._may_heal())
        agenda, ordered = await self._plan(round_), False
        while (
            (task := agenda.best()) is not None
            and self._clock.monotonic() - round_.began_s < max(_ROUND_S, self._clock.speed)
            and round_.requests < _ROUND_REQUESTS
            and not (round_.requests and self._hurry.is_set())
            and (not ordered or task.ordered)  # who waits for an order is told when the tables have it
        ):
            made = round_.requests
            await self._request(writer, store, round_, agenda, task)
            ordered |= task.ordered and round_.requests > made
            await self._keep_told(writer)
            if time.monotonic() - self._orders_s > _ORDER_S and await self._new_orders():
                break
            await asyncio.sleep(0)
        await self._keep_told(writer, all_of_it=True)
        round_.requests += await self._actions.ask(writer, store, self._symbols)
        await self._publisher.finish(writer, self._actions.place())
        return round_.requests > 0 or self._ledger.unseen

    async def _plan(self, round_: _Round) -> Agenda:
        agenda, now_us = Agenda(), self._clock.now_us()
        for number, one in enumerate(self._ledger.series):
            agenda.put(one, self._ledger.task(one, now_us, heal=round_.heal))
            if not number % _AT_ONCE:
                await asyncio.sleep(0)
        return agenda

    def _forget(self) -> None:
        """Drop what is remembered of vendors and gaps that no longer counts; a week's run is as small as a day's."""
        self._setbacks.forget(self._clock.now_us())
        if len(self._said) > _MOST_SAID:
            self._said.clear()  # then some reasons are told once more

    async def _settle(self, writer: FeedWriter, store: Store) -> None:
        """Return when the store has applied all that raw holds now."""
        generation = self._log.identity().generation
        ends = await self._publisher.barrier(writer)
        while True:
            async with store.read() as look:
                applied = await look.applied()
            late = [
                p for p, offset in ends.items()
                if (raw := applied.get((RAW, p))) is None or raw.position <= offset
                or (bars := applied.get((OHLCV, p))) is None or bars.cause < make_version(generation, offset)
            ]  # fmt: skip
            if not late:
                return
            await asyncio.sleep(_SETTLE_LOOK_S)

    # What is wanted --------------------------------------------------------------------------------------------------

    def _wanted(self) -> Iterable[Wanted]:
        now_us = self._clock.now_us()
        for depth in () if self._only_ordered else self._depths:
            from_us = depth.from_us(now_us, self._lookback_us(depth.interval))
            for symbol in self._symbols:
                yield Wanted(symbol, depth.interval, from_us, now_us)
        yield from self._asked
        yield from self._ordered()

    def _lookback_us(self, interval: str) -> int | None:
        """Return the longest that a vendor goes back with this interval; None: any."""
        offers = [provider.offer.of(interval) for provider in self._desk.providers(kind_of(interval))]
        found = [offer.lookback_us for offer in offers if offer is not None]
        return None if None in found else max((one for one in found if one is not None), default=0)

    def _all_symbols(self) -> list[str]:
        return list(dict.fromkeys([*self._symbols, *(one.symbol for one in (*self._asked, *self._ordered()))]))

    def _ordered(self) -> list[Wanted]:
        return [one for wanted in self._orders.values() for one in wanted]

    def _finish_orders(self) -> None:
        """Take as carried out the orders of which nothing is left that could be had soon; the store has the rest."""
        now_us, patience_us = self._clock.now_us(), int(self._once_wait_s * SECOND_US)
        done = [
            order
            for order, wanted in self._orders.items()
            if not self._only_ordered and all(self._ledger.is_done(one, now_us, patience_us) for one in wanted)
        ]
        self.progress.finished(done)
        for order in done:
            del self._orders[order]

    async def _take_orders(self) -> bool:
        """Take up what users have ordered and nobody has carried out; return whether there is such an order."""
        new = await self._new_orders()
        for order in new:
            self._obey(order)
        return bool(new)

    async def _new_orders(self) -> list[Order]:
        self._orders_s = time.monotonic()
        if self._only_ordered:
            return []
        orders = await self._call(lambda: read_orders(self._log))
        return [order for order in orders if order.id not in self._orders and order.id not in self.progress.orders]

    def _obey(self, order: Order) -> None:
        now_us = self._clock.now_us()
        names = list(order.symbols) or self._symbols
        chosen = list(order.intervals) or [depth.interval for depth in self._depths]
        wanted = self._orders[order.id] = []
        for interval in chosen:
            depth = next((depth for depth in self._depths if depth.interval == interval), Depth(interval, None))
            from_us = order.from_us or depth.from_us(now_us, self._lookback_us(interval))
            wanted += [Wanted(symbol, interval, from_us, order.to_us or now_us) for symbol in names]
        self.progress.working = True

    # Requests --------------------------------------------------------------------------------------------------------

    def _may_heal(self) -> bool:
        """Whether holes may be asked for in this round: credits are to last until their windows end."""
        holes = self._ledger.holes("1m", self._clock.now_us())
        return self._clock.monotonic() - self._healed_s >= self._cadence_s(holes)

    def _cadence_s(self, series: int) -> float:
        now_us = self._clock.now_us()
        rate = 0.0
        names = {provider.name for provider in self._desk.providers(kind_of("1m"))}
        for row in self._desk.status(now_us):
            if row.vendor not in names or row.until_us is not None:
                continue
            rates = [max(0.0, w.left / max(1.0, (w.resets_us - now_us) / SECOND_US)) if w.quota.daily
                     else w.quota.credits / (w.quota.period_us / SECOND_US) for w in row.windows]  # fmt: skip
            rate += min(rates, default=1e9)
        return min(_REST_LONGEST_S, max(_REST_S, series / rate if rate > 0 else _REST_LONGEST_S))

    async def _request(self, writer: FeedWriter, store: Store, round_: _Round, agenda: Agenda, first: Task) -> None:
        """Ask for the best of what is missing, and say what came."""
        choice = self._choose(first)
        if isinstance(choice, Blocked):
            again = self._blocked(first, choice)
            self._ledger.count(first.series)
            agenda.put(first.series, None if again else self._next(first, round_))
            return
        request, chosen = self._cut(agenda, first, choice)
        round_.requests += 1
        self.progress.requests += 1
        self.progress.request = _shown(choice.name, request)
        if first.purpose is Purpose.GAP_FILL:
            self._healed_s = self._clock.monotonic()
        answer = await self._ask(choice, request, first.purpose)
        if answer is not None:
            faults.reach("backfill.answered")
            await self._taker.take(writer, store, choice, request, chosen, answer)
        for task in chosen:
            self._ledger.count(task.series)
            agenda.put(task.series, self._next(task, round_))
        await self._tell(writer, seldom=True)

    async def _ask(self, choice: Choice, request: BarsRequest, purpose: Purpose) -> BarsAnswer | None:
        """Return what the vendor answers, None for an error that says nothing of the bars."""
        faults.reach("backfill.asking")
        try:
            return await self._desk.bars(choice, request, purpose)
        except VendorError as error:
            log.info("vendor refused", vendor=choice.name, request=self.progress.request, reason=str(error))
            if isinstance(error, NoData):
                return BarsAnswer(dict.fromkeys(request.symbols, error))
            self.progress.failed += 1
            if not error.about_vendor:
                for symbol in request.symbols:
                    self._setbacks.refused((symbol, request.interval), choice.name, error, self._clock.now_us())
            return None

    def _choose(self, task: Task) -> Choice | Blocked:
        one, newest_us = task.series, task.newest_us
        avoid = self._setbacks.avoided((one.symbol, one.interval), self._clock.now_us())
        return self._desk.choose(one.interval, one.symbol, newest_us, task.to_us, task.purpose, without=avoid)

    def _next(self, task: Task, round_: _Round) -> Task | None:
        return self._ledger.task(task.series, self._clock.now_us(), heal=round_.heal)

    def _cut(self, agenda: Agenda, first: Task, choice: Choice) -> tuple[BarsRequest, list[Task]]:
        """Return the request for the first task's newest page, and the tasks of which it is one."""
        one, now_us = first.series, self._clock.now_us()
        compares = self._desk.needs_comparison(choice.name, one.symbol, one.interval)
        stretch = page(first, choice.offer, now_us, overlap=OVERLAP_BARS if compares else 0)

        def fits(task: Task) -> bool:
            other = self._choose(task)
            return isinstance(other, Choice) and other.name == choice.name

        cost = max(1, choice.provider.cost(BarsRequest((one.symbol,), one.interval, *stretch)))
        most = max(1, choice.credits // cost)
        return together(first, agenda.like(first, *stretch), stretch, choice.offer, most, fits)

    def _blocked(self, task: Task, why: Blocked) -> bool:
        """Take note that nobody can be asked for a task's bars now, and say so where that is news.

        Return whether that lasts for this round; else what is left of the series may be asked for.
        """
        one, now_us = task.series, self._clock.now_us()
        stretches = [(task.from_us, task.to_us)]
        if why.verdict == NOT_OFFERED:
            why, empty = self._setbacks.reason((one.symbol, one.interval), why, task.newest_us, now_us)
            stretches = empty or stretches
        elif (reach_us := now_us - (self._lookback_us(one.interval) or now_us)) > task.from_us:
            self._put_off(task, task.from_us, reach_us, Blocked(NOT_OFFERED, "no vendor goes back so far"))
            stretches = [(reach_us, task.to_us)]
        for from_us, to_us in stretches:
            self._put_off(task, from_us, to_us, why)
        return why.again_us is not None

    def _put_off(self, task: Task, from_us: int, to_us: int, why: Blocked) -> None:
        """Ask for what of a task lies in `[from_us, to_us)` when it says, and tell why."""
        one, now_us = task.series, self._clock.now_us()
        again_us = None if why.again_us is None else max(why.again_us, now_us + SECOND_US)
        runs = one.ready(task.now_us, max(from_us, task.from_us), min(to_us, task.to_us))
        for begin, end in runs:
            one.defer(begin, end, again_us, task.now_us)
        self.progress.blocked, self.progress.again_us = why.note, again_us or 0
        if again_us is not None and again_us - now_us <= 2 * MINUTE_US:
            return  # a minute's credits: not worth a word
        for run in runs:
            key = (one.symbol, one.interval, *run)
            before = self._said.get(key)
            if before is None or before[0] != why.verdict or abs(before[1] - (again_us or 0)) > _TOLD_AGAIN_US:
                self._said[key] = (why.verdict, again_us or 0)
                self._untold.append(Told(*key, "", why.verdict, why.note, again_us))

    async def _keep_told(self, writer: FeedWriter, *, all_of_it: bool = False) -> None:
        """Say why nobody could be asked, many reasons in a record."""
        if self._untold and (all_of_it or len(self._untold) >= _MOST_TOLD):
            told, self._untold = self._untold, []
            await self._publisher.note(writer, Saying(told))

    # What others see -------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        progress = self.progress
        progress.missing, progress.later = self._ledger.counts()
        progress.working = progress.missing > progress.later or self._ledger.unseen
        if not progress.later:
            progress.blocked, progress.again_us = "", 0
        progress.at_us = self._clock.now_us()

    async def _tell(self, writer: FeedWriter, *, seldom: bool = False) -> None:
        """Keep the progress; `seldom`: at most every few seconds."""
        now_s = time.monotonic()
        if seldom and now_s - self._told_s < _PROGRESS_S:
            return
        self._told_s = now_s
        self._count()
        data = msgspec.json.encode(self.progress)
        await self._call(lambda: writer.put_state(STATE_FEEDS, 0, PROGRESS_KEY, data))


def _shown(name: str, request: BarsRequest) -> str:
    symbols = ", ".join(request.symbols[:3]) + (
        f" and {len(request.symbols) - 3} more" if len(request.symbols) > 3 else ""
    )
    return f"{name}: {request.interval} of {symbols}, {iso(request.start_us)} to {iso(request.end_us)}"
