"""Several live feeds on one symbol: a worse-placed one waits a little for a better one, and is silent about what forms.

A minute that a feed closes is *held* while a live feed whose source stands before its own in the order of sources, and
which is expected to bring the symbol, has not come to its end: until that feed does, goes down or ends, or the wait is
over in log time. Feeds whose sources stand equal wait for nobody.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.rows import MINUTES, Rows
from tickerplant.aggregation.state import State
from tickerplant.core.interval import M5
from tickerplant.core.times import MINUTE_US, BoolArray, Int64Array


class Hold(NamedTuple):
    """Until when the minute of a feed waits, in log time, and for which feeds."""

    deadline_us: int
    feeds: tuple[int, ...]


def hold(state: State, feed: Feed, rows: Rows) -> None:
    """Mark which of a feed's minutes (sorted by start) wait, and note for whom."""
    wait_us = state.rules.source_priority_wait_us
    others = [other for other in state.feeds.values() if other is not feed and _speaks(other)]
    if not wait_us or not others or not len(rows):
        return
    places = state.ranking.places(rows, MINUTES)
    for other in others:
        if int(rows["start"][-1]) + MINUTE_US <= other.horizon_us:
            continue
        better = is_better(state, other, rows, places) & (rows["start"] + MINUTE_US > other.horizon_us)
        rows["held"] |= better
        for start in np.unique(rows["start"][better]).tolist():
            former = state.holds.get((start, feed.number))
            deadline = state.last_sent_us + wait_us if former is None else former.deadline_us
            feeds = () if former is None else former.feeds
            state.holds[start, feed.number] = Hold(deadline, tuple(sorted({*feeds, other.number})))


def _speaks(feed: Feed) -> bool:
    return feed.live and feed.up and bool(feed.sources) and len(feed.expected) > 0


def is_better(state: State, other: Feed, rows: Rows, places: Int64Array) -> BoolArray:
    """Return for which rows the other feed is expected to bring the symbol and its source stands before the row's."""
    best = state.ranking.best_of_ticks(rows["symbol"], sorted(other.sources))
    result: BoolArray = (best < places) & np.isin(rows["symbol"], other.expected)
    return result


def over(state: State) -> list[tuple[int, int]]:
    """Return the (minute, feed) whose wait is over, in order, and forget them."""
    done = []
    for key, hold in sorted(state.holds.items()):
        waits = (state.feeds.get(number) for number in hold.feeds)
        end = key[0] + MINUTE_US
        if hold.deadline_us <= state.last_sent_us or not any(
            other is not None and other.up and other.horizon_us < end for other in waits
        ):
            done.append(key)
    for key in done:
        del state.holds[key]
    return done


def undecided_fives(state: State) -> set[int]:
    """Return the 5m bars that have a minute which waits."""
    return {M5.floor(start) for start, _ in state.holds}


def outspoken(state: State, feed: Feed, rows: Rows) -> BoolArray:
    """Return which forming rows another live feed speaks for: one better placed, or as good and known for longer."""
    result: BoolArray = np.zeros(len(rows), dtype=np.bool_)
    others = [other for other in state.feeds.values() if other is not feed and _speaks(other)]
    if not others:
        return result
    places = state.ranking.places(rows, MINUTES)
    for other in others:
        limits = places + 1 if other.number < feed.number else places
        result |= is_better(state, other, rows, limits)
    return result
