"""The state of one partition: `Bars` in, indicator values out, by the rules that the log says.

What a bar does:

- final, later than all of its symbol: every indicator takes it; its values are `final`, with the bar's version;
- final or withdrawn, not later: a revision. Values are made again from there as a batch over the revised bars would,
  and published with the version of the revision (newest version wins). A withdrawn bar's own row is `withdrawn`;
- older than memory: no values, counted (`Counts.beyond_memory`) and noted (`take_missed`), so that it is computed again
  from stored history (`again`); only a withdrawal is said at once;
- marked `history` and not later than all of its symbol: noted likewise, for whether it counts is decided in the store;
- final without prices (none of its prints may set one), or with prices beyond ±1e100: no bar to the indicators, and no
  row; if it replaces a bar that had prices, that bar's values are withdrawn;
- forming: the forming indicators as if it closed now, nothing kept.

Indicators run on split-adjusted bars: each bar is adjusted as it comes in, for the splits that are in effect by then; a
new split has the symbol computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.derived_inputs import SessionNumbers, filled
from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.realtime.interval_engine import Chunk, Pane, Rows
from tickerplant.analytics.realtime.recompute_queue import Missed, Series
from tickerplant.analytics.realtime.splits import Splits
from tickerplant.core import interval as intervals
from tickerplant.core.interval import Interval
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.schemas import STATES
from tickerplant.core.times import BoolArray, Int64Array, times_of

PRICES: Final = ("open", "high", "low", "close")
LARGEST: Final = 1e100
"""Prices and sizes beyond this are none: their squares, summed over a window, would leave float64."""
FORMING, FINAL, WITHDRAWN = range(len(STATES))
AGAIN_BARS: Final = 1 << 16
"""Bars of a symbol that are computed at once when a whole history is: what that takes besides is some 20 MB."""


@dataclass(slots=True)
class Counts:
    """What this engine has met since it was made; not part of its state."""

    bars: int = 0
    values: int = 0
    revisions: int = 0
    beyond_memory: int = 0
    without_prices: int = 0
    stale_forming: int = 0


@dataclass(frozen=True, slots=True)
class Made:
    """Rows of one interval with the same columns, to be published."""

    interval: str
    columns: tuple[str, ...]
    chunks: Sequence[Chunk]


def plan(rules: Rules) -> dict[Interval, tuple[Indicator, ...]]:
    """Return the indicators by interval, shortest first, each once. Raises BadInput for one that cannot be read."""
    wanted = {intervals.parse(name): texts for name, texts in rules.indicators.items()}
    parsed = {interval: tuple(dict.fromkeys(parse(text) for text in wanted[interval])) for interval in sorted(wanted)}
    return {interval: indicators for interval, indicators in parsed.items() if indicators}


class Engine:
    """States of all symbols of a partition in all intervals."""

    def __init__(self, rules: Rules = DEFAULT_RULES, splits: Splits | None = None) -> None:
        self.counts = Counts()
        self.symbols: list[str] = []
        self._places: dict[str, int] = {}
        self._capacity = 0
        self._known = pa.array([], pa.utf8())
        self._newest: tuple[pa.Array, Int64Array] | None = None  # the dictionary read last: mostly the next is the same
        self.panes: dict[str, Pane] = {}
        self.splits = splits or Splits()
        self._split_at = ((-1, -1), np.empty(0, dtype=np.int64))
        self._missed: list[Missed] = []
        self.apply(rules)

    def apply(self, rules: Rules) -> list[str]:
        """Go on under other rules and return the intervals that have indicators which are new.

        Indicators that stay keep their states. Raises BadInput and changes nothing.
        """
        planned, forming = self.wanted(rules)
        inputs = {name for indicators in planned.values() for one in indicators for name in one.INPUTS}
        sessions = SessionNumbers(rules) if "session" in inputs else None
        had = {name: {study.indicator for study in pane.studies} for name, pane in self.panes.items()}
        panes: dict[str, Pane] = {}
        for interval, indicators in planned.items():
            pane = self.panes.get(interval.name)
            if pane is None:
                pane = Pane(interval, indicators, rules.revision_window_sessions, self._capacity)
            else:
                pane.change(indicators, rules.revision_window_sessions)
            panes[interval.name] = pane
        self.panes, self.rules, self._forming = panes, rules, forming
        self._inputs, self._sessions = inputs, sessions
        self.splits.follow(rules)
        return [interval.name for interval, wanted in planned.items() if not had.get(interval.name, set()) >= {*wanted}]

    def wanted(self, rules: Rules) -> tuple[Mapping[Interval, Sequence[Indicator]], frozenset[Indicator]]:
        """Return the indicators by interval, and which of them are computed on forming bars too. Raises BadInput."""
        return plan(rules), frozenset(parse(text) for text in rules.forming_indicators)

    @property
    def known(self) -> pa.Array:
        """The symbols, by row, as an Arrow array."""
        return self._known

    def add_symbols(self, symbols: Sequence[str]) -> None:
        """Give each of these symbols, none of which is known, a row."""
        self._places.update(zip(symbols, range(len(self.symbols), len(self.symbols) + len(symbols)), strict=True))
        self.symbols.extend(symbols)
        self._known = pa.array(self.symbols, pa.utf8())
        if len(self.symbols) > self._capacity:
            self._capacity = max(64, 1 << (len(self.symbols) - 1).bit_length())
            for pane in self.panes.values():
                pane.grow(self._capacity)

    def bars(self, batch: pa.RecordBatch) -> list[Made]:
        """Take the rows of one `Bars` record and return the values they cause, closed ones first in each interval."""
        if batch.num_rows == 0:
            return []
        self.counts.bars += batch.num_rows
        rows = self._read(batch)
        at, state = _codes(batch.column("interval")), _codes(batch.column("state"))
        names = batch.column("interval").dictionary.to_pylist()
        states = np.array([STATES.index(name) if name in STATES else -1 for name in _words(batch, "state")])[state]
        history: BoolArray = batch.column("history").to_numpy(zero_copy_only=False)
        made: list[Made] = []
        for name, pane in self.panes.items():
            if name not in names:
                continue
            here = np.array([word == name for word in names])[at]
            closed = here & ((states == FINAL) | (states == WITHDRAWN))
            chunks: list[Chunk] = []
            if closed.any():
                taken = self._taken(pane, rows, closed)
                chunks = self._closed(pane, taken, states[closed] == WITHDRAWN, history[closed])
            forming = self._formed(pane, self._taken(pane, rows, here & (states == FORMING)))
            parts = ((pane.columns, chunks), (self._forming_columns(pane), forming))
            made += [Made(name, columns, part) for columns, part in parts if part]
        self.counts.values += sum(len(chunk.times) for part in made for chunk in part.chunks)
        return made

    def _read(self, batch: pa.RecordBatch) -> Rows:
        columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in (*PRICES, "volume")}
        usable: BoolArray = np.ones(batch.num_rows, dtype=np.bool_)
        for values in columns.values():
            usable &= np.abs(values) <= LARGEST  # False for NaN, which is what a null is here
        symbols, times = self._rows_of(batch.column("symbol")), times_of(batch.column("time"))
        if "vwap" in self._inputs:
            columns["vwap"] = batch.column("vwap").to_numpy(zero_copy_only=False)
        if self._sessions:
            words = _words(batch, "interval")
            days = [word in self.panes and not self.panes[word].interval.is_intraday for word in words]
            by_date = np.array(days, dtype=np.bool_)[_codes(batch.column("interval"))]
            columns["session"] = self._sessions.of(symbols, self.symbols, times, by_date)
        return Rows(symbols, times, batch.column("version").to_numpy(), columns, usable)

    def _rows_of(self, column: pa.DictionaryArray) -> Int64Array:
        """Return each row's symbol as its row here; symbols that are new join."""
        codes = _codes(column)
        if self._newest is not None and column.dictionary.equals(self._newest[0]):
            return self._newest[1][codes]
        found = pc.index_in(column.dictionary, value_set=self._known)
        if found.null_count:
            used = np.zeros(len(found), dtype=np.bool_)
            used[codes] = True
            new = pc.and_(found.is_null(), pa.array(used))
            if pc.any(new).as_py():
                self.add_symbols(column.dictionary.filter(new).unique().to_pylist())
                found = pc.index_in(column.dictionary, value_set=self._known)
        places: Int64Array = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if not found.null_count:
            self._newest = column.dictionary, places
        return places[codes]

    def take_missed(self) -> list[Missed]:
        """Return the bars noted since this was last asked."""
        missed, self._missed = self._missed, []
        return missed

    def again(self, series: Series, batch: pa.RecordBatch, from_us: int) -> Iterator[Made]:
        """Put a series' whole history in the place of all that is known of it; yield the values from a bar on.

        `batch`: its final bars that have prices, as traded, in order of time. The last of them are remembered. Versions
        are 0: whoever publishes knows the cause.
        """
        pane = self.panes[series.interval]
        [row] = self.rows_of([series.symbol])
        pane.forget(row)
        for start in range(0, batch.num_rows, AGAIN_BARS):
            rows = self._read(batch.slice(start, AGAIN_BARS))
            rows = self._taken(pane, rows, np.flatnonzero(rows.usable))
            values = pane.extend(row, rows.times, rows.columns)
            shown = int(np.searchsorted(rows.times, from_us))
            if shown < len(rows):
                none = np.zeros(len(rows) - shown, dtype=np.int64)
                chunk = Chunk(rows.times[shown:], rows.symbols[shown:], FINAL, none, values[:, shown:])
                yield Made(series.interval, pane.columns, [chunk])

    def skim(self, batch: pa.RecordBatch) -> list[Made]:
        """Note the closed bars of a record that the state knows already, and return the withdrawals among them."""
        if batch.num_rows == 0:
            return []
        rows = self._read(batch)
        states = batch.column("state").cast(pa.utf8())
        intervals_ = batch.column("interval").cast(pa.utf8())
        made: list[Made] = []
        for name, pane in self.panes.items():
            here = pc.equal(intervals_, name)
            closed = pc.and_(here, pc.is_in(states, value_set=pa.array([STATES[FINAL], STATES[WITHDRAWN]])))
            which = np.flatnonzero(closed.to_numpy(zero_copy_only=False))
            if not len(which):
                continue
            self._miss(pane, rows.take(which), history=False)
            gone = rows.take(
                np.flatnonzero(pc.and_(here, pc.equal(states, STATES[WITHDRAWN])).to_numpy(zero_copy_only=False))
            )
            if len(gone):
                nothing = np.full((len(pane.columns), len(gone)), np.nan)
                made.append(
                    Made(name, pane.columns, [Chunk(gone.times, gone.symbols, WITHDRAWN, gone.versions, nothing)])
                )
        return made

    def rows_of(self, symbols: Sequence[str]) -> list[int]:
        """Return the rows of symbols; those that are new join."""
        new = [symbol for symbol in dict.fromkeys(symbols) if symbol not in self._places]
        if new:
            self.add_symbols(new)
        return [self._places[symbol] for symbol in symbols]

    def _taken(self, pane: Pane, rows: Rows, which: Int64Array | BoolArray) -> Rows:
        """Return some bars of one interval, adjusted for splits and each with a vwap."""
        rows = rows.take(which)
        columns = dict(rows.columns)
        if self.splits.effective:
            before = np.flatnonzero(rows.times < self._last_splits()[rows.symbols])
            if len(before):
                daily = not pane.interval.is_intraday
                columns = self.splits.columns(columns, rows.times, rows.symbols, self.symbols, before, daily=daily)
        if "vwap" in columns:
            own, high, low, close = (columns[name] for name in ("vwap", "high", "low", "close"))
            columns["vwap"] = filled(own, high, low, close, most=LARGEST)
        return Rows(rows.symbols, rows.times, rows.versions, columns, rows.usable)

    def _last_splits(self) -> Int64Array:
        """Return for each symbol a time from which on nothing is adjusted."""
        known = (self.splits.changes, len(self.symbols))
        if self._split_at[0] != known:
            self._split_at = known, self.splits.latest(self.symbols)
        return self._split_at[1]

    def _miss(self, pane: Pane, rows: Rows, *, history: bool) -> None:
        """Note each symbol's first of these bars."""
        order = np.lexsort((rows.times, rows.symbols))
        symbols, first = np.unique(rows.symbols[order], return_index=True)
        for row, time_us in zip(symbols.tolist(), rows.times[order][first].tolist(), strict=True):
            self._missed.append(Missed(Series(pane.interval.name, self.symbols[row]), time_us, history))

    def _closed(self, pane: Pane, rows: Rows, withdrawn: BoolArray, history: BoolArray) -> list[Chunk]:
        usable = rows.usable & ~withdrawn
        rows = Rows(rows.symbols, rows.times, rows.versions, rows.columns, usable)
        late = rows.times <= pane.history.last[rows.symbols]
        self.counts.without_prices += int((~rows.usable & ~withdrawn).sum())
        competing = late & history & ~withdrawn
        if competing.any():
            self._miss(pane, rows.take(competing), history=True)
            late &= ~competing
            usable = usable & ~competing
        gone = np.flatnonzero(withdrawn | (late & ~usable))
        chunks = []
        if len(gone):
            nothing = np.full((len(pane.columns), len(gone)), np.nan)
            chunks.append(Chunk(rows.times[gone], rows.symbols[gone], WITHDRAWN, rows.versions[gone], nothing))
        if late.any():
            chunks += self._revised(pane, rows.take(late))
        chunks += pane.close(rows.take(~late & usable))
        return chunks

    def _revised(self, pane: Pane, rows: Rows) -> list[Chunk]:
        order = np.lexsort((rows.times, rows.symbols))
        bounds = np.flatnonzero(np.diff(rows.symbols[order])) + 1
        chunks = []
        for part in np.split(order, bounds):
            chunk, beyond = pane.revise(rows.take(part))
            self.counts.revisions += len(part) - beyond
            if beyond:
                self.counts.beyond_memory += beyond
                self._miss(pane, rows.take(part[:beyond]), history=False)
            if chunk is not None and len(chunk.times):
                chunks.append(chunk)
        return chunks

    def _formed(self, pane: Pane, rows: Rows) -> list[Chunk]:
        if not len(rows) or not self._forming_columns(pane):
            return []
        fresh = rows.times > pane.history.last[rows.symbols]
        self.counts.stale_forming += int((~fresh).sum())
        rows = rows.take(fresh & rows.usable)
        if not len(rows):
            return []
        return [Chunk(rows.times, rows.symbols, FORMING, rows.versions, pane.peek(rows, self._forming))]

    def _forming_columns(self, pane: Pane) -> tuple[str, ...]:
        chosen = (study.indicator for study in pane.studies if study.indicator in self._forming)
        return tuple(name for indicator in chosen for name in indicator.columns)


def _codes(column: pa.DictionaryArray) -> Int64Array:
    codes: Int64Array = column.indices.to_numpy().astype(np.int64, copy=False)
    return codes


def _words(batch: pa.RecordBatch, name: str) -> list[str]:
    words: list[str] = batch.column(name).dictionary.to_pylist()
    return words
