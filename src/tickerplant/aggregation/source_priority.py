"""The order of sources: which source's bar is better, and which minutes wait for a better live feed.

A closed minute of a feed is *pending* while the horizon of a live feed of a better source is before the minute's end.
Only a feed that has delivered ticks and is expected to deliver the symbol counts. The wait ends when that feed's
horizon reaches the minute's end, or when the feed goes down or ends. The wait lasts at most
`rules.source_priority_wait_us` of log time. Feeds of equal rank do not wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.rows import FROM_VENDOR, FROM_VENDOR_PARTS, INTERVALS, MINUTES, Codes, Interner, Rows
from tickerplant.core.interval import M5
from tickerplant.core.rules import Rules
from tickerplant.core.sources import BARS, TICKS, SourceOrder
from tickerplant.core.times import MINUTE_US, BoolArray, Int64Array

_KINDS = (TICKS, BARS)

Feeds = Mapping[int, FeedState]


class SourceRanking:
    """Ranks of bars by the rules' order of sources, for whole columns. They depend on the rules and the names only.

    `_scopes[symbol, interval]`: index of the scope, which is the set of entries of the order that apply.
    `_ranks[scope, source, kind]`: rank of the source's bars of that kind in the scope.
    """

    def __init__(self, rules: Rules, symbols: Interner, sources: Interner) -> None:
        self._order = SourceOrder(rules.sources)
        self._symbols, self._sources = symbols, sources
        self._numbers: dict[tuple[int, ...], int] = {}
        self._scopes: Codes = np.empty((0, len(INTERVALS)), dtype=np.int32)
        self._ranks: npt.NDArray[np.int64] = np.empty((0, 0, len(_KINDS)), dtype=np.int64)

    def refresh(self) -> None:
        """Add the symbols and sources that are new since the last call to the tables."""
        added = self._symbols.texts[len(self._scopes) :]
        if added:
            scopes = [[self._number(self._order.scope(text, i.name)) for i in INTERVALS] for text in added]
            self._scopes = np.concatenate((self._scopes, np.array(scopes, dtype=np.int32)))
        if self._ranks.shape[:2] != (len(self._numbers), len(self._sources)):
            rank = self._order.rank
            self._ranks = np.array(
                [
                    [[rank(scope, text, kind) for kind in _KINDS] for text in self._sources.texts]
                    for scope in self._numbers
                ],
                dtype=np.int64,
            ).reshape(len(self._numbers), len(self._sources), len(_KINDS))

    def _number(self, scope: tuple[int, ...]) -> int:
        return self._numbers.setdefault(scope, len(self._numbers))

    def ranks(self, rows: Rows, interval: int) -> Int64Array:
        """Return the rank of each bar of an interval (code); 0 is the best: int64[n]."""
        kind = ((rows["kind"] == FROM_VENDOR) | (rows["kind"] == FROM_VENDOR_PARTS)).astype(np.int8)
        found: Int64Array = self._ranks[self._scopes[rows["symbol"], interval], rows["source"], kind]
        return found

    def best_of_ticks(self, symbols: Codes, sources: list[int]) -> Int64Array:
        """Return for each symbol the best rank of 1m bars from ticks of any of these sources: int64[n]."""
        found: Int64Array = self._ranks[self._scopes[symbols, 0]][:, sources, 0].min(axis=1)
        return found


class Wait(NamedTuple):
    """Deadline of a pending minute in log time, and the feeds that it waits for."""

    deadline_us: int
    feeds: tuple[int, ...]


class PendingMinutes:
    """Minutes that wait for a better feed. `waits`: the wait of each (minute, feed)."""

    def __init__(self) -> None:
        self.waits: dict[tuple[int, int], Wait] = {}

    def __len__(self) -> int:
        return len(self.waits)

    def add(self, feed: FeedState, rows: Rows, feeds: Feeds, ranking: SourceRanking, deadline_us: int) -> None:
        """Mark the minutes of a feed (sorted by start) that must wait, and record the feeds that they wait for.

        A minute that already waits keeps its deadline.
        """
        others = _competing(feed, feeds)
        if not others or not len(rows):
            return
        ranks = ranking.ranks(rows, MINUTES)
        for other in others:
            if int(rows["start"][-1]) + MINUTE_US <= other.horizon_us:
                continue
            better = _is_better(ranking, other, rows, ranks) & (rows["start"] + MINUTE_US > other.horizon_us)
            rows["pending"] |= better
            for start in np.unique(rows["start"][better]).tolist():
                former = self.waits.get((start, feed.number)) or Wait(deadline_us, ())
                self.waits[start, feed.number] = former._replace(feeds=tuple(sorted({*former.feeds, other.number})))

    def drain_expired(self, feeds: Feeds, now_us: int) -> list[tuple[int, int]]:
        """Remove the waits that are over at this log time; return their (minute, feed) in order."""
        expired = []
        for key, wait in sorted(self.waits.items()):
            others = (feeds.get(number) for number in wait.feeds)
            end = key[0] + MINUTE_US
            if wait.deadline_us <= now_us or not any(
                other is not None and other.up and other.horizon_us < end for other in others
            ):
                expired.append(key)
        for key in expired:
            del self.waits[key]
        return expired

    def drop_feed(self, number: int) -> None:
        """Remove the waits of one feed."""
        self.waits = {key: wait for key, wait in self.waits.items() if key[1] != number}

    def fives(self) -> set[int]:
        """Return the starts, in microseconds, of the 5m bars that contain a pending minute."""
        return {M5.floor(start) for start, _ in self.waits}


def outranked(feed: FeedState, rows: Rows, feeds: Feeds, ranking: SourceRanking) -> BoolArray:
    """Return a mask of the rows of a feed whose bars another live feed publishes.

    The other feed has a better rank, or an equal rank and a smaller number.
    """
    result: BoolArray = np.zeros(len(rows), dtype=np.bool_)
    others = _competing(feed, feeds)
    if not others:
        return result
    ranks = ranking.ranks(rows, MINUTES)
    for other in others:
        limits = ranks + 1 if other.number < feed.number else ranks
        result |= _is_better(ranking, other, rows, limits)
    return result


def _competing(feed: FeedState, feeds: Feeds) -> list[FeedState]:
    """Return the other live feeds that are up, have delivered ticks, and are expected to deliver symbols."""
    return [
        other
        for other in feeds.values()
        if other is not feed and other.live and other.up and other.sources and len(other.expected)
    ]


def _is_better(ranking: SourceRanking, other: FeedState, rows: Rows, ranks: Int64Array) -> BoolArray:
    """Return a mask of rows whose symbol the other feed is expected to deliver with a better rank."""
    best = ranking.best_of_ticks(rows["symbol"], sorted(other.sources))
    result: BoolArray = (best < ranks) & np.isin(rows["symbol"], other.expected)
    return result
