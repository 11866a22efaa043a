"""What is known of one feed: how far it has come, when it was up, what it brings, what of it is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.activity_bars import Activity
from tickerplant.aggregation.undone import Undone
from tickerplant.aggregation.windows import Windows
from tickerplant.core.times import DAY_US, FOREVER_US, NEVER_US, BoolArray, Int64Array

_MOST_PIECES = 512
"""Of coverage: each is looked at when minutes close, at some 3 µs."""


@dataclass(slots=True)
class Feed:
    """One feed in one partition."""

    name: str
    number: int
    up: bool = False
    live: bool = False
    ended: bool = False
    watermark_us: int = NEVER_US
    top_us: int = NEVER_US
    """The newest time among what it brought; a daily bar counts with its end."""
    heard_us: int = NEVER_US
    """`sent_at_us` of its last record."""
    lateness_us: int = 0
    """Of its windows, by the rules in force when its watermark last moved; so that `horizon_us` never goes back."""
    horizon_us: int = NEVER_US
    """What ends at or before this is closed."""
    over_us: int = NEVER_US
    """Up to here its minutes have been declared over."""
    coverage: list[tuple[int, int]] = field(default_factory=list)
    """When it was up, `[from, to)`, in order; the last is open (FOREVER_US) while it is up."""
    cap_us: int = FOREVER_US
    """Its horizon goes no further (in a rebuild: than that of the feed that is run again)."""
    settled: bool = False
    """Its coverage is known for all time (in a rebuild): what the log says of it on the way changes nothing."""
    expected: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    sources: set[int] = field(default_factory=set)
    """Those that its prints have named."""
    windows: Windows = field(default_factory=Windows)
    undone: Undone = field(default_factory=Undone)
    activity: Activity = field(default_factory=Activity)
    open_fives: set[int] = field(default_factory=set)
    """5m bars that have parts of this feed and wait for its horizon."""
    open_days: set[tuple[int, int]] = field(default_factory=set)
    """(calendar, session) likewise."""
    floors: list[int] = field(default_factory=list)
    """By calendar: where its memory begins."""
    floors_until: int = NEVER_US
    """Until its time passes this, `floors` hold."""

    @property
    def time_us(self) -> int:
        """How far it has come in its own time: its watermark, but not beyond what it brought (an end is FOREVER)."""
        return min(self.watermark_us, self.top_us)

    def advance(self, watermark_us: int, lateness_us: int) -> None:
        """Move the watermark; it never goes back."""
        self.watermark_us = max(self.watermark_us, watermark_us)
        self.lateness_us = lateness_us
        if self.watermark_us > NEVER_US:
            self.horizon_us = max(self.horizon_us, min(self.watermark_us - lateness_us, self.cap_us))

    def begin_again(self, from_us: int) -> None:
        """A feed that has ended comes once more, with a stretch of its own that may lie before what it brought.

        It counts as up from `from_us` on, beside when it was up before, and remembers by the times of now.
        """
        self.watermark_us = self.top_us = self.horizon_us = self.over_us = self.floors_until = NEVER_US
        self.floors, self.ended = [], False
        if not self.settled:
            self.coverage.append((from_us, FOREVER_US))

    def rise(self, from_us: int, *, hole: bool, whole: bool) -> None:
        """The feed is up from `from_us` on; without a hole what it was up for before goes on."""
        if self.settled:
            return
        former = self.coverage[-1] if self.coverage else None
        if former is not None and not hole:
            self.coverage[-1] = (former[0], FOREVER_US)
            return
        if whole and from_us > NEVER_US:
            # Its first minute, five minutes and session count as covered: two days hold any session.
            from_us = from_us - from_us % DAY_US - DAY_US
        if former is not None:
            from_us = max(from_us, former[1])
        self.coverage.append((from_us, FOREVER_US))

    def fall(self, since_us: int) -> None:
        """The feed has brought nothing since `since_us`."""
        if self.settled:
            return
        if not self.live and self.coverage:  # what it was up for in former rounds is not touched by the end of this one
            begin, end = self.coverage.pop()
            if begin < since_us:
                self.coverage.append((begin, min(end, since_us)))
        else:
            self.coverage = [(start, min(end, since_us)) for start, end in self.coverage if start < since_us]

    def seal(self) -> None:
        """The feed has ended whole: its last minute, five minutes and session count as covered."""
        if not self.settled and self.coverage and self.coverage[-1][1] == FOREVER_US:
            begin = self.coverage[-1][0]
            self.coverage[-1] = (begin, max(begin, self.top_us - self.top_us % DAY_US + 2 * DAY_US))

    def covers(self, starts: Int64Array, ends: Int64Array) -> BoolArray:
        """Return whether the feed was up for all of each `[start, end)`."""
        return covered(self.coverage, starts, ends)

    def forget_before(self, time_us: int) -> None:
        """Drop coverage that ended before `time_us`, and the oldest of too many pieces (of a feed that flaps)."""
        kept = [piece for piece in self.coverage if piece[1] >= time_us] or self.coverage[-1:]
        self.coverage = kept[-_MOST_PIECES:]


def covered(pieces: list[tuple[int, int]], starts: Int64Array, ends: Int64Array) -> BoolArray:
    """Return whether one of the disjoint pieces holds all of each `[start, end)`."""
    result = np.zeros(len(starts), dtype=np.bool_)
    for begin, end in pieces:
        result |= (starts >= begin) & (ends <= end)
    return result


def union(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the pieces that either holds, joined where they touch."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(one + other):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined
