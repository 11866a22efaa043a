"""The standard deviation."""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array


class STDDEV(Indicator):
    """Standard deviation of the last `period` closes, the population's: the squares' sum is divided by `period`."""

    NAME = "STDDEV"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib STDDEV with nbdev 1; summed without drift (see moments)"

    def declare(self) -> None:
        """Set the sizes that follow from the period."""
        self.warmup = self.block = int(self.values[0])
        self._moments = BlockMoments(self.block, squares=True)
        self.width = self._moments.width

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        _, squares = self._moments.step(state, rows, index, inputs[0], keep=keep)
        return (np.sqrt(squares / self.block),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        _, squares = self._moments.run(state, index, inputs[0])
        return Run(np.sqrt(squares / self.block)[None], None)
