"""Standard deviation.

Formula: √(Σ(close − mean)² / period) over the last `period` closes, summed without drift (see `moments`).

Warm-up: period bars.

Source: TA-Lib STDDEV with nbdev 1.
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array


class STDDEV(Indicator):
    """Population standard deviation of the last `period` closes: the sum of squares is divided by `period`."""

    NAME = "STDDEV"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib STDDEV with nbdev 1; summed without drift"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._moments = BlockMoments(self.block, squares=True)
        self.width = self._moments.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the standard deviation, in units of price."""
        _, squares = self._moments.step(state, rows, index, inputs[0], keep=keep)
        return (np.sqrt(squares / self.block),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the standard deviation, in units of price."""
        _, squares = self._moments.run(state, index, inputs[0])
        return Run(np.sqrt(squares / self.block)[None], None)
