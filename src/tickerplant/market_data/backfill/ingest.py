"""What an answer brings: checked, compared, cut to what was missing, and said with what it means for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import faults
from tickerplant.core.clock import Clock
from tickerplant.core.schemas import ANSWERED, DIFFERS, NO_DATA, NOT_OFFERED
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, Int64Array, times_of
from tickerplant.market_data.backfill.actions import new_actions
from tickerplant.market_data.backfill.gap_index import Ledger
from tickerplant.market_data.backfill.planner import Task
from tickerplant.market_data.backfill.progress import Progress
from tickerplant.market_data.backfill.publish import Publisher, Saying, Told, in_order, only
from tickerplant.market_data.backfill.series import Series
from tickerplant.market_data.backfill.vendor_penalties import HOLDS_US, Setbacks, market_key
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.validation import check_bars, without
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors import comparison
from tickerplant.market_data.vendors.errors import Malformed, NoData, VendorError
from tickerplant.market_data.vendors.port import BarsAnswer, BarsRequest
from tickerplant.market_data.vendors.rejections import sure_until
from tickerplant.market_data.vendors.scheduler import Choice, RequestScheduler
from tickerplant.store import Store

LATER_US: Final = {"1d": HOUR_US}
LATER_OTHERS_US: Final = 5 * MINUTE_US
"""After this is asked again for what a vendor may only be late with."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A series that was answered, the stretch, and the starts of what could not be read of it."""

    series: Series
    from_us: int
    to_us: int
    odd: Int64Array | None

    def told(self, source: str) -> list[Told]:
        """Return the rows that say that the stretch is answered, without the bars that could not be read."""
        one, length_us = self.series, self.series.grid.length_us
        pieces, at_us = [], self.from_us
        for start in sorted(self.odd.tolist()) if self.odd is not None else ():
            if start > at_us:
                pieces.append((at_us, start))
            at_us = start + length_us
        if at_us < self.to_us:
            pieces.append((at_us, self.to_us))
        return [Told(one.symbol, one.interval, a, b, source, ANSWERED) for a, b in pieces]


@dataclass(slots=True)
class _Brought:
    """What an answer comes to."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    dead: list[DeadRow] = field(default_factory=list)
    settled: list[_Settled] = field(default_factory=list)


class Taker:
    """Takes answers. `symbols`: returns those that the feed of the backfill speaks of."""

    def __init__(
        self, desk: RequestScheduler, ledger: Ledger, setbacks: Setbacks, publisher: Publisher, progress: Progress,
        clock: Clock,
        symbols: Callable[[], list[str]],
    ) -> None:  # fmt: skip
        self._desk = desk
        self._ledger = ledger
        self._setbacks = setbacks
        self._publisher = publisher
        self._progress = progress
        self._clock = clock
        self._symbols = symbols

    async def take(
        self, writer: FeedWriter, store: Store, choice: Choice, request: BarsRequest, chosen: Sequence[Task],
        answer: BarsAnswer,
    ) -> None:  # fmt: skip
        """Say what an answer brought of what is missing, and what it says of the rest; the series know it from then on.

        Raises what the log and the store raise; then nothing of it was said, or all.
        """
        newest = self._newest(answer)
        brought = _Brought()
        for task in chosen:
            one = task.series
            found = answer.found.get(one.symbol)
            stretch = answer.covers.get(one.symbol, (request.start_us, request.end_us))
            if not isinstance(found, pa.RecordBatch):
                error = found or Malformed(f"the answer does not speak of {one.symbol}")
                self._refused(brought, choice.name, one, stretch, error)
            elif not one.ready(task.now_us, *stretch):
                self._beside(brought, choice.name, task)
            else:
                differs = await self._compare(store, choice.name, one, found)
                if differs is not None:
                    self._differs(brought, choice.name, one, stretch, str(differs))
                else:
                    newest_us = newest.get(market_key(one.symbol, self._ledger.calendar_name(one.symbol)))
                    self._bars(brought, choice.name, one, stretch, found, newest_us)
        bars = in_order(brought.batches)
        splits, dividends = await new_actions(store, answer.splits, answer.dividends)
        faults.reach("backfill.saying")
        await self._say(writer, brought.settled, bars, request, Saying(brought.told, splits, dividends, brought.dead))
        faults.reach("backfill.said")
        for each in brought.settled:
            each.series.settle(each.from_us, each.to_us, each.odd)
        self._progress.bars += bars.num_rows if bars is not None else 0

    def _newest(self, answer: BarsAnswer) -> dict[tuple[str, str], int]:
        """Return the newest bar that came of each market: a vendor that is late is late with all of it."""
        found: dict[tuple[str, str], int] = {}
        for symbol, bars in answer.found.items():
            if isinstance(bars, pa.RecordBatch) and bars.num_rows:
                key = market_key(symbol, self._ledger.calendar_name(symbol))
                found[key] = max(found.get(key, 0), int(times_of(bars["time"])[-1]))
        return found

    # One symbol ------------------------------------------------------------------------------------------------------

    def _refused(self, brought: _Brought, name: str, one: Series, stretch: tuple[int, int], error: VendorError) -> None:
        """Take an error of one symbol. The desk remembers what is its own to know."""
        key, now_us = (one.symbol, one.interval), self._clock.now_us()
        self._progress.failed += 1
        if isinstance(error, NoData):
            from_us, to_us = stretch
            sure_us = self._sure_us(one, from_us, to_us, None)
            self._not_yet(brought, name, one, sure_us, to_us)
            if sure_us > from_us:
                self._setbacks.empty(key, from_us, sure_us, now_us + HOLDS_US)
            return
        if isinstance(error, Malformed):
            brought.dead.append(DeadRow(f"{name}: {error}", one.symbol.encode()))
        if not error.about_vendor:
            self._setbacks.refused(key, name, error, now_us)

    def _beside(self, brought: _Brought, name: str, task: Task) -> None:
        """Take an answer that speaks of nothing that was missing: this vendor has nothing there, be it never so often
        asked.
        """
        one = task.series
        note = f"{name} answered for other times"
        self._setbacks.avoid((one.symbol, one.interval), name, self._clock.now_us() + HOLDS_US, NOT_OFFERED, note)

    def _differs(self, brought: _Brought, name: str, one: Series, stretch: tuple[int, int], how: str) -> None:
        now_us = self._clock.now_us()
        self._setbacks.avoid((one.symbol, one.interval), name, now_us + DAY_US, DIFFERS, how)
        brought.told += [
            Told(one.symbol, one.interval, a, b, name, DIFFERS, how, now_us + HOUR_US)
            for a, b in one.ready(now_us, *stretch)
        ]

    def _bars(
        self, brought: _Brought, name: str, one: Series, stretch: tuple[int, int], found: pa.RecordBatch,
        newest_us: int | None,
    ) -> None:  # fmt: skip
        """Take the bars of one symbol."""
        from_us, to_us = stretch
        reasons = check_bars(found)
        odd = times_of(found["time"])[sorted(reasons)] if reasons else None
        if reasons:  # the writer would bury them too, but then nobody else would be asked for them
            whys = sorted(set(reasons.values()))
            brought.dead += [DeadRow(f"{name}: {why}", one.symbol.encode()) for why in whys]
            until_us = self._clock.now_us() + HOLDS_US
            self._setbacks.avoid((one.symbol, one.interval), name, until_us, NOT_OFFERED, f"{name}: {whys[0]}")
            found = without(found, reasons)
        sure_us = self._sure_us(one, from_us, to_us, newest_us)
        self._not_yet(brought, name, one, sure_us, to_us)
        if sure_us <= from_us:
            return
        settled = _Settled(one, from_us, sure_us, odd)
        brought.batches.append(only(found, one.missing(from_us, sure_us)))
        brought.settled.append(settled)
        brought.told += settled.told(name)

    def _sure_us(self, one: Series, from_us: int, to_us: int, newest_us: int | None) -> int:
        """Return up to where an answer of `[from, to)` is one: behind the newest bar that came of the symbol's market
        a vendor that is late may have more yet.
        """
        length_us = one.grid.length_us
        sure_us = sure_until(one.interval, self._clock.now_us())
        if newest_us is not None:
            sure_us = max(sure_us, newest_us + length_us)
        sure_us -= sure_us % length_us
        return min(to_us, max(from_us, sure_us))

    def _not_yet(self, brought: _Brought, name: str, one: Series, from_us: int, to_us: int) -> None:
        """Put off what the vendor may have later."""
        if not len(one.missing(from_us, to_us)):
            return
        now_us = self._clock.now_us()
        again_us = now_us + LATER_US.get(one.interval, LATER_OTHERS_US)
        one.defer(from_us, to_us, again_us, now_us)
        note = f"{name} has not brought it yet"
        brought.told.append(Told(one.symbol, one.interval, from_us, to_us, name, NO_DATA, note, again_us))

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

    # All of them -----------------------------------------------------------------------------------------------------

    async def _say(
        self, writer: FeedWriter, settled: Sequence[_Settled], bars: pa.RecordBatch | None, request: BarsRequest,
        saying: Saying,
    ) -> None:  # fmt: skip
        """Say the bars of an answer: the old ones first, then those of the present with all that came along."""
        symbols = [each.series.symbol for each in settled]
        floor_us = min((self._ledger.derived_from(symbol) for symbol in symbols), default=request.end_us)
        if request.interval == "1d" or request.end_us <= floor_us or bars is None:
            await self._publisher.old(writer, self._symbols(), bars, request.start_us, saying)
            return
        cut = int(np.searchsorted(times_of(bars["time"]), floor_us))
        if cut:
            await self._publisher.old(writer, self._symbols(), bars.slice(0, cut), request.start_us, Saying())
        # Only what was answered of all of them, to the last bar, may be claimed.
        from_us = max(floor_us, *(each.from_us for each in settled))
        to_us = min(each.to_us for each in settled)
        sound = from_us < to_us and not any(each.odd is not None and len(each.odd) for each in settled)
        claim = (from_us, to_us) if sound else None
        await self._publisher.present(writer, symbols, bars.slice(cut), claim, saying)
