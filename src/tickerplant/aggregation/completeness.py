"""Completeness: which bars are complete, and which expected symbols had no bar.

A bar from ticks is complete if its feed was up for the whole bar and the size of each trade is known. A roll-up is
complete if all its parts are complete and its feeds together were up for the whole bar. A vendor's bar is complete if
the vendor marks it complete. `cut_minutes` and `earlier_feeds` add the rules for files.

An interval of a feed is *declared over* when the feed's horizon reaches the interval's end. 1m and 5m intervals are
declared for live feeds only. The declaration contains the expected symbols and marks the symbols that have a bar. If a
later record shows that the feed was down, its 1m and 5m intervals are declared again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from tickerplant.aggregation.candidates import DOWN
from tickerplant.aggregation.feed_state import FeedState, covered, union
from tickerplant.aggregation.outcome import IntervalOver, Outcome
from tickerplant.aggregation.rows import (
    DAYS,
    FIVES,
    FROM_TICKS,
    MINUTES,
    Codes,
    Rows,
    numbers_in,
    pack,
    symbols_in,
)
from tickerplant.aggregation.state import State
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.times import MINUTE_US, NEVER_US, BoolArray, Int64Array

_MAX_DECLARED_MINUTES: Final = 1440
"""Maximum minutes of one declaration of a feed. If a watermark jumps by weeks, only the last day is declared."""


def minutes_complete(feed: FeedState, rows: Rows) -> BoolArray:
    """Return a mask of the rows of a feed's minutes that are complete."""
    starts = rows["start"]
    result: BoolArray = feed.covers(starts, starts + MINUTE_US) & (rows["flaws"] == 0)
    return result


def feeds_cover(rows: Rows, feeds: Mapping[int, FeedState], starts: Int64Array, ends: Int64Array) -> BoolArray:
    """Return a mask of roll-ups whose first and last feed together were up for all of `[start, end)`.

    Feeds whose numbers are between these two are ignored. A complete bar of three feeds may therefore count as
    incomplete. An incomplete bar never counts as complete.
    """
    result = np.zeros(len(rows), dtype=np.bool_)
    pairs = pack(rows["feed"].astype(np.int64), rows["last_feed"])
    for pair in np.unique(pairs):
        mask = pairs == pair
        one, other = feeds.get(int(numbers_in(pair))), feeds.get(int(symbols_in(pair)))
        coverage = union(one.coverage if one else [], other.coverage if other else [])
        result[mask] = covered(coverage, starts[mask], ends[mask])
    return result


def recompute_minutes(state: State, feed: FeedState, since_us: int) -> None:
    """Recompute the completeness of the feed's closed minutes that end after `since_us`."""
    minutes = state.candidates[MINUTES]
    for start in sorted(start for start in minutes.blocks if start + MINUTE_US > since_us):
        block = minutes.blocks[start]
        ours = (block["feed"] == feed.number) & (block["kind"] == FROM_TICKS)
        up = feed.covers(np.array([start]), np.array([start + MINUTE_US]))[0]
        complete = np.where(ours, up & (block["flaws"] == 0), block["complete"])
        if (complete != block["complete"]).any():
            minutes.reselect(start, state.ranking, DOWN, complete=complete)


def declare_intraday(state: State, outcome: Outcome, feed: FeedState, limit_us: int) -> None:
    """Declare over the feed's 1m and 5m intervals that end at or before both its horizon and `limit_us`.

    The caller calls this for live feeds only: a file of one year contains about 100,000 minutes.
    """
    end = min(limit_us, feed.horizon_us)
    end -= end % MINUTE_US
    if not feed.up or end <= feed.declared_until_us or not len(feed.expected):
        return
    starts = np.arange(max(feed.declared_until_us, end - _MAX_DECLARED_MINUTES * MINUTE_US), end, MINUTE_US)
    feed.declared_until_us = end
    _declare_minutes(state, outcome, feed, starts)


def declare_again(state: State, outcome: Outcome, feed: FeedState, since_us: int) -> None:
    """Declare again the intervals that end after `since_us`, because the feed was down during a part of them."""
    if feed.declared_until_us <= NEVER_US or not len(feed.expected):
        return
    first = max(since_us - since_us % M5.us, feed.declared_until_us - _MAX_DECLARED_MINUTES * MINUTE_US)
    _declare_minutes(state, outcome, feed, np.arange(first, feed.declared_until_us, MINUTE_US))


def declare_days(state: State, outcome: Outcome, feed: FeedState, closed: list[tuple[int, int]]) -> None:
    """Declare over the sessions with these keys (calendar, session)."""
    for session in sorted({session for _, session in closed}):
        calendars = [calendar for calendar, of_it in closed if of_it == session]
        expected = feed.expected[np.isin(state.calendar_of[feed.expected], calendars)]
        if len(expected):
            known = [state.calendars[number] for number in calendars]
            opens = min(int(one.open_of(np.array([session]))[0]) for one in known)
            closes = max(int(one.close_of(np.array([session]))[0]) for one in known)
            was_up = bool(feed.covers(np.array([opens]), np.array([closes]))[0])
            _declare(state, outcome, feed, DAYS, session, expected, was_up)


def _declare_minutes(state: State, outcome: Outcome, feed: FeedState, starts: Int64Array) -> None:
    """Declare over these minutes, and the 5m intervals that end with one of them.

    The expected symbols are the feed's symbols whose exchange has a session in that minute.
    """
    calendar_of = state.calendar_of[feed.expected]
    numbers = np.unique(calendar_of)
    in_session = np.array([state.calendars[n].session_of(starts) != NO_SESSION for n in numbers.tolist()])
    was_up = feed.covers(starts, starts + MINUTE_US)
    for start, inside, up in zip(starts.tolist(), in_session.T, was_up.tolist(), strict=True):
        if not inside.any():
            continue
        expected = feed.expected if inside.all() else feed.expected[np.isin(calendar_of, numbers[inside])]
        _declare(state, outcome, feed, MINUTES, start, expected, up)
        if (start + MINUTE_US) % M5.us == 0:
            five = M5.floor(start)
            up_for_five = feed.covers(np.array([five]), np.array([five + M5.us]))
            _declare(state, outcome, feed, FIVES, five, expected, bool(up_for_five[0]))


def _declare(
    state: State, outcome: Outcome, feed: FeedState, interval: int, start: int, expected: Codes, whole: bool
) -> None:
    block = state.candidates[interval].blocks.get(start)
    if block is None:
        emitted = np.zeros(len(expected), dtype=np.bool_)
    else:
        ours = (block["feed"] <= feed.number) & (feed.number <= block["last_feed"])
        emitted = np.isin(expected, block["symbol"][ours & ~block["withdrawn"]])
    outcome.over.append(IntervalOver(feed.name, interval, start, expected, emitted, whole))
