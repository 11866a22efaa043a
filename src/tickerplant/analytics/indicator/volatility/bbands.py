"""Bollinger Bands.

Formula: mean ± deviations · population standard deviation of the last `period` closes.

Warm-up: period bars.

Source: TA-Lib BBANDS with a simple moving average; J. Bollinger, Bollinger on Bollinger Bands (2001).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, RowIndex, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array

_ROUNDING: Final = 1e-14  # relative to the width: a middle closer to 0 is a rounding error of 0


class BBANDS(Indicator):
    """Bollinger Bands: the mean of the last `period` closes, ± `deviations` population standard deviations.

    `percent_b` is the position of the close: 0 at the lower band, 1 at the upper band, and 0.5 if the bands have no
    width. `bandwidth` is (upper − lower) / middle. `bandwidth` is 0 if the middle is 0, which can happen with spreads
    but not with prices.
    """

    NAME = "BBANDS"
    PARAMETERS = (period(20), Parameter("deviations", 0.01, 100, whole=False, default=2))
    OUTPUTS = ("upper", "middle", "lower", "percent_b", "bandwidth")
    SOURCE = "TA-Lib BBANDS with a simple moving average; J. Bollinger, Bollinger on Bollinger Bands (2001)"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._moments = BlockMoments(self.block, squares=True)
        self.width = self._moments.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the bands in units of the input, `percent_b` and `bandwidth`."""
        return self._bands(inputs[0], *self._moments.step(state, rows, index, inputs[0], keep=keep))

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the bands in units of the input, `percent_b` and `bandwidth`."""
        return Run(np.stack(self._bands(inputs[0], *self._moments.run(state, index, inputs[0]))), None)

    def _bands(self, x: Float64Array, mean: Float64Array, squares: Float64Array) -> tuple[Float64Array, ...]:
        half = np.sqrt(squares / self.block) * self.values[1]
        width = 2.0 * half
        none = width == 0
        percent_b = np.where(none, 0.5, 0.5 + (x - mean) / np.where(none, 1.0, width))
        nothing = np.abs(mean) <= _ROUNDING * width
        bandwidth = np.where(nothing, 0.0, width / np.where(nothing, 1.0, mean))
        return mean + half, mean, mean - half, percent_b, bandwidth
