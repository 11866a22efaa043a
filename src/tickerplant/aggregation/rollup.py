"""From closed minutes to five minutes to days: which coarser bars are due, and their making."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation import source_priority
from tickerplant.aggregation.candidates import PARTS
from tickerplant.aggregation.cascade import feeds_cover, only_parts, roll_up
from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.rows import DAYS, FIVES, FROM_PARTS, MINUTES, ROW, Rows, join, take
from tickerplant.aggregation.state import State
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.times import MINUTE_US, Int64Array

Symbols = npt.NDArray[np.int32]


def settle(
    state: State, feed: Feed, limit_us: int, reason: int, redo_since_us: int | None = None
) -> list[tuple[int, int]]:
    """Carry what has changed into coarser bars; close those of `feed` that end at or before `limit_us`.

    A coarser bar that was built already is built again at once, whosever horizon decided it. `redo_since_us`: build
    again all bars of the feed that end after it, for its coverage has changed. Returns the (calendar, session)
    that were closed for the feed, in the order of sessions.
    """
    redo = _built_since(state, FIVES, feed, redo_since_us)
    for start, symbols in state.finished[MINUTES].take_fresh().items():
        five = M5.floor(start)
        symbols = _remembered(state, feed, start, symbols)
        if len(symbols):
            feed.open_fives.add(five)
            redo.setdefault(five, []).append(symbols[state.finished[FIVES].built(five, symbols)])
    waiting = source_priority.undecided_fives(state) if state.holds else set()
    due = {five for five in feed.open_fives if five + M5.us <= limit_us and five not in waiting}
    feed.open_fives -= due
    _build_fives(state, feed, due, redo, reason)

    redo_days: dict[tuple[int, int], list[Symbols]] = {}
    for start, lists in _built_since(state, DAYS, feed, redo_since_us).items():
        _sort_by_calendar(state, start, np.concatenate(lists), redo_days)
    fresh = state.finished[FIVES].take_fresh()
    starts = np.array(list(fresh), dtype=np.int64)
    sessions = [five_belongs(state, calendar, starts).tolist() for calendar in range(len(state.calendars))]
    for at, (start, symbols) in enumerate(fresh.items()):
        there = [of_calendar[at] for of_calendar in sessions]
        _note_days(state, feed, there, _remembered(state, feed, start, symbols), redo_days)
    for session, symbols in state.auctions.take_fresh().items():
        _note_session(state, feed, session, symbols, redo_days)
    closed = {key for key in feed.open_days if session_end(state, *key) <= limit_us and not _waits(state, key, waiting)}
    feed.open_days -= closed
    for key in sorted(closed | redo_days.keys()):
        _build_day(state, feed, key, key in closed, redo_days.get(key, []), reason)
    state.finished[DAYS].take_fresh()
    return sorted(closed, key=lambda key: (key[1], key[0]))


def _waits(state: State, key: tuple[int, int], fives: set[int]) -> bool:
    """Return whether a session has one of these 5m bars."""
    if not fives:
        return False
    calendar, session = key
    return bool((five_belongs(state, calendar, np.array(sorted(fives))) == session).any())


def session_end(state: State, calendar: int, session: int) -> int:
    """Return when the daily bar of a session is over."""
    known, sessions = state.calendars[calendar], np.array([session])
    ends = known.bounds_of(sessions)[1] if state.rules.extended_hours else known.close_of(sessions)
    return int(ends[0])


def belongs(state: State, calendar: int, starts: Int64Array) -> Int64Array:
    """Return the session whose daily bar each bar or print belongs to, or NO_SESSION."""
    known = state.calendars[calendar]
    sessions = known.session_of(starts)
    if state.rules.extended_hours:
        return sessions
    return np.where(known.is_regular(starts), sessions, NO_SESSION)


def five_belongs(state: State, calendar: int, starts: Int64Array) -> Int64Array:
    """Return the session that each 5m bar has a part in, or NO_SESSION: hours may begin or end within one."""
    first, last = belongs(state, calendar, starts), belongs(state, calendar, starts + M5.us - 1)
    return np.where(first == NO_SESSION, last, first)


def _remembered(state: State, feed: Feed, start: int, symbols: Symbols) -> Symbols:
    """Leave out symbols for which a time is older than the feed's memory: the other parts of the bar are gone."""
    if len(feed.floors) < len(state.calendars):
        return symbols
    return symbols[np.array(feed.floors)[state.calendar_of[symbols]] <= start]


def _built_since(state: State, interval: int, feed: Feed, since_us: int | None) -> dict[int, list[Symbols]]:
    if since_us is None:
        return {}
    # A session ends less than two days after the midnight that names it.
    length = M5.us if interval == FIVES else 2 * 24 * 60 * MINUTE_US
    result = {}
    for start, block in state.finished[interval].blocks.items():
        if start + length > since_us:
            ours = (block["kind"] >= FROM_PARTS) & ((block["feed"] == feed.number) | (block["feed_hi"] == feed.number))
            result[start] = [block["symbol"][ours]]
    return result


def _build_fives(state: State, feed: Feed, due: Iterable[int], redo: dict[int, list[Symbols]], reason: int) -> None:
    fives = sorted({*due, *(five for five, lists in redo.items() if any(len(s) for s in lists))})
    if not fives:
        return
    parts = state.finished[MINUTES].gather(minute for five in fives for minute in range(five, five + M5.us, MINUTE_US))
    if not len(parts):
        return
    starts = M5.floor(parts["start"])
    keys = (starts // M5.us) << 32 | parts["symbol"]
    wanted = [keys[_closes(state, feed, parts) & np.isin(starts, np.array(sorted(due), dtype=np.int64))]]
    wanted += [(five // M5.us) << 32 | s.astype(np.int64) for five, lists in redo.items() for s in lists]
    chosen = parts["winner"] & np.isin(keys, np.concatenate(wanted))
    if not chosen.any():
        return
    rows = roll_up(parts[chosen], starts[chosen], state.ranking.places(parts[chosen], MINUTES), PARTS)
    rows["complete"] &= feeds_cover(rows, state.feeds, rows["start"], rows["start"] + M5.us)
    rows["arrival"] = _arrival(parts)
    rows = take(rows, ~only_parts(rows, state.feeds, rows["start"], rows["start"] + M5.us))
    state.finished[FIVES].merge(rows, state.ranking, reason)


def _closes(state: State, feed: Feed, parts: Rows) -> npt.NDArray[np.bool_]:
    """Return which parts' bars this feed's horizon closes: its own, and what ended feeds have left to it."""
    going_on = [other.number for other in state.feeds.values() if not other.ended and other is not feed]
    mine: npt.NDArray[np.bool_] = (parts["feed"] == feed.number) | (parts["feed_hi"] == feed.number)
    if not feed.live:
        return mine
    return mine | ~(np.isin(parts["feed"], going_on) | np.isin(parts["feed_hi"], going_on))


def _arrival(parts: Rows) -> int:
    # Only its order against other candidates matters; the newest part decides when the whole was first known.
    return int(parts["arrival"].max())


def _note_days(
    state: State, feed: Feed, sessions: list[int], symbols: Symbols, redo: dict[tuple[int, int], list[Symbols]]
) -> None:
    """Note what these symbols' bar changes; `sessions`: by calendar, that which the bar has a part in."""
    for calendar, session in enumerate(sessions):
        if session == NO_SESSION:
            continue
        mine = symbols[state.calendar_of[symbols] == calendar] if len(sessions) > 1 else symbols
        if len(mine):
            _note(state, feed, (calendar, session), mine, redo)


def _note_session(
    state: State, feed: Feed, session: int, symbols: Symbols, redo: dict[tuple[int, int], list[Symbols]]
) -> None:
    for calendar in np.unique(state.calendar_of[symbols]).tolist():
        _note(state, feed, (calendar, session), symbols[state.calendar_of[symbols] == calendar], redo)


def _note(
    state: State, feed: Feed, key: tuple[int, int], symbols: Symbols, redo: dict[tuple[int, int], list[Symbols]]
) -> None:
    feed.open_days.add(key)
    redo.setdefault(key, []).append(symbols[state.finished[DAYS].built(key[1], symbols)])
    cached = state.day_cache.get(key[1])
    if cached is not None:
        known = symbols[symbols < len(cached[1])]
        cached[1][known] = False


def _sort_by_calendar(state: State, session: int, symbols: Symbols, redo: dict[tuple[int, int], list[Symbols]]) -> None:
    for calendar in np.unique(state.calendar_of[symbols]).tolist():
        redo.setdefault((calendar, session), []).append(symbols[state.calendar_of[symbols] == calendar])


def day_parts(state: State, calendar: int, session: int) -> Rows:
    """Return the candidates that a calendar's daily bars of a session are made of: 5m bars, then auction prints."""
    known, sessions = state.calendars[calendar], np.array([session])
    begin, end = (int(bound[0]) for bound in known.bounds_of(sessions))
    starts = np.arange(M5.floor(begin), end, M5.us)
    starts = starts[five_belongs(state, calendar, starts) == session]
    parts = state.finished[FIVES].gather(starts.tolist())
    minutes = starts[:, None] + np.arange(0, M5.us, MINUTE_US)
    inside = (belongs(state, calendar, minutes.ravel()) == session).reshape(minutes.shape)
    if not inside.all():
        parts = _with_edges(state, parts, minutes[~inside.all(axis=1)], inside[~inside.all(axis=1)])
    auction = state.auctions.blocks.get(session)
    if auction is not None and not state.rules.extended_hours:
        # After all 5m bars of the session: an auction's prints come after the close.
        auction = auction.copy()
        auction["start"] = end
        parts = join((parts, auction))
    return parts[state.calendar_of[parts["symbol"]] == calendar] if len(state.calendars) > 1 else parts


def reopen_days(state: State) -> None:
    """Note anew, under new rules, which sessions each feed has parts of that have no daily bar yet."""
    for feed in state.feeds.values():
        feed.open_days.clear()
    blocks = [(start, block, False) for start, block in state.finished[FIVES].blocks.items()]
    blocks += [(session, block, True) for session, block in state.auctions.blocks.items()]
    for start, block, auction in blocks:
        for calendar in np.unique(state.calendar_of[block["symbol"]]).tolist():
            session = start if auction else int(five_belongs(state, calendar, np.array([start]))[0])
            mine = block[state.calendar_of[block["symbol"]] == calendar]
            if session == NO_SESSION or state.finished[DAYS].built(session, mine["symbol"]).all():
                continue
            feeds = {*mine["feed"].tolist(), *mine["feed_hi"].tolist()}
            for feed in state.feeds.values():
                # What ended feeds have left open is the live ones' to close.
                if not feed.ended and (feed.number in feeds or feed.live):
                    feed.open_days.add((calendar, session))


def _with_edges(state: State, parts: Rows, minutes: Int64Array, inside: npt.NDArray[np.bool_]) -> Rows:
    """Return the parts with those minutes that lie inside in place of 5m bars half outside, if there are any."""
    edge = np.isin(parts["start"], minutes[:, 0])
    within = state.finished[MINUTES].gather(minutes[inside].tolist())
    every = state.finished[MINUTES].gather(minutes.ravel().tolist())
    known = np.isin(
        parts["start"] // M5.us << 32 | parts["symbol"], M5.floor(every["start"]) // M5.us << 32 | every["symbol"]
    )
    joined = join((parts[~(edge & known)], within))
    return joined[np.argsort(joined["start"], kind="stable")]


def _build_day(state: State, feed: Feed, key: tuple[int, int], closed: bool, redo: list[Symbols], reason: int) -> None:
    if not closed and not any(len(symbols) for symbols in redo):
        return
    calendar, session = key
    parts = day_parts(state, calendar, session)
    if not len(parts):
        return
    wanted = [parts["symbol"][_closes(state, feed, parts)]] if closed else []
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
    rows = take(rows, ~only_parts(rows, state.feeds, begins, ends))
    state.finished[DAYS].merge(rows, state.ranking, reason)


def sum_days(state: State, parts: Rows, session: int) -> Rows:
    """Return daily rows, sorted by symbol, of parts of one session."""
    if not len(parts):
        return np.zeros(0, dtype=ROW)
    rows = roll_up(parts, np.full(len(parts), session), state.ranking.places(parts, FIVES), PARTS)
    rows["arrival"] = _arrival(parts)
    return rows
