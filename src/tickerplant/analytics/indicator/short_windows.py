"""Short windows over a series that an indicator computes itself: the mean, and the value n bars ago.

`window.Windowed` retains the bars' own columns; these classes retain derived values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, RowIndex
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array


@dataclass(frozen=True, slots=True)
class ShortMean:
    """The mean of the last `n` values, summed again for each bar. This is faster than `moments` for small n.

    The state is the n − 1 previous values, newest first.
    """

    n: int

    @property
    def width(self) -> int:
        """Return the count of state floats per symbol."""
        return self.n - 1

    def step(self, state: Float64Array, rows: RowIndex, x: Float64Array, *, keep: bool) -> Float64Array:
        """Return the mean of each symbol's window whose newest value is `x`, float64[symbols]."""
        total = x
        for lag in range(self.n - 1):
            total = total + state[lag][rows]
        if keep and self.n > 1:
            for lag in range(self.n - 2, 0, -1):
                state[lag][rows] = state[lag - 1][rows]
            state[0][rows] = x
        return total / self.n

    def run(self, state: Float64Array, x: Float64Array) -> Float64Array:
        """Return the results of `step` for many bars of one symbol, whose state is float64[width]."""
        before, bars = self.n - 1, len(x)
        series = np.concatenate([state[::-1], x])
        total = x
        for lag in range(1, self.n):
            total = total + series[before - lag : before - lag + bars]
        state[:] = series[len(series) - before :][::-1]
        return total / self.n


@dataclass(frozen=True, slots=True)
class Delay:
    """The value `n` bars ago. The state is a ring of n values."""

    n: int

    @property
    def width(self) -> int:
        """Return the count of state floats per symbol."""
        return self.n

    def step(self, state: Float64Array, rows: RowIndex, index: Count, x: Float64Array, *, keep: bool) -> Float64Array:
        """Return each symbol's value n bars ago, float64[symbols], and store `x`."""
        if self.n == 0:
            return x
        slot = index % self.n
        then = np.array(read(state, slot, rows))
        if keep:
            write(state, slot, rows, x)
        return then

    def run(self, state: Float64Array, index: int, x: Float64Array) -> Float64Array:
        """Return the results of `step` for many bars of one symbol, whose state is float64[width]."""
        if self.n == 0:
            return x
        series = np.concatenate([state[np.arange(index, index + self.n) % self.n], x])
        state[np.arange(index + len(x), index + len(x) + self.n) % self.n] = series[len(x) :]
        return series[: len(x)]
