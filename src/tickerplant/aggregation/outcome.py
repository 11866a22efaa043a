"""The result of one step of the engine: bars to publish, and entries for `market.status`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tickerplant.aggregation.rows import Codes, Rows
from tickerplant.core.times import BoolArray


@dataclass(frozen=True, slots=True)
class IntervalOver:
    """An interval that has ended for one feed: the expected symbols, and which of them have a bar."""

    feed: str
    interval: int
    start_us: int
    symbols: Codes
    emitted: BoolArray
    whole: bool = True
    """True if the feed was up for the whole interval. A symbol without a bar then had no trades."""


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """A change of one feed's state, or a count of input that the engine could not use."""

    feed: str
    state: str
    since_us: int
    reason: str = ""
    count: int = 0


@dataclass(slots=True)
class Outcome:
    """Bars and status entries that one step produces. Bars are grouped by the code of their interval."""

    closed: dict[int, list[Rows]] = field(default_factory=dict)
    forming: dict[int, Rows] = field(default_factory=dict)
    over: list[IntervalOver] = field(default_factory=list)
    statuses: list[FeedStatus] = field(default_factory=list)
    differences: dict[int, list[tuple[Rows, Rows]]] = field(default_factory=dict)
    """Published bars, and the differing bars of other sources, by interval code."""

    def unsupported(self, feed: str, since_us: int, reason: str, count: int) -> None:
        """Add a status entry with the count of input that the engine cannot use."""
        self.statuses.append(FeedStatus(feed, "unsupported", since_us, reason, count))
