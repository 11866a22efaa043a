"""Williams' %R.

Formula: −100 · (highest high − close) / (highest high − lowest low) over the last `period` bars.

Warm-up: period bars.

Source: TA-Lib WILLR; L. Williams, How I Made One Million Dollars … Last Year … Trading Commodities (1973).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run, period
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.core.times import Float64Array


class WILLR(Indicator):
    """Williams' %R: the distance of the close from the highest high in the range of the last `period` bars, 0 to −100.

    The value is 0 in a range of zero height.
    """

    NAME = "WILLR"
    PARAMETERS = (period(14),)
    INPUTS = ("high", "low", "close")
    SOURCE = "TA-Lib WILLR; L. Williams, How I Made One Million Dollars … Last Year … Trading Commodities (1973)"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._range = BlockRange(self.block)
        self.width = self._range.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return Williams' %R, −100 to 0."""
        high, low, close = inputs
        return (_percent(close, *self._range.step(state, rows, index, high, low, keep=keep)),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return Williams' %R, −100 to 0."""
        high, low, close = inputs
        return Run(_percent(close, *self._range.run(state, index, high, low))[None], None)


def _percent(close: Float64Array, highest: Float64Array, lowest: Float64Array) -> Float64Array:
    height = highest - lowest
    flat = height == 0
    return np.where(flat, 0.0, -100.0 * ((highest - close) / np.where(flat, 1.0, height)))
