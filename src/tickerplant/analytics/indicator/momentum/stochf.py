"""The fast stochastic oscillator."""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, Place, Run, period
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.analytics.indicator.momentum.stoch import place, whole_blocks
from tickerplant.analytics.indicator.short_windows import ShortMean
from tickerplant.core.times import Float64Array


class STOCHF(Indicator):
    """Fast stochastic: `k`, where the close lies in the range of the last `fastk` bars, and `d`, its short mean.

    The place in a range of no height is 0. Both outputs begin together, as in TA-Lib.
    """

    NAME = "STOCHF"
    PARAMETERS = (period(14, "fastk"), Parameter("fastd", 1, 100, default=3))
    INPUTS = ("high", "low", "close")
    OUTPUTS = ("k", "d")
    SOURCE = "TA-Lib STOCHF with a simple moving average"

    def declare(self) -> None:
        """Set the sizes that follow from the periods."""
        fastk, fastd = (int(value) for value in self.values)
        self.warmup = fastk + fastd - 1
        self.block = whole_blocks(self.warmup, fastk)
        self._range, self._signal = BlockRange(fastk), ShortMean(fastd)
        self.width = self._range.width + self._signal.width

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        high, low, close = inputs
        end = self._range.width
        k = place(close, *self._range.step(state[:end], rows, index, high, low, keep=keep))
        return k, self._signal.step(state[end:], rows, k, keep=keep)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        high, low, close = inputs
        end = self._range.width
        k = place(close, *self._range.run(state[:end], index, high, low))
        return Run(np.stack([k, self._signal.run(state[end:], k)]), None)
