"""The state of one feed: watermark, horizon, coverage, expected symbols, and retention.

It also contains the feed's open windows, activity bars, and unmatched cancels and corrections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from tickerplant.aggregation.activity_bars import ActivityBars
from tickerplant.aggregation.rows import Codes
from tickerplant.aggregation.windows import Windows
from tickerplant.core.records import FILE_FEED
from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US, NEVER_US, BoolArray, Int64Array

Coverage = list[tuple[int, int]]
"""Ranges `[start, end)` in microseconds. The ranges of a live feed are in order, those of a backfill in any order."""

_MAX_COVERAGE_RANGES: Final = 512
"""Maximum coverage ranges per feed; earlier ranges are dropped. A range takes about 3 µs whenever a minute closes."""


class UnmatchedCorrections:
    """Cancels and corrections of a feed that arrived before their trade. Bounded by the feed's retained range.

    Three parallel arrays, sorted by key: `keys` (`rows.minute_keys`) and `times` of the named trades, and raw `offsets`
    of the cancels or corrections.
    """

    def __init__(
        self, keys: Int64Array | None = None, times: Int64Array | None = None, offsets: Int64Array | None = None
    ) -> None:
        nothing = np.empty(0, dtype=np.int64)
        self.keys = nothing if keys is None else keys
        self.times = nothing if times is None else times
        self.offsets = nothing if offsets is None else offsets

    def __len__(self) -> int:
        return len(self.keys)

    def awaits(self, keys: Int64Array, times: Int64Array) -> BoolArray:
        """Return a mask of the ticks that may be awaited trades: their keys and times are among the entries."""
        hit: BoolArray = np.isin(times, self.times)
        if hit.any():
            hit[hit] = np.isin(keys[hit], self.keys)
        return hit

    def first_offsets(self, keys: Int64Array) -> Int64Array:
        """Return for each key the raw offset of its first entry, -1 if it has no entry: int64[n]."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.offsets[at], -1)

    def add(self, keys: Int64Array, times: Int64Array, offset: int) -> None:
        """Add trades that the record at `offset` cancels or corrects, and that have not arrived."""
        if len(keys):
            every = np.concatenate((self.keys, keys))
            order = np.argsort(every, kind="stable")  # the first entry of a key remains the first
            self.keys, self.times = every[order], np.concatenate((self.times, times))[order]
            self.offsets = np.concatenate((self.offsets, np.full(len(keys), offset, dtype=np.int64)))[order]

    def keep(self, mask: BoolArray) -> None:
        """Drop the entries that the mask does not select."""
        self.keys, self.times, self.offsets = self.keys[mask], self.times[mask], self.offsets[mask]


@dataclass(slots=True)
class FeedState:
    """The state of one feed in one partition."""

    name: str
    number: int
    up: bool = False
    live: bool = False
    ended: bool = False
    watermark_us: int = NEVER_US
    newest_us: int = NEVER_US
    """Newest time among its ticks and bars. A daily bar counts with the end of its date."""
    last_sent_us: int = NEVER_US
    """Greatest `sent_at_us` of its records."""
    lateness_us: int = 0
    """Allowed lateness of its windows, by the rules at the last call of `advance`."""
    horizon_us: int = NEVER_US
    """Time up to which windows are closed. It never decreases within a round."""
    declared_until_us: int = NEVER_US
    """Time up to which a live feed's minutes have been declared over; for a file, the start of its first minute."""
    coverage: Coverage = field(default_factory=list)
    """Ranges in which the feed was up. The last range ends at FOREVER_US while the feed is up."""
    max_horizon_us: int = FOREVER_US
    """Upper bound of the horizon: in a rebuild, the horizon of an original feed that has not ended; else FOREVER_US."""
    firm: bool = False
    """True if the user states that the file covers its first and last interval, even if other files continue them."""
    coverage_fixed: bool = False
    """True if the coverage is final. A rebuild copies it from the original feed; replayed records do not change it."""
    expected: Codes = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """Symbols that the feed is subscribed to, sorted."""
    sources: set[int] = field(default_factory=set)
    """Sources of its ticks so far."""
    windows: Windows = field(default_factory=Windows)
    unmatched: UnmatchedCorrections = field(default_factory=UnmatchedCorrections)
    activity: ActivityBars = field(default_factory=ActivityBars)
    open_fives: set[int] = field(default_factory=set)
    """Starts of 5m bars that have parts of this feed and close with its horizon."""
    open_days: set[tuple[int, int]] = field(default_factory=set)
    """Pairs (calendar, session) of daily bars that have parts of this feed and close with its horizon."""
    retained_from: list[int] = field(default_factory=list)
    """Start of the feed's retained range, by calendar."""
    retained_until_us: int = NEVER_US
    """Time of the feed (`time_us`) at which `retained_from` is computed again."""

    @property
    def is_file(self) -> bool:
        """Return whether this is the feed of a file."""
        return self.name.startswith(FILE_FEED)

    @property
    def first_minute_us(self) -> int:
        """Return the start of the first minute of a file."""
        return self.declared_until_us  # a file declares no minutes

    @property
    def last_minutes_us(self) -> set[int]:
        """Return the possible starts of the last minute of a file that has ended; an empty set before the end.

        Two starts are possible: records of earlier versions do not contain the time of the file's last row.
        """
        times_us = (self.newest_us, self.watermark_us) if self.ended else ()
        return {time_us - time_us % MINUTE_US for time_us in times_us if time_us > NEVER_US}

    @property
    def time_us(self) -> int:
        """Return the progress of the feed in its own time: its watermark or its newest time, whichever is earlier."""
        return min(self.watermark_us, self.newest_us)

    def advance(self, watermark_us: int, lateness_us: int) -> None:
        """Advance the watermark and the horizon. Neither decreases."""
        self.watermark_us = max(self.watermark_us, watermark_us)
        self.lateness_us = lateness_us
        if self.watermark_us > NEVER_US:
            self.horizon_us = max(self.horizon_us, min(self.watermark_us - lateness_us, self.max_horizon_us))

    def start_new_round(self, start_us: int) -> None:
        """Restart an ended feed (a backfill) with a range that may be older than its previous range.

        The feed counts as up from `start_us`, in addition to its earlier coverage. Its retained range is computed
        from the new round only.
        """
        self.watermark_us = self.newest_us = self.horizon_us = NEVER_US
        self.declared_until_us = self.retained_until_us = NEVER_US
        self.retained_from, self.ended = [], False
        if not self.coverage_fixed:
            self.coverage.append((start_us, FOREVER_US))

    def mark_up(self, start_us: int, *, gap: bool, whole: bool) -> None:
        """Add coverage from `start_us`. The previous range continues if `gap` is false.

        `whole`: the first minute, 5m interval and session of the feed count as covered.
        """
        if self.coverage_fixed:
            return
        former = self.coverage[-1] if self.coverage else None
        if former is not None and not gap:
            self.coverage[-1] = (former[0], FOREVER_US)
            return
        if whole and start_us > NEVER_US:
            start_us = start_us - start_us % DAY_US - DAY_US  # its session begins on this UTC date or the date before
        if former is not None:
            start_us = max(start_us, former[1])
        self.coverage.append((start_us, FOREVER_US))

    def mark_down(self, since_us: int) -> None:
        """Remove coverage after `since_us`; a backfill changes only the range of its current round."""
        if self.coverage_fixed:
            return
        if not self.live and self.coverage:  # a round of a backfill changes its own range only
            start, end = self.coverage.pop()
            if start < since_us:
                self.coverage.append((start, min(end, since_us)))
        else:
            self.coverage = [(start, min(end, since_us)) for start, end in self.coverage if start < since_us]

    def close_coverage(self) -> None:
        """Close the open range of a feed that has ended, so that its last minute and session count as covered."""
        if not self.coverage_fixed and self.coverage and self.coverage[-1][1] == FOREVER_US:
            start = self.coverage[-1][0]
            self.coverage[-1] = (start, max(start, self.newest_us - self.newest_us % DAY_US + 2 * DAY_US))

    def covers(self, starts: Int64Array, ends: Int64Array) -> BoolArray:
        """Return a mask of the ranges from `starts` to `ends` in which the feed was up throughout."""
        return covered(self.coverage, starts, ends)

    def drop_coverage_before(self, time_us: int) -> None:
        """Drop coverage that ended before `time_us`, and the first ranges beyond the maximum; keep the last range."""
        kept = [each for each in self.coverage if each[1] >= time_us] or self.coverage[-1:]
        self.coverage = kept[-_MAX_COVERAGE_RANGES:]


def covered(coverage: Coverage, starts: Int64Array, ends: Int64Array) -> BoolArray:
    """Return a mask of the ranges `[start, end)` that one range of the coverage contains."""
    result = np.zeros(len(starts), dtype=np.bool_)
    for start, end in coverage:
        result |= (starts >= start) & (ends <= end)
    return result


def union(one: Coverage, other: Coverage) -> Coverage:
    """Return the union of two coverages, in order. Ranges that touch are merged."""
    merged: Coverage = []
    for start, end in sorted(one + other):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged
