"""Forming bars: bars that changed since the last publication, in the state that they would have if they closed now."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.aggregation.candidates import PARTS, TICKS
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.rollup import day_parts, five_keys, roll_up, sessions_of, sessions_of_fives, sum_days
from tickerplant.aggregation.rows import DAYS, FIVES, MINUTES, Codes, Rows, join
from tickerplant.aggregation.source_priority import outranked
from tickerplant.aggregation.state import State
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.times import MINUTE_US

_NOTHING_CLOSED: Final = 255
"""Kind of a cached daily sum that has no closed part."""


def forming_bars(state: State, feed: FeedState) -> dict[int, Rows]:
    """Return the forming bars of a feed's windows that changed since the last call, by interval code.

    {} if no bar changed. A bar that another feed has closed or publishes (`outranked`) is omitted.
    """
    if not feed.windows.any_dirty:
        return {}
    dirty = feed.windows.drain_dirty()
    dirty["feed"] = dirty["last_feed"] = feed.number
    dirty["reason"] = TICKS
    dirty = dirty[~outranked(feed, dirty, state.feeds, state.ranking)]
    if not len(dirty):
        return {}
    symbols = np.unique(dirty["symbol"])
    fives = _fives(state, feed, symbols)
    touched = five_keys(M5.floor(dirty["start"]), dirty["symbol"])
    result = {
        MINUTES: _not_closed(state, MINUTES, dirty),
        FIVES: fives[np.isin(five_keys(fives["start"], fives["symbol"]), touched)],
        DAYS: _days(state, dirty, fives),
    }
    for rows in result.values():
        rows["complete"] = False
        rows["revision"] = 0
    return result


def _not_closed(state: State, interval: int, rows: Rows) -> Rows:
    keep = np.ones(len(rows), dtype=np.bool_)
    for start in np.unique(rows["start"]).tolist():
        here = np.flatnonzero(rows["start"] == start)
        keep[here] = ~state.candidates[interval].has(start, rows["symbol"][here])
    return rows[keep]


def _fives(state: State, feed: FeedState, symbols: Codes) -> Rows:
    """Return the forming bars of these symbols in the 5m intervals that contain a minute of this feed."""
    starts = sorted(feed.open_fives | {M5.floor(start) for start in feed.windows.starts()})
    minutes = [minute for five in starts for minute in range(five, five + M5.us, MINUTE_US)]
    closed = state.candidates[MINUTES].gather(minutes)
    closed = closed[closed["winner"] & np.isin(closed["symbol"], symbols)]
    windows = feed.windows.rows_of(minutes)
    windows = _not_closed(state, MINUTES, windows[np.isin(windows["symbol"], symbols)])
    windows["feed"] = windows["last_feed"] = feed.number
    parts = join((closed, windows))
    if not len(parts):
        return parts
    return _not_closed(
        state, FIVES, roll_up(parts, M5.floor(parts["start"]), state.ranking.ranks(parts, MINUTES), PARTS)
    )


def _days(state: State, dirty: Rows, fives: Rows) -> Rows:
    found = []
    for calendar in range(len(state.calendars)):
        mine = dirty[state.calendar_of[dirty["symbol"]] == calendar]
        sessions = sessions_of(state, calendar, mine["start"])
        for session in np.unique(sessions[sessions != NO_SESSION]).tolist():
            symbols = np.unique(mine["symbol"][sessions == session])
            symbols = symbols[~state.candidates[DAYS].has(session, symbols)]
            if len(symbols):
                found.append(_session_days(state, calendar, session, symbols, fives))
    return join(found)


def _session_days(state: State, calendar: int, session: int, symbols: Codes, fives: Rows) -> Rows:
    """Return forming daily bars of these symbols, from the cached sum of closed parts and the forming 5m bars."""
    sums, valid = state.day_rows(session)
    stale = symbols[~valid[symbols]]
    if len(stale):
        parts = day_parts(state, calendar, session)
        rows = sum_days(state, parts[parts["winner"] & np.isin(parts["symbol"], stale)], session)
        sums["trades"][stale] = 0
        sums["kind"][stale] = _NOTHING_CLOSED
        sums[rows["symbol"]] = rows
        valid[stale] = True
    closed = sums[symbols]
    closed = closed[closed["kind"] != _NOTHING_CLOSED]
    # The closed sum precedes the forming bars, although its start, the session's date, may be later than their starts.
    closed["start"] = np.iinfo(np.int64).min
    still = fives[np.isin(fives["symbol"], symbols)]
    still = still[sessions_of_fives(state, calendar, still["start"]) == session]
    return sum_days(state, join((closed, still)), session)
