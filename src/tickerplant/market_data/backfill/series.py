"""What is missing of each symbol and interval: expected by the calendar, less what is stored or is known not to be.

Pure. A series holds runs of missing bars, with the time from which a vendor may be asked for each; what is there costs
no memory, and what is missing in one piece next to none, however long the history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.core import coverage
from tickerplant.core import interval as intervals
from tickerplant.core.coverage import Answers, newest_answer
from tickerplant.core.schemas import NOT_OFFERED, OUTAGE, QUOTA
from tickerplant.core.sessions import Calendar
from tickerplant.core.times import DAY_US, FOREVER_US, BoolArray, Int64Array

MAX_DAYS: Final = {"1d": 3_653, "5m": 731, "1m": 731}
"""How far back `max` goes where no vendor's limit is nearer: ten years of days, as long as the store keeps others."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How far back which bars are wanted; `days` None: as far as vendors go, up to MAX_DAYS."""

    interval: str
    days: int | None

    def from_us(self, now_us: int, lookback_us: int | None) -> int:
        """Return where the wanted history begins. `lookback_us`: the longest that a vendor goes back, None: any."""
        if self.days is not None:
            return now_us - self.days * DAY_US
        most_us = MAX_DAYS.get(self.interval, 731) * DAY_US
        # A little less, so that the oldest request is still within when its turn comes.
        return now_us - (most_us if lookback_us is None else min(most_us, max(0, lookback_us - DAY_US // 24)))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stretch of a symbol's bars that is to be there, `[from_us, to_us)`."""

    symbol: str
    interval: str
    from_us: int
    to_us: int


class Grid:
    """The starts of the bars expected by one calendar and interval; grows at both ends as it is asked for."""

    def __init__(self, calendar: Calendar, interval: str) -> None:
        self.calendar = calendar
        self.interval = interval
        self.length_us = intervals.parse(interval).us
        self._from_us = self._to_us = 0
        self._starts = np.empty(0, np.int64)

    def starts(self, from_us: int, to_us: int) -> Int64Array:
        """Return the starts in `[from_us, to_us)`."""
        if to_us <= from_us:
            return np.empty(0, np.int64)
        if self._to_us <= self._from_us or to_us < self._from_us or from_us > self._to_us:
            self._from_us, self._to_us = from_us, to_us
            self._starts = coverage.expected(self.calendar, self.interval, from_us, to_us)
        if from_us < self._from_us:
            older = coverage.expected(self.calendar, self.interval, from_us, self._from_us)
            self._starts, self._from_us = np.concatenate([older, self._starts]), from_us
        if to_us > self._to_us:
            newer = coverage.expected(self.calendar, self.interval, self._to_us, to_us)
            self._starts, self._to_us = np.concatenate([self._starts, newer]), to_us
        low, high = np.searchsorted(self._starts, [from_us, to_us])
        return self._starts[low:high]

    def counts(self, from_us: Int64Array, to_us: Int64Array) -> Int64Array:
        """Return how many starts lie in each `[from, to)`, 0 where that is empty."""
        if not len(from_us):
            return np.empty(0, np.int64)
        every = self.starts(int(from_us.min()), int(max(from_us.max(), to_us.max())) + 1)
        result: Int64Array = np.maximum(0, np.searchsorted(every, to_us) - np.searchsorted(every, from_us))
        return result


class Series:
    """One symbol's bars of one interval: which are missing, and from when on each may be asked for.

    Kept as runs: all starts of the grid within `[begin, end)` are missing, and may be asked for from `again` on. So a
    history of which nothing is there takes no more room than one of which everything is.
    """

    __slots__ = ("_again", "_begin", "_end", "_wanted", "grid", "interval", "symbol")

    def __init__(self, symbol: str, interval: str, grid: Grid) -> None:
        self.symbol = symbol
        self.interval = interval
        self.grid = grid
        self._wanted: list[tuple[int, int]] = []
        self._begin = self._end = self._again = np.empty(0, np.int64)

    def want(self, from_us: int, to_us: int) -> list[tuple[int, int]]:
        """Take `[from_us, to_us)` as wanted; return what of it was not wanted before, and is to be looked at."""
        new, at_us, rest = [], from_us, []
        for begin, end in self._wanted:
            if end < from_us or begin > to_us:
                rest.append((begin, end))
                continue
            if begin > at_us:
                new.append((at_us, begin))
            at_us = max(at_us, end)
            from_us = min(from_us, begin)
        if at_us < to_us:
            new.append((at_us, to_us))
        self._wanted = sorted([*rest, (from_us, max(at_us, to_us))])
        return new

    def look(
        self, from_us: int, to_us: int, have: Int64Array, complete: BoolArray, answers: Answers, silent: Int64Array
    ) -> None:
        """Take note of what the store says of `[from_us, to_us)`; what was known of it before is forgotten.

        `silent`: starts of intervals in which a live feed that was up brought nothing of the symbol.
        """
        starts = self.grid.starts(from_us, to_us)
        if not len(starts):
            return
        missing = ~np.isin(starts, have[complete]) & ~np.isin(starts, silent)
        again = np.zeros(len(starts), np.int64)
        if len(answers.verdict):
            # Also of `no_data`: a vendor that is late may have it by then.
            after = np.where(answers.again_us == 0, FOREVER_US, answers.again_us)
            # Why nobody could be asked is for people: keys, quotas and vendors change, and the desk knows how they are.
            after[np.isin(answers.verdict, (QUOTA, OUTAGE, NOT_OFFERED))] = 0
            answer = newest_answer(starts, answers)
            told = answer >= 0
            again[told] = after[answer[told]]
            missing &= again < FOREVER_US
        self._cut(from_us, to_us)
        again[~missing] = -1
        edges = np.flatnonzero(np.diff(again)) + 1
        first, last = np.append(0, edges), np.append(edges, len(starts)) - 1
        keep = again[first] >= 0
        first, last = first[keep], last[keep]
        self._add(starts[first], starts[last] + self.grid.length_us, again[first])

    def settle(self, from_us: int, to_us: int, keep: Int64Array | None = None) -> None:
        """Take `[from_us, to_us)` as answered, but for the starts `keep`."""
        at_us = from_us
        for start in sorted(keep.tolist()) if keep is not None else ():
            self._cut(at_us, start)
            at_us = max(at_us, start + self.grid.length_us)
        self._cut(at_us, to_us)

    def defer(self, from_us: int, to_us: int, again_us: int | None, now_us: int) -> None:
        """Ask for those of `[from_us, to_us)` that may be asked for now not before `again_us`.

        None: never, as far as is known.
        """
        for begin, end in self.ready(now_us, from_us, to_us):
            self._cut(begin, end)
            if again_us is not None:
                self._add(*(np.array([us], np.int64) for us in (begin, end, again_us)))

    def ready(self, now_us: int, from_us: int, to_us: int) -> list[tuple[int, int]]:
        """Return the runs of what may be asked for now and starts in `[from_us, to_us)`, oldest first.

        Each begins at a start that is missing and ends behind one.
        """
        mine = (self._again <= now_us) & (self._begin < to_us) & (self._end > from_us)
        found = []
        for begin, end in zip(self._begin[mine].tolist(), self._end[mine].tolist(), strict=True):
            if begin < from_us or end > to_us:
                starts = self.grid.starts(max(begin, from_us), min(end, to_us))
                if not len(starts):
                    continue
                begin, end = int(starts[0]), int(starts[-1]) + self.grid.length_us
            found.append((begin, end))
        return found

    def missing(self, from_us: int, to_us: int) -> Int64Array:
        """Return the missing starts of `[from_us, to_us)`, ascending, whenever they may be asked for."""
        mine = (self._begin < to_us) & (self._end > from_us)
        pieces = [
            self.grid.starts(max(begin, from_us), min(end, to_us))
            for begin, end in zip(self._begin[mine].tolist(), self._end[mine].tolist(), strict=True)
        ]
        result: Int64Array = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
        return result

    def counts(self, now_us: int, before_us: int) -> tuple[int, int]:
        """Return how many are missing of those that start before `before_us`, and of how many of them it is not yet
        time to ask.
        """
        found = self.grid.counts(self._begin, np.minimum(self._end, before_us))
        return int(found.sum()), int(found[self._again > now_us].sum())

    def due_us(self, now_us: int, before_us: int) -> int | None:
        """Return when the first of those that start before `before_us` may be asked for, None for none that waits."""
        waiting = self._again[(self._again > now_us) & (self._begin < before_us)]
        return int(waiting.min()) if len(waiting) else None

    def _cut(self, from_us: int, to_us: int) -> None:
        """Forget that `[from_us, to_us)` is missing."""
        if to_us <= from_us or not len(self._begin):
            return
        touched = (self._begin < to_us) & (self._end > from_us)
        if not touched.any():
            return
        begin, end, again = self._begin, self._end, self._again
        before, after = touched & (begin < from_us), touched & (end > to_us)
        rest = ~touched
        new_begin = np.concatenate([begin[rest], begin[before], np.full(after.sum(), to_us, np.int64)])
        new_end = np.concatenate([end[rest], np.full(before.sum(), from_us, np.int64), end[after]])
        self._put(new_begin, new_end, np.concatenate([again[rest], again[before], again[after]]))

    def _add(self, begin: Int64Array, end: Int64Array, again: Int64Array) -> None:
        """Take these runs as missing; none of them is yet."""
        self._put(*(np.concatenate(pair) for pair in (
            (self._begin, begin), (self._end, end), (self._again, again))))  # fmt: skip

    def _put(self, begin: Int64Array, end: Int64Array, again: Int64Array) -> None:
        """Keep these runs: in order, from start to start, without empty ones, and as one those that touch alike."""
        if len(begin):
            every = self.grid.starts(int(begin.min()), int(end.max()))
            low, high = np.searchsorted(every, begin), np.searchsorted(every, end)
            some = high > low
            low, high, again = low[some], high[some], again[some]
            order = np.argsort(low, kind="stable")
            low, high, again = low[order], high[order], again[order]
            apart = (low[1:] > high[:-1]) | (again[1:] != again[:-1])
            first, last = np.append(True, apart)[: len(low)], np.append(apart, True)[: len(low)]
            begin, end, again = every[low[first]], every[high[last] - 1] + self.grid.length_us, again[first]
        self._begin, self._end, self._again = begin, end, again
