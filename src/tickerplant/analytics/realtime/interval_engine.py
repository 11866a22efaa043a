"""All indicators of one interval, for all symbols of a partition: closed bars, forming bars and revisions.

Bars are processed in one of two orders: many symbols at one time, or many bars of one symbol. Both give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex
from tickerplant.analytics.realtime.history import BarHistory, Columns
from tickerplant.analytics.realtime.indicator_state import CHECKPOINT_BARS, IndicatorState
from tickerplant.core.interval import Interval
from tickerplant.core.times import DAY_US, BoolArray, Float64Array, Int64Array

SESSION_BARS: Final = 64
"""Minimum bars that are retained per session of the revision window: a quarter of a year of daily bars. An intraday
session counts as a whole day of bars."""
ACTIVITY_BARS: Final = 1440
"""Activity bars that count as one session: the minutes of a day, so that both need the same memory."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Value rows of one interval. `values`: float64[outputs, rows], NaN for no value. `state`: index into STATES."""

    times: Int64Array
    symbols: Int64Array
    state: int
    versions: Int64Array
    values: Float64Array


@dataclass(frozen=True, slots=True)
class BarRows:
    """Bars as columns. `symbols` contains row numbers of the engine. `usable` is a mask of the bars with prices."""

    symbols: Int64Array
    times: Int64Array
    versions: Int64Array
    columns: Mapping[str, Float64Array]
    usable: BoolArray

    def __len__(self) -> int:
        return len(self.symbols)

    def take(self, which: Int64Array | BoolArray) -> BarRows:
        """Return the rows at these indices, or the rows that a mask selects."""
        if which.dtype == np.bool_ and which.all():
            return self
        columns = {name: values[which] for name, values in self.columns.items()}
        return BarRows(self.symbols[which], self.times[which], self.versions[which], columns, self.usable[which])


class IntervalEngine:
    """The bar history and the indicator states of one interval. `indicators` are unique, in column order."""

    def __init__(self, interval: Interval, indicators: Sequence[Indicator], sessions: int, capacity: int = 0) -> None:
        self.interval = interval
        self._capacity = capacity
        self.states: list[IndicatorState] = []
        self.history = BarHistory((), CHECKPOINT_BARS, capacity)
        self.set_indicators(indicators, sessions)

    def set_indicators(self, indicators: Sequence[Indicator], sessions: int) -> None:
        """Replace the set of indicators; retain bars for revisions within `sessions` sessions.

        Indicators that are in both sets keep their states. A new indicator starts with the retained bars. If it reads a
        column that no previous indicator read, it starts with the next bar.
        """
        a_day = ACTIVITY_BARS if self.interval.is_activity else DAY_US // self.interval.us
        session = max(a_day, SESSION_BARS) * max(sessions, 1)
        blocks = [2 * indicator.block for indicator in indicators]
        self._replay_bars = max([CHECKPOINT_BARS, *blocks])
        depth = self._replay_bars + session
        inputs = sorted({name for indicator in indicators for name in indicator.INPUTS})
        former = set(self.history.columns)
        if depth != self.history.depth or set(inputs) != former:
            self.history = self.history.resized(inputs, depth)
        kept = {state.indicator: state for state in self.states}
        self.states = []
        for indicator in indicators:
            state = kept.get(indicator)
            if state is None:
                state = IndicatorState(indicator, depth, self._capacity)
                self._replay_history(state, known=former.issuperset(indicator.INPUTS))
            else:
                state.resize(depth, self.history.count)
            self.states.append(state)
        self.columns = tuple(name for state in self.states for name in state.indicator.columns)

    def _replay_history(self, state: IndicatorState, *, known: bool) -> None:
        """Run a new indicator over the retained bars, if the history has all its columns (`known`)."""
        history = self.history
        state.start = history.count - history.retained if known else history.count.copy()
        if not known:
            return
        for row in np.flatnonzero(history.retained).tolist():
            start = history.oldest(row)
            bars = history.read(row, start, int(history.count[row]))
            state.run(row, start, tuple(bars[name] for name in state.indicator.INPUTS))

    def grow(self, capacity: int) -> None:
        """Allocate memory for rows up to `capacity`, exclusive."""
        self._capacity = capacity
        self.history.grow(capacity)
        for state in self.states:
            state.grow(capacity)

    def reset(self, row: int) -> None:
        """Remove all bars and states of a symbol."""
        self.history.reset(row)
        for state in self.states:
            state.reset(row)

    def newest_values(self, row: int) -> Float64Array | None:
        """Return the values of a symbol's newest bar: float64[outputs]. None without that bar, or if an indicator
        starts later.

        The values are computed again from an earlier state, so that no state changes.
        """
        history = self.history
        position = int(history.count[row]) - 1
        if history.retained[row] < 1 or any(state.start[row] > position for state in self.states):
            return None
        bar = history.read(row, position, position + 1)
        values: Float64Array = self._extend(row, position, history.last_us[row : row + 1].copy(), bar)[:, 0]
        return values

    def peek(self, rows: BarRows, chosen: Iterable[Indicator]) -> Float64Array:
        """Return the values of the chosen indicators as if these bars closed now: float64[outputs, rows]."""
        wanted, index = set(chosen), self._row_index(rows.symbols)
        values = [
            output
            for state in self.states
            if state.indicator in wanted
            for output in self._step(state, *index, rows.columns, keep=False)
        ]
        return np.array(values).reshape(len(values), len(rows))

    def close(self, rows: BarRows) -> list[Chunk]:
        """Process closed bars, each later than all bars of its symbol, and return their values.

        Bars are grouped by time or by symbol, whichever gives fewer groups.
        """
        if not len(rows):
            return []
        if (rows.times == rows.times[0]).all():
            return [self._close_time(rows, int(rows.times[0]))]
        times, symbols = np.unique(rows.times), np.unique(rows.symbols)
        if len(times) <= len(symbols):
            order = np.argsort(rows.times, kind="stable")
            bounds = np.searchsorted(rows.times[order], times)[1:]
            return [
                self._close_time(rows.take(part), int(time))
                for time, part in zip(times, np.split(order, bounds), strict=True)
            ]
        order = np.lexsort((rows.times, rows.symbols))
        bounds = np.searchsorted(rows.symbols[order], symbols)[1:]
        return [self._close_symbol(rows.take(part)) for part in np.split(order, bounds)]

    def _row_index(self, symbols: Int64Array) -> tuple[RowIndex, Count]:
        """Return the symbols' index into the states, and their bar counts: a slice and one count if possible."""
        first, count = int(symbols[0]), len(symbols)
        if int(symbols[-1]) == first + count - 1 and (np.diff(symbols) == 1).all():
            counts = self.history.count[first : first + count]
            if (counts == counts[0]).all():
                return slice(first, first + count), int(counts[0])
        return symbols, self.history.count[symbols]

    def _step(
        self, state: IndicatorState, rows: RowIndex, count: Count, columns: Columns, *, keep: bool
    ) -> list[Float64Array]:
        inputs = tuple(columns[name] for name in state.indicator.INPUTS)
        if isinstance(rows, slice) and not state.same_start(rows):
            rows, count = np.arange(rows.start, rows.stop), self.history.count[rows]
        return state.step(rows, count, inputs, keep=keep)

    def _close_time(self, rows: BarRows, time_us: int) -> Chunk:
        index, count = self._row_index(rows.symbols)
        values = [
            output for state in self.states for output in self._step(state, index, count, rows.columns, keep=True)
        ]
        self.history.append(index, count, time_us, rows.columns)
        matrix = np.array(values).reshape(len(self.columns), len(rows))
        return Chunk(rows.times, rows.symbols, 1, rows.versions, matrix)

    def _close_symbol(self, rows: BarRows) -> Chunk:
        row = int(rows.symbols[0])
        values = self._extend(row, int(self.history.count[row]), rows.times, rows.columns)
        return Chunk(rows.times, rows.symbols, 1, rows.versions, values)

    def _extend(self, row: int, position: int, times: Int64Array, columns: Columns) -> Float64Array:
        """Replace a symbol's bars from `position` on with these bars; return their values: float64[outputs, bars]."""
        history = self.history
        revised = position < history.count[row]
        starts = [state.rewind(row, position) if revised else position for state in self.states]
        first = min(starts, default=position)
        before = history.read(row, first, position)
        series = {name: np.concatenate([before[name], columns[name]]) for name in before}
        values = [
            state.run(row, start, tuple(series[name][start - first :] for name in state.indicator.INPUTS))[
                :, position - start :
            ]
            for state, start in zip(self.states, starts, strict=True)
        ]
        history.replace(row, position, times, columns)
        return np.concatenate(values) if values else np.empty((0, len(times)))

    def extend(self, row: int, times: Int64Array, columns: Columns) -> Float64Array:
        """Append many bars of a symbol, later than all its bars, and return their values: float64[outputs, bars]."""
        return self._extend(row, int(self.history.count[row]), times, columns)

    def revise(self, rows: BarRows) -> tuple[Chunk | None, int]:
        """Apply bars of one symbol at or before its newest bar, in order of time. A row without prices removes its bar.

        Return the changed values, from the first different bar on, and the count of rows that are too old. The values
        have the version of the revision. A row that is too old precedes the bars that can be computed again. It is not
        applied and changes no value.
        """
        row, history = int(rows.symbols[0]), self.history
        oldest, known = history.oldest(row), history.read_times(row)
        too_old = 0
        if oldest:  # older bars were dropped, so the first retained bars cannot be computed again
            replay = self._replay_bars
            too_old = int(np.searchsorted(rows.times, known[replay] if len(known) > replay else known[-1] + 1))
            rows = rows.take(np.arange(too_old, len(rows)))
        if not len(rows):
            return None, too_old
        first = int(np.searchsorted(known, rows.times[0]))
        position, count = oldest + first, int(history.count[row])
        old_times, old = known[first:], history.read(row, position, count)
        times = np.concatenate([old_times, rows.times])
        order = np.argsort(times, kind="stable")
        newest = np.append(times[order][1:] != times[order][:-1], True)
        usable = np.concatenate([np.ones(len(old_times), dtype=np.bool_), rows.usable])
        chosen = order[newest]
        chosen = chosen[usable[chosen]]
        merged = {name: np.concatenate([old[name], rows.columns[name]])[chosen] for name in old}
        revised = times[chosen]
        values = self._extend(row, position, revised, merged)
        shown = np.isin(revised, rows.times)
        shown[_first_difference(old_times, old, revised, merged) :] = True
        versions = np.full(int(shown.sum()), rows.versions.max())
        return Chunk(revised[shown], np.full(len(versions), row), 1, versions, values[:, shown]), too_old


def _first_difference(times: Int64Array, columns: Columns, new_times: Int64Array, new_columns: Columns) -> int:
    """Return the index of the first bar that differs between both series; if none does, their common length."""
    common = min(len(times), len(new_times))
    same = times[:common] == new_times[:common]
    for name, values in columns.items():
        same &= values[:common] == new_columns[name][:common]
    return common if same.all() else int(np.argmin(same))
