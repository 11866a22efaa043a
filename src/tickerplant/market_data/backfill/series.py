"""What is missing of each symbol and interval: expected by the calendar, less what is stored or is known not to be.

Pure. A series holds the starts of its missing bars alone, with the time from which a vendor may be asked for each; what
is there costs no memory, however long the history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Series:
    """One symbol's bars of one interval. `missing`: starts, ascending; `again`: from when each may be asked for."""

    symbol: str
    interval: str
    grid: Grid
    from_us: int
    to_us: int
    """Up to here (and from `from_us`) it is known what is missing."""
    missing: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    again: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))

    def look(
        self, from_us: int, to_us: int, have: Int64Array, complete: BoolArray, answers: Answers, silent: Int64Array
    ) -> None:
        """Take note of what the store says of `[from_us, to_us)`; what was known of it before is forgotten.

        `silent`: starts of intervals in which a live feed that was up brought nothing of the symbol.
        """
        starts = self.grid.starts(from_us, to_us)
        starts = starts[~np.isin(starts, have[complete]) & ~np.isin(starts, silent)]
        again = np.zeros(len(starts), np.int64)
        answer = newest_answer(starts, answers)
        if len(answers.verdict) and len(starts):
            # Also of `no_data`: a vendor that is late may have it by then.
            after = np.where(answers.again_us == 0, FOREVER_US, answers.again_us)
            # Why nobody could be asked is for people: keys, quotas and vendors change, and the desk knows how they are.
            after[np.isin(answers.verdict, (QUOTA, OUTAGE, NOT_OFFERED))] = 0
            told = answer >= 0
            again[told] = after[answer[told]]
            keep = again < FOREVER_US
            starts, again = starts[keep], again[keep]
        outside = (self.missing < from_us) | (self.missing >= to_us)
        missing = np.concatenate([self.missing[outside], starts])
        order = np.argsort(missing, kind="stable")
        self.missing = missing[order]
        self.again = np.concatenate([self.again[outside], again])[order]

    def settle(self, from_us: int, to_us: int, keep: Int64Array | None = None) -> None:
        """Take `[from_us, to_us)` as answered, but for the starts `keep`."""
        gone = (self.missing >= from_us) & (self.missing < to_us)
        if keep is not None and len(keep):
            gone &= ~np.isin(self.missing, keep)
        self.missing, self.again = self.missing[~gone], self.again[~gone]

    def defer(self, starts: Int64Array, again_us: int | None) -> None:
        """Ask for these not before `again_us`; None: never, as far as is known."""
        if again_us is None:
            self.settle(int(starts[0]), int(starts[-1]) + 1, self.missing[~np.isin(self.missing, starts)])
        else:
            self.again[np.isin(self.missing, starts)] = again_us

    def ready(self, now_us: int, before_us: int) -> Int64Array:
        """Return what may be asked for now, of the bars that start before `before_us`."""
        result: Int64Array = self.missing[(self.again <= now_us) & (self.missing < before_us)]
        return result

    def later(self, now_us: int, before_us: int) -> Int64Array:
        """Return the times from which the others may be asked for."""
        result: Int64Array = self.again[(self.again > now_us) & (self.missing < before_us)]
        return result

    def runs(self, starts: Int64Array) -> Iterator[tuple[int, int]]:
        """Yield `[from, to)` of each run of these starts between which the grid has no other one."""
        if not len(starts):
            return
        every = self.grid.starts(int(starts[0]), int(starts[-1]) + 1)
        at = np.searchsorted(every, starts)
        cuts = np.flatnonzero(np.diff(at) != 1) + 1
        for piece in np.split(starts, cuts):
            yield int(piece[0]), int(piece[-1]) + self.grid.length_us
