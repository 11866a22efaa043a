"""A stretch run again from raw, under the rules of now: what a `Rebuild` record asks for.

The raw partition is read again from well before the stretch, by an engine of its own that takes the named symbols alone
and knows from the beginning when each feed was up. What it closes within the stretch takes the place of what is
remembered, and is published with the rebuild's version whether it differs or not, so that a store that has lost or
changed a bar has it again. Of bars that nobody remembers the last state that the new run gave is published as it is.

The stretch is widened to whole sessions, so that each coarser bar remains what its published parts say. What is open
stays open, and what is closed is closed, whatever the lateness of now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation import retention
from tickerplant.aggregation.bar_aggregator import BarAggregator, StateRow
from tickerplant.aggregation.candidates import REBUILD
from tickerplant.aggregation.columns import FIRST_US, LAST_US
from tickerplant.aggregation.decode import Intake
from tickerplant.aggregation.rows import DAYS, FROM_VENDOR, INTERVALS, Rows, join, take
from tickerplant.aggregation.state import State
from tickerplant.core import records
from tickerplant.core.errors import ConfigError, UnreadableRecord
from tickerplant.core.interval import M5
from tickerplant.core.sessions import NO_SESSION, Calendar
from tickerplant.core.streams import ConsumedRecord, History
from tickerplant.core.times import DAY_US, HOUR_US, BoolArray

FEED = "rebuild"
"""The name under which `market.status` hears of a stretch that cannot be run again."""

_MARGIN_US = HOUR_US  # clocks of senders differ by seconds


def rebuild(engine: BarAggregator, generation: int, record: records.Record, offset: int, history: History) -> None:
    """Run the stretch of a `Rebuild` record again and put the outcome into the engine; `finish` publishes it.

    Where raw no longer reaches back to before the stretch, nothing is changed and `market.status` says so.
    """
    state, header = engine.state, record.header
    assert isinstance(header, records.Rebuild)
    known = {text: code for code, text in enumerate(state.symbols.texts)}
    names = record.batch.column(0).to_pylist()
    symbols = np.array(sorted({known[name] for name in names if name in known}), dtype=np.int32)
    if not len(symbols) or header.to_us <= header.from_us:
        return
    from_us, to_us = _widened(state, symbols, max(header.from_us, FIRST_US), min(header.to_us, LAST_US))
    begin_us = from_us
    first = state.offset_before(begin_us - _MARGIN_US)
    raw = _checked(history(first, offset), first, begin_us - _MARGIN_US)
    if raw is None:
        reason = "raw does not reach back to before the stretch: nothing is changed"
        engine.say(StateRow(FEED, "unsupported", header.from_us, reason, len(symbols)))
        return
    fresh, closed = _run_again(state, generation, symbols, raw, history)
    state.next_feed = max(state.next_feed, fresh.next_feed)
    inside = _Stretch(state, from_us, to_us, header)
    for interval in range(len(INTERVALS)):
        published = _last(closed[interval])
        published = take(published, inside.has(interval, published))
        blocks = fresh.finished[interval].blocks
        remembered = retention.is_remembered(state, published["start"])
        remembered &= np.isin(published["start"], np.array(sorted(blocks), dtype=np.int64))
        alone = set(published["start"][~remembered].tolist())
        ours = {start for start in state.finished[interval].blocks if inside.has_start(interval, start)} - alone
        starts = ours | set(published["start"][remembered].tolist())
        state.finished[interval].replace(symbols, starts, fresh.finished[interval], state.ranking, REBUILD)
        engine.publish(interval, _rebuilt(take(published, ~remembered)))
    state.day_cache.clear()


def _widened(state: State, symbols: npt.NDArray[np.int32], from_us: int, to_us: int) -> tuple[int, int]:
    """Return the stretch with the whole of the 5m bars and of the sessions of these symbols that it touches."""
    begin, end = M5.floor(from_us), M5.end(M5.floor(to_us - 1))
    for number in np.unique(state.calendar_of[symbols]).tolist():
        known = state.calendars[number]
        for session in known.session_of(np.array([from_us, to_us - 1])).tolist():
            if session != NO_SESSION:
                first, last = (int(bound[0]) for bound in known.bounds_of(np.array([session])))
                begin, end = min(begin, first), max(end, last)
    return begin, end


def _checked(raw: Iterable[ConsumedRecord], first: int, before_us: int) -> Iterable[ConsumedRecord] | None:
    """Return the records, or None if they do not begin where they must: at `first`, or with one sent before a time."""
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
    state: State, generation: int, symbols: npt.NDArray[np.int32], raw: Iterable[ConsumedRecord], history: History
) -> tuple[State, list[list[Rows]]]:
    """Return the state after the new run, and by interval all that it closed, in order."""
    fresh = state.beginning()
    engine = BarAggregator(fresh)
    intake = Intake(engine, generation, only=symbols)
    closed: list[list[Rows]] = [[] for _ in INTERVALS]
    for arrived in raw:

        def before(begin: int, end: int, limit: int = arrived.offset) -> Iterator[ConsumedRecord]:
            return history(begin, min(end, limit))

        try:
            intake.take(arrived, before)
        except (UnreadableRecord, ConfigError):
            continue  # it was put aside when it came
        for interval, blocks in engine.finish().closed.items():
            closed[interval] += blocks
    engine.close_like(state.feeds)
    for interval, blocks in engine.finish().closed.items():
        closed[interval] += blocks
    return fresh, closed


def _last(parts: list[Rows]) -> Rows:
    """Return the last row of each (start, symbol), sorted by them."""
    rows = join(parts)
    order = np.lexsort((np.arange(len(rows)), rows["symbol"], rows["start"]))
    rows = take(rows, order)
    last = np.ones(len(rows), dtype=np.bool_)
    last[:-1] = (rows["start"][1:] != rows["start"][:-1]) | (rows["symbol"][1:] != rows["symbol"][:-1])
    return take(rows, last)


def _rebuilt(rows: Rows) -> Rows:
    rows["reason"][rows["kind"] != FROM_VENDOR] = REBUILD
    return rows


class _Stretch:
    """Which bars lie in `[from_us, to_us)`, or have a part there."""

    def __init__(self, state: State, from_us: int, to_us: int, asked: records.Rebuild) -> None:
        self._from, self._to = from_us, to_us
        times = np.append(np.arange(from_us, to_us, HOUR_US), to_us - 1)
        sessions = [known.session_of(times) for known in state.calendars]
        # By date too: a bar of a day that the calendar of now has no session for must be found to be withdrawn.
        first, last = max(asked.from_us, from_us), min(asked.to_us, to_us) - 1
        dates = np.arange(first - first % DAY_US, last + 1, DAY_US)
        days = [day for day in dates.tolist() if not any(_is_session(known, day) for known in state.calendars)]
        self._sessions = np.unique(np.concatenate([*sessions, np.array(days, dtype=np.int64)]))

    def has(self, interval: int, rows: Rows) -> BoolArray:
        """Return which rows of an interval (code) do."""
        starts = rows["start"]
        if interval == DAYS:
            return np.isin(starts, self._sessions)
        result: BoolArray = (starts + INTERVALS[interval].us > self._from) & (starts < self._to)
        return result

    def has_start(self, interval: int, start: int) -> bool:
        """Return whether a bar of an interval that begins then does."""
        if interval == DAYS:
            return bool(np.isin(start, self._sessions))
        return start + INTERVALS[interval].us > self._from and start < self._to


def _is_session(known: Calendar, day: int) -> bool:
    try:
        known.open_of(np.array([day]))
    except ValueError:
        return False
    return True
