"""Chaikin money flow.

Formula: Σ volume · ((close − low) − (high − close)) / (high − low) divided by Σ volume, over the last `period` bars.

Warm-up: period bars.

Source: M. Chaikin, Chaikin Money Flow; StockCharts ChartSchool.
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array


class CMF(Indicator):
    """Chaikin money flow: volume weighted by the position of the close, per total volume of `period` bars, −1 to 1.

    The weight is 1 for a close at the high, −1 at the low, and 0 if high = low. The flow is 0 without volume.
    """

    NAME = "CMF"
    PARAMETERS = (period(20),)
    INPUTS = ("high", "low", "close", "volume")
    SOURCE = "M. Chaikin, Chaikin Money Flow; StockCharts ChartSchool"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._mean = BlockMoments(self.block)
        self.width = 2 * self._mean.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the money flow, −1 to 1."""
        half = self._mean.width
        flow, _ = self._mean.step(state[:half], rows, index, _flow(inputs), keep=keep)
        volume, _ = self._mean.step(state[half:], rows, index, inputs[3], keep=keep)
        return (_share(flow, volume),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the money flow, −1 to 1."""
        half = self._mean.width
        flow, _ = self._mean.run(state[:half], index, _flow(inputs))
        volume, _ = self._mean.run(state[half:], index, inputs[3])
        return Run(_share(flow, volume)[None], None)


def _flow(inputs: tuple[Float64Array, ...]) -> Float64Array:
    high, low, close, volume = inputs
    height = high - low
    flat = height == 0
    return np.where(flat, 0.0, ((close - low) - (high - close)) / np.where(flat, 1.0, height)) * volume


def _share(flow: Float64Array, volume: Float64Array) -> Float64Array:
    traded = volume > 0
    return np.where(traded, np.clip(flow, -np.abs(volume), np.abs(volume)) / np.where(traded, volume, 1.0), 0.0)
