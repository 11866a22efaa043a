"""The missing bars of one symbol and interval.

The calendar defines the expected bars. An expected bar is missing until it is stored, a vendor answers for its
interval, or a live feed shows an interval without trades.

Pure. A series stores runs of missing bars, each with the time from which a vendor may be asked. Stored bars use no
memory, and the memory of a run does not depend on its length.
"""

from __future__ import annotations

import numpy as np

from tickerplant.core import coverage
from tickerplant.core import interval as intervals
from tickerplant.core.coverage import Answers, newest_answer
from tickerplant.core.reasons import DISK
from tickerplant.core.schemas import NOT_OFFERED, OUTAGE, QUOTA
from tickerplant.core.sessions import Calendar
from tickerplant.core.times import FOREVER_US, BoolArray, Int64Array


class Grid:
    """The expected starts of bars of one calendar and interval. Grows at both ends on demand."""

    def __init__(self, calendar: Calendar, interval: str) -> None:
        self.calendar = calendar
        self.interval = interval
        self.length_us = intervals.parse(interval).us
        self._start_us = self._end_us = 0
        self._starts = np.empty(0, np.int64)

    def starts(self, start_us: int, end_us: int) -> Int64Array:
        """Return the starts in `[start_us, end_us)`."""
        if end_us <= start_us:
            return np.empty(0, np.int64)
        if self._end_us <= self._start_us or end_us < self._start_us or start_us > self._end_us:
            self._start_us, self._end_us = start_us, end_us
            self._starts = coverage.expected(self.calendar, self.interval, start_us, end_us)
        if start_us < self._start_us:
            older = coverage.expected(self.calendar, self.interval, start_us, self._start_us)
            self._starts, self._start_us = np.concatenate([older, self._starts]), start_us
        if end_us > self._end_us:
            newer = coverage.expected(self.calendar, self.interval, self._end_us, end_us)
            self._starts, self._end_us = np.concatenate([self._starts, newer]), end_us
        low, high = np.searchsorted(self._starts, [start_us, end_us])
        return self._starts[low:high]

    def counts(self, start_us: Int64Array, end_us: Int64Array) -> Int64Array:
        """Return the number of starts in each `[start, end)`; 0 for an empty range."""
        if not len(start_us):
            return np.empty(0, np.int64)
        starts = self.starts(int(start_us.min()), int(max(start_us.max(), end_us.max())) + 1)
        result: Int64Array = np.maximum(0, np.searchsorted(starts, end_us) - np.searchsorted(starts, start_us))
        return result


class Series:
    """The missing bars of one symbol and interval, as runs.

    A run is a range `[start, end)` of the grid whose starts are all missing and may be requested from `again` on.
    """

    __slots__ = ("_again", "_end", "_paused", "_start", "_wanted", "grid", "interval", "symbol")

    def __init__(self, symbol: str, interval: str, grid: Grid) -> None:
        self.symbol = symbol
        self.interval = interval
        self.grid = grid
        self._wanted: list[tuple[int, int]] = []
        self._paused: list[tuple[int, int]] = []
        self._start = self._end = self._again = np.empty(0, np.int64)

    def extend(self, start_us: int, end_us: int) -> list[tuple[int, int]]:
        """Add `[start_us, end_us)` to the wanted ranges; return the parts that are new and must be scanned."""
        new, at_us, others = [], start_us, []
        for start, end in self._wanted:
            if end < start_us or start > end_us:
                others.append((start, end))
                continue
            if start > at_us:
                new.append((at_us, start))
            at_us = max(at_us, end)
            start_us = min(start_us, start)
        if at_us < end_us:
            new.append((at_us, end_us))
        self._wanted = sorted([*others, (start_us, max(at_us, end_us))])
        return new

    def update(
        self, start_us: int, end_us: int, stored: tuple[Int64Array, BoolArray], answers: Answers, silent: Int64Array
    ) -> None:
        """Replace the state of `[start_us, end_us)` by the content of the store.

        `stored`: starts of the stored bars, and a mask of the complete bars. `silent`: starts of intervals in which a
        live feed that was up delivered no ticks of the symbol.
        """
        starts = self.grid.starts(start_us, end_us)
        if not len(starts):
            return
        self._note_pauses(start_us, end_us, answers)
        times, complete = stored
        missing = ~np.isin(starts, times[complete]) & ~np.isin(starts, silent)
        again = np.zeros(len(starts), np.int64)
        if len(answers.verdict):
            # A `no_data` answer may contain a retry time too: a vendor that is late may have the bar by then.
            after = np.where(answers.again_us == 0, FOREVER_US, answers.again_us)
            # These verdicts are stored for people only. Keys, quotas and vendors change; the scheduler tracks them.
            after[np.isin(answers.verdict, (QUOTA, OUTAGE, NOT_OFFERED))] = 0
            answer = newest_answer(starts, answers)
            answered = answer >= 0
            again[answered] = after[answer[answered]]
            missing &= again < FOREVER_US
        self._remove(start_us, end_us)
        again[~missing] = -1
        edges = np.flatnonzero(np.diff(again)) + 1
        first, last = np.append(0, edges), np.append(edges, len(starts)) - 1
        keep = again[first] >= 0
        first, last = first[keep], last[keep]
        self._add(starts[first], starts[last] + self.grid.length_us, again[first])

    def by_pause(self, start_us: int, end_us: int) -> list[tuple[int, int, bool]]:
        """Return the parts of `[start_us, end_us)` in order, each with True if a full disk stopped the feed."""
        parts, at_us = [], start_us
        for begin, end in self._paused:
            begin, end = max(begin, at_us), min(end, end_us)
            if begin < end:
                parts += [(at_us, begin, False)] * (at_us < begin) + [(begin, end, True)]
                at_us = end
        return parts + [(at_us, end_us, False)] * (at_us < end_us)

    def _note_pauses(self, start_us: int, end_us: int, answers: Answers) -> None:
        """Replace the ranges within `[start_us, end_us)` in which a full disk stopped the feed."""
        noted = [note.startswith(DISK) for note in answers.note]
        if not any(noted) and not self._paused:
            return
        kept = [(a, min(b, start_us)) for a, b in self._paused] + [(max(a, end_us), b) for a, b in self._paused]
        ranges = zip(answers.from_us.tolist(), answers.to_us.tolist(), noted, strict=True)
        kept += [(max(a, start_us), min(b, end_us)) for a, b, paused in ranges if paused]
        self._paused = sorted((a, b) for a, b in kept if a < b)

    def mark_answered(self, start_us: int, end_us: int, invalid: Int64Array | None = None) -> None:
        """Remove `[start_us, end_us)` from the missing bars; the starts `invalid` stay missing."""
        at_us = start_us
        for start in sorted(invalid.tolist()) if invalid is not None else ():
            self._remove(at_us, start)
            at_us = max(at_us, start + self.grid.length_us)
        self._remove(at_us, end_us)

    def defer(self, start_us: int, end_us: int, again_us: int | None, now_us: int) -> None:
        """Postpone a range's missing bars that are ready now to `again_us`; remove them if `again_us` is None."""
        for start, end in self.ready(now_us, start_us, end_us):
            self._remove(start, end)
            if again_us is not None:
                self._add(*(np.array([us], np.int64) for us in (start, end, again_us)))

    def ready(self, now_us: int, start_us: int, end_us: int) -> list[tuple[int, int]]:
        """Return the parts of runs in `[start_us, end_us)` that may be requested now, oldest first.

        Each begins at a missing start, and ends at the end of a missing bar.
        """
        mine = (self._again <= now_us) & (self._start < end_us) & (self._end > start_us)
        found = []
        for start, end in zip(self._start[mine].tolist(), self._end[mine].tolist(), strict=True):
            if start < start_us or end > end_us:
                starts = self.grid.starts(max(start, start_us), min(end, end_us))
                if not len(starts):
                    continue
                start, end = int(starts[0]), int(starts[-1]) + self.grid.length_us
            found.append((start, end))
        return found

    def missing(self, start_us: int, end_us: int) -> Int64Array:
        """Return the missing starts of `[start_us, end_us)`, ascending, including postponed bars."""
        mine = (self._start < end_us) & (self._end > start_us)
        parts = [
            self.grid.starts(max(start, start_us), min(end, end_us))
            for start, end in zip(self._start[mine].tolist(), self._end[mine].tolist(), strict=True)
        ]
        result: Int64Array = np.concatenate(parts) if parts else np.empty(0, np.int64)
        return result

    def counts(self, now_us: int, before_us: int) -> tuple[int, int]:
        """Return the number of missing bars that start before `before_us`, and how many of them are postponed."""
        found = self.grid.counts(self._start, np.minimum(self._end, before_us))
        return int(found.sum()), int(found[self._again > now_us].sum())

    def due_us(self, now_us: int, before_us: int) -> int | None:
        """Return the time at which the first postponed bar before `before_us` is due; None if there is none."""
        waiting = self._again[(self._again > now_us) & (self._start < before_us)]
        return int(waiting.min()) if len(waiting) else None

    def _remove(self, start_us: int, end_us: int) -> None:
        """Remove `[start_us, end_us)` from the runs."""
        if end_us <= start_us or not len(self._start):
            return
        touched = (self._start < end_us) & (self._end > start_us)
        if not touched.any():
            return
        start, end, again = self._start, self._end, self._again
        before, after = touched & (start < start_us), touched & (end > end_us)
        others = ~touched
        new_start = np.concatenate([start[others], start[before], np.full(after.sum(), end_us, np.int64)])
        new_end = np.concatenate([end[others], np.full(before.sum(), start_us, np.int64), end[after]])
        self._set(new_start, new_end, np.concatenate([again[others], again[before], again[after]]))

    def _add(self, start: Int64Array, end: Int64Array, again: Int64Array) -> None:
        """Add runs that do not overlap the existing runs."""
        self._set(*(np.concatenate(pair) for pair in (
            (self._start, start), (self._end, end), (self._again, again))))  # fmt: skip

    def _set(self, start: Int64Array, end: Int64Array, again: Int64Array) -> None:
        """Store runs in normal form: sorted, on the grid, not empty, adjacent runs with equal `again` joined."""
        if len(start):
            starts = self.grid.starts(int(start.min()), int(end.max()))
            low, high = np.searchsorted(starts, start), np.searchsorted(starts, end)
            some = high > low
            low, high, again = low[some], high[some], again[some]
            order = np.argsort(low, kind="stable")
            low, high, again = low[order], high[order], again[order]
            apart = (low[1:] > high[:-1]) | (again[1:] != again[:-1])
            first, last = np.append(True, apart)[: len(low)], np.append(apart, True)[: len(low)]
            start, end, again = starts[low[first]], starts[high[last] - 1] + self.grid.length_us, again[first]
        self._start, self._end, self._again = start, end, again
