"""Retention: the engine retains bars of the last sessions of each feed, in the feed's own time, and evicts all others.

A feed retains bars from the start of its last `rules.revision_window_sessions` sessions, by each symbol's calendar, up
to its newest time. Bars that no feed retains are evicted. If a feed has several calendars, the earliest start among
them counts for eviction. Memory is thus bounded by feeds times sessions. If a replay of 2012 runs beside a live feed of
2026, the engine retains the last sessions of both feeds, not fourteen years.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.grouping import TickColumns
from tickerplant.aggregation.outcome import FeedStatus, Outcome
from tickerplant.aggregation.rows import DAYS, INTERVALS, Codes, starts_in, symbols_in
from tickerplant.aggregation.state import State
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, NEVER_US, BoolArray, Int64Array

GRACE_US: Final = HOUR_US
"""Time for which a session is retained after the next session has begun: a 24/7 market has no pause at midnight."""
COVERAGE_US: Final = 8 * DAY_US
"""Length of the time before a feed's retained range for which its coverage is retained. A rebuild may read raw records
of that age."""
_STEP_US: Final = 10 * MINUTE_US
"""Minimum feed time between two computations of a feed's retained range. The range changes when a session begins."""


def advance(state: State, feed: FeedState) -> None:
    """Advance the feed's retained range to its current time, and evict bars that no feed retains."""
    time_us = feed.time_us
    if time_us <= NEVER_US or (time_us < feed.retained_until_us and len(feed.retained_from) == len(state.calendars)):
        return
    # A bar that the allowed lateness keeps open needs its parts.
    at = np.array([time_us - max(GRACE_US, feed.lateness_us, state.rules.allowed_lateness_us)])
    sessions = state.rules.revision_window_sessions
    retained_from = [int(known.start_of_last_sessions(at, sessions)[0]) for known in state.calendars]
    feed.retained_until_us = time_us + _STEP_US
    if retained_from != feed.retained_from:
        feed.retained_from = retained_from
        feed.drop_coverage_before(min(retained_from, default=NEVER_US) - COVERAGE_US)
        keys = feed.unmatched.keys
        feed.unmatched.keep(starts_in(keys) >= retained_starts(state, feed, symbols_in(keys)))
        evict(state)


def evict(state: State) -> None:
    """Evict the bars that no feed retains."""
    ranges = [(min(feed.retained_from), feed.newest_us) for feed in state.feeds.values() if feed.retained_from]
    ranges += [state.held] if state.held else []
    unread = [feed for feed in state.feeds.values() if not feed.retained_from]
    if any(feed.newest_us > NEVER_US for feed in unread):
        return  # a feed has delivered ticks or bars, but its time is not known yet
    for interval, candidates in enumerate(state.candidates):
        # A bar is retained if a range contains its start.
        starts, symbols = candidates.remove(_outside(candidates.blocks, ranges))
        ends = starts + (1 if interval == DAYS else INTERVALS[interval].us)
        np.maximum.at(state.evicted_before, symbols, ends)
    state.auctions.remove(_outside(state.auctions.blocks, ranges))
    oldest = min((low for low, _ in ranges), default=NEVER_US)
    for session in [s for s in state.day_cache if s < oldest]:
        del state.day_cache[session]


def _outside(starts: Iterable[int], ranges: list[tuple[int, int]]) -> list[int]:
    """Return the starts that no range contains. The bounds of a range are inclusive."""
    every = np.fromiter(starts, dtype=np.int64)
    kept = np.zeros(len(every), dtype=np.bool_)
    for low, high in ranges:
        kept |= (every >= low) & (every <= high)
    result: list[int] = every[~kept].tolist()
    return result


def is_retained(state: State, starts: Int64Array) -> BoolArray:
    """Return a mask of the starts that are in the retained range of at least one feed."""
    result: BoolArray = np.zeros(len(starts), dtype=np.bool_)
    for feed in state.feeds.values():
        low = min(feed.retained_from, default=NEVER_US)
        result |= (starts >= low) & (starts <= feed.newest_us)
    return result


def drop_silent_feeds(state: State, sent_at_us: int) -> None:
    """Drop feeds that sent no record for three days of log time if they ended, or six days if they are down.

    Each session of the revision window adds one day. Six days span a long weekend: the completeness of a feed's
    bars must be known while they are retained. A feed with open windows is not dropped. A rebuild drops no feed.
    """
    if state.held:
        return
    since = sent_at_us - state.rules.revision_window_sessions * DAY_US
    dropped = [
        feed
        for feed in state.feeds.values()
        if not feed.up and feed.last_sent_us < since - (3 if feed.ended else 6) * DAY_US and not len(feed.windows)
    ]
    for feed in dropped:
        state.drop_feed(feed)
    if dropped:
        evict(state)


def drop_evicted(state: State, outcome: Outcome, feed: FeedState, ticks: TickColumns) -> TickColumns:
    """Return the ticks whose bars the feed still retains; report the count of the dropped ticks."""
    minutes = ticks.time - ticks.time % MINUTE_US
    evicted = minutes < retained_starts(state, feed, ticks.symbol)
    if not evicted.any():
        return ticks
    count, since = int(np.count_nonzero(evicted)), int(ticks.time[evicted].min())
    outcome.statuses.append(FeedStatus(feed.name, "late", since, "older than memory", count))
    return ticks.where(~evicted)


def retained_starts(state: State, feed: FeedState, symbols: Codes) -> Int64Array:
    """Return for each symbol the time from which the feed retains bars; NEVER_US if its range is not known yet."""
    if len(feed.retained_from) < len(state.calendars):
        return np.full(len(symbols), NEVER_US)
    return np.array(feed.retained_from, dtype=np.int64)[state.calendar_of[symbols]]


def is_history(state: State, starts: Int64Array, symbols: Codes) -> BoolArray:
    """Return a mask of the bars before the retained range of their symbol.

    Only the store contains the other candidates of such a bar.
    """
    newest = state.newest[symbols]
    floors = state.evicted_before[symbols].copy()
    for number, known in enumerate(state.calendars):
        mine = (state.calendar_of[symbols] == number) & (newest > NEVER_US)
        retained = known.start_of_last_sessions(
            newest[mine] - max(GRACE_US, state.rules.allowed_lateness_us), state.rules.revision_window_sessions
        )
        floors[mine] = np.maximum(floors[mine], retained)
    result: BoolArray = starts < floors
    return result
