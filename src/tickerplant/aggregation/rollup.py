"""Roll-up: 1m to 5m to 1d. Decides when a coarser bar is due, and builds it from the winners of the finer interval.

A 5m bar is due when its feed's horizon reaches the end of the bar. A daily bar is due when the horizon reaches the end
of the session. An existing coarser bar is built again whenever one of its parts changes, as long as the feed retains
the bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from tickerplant.aggregation.candidates import PARTS
from tickerplant.aggregation.completeness import feeds_cover
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.rows import (
    CUT,
    DAYS,
    FIVES,
    FROM_PARTS,
    FROM_VENDOR,
    FROM_VENDOR_PARTS,
    MINUTES,
    ROW,
    Codes,
    Rows,
    empty_rows,
    join,
    minute_keys,
    pack,
    starts_in,
    symbols_in,
    take,
)
from tickerplant.aggregation.state import State
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION, end_of
from tickerplant.core.times import DAY_US, MINUTE_US, BoolArray, Int64Array

_DayKey = tuple[int, int]
"""Key of daily bars: (index of the calendar, session)."""


def close_coarser(
    state: State, feed: FeedState, limit_us: int, reason: int, redo_since_us: int | None = None
) -> list[_DayKey]:
    """Close the 5m and daily bars of `feed` that end at or before `limit_us`; return the keys of the daily bars.

    Bars that contain a pending minute stay open. An existing bar is built again at once when its parts change, even if
    another feed's horizon closed it. `redo_since_us`: time from which the coverage of the feed has changed; None if it
    has not changed. All roll-ups of the feed that end later are built again. The returned keys are sorted by session.
    """
    redo = _rollups_since(state, FIVES, feed, redo_since_us)
    starts, symbols = state.candidates[MINUTES].drain_new()
    if len(starts):
        retained = _retained(state, feed, starts, symbols)
        fives, symbols = M5.floor(starts[retained]), symbols[retained]
        feed.open_fives.update(np.unique(fives).tolist())
        known = state.candidates[FIVES].has_rollup(fives, symbols)
        redo = np.concatenate((redo, minute_keys(fives[known], symbols[known])))
    waiting = state.pending.fives() if state.pending else set()
    due = {five for five in feed.open_fives if five + M5.us <= limit_us and five not in waiting}
    feed.open_fives -= due
    _make_fives(state, feed, due, redo, reason)

    redo_days: dict[_DayKey, list[Codes]] = {}
    _mark_days(state, _rollups_since(state, DAYS, feed, redo_since_us), redo_days)
    starts, symbols = state.candidates[FIVES].drain_new()
    if len(starts):
        retained = _retained(state, feed, starts, symbols)
        _mark_days_changed(state, feed, starts[retained], symbols[retained], redo_days)
    sessions, symbols = state.auctions.drain_new()
    for session in np.unique(sessions).tolist():
        for calendar, mine in _by_calendar(state, symbols[sessions == session]):
            _mark_day_changed(state, feed, (calendar, session), mine, redo_days)
    closed = {
        key for key in feed.open_days if _day_end(state, *key) <= limit_us and not _contains_any(state, key, waiting)
    }
    feed.open_days -= closed
    for key in sorted(closed | redo_days.keys()):
        _make_day(state, feed, key, key in closed, redo_days.get(key, []), reason)
    state.candidates[DAYS].drain_new()
    return sorted(closed, key=lambda key: (key[1], key[0]))


def _day_end(state: State, calendar: int, session: int) -> int:
    return end_of(state.calendars[calendar], session, extended=state.rules.extended_hours)


def _contains_any(state: State, key: _DayKey, fives: set[int]) -> bool:
    """Return whether the session contains one of these 5m bars."""
    if not fives:
        return False
    calendar, session = key
    return bool((sessions_of_fives(state, calendar, np.array(sorted(fives))) == session).any())


def sessions_of(state: State, calendar: int, starts: Int64Array) -> Int64Array:
    """Return for each time the session whose daily bar includes it, or NO_SESSION: int64[n]."""
    known = state.calendars[calendar]
    sessions = known.session_of(starts)
    if state.rules.extended_hours:
        return sessions
    return np.where(known.is_regular(starts), sessions, NO_SESSION)


def sessions_of_fives(state: State, calendar: int, starts: Int64Array) -> Int64Array:
    """Return for each 5m bar the session that contains at least a part of it, or NO_SESSION: int64[n]."""
    first, last = sessions_of(state, calendar, starts), sessions_of(state, calendar, starts + M5.us - 1)
    return np.where(first == NO_SESSION, last, first)


def _retained(state: State, feed: FeedState, starts: Int64Array, symbols: Codes) -> BoolArray:
    """Return a mask of the bars that the feed or a rebuild (`held`) retains. The parts of other bars may be evicted."""
    if len(feed.retained_from) < len(state.calendars):
        return np.ones(len(starts), dtype=np.bool_)
    held_from, held_to = state.held or (0, 0)
    retained: BoolArray = np.array(feed.retained_from)[state.calendar_of[symbols]] <= starts
    return retained | ((held_from <= starts) & (starts < held_to))


def _rollups_since(state: State, interval: int, feed: FeedState, since_us: int | None) -> Int64Array:
    """Return the sorted keys of this feed's roll-ups that may end after `since_us`; no keys if `since_us` is None."""
    if since_us is None:
        return np.empty(0, dtype=np.int64)
    length = M5.us if interval == FIVES else 2 * DAY_US  # a session ends within two days of its date
    candidates = state.candidates[interval]
    rows = candidates.gather(sorted(start for start in candidates.blocks if start + length > since_us))
    ours = (rows["feed"] == feed.number) | (rows["last_feed"] == feed.number)
    ours &= rows["kind"] >= FROM_PARTS
    return minute_keys(rows["start"][ours], rows["symbol"][ours])


def _make_fives(state: State, feed: FeedState, due: Iterable[int], redo: Int64Array, reason: int) -> None:
    """Build the 5m bars `due` of a feed, and the 5m bars with the keys `redo`."""
    fives = sorted({*due, *starts_in(redo).tolist()})
    if not fives:
        return
    parts = state.candidates[MINUTES].gather(
        minute for five in fives for minute in range(five, five + M5.us, MINUTE_US)
    )
    if not len(parts):
        return
    starts = M5.floor(parts["start"])
    keys = minute_keys(starts, parts["symbol"])
    wanted = keys[_closed_by(state, feed, parts) & np.isin(starts, np.array(sorted(due), dtype=np.int64))]
    chosen = parts["winner"] & np.isin(keys, np.concatenate((wanted, redo)))
    if not chosen.any():
        return
    rows = roll_up(parts[chosen], starts[chosen], state.ranking.ranks(parts[chosen], MINUTES), PARTS)
    rows["complete"] &= feeds_cover(rows, state.feeds, rows["start"], rows["start"] + M5.us)
    rows["arrival"] = _arrival(parts)
    rows = take(rows, ~_is_fragment(rows, state.feeds, rows["start"], rows["start"] + M5.us))
    state.candidates[FIVES].merge(rows, state.ranking, reason)


def five_keys(starts: Int64Array, symbols: Codes) -> Int64Array:
    """Return one key for each (5m bar, symbol), ordered by start, then symbol: int64[n]."""
    return pack(starts // M5.us, symbols)


def _closed_by(state: State, feed: FeedState, parts: Rows) -> BoolArray:
    """Return a mask of the parts whose bar this feed's horizon closes.

    These are the parts of the feed and, for a live feed, also the parts of feeds that have ended or were dropped.
    """
    active = [other.number for other in state.feeds.values() if not other.ended and other is not feed]
    mine: BoolArray = (parts["feed"] == feed.number) | (parts["last_feed"] == feed.number)
    if not feed.live:
        return mine
    return mine | ~(np.isin(parts["feed"], active) | np.isin(parts["last_feed"], active))


def _arrival(parts: Rows) -> int:
    # Only the order among candidates matters. A roll-up exists from the arrival of its newest part.
    return int(parts["arrival"].max())


def _by_calendar(state: State, symbols: Codes) -> Iterable[tuple[int, Codes]]:
    calendars = state.calendar_of[symbols]
    return ((number, symbols[calendars == number]) for number in np.unique(calendars).tolist())


def _mark_days(state: State, keys: Int64Array, redo: dict[_DayKey, list[Codes]]) -> None:
    """Add the daily bars with these keys to `redo`."""
    sessions, symbols = starts_in(keys), symbols_in(keys)
    for session in np.unique(sessions).tolist():
        for calendar, mine in _by_calendar(state, symbols[sessions == session]):
            redo.setdefault((calendar, session), []).append(mine)


def _mark_days_changed(
    state: State, feed: FeedState, starts: Int64Array, symbols: Codes, redo: dict[_DayKey, list[Codes]]
) -> None:
    """Mark the daily bars that contain one of these 5m bars. The starts are sorted."""
    fives, place = np.unique(starts, return_inverse=True)
    calendars = state.calendar_of[symbols]
    for calendar in np.unique(calendars).tolist():
        sessions = sessions_of_fives(state, calendar, fives)[place]
        sessions[calendars != calendar] = NO_SESSION
        for session in np.unique(sessions).tolist():
            if session != NO_SESSION:
                _mark_day_changed(state, feed, (calendar, session), np.unique(symbols[sessions == session]), redo)


def _mark_day_changed(
    state: State, feed: FeedState, key: _DayKey, symbols: Codes, redo: dict[_DayKey, list[Codes]]
) -> None:
    feed.open_days.add(key)
    sessions = np.full(len(symbols), key[1])
    redo.setdefault(key, []).append(symbols[state.candidates[DAYS].has_rollup(sessions, symbols)])
    cached = state.day_cache.get(key[1])
    if cached is not None:
        known = symbols[symbols < len(cached[1])]
        cached[1][known] = False


def day_parts(state: State, calendar: int, session: int) -> Rows:
    """Return the parts of a calendar's daily bars of one session: candidates of 5m, then of auction trades.

    Candidates of 1m replace a 5m bar that is partly outside the session. With extended hours, the 5m bars already
    contain the auction trades.
    """
    known, sessions = state.calendars[calendar], np.array([session])
    begin, end = (int(bound[0]) for bound in known.bounds_of(sessions))
    starts = np.arange(M5.floor(begin), end, M5.us)
    starts = starts[sessions_of_fives(state, calendar, starts) == session]
    parts = state.candidates[FIVES].gather(starts.tolist())
    minutes = starts[:, None] + np.arange(0, M5.us, MINUTE_US)
    inside = (sessions_of(state, calendar, minutes.ravel()) == session).reshape(minutes.shape)
    if not inside.all():
        parts = _with_edge_minutes(state, parts, minutes[~inside.all(axis=1)], inside[~inside.all(axis=1)])
    auction = state.auctions.blocks.get(session)
    if auction is not None and not state.rules.extended_hours:
        # These auction trades are later than the close, so they follow all 5m bars of the session.
        auction = auction.copy()
        auction["start"] = end
        parts = join((parts, auction))
    return parts[state.calendar_of[parts["symbol"]] == calendar] if len(state.calendars) > 1 else parts


def _with_edge_minutes(state: State, parts: Rows, minutes: Int64Array, inside: BoolArray) -> Rows:
    """Replace each 5m bar that is partly outside the session by its minutes inside it; return all parts, by start.

    A 5m bar without retained minutes is not replaced.
    """
    edge = np.isin(parts["start"], minutes[:, 0])
    within = state.candidates[MINUTES].gather(minutes[inside].tolist())
    every = state.candidates[MINUTES].gather(minutes.ravel().tolist())
    known = np.isin(five_keys(parts["start"], parts["symbol"]), five_keys(every["start"], every["symbol"]))
    joined = join((parts[~(edge & known)], within))
    return joined[np.argsort(joined["start"], kind="stable")]


def reopen_days(state: State) -> None:
    """Recompute each feed's `open_days` under new rules: sessions that have parts but lack daily bars."""
    for feed in state.feeds.values():
        feed.open_days.clear()
    blocks = [(start, block, False) for start, block in state.candidates[FIVES].blocks.items()]
    blocks += [(session, block, True) for session, block in state.auctions.blocks.items()]
    for start, block, auction in blocks:
        for calendar in np.unique(state.calendar_of[block["symbol"]]).tolist():
            session = start if auction else int(sessions_of_fives(state, calendar, np.array([start]))[0])
            mine = block[state.calendar_of[block["symbol"]] == calendar]
            if session == NO_SESSION:
                continue
            if state.candidates[DAYS].has_rollup(np.full(len(mine), session), mine["symbol"]).all():
                continue
            feeds = {*mine["feed"].tolist(), *mine["last_feed"].tolist()}
            for feed in state.feeds.values():
                # Live feeds close the daily bars that ended feeds left open.
                if not feed.ended and (feed.number in feeds or feed.live):
                    feed.open_days.add((calendar, session))


def _make_day(state: State, feed: FeedState, key: _DayKey, closed: bool, redo: list[Codes], reason: int) -> None:
    if not closed and not any(len(symbols) for symbols in redo):
        return
    calendar, session = key
    parts = day_parts(state, calendar, session)
    if not len(parts):
        return
    wanted = [parts["symbol"][_closed_by(state, feed, parts)]] if closed else []
    chosen = parts["winner"] & np.isin(parts["symbol"], np.concatenate([*wanted, *redo]))
    if not chosen.any():
        return
    rows = sum_days(state, parts[chosen], session)
    sessions = np.full(len(rows), session)
    known = state.calendars[calendar]
    if state.rules.extended_hours:
        begins, ends = known.bounds_of(sessions)
    else:
        begins, ends = known.open_of(sessions), known.close_of(sessions)
    rows["complete"] &= feeds_cover(rows, state.feeds, begins, ends)
    rows = take(rows, ~_is_fragment(rows, state.feeds, begins, ends))
    state.candidates[DAYS].merge(rows, state.ranking, reason)


def sum_days(state: State, parts: Rows, session: int) -> Rows:
    """Return the daily rows rolled up from the parts of one session, sorted by symbol."""
    if not len(parts):
        return np.zeros(0, dtype=ROW)
    rows = roll_up(parts, np.full(len(parts), session), state.ranking.ranks(parts, FIVES), PARTS)
    rows["arrival"] = _arrival(parts)
    return rows


def roll_up(parts: Rows, starts: Int64Array, ranks: Int64Array, reason: int) -> Rows:
    """Return one row for each (start, symbol), sorted by start, then symbol. Parts may be in any order.

    `starts`: start of each part's bar. `ranks`: rank of each part in the order of sources. Volume, volume times price
    and trades are sums; a sum is unknown if the value of one part is unknown. The source is that of the worst-ranked
    part. A bar is withdrawn if all its parts are withdrawn, and complete if all its parts are complete. The caller also
    checks that the feeds were up between the parts.
    """
    order = np.lexsort((parts["start"], parts["symbol"], starts))
    parts, starts, ranks = parts[order], starts[order], ranks[order]
    symbols = parts["symbol"]
    new = (symbols[1:] != symbols[:-1]) | (starts[1:] != starts[:-1])
    first = np.concatenate(([0], np.flatnonzero(new) + 1))
    last = np.concatenate((first[1:], [len(parts)])) - 1
    rows = empty_rows(len(first))
    rows["start"], rows["symbol"] = starts[first], symbols[first]
    rows["reason"] = reason
    _roll_up_prices(rows, parts, first, last)
    rows["volume"] = np.add.reduceat(np.ascontiguousarray(parts["volume"]), first)
    rows["pv"] = np.add.reduceat(np.ascontiguousarray(parts["pv"]), first)
    trades = np.ascontiguousarray(parts["trades"])
    rows["trades"] = np.where(np.minimum.reduceat(trades, first) < 0, -1, np.add.reduceat(trades, first))
    rows["open_time"] = np.minimum.reduceat(parts["open_time"], first)
    rows["close_time"] = np.maximum.reduceat(parts["close_time"], first)
    rows["first_offset"] = np.minimum.reduceat(parts["first_offset"], first)
    rows["last_offset"] = np.maximum.reduceat(parts["last_offset"], first)
    rows["feed"] = np.minimum.reduceat(parts["feed"], first)
    rows["last_feed"] = np.maximum.reduceat(parts["last_feed"], first)
    rows["source"] = symbols_in(np.maximum.reduceat(pack(ranks, parts["source"]), first))
    rows["complete"] = np.logical_and.reduceat(parts["complete"], first)
    rows["withdrawn"] = np.logical_and.reduceat(parts["withdrawn"], first)
    rows["history"] = np.logical_or.reduceat(parts["history"], first)
    rows["flaws"] = np.bitwise_or.reduceat(parts["flaws"] & CUT, first)
    vendors = (parts["kind"] == FROM_VENDOR) | (parts["kind"] == FROM_VENDOR_PARTS)
    rows["kind"] = np.where(np.logical_and.reduceat(vendors, first), FROM_VENDOR_PARTS, FROM_PARTS)
    return rows


def _roll_up_prices(rows: Rows, parts: Rows, first: Int64Array, last: Int64Array) -> None:
    opens, closes = first, last
    without_price = np.isnan(parts["open"])
    if without_price.any():
        count = len(parts)
        at = np.arange(count)
        opens = np.minimum(np.minimum.reduceat(np.where(without_price, count, at), first), last)
        closes = np.maximum(np.maximum.reduceat(np.where(without_price, -1, at), first), first)
    rows["open"], rows["close"] = parts["open"][opens], parts["close"][closes]
    rows["high"] = np.fmax.reduceat(np.ascontiguousarray(parts["high"]), first)
    rows["low"] = np.fmin.reduceat(np.ascontiguousarray(parts["low"]), first)


def _is_fragment(rows: Rows, feeds: Mapping[int, FeedState], starts: Int64Array, ends: Int64Array) -> BoolArray:
    """Return a mask of roll-ups that must not be published because only some of their parts are known.

    Such a row is incomplete and rolled up from vendors' bars only. It is also history (the store may contain more
    parts), or its feeds cover no part of `[start, end)`.
    """
    fragment: BoolArray = (rows["kind"] == FROM_VENDOR_PARTS) & ~rows["complete"]
    for at in np.flatnonzero(fragment & ~rows["history"]).tolist():
        both = (feeds.get(int(rows[name][at])) for name in ("feed", "last_feed"))
        coverage = [each for feed in both if feed is not None for each in feed.coverage]
        fragment[at] = not any(begin < ends[at] and starts[at] < end for begin, end in coverage)
    return fragment
