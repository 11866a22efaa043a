"""Simple moving average.

Formula: the mean of the last `period` closes, summed without drift (see `moments`).

Warm-up: period bars.

Source: TA-Lib SMA.
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array


class SMA(Indicator):
    """Simple moving average: the mean of the last `period` closes."""

    NAME = "SMA"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib SMA; summed without drift"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._moments = BlockMoments(self.block)
        self.width = self._moments.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the mean close, in units of the input."""
        return (self._moments.step(state, rows, index, inputs[0], keep=keep)[0],)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the mean close, in units of the input."""
        return Run(self._moments.run(state, index, inputs[0])[0][None], None)
