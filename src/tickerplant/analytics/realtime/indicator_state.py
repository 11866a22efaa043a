"""The state of one indicator in one interval, for all symbols, and its restoration at an earlier bar."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex
from tickerplant.analytics.realtime.history import grow_array
from tickerplant.core.times import BoolArray, Float64Array, Int64Array

CHECKPOINT_BARS: Final = 32
"""Bars between the checkpoints of a recursive indicator. A revision replays half of them on average, in about
3 µs. An RSI with 24 bytes per state and 1,856 retained bars needs 1.4 kB per symbol; one checkpoint per bar would need
45 kB."""

Inputs = tuple[Float64Array, ...]


class IndicatorState:
    """The states of one indicator for all symbols of an interval.

    `start` contains the position of each symbol's first counted bar. Outputs of bars before the end of the
    warm-up are NaN here and null in records.
    """

    def __init__(self, indicator: Indicator, depth: int, capacity: int = 0) -> None:
        self.indicator = indicator
        self.state = np.zeros((indicator.width, capacity))
        self.start = np.zeros(capacity, dtype=np.int64)
        self._slots = 0 if indicator.block else depth // CHECKPOINT_BARS + 2
        self.checkpoints = np.zeros((capacity, self._slots, indicator.width if self._slots else 0))

    def grow(self, capacity: int) -> None:
        """Allocate states for rows up to `capacity`, exclusive."""
        state = np.zeros((self.indicator.width, capacity))
        state[:, : self.state.shape[1]] = self.state
        self.state = state
        self.start = grow_array(self.start, capacity)
        self.checkpoints = grow_array(self.checkpoints, capacity)

    def resize(self, depth: int, count: Int64Array) -> None:
        """Resize the checkpoints for a different depth of history. `count` is every symbol's count of bars."""
        former, before = self.checkpoints, self._slots
        self._slots = 0 if self.indicator.block else depth // CHECKPOINT_BARS + 2
        if self._slots == before:
            return
        self.checkpoints = np.zeros((len(former), self._slots, self.indicator.width))
        for row, last in enumerate((count - self.start) // CHECKPOINT_BARS):
            numbers = np.arange(max(1, last - min(before, self._slots) + 1), last + 1)
            self.checkpoints[row, numbers % self._slots] = former[row, numbers % before]

    def step(self, rows: RowIndex, count: Count, inputs: Inputs, *, keep: bool) -> list[Float64Array]:
        """Process one bar of each symbol in `rows` and return the outputs, NaN during the warm-up.

        `count` is each symbol's count of earlier bars. A slice of rows requires one count, and equal starts
        (`same_start`).
        """
        if isinstance(rows, slice):
            return self._step_slice(rows, int(count) - int(self.start[rows.start]), inputs, keep=keep)
        index = count - self.start[rows]
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
        warmups = self.indicator.warmups
        return [np.where(index < warmup - 1, np.nan, values) for warmup, values in zip(warmups, made, strict=True)]

    def same_start(self, rows: slice) -> bool:
        """Return whether the first counted bar of all these symbols has the same position."""
        start = self.start[rows]
        return bool((start == start[0]).all())

    def _step_slice(self, rows: slice, index: int, inputs: Inputs, *, keep: bool) -> list[Float64Array]:
        made = self.indicator.step(self.state, rows, index, inputs, keep=keep)
        if keep and self._slots and (index + 1) % CHECKPOINT_BARS == 0:
            self.checkpoints[rows, (index + 1) // CHECKPOINT_BARS % self._slots] = self.state[:, rows].T
        if index < self.indicator.warmup - 1:
            warmups = self.indicator.warmups
            return [
                np.full(len(values), np.nan) if index < warmup - 1 else values
                for warmup, values in zip(warmups, made, strict=True)
            ]
        return list(made)

    def rewind(self, row: int, position: int) -> int:
        """Restore the symbol's state at or before `position`; return the position of the bar to continue with.

        A position before the symbol's start becomes its new start.
        """
        first = int(self.start[row])
        if position < first:
            self.start[row] = first = position
        index = position - first
        block = self.indicator.block
        if block:
            replay = max(index // block - 1, 0) * block
            self.state[:, row] = 0.0
        else:
            replay = index // CHECKPOINT_BARS * CHECKPOINT_BARS
            self.state[:, row] = self.checkpoints[row, replay // CHECKPOINT_BARS % self._slots] if replay else 0.0
        return first + replay

    def reset(self, row: int) -> None:
        """Set a symbol's state to the state before its first bar, at position 0."""
        self.start[row] = 0
        self.state[:, row] = 0.0

    def run(self, row: int, position: int, inputs: Inputs) -> Float64Array:
        """Process many bars of one symbol, the first at `position`; return float64[outputs, bars], NaN in warm-up."""
        index = position - int(self.start[row])
        state = self.state[:, row].copy()
        outputs, trace = self.indicator.run(state, index, inputs)
        self.state[:, row] = state
        # Save before the outputs are masked: a trace may share their memory, and a state during warm-up is not NaN.
        if trace is not None:
            self._save_checkpoints(row, index, trace)
        for warmup, values in zip(self.indicator.warmups, outputs, strict=True):
            values[: max(warmup - 1 - index, 0)] = np.nan
        return outputs

    def valid_checkpoints(self, count: Int64Array, symbols: int) -> BoolArray:
        """Return a mask of the slots that contain a state, for the first `symbols` rows: bool[symbols, slots]."""
        if not self._slots:
            return np.zeros((symbols, 0), dtype=np.bool_)
        last = ((count - self.start) // CHECKPOINT_BARS)[:symbols, None]
        age = (last - np.arange(self._slots)) % self._slots
        valid: BoolArray = last - age >= 1
        return valid

    def _save_checkpoints(self, row: int, index: int, trace: Float64Array) -> None:
        first = -(-(index + 1) // CHECKPOINT_BARS)
        last = (index + len(trace)) // CHECKPOINT_BARS
        numbers = np.arange(max(first, last - self._slots + 1), last + 1)
        self.checkpoints[row, numbers % self._slots] = trace[numbers * CHECKPOINT_BARS - 1 - index]
