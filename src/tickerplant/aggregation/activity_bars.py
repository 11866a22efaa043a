"""Activity bars: bars of a number of trades, a volume or a turnover (`100t`, `10000v`, `1000000d`).

A feed's ticks are counted in the order of their times. They wait until the feed's horizon has passed them. Any order of
arrival within the allowed lateness thus gives the same bars, except among ticks of equal time. Counting starts again
with each session. If the session's count before a tick is c, the tick belongs to the bar with index c // amount. The
excess of a large trade thus counts toward the next bars. If each share were a separate trade, the bars would end with
the same trades. A bar without a tick of its own is omitted. The last bar of a session ends with the session.

Sums are exact integers. The unit is 1e-8 of volume and 1e-4 of turnover, coarser for very large amounts. Each trade is
rounded to the unit. A bar starts at the time of its first tick, but at least one microsecond after the start of the
symbol's previous bar. A bar is published once: later ticks, cancels and corrections do not change it. A bar is not
published if another live feed publishes the symbol's bars (`source_priority.outranked`).

Source: M. López de Prado, Advances in Financial Machine Learning (2018), section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.grouping import TickColumns, group_ticks, merge_ticks
from tickerplant.aggregation.rows import ROW, Codes, Rows, join, put, take
from tickerplant.core.flags import TickFlag
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import NO_SESSION, Calendar, end_of
from tickerplant.core.times import DAY_US, NEVER_US, BoolArray, Int64Array

_DIGITS: Final = {"t": 0, "v": 8, "d": 4}
_BAR_DIGITS: Final = 12
"""Maximum digits of a bar's amount in units, unless the amount itself has more digits. Nine million bars of that amount
in a session stay below 2^63."""
_COLUMNS: Final = ("time", "symbol", "price", "size", "source", "flags")
_TYPES: Final = ("<i8", "<i4", "<f8", "<f8", "<i4", "<u2")


def _units(interval: Interval) -> int:
    """Return the units per trade, share or currency unit: the greatest power of ten within both digit limits.

    The result is at least 1.
    """
    return int(10 ** max(0, min(_DIGITS[interval.measure], _BAR_DIGITS - len(str(interval.amount)))))


class _Counter:
    """The open bars of one interval of a feed, by symbol. `total` is the amount counted so far in `session`."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval
        self.rows: Rows = np.zeros(0, dtype=ROW)
        self.open: BoolArray = np.zeros(0, dtype=np.bool_)
        self.bucket: Int64Array = np.zeros(0, dtype=np.int64)
        self.total: Int64Array = np.zeros(0, dtype=np.int64)
        self.session: Int64Array = np.zeros(0, dtype=np.int64)
        self.last: Int64Array = np.zeros(0, dtype=np.int64)

    def fit(self, symbols: int) -> None:
        """Extend the arrays to this count of symbols."""
        more = symbols - len(self.open)
        if more > 0:
            self.rows = join((self.rows, np.zeros(more, dtype=ROW)))
            self.open = np.concatenate((self.open, np.zeros(more, dtype=np.bool_)))
            for name, nothing in (("bucket", -1), ("total", 0), ("session", NEVER_US), ("last", NEVER_US)):
                setattr(self, name, np.concatenate((getattr(self, name), np.full(more, nothing, dtype=np.int64))))

    def count(self, ticks: TickColumns, sessions: Int64Array) -> list[Rows]:
        """Count ticks, which are sorted by time; return the ended bars as a list of parts.

        `sessions`: the session of each tick.
        """
        order = np.argsort(ticks.symbol, kind="stable")
        ticks, sessions = ticks.at(order), sessions[order]
        symbols = ticks.symbol
        begins = np.ones(len(ticks), dtype=np.bool_)
        begins[1:] = (symbols[1:] != symbols[:-1]) | (sessions[1:] != sessions[:-1])
        first = np.flatnonzero(begins)
        run = np.cumsum(begins) - 1
        continues = self.session[symbols[first]] == sessions[first]
        amounts = self._amounts(ticks)
        sums = np.cumsum(amounts)
        base = np.where(continues, self.total[symbols[first]], 0) - (sums[first] - amounts[first])
        before = base[run] + sums - amounts
        size = self.interval.amount * _units(self.interval)
        buckets = before // size
        # A group is a run of ticks of one symbol, session and bar.
        new = begins.copy()
        new[1:] |= buckets[1:] != buckets[:-1]
        at = np.flatnonzero(new)
        last = np.append(at[1:], len(ticks)) - 1
        rows = group_ticks(ticks, np.cumsum(new) - 1)
        rows["start"] = ticks.time[at]
        return self._merge(rows, buckets[at], sessions[at], (before + amounts)[last], size)

    def _merge(
        self, rows: Rows, buckets: Int64Array, sessions: Int64Array, totals: Int64Array, size: int
    ) -> list[Rows]:
        """Merge groups, sorted by symbol and time, into the open bars; return the ended bars."""
        symbols = rows["symbol"]
        ended = []
        head = np.ones(len(rows), dtype=np.bool_)
        head[1:] = symbols[1:] != symbols[:-1]
        was = self.open[symbols] & head
        same = was & (self.session[symbols] == sessions) & (self.bucket[symbols] == buckets)
        if same.any():
            former = take(self.rows, symbols[same])
            start = former["start"].copy()
            merge_ticks(former, take(rows, same))
            former["start"] = start
            put(rows, np.flatnonzero(same), former)
        passed = was & ~same
        if passed.any():
            ended.append(take(self.rows, symbols[passed]))
        rows["start"] = self._distinct_starts(rows["start"], symbols, head, same)
        tail = np.append(head[1:], True)
        full = ~tail | (totals // size > buckets)
        ended.append(take(rows, full))
        mine = symbols[tail]
        put(self.rows, mine.astype(np.int64), take(rows, tail))
        self.open[mine], self.bucket[mine] = ~full[tail], buckets[tail]
        self.total[mine], self.session[mine] = totals[tail], sessions[tail]
        self.last[mine] = rows["start"][tail]
        return ended

    def _distinct_starts(self, starts: Int64Array, symbols: Codes, head: BoolArray, same: BoolArray) -> Int64Array:
        """Return the starts, each at least one microsecond after the previous start of its symbol."""
        starts = np.array(starts)
        fresh = head & ~same
        starts[fresh] = np.maximum(starts[fresh], self.last[symbols[fresh]] + 1)
        while (again := ~head[1:] & (starts[1:] <= starts[:-1])).any():
            starts[1:][again] = starts[:-1][again] + 1
        return starts

    def end(self, over: BoolArray) -> Rows:
        """End the open bars of the symbols in the mask; return these bars."""
        done = np.flatnonzero(self.open & over)
        self.open[done] = False
        return take(self.rows, done)

    def _amounts(self, ticks: TickColumns) -> Int64Array:
        """Return the amount of each tick in units: int64[n]; 0 for a tick with the flag NO_VOLUME."""
        counts: BoolArray = (ticks.flags & TickFlag.NO_VOLUME) == 0
        if self.interval.measure == "t":
            return counts.astype(np.int64)
        value = ticks.size if self.interval.measure == "v" else ticks.price * ticks.size
        exact = np.rint(np.where(counts, value, 0.0) * _units(self.interval))
        result: Int64Array = np.clip(exact, 0, 2.0**60).astype(np.int64)
        return result

    def dump(self) -> dict[str, Any]:
        """Return the values for a snapshot."""
        some = np.flatnonzero(self.last > NEVER_US)
        arrays = {name: getattr(self, name)[some].tobytes() for name in ("open", "bucket", "total", "session", "last")}
        return arrays | {"symbols": some.astype(np.int32).tobytes(), "rows": take(self.rows, some).tobytes()}

    def load(self, stored: dict[str, Any], symbols: int) -> None:
        """Restore the values from `dump`."""
        self.fit(symbols)
        some = np.frombuffer(stored["symbols"], dtype=np.int32)
        self.open[some] = np.frombuffer(stored["open"], dtype=np.bool_)
        for name in ("bucket", "total", "session", "last"):
            getattr(self, name)[some] = np.frombuffer(stored[name], dtype=np.int64)
        put(self.rows, some.astype(np.int64), np.frombuffer(stored["rows"], dtype=ROW))


class ActivityBars:
    """Activity bars of one feed: ticks that wait for its horizon, and open bars.

    The allowed lateness bounds the waiting ticks. Each symbol has at most one open bar per interval.
    """

    def __init__(self) -> None:
        self._counters: list[_Counter] = []
        self.pending: list[TickColumns] = []
        self.released_us = NEVER_US

    def fit(self, intervals: Sequence[Interval]) -> None:
        """Set the intervals to count. An interval that is already counted keeps its counter."""
        known = {counter.interval: counter for counter in self._counters}
        self._counters = [known.get(interval) or _Counter(interval) for interval in intervals]

    def add(self, ticks: TickColumns) -> int:
        """Add ticks, which wait for `release`; return the count of dropped ticks.

        Ticks before the last `until_us` of `release` are dropped.
        """
        late = ticks.time < self.released_us
        if late.any():
            ticks = ticks.where(~late)
        if len(ticks):
            self.pending.append(TickColumns(*(getattr(ticks, name).copy() for name in _COLUMNS)))
        return int(np.count_nonzero(late))

    def release(
        self, until_us: int, members: npt.NDArray[np.bool_], calendars: list[Calendar],
        calendar_of: Codes,
    ) -> list[Rows]:  # fmt: skip
        """Count the ticks before `until_us`, end the bars of finished sessions, and return the ended bars by interval.

        A session is finished if it ends at or before `until_us`. `members[symbol, interval]`: true if the symbol has
        bars of the interval.
        """
        self.released_us = max(self.released_us, until_us)
        due = self._due(until_us)
        sessions = _sessions_of(due, calendars, calendar_of) if len(due) else np.empty(0, dtype=np.int64)
        result = []
        for number, counter in enumerate(self._counters):
            counter.fit(len(members))
            mine = members[due.symbol, number]
            ended = counter.count(due.where(mine), sessions[mine]) if mine.any() else []
            ended.append(counter.end(self._over(counter, until_us, calendars, calendar_of)))
            result.append(join(ended))
        return result

    def _due(self, until_us: int) -> TickColumns:
        if not self.pending:
            return TickColumns(*(np.empty(0, dtype=kind) for kind in _TYPES))
        every = TickColumns(*(np.concatenate([getattr(part, n) for part in self.pending]) for n in _COLUMNS))
        due = every.time < until_us
        rest = every.where(~due)
        self.pending = [rest] if len(rest) else []
        every = every.where(due)
        return every.at(np.argsort(every.time, kind="stable"))

    def _over(self, counter: _Counter, until_us: int, calendars: list[Calendar], calendar_of: Codes) -> BoolArray:
        over = np.zeros(len(counter.open), dtype=np.bool_)
        some = np.flatnonzero(counter.open)
        for number, known in enumerate(calendars):
            mine = some[calendar_of[some] == number]
            for session in np.unique(counter.session[mine]).tolist():
                if end_of(known, session, extended=True) <= until_us:
                    over[mine[counter.session[mine] == session]] = True
        return over

    def dump(self) -> dict[str, Any]:
        """Return the values for a snapshot."""
        joined = {n: b"".join(getattr(part, n).tobytes() for part in self.pending) for n in _COLUMNS}
        counts = {counter.interval.name: counter.dump() for counter in self._counters}
        return {"pending": joined, "released_us": self.released_us, "counts": counts}

    def load(self, stored: dict[str, Any], symbols: int) -> None:
        """Restore the values from `dump`. Call `fit` first."""
        self.released_us = stored["released_us"]
        if stored["pending"]["time"]:
            columns = zip(_COLUMNS, _TYPES, strict=True)
            self.pending = [
                TickColumns(*(np.frombuffer(stored["pending"][n], dtype=kind).copy() for n, kind in columns))
            ]
        for counter in self._counters:
            if counter.interval.name in stored["counts"]:
                counter.load(stored["counts"][counter.interval.name], symbols)


def _sessions_of(ticks: TickColumns, calendars: list[Calendar], calendar_of: Codes) -> Int64Array:
    """Return the session of each tick: int64[n]. A tick between two sessions counts toward its UTC day."""
    result: Int64Array = np.full(len(ticks), NO_SESSION)
    for number, known in enumerate(calendars):
        mine = calendar_of[ticks.symbol] == number
        result[mine] = known.session_of(ticks.time[mine])
    return np.where(result == NO_SESSION, ticks.time - ticks.time % DAY_US, result)
