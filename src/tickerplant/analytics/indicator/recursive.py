"""Indicators whose state goes back to the first bar: one formula, of which the step and the run both are made.

A formula is written on arrays with elementwise operations, and asks `Past` for what depends on earlier bars: the value
that a series had a bar ago, an average or a sum of it that goes on (`smoothing`), or any other recursion. Each such
request takes the next of the state's floats, so a formula makes the same requests in the same order every time. In a
step the arrays lie along the symbols, in a run along one symbol's bars; the operations are the same, and so are the
bits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place, Run
from tickerplant.core.times import Float64Array


class Average(Protocol):
    """An average or sum whose state is its value: see `smoothing`."""

    def step(self, before: Float64Array, index: Count, x: Float64Array) -> Float64Array:
        """Take one value of each symbol and return the new state."""
        ...

    def run(self, before: float, index: int, x: Float64Array) -> Float64Array:
        """Take many values of one symbol and return the state after each."""
        ...


class Recursion(Protocol):
    """Any other recursion. `step` and `run` do the same operations in the same order."""

    @property
    def width(self) -> int:
        """The floats of its state."""
        ...

    def step(self, before: tuple[Float64Array, ...], index: Count, *x: Float64Array) -> tuple[Float64Array, ...]:
        """Take one value of each series for each symbol and return the new state: the old one where `index` < 0.

        The arrays of `before` may be views of the state: write to none of them.
        """
        ...

    def run(self, before: tuple[float, ...], index: int, *x: list[float]) -> Iterable[tuple[float, ...]]:
        """Take many values of each series for one symbol and give the state after each, on plain floats."""
        ...


class Past(Protocol):
    """What a formula asks about earlier bars. `start`: the bars before that one are not yet part of the series."""

    index: Count
    """The number of bars before: of each symbol in a step, of each bar in a run."""

    def last(self, x: Float64Array) -> Float64Array:
        """Return what `x` was a bar ago, 0 in the first bar."""
        ...

    def smooth(self, average: Average, x: Float64Array, start: int = 0) -> Float64Array:
        """Return the average of `x` so far."""
        ...

    def recur(self, recursion: Recursion, *x: Float64Array, start: int = 0) -> tuple[Float64Array, ...]:
        """Return the state of the recursion over these series."""
        ...


class Recursive(Indicator):
    """A formula over `Past`; `declare` sets `width` to the floats that its requests take."""

    @abstractmethod
    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the outputs. May not write to what it is given, nor warn where a series has not begun."""

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        past = _Beside(state, rows, index)
        outputs = self.formula(past, *inputs)
        if keep:
            past.write()
        return outputs

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        bars = len(inputs[0])
        past = _Along(state, index, bars)
        outputs = np.array(self.formula(past, *inputs)).reshape(len(self.OUTPUTS), bars)
        if bars:
            state[:] = past.trace[:, -1]
        return Run(outputs, past.trace.T)


class _Beside:
    """The past of many symbols, one bar at a time."""

    def __init__(self, state: Float64Array, rows: Place, index: Count) -> None:
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
        # Backwards: what `last` gave may be a view of the state, and be what a later `last` is to remember.
        for slot in range(len(self._after) - 1, -1, -1):
            self._state[slot][self._rows] = self._after[slot]


class _Along:
    """The past of one symbol over many bars. `trace` is float64[width, bars], the state after each bar."""

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
