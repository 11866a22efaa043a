"""Forming bars: what the bars touched since the last publication would be if they closed now."""

from __future__ import annotations

import numpy as np

from tickerplant.aggregation import source_priority
from tickerplant.aggregation.candidates import PARTS, TICKS
from tickerplant.aggregation.cascade import roll_up
from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.rollup import Symbols, belongs, day_parts, five_belongs, sum_days
from tickerplant.aggregation.rows import DAYS, FIVES, MINUTES, Rows, join
from tickerplant.aggregation.state import State
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.times import MINUTE_US, Int64Array

_KEY_BITS = 32


def forming(state: State, feed: Feed) -> dict[int, Rows]:
    """Return the forming bars of a feed's touched windows by interval code; they count as untouched after that.

    A bar that is closed already (by another feed, say) is left out, and so is what a better feed speaks for.
    """
    if not feed.windows.any_dirty:
        return {}
    dirty = feed.windows.dirty_rows()
    dirty["feed"] = dirty["feed_hi"] = feed.number
    dirty["reason"] = TICKS
    dirty = dirty[~source_priority.outspoken(state, feed, dirty)]
    if not len(dirty):
        return {}
    symbols = np.unique(dirty["symbol"])
    fives = _fives(state, feed, symbols)
    touched = _keys(M5.floor(dirty["start"]), dirty["symbol"])
    result = {
        MINUTES: _not_closed(state, MINUTES, dirty),
        FIVES: fives[np.isin(_keys(fives["start"], fives["symbol"]), touched)],
        DAYS: _days(state, dirty, fives),
    }
    for rows in result.values():
        rows["complete"] = False
        rows["revision"] = 0
    return result


def _keys(starts: Int64Array, symbols: Symbols) -> Int64Array:
    keys: Int64Array = (starts // M5.us) << _KEY_BITS | symbols
    return keys


def _not_closed(state: State, interval: int, rows: Rows) -> Rows:
    keep = np.ones(len(rows), dtype=np.bool_)
    for start in np.unique(rows["start"]).tolist():
        here = np.flatnonzero(rows["start"] == start)
        keep[here] = ~state.finished[interval].has(start, rows["symbol"][here])
    return rows[keep]


def _fives(state: State, feed: Feed, symbols: Symbols) -> Rows:
    """Return the 5m bars of these symbols that are not closed and have any part of this feed, open or closed."""
    starts = sorted(feed.open_fives | {M5.floor(start) for start in feed.windows.starts()})
    minutes = [minute for five in starts for minute in range(five, five + M5.us, MINUTE_US)]
    closed = state.finished[MINUTES].gather(minutes)
    closed = closed[closed["winner"] & np.isin(closed["symbol"], symbols)]
    still = feed.windows.rows_of(minutes)
    still = _not_closed(state, MINUTES, still[np.isin(still["symbol"], symbols)])
    still["feed"] = still["feed_hi"] = feed.number
    parts = join((closed, still))
    if not len(parts):
        return parts
    return _not_closed(
        state, FIVES, roll_up(parts, M5.floor(parts["start"]), state.ranking.places(parts, MINUTES), PARTS)
    )


def _days(state: State, dirty: Rows, fives: Rows) -> Rows:
    found = []
    for calendar in range(len(state.calendars)):
        mine = dirty[state.calendar_of[dirty["symbol"]] == calendar]
        sessions = belongs(state, calendar, mine["start"])
        for session in np.unique(sessions[sessions != NO_SESSION]).tolist():
            symbols = np.unique(mine["symbol"][sessions == session])
            symbols = symbols[~state.finished[DAYS].has(session, symbols)]
            if len(symbols):
                found.append(_session_days(state, calendar, session, symbols, fives))
    return join(found)


def _session_days(state: State, calendar: int, session: int, symbols: Symbols, fives: Rows) -> Rows:
    """Return daily rows of these symbols: the closed part, summed once a change, and the forming 5m bars."""
    sums, holds = state.day_rows(session)
    stale = symbols[~holds[symbols]]
    if len(stale):
        parts = day_parts(state, calendar, session)
        rows = sum_days(state, parts[parts["winner"] & np.isin(parts["symbol"], stale)], session)
        sums["trades"][stale] = 0
        sums["kind"][stale] = _NOTHING_CLOSED
        sums[rows["symbol"]] = rows
        holds[stale] = True
    closed = sums[symbols]
    closed = closed[closed["kind"] != _NOTHING_CLOSED]
    # The closed part comes before the forming ones; its own start is the session's date, which may not.
    closed["start"] = np.iinfo(np.int64).min
    still = fives[np.isin(fives["symbol"], symbols)]
    still = still[five_belongs(state, calendar, still["start"]) == session]
    return sum_days(state, join((closed, still)), session)


_NOTHING_CLOSED = 255
