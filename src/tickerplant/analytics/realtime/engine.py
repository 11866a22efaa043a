"""The indicator state of one partition: `Bars` in, indicator values out, under the rules that the log contains.

Effect of a bar:

- final, later than all bars of its symbol: every indicator processes the bar. The values are `final` and have the
  version of the bar;
- final or withdrawn, not later: a revision. Values are recomputed from that bar on and equal a batch over the revised
  bars. The values are published with the version of the revision (the newest version wins);
- withdrawn: the row of the bar is `withdrawn`, even if the bar is later than all bars of its symbol;
- a revision of a bar that can no longer be computed from the retained bars: no values. The revision is counted
  (`EngineCounters.beyond_memory`) and rejected (`drain_rejected`), so that the series is computed again from stored
  history. Only a withdrawal is published at once;
- final, marked `history` and not later than all bars of its symbol: also rejected, because source priority is decided
  in the store;
- final without prices (none of its trades may set a price), or with a price or volume beyond ±1e100: ignored, and
  without a row. If it replaces a bar that had prices, the values of that bar are withdrawn;
- forming: the forming indicators are computed as if the bar closed now. No state changes. A forming bar that is not
  later than all closed bars of its symbol is ignored.

Indicators run on split-adjusted bars. A bar is adjusted on arrival, for the splits in effect at that time. A new split
causes all series of the symbol to be recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.derived_inputs import SessionNumbers, fill_vwap
from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.realtime.interval_engine import BarRows, Chunk, IntervalEngine
from tickerplant.analytics.realtime.recompute_queue import RejectedBar
from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.splits import Splits
from tickerplant.analytics.usable_bars import MAX_VALUE, PRICES, usable
from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of
from tickerplant.core.interval import Interval
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.schemas import STATES
from tickerplant.core.times import BoolArray, Int64Array

FORMING, FINAL, WITHDRAWN = range(len(STATES))
REBUILD_BARS: Final = 1 << 16
"""Maximum bars per batch when a whole series is computed again. A batch needs about 20 MB of temporary memory."""


@dataclass(slots=True)
class EngineCounters:
    """Totals since this engine was created; not part of its state."""

    bars: int = 0
    values: int = 0
    revisions: int = 0
    beyond_memory: int = 0
    without_prices: int = 0
    stale_forming: int = 0


@dataclass(frozen=True, slots=True)
class IntervalValues:
    """Value rows to publish: rows of one interval with the same columns."""

    interval: str
    columns: tuple[str, ...]
    chunks: Sequence[Chunk]


def plan_indicators(rules: Rules) -> dict[Interval, tuple[Indicator, ...]]:
    """Return the indicators of each interval without duplicates, shortest interval first. Raises BadInput."""
    wanted = {intervals.parse(name): texts for name, texts in rules.indicators.items()}
    parsed = {interval: tuple(dict.fromkeys(parse(text) for text in wanted[interval])) for interval in sorted(wanted)}
    return {interval: indicators for interval, indicators in parsed.items() if indicators}


class Engine:
    """The states of all symbols of a partition in all intervals. A symbol has the same row number in every interval."""

    def __init__(self, rules: Rules = DEFAULT_RULES, splits: Splits | None = None) -> None:
        self.counters = EngineCounters()
        self.symbols: list[str] = []
        self._row_of: dict[str, int] = {}
        self._capacity = 0
        self._symbol_array = pa.array([], pa.utf8())
        self._last_dictionary: tuple[pa.Array, Int64Array] | None = None  # most records repeat the last dictionary
        self.interval_engines: dict[str, IntervalEngine] = {}
        self.splits = splits or Splits()
        self._unadjusted_from = ((-1, -1), np.empty(0, dtype=np.int64))
        self._rejected: list[RejectedBar] = []
        self.apply_rules(rules)

    def apply_rules(self, rules: Rules) -> list[str]:
        """Replace the rules and return the intervals that have new indicators.

        Indicators that remain keep their states. Raises BadInput or ConfigError without a change.
        """
        planned, forming = self.wanted_indicators(rules)
        inputs = {name for indicators in planned.values() for one in indicators for name in one.INPUTS}
        sessions = SessionNumbers(rules) if "session" in inputs else None
        former = {name: {state.indicator for state in one.states} for name, one in self.interval_engines.items()}
        engines: dict[str, IntervalEngine] = {}
        for interval, indicators in planned.items():
            engine = self.interval_engines.get(interval.name)
            if engine is None:
                engine = IntervalEngine(interval, indicators, rules.revision_window_sessions, self._capacity)
            else:
                engine.set_indicators(indicators, rules.revision_window_sessions)
            engines[interval.name] = engine
        self.interval_engines, self.rules, self._forming = engines, rules, forming
        self._inputs, self._sessions = inputs, sessions
        self.splits.set_calendars(rules)
        return [one.name for one, wanted in planned.items() if not former.get(one.name, set()) >= {*wanted}]

    def wanted_indicators(self, rules: Rules) -> tuple[Mapping[Interval, Sequence[Indicator]], frozenset[Indicator]]:
        """Return the indicators by interval, and the indicators that also use forming bars. Raises BadInput."""
        return plan_indicators(rules), frozenset(parse(text) for text in rules.forming_indicators)

    @property
    def symbol_array(self) -> pa.Array:
        """Return the symbols in row order, as an Arrow array."""
        return self._symbol_array

    def add_symbols(self, symbols: Sequence[str]) -> None:
        """Assign the next rows to these symbols, which must all be new."""
        self._row_of.update(zip(symbols, range(len(self.symbols), len(self.symbols) + len(symbols)), strict=True))
        self.symbols.extend(symbols)
        self._symbol_array = pa.array(self.symbols, pa.utf8())
        if len(self.symbols) > self._capacity:
            self._capacity = max(64, 1 << (len(self.symbols) - 1).bit_length())
            for engine in self.interval_engines.values():
                engine.grow(self._capacity)

    def apply_bars(self, batch: pa.RecordBatch) -> list[IntervalValues]:
        """Apply the rows of one `Bars` record and return the values: in each interval, those of closed bars first."""
        if batch.num_rows == 0:
            return []
        self.counters.bars += batch.num_rows
        rows = self._read(batch)
        interval_codes, state_codes = _codes(batch.column("interval")), _codes(batch.column("state"))
        names = _words(batch, "interval")
        states = np.array([STATES.index(name) if name in STATES else -1 for name in _words(batch, "state")])[
            state_codes
        ]
        history: BoolArray = batch.column("history").to_numpy(zero_copy_only=False)
        made: list[IntervalValues] = []
        for name, engine in self.interval_engines.items():
            if name not in names:
                continue
            here = np.array([word == name for word in names])[interval_codes]
            closed = here & ((states == FINAL) | (states == WITHDRAWN))
            chunks: list[Chunk] = []
            if closed.any():
                prepared = self._prepare(engine, rows, closed)
                chunks = self._apply_closed(engine, prepared, states[closed] == WITHDRAWN, history[closed])
            forming = self._apply_forming(engine, self._prepare(engine, rows, here & (states == FORMING)))
            parts = ((engine.columns, chunks), (self._forming_columns(engine), forming))
            made += [IntervalValues(name, columns, part) for columns, part in parts if part]
        self.counters.values += sum(len(chunk.times) for part in made for chunk in part.chunks)
        return made

    def _read(self, batch: pa.RecordBatch) -> BarRows:
        columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in (*PRICES, "volume")}
        priced = usable(columns.values(), batch.num_rows)
        symbols, times = self._rows_of(batch.column("symbol")), times_of(batch.column("time"))
        if "vwap" in self._inputs:
            columns["vwap"] = batch.column("vwap").to_numpy(zero_copy_only=False)
        if self._sessions:
            engines = self.interval_engines
            words = _words(batch, "interval")
            days = [word in engines and not engines[word].interval.is_intraday for word in words]
            by_date = np.array(days, dtype=np.bool_)[_codes(batch.column("interval"))]
            columns["session"] = self._sessions.of(symbols, self.symbols, times, by_date)
        return BarRows(symbols, times, batch.column("version").to_numpy(), columns, priced)

    def _rows_of(self, column: pa.DictionaryArray) -> Int64Array:
        """Return the engine's row of each symbol in the column; new symbols are added."""
        codes = _codes(column)
        if self._last_dictionary is not None and column.dictionary.equals(self._last_dictionary[0]):
            return self._last_dictionary[1][codes]
        found = pc.index_in(column.dictionary, value_set=self._symbol_array)
        if found.null_count:
            used = np.zeros(len(found), dtype=np.bool_)
            used[codes] = True
            new = pc.and_(found.is_null(), pa.array(used))
            if pc.any(new).as_py():
                self.add_symbols(column.dictionary.filter(new).unique().to_pylist())
                found = pc.index_in(column.dictionary, value_set=self._symbol_array)
        rows: Int64Array = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if not found.null_count:
            self._last_dictionary = column.dictionary, rows
        return rows[codes]

    def drain_rejected(self) -> list[RejectedBar]:
        """Return the earliest rejected bar of each series and record since the last call."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def rebuild(self, series: Series, batch: pa.RecordBatch, start_us: int) -> Iterator[IntervalValues]:
        """Replace all state of a series by its whole history; yield the values from `start_us` on.

        `batch` contains the series' final bars with prices, as traded, in order of time. The newest bars are
        retained. Versions are 0; the caller sets them.
        """
        engine = self.interval_engines[series.interval]
        [row] = self.rows_of([series.symbol])
        engine.reset(row)
        for start in range(0, batch.num_rows, REBUILD_BARS):
            rows = self._read(batch.slice(start, REBUILD_BARS))
            rows = self._prepare(engine, rows, np.flatnonzero(rows.usable))
            values = engine.extend(row, rows.times, rows.columns)
            shown = int(np.searchsorted(rows.times, start_us))
            if shown < len(rows):
                versions = np.zeros(len(rows) - shown, dtype=np.int64)
                chunk = Chunk(rows.times[shown:], rows.symbols[shown:], FINAL, versions, values[:, shown:])
                yield IntervalValues(series.interval, engine.columns, [chunk])

    def record_known(self, batch: pa.RecordBatch) -> list[IntervalValues]:
        """Process a record whose bars the state already contains: reject its closed bars and return its withdrawals."""
        if batch.num_rows == 0:
            return []
        rows = self._read(batch)
        states = batch.column("state").cast(pa.utf8())
        names = batch.column("interval").cast(pa.utf8())
        made: list[IntervalValues] = []
        for name, engine in self.interval_engines.items():
            here = pc.equal(names, name)
            closed = pc.and_(here, pc.is_in(states, value_set=pa.array([STATES[FINAL], STATES[WITHDRAWN]])))
            which = np.flatnonzero(closed.to_numpy(zero_copy_only=False))
            if not len(which):
                continue
            self._reject(engine, rows.take(which), history=False)
            withdrawn = rows.take(
                np.flatnonzero(pc.and_(here, pc.equal(states, STATES[WITHDRAWN])).to_numpy(zero_copy_only=False))
            )
            if len(withdrawn):
                made.append(IntervalValues(name, engine.columns, [_withdrawals(engine, withdrawn)]))
        return made

    def rows_of(self, symbols: Sequence[str]) -> list[int]:
        """Return the rows of symbols; new symbols are added."""
        new = [symbol for symbol in dict.fromkeys(symbols) if symbol not in self._row_of]
        if new:
            self.add_symbols(new)
        return [self._row_of[symbol] for symbol in symbols]

    def _prepare(self, engine: IntervalEngine, rows: BarRows, which: Int64Array | BoolArray) -> BarRows:
        """Return the selected bars of one interval, adjusted for splits, with missing vwaps filled."""
        rows = rows.take(which)
        columns = dict(rows.columns)
        if self.splits.effective:
            before = np.flatnonzero(rows.times < self._last_splits()[rows.symbols])
            if len(before):
                daily = not engine.interval.is_intraday
                columns = self.splits.adjust(columns, rows.times, rows.symbols, self.symbols, before, daily=daily)
        if "vwap" in columns:
            vwap, high, low, close = (columns[name] for name in ("vwap", "high", "low", "close"))
            columns["vwap"] = fill_vwap(vwap, high, low, close, limit=MAX_VALUE)
        return BarRows(rows.symbols, rows.times, rows.versions, columns, rows.usable)

    def _last_splits(self) -> Int64Array:
        """Return `Splits.unadjusted_from` of all symbols, cached until splits or symbols change."""
        key = (self.splits.changes, len(self.symbols))
        if self._unadjusted_from[0] != key:
            self._unadjusted_from = key, self.splits.unadjusted_from(self.symbols)
        return self._unadjusted_from[1]

    def _reject(self, engine: IntervalEngine, rows: BarRows, *, history: bool) -> None:
        """Reject bars, and record the earliest bar of each symbol."""
        order = np.lexsort((rows.times, rows.symbols))
        symbols, first = np.unique(rows.symbols[order], return_index=True)
        for row, time_us in zip(symbols.tolist(), rows.times[order][first].tolist(), strict=True):
            self._rejected.append(RejectedBar(Series(engine.interval.name, self.symbols[row]), time_us, history))

    def _apply_closed(
        self, engine: IntervalEngine, rows: BarRows, withdrawn: BoolArray, history: BoolArray
    ) -> list[Chunk]:
        priced = rows.usable & ~withdrawn
        rows = BarRows(rows.symbols, rows.times, rows.versions, rows.columns, priced)
        late = rows.times <= engine.history.last_us[rows.symbols]
        self.counters.without_prices += int((~rows.usable & ~withdrawn).sum())
        competing = late & history & ~withdrawn
        if competing.any():
            self._reject(engine, rows.take(competing), history=True)
            late &= ~competing
            priced = priced & ~competing
        removed = np.flatnonzero(withdrawn | (late & ~priced))
        chunks = []
        if len(removed):
            chunks.append(_withdrawals(engine, rows.take(removed)))
        if late.any():
            chunks += self._revise(engine, rows.take(late))
        chunks += engine.close(rows.take(~late & priced))
        return chunks

    def _revise(self, engine: IntervalEngine, rows: BarRows) -> list[Chunk]:
        order = np.lexsort((rows.times, rows.symbols))
        bounds = np.flatnonzero(np.diff(rows.symbols[order])) + 1
        chunks = []
        for part in np.split(order, bounds):
            chunk, too_old = engine.revise(rows.take(part))
            self.counters.revisions += len(part) - too_old
            if too_old:
                self.counters.beyond_memory += too_old
                self._reject(engine, rows.take(part[:too_old]), history=False)
            if chunk is not None and len(chunk.times):
                chunks.append(chunk)
        return chunks

    def _apply_forming(self, engine: IntervalEngine, rows: BarRows) -> list[Chunk]:
        if not len(rows) or not self._forming_columns(engine):
            return []
        fresh = rows.times > engine.history.last_us[rows.symbols]
        self.counters.stale_forming += int((~fresh).sum())
        rows = rows.take(fresh & rows.usable)
        if not len(rows):
            return []
        return [Chunk(rows.times, rows.symbols, FORMING, rows.versions, engine.peek(rows, self._forming))]

    def _forming_columns(self, engine: IntervalEngine) -> tuple[str, ...]:
        chosen = (state.indicator for state in engine.states if state.indicator in self._forming)
        return tuple(name for indicator in chosen for name in indicator.columns)


def _withdrawals(engine: IntervalEngine, rows: BarRows) -> Chunk:
    values = np.full((len(engine.columns), len(rows)), np.nan)
    return Chunk(rows.times, rows.symbols, WITHDRAWN, rows.versions, values)


def _codes(column: pa.DictionaryArray) -> Int64Array:
    codes: Int64Array = column.indices.to_numpy().astype(np.int64, copy=False)
    return codes


def _words(batch: pa.RecordBatch, name: str) -> list[str]:
    words: list[str] = batch.column(name).dictionary.to_pylist()
    return words
