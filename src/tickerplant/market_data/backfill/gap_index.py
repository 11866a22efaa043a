"""The gap index: every wanted series, its missing bars, and the ranges that are not scanned yet.

A scan reads stored bars and vendors' answers. Every round scans the last minutes and the gaps that a stream reported. A
history is scanned once, the newest part first, for a few seconds per round. The most valuable requests thus do not wait
for a scan of ten years of all series.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from tickerplant.core.coverage import Answers
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import Calendars
from tickerplant.core.symbols import partition_of
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, Int64Array
from tickerplant.market_data.backfill.planner import Task, next_task
from tickerplant.market_data.backfill.series import Grid, Series
from tickerplant.market_data.backfill.targets import WantedRange
from tickerplant.market_data.vendors.rate_limits import Purpose
from tickerplant.store import Store

GAP_FILL_US: Final = 2 * DAY_US
"""Maximum age of a recent gap. Requests for recent gaps may use reserved credits."""
SHORT_US: Final = GAP_FILL_US + DAY_US
"""Maximum length of the newest part of a history, which is scanned first."""
PART_US: Final = 60 * DAY_US
"""Maximum length of the other parts of a history, except for daily bars.

One query reads the silent intervals of many symbols in a part.
"""
RESCAN_US: Final = 15 * MINUTE_US
"""Minimum length of the range that every round scans again: a feed may report an outage after a bar was stored."""
SCAN_S: Final = 5.0
"""Seconds after which a round starts no further scan of a range that is not scanned yet."""
_INTERVAL_RANK: Final = {"1d": 0, "1m": 1}
_SYMBOLS: Final = 100
"""Maximum number of symbols of one query."""
_SYMBOLS_LONG: Final = 25
"""Maximum number of symbols of one query over more than SHORT_US, except for daily bars: about 2 million rows."""
_YIELD_EVERY: Final = 50
"""Number of series handled between two yields to the event loop."""

_Range = tuple[int, int]


class GapIndex:
    """The wanted series and their missing bars.

    `grace_us`: time from the end of an interval until its bar counts as missing.
    """

    def __init__(self, rules: Rules, partitions: int, grace_us: int) -> None:
        self._rules = rules
        self._calendars = Calendars(rules)
        self._partitions = partitions
        self._grace_us = grace_us
        self._grids: dict[tuple[str, str], Grid] = {}
        self._series: dict[tuple[str, str], Series] = {}
        self._unscanned: deque[tuple[Series, int, int]] = deque()
        self._ordered: dict[tuple[str, str], list[_Range]] = {}
        self._unscanned_parts: Counter[int] = Counter()
        self._counts: dict[int, tuple[int, int]] = {}
        self._derived_from_us: dict[str, int] = {}
        self._now_us = 0

    def clear(self) -> None:
        """Remove all series and queued scans, because the store may have changed."""
        self._series.clear()
        self._unscanned.clear()
        self._unscanned_parts.clear()
        self._counts.clear()

    @property
    def series(self) -> Iterable[Series]:
        """Return all wanted series."""
        return self._series.values()

    @property
    def has_unscanned(self) -> bool:
        """Return True if a range is not scanned yet."""
        return bool(self._unscanned)

    def calendar_name(self, symbol: str) -> str:
        """Return the name of a symbol's calendar."""
        return self._calendars.of(symbol).name

    # Scans -----------------------------------------------------------------------------------------------------------

    async def scan(self, store: Store, wanted: Iterable[WantedRange], gaps: Sequence[_Range], now_us: int) -> None:
        """Update the index from the store. `gaps`: ranges in which a stream was down."""
        self._now_us = now_us
        self._derived_from_us.clear()
        recent: dict[tuple[str, int, int], list[Series]] = {}
        for number, one in enumerate(wanted):
            for series, start_us, end_us in self._add_wanted(one, gaps):
                recent.setdefault((series.interval, start_us, end_us), []).append(series)
            if not number % _YIELD_EVERY:
                await asyncio.sleep(0)
        for (interval, start_us, end_us), same in recent.items():
            for at in range(0, len(same), _SYMBOLS):
                await self._read(store, same[at : at + _SYMBOLS], interval, start_us, end_us)
        await self._scan_history(store)
        for number, series in enumerate(self._series.values()):
            self.recount(series)
            if not number % _YIELD_EVERY:
                await asyncio.sleep(0)

    def _add_wanted(self, wanted: WantedRange, gaps: Sequence[_Range]) -> list[tuple[Series, int, int]]:
        """Add a wanted range; return its ranges to scan now. The new parts of the history are queued."""
        key = (wanted.symbol, wanted.interval)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series(*key, self._grid(*key))
        back_us = max(RESCAN_US, 2 * self._grace_us) + series.grid.length_us
        since_us = wanted.end_us
        for start_us, end_us in series.extend(wanted.start_us, wanted.end_us):
            if wanted.start_us < start_us and end_us == wanted.end_us and end_us - start_us <= GAP_FILL_US:
                since_us = start_us  # the range continues where it ended in the last round
            else:
                self._queue(series, start_us, end_us)
        ranges = [(since_us - back_us, wanted.end_us)]
        ranges += [(start - series.grid.length_us, end + series.grid.length_us) for start, end in gaps]
        inside = [(max(wanted.start_us, start), min(wanted.end_us, end)) for start, end in ranges]
        return [(series, start, end) for start, end in inside if end > start]

    def _queue(self, series: Series, start_us: int, end_us: int) -> None:
        """Queue the parts of a range to scan, newest first: the last days, then the older bars in parts of PART_US.

        All older daily bars are one part.
        """
        cut_us = max(start_us, end_us - SHORT_US)
        parts = [(cut_us, end_us)]
        while cut_us > start_us:
            part_us = start_us if series.interval == "1d" else max(start_us, cut_us - PART_US)
            parts.append((part_us, cut_us))
            cut_us = part_us
        self._unscanned.extend((series, start, end) for start, end in parts)
        self._unscanned_parts[id(series)] += len(parts)

    async def _scan_history(self, store: Store) -> None:
        """Scan queued parts for SCAN_S, the most valuable first."""
        started_s = time.monotonic()
        self._unscanned = deque(sorted(self._unscanned, key=self._scan_rank))
        while self._unscanned and time.monotonic() - started_s < SCAN_S:
            first, start_us, end_us = self._unscanned[0]
            limit = _SYMBOLS if first.interval == "1d" or end_us - start_us <= SHORT_US else _SYMBOLS_LONG
            same = [first]
            for other, *part in itertools.islice(self._unscanned, 1, limit):
                if other.interval != first.interval or part != [start_us, end_us]:
                    break
                same.append(other)
            await self._read(store, same, first.interval, start_us, end_us)
            for series in same:
                self._unscanned.popleft()
                self._unscanned_parts[id(series)] -= 1

    def _scan_rank(self, part: tuple[Series, int, int]) -> tuple[bool, int, int, int, int]:
        """Return the rank of a part, lowest first: the last days, then daily bars, then minutes.

        Symbols of a partition are adjacent, because silent intervals are read by partition.
        """
        series, start_us, end_us = part
        partition = partition_of(series.symbol, self._partitions)
        return (end_us - start_us > SHORT_US, _INTERVAL_RANK.get(series.interval, 2), -end_us, -start_us, partition)

    async def _read(self, store: Store, some: Sequence[Series], interval: str, start_us: int, end_us: int) -> None:
        """Update a range of several series from the store."""
        symbols = [series.symbol for series in some]
        by_partition: dict[int, list[str]] = {}
        for symbol in symbols:
            by_partition.setdefault(partition_of(symbol, self._partitions), []).append(symbol)
        nothing = np.empty(0, np.int64)
        silent: dict[str, Int64Array] = {}
        async with store.read() as session:
            stored = await session.coverage.stored_bars_of(symbols, interval, start_us, end_us)
            answers = await session.answers.read(symbols, interval, start_us, end_us)
            for partition, names in by_partition.items():
                silent |= await session.coverage.silent_intervals(names, interval, partition, start_us, end_us)

        def update() -> None:
            for series in some:
                bars = stored.get(series.symbol, (nothing, nothing.astype(np.bool_)))
                answered = answers.get(series.symbol, Answers.none())
                series.update(start_us, end_us, bars, answered, silent.get(series.symbol, nothing))

        await asyncio.to_thread(update)

    def _grid(self, symbol: str, interval: str) -> Grid:
        calendar = self._calendars.of(symbol)
        key = (calendar.name, interval)
        if key not in self._grids:
            self._grids[key] = Grid(calendar, interval)
        return self._grids[key]

    # Orders ----------------------------------------------------------------------------------------------------------

    def set_ordered(self, ranges: Iterable[WantedRange]) -> None:
        """Set the ranges of users' orders, which are requested before other history."""
        self._ordered.clear()
        for one in ranges:
            self._ordered.setdefault((one.symbol, one.interval), []).append((one.start_us, one.end_us))

    def is_filled(self, wanted: WantedRange, now_us: int, patience_us: int) -> bool:
        """Return True if a range is scanned and no request for it is possible within `patience_us`."""
        series = self._series.get((wanted.symbol, wanted.interval))
        if series is None or self._unscanned_parts[id(series)]:
            return False
        end_us = min(wanted.end_us, self.before_us(series, now_us))
        return not series.ready(now_us + patience_us, wanted.start_us, end_us)

    # Missing bars ----------------------------------------------------------------------------------------------------

    def derived_from(self, symbol: str) -> int:
        """Return the start of aggregation's revision window: coarser bars after it are rolled up from 1m bars."""
        calendar = self._calendars.of(symbol)
        if calendar.name not in self._derived_from_us:
            at = np.array([self._now_us - 2 * HOUR_US], np.int64)
            start = calendar.start_of_last_sessions(at, self._rules.revision_window_sessions)
            self._derived_from_us[calendar.name] = int(start[0])
        return self._derived_from_us[calendar.name]

    def before_us(self, series: Series, now_us: int) -> int:
        """Return the time before which missing bars may be requested: they are due and not rolled up from 1m bars."""
        limit_us = now_us - self._grace_us - series.grid.length_us
        return limit_us if series.interval == "1m" else min(limit_us, self.derived_from(series.symbol))

    def task(self, series: Series, now_us: int, *, fill_gaps: bool) -> Task | None:
        """Return the next task of the series; None if it has none.

        History is requested only when all parts of the series are scanned. A page that ends at the scanned part costs
        as much as a full page.
        """
        before_us = self.before_us(series, now_us)
        task = next_task(series, now_us, before_us, now_us - GAP_FILL_US, fill_gaps=fill_gaps)
        if task is not None and task.purpose is Purpose.GAP_FILL:
            return task
        if task is None or self._unscanned_parts[id(series)]:
            return None
        for start_us, end_us in self._ordered.get((series.symbol, series.interval), ()):
            if runs := series.ready(now_us, start_us, min(end_us, before_us)):
                return Task(series, runs[0][0], runs[-1][1], now_us, Purpose.HISTORY, ordered=True)
        return task

    def series_with_gaps(self, interval: str, now_us: int) -> int:
        """Return the number of series of the interval with recent gaps that may be requested now."""
        return sum(
            bool(series.ready(now_us, now_us - GAP_FILL_US, self.before_us(series, now_us)))
            for series in self._series.values()
            if series.interval == interval
        )

    def recount(self, series: Series) -> None:
        """Update the counts of a series."""
        self._counts[id(series)] = series.counts(self._now_us, self.before_us(series, self._now_us))

    def counts(self) -> tuple[int, int]:
        """Return the counts of missing and of postponed missing bars, as of the last `recount` of each series."""
        return sum(missing for missing, _ in self._counts.values()), sum(later for _, later in self._counts.values())

    def due_us(self, now_us: int) -> int | None:
        """Return the time at which the first postponed bar is due; None if no bar is postponed."""
        times = [series.due_us(now_us, self.before_us(series, now_us)) for series in self._series.values()]
        return min((us for us in times if us is not None), default=None)
