"""Bollinger Bands."""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, Place, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array


class BBANDS(Indicator):
    """Bollinger Bands: the mean of the last `period` closes, and so many population standard deviations around it.

    TA-Lib takes a variance below 1e-14 as none at all; here it is what it is, so that a price of 0.00001 has bands too.
    """

    NAME = "BBANDS"
    PARAMETERS = (period(20), Parameter("deviations", 0.01, 100, whole=False, default=2))
    OUTPUTS = ("upper", "middle", "lower")
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
        return self._bands(*self._moments.step(state, rows, index, inputs[0], keep=keep))

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        return Run(np.stack(self._bands(*self._moments.run(state, index, inputs[0]))), None)

    def _bands(self, mean: Float64Array, squares: Float64Array) -> tuple[Float64Array, ...]:
        width = np.sqrt(squares / self.block) * self.values[1]
        return mean + width, mean, mean - width
