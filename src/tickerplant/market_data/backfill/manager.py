"""The backfill manager: fetches what is missing, for as long as the service runs.

No plan is kept. A round plans from the store: what is expected less what is there, less what vendors have answered. So
that nothing is asked for twice, a round begins only when the store has applied everything that raw held: the manager
writes a mark into every partition and waits until the store has seen what came of it. After a kill that covers what
the killed process had said, too; the one request that was in flight is asked for again, and its credits are spent.

A round does, in this order:

1. mark, and wait for the store,
2. look: of the last minutes, of the stretches that a stream has lost, of what was ordered; at first of everything,
3. requests, the largest value first, until nothing can be asked for, a hole is reported, or the round is long enough:
   each is debited and kept by the desk, asked, and its bars, splits and answers are committed together,
4. end the feed's round, so that indicators of older bars are computed once again.

Between rounds it rests for a minute of its clock, and longer where holes keep coming and credits are few: a page of one
bar costs as much as one of thousands.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tickerplant.core import faults
from tickerplant.core import interval as intervals
from tickerplant.core.coverage import Answers
from tickerplant.core.errors import LogUnavailable, StoreError
from tickerplant.core.rules import Rules
from tickerplant.core.schemas import ANSWERED, DIFFERS, NO_DATA, NOT_OFFERED, OHLCV, QUOTA, RAW, STATE_FEEDS
from tickerplant.core.sessions import Calendars
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US, Int64Array, iso, times_of
from tickerplant.core.version import make_version
from tickerplant.log.port import EventLog
from tickerplant.market_data.backfill.plan import OVERLAP_BARS, Task, page, tasks, together
from tickerplant.market_data.backfill.progress import PROGRESS_KEY, Order, Progress, read_order, read_progress
from tickerplant.market_data.backfill.publish import Publisher, Saying, Told, in_order, only
from tickerplant.market_data.backfill.series import Depth, Grid, Series, Wanted
from tickerplant.market_data.checks import check_bars, without
from tickerplant.market_data.clients.errors import Malformed, NoData, VendorError
from tickerplant.market_data.clock import Clock
from tickerplant.market_data.desk import comparison
from tickerplant.market_data.desk.desk import Blocked, Choice, Desk, Purpose
from tickerplant.market_data.feed import DeadRow, FeedWriter
from tickerplant.market_data.providers.port import ACTIONS, BarsAnswer, BarsRequest, kind_of
from tickerplant.store import Store

log = structlog.get_logger(__name__)

FEED: Final = "backfill"
GRACE_US: Final = 90 * SECOND_US
"""A bar is missing when its interval has been over for so long: lateness, the tables, and a vendor's own delay."""
_GRACE_REAL_S: Final = 3.0
_REST_S: Final = 60.0
_REST_LONGEST_S: Final = 1_800.0
_ROUND_S: Final = 60.0
_ROUND_REQUESTS: Final = 50
_HEAL_US: Final = 2 * DAY_US
"""Missing bars that are no older are holes: they may be asked for by the credits that are kept in reserve."""
_LOOK_BACK_US: Final = 15 * MINUTE_US
"""Of the last minutes is looked again in every round: what a feed declares down afterwards becomes incomplete."""
_HOLD_BYTES: Final = 1 << 40  # what belongs together is committed together
_ONCE_WAIT_S: Final = 90.0
"""A minute's credits are waited for; those of tomorrow are not."""
_RETRY_S: Final = 1.0
_SETTLE_LOOK_S: Final = 0.05
_PROGRESS_S: Final = 2.0
_ORDER_S: Final = 1.0
_ACTIONS_US: Final = DAY_US
_ACTIONS_DEPTH_US: Final = 3_653 * DAY_US
LATE_US: Final = {"1d": 36 * HOUR_US}
LATE_OTHERS_US: Final = 30 * MINUTE_US
"""By how much vendors may be behind: plans are delayed by 15 minutes, a day's bar comes in the night. What is younger
and was not brought may come yet, and is not taken for not traded."""
LATER_US: Final = {"1d": HOUR_US}
LATER_OTHERS_US: Final = 5 * MINUTE_US
"""After this it is asked for again."""
_MOST_SAID: Final = 100_000
_TOLD_AGAIN_US: Final = 10 * MINUTE_US
"""A gap whose reason stays is told again only when the time until which it stays has moved by more than this."""


_Settled = tuple[Series, int, int, Int64Array | None]
"""A series that was answered, the stretch, and the starts of what could not be read of it."""


class _Place(msgspec.Struct):
    """What the feed's cursor keeps: when splits and dividends of each symbol were asked for last."""

    actions: dict[str, int] = {}


@dataclass(slots=True)
class _Round:
    """One round's counts."""

    began_s: float
    requests: int = 0
    bars: int = 0


class BackfillManager:
    """Fetches what is missing of `symbols` to the `depths`, in the background, until cancelled.

    `dsn`: the store, which is read only. `rules`: those in force, for calendars and memory. `once`: `run` returns when
    nothing is left that could be asked for now, or within `once_wait_s` of the clock; for a command. `order`: what is
    wanted in place of the depths, as if a user had left it; of them it takes how far back.
    """

    def __init__(
        self,
        event_log: EventLog,
        desk: Desk,
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
        self._clock = clock or Clock()
        self._rules = rules
        self._calendars = Calendars(rules)
        self._asked = tuple(wanted)
        self._wanted = list(wanted)
        self._once, self._once_wait_s = once, once_wait_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="backfill-log")
        self._publisher = Publisher(event_log, self._call)
        self._grids: dict[tuple[str, str], Grid] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._holes: list[tuple[int, int]] = []
        self._hurry = asyncio.Event()
        self._empty: dict[tuple[str, str], list[tuple[int, int, str, int]]] = {}
        self._avoid: dict[tuple[str, str], dict[str, int]] = {}
        self._said: dict[tuple[str, str, int, int], tuple[str, int]] = {}
        self._place = _Place()
        self._told_s = 0.0
        self._order: Order | None = None
        self._order_id: str | None = None
        self._only_ordered = order is not None
        if order is not None:
            self._obey(order)
            self._symbols = list(order.symbols) or self._symbols
        self._healed_s = -1e9
        self._grace_us = max(GRACE_US, int(_GRACE_REAL_S * self._clock.speed * SECOND_US))

    def wake(self, since_us: int, until_us: int, symbols: Sequence[str] = ()) -> None:
        """Say that a stream has brought nothing of `[since_us, until_us)`; from the event loop of `run`."""
        self._holes.append((since_us, until_us))
        self._hurry.set()

    # The loop --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled (with `once`: until done). Waits out a log or a store that is out of reach.

        Raises Fenced when another process has taken over the backfill or the desk.
        """
        try:
            while True:
                try:
                    if await self._work():
                        return
                except (LogUnavailable, StoreError) as error:
                    log.warning("backfill waits", reason=str(error))
                    await asyncio.sleep(_RETRY_S)
        finally:
            self._executor.shutdown(wait=False)

    async def _work(self) -> bool:
        writer: FeedWriter = await self._call(
            lambda: FeedWriter(self._log, FEED, hold_bytes=_HOLD_BYTES, clock=self._clock.now_us)
        )
        store: Store | None = None
        try:
            store = await Store.open(self._dsn, min_size=1, max_size=2)
            if writer.cursor.place:
                with contextlib.suppress(msgspec.MsgspecError):
                    self._place = msgspec.msgpack.decode(writer.cursor.place, type=_Place)
            if not self.progress.order:
                former = await self._call(lambda: read_progress(self._log))
                self.progress.order = former.order if former is not None else ""
            self._series.clear()
            while True:
                found = await self._round(writer, store)
                await self._tell(writer, force=True)
                if found:
                    continue
                wait_s = self._until_due_s()
                done = wait_s is None or wait_s > self._once_wait_s
                if done and self._order is not None:
                    self.progress.order, self._order = self._order.id, None
                    await self._tell(writer, force=True)
                if self._once:
                    if done:
                        return True
                    await self._clock.sleep(max(1.0, wait_s or 0.0))
                else:
                    await self._rest()
        finally:
            await self._call(writer.close)
            if store is not None:
                await store.close()

    async def _rest(self) -> None:
        """Wait until there may be something to do: a while, a hole, an order, or a vendor that can be asked again."""
        self._hurry.clear()
        due_s = self._until_due_s()
        wait_s = _REST_S if due_s is None else min(_REST_S, max(1.0, due_s))
        until_s = self._clock.monotonic() + max(wait_s, self._clock.speed)  # by the machine's clock a second at least
        while (left_s := until_s - self._clock.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_ORDER_S, self._clock.real_s(left_s))):
                    await self._hurry.wait()
            self._hurry.clear()  # the minute in which a stream came back is over, and in the tables, later than this
            if await self._take_order():
                return

    def _until_due_s(self) -> float | None:
        """Return seconds until a missing bar may be asked for again, None for nothing that waits."""
        now_us = self._clock.now_us()
        before = self._before(now_us)
        times = [one.later(now_us, before[one.interval]) for one in self._series.values()]
        least = min((int(some.min()) for some in times if len(some)), default=None)
        return None if least is None else max(0.0, (least - now_us) / SECOND_US)

    async def _call(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    # One round -------------------------------------------------------------------------------------------------------

    async def _round(self, writer: FeedWriter, store: Store) -> bool:
        """Run one round; return whether anything was asked for."""
        round_ = _Round(self._clock.monotonic())
        await self._settle(writer, store)
        self._forget()
        await self._look(store)
        blocked: set[int] = set()
        # Who has asked for it, and waits, is not put off so that credits last.
        heal = self._once or self._order is not None or self._may_heal()
        while (
            self._clock.monotonic() - round_.began_s < max(_ROUND_S, self._clock.speed)
            and round_.requests < _ROUND_REQUESTS
            and not (round_.requests and self._hurry.is_set())
        ):
            now_us = self._clock.now_us()
            found = tasks(
                [one for one in self._series.values() if id(one) not in blocked],
                now_us, self._before(now_us), now_us - _HEAL_US, self._derived_from(now_us), heal=heal,
            )  # fmt: skip
            if not found:
                break
            await self._request(writer, store, round_, found, blocked)
            await self._tell(writer)
        await self._actions(writer, store, round_)
        await self._publisher.finish(writer, msgspec.msgpack.encode(self._place))
        self._count()
        return round_.requests > 0

    def _forget(self) -> None:
        """Drop what is remembered of vendors and gaps that no longer counts; a week's run is as small as a day's."""
        now_us = self._clock.now_us()
        self._avoid = {
            key: left
            for key, until in self._avoid.items()
            if (left := {name: us for name, us in until.items() if us > now_us})
        }
        self._empty = {
            key: young for key, said in self._empty.items() if (young := [one for one in said if one[3] > now_us])
        }
        if len(self._said) > _MOST_SAID:
            self._said.clear()  # then some reasons are told once more
        if self._order is None:
            self._wanted = list(self._asked)

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

    # What is missing -------------------------------------------------------------------------------------------------

    def _before(self, now_us: int) -> dict[str, int]:
        """Return by interval before which time a bar must start to be over for long enough."""
        return {
            name: now_us - self._grace_us - intervals.parse(name).us for name in ("1m", "5m", "1d", "15m", "30m", "1h")
        }

    def _derived_from(self, now_us: int) -> dict[str, int]:
        """Return by symbol from where on coarser bars are made of 1m bars: as far as aggregation remembers."""
        floors: dict[int, int] = {}
        result = {}
        for symbol in {symbol for symbol, _ in self._series}:
            calendar = self._calendars.of(symbol)
            if id(calendar) not in floors:
                at = np.array([now_us - 2 * HOUR_US], np.int64)
                floors[id(calendar)] = int(calendar.remembered_from(at, self._rules.memory_sessions)[0])
            result[symbol] = floors[id(calendar)]
        return result

    def _grid(self, symbol: str, interval: str) -> Grid:
        calendar = self._calendars.of(symbol)
        key = (calendar.name, interval)
        if key not in self._grids:
            self._grids[key] = Grid(calendar, interval)
        return self._grids[key]

    def _lookback_us(self, interval: str) -> int | None:
        """Return the longest that a vendor goes back with this interval; None: any."""
        offers = [provider.offer.of(interval) for provider in self._desk.providers(kind_of(interval))]
        found = [offer.lookback_us for offer in offers if offer is not None]
        return None if None in found else max((one for one in found if one is not None), default=0)

    async def _look(self, store: Store) -> None:
        """Bring what is known of each series up to date."""
        now_us = self._clock.now_us()
        holes, self._holes = self._holes, []
        for depth in () if self._only_ordered else self._depths:
            from_us = depth.from_us(now_us, self._lookback_us(depth.interval))
            for symbol in self._symbols:
                await self._look_at(store, Wanted(symbol, depth.interval, from_us, now_us), holes)
        for wanted in self._wanted:
            await self._look_at(store, wanted, holes)
        self._count()

    async def _look_at(self, store: Store, wanted: Wanted, holes: Sequence[tuple[int, int]]) -> None:
        key = (wanted.symbol, wanted.interval)
        one = self._series.get(key)
        stretches: list[tuple[int, int]] = []
        if one is None:
            grid = self._grid(*key)
            one = self._series[key] = Series(*key, grid, wanted.from_us, wanted.from_us)
            stretches.append((wanted.from_us, wanted.to_us))
            one.to_us = wanted.to_us
        else:
            if wanted.from_us < one.from_us:
                stretches.append((wanted.from_us, one.from_us))
                one.from_us = wanted.from_us
            back_us = max(_LOOK_BACK_US, 2 * self._grace_us)
            length_us = one.grid.length_us
            stretches.append((max(one.from_us, one.to_us - back_us - length_us), max(one.to_us, wanted.to_us)))
            one.to_us = max(one.to_us, wanted.to_us)
            for since_us, until_us in holes:
                stretches.append((max(one.from_us, since_us - length_us), min(until_us + length_us, one.to_us)))
        for from_us, to_us in stretches:
            if to_us > from_us:
                await self._read(store, one, from_us, to_us)
            await asyncio.sleep(0)

    async def _read(self, store: Store, one: Series, from_us: int, to_us: int) -> None:
        if not len(one.grid.starts(from_us, to_us)):
            return
        async with store.read() as look:
            have, complete = await look.coverage.have(one.symbol, one.interval, from_us, to_us)
            answers = (await look.answers.read([one.symbol], one.interval, from_us, to_us)).get(one.symbol)
            partition = partition_of(one.symbol, self._log.partitions(RAW))
            silent, brought = await look.coverage.silences(one.symbol, one.interval, partition, from_us, to_us)
        silent = silent[~np.isin(silent, brought)]
        one.look(from_us, to_us, have, complete, answers or Answers.none(), silent)

    # Requests --------------------------------------------------------------------------------------------------------

    def _may_heal(self) -> bool:
        """Whether holes may be asked for in this round: credits are to last until their windows end."""
        now_us = self._clock.now_us()
        before = self._before(now_us)
        holes = sum(
            bool(len(ready) and ready[-1] >= now_us - _HEAL_US)
            for one in self._series.values()
            if one.interval == "1m"
            for ready in (one.ready(now_us, before[one.interval]),)
        )
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

    async def _request(
        self, writer: FeedWriter, store: Store, round_: _Round, found: Sequence[Task], blocked: set[int]
    ) -> None:
        """Ask for the best of what is missing, and say what came."""
        first = found[0]
        one = first.series
        avoid = self._avoided(one)
        last_us = int(first.starts[-1])
        choice = self._desk.choose(
            one.interval, one.symbol, last_us, last_us + one.grid.length_us, first.purpose, without=avoid
        )
        if isinstance(choice, Blocked):
            await self._blocked(writer, first, choice, blocked)
            return
        now_us = self._clock.now_us()
        stretch = page(first, choice.offer, now_us)
        if self._desk.needs_comparison(choice.name, one.symbol, one.interval):
            stretch = page(first, choice.offer, now_us, overlap=OVERLAP_BARS)
        rest = [task for task in found[1:] if choice.name not in self._avoided(task.series)]
        rest = [task for task in rest if self._would_choose(task, choice)]
        cost = max(1, choice.provider.cost(BarsRequest((one.symbol,), one.interval, *stretch)))
        request, chosen = together(first, rest, stretch, choice.offer, max(1, choice.credits // cost))
        round_.requests += 1
        self.progress.requests += 1
        self.progress.request = _shown(choice.name, request)
        if first.purpose is Purpose.HEAL:
            self._healed_s = self._clock.monotonic()
        faults.reach("backfill.asking")
        try:
            answer = await self._desk.bars(choice, request, first.purpose)
        except VendorError as error:
            self.progress.failed += 1
            log.info("vendor refused", vendor=choice.name, request=self.progress.request, reason=str(error))
            if not error.about_vendor:
                self._refused(choice.name, request, error, request.symbols)
            return
        faults.reach("backfill.answered")
        await self._take(writer, store, round_, choice, request, chosen, answer)

    def _would_choose(self, task: Task, choice: Choice) -> bool:
        """Whether the desk would send this task to the same vendor."""
        last_us = int(task.starts[-1])
        one = task.series
        other = self._desk.choose(one.interval, one.symbol, last_us, last_us + one.grid.length_us, task.purpose)
        return isinstance(other, Choice) and other.name == choice.name

    def _avoided(self, one: Series) -> list[str]:
        now_us = self._clock.now_us()
        return [name for name, until in self._avoid.get((one.symbol, one.interval), {}).items() if until > now_us]

    def _refused(self, name: str, request: BarsRequest, error: VendorError, symbols: Iterable[str]) -> None:
        """Remember that a vendor is of no use for these series just now; the desk remembers what is its own to know."""
        until_us = self._clock.now_us() + HOUR_US
        for symbol in symbols:
            if isinstance(error, NoData):
                self._empty.setdefault((symbol, request.interval), []).append(
                    (request.from_us, request.to_us, name, until_us)
                )
            else:
                self._avoid.setdefault((symbol, request.interval), {})[name] = until_us

    async def _blocked(self, writer: FeedWriter, task: Task, why: Blocked, blocked: set[int]) -> None:
        """Take note that nobody can be asked for a task's bars now, and say so where that is news."""
        one, now_us = task.series, self._clock.now_us()
        starts = task.starts
        verdict, again_us, note = why.verdict, why.again_us, why.note
        if verdict == NOT_OFFERED:
            empty = [(a, b) for a, b, *_ in self._empty.get((one.symbol, one.interval), ())]
            last_us = int(starts[-1])
            if any(a <= last_us < b for a, b in empty) and not self._avoided(one):
                verdict, again_us, note = NO_DATA, None, "no vendor has anything"
                inside = np.zeros(len(starts), np.bool_)
                for a, b in empty:
                    inside |= (starts >= a) & (starts < b)
                starts = starts[inside]
            else:
                avoided = [
                    until for until in self._avoid.get((one.symbol, one.interval), {}).values() if until > now_us
                ]
                again_us = min([*avoided, *([again_us] if again_us is not None else [])], default=None)
        if again_us is not None:
            again_us = max(again_us, now_us + SECOND_US)
            blocked.add(id(one))
        one.defer(starts, again_us)
        self.progress.blocked, self.progress.again_us = note, again_us or 0
        if again_us is not None and again_us - now_us <= 2 * MINUTE_US:
            return  # a minute's credits: not worth a word
        told = []
        for from_us, to_us in one.runs(starts):
            key = (one.symbol, one.interval, from_us, to_us)
            before = self._said.get(key)
            if before is None or before[0] != verdict or abs(before[1] - (again_us or 0)) > _TOLD_AGAIN_US:
                self._said[key] = (verdict, again_us or 0)
                told.append(Told(one.symbol, one.interval, from_us, to_us, "", verdict, note, again_us))
        if told:
            await self._publisher.note(writer, Saying(told))

    # Answers ---------------------------------------------------------------------------------------------------------

    async def _take(
        self,
        writer: FeedWriter,
        store: Store,
        round_: _Round,
        choice: Choice,
        request: BarsRequest,
        chosen: Sequence[Task],
        answer: BarsAnswer,
    ) -> None:
        """Say what an answer brought of what is missing, and what it says of the rest."""
        batches: list[pa.RecordBatch] = []
        told: list[Told] = []
        dead: list[DeadRow] = []
        settled: list[_Settled] = []
        brought = [found for found in answer.found.values() if isinstance(found, pa.RecordBatch) and found.num_rows]
        newest_us = max((int(times_of(found["time"])[-1]) for found in brought), default=None)
        for task in chosen:
            one = task.series
            found = answer.found.get(one.symbol)
            from_us, to_us = answer.covers.get(one.symbol, (request.from_us, request.to_us))
            if found is None or isinstance(found, VendorError):
                error = found or Malformed(f"the answer does not speak of {one.symbol}")
                if isinstance(error, Malformed):
                    dead.append(DeadRow(f"{choice.name}: {error}", one.symbol.encode()))
                self.progress.failed += 1
                if not error.about_vendor:
                    spoken = replace(request, from_us=from_us, to_us=to_us)
                    self._refused(choice.name, spoken, error, [one.symbol])
                continue
            differs = await self._compare(store, choice.name, one, found)
            if differs is not None:
                self._avoid.setdefault((one.symbol, one.interval), {})[choice.name] = self._clock.now_us() + DAY_US
                told += [
                    Told(one.symbol, one.interval, a, b, choice.name, DIFFERS, str(differs),
                         self._clock.now_us() + HOUR_US)
                    for a, b in one.runs(task.starts[(task.starts >= from_us) & (task.starts < to_us)])
                ]  # fmt: skip
                continue
            reasons = check_bars(found)
            odd = times_of(found["time"])[sorted(reasons)] if reasons else None
            if reasons:  # the writer would bury them too, but then nobody else would be asked for them
                dead += [DeadRow(f"{choice.name}: {why}", one.symbol.encode()) for why in sorted(set(reasons.values()))]
                self._avoid.setdefault((one.symbol, one.interval), {})[choice.name] = self._clock.now_us() + HOUR_US
                found = without(found, reasons)
            sure_us = self._sure_us(one, from_us, to_us, newest_us)
            if sure_us < to_us:
                again_us = self._clock.now_us() + LATER_US.get(one.interval, LATER_OTHERS_US)
                young = one.missing[(one.missing >= sure_us) & (one.missing < to_us)]
                if len(young):
                    one.defer(young, again_us)
                    note = f"{choice.name} has not brought it yet"
                    told.append(Told(one.symbol, one.interval, sure_us, to_us, choice.name, NO_DATA, note, again_us))
                to_us = sure_us
            missing = one.missing[(one.missing >= from_us) & (one.missing < to_us)]
            batches.append(only(found, missing))
            settled.append((one, from_us, to_us, odd))
            told += self._answered(one, choice.name, from_us, to_us, odd)
        bars = in_order(batches)
        splits, dividends = await self._new_actions(store, answer.splits, answer.dividends)
        faults.reach("backfill.saying")
        await self._bring(writer, settled, bars, request, Saying(told, splits, dividends, dead))
        faults.reach("backfill.said")
        for one, from_us, to_us, keep in settled:
            one.settle(from_us, to_us, keep)
        count = bars.num_rows if bars is not None else 0
        round_.bars += count
        self.progress.bars += count

    def _sure_us(self, one: Series, from_us: int, to_us: int, newest_us: int | None) -> int:
        """Return up to where an answer of `[from, to)` is one: behind the newest bar that came, of any symbol, a vendor
        that is late may have more yet.
        """
        length_us = one.grid.length_us
        sure_us = self._clock.now_us() - LATE_US.get(one.interval, LATE_OTHERS_US)
        if newest_us is not None:
            sure_us = max(sure_us, newest_us + length_us)
        sure_us -= sure_us % length_us
        return min(to_us, max(from_us, sure_us))

    async def _bring(
        self, writer: FeedWriter, settled: Sequence[_Settled], bars: pa.RecordBatch | None, request: BarsRequest,
        saying: Saying,
    ) -> None:  # fmt: skip
        """Say the bars of an answer: the old ones first, then those of the present with all that came along."""
        symbols = [one.symbol for one, *_ in settled]
        floors = self._derived_from(self._clock.now_us())
        floor_us = min((floors[symbol] for symbol in symbols), default=request.to_us)
        if request.interval == "1d" or request.to_us <= floor_us or bars is None:
            await self._publisher.old(writer, self._all_symbols(), bars, request.from_us, saying)
            return
        cut = int(np.searchsorted(times_of(bars["time"]), floor_us))
        if cut:
            await self._publisher.old(writer, self._all_symbols(), bars.slice(0, cut), request.from_us, Saying())
        # Only what was answered of all of them, to the last bar, may be claimed.
        from_us = max(floor_us, *(from_us for _, from_us, _, _ in settled))
        to_us = min(to_us for _, _, to_us, _ in settled)
        sound = from_us < to_us and not any(odd is not None and len(odd) for *_, odd in settled)
        claim = (from_us, to_us) if sound else None
        await self._publisher.present(writer, symbols, bars.slice(cut), claim, saying)

    def _answered(self, one: Series, source: str, from_us: int, to_us: int, odd: Int64Array | None) -> list[Told]:
        """Return the rows that say that a stretch is answered, without the bars that could not be read."""
        length_us = one.grid.length_us
        pieces, at_us = [], from_us
        for start in sorted(odd.tolist()) if odd is not None else ():
            if start > at_us:
                pieces.append((at_us, start))
            at_us = start + length_us
        if at_us < to_us:
            pieces.append((at_us, to_us))
        return [Told(one.symbol, one.interval, a, b, source, ANSWERED) for a, b in pieces]

    def _all_symbols(self) -> list[str]:
        return list(dict.fromkeys([*self._symbols, *(wanted.symbol for wanted in self._wanted)]))

    async def _compare(
        self, store: Store, name: str, one: Series, found: pa.RecordBatch
    ) -> comparison.Comparison | None:
        """Compare with what is stored of other sources; return what came out where the bars are not to be used."""
        if not self._desk.needs_comparison(name, one.symbol, one.interval) or not found.num_rows:
            return None
        times = times_of(found["time"])
        async with store.read() as look:
            stored = await look.ohlcv.read(
                one.symbol, one.interval, int(times[0]) - one.grid.length_us, int(times[-1]) + 2 * one.grid.length_us
            )
        others = pc.and_(
            pc.not_equal(stored["source"].cast(pa.utf8()), name),
            pc.and_(stored["complete"], pc.is_valid(stored["close"])),
        )
        stored = stored.filter(others)
        said = comparison.compare(comparison.Bars.of(stored), comparison.Bars.of(found), one.grid.length_us)
        self._desk.compared(name, one.symbol, one.interval, said)
        return None if said.usable else said

    # Splits and dividends --------------------------------------------------------------------------------------------

    async def _actions(self, writer: FeedWriter, store: Store, round_: _Round) -> None:
        """Ask for the splits and dividends of the symbols whose turn it is: each once a day, a few a round."""
        if not self._desk.providers(ACTIONS):
            return
        now_us = self._clock.now_us()
        due = [s for s in self._symbols if "/" not in s and now_us - self._place.actions.get(s, 0) >= _ACTIONS_US]
        for symbol in due[:5]:
            faults.reach("backfill.asking")
            answer = await self._desk.actions(symbol, now_us - _ACTIONS_DEPTH_US, now_us, Purpose.HISTORY)
            if isinstance(answer, Blocked):
                if answer.verdict == QUOTA and answer.again_us is not None:
                    break  # credits are back later, for this symbol and those behind it
                # Nobody has it now; its turn comes again tomorrow, and it holds up nobody.
                self._place.actions[symbol] = now_us
                continue
            round_.requests += 1
            self.progress.requests += 1
            self._place.actions[symbol] = now_us
            splits, dividends = await self._new_actions(store, answer.splits, answer.dividends)
            faults.reach("backfill.saying")
            place = msgspec.msgpack.encode(self._place)
            await self._publisher.note(writer, Saying(splits=splits, dividends=dividends, place=place))

    async def _new_actions(
        self, store: Store, splits: pa.RecordBatch | None, dividends: pa.RecordBatch | None
    ) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
        """Return what the store does not have of these."""
        result: list[pa.RecordBatch | None] = []
        for batch, relation, values in (
            (splits, "splits", ("numerator", "denominator")),
            (dividends, "dividends", ("amount",)),
        ):
            if batch is None or not batch.num_rows:
                result.append(None)
                continue
            known: set[Any] = set()
            async with store.read() as look:
                for symbol in set(batch["symbol"].to_pylist()):
                    stored = await getattr(look.actions, relation)(symbol)
                    known |= {_key(row, values) for row in stored.to_pylist()}
            keep = [_key(row, values) not in known for row in batch.to_pylist()]
            result.append(batch.filter(pa.array(keep, pa.bool_())) if any(keep) else None)
        return result[0], result[1]

    # What others see -------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        now_us = self._clock.now_us()
        before = self._before(now_us)
        derived = self._derived_from(now_us)
        progress = self.progress
        progress.missing = progress.later = 0
        for one in self._series.values():
            limit_us = before[one.interval]
            if one.interval != "1m":
                limit_us = min(limit_us, derived.get(one.symbol, limit_us))
            progress.missing += int(np.count_nonzero(one.missing < limit_us))
            progress.later += len(one.later(now_us, limit_us))
        progress.working = progress.missing > progress.later
        if not progress.later:
            progress.blocked, progress.again_us = "", 0
        progress.at_us = now_us

    async def _tell(self, writer: FeedWriter, *, force: bool = False) -> None:
        """Keep the progress, at most every few seconds."""
        now_s = time.monotonic()
        if not force and now_s - self._told_s < _PROGRESS_S:
            return
        self._told_s = now_s
        self._count()
        data = msgspec.json.encode(self.progress)
        await self._call(lambda: writer.put_state(STATE_FEEDS, 0, PROGRESS_KEY, data))

    async def _take_order(self) -> bool:
        """Take up what a user has ordered and nobody has carried out; return whether there is such an order."""
        order: Order | None = await self._call(lambda: read_order(self._log))
        if order is None or order.id in (self._order_id, self.progress.order):
            return False
        self._obey(order)
        return True

    def _obey(self, order: Order) -> None:
        now_us = self._clock.now_us()
        names = list(order.symbols) or self._symbols
        chosen = list(order.intervals) or [depth.interval for depth in self._depths]
        for interval in chosen:
            depth = next((depth for depth in self._depths if depth.interval == interval), Depth(interval, None))
            from_us = order.from_us or depth.from_us(now_us, self._lookback_us(interval))
            self._wanted += [Wanted(symbol, interval, from_us, order.to_us or now_us) for symbol in names]
        self._order, self._order_id, self.progress.working = order, order.id, True


def _shown(name: str, request: BarsRequest) -> str:
    symbols = ", ".join(request.symbols[:3]) + (
        f" and {len(request.symbols) - 3} more" if len(request.symbols) > 3 else ""
    )
    return f"{name}: {request.interval} of {symbols}, {iso(request.from_us)} to {iso(request.to_us)}"


def _key(row: Mapping[str, Any], values: Sequence[str]) -> tuple[Any, ...]:
    return (row["symbol"], row["time"], row["source"], *(row[name] for name in values))
