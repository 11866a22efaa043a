"""Stochastic oscillator.

Formula: the position of the close is 100 · (close − lowest low) / (highest high − lowest low) over `fastk` bars. `k` is
its simple mean over `slowk` bars, and `d` the simple mean of `k` over `slowd` bars.

Warm-up: fastk + slowk + slowd − 2 bars; both outputs start together.

Source: TA-Lib STOCH with simple moving averages; G. C. Lane, Lane's Stochastics (1984).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import (
    METATRADER,
    TALIB,
    Count,
    Indicator,
    Parameter,
    RowIndex,
    Run,
    period,
)
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.analytics.indicator.short_windows import ShortMean
from tickerplant.core.times import Float64Array

_MIN_RANGE: Final = 1e-14  # TA-Lib's epsilon: a smaller range, relative to its ends, is a rounding error


class STOCH(Indicator):
    """Stochastic oscillator: the position of the close in the range of the last `fastk` bars, 0 to 100, smoothed twice.

    The position in a range of zero height is 0. In the dialect `metatrader`, `k` is the sum of close − lowest divided
    by the sum of the ranges, each over `slowk` bars. `k` is 100 if the ranges are 0.
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
        """Set the warm-up from the periods, and the state size from the periods and the dialect."""
        fastk, slowk, slowd = (int(value) for value in self.values)
        self.warmup = fastk + slowk + slowd - 2
        self.block = whole_blocks(self.warmup, fastk)
        self._range, self._slow, self._signal = BlockRange(fastk), ShortMean(slowk), ShortMean(slowd)
        smoothed = self._slow.width * (2 if self.dialect == METATRADER else 1)
        self._ends = np.cumsum([self._range.width, smoothed, self._signal.width]).tolist()
        self.width = self._ends[-1]

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return `k` and `d`, 0 to 100."""
        ranges, slow, signal = self._parts(state)
        high, low, close = inputs
        highest, lowest = self._range.step(ranges, rows, index, high, low, keep=keep)
        if self.dialect == METATRADER:
            half = self._slow.width
            above = self._slow.step(slow[:half], rows, close - lowest, keep=keep)
            k = _share(above, self._slow.step(slow[half:], rows, highest - lowest, keep=keep))
        else:
            k = self._slow.step(slow, rows, stochastic_position(close, highest, lowest), keep=keep)
        return k, self._signal.step(signal, rows, k, keep=keep)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return `k` and `d`, 0 to 100."""
        ranges, slow, signal = self._parts(state)
        high, low, close = inputs
        highest, lowest = self._range.run(ranges, index, high, low)
        if self.dialect == METATRADER:
            half = self._slow.width
            above = self._slow.run(slow[:half], close - lowest)
            k = _share(above, self._slow.run(slow[half:], highest - lowest))
        else:
            k = self._slow.run(slow, stochastic_position(close, highest, lowest))
        return Run(np.stack([k, self._signal.run(signal, k)]), None)

    def _parts(self, state: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        first, second, _ = self._ends
        return state[:first], state[first:second], state[second:]


def whole_blocks(bars: int, n: int) -> int:
    """Return the smallest multiple of `n` that is at least `bars`."""
    return -(-bars // n) * n


def stochastic_position(close: Float64Array, highest: Float64Array, lowest: Float64Array) -> Float64Array:
    """Return the position of the close between the lowest (0) and the highest (100); 0 if both are equal."""
    height = highest - lowest
    flat = height <= _MIN_RANGE * (np.abs(highest) + np.abs(lowest))
    return np.where(flat, 0.0, 100.0 * ((close - lowest) / np.where(flat, 1.0, height)))


def _share(above: Float64Array, height: Float64Array) -> Float64Array:
    flat = height == 0
    return np.where(flat, 100.0, 100.0 * (above / np.where(flat, 1.0, height)))
