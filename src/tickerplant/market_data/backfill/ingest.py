"""The ingest of a vendor's answer: its bars are validated, compared, reduced to the missing bars, and published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import faults
from tickerplant.core.arrow_values import times_of
from tickerplant.core.clock import Clock
from tickerplant.core.schemas import ANSWERED, DIFFERS, NO_DATA, NOT_OFFERED
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, Int64Array
from tickerplant.market_data.backfill.actions import new_actions
from tickerplant.market_data.backfill.gap_index import GapIndex
from tickerplant.market_data.backfill.planner import Task
from tickerplant.market_data.backfill.progress import Progress
from tickerplant.market_data.backfill.publish import AnswerRecords, AnswerRow, Publisher, bars_at, merge_by_time
from tickerplant.market_data.backfill.series import Series
from tickerplant.market_data.backfill.vendor_penalties import PENALTY_US, VendorPenalties, market_key
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.feed.validation import check_bars, distinct_bars, without
from tickerplant.market_data.feed.writer import FeedWriter
from tickerplant.market_data.vendors import comparison
from tickerplant.market_data.vendors.errors import Malformed, NoData, VendorError
from tickerplant.market_data.vendors.port import BarsAnswer, BarsRequest
from tickerplant.market_data.vendors.rejections import sure_until
from tickerplant.market_data.vendors.scheduler import Choice, RequestScheduler
from tickerplant.store import Store

RETRY_US: Final = {"1d": HOUR_US}
"""Time until the next request for bars that a vendor may have later, by interval."""
RETRY_OTHERS_US: Final = 5 * MINUTE_US
"""Time until the next request for bars that a vendor may have later, for the intervals that RETRY_US does not list."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A vendor's answer, the request, and the tasks that the request serves."""

    choice: Choice
    request: BarsRequest
    tasks: Sequence[Task]
    bars: BarsAnswer


@dataclass(frozen=True, slots=True)
class _AnsweredRange:
    """A range of a series that a vendor answered. `invalid`: starts of its bars that failed the validation."""

    series: Series
    start_us: int
    end_us: int
    invalid: Int64Array | None

    def rows(self, source: str) -> list[AnswerRow]:
        """Return the answer rows of the range without the invalid bars."""
        series, length_us = self.series, self.series.grid.length_us
        parts, at_us = [], self.start_us
        for start in sorted(self.invalid.tolist()) if self.invalid is not None else ():
            if start > at_us:
                parts.append((at_us, start))
            at_us = start + length_us
        if at_us < self.end_us:
            parts.append((at_us, self.end_us))
        return [AnswerRow(series.symbol, series.interval, a, b, source, ANSWERED) for a, b in parts]


@dataclass(slots=True)
class _Result:
    """The content of an answer: missing bars, answer rows, dead letters, and the answered ranges.

    `conflicts`: count of rows that differ from an earlier row of the same bar.
    """

    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: list[AnswerRow] = field(default_factory=list)
    dead: list[DeadRow] = field(default_factory=list)
    answered: list[_AnsweredRange] = field(default_factory=list)
    conflicts: int = 0


class AnswerIngestor:
    """Ingests answers. `symbols()` returns the symbols of the feed `backfill`."""

    def __init__(
        self, scheduler: RequestScheduler, gaps: GapIndex, penalties: VendorPenalties, publisher: Publisher,
        progress: Progress, clock: Clock, symbols: Callable[[], list[str]],
    ) -> None:  # fmt: skip
        self._scheduler = scheduler
        self._gaps = gaps
        self._penalties = penalties
        self._publisher = publisher
        self._progress = progress
        self._clock = clock
        self._symbols = symbols

    async def ingest(self, writer: FeedWriter, store: Store, answer: Answer) -> None:
        """Append the missing bars of an answer and its verdicts on the gaps, then update the series.

        Raises the errors of the log and the store. The log may then contain a part of the bars. Verdicts are appended
        with the last bars, so the bars that are still missing are requested again.
        """
        newest = self._newest_by_market(answer.bars)
        vendor, result = answer.choice.name, _Result()
        for task in answer.tasks:
            series = task.series
            found = answer.bars.found.get(series.symbol)
            covered = answer.bars.covers.get(series.symbol, (answer.request.start_us, answer.request.end_us))
            if not isinstance(found, pa.RecordBatch):
                error = found or Malformed(f"the answer does not contain {series.symbol}")
                self._add_error(result, vendor, series, covered, error)
            elif not series.ready(task.now_us, *covered):
                self._add_unrelated(vendor, series)
            else:
                found, conflict = distinct_bars(found)
                if conflict is not None:
                    result.conflicts += conflict.count
                    note = f"{vendor}: {series.interval}: {conflict.note}"
                    result.dead.append(DeadRow(note, series.symbol.encode()))
                difference = await self._compare(store, vendor, series, found)
                if difference is not None:
                    self._add_difference(result, vendor, series, covered, str(difference))
                else:
                    newest_us = newest.get(market_key(series.symbol, self._gaps.calendar_name(series.symbol)))
                    self._add_bars(result, vendor, series, (*covered, newest_us), found)
        bars = merge_by_time(result.batches)
        splits, dividends = await new_actions(store, answer.bars.splits, answer.bars.dividends)
        faults.reach("backfill.append.before")
        records = AnswerRecords(result.rows, splits, dividends, result.dead, conflicts=result.conflicts)
        await self._publish(writer, result.answered, bars, answer.request, records)
        faults.reach("backfill.append.after")
        for one in result.answered:
            one.series.mark_answered(one.start_us, one.end_us, one.invalid)
        self._progress.bars += bars.num_rows if bars is not None else 0

    def _newest_by_market(self, answer: BarsAnswer) -> dict[tuple[str, str], int]:
        """Return the start of the newest bar of each market: a delay of a vendor applies to a whole market."""
        found: dict[tuple[str, str], int] = {}
        for symbol, bars in answer.found.items():
            if isinstance(bars, pa.RecordBatch) and bars.num_rows:
                key = market_key(symbol, self._gaps.calendar_name(symbol))
                found[key] = max(found.get(key, 0), int(times_of(bars["time"])[-1]))
        return found

    # One symbol ------------------------------------------------------------------------------------------------------

    def _add_error(
        self, result: _Result, vendor: str, series: Series, covered: tuple[int, int], error: VendorError
    ) -> None:
        """Handle an error of one symbol. The scheduler stores the rejections that concern the vendor's offer."""
        key, now_us = (series.symbol, series.interval), self._clock.now_us()
        self._progress.failed += 1
        if isinstance(error, NoData):
            start_us, end_us = covered
            final_us = self._final_until(series, start_us, end_us, None)
            self._defer(result, vendor, series, final_us, end_us)
            if final_us > start_us:
                self._penalties.add_empty(key, start_us, final_us, now_us + PENALTY_US)
            return
        if isinstance(error, Malformed):
            result.dead.append(DeadRow(f"{vendor}: {error}", series.symbol.encode()))
        if not error.about_vendor:
            self._penalties.add_error(key, vendor, error, now_us)

    def _add_unrelated(self, vendor: str, series: Series) -> None:
        """Exclude a vendor for PENALTY_US, because its answer covers none of the missing bars."""
        until_us = self._clock.now_us() + PENALTY_US
        note = f"{vendor} answered for other times"
        self._penalties.add((series.symbol, series.interval), vendor, until_us, NOT_OFFERED, note)

    def _add_difference(
        self, result: _Result, vendor: str, series: Series, covered: tuple[int, int], difference: str
    ) -> None:
        """Exclude a vendor for a day, because its bars differ from the stored bars."""
        now_us = self._clock.now_us()
        self._penalties.add((series.symbol, series.interval), vendor, now_us + DAY_US, DIFFERS, difference)
        result.rows += [
            AnswerRow(series.symbol, series.interval, start, end, vendor, DIFFERS, difference, now_us + HOUR_US)
            for start, end in series.ready(now_us, *covered)
        ]

    def _add_bars(
        self, result: _Result, vendor: str, series: Series, covered: tuple[int, int, int | None],
        found: pa.RecordBatch,
    ) -> None:  # fmt: skip
        """Handle the bars of one symbol. `covered`: start and end of the answer, and the market's newest bar."""
        start_us, end_us, newest_us = covered
        reasons = check_bars(found)
        invalid = times_of(found["time"])[sorted(reasons)] if reasons else None
        if reasons:  # the writer would drop them too, but then no other vendor would be asked for them
            notes = sorted(set(reasons.values()))
            result.dead += [DeadRow(f"{vendor}: {note}", series.symbol.encode()) for note in notes]
            until_us, note = self._clock.now_us() + PENALTY_US, f"{vendor}: {notes[0]}"
            self._penalties.add((series.symbol, series.interval), vendor, until_us, NOT_OFFERED, note)
            found = without(found, reasons)
        final_us = self._final_until(series, start_us, end_us, newest_us)
        self._defer(result, vendor, series, final_us, end_us)
        if final_us <= start_us:
            return
        answered = _AnsweredRange(series, start_us, final_us, invalid)
        result.batches.append(bars_at(found, series.missing(start_us, final_us)))
        result.answered.append(answered)
        result.rows += answered.rows(vendor)

    def _final_until(self, series: Series, start_us: int, end_us: int, newest_us: int | None) -> int:
        """Return the end of the final part of an answer for `[start_us, end_us)`.

        A vendor that is late may add bars after the newest bar of the symbol's market (`newest_us`).
        """
        length_us = series.grid.length_us
        final_us = sure_until(series.interval, self._clock.now_us())
        if newest_us is not None:
            final_us = max(final_us, newest_us + length_us)
        final_us -= final_us % length_us
        return min(end_us, max(start_us, final_us))

    def _defer(self, result: _Result, vendor: str, series: Series, start_us: int, end_us: int) -> None:
        """Postpone the bars that the vendor may have later."""
        if not len(series.missing(start_us, end_us)):
            return
        now_us = self._clock.now_us()
        again_us = now_us + RETRY_US.get(series.interval, RETRY_OTHERS_US)
        series.defer(start_us, end_us, again_us, now_us)
        note = f"{vendor} does not have it yet"
        result.rows.append(AnswerRow(series.symbol, series.interval, start_us, end_us, vendor, NO_DATA, note, again_us))

    async def _compare(
        self, store: Store, vendor: str, series: Series, found: pa.RecordBatch
    ) -> comparison.Comparison | None:
        """Compare bars with stored bars of other sources; return the result if the bars must not be used, else None."""
        if not self._scheduler.needs_comparison(vendor, series.symbol, series.interval) or not found.num_rows:
            return None
        times, length_us = times_of(found["time"]), series.grid.length_us
        async with store.read() as session:
            stored = await session.ohlcv.read(
                series.symbol, series.interval, int(times[0]) - length_us, int(times[-1]) + 2 * length_us
            )
        others = pc.and_(
            pc.not_equal(stored["source"].cast(pa.utf8()), vendor),
            pc.and_(stored["complete"], pc.is_valid(stored["close"])),
        )
        stored = stored.filter(others)
        result = comparison.compare(comparison.Bars.of(stored), comparison.Bars.of(found), length_us)
        self._scheduler.compared(vendor, series.symbol, series.interval, result)
        return None if result.usable else result

    # All symbols -----------------------------------------------------------------------------------------------------

    async def _publish(
        self, writer: FeedWriter, answered: Sequence[_AnsweredRange], bars: pa.RecordBatch | None,
        request: BarsRequest, records: AnswerRecords,
    ) -> None:  # fmt: skip
        """Publish the bars of an answer: the old bars first, then the recent bars with all other records."""
        symbols = [one.series.symbol for one in answered]
        recent_us = min((self._gaps.derived_from(symbol) for symbol in symbols), default=request.end_us)
        if request.interval == "1d" or request.end_us <= recent_us or bars is None:
            await self._publisher.append_history(writer, self._symbols(), bars, request.start_us, records)
            return
        cut = int(np.searchsorted(times_of(bars["time"]), recent_us))
        if cut:
            old = bars.slice(0, cut)
            await self._publisher.append_history(writer, self._symbols(), old, request.start_us, AnswerRecords())
        # The claimed range was answered for all symbols. If a bar is invalid, no range is claimed.
        start_us = max(recent_us, *(one.start_us for one in answered))
        end_us = min(one.end_us for one in answered)
        valid = start_us < end_us and not any(one.invalid is not None and len(one.invalid) for one in answered)
        coverage = (start_us, end_us) if valid else None
        await self._publisher.append_recent(writer, symbols, bars.slice(cut), coverage, records)
