"""What is to be computed again from stored history, and when it is time: marks, by (interval, symbol).

Whatever the engine cannot make right from memory marks a series from some bar's time on: bars older than memory, bars
marked `history` at or before what the symbol has (whether they count is decided by rank, in the store), a split, an
indicator that is new in the set. A mark is *due* when

1. no feed that brought history for it is still at it: its `End` has been passed on, or it has said nothing for
   `HISTORY_WAIT_US` of log time, so that a backfill is computed once; and
2. the state has come to where it was marked from (`known_to`).

It can be worked off once the store has applied the log up to the mark's `position`: then the whole stored history,
and behind it what the log has between the store's position and the state's, is the series as a batch would see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tickerplant.core.times import MINUTE_US

HISTORY_WAIT_US: Final = MINUTE_US
"""Longer than a vendor's quota lasts that counts by the minute, and its answer a little late is only computed twice."""


class Series(NamedTuple):
    """Which bars: the name of the interval, the symbol."""

    interval: str
    symbol: str


@dataclass(slots=True)
class Mark:
    """`from_us`: the first bar whose values are to be published again. `feeds`: who brought history for it."""

    from_us: int
    position: int
    feeds: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Missed:
    """A bar that the engine could not take: the series, its time, and whether it is marked `history`."""

    series: Series
    time_us: int
    history: bool


class Again:
    """The marks of one partition."""

    def __init__(self) -> None:
        self.marks: dict[Series, Mark] = {}
        self.feeds: dict[str, int] = {}
        """Feeds that bring history, by when in log time they last did."""

    def mark(self, series: Series, from_us: int, position: int, feed: str = "") -> None:
        """Mark a series from a bar on, because of the record before `position`; `feed` brings history."""
        mark = self.marks.setdefault(series, Mark(from_us, position))
        mark.from_us = min(mark.from_us, from_us)
        mark.position = max(mark.position, position)
        if feed:
            mark.feeds.add(feed)

    def missed(self, missed: Iterable[Missed], position: int, feed: str, clock_us: int) -> None:
        """Mark what the engine could not take of a record of `feed`."""
        for one in missed:
            self.mark(one.series, one.time_us, position, feed if one.history else "")
            if one.history:
                self.feeds[feed] = clock_us

    def ended(self, feed: str) -> None:
        """The feed brings no more."""
        if self.feeds.pop(feed, None) is not None:
            for mark in self.marks.values():
                mark.feeds.discard(feed)

    def due(self, clock_us: int) -> list[Series]:
        """Return what no feed holds any more, in the order in which it was marked."""
        if not self.marks:
            return []
        busy = {feed for feed, heard_us in self.feeds.items() if heard_us + HISTORY_WAIT_US >= clock_us}
        return [series for series, mark in self.marks.items() if not mark.feeds & busy]

    def done(self, series: Series) -> Mark:
        """Forget a mark and return it."""
        mark = self.marks.pop(series)
        held = {feed for other in self.marks.values() for feed in other.feeds} if mark.feeds else set()
        for feed in mark.feeds - held:
            self.feeds.pop(feed, None)
        return mark
