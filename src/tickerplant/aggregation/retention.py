"""What is remembered: the last sessions of each feed in its own time, and nothing else.

A feed remembers from the beginning of the last `revision_window_sessions` sessions that have begun, by each symbol's
calendar, up to the newest time it brought. What no feed remembers is dropped, so memory is bounded by feeds times
sessions, and a replay of 2012 beside a live feed of 2026 keeps two sessions, not fourteen years.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.rows import DAYS, INTERVALS
from tickerplant.aggregation.state import State
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, NEVER_US, BoolArray, Int64Array

Numbers = npt.NDArray[np.int32]

GRACE_US: Final = HOUR_US
"""A session is remembered for this long after its successor has begun: at midnight a 24/7 market is in full trade."""
COVERAGE_US: Final = 8 * DAY_US
"""When a feed was up is remembered for this long before its bars are: as long as raw is kept, and may be rebuilt."""
_FLOOR_STEP_US: Final = 10 * MINUTE_US  # floors move once a session: looking every ten minutes of feed time is enough


def tidy(state: State, feed: Feed) -> None:
    """Move the feed's memory on with its time, and drop what no feed remembers any more."""
    time_us = feed.time_us
    if time_us <= NEVER_US or (time_us < feed.floors_until and len(feed.floors) == len(state.calendars)):
        return
    # What the lateness keeps open must not lose its parts.
    at = np.array([time_us - max(GRACE_US, feed.lateness_us, state.rules.allowed_lateness_us)])
    floors = [int(known.remembered_from(at, state.rules.revision_window_sessions)[0]) for known in state.calendars]
    feed.floors_until = time_us + _FLOOR_STEP_US
    if floors != feed.floors:
        feed.floors = floors
        feed.forget_before(min(floors, default=NEVER_US) - COVERAGE_US)
        symbols = (feed.undone.keys & 0xFFFFFFFF).astype(np.int32)
        feed.undone.keep((feed.undone.keys >> 32) * MINUTE_US >= floors_of(state, feed, symbols))
        evict(state)


def evict(state: State) -> None:
    """Drop the blocks that no feed remembers; note what was forgotten."""
    ranges = [(min(feed.floors), feed.top_us) for feed in state.feeds.values() if feed.floors]
    unread = [feed for feed in state.feeds.values() if not feed.floors]
    if any(feed.top_us > NEVER_US for feed in unread):
        return  # a feed has brought something, but its time is not known yet
    for interval, finished in enumerate(state.finished):
        # A bar counts by its start; what is older than a range's beginning is forgotten.
        gone = [start for start in finished.blocks if not any(low <= start <= high for low, high in ranges)]
        for start in gone:
            symbols = finished.blocks.pop(start)["symbol"]
            end = start + (1 if interval == DAYS else INTERVALS[interval].us)
            state.forgotten[symbols] = np.maximum(state.forgotten[symbols], end)
    for session in [s for s in state.auctions.blocks if not any(low <= s <= high for low, high in ranges)]:
        del state.auctions.blocks[session]
    oldest = min((low for low, _ in ranges), default=NEVER_US)
    for session in [s for s in state.day_cache if s < oldest]:
        del state.day_cache[session]


def is_remembered(state: State, starts: Int64Array) -> BoolArray:
    """Return whether bars that begin at each time are remembered of some feed."""
    result: BoolArray = np.zeros(len(starts), dtype=np.bool_)
    for feed in state.feeds.values():
        low = min(feed.floors, default=NEVER_US)
        result |= (starts >= low) & (starts <= feed.top_us)
    return result


def drop_silent(state: State, sent_at_us: int) -> None:
    """Forget feeds that ended, or fell silent, some days of log time ago: not over a long weekend, for while a feed's
    bars are remembered they must be known to be complete.
    """
    since = sent_at_us - state.rules.revision_window_sessions * DAY_US
    gone = [
        feed
        for feed in state.feeds.values()
        if not feed.up and feed.heard_us < since - (3 if feed.ended else 6) * DAY_US and not len(feed.windows)
    ]
    for feed in gone:
        state.drop_feed(feed)
    if gone:
        evict(state)


def floors_of(state: State, feed: Feed, symbols: Numbers) -> Int64Array:
    """Return for each symbol where the feed's memory begins."""
    if len(feed.floors) < len(state.calendars):
        return np.full(len(symbols), NEVER_US)
    return np.array(feed.floors, dtype=np.int64)[state.calendar_of[symbols]]


def is_history(state: State, starts: Int64Array, symbols: Numbers) -> BoolArray:
    """Return whether each bar is older than what is remembered of its symbol: then only the store can compare it."""
    newest = state.newest[symbols]
    floors = state.forgotten[symbols].copy()
    for number, known in enumerate(state.calendars):
        mine = (state.calendar_of[symbols] == number) & (newest > NEVER_US)
        remembered = known.remembered_from(
            newest[mine] - max(GRACE_US, state.rules.allowed_lateness_us), state.rules.revision_window_sessions
        )
        floors[mine] = np.maximum(floors[mine], remembered)
    result: BoolArray = starts < floors
    return result
