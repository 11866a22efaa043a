"""Base class for indicators whose state depends on all bars since the first bar. `step` and `run` share one formula.

A formula consists of elementwise operations on arrays. It requests from `Past` the values that depend on earlier bars.
Such a value is that of a series one bar ago, a running average or sum (`smoothing`), or another recursion. Each request
uses the next floats of the state. A formula must therefore make the same requests in the same order every time. An
array contains one value per symbol in `step`, and one value per bar in `run`. The operations, and therefore the bits,
are the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run
from tickerplant.core.times import Float64Array


class Average(Protocol):
    """An average or sum whose state is its value; see `smoothing`."""

    def step(self, before: Float64Array, index: Count, x: Float64Array) -> Float64Array:
        """Process one value of each symbol and return the new state."""
        ...

    def run(self, before: float, index: int, x: Float64Array) -> Float64Array:
        """Process many values of one symbol and return the state after each."""
        ...


class Recursion(Protocol):
    """A recursion with a state of `width` floats. `step` and `run` apply the same operations in the same order."""

    @property
    def width(self) -> int:
        """Return the count of state floats."""
        ...

    def step(self, before: tuple[Float64Array, ...], index: Count, *x: Float64Array) -> tuple[Float64Array, ...]:
        """Process one value of each series for each symbol and return the new state: the old one where `index` < 0.

        The arrays of `before` may be views of the state and must not be modified.
        """
        ...

    def run(self, before: tuple[float, ...], index: int, *x: list[float]) -> Iterable[tuple[float, ...]]:
        """Process many values of each series for one symbol, as plain floats, and return the state after each."""
        ...


class Past(Protocol):
    """A formula's access to earlier bars. `start` is the first bar of the series; earlier values are ignored."""

    index: Count
    """Count of earlier bars: per symbol in `step`, per bar in `run`."""

    def last(self, x: Float64Array) -> Float64Array:
        """Return the value of `x` one bar ago; 0 in the first bar."""
        ...

    def smooth(self, average: Average, x: Float64Array, start: int = 0) -> Float64Array:
        """Return the average or sum of `x` so far."""
        ...

    def recur(self, recursion: Recursion, *x: Float64Array, start: int = 0) -> tuple[Float64Array, ...]:
        """Return the state of the recursion over these series."""
        ...


class Recursive(Indicator):
    """A formula over `Past`. `declare` sets `width` to the count of floats that its requests use."""

    @abstractmethod
    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return one array per output. Must not modify its arguments, nor warn where a series has not started."""

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol by `formula`; return the outputs."""
        past = _StepPast(state, rows, index)
        outputs = self.formula(past, *inputs)
        if keep:
            past.write()
        return outputs

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol by `formula`; return outputs and states."""
        bars = len(inputs[0])
        past = _RunPast(state, index, bars)
        outputs = np.array(self.formula(past, *inputs)).reshape(len(self.OUTPUTS), bars)
        if bars:
            state[:] = past.trace[:, -1]
        return Run(outputs, past.trace.T)


class _StepPast:
    """`Past` for one bar of many symbols."""

    def __init__(self, state: Float64Array, rows: RowIndex, index: Count) -> None:
        self.index = index
        self._state, self._rows = state, rows
        self._after: list[Float64Array] = []

    def last(self, x: Float64Array) -> Float64Array:
        before: Float64Array = self._state[len(self._after)][self._rows]
        self._after.append(x)
        return before

    def smooth(self, average: Average, x: Float64Array, start: int = 0) -> Float64Array:
        value = average.step(self._state[len(self._after)][self._rows], self.index - start, x)
        self._after.append(value)
        return value

    def recur(self, recursion: Recursion, *x: Float64Array, start: int = 0) -> tuple[Float64Array, ...]:
        first = len(self._after)
        before = tuple(self._state[first + number][self._rows] for number in range(recursion.width))
        values = recursion.step(before, self.index - start, *x)
        self._after.extend(values)
        return values

    def write(self) -> None:
        # Write backwards: a result of `last` may be a view of the state, and a later `last` may store that view.
        for slot in range(len(self._after) - 1, -1, -1):
            self._state[slot][self._rows] = self._after[slot]


class _RunPast:
    """`Past` for many bars of one symbol. `trace` is float64[width, bars], the state after each bar."""

    def __init__(self, state: Float64Array, index: int, bars: int) -> None:
        self.index: Count = np.arange(index, index + bars)
        self.trace = np.empty((len(state), bars))
        self._state, self._first, self._slot = state, index, 0

    def last(self, x: Float64Array) -> Float64Array:
        before = np.concatenate([self._state[self._slot : self._slot + 1], x])[:-1]
        self._keep(x)
        return before

    def smooth(self, average: Average, x: Float64Array, start: int = 0) -> Float64Array:
        values = average.run(float(self._state[self._slot]), self._first - start, x)
        self._keep(values)
        return values

    def recur(self, recursion: Recursion, *x: Float64Array, start: int = 0) -> tuple[Float64Array, ...]:
        width, first = recursion.width, self._slot
        before = tuple(self._state[first : first + width].tolist())
        states = list(recursion.run(before, self._first - start, *(values.tolist() for values in x)))
        values = tuple(np.array(states, dtype=np.float64).reshape(-1, width).T)
        for series in values:
            self._keep(series)
        return values

    def _keep(self, x: Float64Array) -> None:
        self.trace[self._slot] = x
        self._slot += 1
