"""Bars by trades, volume and turnover: `100t`, `10000v`, `1000000d`.

A feed's prints are counted in the order of their times: they are held back until the feed's horizon has passed them, so
that any order within the lateness gives the same bars. Counting begins anew with each session. With c of the measure
counted before a print, it belongs to bar number c // amount: what a large print has too much counts for the bars after
it, so that the bars of a session end where they would if every share were a print of its own. The last bar of a session
ends with it, however little it has.

Sums are exact: volume counts in units of 1e-8, turnover in 1e-4 of the currency, coarser where bars are so large that
it does not matter. Such a bar is stamped with its first
print's time (a microsecond after the one before where that is the same). It is published once: what comes later than
the lateness, cancels and corrections do not change it.

Sources: M. L\u00f3pez de Prado, Advances in Financial Machine Learning (2018), section 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.grouping import TickColumns, group_ticks, merge_ticks
from tickerplant.aggregation.rows import ROW, Rows, join, put, take
from tickerplant.core.flags import TickFlag
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import NO_SESSION, Calendar
from tickerplant.core.times import DAY_US, NEVER_US, BoolArray, Int64Array

_DIGITS: Final = {"t": 0, "v": 8, "d": 4}
_BAR_DIGITS: Final = 12  # of a bar's amount in units: nine million of the largest bars a session are below 2^63
_COLUMNS: Final = ("time", "symbol", "price", "size", "source", "flags")
_TYPES: Final = ("<i8", "<i4", "<f8", "<f8", "<i4", "<u2")


def _units(interval: Interval) -> int:
    """Return how many units one of the measure is counted in: as fine as a bar's amount allows."""
    return int(10 ** max(0, min(_DIGITS[interval.measure], _BAR_DIGITS - len(str(interval.amount)))))


class Count:
    """The open bars of one interval of a feed, by symbol: `total` is what has been counted in `session`."""

    def __init__(self, interval: Interval) -> None:
        self.interval = interval
        self.rows: Rows = np.zeros(0, dtype=ROW)
        self.open: BoolArray = np.zeros(0, dtype=np.bool_)
        self.bucket: Int64Array = np.zeros(0, dtype=np.int64)
        self.total: Int64Array = np.zeros(0, dtype=np.int64)
        self.session: Int64Array = np.zeros(0, dtype=np.int64)
        self.last: Int64Array = np.zeros(0, dtype=np.int64)

    def fit(self, symbols: int) -> None:
        """Make room for so many symbols."""
        more = symbols - len(self.open)
        if more > 0:
            self.rows = join((self.rows, np.zeros(more, dtype=ROW)))
            self.open = np.concatenate((self.open, np.zeros(more, dtype=np.bool_)))
            for name, nothing in (("bucket", -1), ("total", 0), ("session", NEVER_US), ("last", NEVER_US)):
                setattr(self, name, np.concatenate((getattr(self, name), np.full(more, nothing, dtype=np.int64))))

    def take(self, ticks: TickColumns, sessions: Int64Array) -> list[Rows]:
        """Count prints, in order; return the bars that they end, in pieces."""
        order = np.argsort(ticks.symbol, kind="stable")
        ticks, sessions = ticks.at(order), sessions[order]
        symbols = ticks.symbol
        begins = np.ones(len(ticks), dtype=np.bool_)
        begins[1:] = (symbols[1:] != symbols[:-1]) | (sessions[1:] != sessions[:-1])
        first = np.flatnonzero(begins)
        run = np.cumsum(begins) - 1
        goes_on = self.session[symbols[first]] == sessions[first]
        amounts = self._amounts(ticks)
        sums = np.cumsum(amounts)
        base = np.where(goes_on, self.total[symbols[first]], 0) - (sums[first] - amounts[first])
        before = base[run] + sums - amounts
        size = self.interval.amount * _units(self.interval)
        buckets = before // size
        # Buckets of one batch by number: a group is a run of prints of one symbol, session and bar.
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
        """Put groups (sorted by symbol, then in order) behind the open bars; return those that have ended."""
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
        rows["start"] = self._stamped(rows["start"], symbols, head, same)
        tail = np.append(head[1:], True)
        full = ~tail | (totals // size > buckets)
        ended.append(take(rows, full))
        mine = symbols[tail]
        put(self.rows, mine.astype(np.int64), take(rows, tail))
        self.open[mine], self.bucket[mine] = ~full[tail], buckets[tail]
        self.total[mine], self.session[mine] = totals[tail], sessions[tail]
        self.last[mine] = rows["start"][tail]
        return ended

    def _stamped(
        self, starts: Int64Array, symbols: npt.NDArray[np.int32], head: BoolArray, same: BoolArray
    ) -> Int64Array:
        """Return the starts, each after that of its predecessor."""
        starts = np.array(starts)
        fresh = head & ~same
        starts[fresh] = np.maximum(starts[fresh], self.last[symbols[fresh]] + 1)
        while (again := ~head[1:] & (starts[1:] <= starts[:-1])).any():
            starts[1:][again] = starts[:-1][again] + 1
        return starts

    def end(self, over: BoolArray) -> Rows:
        """End the open bars of the symbols for which `over` holds; return them."""
        done = np.flatnonzero(self.open & over)
        self.open[done] = False
        return take(self.rows, done)

    def _amounts(self, ticks: TickColumns) -> Int64Array:
        counts: BoolArray = (ticks.flags & TickFlag.NO_VOLUME) == 0
        if self.interval.measure == "t":
            return counts.astype(np.int64)
        value = ticks.size if self.interval.measure == "v" else ticks.price * ticks.size
        exact = np.rint(np.where(counts, value, 0.0) * _units(self.interval))
        result: Int64Array = np.clip(exact, 0, 2.0**60).astype(np.int64)
        return result

    def dump(self) -> dict[str, Any]:
        """Return what a snapshot keeps."""
        some = np.flatnonzero(self.last > NEVER_US)
        arrays = {name: getattr(self, name)[some].tobytes() for name in ("open", "bucket", "total", "session", "last")}
        return arrays | {"symbols": some.astype(np.int32).tobytes(), "rows": take(self.rows, some).tobytes()}

    def load(self, kept: dict[str, Any], symbols: int) -> None:
        """Take what `dump` gave."""
        self.fit(symbols)
        some = np.frombuffer(kept["symbols"], dtype=np.int32)
        self.open[some] = np.frombuffer(kept["open"], dtype=np.bool_)
        for name in ("bucket", "total", "session", "last"):
            getattr(self, name)[some] = np.frombuffer(kept[name], dtype=np.int64)
        put(self.rows, some.astype(np.int64), np.frombuffer(kept["rows"], dtype=ROW))


class Activity:
    """What one feed has for bars by activity: prints that wait for its horizon, and open bars.

    Bounded by the prints of the lateness and one open bar for each symbol and interval.
    """

    def __init__(self) -> None:
        self.counts: list[Count] = []
        self.pending: list[TickColumns] = []
        self.released_us = NEVER_US

    def fit(self, intervals: Sequence[Interval]) -> None:
        """Count these intervals from now on; those that were counted before go on."""
        known = {count.interval: count for count in self.counts}
        self.counts = [known.get(interval) or Count(interval) for interval in intervals]

    def add(self, ticks: TickColumns) -> int:
        """Let prints wait; return how many come too late for that and are left out."""
        late = ticks.time < self.released_us
        if late.any():
            ticks = ticks.where(~late)
        if len(ticks):
            self.pending.append(TickColumns(*(getattr(ticks, name).copy() for name in _COLUMNS)))
        return int(np.count_nonzero(late))

    def release(
        self, until_us: int, members: npt.NDArray[np.bool_], calendars: list[Calendar],
        calendar_of: npt.NDArray[np.int32],
    ) -> list[Rows]:  # fmt: skip
        """Count what waits and lies before `until_us`, and end what ends there; return bars for each interval.

        `members[symbol, interval]`: which symbols have bars of which interval.
        """
        self.released_us = max(self.released_us, until_us)
        due = self._due(until_us)
        sessions = sessions_of(due, calendars, calendar_of) if len(due) else np.empty(0, dtype=np.int64)
        result = []
        for number, count in enumerate(self.counts):
            count.fit(len(members))
            mine = members[due.symbol, number]
            ended = count.take(due.where(mine), sessions[mine]) if mine.any() else []
            ended.append(count.end(self._over(count, until_us, calendars, calendar_of)))
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

    def _over(
        self, count: Count, until_us: int, calendars: list[Calendar], calendar_of: npt.NDArray[np.int32]
    ) -> BoolArray:
        over = np.zeros(len(count.open), dtype=np.bool_)
        some = np.flatnonzero(count.open)
        for number, known in enumerate(calendars):
            mine = some[calendar_of[some] == number]
            for session in np.unique(count.session[mine]).tolist():
                if session_over(known, session) <= until_us:
                    over[mine[count.session[mine] == session]] = True
        return over

    def dump(self) -> dict[str, Any]:
        """Return what a snapshot keeps."""
        joined = {n: b"".join(getattr(part, n).tobytes() for part in self.pending) for n in _COLUMNS}
        counts = {count.interval.name: count.dump() for count in self.counts}
        return {"pending": joined, "released_us": self.released_us, "counts": counts}

    def load(self, kept: dict[str, Any], symbols: int) -> None:
        """Take what `dump` gave, after `fit`."""
        self.released_us = kept["released_us"]
        if kept["pending"]["time"]:
            columns = zip(_COLUMNS, _TYPES, strict=True)
            self.pending = [TickColumns(*(np.frombuffer(kept["pending"][n], dtype=kind).copy() for n, kind in columns))]
        for count in self.counts:
            if count.interval.name in kept["counts"]:
                count.load(kept["counts"][count.interval.name], symbols)


def sessions_of(ticks: TickColumns, calendars: list[Calendar], calendar_of: npt.NDArray[np.int32]) -> Int64Array:
    """Return the session of each print; one between two sessions counts for the UTC day that it is on."""
    result: Int64Array = np.full(len(ticks), NO_SESSION)
    for number, known in enumerate(calendars):
        mine = calendar_of[ticks.symbol] == number
        result[mine] = known.session_of(ticks.time[mine])
    return np.where(result == NO_SESSION, ticks.time - ticks.time % DAY_US, result)


def session_over(known: Calendar, session: int) -> int:
    """Return when a session, or else the UTC day of that date, is over."""
    try:
        return int(known.bounds_of(np.array([session]))[1][0])
    except ValueError:
        return session + DAY_US
