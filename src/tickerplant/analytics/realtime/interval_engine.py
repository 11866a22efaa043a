"""All indicators of one interval, for all symbols of a partition: closing, peeking and revising.

Whatever way a bar takes through here, symbols side by side or one symbol's bars in a row, its values have the same
bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place
from tickerplant.analytics.realtime.history import Columns, History
from tickerplant.analytics.realtime.indicator_state import CHECKPOINT_BARS, Study
from tickerplant.core.interval import Interval
from tickerplant.core.times import DAY_US, BoolArray, Float64Array, Int64Array

SESSION_BARS: Final = 64
"""The least number of bars that can be revised: for daily bars a quarter. Intraday it is a round-the-clock session."""
ACTIVITY_BARS: Final = 1440
"""How many bars by activity stand for a session: as many as a round-the-clock one has minutes, for as much memory."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one interval: values are float64[outputs, rows], NaN where there is none. `state` indexes STATES."""

    times: Int64Array
    symbols: Int64Array
    state: int
    versions: Int64Array
    values: Float64Array


@dataclass(frozen=True, slots=True)
class Rows:
    """Bars of one interval as they come: row of the symbol, time, version, the columns, and which have prices."""

    symbols: Int64Array
    times: Int64Array
    versions: Int64Array
    columns: Mapping[str, Float64Array]
    usable: BoolArray

    def __len__(self) -> int:
        return len(self.symbols)

    def take(self, which: Int64Array | BoolArray) -> Rows:
        """Return these rows alone."""
        if which.dtype == np.bool_ and which.all():
            return self
        columns = {name: values[which] for name, values in self.columns.items()}
        return Rows(self.symbols[which], self.times[which], self.versions[which], columns, self.usable[which])


class Pane:
    """States of one interval. `indicators` are unique and in the order of their columns."""

    def __init__(self, interval: Interval, indicators: Sequence[Indicator], sessions: int, capacity: int = 0) -> None:
        self.interval = interval
        self._capacity = capacity
        self.studies: list[Study] = []
        self.history = History((), CHECKPOINT_BARS, capacity)
        self.change(indicators, sessions)

    def change(self, indicators: Sequence[Indicator], sessions: int) -> None:
        """Go on with another set. What stays keeps its states; what is new begins with the remembered bars.

        An indicator that reads a column which nobody read before begins with the next bar.
        """
        a_day = ACTIVITY_BARS if self.interval.is_activity else DAY_US // self.interval.us
        session = max(a_day, SESSION_BARS) * max(sessions, 1)
        blocks = [2 * indicator.block for indicator in indicators]
        self._reach = max([CHECKPOINT_BARS, *blocks])
        depth = self._reach + session
        inputs = sorted({name for indicator in indicators for name in indicator.INPUTS})
        former = set(self.history.columns)
        if depth != self.history.depth or set(inputs) != former:
            self.history = self.history.resized(inputs, depth)
        stay = {study.indicator: study for study in self.studies}
        self.studies = []
        for indicator in indicators:
            study = stay.get(indicator)
            if study is None:
                study = Study(indicator, depth, self._capacity)
                self._warm(study, known=former.issuperset(indicator.INPUTS))
            else:
                study.resize(depth, self.history.count)
            self.studies.append(study)
        self.columns = tuple(name for study in self.studies for name in study.indicator.columns)

    def _warm(self, study: Study, *, known: bool) -> None:
        history = self.history
        study.born = history.count - history.kept if known else history.count.copy()
        if not known:
            return
        for row in np.flatnonzero(history.kept).tolist():
            start = history.oldest(row)
            bars = history.read(row, start, int(history.count[row]))
            study.run(row, start, tuple(bars[name] for name in study.indicator.INPUTS))

    def grow(self, capacity: int) -> None:
        """Make room for symbols up to row `capacity`, exclusive."""
        self._capacity = capacity
        self.history.grow(capacity)
        for study in self.studies:
            study.grow(capacity)

    def forget(self, row: int) -> None:
        """Let a symbol begin anew, as if it had had no bars."""
        self.history.forget(row)
        for study in self.studies:
            study.forget(row)

    def newest(self, row: int) -> Float64Array | None:
        """Return the values of a symbol's newest bar, float64[outputs]; None where an indicator has not begun by then.

        Run again from a former state, which leaves everything as it is.
        """
        history = self.history
        position = int(history.count[row]) - 1
        if history.kept[row] < 1 or any(study.born[row] > position for study in self.studies):
            return None
        bar = history.read(row, position, position + 1)
        values: Float64Array = self._extend(row, position, history.last[row : row + 1].copy(), bar)[:, 0]
        return values

    def peek(self, rows: Rows, chosen: Iterable[Indicator]) -> Float64Array:
        """Return the values of the chosen indicators as if these bars closed now: float64[outputs, rows]."""
        wanted, place = set(chosen), self._place(rows.symbols)
        values = [
            output
            for study in self.studies
            if study.indicator in wanted
            for output in self._step(study, *place, rows.columns, keep=False)
        ]
        return np.array(values).reshape(len(values), len(rows))

    def close(self, rows: Rows) -> list[Chunk]:
        """Take closed bars, each later than all that its symbol has, and return their values.

        One time after the other, or one symbol after the other, whichever are fewer.
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

    def _place(self, symbols: Int64Array) -> tuple[Place, Count]:
        """Return where these symbols' states are and how many bars they had: a slice and one number if that fits."""
        first, count = int(symbols[0]), len(symbols)
        if int(symbols[-1]) == first + count - 1 and (np.diff(symbols) == 1).all():
            counts = self.history.count[first : first + count]
            if (counts == counts[0]).all():
                return slice(first, first + count), int(counts[0])
        return symbols, self.history.count[symbols]

    def _step(self, study: Study, rows: Place, count: Count, columns: Columns, *, keep: bool) -> list[Float64Array]:
        inputs = tuple(columns[name] for name in study.indicator.INPUTS)
        if isinstance(rows, slice) and not study.together(rows):
            rows, count = np.arange(rows.start, rows.stop), self.history.count[rows]
        return study.step(rows, count, inputs, keep=keep)

    def _close_time(self, rows: Rows, time_us: int) -> Chunk:
        place, count = self._place(rows.symbols)
        values = [
            output for study in self.studies for output in self._step(study, place, count, rows.columns, keep=True)
        ]
        self.history.push(place, count, time_us, rows.columns)
        matrix = np.array(values).reshape(len(self.columns), len(rows))
        return Chunk(rows.times, rows.symbols, 1, rows.versions, matrix)

    def _close_symbol(self, rows: Rows) -> Chunk:
        row = int(rows.symbols[0])
        values = self._extend(row, int(self.history.count[row]), rows.times, rows.columns)
        return Chunk(rows.times, rows.symbols, 1, rows.versions, values)

    def _extend(self, row: int, position: int, times: Int64Array, columns: Columns) -> Float64Array:
        """Put a symbol's bars at `position` in place of what was there and return the values of all of them."""
        history = self.history
        again = position < history.count[row]
        starts = [study.rewind(row, position) if again else position for study in self.studies]
        lead = min(starts, default=position)
        before = history.read(row, lead, position)
        series = {name: np.concatenate([before[name], columns[name]]) for name in before}
        values = [
            study.run(row, start, tuple(series[name][start - lead :] for name in study.indicator.INPUTS))[
                :, position - start :
            ]
            for study, start in zip(self.studies, starts, strict=True)
        ]
        history.replace(row, position, times, columns)
        return np.concatenate(values) if values else np.empty((0, len(times)))

    def extend(self, row: int, times: Int64Array, columns: Columns) -> Float64Array:
        """Take many bars of a symbol, later than all it has, and return float64[outputs, bars]."""
        return self._extend(row, int(self.history.count[row]), times, columns)

    def revise(self, rows: Rows) -> tuple[Chunk | None, int]:
        """Take one symbol's bars at or before its newest, in time order; one without prices takes its bar away.

        Returns the values that change, from the first bar that differs on, with the version of the revision, and how
        many bars were older than memory: those are left alone, they and what follows them keep the values they have.
        """
        row, history = int(rows.symbols[0]), self.history
        oldest, known = history.oldest(row), history.read_times(row)
        beyond = 0
        if oldest:  # something is forgotten, so the first bars here lack what went before them
            beyond = int(np.searchsorted(rows.times, known[self._reach] if len(known) > self._reach else known[-1] + 1))
            rows = rows.take(np.arange(beyond, len(rows)))
        if not len(rows):
            return None, beyond
        place = int(np.searchsorted(known, rows.times[0]))
        position, count = oldest + place, int(history.count[row])
        old_times, old = known[place:], history.read(row, position, count)
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
        return Chunk(revised[shown], np.full(len(versions), row), 1, versions, values[:, shown]), beyond


def _first_difference(times: Int64Array, columns: Columns, new_times: Int64Array, new_columns: Columns) -> int:
    """Return the index of the first bar that is not the same in both series; their common length if there is none."""
    common = min(len(times), len(new_times))
    same = times[:common] == new_times[:common]
    for name, values in columns.items():
        same &= values[:common] == new_columns[name][:common]
    return common if same.all() else int(np.argmin(same))
