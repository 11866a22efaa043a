"""Bollinger Bands."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, Place, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array

_ROUNDING: Final = 1e-14  # of the width: a middle nearer to 0 than that is 0 but for rounding


class BBANDS(Indicator):
    """Bollinger Bands: the mean of the last `period` closes, and so many population standard deviations around it.

    `percent_b` is where the close lies: 0 on the lower band, 1 on the upper. In a band of no width every close is the
    mean, so it is in the middle: 0.5. `bandwidth` is the distance of the bands as a share of the middle one, and 0
    where that is 0, as it can be of spreads but not of prices.
    """

    NAME = "BBANDS"
    PARAMETERS = (period(20), Parameter("deviations", 0.01, 100, whole=False, default=2))
    OUTPUTS = ("upper", "middle", "lower", "percent_b", "bandwidth")
    SOURCE = "TA-Lib BBANDS with a simple moving average; J. Bollinger, Bollinger on Bollinger Bands (2001)"

    def declare(self) -> None:
        """Set the sizes that follow from the period."""
        self.warmup = self.block = int(self.values[0])
        self._moments = BlockMoments(self.block, squares=True)
        self.width = self._moments.width

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        return self._bands(inputs[0], *self._moments.step(state, rows, index, inputs[0], keep=keep))

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        return Run(np.stack(self._bands(inputs[0], *self._moments.run(state, index, inputs[0]))), None)

    def _bands(self, x: Float64Array, mean: Float64Array, squares: Float64Array) -> tuple[Float64Array, ...]:
        half = np.sqrt(squares / self.block) * self.values[1]
        width = 2.0 * half
        none = width == 0
        percent_b = np.where(none, 0.5, 0.5 + (x - mean) / np.where(none, 1.0, width))
        nothing = np.abs(mean) <= _ROUNDING * width
        bandwidth = np.where(nothing, 0.0, width / np.where(nothing, 1.0, mean))
        return mean + half, mean, mean - half, percent_b, bandwidth
