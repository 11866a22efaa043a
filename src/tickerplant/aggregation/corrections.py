"""Prints taken back and corrected: the bars that they are in are counted again from the log.

Memory holds no prints. A finished bar and an open window remember between which raw offsets theirs lie, so a cancel or
a correction has that stretch read again, once for all it touches, and the bar made anew of what is left. One whose
print has not come yet is noted: when a print of that minute and time comes, the minute is counted again, so that the
order in which an original, its correction and its cancel come does not matter.

A print is named by symbol, `time` and `trade_id`. A cancel beats every correction; of corrections the last to come
counts, and replaces price and size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.aggregation.candidates import CANCEL, CORRECTION, LATE
from tickerplant.aggregation.columns import check, read_ticks
from tickerplant.aggregation.feed_state import Feed
from tickerplant.aggregation.grouping import TickColumns, group_ticks
from tickerplant.aggregation.rows import MINUTES, Rows, emptied, join, keys_of, take
from tickerplant.aggregation.state import State
from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.flags import TickFlag
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.streams import History
from tickerplant.core.times import MINUTE_US, BoolArray, Int64Array

UNDOES = TickFlag.CANCEL | TickFlag.CORRECTION


@dataclass(frozen=True, slots=True)
class Recount:
    """What was counted again: rows to put in the place of those that are there.

    `reasons`: of each minute's row, why. `unknown`: cancels and corrections that name no print that has come. `lost`:
    bars left as they are, for the log no longer has their prints.
    """

    minutes: Rows
    reasons: npt.NDArray[np.int8]
    auctions: Rows
    unknown: int
    lost: int


@dataclass(slots=True)
class _Prints:
    """Prints read again, in the order of their arrival, and the raw offset that each came at."""

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


def recount(state: State, feed: Feed, ticks: TickColumns, offset: int, version: int, history: History) -> Recount:
    """Count again the minutes of a feed that some prints of the record at `offset` touch: `ticks`, all of them.

    Nothing is changed but `feed.undone`, which notes what names a print that has not come.
    """
    keys = _keys(ticks)
    affected = np.unique(keys)
    since = feed.undone.since(affected)
    there = _rows_there(state, feed, affected)
    spans = [*_spans(there), *((begin, offset) for begin in since[since >= 0].tolist())]
    prints = _Prints()
    _read(prints, state, feed, spans, history, lambda found: np.isin(_keys(found), affected))
    prints.add(ticks, offset)
    every, offsets = prints.joined()
    kept, unknown = _undo(every, offsets == offset)
    result, lost = _counted(every, offsets, kept, _keys, there)
    _stamp(result, feed, offset, version)
    feed.undone.note(_keys(every)[unknown], every.time[unknown], offset)
    auctions = _auctions(state, feed, ticks, every, offset, version, history)
    return Recount(result, _reasons(result, ticks, keys), auctions, int(np.count_nonzero(unknown)), lost)


def _keys(ticks: TickColumns) -> Int64Array:
    return keys_of(ticks.time - ticks.time % MINUTE_US, ticks.symbol)


def _rows_there(state: State, feed: Feed, keys: Int64Array) -> Rows:
    """Return the rows that the feed has for these minutes, open and finished: those of a drop's minute may be both."""
    found = []
    minutes = (keys >> 32) * MINUTE_US
    for start in np.unique(minutes).tolist():
        symbols = (keys[minutes == start] & 0xFFFFFFFF).astype(np.int32)
        found.append(state.finished[MINUTES].of_feed(start, symbols, feed.number))
        found.append(feed.windows.of(start, symbols))
    return join(found)


def _spans(rows: Rows) -> Iterable[tuple[int, int]]:
    return zip(rows["first_offset"].tolist(), (rows["last_offset"] + 1).tolist(), strict=True)


def _read(
    prints: _Prints, state: State, feed: Feed, spans: Sequence[tuple[int, int]], history: History,
    wanted: Callable[[TickColumns], BoolArray],
) -> None:  # fmt: skip
    """Add what the feed said in these stretches and is wanted."""
    read_to = -1
    for begin, end in sorted(spans):
        for arrived in history(max(begin, read_to), end) if end > read_to else ():
            try:
                record = records.decode(arrived.value)
                if not isinstance(record.header, records.Ticks) or record.header.feed != feed.name:
                    continue
                check(record.batch)
                found, _ = read_ticks(record.batch, state.symbols, state.sources, f"{feed.name} again")
            except UnreadableRecord:
                continue  # it was put aside when it came
            mask = wanted(found)
            if mask.any():
                prints.add(found.where(mask), arrived.offset)
        read_to = max(read_to, end)


def _undo(prints: TickColumns, fresh: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return which prints are left, corrected in place, and which of the fresh cancels and corrections name none."""
    undoes = (prints.flags & UNDOES) != 0
    groups = _groups(prints)
    named = groups >= 0
    cancels = ((prints.flags & TickFlag.CANCEL) != 0) & named
    corrections = undoes & ~cancels & named
    kept = ~undoes & ~(named & np.isin(groups, groups[cancels]))
    if corrections.any():
        at = np.flatnonzero(corrections)[::-1]
        which, last = np.unique(groups[at], return_index=True)
        place = np.minimum(np.searchsorted(which, groups), len(which) - 1)
        corrected = kept & named & (which[place] == groups)
        source = at[last[place[corrected]]]
        prints.price[corrected], prints.size[corrected] = prints.price[source], prints.size[source]
    unknown: BoolArray = undoes & fresh & ~(named & np.isin(groups, groups[~undoes & named]))
    return kept, unknown


def _groups(prints: TickColumns) -> Int64Array:
    """Return equal numbers for prints of equal symbol, time and trade id, and -1 where there is no id."""
    codes = pc.dictionary_encode(prints.ids).indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    _, groups = np.unique(np.stack((prints.symbol, prints.time, codes), axis=1), axis=0, return_inverse=True)
    result: Int64Array = np.where(codes < 0, -1, groups.reshape(-1))
    return result


def _counted(
    prints: TickColumns, offsets: Int64Array, kept: BoolArray, key: Callable[[TickColumns], Int64Array], there: Rows,
    buckets: Int64Array | None = None,
) -> tuple[Rows, int]:  # fmt: skip
    """Return a row for each bar that has prints left or had a row, and how many bars the log has lost prints of.

    A lost bar is left out. `buckets`: where each print's bar begins, unless by the minute.
    """
    keys = key(prints)
    firsts, where = np.unique(keys, return_inverse=True)
    begins = np.full(len(firsts), np.iinfo(np.int64).max)
    np.minimum.at(begins, where.reshape(-1), offsets)
    known = keys_of(there["start"], there["symbol"])
    place = np.minimum(np.searchsorted(firsts, known), len(firsts) - 1)
    lost = np.unique(known[(firsts[place] != known) | (begins[place] > there["first_offset"])])
    counts = kept & ~np.isin(keys, lost)
    parts = []
    if counts.any():
        rows = group_ticks(prints.where(counts), None if buckets is None else buckets[counts])
        parts.append(rows)
        left = keys_of(rows["start"], rows["symbol"])
    else:
        left = np.empty(0, dtype=np.int64)
    _, once = np.unique(known, return_index=True)
    empty = once[~np.isin(known[once], left) & ~np.isin(known[once], lost)]
    parts.append(emptied(take(there, empty)))
    result = join(parts)
    result = take(result, np.lexsort((result["symbol"], result["start"])))
    made = keys_of(result["start"], result["symbol"])
    result["first_offset"] = begins[np.searchsorted(firsts, made)]
    result["arrival"] = -1
    hit = np.isin(made, known)
    result["arrival"][hit] = there["arrival"][once[np.searchsorted(known[once], made[hit])]]
    return result, len(lost)


def _stamp(rows: Rows, feed: Feed, offset: int, version: int) -> None:
    rows["feed"] = rows["feed_hi"] = feed.number
    rows["last_offset"] = offset
    rows["arrival"] = np.where(rows["arrival"] < 0, version, rows["arrival"])


def _reasons(rows: Rows, ticks: TickColumns, keys: Int64Array) -> npt.NDArray[np.int8]:
    made = keys_of(rows["start"], rows["symbol"])
    reasons = np.full(len(rows), LATE, dtype=np.int8)
    for flag, reason in ((TickFlag.CORRECTION, CORRECTION), (TickFlag.CANCEL, CANCEL)):
        reasons[np.isin(made, keys[(ticks.flags & flag) != 0])] = reason
    return reasons


def _auctions(
    state: State, feed: Feed, ticks: TickColumns, every: TickColumns, offset: int, version: int, history: History
) -> Rows:
    """Return the closing auctions' rows of the sessions whose prints the record touches, counted again."""
    sessions = auction_sessions(state, every)
    touched = np.unique(_by_session(sessions, every.symbol)[sessions != NO_SESSION])
    if not len(touched):
        return join(())
    there = _auction_rows(state, feed, touched)
    symbols = (touched & 0xFFFFFFFF).astype(np.int32)

    def wanted(found: TickColumns) -> BoolArray:
        some: BoolArray = (found.flags & (UNDOES | TickFlag.CLOSING_AUCTION)) != 0
        return some & np.isin(found.symbol, symbols)

    noted = feed.undone.offsets[np.isin((feed.undone.keys & 0xFFFFFFFF).astype(np.int32), symbols)]
    spans = [*_spans(there), *([(int(noted.min()), offset)] if len(noted) else [])]
    prints = _Prints()
    _read(prints, state, feed, spans, history, wanted)
    prints.add(ticks.where(wanted(ticks)), offset)
    again, offsets = prints.joined()
    kept, _ = _undo(again, offsets == offset)
    sessions = auction_sessions(state, again)
    inside = (sessions != NO_SESSION) & np.isin(_by_session(sessions, again.symbol), touched)
    again, offsets, kept, sessions = again.where(inside), offsets[inside], kept[inside], sessions[inside]
    if not len(again):
        return join(())
    rows, _ = _counted(again, offsets, kept, lambda found: _by_session(sessions, found.symbol), there, sessions)
    _stamp(rows, feed, offset, version)
    rows["complete"] = True
    return rows


def _by_session(sessions: Int64Array, symbols: npt.NDArray[np.int32]) -> Int64Array:
    return keys_of(sessions, symbols)


def _auction_rows(state: State, feed: Feed, keys: Int64Array) -> Rows:
    found = []
    sessions = (keys >> 32) * MINUTE_US
    for session in np.unique(sessions).tolist():
        symbols = (keys[sessions == session] & 0xFFFFFFFF).astype(np.int32)
        found.append(state.auctions.of_feed(session, symbols, feed.number))
    return join(found)


def auction_sessions(state: State, ticks: TickColumns) -> Int64Array:
    """Return for each print of a closing auction after the close its session, and NO_SESSION for all others."""
    sessions = np.full(len(ticks), NO_SESSION)
    flagged = (ticks.flags & TickFlag.CLOSING_AUCTION) != 0
    if not flagged.any():
        return sessions
    for number, known in enumerate(state.calendars):
        mine = flagged & (state.calendar_of[ticks.symbol] == number)
        times = ticks.time[mine]
        sessions[mine] = np.where(known.is_regular(times), NO_SESSION, known.session_of(times))
    return sessions
