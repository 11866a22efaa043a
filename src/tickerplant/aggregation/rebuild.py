"""Rebuild: recompute a range of bars from raw records under the current rules. Implements the `Rebuild` record.

A second engine reads the raw partition again from at least `MARGIN_US` before the range. It applies only the named
symbols, and starts with the final coverage of each feed. The bars that it closes in the range replace the retained
bars. The new bars are published with the version of the `Rebuild` record, even if they equal the retained bars. A
rebuild thus restores bars that a store has lost or changed. A bar that is no longer retained is published in its last
recomputed state.

The range is widened to whole 5m bars and sessions, so that each coarser bar is still the roll-up of its published
parts. A change of the allowed lateness neither reopens a closed bar nor closes an open bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.aggregation import retention
from tickerplant.aggregation.bar_aggregator import BarAggregator
from tickerplant.aggregation.candidates import REBUILD
from tickerplant.aggregation.dispatch import Dispatcher
from tickerplant.aggregation.outcome import FeedStatus
from tickerplant.aggregation.rows import DAYS, FROM_VENDOR, INTERVALS, Codes, Rows, join, take
from tickerplant.aggregation.state import State
from tickerplant.core import reasons, records
from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION
from tickerplant.core.streams import ConsumedRecord, History
from tickerplant.core.times import DAY_US, FIRST_US, HOUR_US, LAST_US, BoolArray

FEED: Final = "rebuild"
"""Feed name in the `market.status` record of a rebuild that is not possible."""

MARGIN_US: Final = HOUR_US
"""Length of the time before the range whose raw records are also read. The clocks of senders may differ by seconds."""


def rebuild(engine: BarAggregator, generation: int, record: records.Record, offset: int, history: History) -> None:
    """Recompute the range of a `Rebuild` record and put the result into the engine; `finish` publishes it.

    If the log no longer contains the raw records from before the range, no bar changes, and `market.status` reports the
    failure. Unknown symbols are ignored.
    """
    state, header = engine.state, record.header
    assert isinstance(header, records.Rebuild)
    known = {text: code for code, text in enumerate(state.symbols.texts)}
    names = record.batch.column(0).to_pylist()
    symbols = np.array(sorted({known[name] for name in names if name in known}), dtype=np.int32)
    if not len(symbols) or header.to_us <= header.from_us:
        return
    start_us, end_us = _widened(state, symbols, max(header.from_us, FIRST_US), min(header.to_us, LAST_US))
    first = state.offset_before(start_us - MARGIN_US)
    raw = _checked(history(first, offset), first, start_us - MARGIN_US)
    if raw is None:
        reason = "raw does not reach back to before the stretch: nothing is changed"
        engine.report(FeedStatus(FEED, "unsupported", header.from_us, reason, len(symbols)))
        return
    replace_range(engine, generation, Span(symbols, start_us, end_us, header.from_us, header.to_us), raw, history)


@dataclass(frozen=True, slots=True)
class Span:
    """The symbols of a rebuild, and its range: whole 5m bars and sessions, `[start_us, end_us)`.

    `from_us`, `to_us`: the requested range. The rebuild includes daily bars of dates in this range without a session.
    """

    symbols: Codes
    start_us: int
    end_us: int
    from_us: int
    to_us: int


def replace_range(
    engine: BarAggregator, generation: int, span: Span, raw: Iterable[ConsumedRecord], history: History,
    finish: Callable[[State, list[list[Rows]]], None] | None = None,
) -> None:  # fmt: skip
    """Replace the bars of a span by bars that are computed from these raw records.

    `finish` may change the new bars first. Its arguments are the state of the second engine, and the bars that it
    closed.
    """
    state, symbols = engine.state, span.symbols
    fresh, closed = _run_again(state, generation, span, raw, history)
    if finish is not None:
        finish(fresh, closed)
    state.next_feed = max(state.next_feed, fresh.next_feed)
    inside = _Range(state, span)
    for interval in range(len(INTERVALS)):
        published = _last(closed[interval])
        published = take(published, inside.has(interval, published))
        blocks = fresh.candidates[interval].blocks
        retained = retention.is_retained(state, published["start"])
        retained &= np.isin(published["start"], np.array(sorted(blocks), dtype=np.int64))
        evicted = set(published["start"][~retained].tolist())
        ours = {start for start in state.candidates[interval].blocks if inside.has_start(interval, start)} - evicted
        starts = ours | set(published["start"][retained].tolist())
        state.candidates[interval].replace(symbols, starts, fresh.candidates[interval], state.ranking, REBUILD)
        engine.publish(interval, _with_reason(take(published, ~retained), state.reasons.code(reasons.CUT)))
    state.day_cache.clear()


def _widened(state: State, symbols: Codes, start_us: int, end_us: int) -> tuple[int, int]:
    """Return the range widened to whole 5m bars and to the whole sessions of these symbols."""
    begin, end = M5.floor(start_us), M5.end(M5.floor(end_us - 1))
    for number in np.unique(state.calendar_of[symbols]).tolist():
        known = state.calendars[number]
        for session in known.session_of(np.array([start_us, end_us - 1])).tolist():
            if session != NO_SESSION:
                first, last = (int(bound[0]) for bound in known.bounds_of(np.array([session])))
                begin, end = min(begin, first), max(end, last)
    return begin, end


def _checked(raw: Iterable[ConsumedRecord], first: int, before_us: int) -> Iterable[ConsumedRecord] | None:
    """Return the records, or None if older records that the rebuild needs are missing.

    The records suffice if the first has the offset `first`, or was sent at or before `before_us`.
    """
    records_ = iter(raw)
    head = next(records_, None)
    if head is None:
        return None
    if head.offset != first:
        try:
            if records.header_of(head.value).sent_at_us > before_us:
                return None
        except UnreadableRecord:
            return None

    def everything() -> Iterator[ConsumedRecord]:
        yield head
        yield from records_

    return everything()


def _run_again(
    state: State, generation: int, span: Span, raw: Iterable[ConsumedRecord], history: History
) -> tuple[State, list[list[Rows]]]:
    """Return the state of the second engine, and the bars that it closed, by interval in the order of closing."""
    fresh = state.for_rebuild()
    fresh.held = (span.start_us, span.end_us)
    engine = BarAggregator(fresh)
    dispatcher = Dispatcher(engine, generation, only=span.symbols)
    closed: list[list[Rows]] = [[] for _ in INTERVALS]
    for consumed in raw:

        def before(begin: int, end: int, limit: int = consumed.offset) -> Iterator[ConsumedRecord]:
            return history(begin, min(end, limit))

        try:
            dispatcher.apply(consumed, before)
        except (UnreadableRecord, ConfigError):
            continue  # the record became a dead letter when it arrived
        for interval, blocks in engine.finish().closed.items():
            closed[interval] += blocks
    engine.close_as(state.feeds)
    for interval, blocks in engine.finish().closed.items():
        closed[interval] += blocks
    return fresh, closed


def _last(parts: list[Rows]) -> Rows:
    """Return the last row of each (start, symbol), sorted by start, then symbol."""
    rows = join(parts)
    order = np.lexsort((np.arange(len(rows)), rows["symbol"], rows["start"]))
    rows = take(rows, order)
    last = np.ones(len(rows), dtype=np.bool_)
    last[:-1] = (rows["start"][1:] != rows["start"][:-1]) | (rows["symbol"][1:] != rows["symbol"][:-1])
    return take(rows, last)


def _with_reason(rows: Rows, cut: int) -> Rows:
    rows["reason"][(rows["kind"] != FROM_VENDOR) & (rows["reason"] != cut)] = REBUILD
    return rows


class _Range:
    """Decides which bars are in `[start_us, end_us)`, in whole or in part."""

    def __init__(self, state: State, span: Span) -> None:
        start_us, end_us = self._start, self._end = span.start_us, span.end_us
        calendars = [state.calendars[number] for number in np.unique(state.calendar_of[span.symbols]).tolist()]
        times = np.append(np.arange(start_us, end_us, HOUR_US), end_us - 1)
        sessions = [known.session_of(times) for known in calendars]
        # Include dates without a session in the current calendar: a daily bar of such a date must be withdrawn.
        first, last = max(span.from_us, start_us), min(span.to_us, end_us) - 1
        dates = np.arange(first - first % DAY_US, last + 1, DAY_US)
        closed = np.ones(len(dates), dtype=np.bool_)
        for known in calendars:
            closed &= ~known.is_session(dates)
        self._sessions = np.unique(np.concatenate([*sessions, dates[closed]]))

    def has(self, interval: int, rows: Rows) -> BoolArray:
        """Return a mask of the rows of an interval (code) that are in the range."""
        starts = rows["start"]
        if interval == DAYS:
            return np.isin(starts, self._sessions)
        result: BoolArray = (starts + INTERVALS[interval].us > self._start) & (starts < self._end)
        return result

    def has_start(self, interval: int, start: int) -> bool:
        """Return whether the bar of an interval (code) with this start is in the range."""
        if interval == DAYS:
            return bool(np.isin(start, self._sessions))
        return start + INTERVALS[interval].us > self._start and start < self._end
