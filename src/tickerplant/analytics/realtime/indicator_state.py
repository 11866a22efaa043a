"""One indicator at work in one interval: the states of all symbols, and the way back to a former bar."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place
from tickerplant.analytics.realtime.history import grown
from tickerplant.core.times import BoolArray, Float64Array, Int64Array

CHECKPOINT_BARS: Final = 32
"""Bars between kept states of a recursive indicator. A revision runs half of that again on average, some 3 µs; at RSI's
24 bytes a state and 1,856 remembered bars it is 1.4 kB a symbol, where every bar would be 45 kB."""

Inputs = tuple[Float64Array, ...]


class Study:
    """States of one indicator. `born` is the position of a symbol's first bar that counts: its recorded start.

    Values of bars before the warm-up is over are NaN here and null in records.
    """

    def __init__(self, indicator: Indicator, depth: int, capacity: int = 0) -> None:
        self.indicator = indicator
        self.state = np.zeros((indicator.width, capacity))
        self.born = np.zeros(capacity, dtype=np.int64)
        self._slots = 0 if indicator.block else depth // CHECKPOINT_BARS + 2
        self.checkpoints = np.zeros((capacity, self._slots, indicator.width if self._slots else 0))

    @property
    def reach(self) -> int:
        """How many bars before a bar must be remembered so that the state at it can be made again."""
        return 2 * self.indicator.block or CHECKPOINT_BARS

    def grow(self, capacity: int) -> None:
        """Make room for symbols up to row `capacity`, exclusive."""
        state = np.zeros((self.indicator.width, capacity))
        state[:, : self.state.shape[1]] = self.state
        self.state = state
        self.born = grown(self.born, capacity)
        self.checkpoints = grown(self.checkpoints, capacity)

    def resize(self, depth: int, count: Int64Array) -> None:
        """Keep as many states as another depth of history asks for; `count` is every symbol's number of bars."""
        former, before = self.checkpoints, self._slots
        self._slots = 0 if self.indicator.block else depth // CHECKPOINT_BARS + 2
        if self._slots == before:
            return
        self.checkpoints = np.zeros((len(former), self._slots, self.indicator.width))
        for row, last in enumerate((count - self.born) // CHECKPOINT_BARS):
            marks = np.arange(max(1, last - min(before, self._slots) + 1), last + 1)
            self.checkpoints[row, marks % self._slots] = former[row, marks % before]

    def step(self, rows: Place, count: Count, inputs: Inputs, *, keep: bool) -> list[Float64Array]:
        """Take one bar of each symbol in `rows`, of which `count` came before; return the outputs, NaN until warm.

        A slice of rows comes with one count, and symbols that were born together (`together`).
        """
        if isinstance(rows, slice):
            return self._step_together(rows, int(count) - int(self.born[rows.start]), inputs, keep=keep)
        index = count - self.born[rows]
        made = self.indicator.step(self.state, rows, index, inputs, keep=keep)
        cold = index < self.indicator.warmup - 1
        if keep and self._slots:
            due = (index + 1) % CHECKPOINT_BARS == 0
            if due.any():
                chosen = rows[due]
                slot = (index[due] + 1) // CHECKPOINT_BARS % self._slots
                self.checkpoints[chosen, slot] = self.state[:, chosen].T
        if not cold.any():
            return list(made)
        dues = self.indicator.warmups
        return [np.where(index < due - 1, np.nan, values) for due, values in zip(dues, made, strict=True)]

    def together(self, rows: slice) -> bool:
        """Say whether these symbols' recorded starts are the same."""
        born = self.born[rows]
        return bool((born == born[0]).all())

    def _step_together(self, rows: slice, index: int, inputs: Inputs, *, keep: bool) -> list[Float64Array]:
        made = self.indicator.step(self.state, rows, index, inputs, keep=keep)
        if keep and self._slots and (index + 1) % CHECKPOINT_BARS == 0:
            self.checkpoints[rows, (index + 1) // CHECKPOINT_BARS % self._slots] = self.state[:, rows].T
        if index < self.indicator.warmup - 1:
            dues = self.indicator.warmups
            return [
                np.full(len(values), np.nan) if index < due - 1 else values
                for due, values in zip(dues, made, strict=True)
            ]
        return list(made)

    def rewind(self, row: int, position: int) -> int:
        """Set the symbol's state back to a bar at or before `position`; return the position of the bar to go on with.

        A bar before the recorded start moves that start to itself.
        """
        born = int(self.born[row])
        if position < born:
            self.born[row] = born = position
        index = position - born
        block = self.indicator.block
        if block:
            start = max(index // block - 1, 0) * block
            self.state[:, row] = 0.0
        else:
            start = index // CHECKPOINT_BARS * CHECKPOINT_BARS
            self.state[:, row] = self.checkpoints[row, start // CHECKPOINT_BARS % self._slots] if start else 0.0
        return born + start

    def forget(self, row: int) -> None:
        """Set a symbol's state back to before its first bar, whose position is 0."""
        self.born[row] = 0
        self.state[:, row] = 0.0

    def run(self, row: int, position: int, inputs: Inputs) -> Float64Array:
        """Take many bars of one symbol, the first at `position`; return float64[outputs, bars], NaN until warm."""
        index = position - int(self.born[row])
        state = self.state[:, row].copy()
        outputs, trace = self.indicator.run(state, index, inputs)
        self.state[:, row] = state
        # Kept first: a trace may share the outputs' memory, and a state of the warm-up is a number, not the NaN shown.
        if trace is not None:
            self._keep(row, index, trace)
        for due, values in zip(self.indicator.warmups, outputs, strict=True):
            values[: max(due - 1 - index, 0)] = np.nan
        return outputs

    def valid(self, count: Int64Array, symbols: int) -> BoolArray:
        """Return which slots of the first `symbols` rings hold a state: bool[symbols, slots]."""
        if not self._slots:
            return np.zeros((symbols, 0), dtype=np.bool_)
        last = ((count - self.born) // CHECKPOINT_BARS)[:symbols, None]
        age = (last - np.arange(self._slots)) % self._slots
        valid: BoolArray = last - age >= 1
        return valid

    def _keep(self, row: int, index: int, trace: Float64Array) -> None:
        first = -(-(index + 1) // CHECKPOINT_BARS)
        last = (index + len(trace)) // CHECKPOINT_BARS
        marks = np.arange(max(first, last - self._slots + 1), last + 1)
        self.checkpoints[row, marks % self._slots] = trace[marks * CHECKPOINT_BARS - 1 - index]
