"""The stochastic oscillator."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import (
    METATRADER,
    TALIB,
    Count,
    Indicator,
    Parameter,
    Place,
    Run,
    period,
)
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.analytics.indicator.short_windows import ShortMean
from tickerplant.core.times import Float64Array

_STILL: Final = 1e-14  # TA-Lib's: a range of less than this, relative to its ends, is rounding


class STOCH(Indicator):
    """Stochastic oscillator: where the close lies in the range of the last `fastk` bars, 0 to 100, smoothed twice.

    `k` is the simple mean of the last `slowk` such places and `d` that of the last `slowd` values of `k`. The place in
    a range of no height is 0. Both outputs begin together, as in TA-Lib. The dialect `metatrader` makes `k` the sum of
    close less lowest over the sum of the ranges, `slowk` bars each, and 100 where the ranges are 0.
    """

    NAME = "STOCH"
    PARAMETERS = (
        period(14, "fastk"),
        Parameter("slowk", 1, 100, default=3),
        Parameter("slowd", 1, 100, default=3),
    )
    INPUTS = ("high", "low", "close")
    OUTPUTS = ("k", "d")
    SOURCE = "TA-Lib STOCH with simple moving averages; G. C. Lane, Lane's Stochastics (1984)"
    DIALECTS = (TALIB, METATRADER)

    def declare(self) -> None:
        """Set the sizes that follow from the periods."""
        fastk, slowk, slowd = (int(value) for value in self.values)
        self.warmup = fastk + slowk + slowd - 2
        self.block = whole_blocks(self.warmup, fastk)
        self._range, self._slow, self._signal = BlockRange(fastk), ShortMean(slowk), ShortMean(slowd)
        smoothed = self._slow.width * (2 if self.dialect == METATRADER else 1)
        self._ends = np.cumsum([self._range.width, smoothed, self._signal.width]).tolist()
        self.width = self._ends[-1]

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        ranges, slow, signal = self._parts(state)
        high, low, close = inputs
        highest, lowest = self._range.step(ranges, rows, index, high, low, keep=keep)
        if self.dialect == METATRADER:
            half = self._slow.width
            above = self._slow.step(slow[:half], rows, close - lowest, keep=keep)
            k = _share(above, self._slow.step(slow[half:], rows, highest - lowest, keep=keep))
        else:
            k = self._slow.step(slow, rows, place(close, highest, lowest), keep=keep)
        return k, self._signal.step(signal, rows, k, keep=keep)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        ranges, slow, signal = self._parts(state)
        high, low, close = inputs
        highest, lowest = self._range.run(ranges, index, high, low)
        if self.dialect == METATRADER:
            half = self._slow.width
            above = self._slow.run(slow[:half], close - lowest)
            k = _share(above, self._slow.run(slow[half:], highest - lowest))
        else:
            k = self._slow.run(slow, place(close, highest, lowest))
        return Run(np.stack([k, self._signal.run(signal, k)]), None)

    def _parts(self, state: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        first, second, _ = self._ends
        return state[:first], state[first:second], state[second:]


def whole_blocks(bars: int, n: int) -> int:
    """Return the least number of bars, not fewer than `bars`, that is a multiple of `n`."""
    return -(-bars // n) * n


def place(close: Float64Array, highest: Float64Array, lowest: Float64Array) -> Float64Array:
    """Return where the close lies between the lowest (0) and the highest (100); 0 where they are the same price."""
    height = highest - lowest
    flat = height <= _STILL * (np.abs(highest) + np.abs(lowest))
    return np.where(flat, 0.0, 100.0 * ((close - lowest) / np.where(flat, 1.0, height)))


def _share(above: Float64Array, height: Float64Array) -> Float64Array:
    flat = height == 0
    return np.where(flat, 100.0, 100.0 * (above / np.where(flat, 1.0, height)))
