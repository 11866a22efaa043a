"""What the last few values of a series that an indicator makes itself are needed for: their mean, or the one of then.

`window.Windowed` remembers the bars' own columns; these remember values derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Place
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array


@dataclass(frozen=True, slots=True)
class ShortMean:
    """The mean of the last `n` values, added up anew each time: for a handful, cheaper than `moments`.

    The state is the n − 1 values before, the newest first.
    """

    n: int

    @property
    def width(self) -> int:
        """Floats of state a symbol."""
        return self.n - 1

    def step(self, state: Float64Array, rows: Place, x: Float64Array, *, keep: bool) -> Float64Array:
        """Return each symbol's mean with `x`, float64[symbols], as its newest value."""
        total = x
        for lag in range(self.n - 1):
            total = total + state[lag][rows]
        if keep and self.n > 1:
            for lag in range(self.n - 2, 0, -1):
                state[lag][rows] = state[lag - 1][rows]
            state[0][rows] = x
        return total / self.n

    def run(self, state: Float64Array, x: Float64Array) -> Float64Array:
        """Return what `step` gives for many bars of one symbol, whose state is float64[width]."""
        before, bars = self.n - 1, len(x)
        series = np.concatenate([state[::-1], x])
        total = x
        for lag in range(1, self.n):
            total = total + series[before - lag : before - lag + bars]
        state[:] = series[len(series) - before :][::-1]
        return total / self.n


@dataclass(frozen=True, slots=True)
class Delay:
    """The value of `n` bars ago; the state is a ring of them."""

    n: int

    @property
    def width(self) -> int:
        """Floats of state a symbol."""
        return self.n

    def step(self, state: Float64Array, rows: Place, index: Count, x: Float64Array, *, keep: bool) -> Float64Array:
        """Return each symbol's value of then and remember `x`, float64[symbols]."""
        if self.n == 0:
            return x
        slot = index % self.n
        then = np.array(read(state, slot, rows))
        if keep:
            write(state, slot, rows, x)
        return then

    def run(self, state: Float64Array, index: int, x: Float64Array) -> Float64Array:
        """Return what `step` gives for many bars of one symbol, whose state is float64[width]."""
        if self.n == 0:
            return x
        series = np.concatenate([state[np.arange(index, index + self.n) % self.n], x])
        state[np.arange(index + len(x), index + len(x) + self.n) % self.n] = series[len(x) :]
        return series[: len(x)]
