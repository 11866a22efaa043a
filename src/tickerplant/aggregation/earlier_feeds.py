"""Sessions that a file of ticks shares with a feed whose bars are no longer in memory.

A file that begins or ends inside a session contains only a part of the session. Another feed may have delivered the
other part: a file of different hours, or a live feed. If that feed's bars were evicted, the session is recomputed from
the raw records of both feeds. Thus the result does not depend on the time between two replays. If the log no longer
contains the other feed's records, dependent bars are published incomplete, with the reason `cut`. These are the daily
bar, and the 1m and 5m bars in which this file begins or ends. No bar of a `firm` file is marked incomplete.

This applies only to the first and the last session of a file. A file contains all trades of the sessions between them.
A file sorted by symbol begins or ends inside a session of one symbol, that of its first or last row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tickerplant.aggregation.bar_aggregator import BarAggregator
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.outcome import FeedStatus
from tickerplant.aggregation.rebuild import MARGIN_US, Span, replace_range
from tickerplant.aggregation.rows import CUT, DAYS, INTERVALS, MINUTES, Codes, Rows
from tickerplant.aggregation.state import FileSpan, State
from tickerplant.core import reasons
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.streams import ConsumedRecord, History
from tickerplant.core.times import MINUTE_US


@dataclass(frozen=True, slots=True)
class _Part:
    """A feed's part of a session before or after the file: symbols, and the range of the feed's raw offsets.

    `feed`: number of the feed; None if the feed was dropped from memory.
    """

    feed: int | None
    symbols: Codes
    begin: int
    end: int


@dataclass(slots=True)
class _Shared:
    """A session that begins or ends outside the file.

    `edges`: the times in this session at which the file begins or ends.
    """

    session: int
    start_us: int
    end_us: int
    parts: list[_Part] = field(default_factory=list)
    edges: set[int] = field(default_factory=set)


def join_earlier_feeds(
    engine: BarAggregator, generation: int, name: str, consumed: ConsumedRecord, history: History
) -> None:
    """Recompute the sessions that a file, which has ended with the record `consumed`, shares with earlier feeds."""
    state = engine.state
    feed = state.feed(name)
    mine = state.file_ends(feed, consumed.offset) if feed.is_file else None
    if mine is None:
        return
    calendars = state.calendar_of[mine.symbols]
    for calendar in np.unique(calendars).tolist():
        symbols = mine.symbols[calendars == calendar]
        for shared in _shared_sessions(state, feed, mine, calendar, symbols, consumed.offset):
            _join(engine, generation, mine, shared, consumed, history)


def _shared_sessions(
    state: State, feed: FeedState, mine: FileSpan, calendar: int, symbols: Codes, offset: int
) -> list[_Shared]:
    """Return the sessions in which the file begins or ends, and for which other feeds may have evicted bars."""
    found: dict[int, _Shared] = {}
    known = state.calendars[calendar]
    for edge, before, cut in _edges(mine, symbols):
        session = int(known.session_of(np.array([edge]))[0])
        if session == NO_SESSION:
            continue
        key = np.array([session])
        start_us, end_us = (int(bound[0]) for bound in known.bounds_of(key))
        begin, end = start_us, end_us
        if not state.rules.extended_hours:
            begin, end = int(known.open_of(key)[0]), int(known.close_of(key)[0])
        # Only the part of the session in its daily bar, or in the file's first or last 5m bar, matters.
        five, minute = M5.floor(edge), edge - edge % MINUTE_US
        outside = (min(begin, five), edge) if before else (edge + 1, max(end, five + M5.us))
        # A feed that is not a file does not cut a minute.
        minutes = (outside[0], minute) if before else (minute + MINUTE_US, outside[1])
        parts = [*_of_files(state, mine, cut, *outside)]
        if cut is symbols:
            parts += _of_other_feeds(state, feed, symbols, *minutes, offset)
        if parts:
            present = _present_feeds(state, start_us, end_us)
            parts = [part for part in parts if part.feed not in present]
        if parts:
            shared = found.setdefault(session, _Shared(session, start_us, end_us))
            shared.parts += parts
            shared.edges.add(edge)
    return list(found.values())


def _edges(mine: FileSpan, symbols: Codes) -> Iterator[tuple[int, bool, Codes]]:
    """Yield (time, True if the file begins there, symbols that the time concerns) for each beginning and end of a file.

    The rows of a file sorted by time begin and end with these times. In a file sorted by symbol, the times of a symbol
    may descend. The other file may thus have its trades before or after those of the first or last row.
    """
    yield mine.first_us, True, symbols
    yield mine.last_us, False, symbols
    rows = [row for row in (mine.first_row, mine.last_row) if row is not None]
    if {time_us for _, time_us in rows} == {mine.first_us, mine.last_us}:
        return
    for symbol, time_us in rows:
        if symbol in symbols:
            of_row = np.array([symbol], symbols.dtype)
            yield time_us, True, of_row
            yield time_us, False, of_row


def _present_feeds(state: State, start_us: int, end_us: int) -> set[int]:
    """Return the numbers of the feeds that have minutes of a range in memory."""
    blocks = state.candidates[MINUTES].blocks
    inside = [block["feed"] for start, block in blocks.items() if start_us <= start < end_us]
    return set(np.unique(np.concatenate(inside)).tolist()) if inside else set()


def _of_files(state: State, mine: FileSpan, symbols: Codes, start_us: int, end_us: int) -> Iterator[_Part]:
    """Yield the parts of other files in `[start_us, end_us)`, a range outside the file.

    A file of the same range and rows is this file, perhaps corrected.
    """
    for span in state.file_spans.values():
        if span.range != mine.range and max(start_us, span.first_us) < min(end_us, span.last_us + 1):
            common = np.intersect1d(span.symbols, symbols)
            if len(common):
                known = state.known_feed(span.name)
                yield _Part(known.number if known else None, common, span.first_offset, span.last_offset + 1)


def _of_other_feeds(
    state: State, feed: FeedState, symbols: Codes, start_us: int, end_us: int, offset: int
) -> Iterator[_Part]:
    """Yield the parts of other tick feeds that are not files, in `[start_us, end_us)`, a range outside the file."""
    for other in state.feeds.values():
        if other is feed or other.is_file or not other.sources:
            continue
        until_us = min(end_us, other.newest_us + 1)
        if any(max(start_us, begin) < min(until_us, end) for begin, end in other.coverage):
            common = np.intersect1d(other.expected, symbols)
            if len(common):
                begin = state.offset_before(start_us - MARGIN_US)
                yield _Part(other.number, common, begin, state.offset_after(end_us + MARGIN_US, offset))


def _join(
    engine: BarAggregator, generation: int, mine: FileSpan, shared: _Shared, consumed: ConsumedRecord, history: History
) -> None:
    """Recompute a session from the raw records of the file and of the other feeds' parts.

    No bar of a `firm` file is marked incomplete. If all records of the other feeds are lost, such a file changes
    nothing.
    """
    state = engine.state
    lost = [part for part in shared.parts if next(history(part.begin, part.begin + 1), None) is None]
    kept = [part for part in shared.parts if not any(part is one for one in lost)]
    ranges = [(part.begin, part.end) for part in kept]
    raw = _records([*ranges, (mine.first_offset, consumed.offset)], consumed, history)
    common = np.unique(np.concatenate([part.symbols for part in shared.parts]))
    if state.feed(mine.name).firm and not ranges:
        return
    missing = np.unique(np.concatenate([part.symbols for part in lost])) if lost else common[:0]

    def mark_lost(fresh: State, closed: list[list[Rows]]) -> None:
        for interval in range(len(INTERVALS)):
            for rows in (*closed[interval], *fresh.candidates[interval].blocks.values()):
                _mark(state, rows, missing, shared, interval)

    mark = mark_lost if lost and not state.feed(mine.name).firm else None
    span = Span(common, shared.start_us, shared.end_us, shared.start_us, shared.end_us)
    replace_range(engine, generation, span, raw, history, mark)
    if lost:
        reason = "the log no longer has the prints of an earlier feed of the session: its bars are incomplete"
        engine.report(FeedStatus(mine.name, "unsupported", shared.start_us, reason, len(missing)))


def _mark(state: State, rows: Rows, symbols: Codes, shared: _Shared, interval: int) -> None:
    """Mark in place the bars that lack another feed's trades: incomplete, with the reason `cut`."""
    starts = {shared.session} if interval == DAYS else {INTERVALS[interval].floor(edge) for edge in shared.edges}
    cut = np.isin(rows["start"], np.array(sorted(starts))) & np.isin(rows["symbol"], symbols)
    rows["flaws"][cut] |= CUT
    rows["complete"][cut] = False
    rows["reason"][cut] = state.reasons.code(reasons.CUT)


def _records(ranges: Iterable[tuple[int, int]], consumed: ConsumedRecord, history: History) -> Iterator[ConsumedRecord]:
    """Yield the records of these ranges of offsets in order, each once, and then the step's own record."""
    read_to = 0
    for begin, end in sorted(ranges):
        if end > read_to:
            yield from history(max(begin, read_to), end)
            read_to = end
    yield consumed
