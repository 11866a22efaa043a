"""The series that must be computed again from stored history, and when each is due.

The stage queues a series, with the time from which its values are wrong, after:

- a revision of a bar that can no longer be computed from the retained bars;
- a bar marked `history` at or before the newest bar of its symbol, because source priority is decided in the store;
- a split, a new indicator in the settings, or a new alert rule;
- a record of closed bars that the state already contains (`known_to`), or a start without the store.

A series is *due* if both conditions are true:

1. No feed that delivered history for the series is still active. A feed is inactive after its `End`, or after
   `HISTORY_WAIT_US` of log time without history. The series is thus computed only once for a backfill.
2. The state has reached the position up to which it was built from the store (`known_to`).

A due series can be computed as soon as the store has applied the log up to the `position` of its mark. The whole series
is then the stored history, overlaid with the records between the positions of store and state.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from tickerplant.analytics.realtime.series import Series
from tickerplant.core.times import MINUTE_US

HISTORY_WAIT_US: Final = MINUTE_US
"""Log time after which a feed without new history counts as inactive. The time exceeds the wait for a vendor's
per-minute quota. If an answer arrives later, the series is computed twice."""

DESCRIBED_SERIES: Final = 100
"""Maximum queued series that `describe` lists, so that the description of a long queue stays small."""


@dataclass(slots=True)
class RecomputeMark:
    """One queued series: values must be published again from `start_us` on.

    The store must have applied the log up to the offset `position`. `feeds` delivered history for the series.
    """

    start_us: int
    position: int
    feeds: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class RejectedBar:
    """A bar that the engine could not apply. `history` is the value of the bar's column `history`."""

    series: Series
    time_us: int
    history: bool


class QueuedSeries(msgspec.Struct):
    """The queued series of a partition as other processes read them."""

    count: int = 0
    series: list[tuple[str, str]] = []
    """(interval, symbol) of the first `DESCRIBED_SERIES` queued series."""

    def of(self, symbol: str | None) -> int:
        """Return the count of queued series of a symbol, or of all symbols if `symbol` is None.

        If the queue is longer than `series`, the unlisted series count for every symbol.
        """
        if symbol is None:
            return self.count
        return sum(name == symbol for _, name in self.series) + self.count - len(self.series)


class RecomputeQueue:
    """The queued series of one partition, in the order in which they were first added."""

    def __init__(self) -> None:
        self.marks: dict[Series, RecomputeMark] = {}
        self.feeds: dict[str, int] = {}
        """The active feeds that deliver history, with the log time of their newest history."""

    def add(self, series: Series, start_us: int, position: int, feed: str = "") -> None:
        """Queue a series from a bar's time on; a queued series keeps its earliest time and its greatest position.

        `position` is the offset after the record that caused the mark. `feed` delivered the history; "" for none.
        """
        mark = self.marks.setdefault(series, RecomputeMark(start_us, position))
        mark.start_us = min(mark.start_us, start_us)
        mark.position = max(mark.position, position)
        if feed:
            mark.feeds.add(feed)

    def add_rejected(self, rejected: Iterable[RejectedBar], position: int, feed: str, clock_us: int) -> None:
        """Queue the series of bars that the engine rejected from a record of `feed`."""
        for one in rejected:
            self.add(one.series, one.time_us, position, feed if one.history else "")
            if one.history:
                self.feeds[feed] = clock_us

    def end_feed(self, feed: str) -> None:
        """Mark a feed as inactive: it delivers no more history."""
        if self.feeds.pop(feed, None) is not None:
            for mark in self.marks.values():
                mark.feeds.discard(feed)

    def due(self, clock_us: int) -> list[Series]:
        """Return the series without an active feed at log time `clock_us`, in queue order."""
        if not self.marks:
            return []
        active = {feed for feed, newest_us in self.feeds.items() if newest_us + HISTORY_WAIT_US >= clock_us}
        return [series for series, mark in self.marks.items() if not mark.feeds & active]

    def describe(self) -> bytes:
        """Return the queue as `QueuedSeries` in JSON."""
        listed = [(one.interval, one.symbol) for one in itertools.islice(self.marks, DESCRIBED_SERIES)]
        return msgspec.json.encode(QueuedSeries(len(self.marks), listed))

    def remove(self, series: Series) -> RecomputeMark:
        """Remove a series and return its mark; also remove feeds that no other series refers to."""
        mark = self.marks.pop(series)
        used = {feed for other in self.marks.values() for feed in other.feeds} if mark.feeds else set()
        for feed in mark.feeds - used:
            self.feeds.pop(feed, None)
        return mark
