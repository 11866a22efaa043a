"""Recomputes the bars that contain cancelled or corrected trades, from the log.

A closed bar and an open window do not store their ticks. They store the range of raw offsets that contains these ticks.
The ranges of all minutes that one record changes are read together. A second read follows if closing auction trades
change. Each bar is recomputed from its remaining trades. A cancel or correction that arrives before its trade is stored
as unmatched. When a tick of the same symbol and time arrives, its minute is recomputed. A trade, its correction and its
cancel may therefore arrive in any order.

A trade of a feed is identified by symbol, `time` and `trade_id`, and by its exchange if the tick has one. A cancel wins
over every correction. The last correction to arrive replaces earlier corrections. A correction changes price and size
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.aggregation import retention
from tickerplant.aggregation.candidates import AUCTION, CANCEL, CORRECTION, LATE, TICKS
from tickerplant.aggregation.decode import check, read_ticks
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.grouping import TickColumns, group_ticks
from tickerplant.aggregation.outcome import Outcome
from tickerplant.aggregation.rows import (
    MINUTES,
    Codes,
    Rows,
    emptied,
    join,
    minute_keys,
    starts_in,
    symbols_in,
    take,
)
from tickerplant.aggregation.state import State
from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.flags import TickFlag
from tickerplant.core.reasons import NO_PRINT
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.streams import History
from tickerplant.core.times import MINUTE_US, BoolArray, Int64Array

CORRECTIVE = TickFlag.CANCEL | TickFlag.CORRECTION
"""Flags of ticks that are a cancel or a correction of a trade, not a trade."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """Closed minutes to replace, by reason, and the reason for changes of coarser bars."""

    reason: int
    closed: list[tuple[int, Rows]]


@dataclass(frozen=True, slots=True)
class _Recomputed:
    """Recomputed rows, which replace the rows in memory.

    `reasons`: the reason for the change of each minute. `unmatched`: count of cancels and corrections whose trade has
    not arrived. `lost`: count of bars left unchanged, because the log no longer contains their ticks.
    """

    minutes: Rows
    reasons: npt.NDArray[np.int8]
    auctions: Rows
    unmatched: int
    lost: int


@dataclass(slots=True)
class _ReadTicks:
    """Ticks read from the log, in the order of arrival, and the raw offset of each."""

    parts: list[TickColumns] = field(default_factory=list)
    offsets: list[Int64Array] = field(default_factory=list)

    def add(self, ticks: TickColumns, offset: int) -> None:
        self.parts.append(ticks)
        self.offsets.append(np.full(len(ticks), offset, dtype=np.int64))

    def joined(self) -> tuple[TickColumns, Int64Array]:
        names = ("time", "symbol", "price", "size", "source", "flags")
        columns = {name: np.concatenate([getattr(part, name) for part in self.parts]) for name in names}
        ids = pa.concat_arrays([part.ids for part in self.parts])
        return TickColumns(**columns, ids=ids), np.concatenate(self.offsets)


def affected_ticks(feed: FeedState, ticks: TickColumns) -> BoolArray | None:
    """Return a mask of the ticks whose minute must be recomputed; None if there are none.

    A minute must be recomputed if the batch contains a cancel or correction in it, or the possible trade of an
    unmatched cancel or correction.
    """
    corrective = (ticks.flags & CORRECTIVE) != 0
    if not len(feed.unmatched) and not corrective.any():
        return None
    keys = _keys(ticks)
    affected: BoolArray = np.isin(keys, keys[corrective | feed.unmatched.awaits(keys, ticks.time)])
    return affected if affected.any() else None


def apply_corrections(
    state: State, outcome: Outcome, feed: FeedState, ticks: TickColumns, offset: int, version: int, history: History
) -> Corrected:
    """Recompute the minutes of these ticks, which are from one record. Replace open windows and auction rows.

    Return the recomputed closed minutes; the caller replaces the candidates with them.
    """
    ticks = retention.drop_evicted(state, outcome, feed, ticks)
    if not len(ticks):
        return Corrected(LATE, [])
    again = _recompute(state, feed, ticks, offset, version, history)
    reports = (  # `market.status` stores these texts, and a replay must give the same bytes
        (NO_PRINT, again.unmatched),
        ("the log no longer has the prints of a bar to correct", again.lost),
    )
    for text, count in reports:
        if count:
            outcome.unsupported(feed.name, feed.watermark_us, text, count)
    rows, horizon = again.minutes, feed.horizon_us - feed.horizon_us % MINUTE_US
    closed = rows["start"] < horizon
    for start in np.unique(rows["start"]).tolist():
        here = rows["start"] == start
        symbols = rows["symbol"][here]
        feed.windows.drop(start, symbols)
        # If the feed went down within the minute, the first part is closed: the new row replaces the whole minute.
        done = state.candidates[MINUTES].of_feed(start, symbols, feed.number)["symbol"]
        closed[here] |= np.isin(symbols, done)
    if not closed.all():
        window = take(rows, ~closed)
        window["reason"] = TICKS
        feed.windows.merge(window, len(state.symbols))
    by_reason = []
    for reason in np.unique(again.reasons[closed]).tolist():
        some = take(rows, closed & (again.reasons == reason))
        some["reason"] = reason
        by_reason.append((reason, some))
    if len(again.auctions):
        again.auctions["reason"] = AUCTION
        state.auctions.merge(again.auctions, state.ranking, AUCTION, add=False)
    flags = int(np.bitwise_or.reduce(ticks.flags))
    reason = CANCEL if flags & TickFlag.CANCEL else CORRECTION if flags & TickFlag.CORRECTION else LATE
    return Corrected(reason, by_reason)


def _recompute(
    state: State, feed: FeedState, ticks: TickColumns, offset: int, version: int, history: History
) -> _Recomputed:
    """Recompute the minutes of the affected ticks of the record at `offset`.

    Only `feed.unmatched` changes: the cancels and corrections whose trade has not arrived are added.
    """
    keys = _keys(ticks)
    affected = np.unique(keys)
    first_offsets = feed.unmatched.first_offsets(affected)
    present = _present_rows(state, feed, affected)
    ranges = [*_offset_ranges(present), *((first, offset) for first in first_offsets[first_offsets >= 0].tolist())]
    found = _ReadTicks()
    _read(found, state, feed, ranges, history, lambda read: np.isin(_keys(read), affected))
    found.add(ticks, offset)
    every, offsets = found.joined()
    kept, unmatched = _apply(every, offsets == offset)
    result, lost = _regroup(every, offsets, kept, _keys, present)
    _stamp(result, feed, offset, version)
    feed.unmatched.add(_keys(every)[unmatched], every.time[unmatched], offset)
    auctions = _recompute_auctions(state, feed, ticks, every, offset, version, history)
    return _Recomputed(result, _reasons(result, ticks, keys), auctions, int(np.count_nonzero(unmatched)), lost)


def _keys(ticks: TickColumns) -> Int64Array:
    return minute_keys(ticks.time - ticks.time % MINUTE_US, ticks.symbol)


def _present_rows(state: State, feed: FeedState, keys: Int64Array) -> Rows:
    """Return the feed's open and closed rows of these minutes. A minute in which the feed went down may have both."""
    found = []
    minutes = starts_in(keys)
    for start in np.unique(minutes).tolist():
        symbols = symbols_in(keys[minutes == start])
        found.append(state.candidates[MINUTES].of_feed(start, symbols, feed.number))
        found.append(feed.windows.minute_rows(start, symbols))
    return join(found)


def _offset_ranges(rows: Rows) -> Iterable[tuple[int, int]]:
    return zip(rows["first_offset"].tolist(), (rows["last_offset"] + 1).tolist(), strict=True)


def _read(
    into: _ReadTicks, state: State, feed: FeedState, ranges: Sequence[tuple[int, int]], history: History,
    wanted: Callable[[TickColumns], BoolArray],
) -> None:  # fmt: skip
    """Add the ticks of the feed that `wanted` selects in these offset ranges. Each offset is read at most once."""
    read_to = -1
    for begin, end in sorted(ranges):
        for consumed in history(max(begin, read_to), end) if end > read_to else ():
            try:
                record = records.decode(consumed.value)
                if not isinstance(record.header, records.Ticks) or record.header.feed != feed.name:
                    continue
                check(record.batch)
                ticks, _ = read_ticks(record.batch, state.symbols, state.sources, f"{feed.name} again")
            except UnreadableRecord:
                continue  # the record became a dead letter when it arrived
            mask = wanted(ticks)
            if mask.any():
                into.add(ticks.where(mask), consumed.offset)
        read_to = max(read_to, end)


def _apply(ticks: TickColumns, fresh: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Correct the trades in place.

    `fresh`: mask of the ticks of the record being applied. Return a mask of the remaining trades, and a mask of that
    record's cancels and corrections without a trade.
    """
    corrective = (ticks.flags & CORRECTIVE) != 0
    groups = _groups(ticks)
    named = groups >= 0
    cancels = ((ticks.flags & TickFlag.CANCEL) != 0) & named
    corrections = corrective & ~cancels & named
    kept = ~corrective & ~(named & np.isin(groups, groups[cancels]))
    if corrections.any():
        at = np.flatnonzero(corrections)[::-1]
        which, last = np.unique(groups[at], return_index=True)
        place = np.minimum(np.searchsorted(which, groups), len(which) - 1)
        corrected = kept & named & (which[place] == groups)
        source = at[last[place[corrected]]]
        ticks.price[corrected], ticks.size[corrected] = ticks.price[source], ticks.size[source]
    unmatched: BoolArray = corrective & fresh & ~(named & np.isin(groups, groups[~corrective & named]))
    return kept, unmatched


def _groups(ticks: TickColumns) -> Int64Array:
    """Return a group number for each tick: equal for equal symbol, time and trade id; -1 for a tick without an id."""
    codes = pc.dictionary_encode(ticks.ids).indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    _, groups = np.unique(np.stack((ticks.symbol, ticks.time, codes), axis=1), axis=0, return_inverse=True)
    result: Int64Array = np.where(codes < 0, -1, groups.reshape(-1))
    return result


def _regroup(
    ticks: TickColumns, offsets: Int64Array, kept: BoolArray, key: Callable[[TickColumns], Int64Array], present: Rows,
    buckets: Int64Array | None = None,
) -> tuple[Rows, int]:  # fmt: skip
    """Return the recomputed rows, and the count of lost bars, whose ticks are no longer in the log.

    There is a row for each bar that has trades left or was present, except for lost bars. `buckets`: the start of each
    tick's bar, the minute by default.
    """
    keys = key(ticks)
    firsts, where = np.unique(keys, return_inverse=True)
    first_offsets = np.full(len(firsts), np.iinfo(np.int64).max)
    np.minimum.at(first_offsets, where.reshape(-1), offsets)
    known = minute_keys(present["start"], present["symbol"])
    place = np.minimum(np.searchsorted(firsts, known), len(firsts) - 1)
    lost = np.unique(known[(firsts[place] != known) | (first_offsets[place] > present["first_offset"])])
    counts = kept & ~np.isin(keys, lost)
    parts = []
    if counts.any():
        rows = group_ticks(ticks.where(counts), None if buckets is None else buckets[counts])
        parts.append(rows)
        left = minute_keys(rows["start"], rows["symbol"])
    else:
        left = np.empty(0, dtype=np.int64)
    _, once = np.unique(known, return_index=True)
    empty = once[~np.isin(known[once], left) & ~np.isin(known[once], lost)]
    parts.append(emptied(take(present, empty)))
    result = join(parts)
    result = take(result, np.lexsort((result["symbol"], result["start"])))
    made = minute_keys(result["start"], result["symbol"])
    result["first_offset"] = first_offsets[np.searchsorted(firsts, made)]
    result["arrival"] = -1
    hit = np.isin(made, known)
    result["arrival"][hit] = present["arrival"][once[np.searchsorted(known[once], made[hit])]]
    return result, len(lost)


def _stamp(rows: Rows, feed: FeedState, offset: int, version: int) -> None:
    rows["feed"] = rows["last_feed"] = feed.number
    rows["last_offset"] = offset
    rows["arrival"] = np.where(rows["arrival"] < 0, version, rows["arrival"])


def _reasons(rows: Rows, ticks: TickColumns, keys: Int64Array) -> npt.NDArray[np.int8]:
    made = minute_keys(rows["start"], rows["symbol"])
    reasons = np.full(len(rows), LATE, dtype=np.int8)
    for flag, reason in ((TickFlag.CORRECTION, CORRECTION), (TickFlag.CANCEL, CANCEL)):
        reasons[np.isin(made, keys[(ticks.flags & flag) != 0])] = reason
    return reasons


def _recompute_auctions(
    state: State, feed: FeedState, ticks: TickColumns, every: TickColumns, offset: int, version: int, history: History
) -> Rows:
    """Return recomputed rows of closing auction trades, one for each (session, symbol) that a change affects.

    The result is empty if no closing auction trade is affected.
    """
    sessions = auction_sessions(state, every)
    affected = np.unique(minute_keys(sessions, every.symbol)[sessions != NO_SESSION])
    if not len(affected):
        return join(())
    present = _auction_rows(state, feed, affected)
    symbols = symbols_in(affected)

    def wanted(read: TickColumns) -> BoolArray:
        some: BoolArray = (read.flags & (CORRECTIVE | TickFlag.CLOSING_AUCTION)) != 0
        return some & np.isin(read.symbol, symbols)

    noted = feed.unmatched.offsets[np.isin(symbols_in(feed.unmatched.keys), symbols)]
    ranges = [*_offset_ranges(present), *([(int(noted.min()), offset)] if len(noted) else [])]
    found = _ReadTicks()
    _read(found, state, feed, ranges, history, wanted)
    found.add(ticks.where(wanted(ticks)), offset)
    again, offsets = found.joined()
    kept, _ = _apply(again, offsets == offset)
    sessions = auction_sessions(state, again)
    inside = (sessions != NO_SESSION) & np.isin(minute_keys(sessions, again.symbol), affected)
    again, offsets, kept, sessions = again.where(inside), offsets[inside], kept[inside], sessions[inside]
    if not len(again):
        return join(())
    rows, _ = _regroup(again, offsets, kept, lambda read: minute_keys(sessions, read.symbol), present, sessions)
    _stamp(rows, feed, offset, version)
    rows["complete"] = True
    return rows


def _auction_rows(state: State, feed: FeedState, keys: Int64Array) -> Rows:
    found = []
    sessions = starts_in(keys)
    for session in np.unique(sessions).tolist():
        symbols: Codes = symbols_in(keys[sessions == session])
        found.append(state.auctions.of_feed(session, symbols, feed.number))
    return join(found)


def auction_sessions(state: State, ticks: TickColumns) -> Int64Array:
    """Return the session of each closing auction trade outside regular hours; NO_SESSION for other ticks: int64[n]."""
    sessions = np.full(len(ticks), NO_SESSION)
    flagged = (ticks.flags & TickFlag.CLOSING_AUCTION) != 0
    if not flagged.any():
        return sessions
    for number, known in enumerate(state.calendars):
        mine = flagged & (state.calendar_of[ticks.symbol] == number)
        times = ticks.time[mine]
        sessions[mine] = np.where(known.is_regular(times), NO_SESSION, known.session_of(times))
    return sessions
