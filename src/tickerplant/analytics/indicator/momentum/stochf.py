"""Fast stochastic oscillator.

Formula: `k` is 100 · (close − lowest low) / (highest high − lowest low) over `fastk` bars. `d` is the simple mean of
`k` over `fastd` bars.

Warm-up: fastk + fastd − 1 bars; both outputs start together.

Source: TA-Lib STOCHF with a simple moving average.
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, RowIndex, Run, period
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.analytics.indicator.momentum.stoch import stochastic_position, whole_blocks
from tickerplant.analytics.indicator.short_windows import ShortMean
from tickerplant.core.times import Float64Array


class STOCHF(Indicator):
    """Fast stochastic: `k`, the position of the close in the range of the last `fastk` bars, and `d`, the mean of `k`.

    The position in a range of zero height is 0.
    """

    NAME = "STOCHF"
    PARAMETERS = (period(14, "fastk"), Parameter("fastd", 1, 100, default=3))
    INPUTS = ("high", "low", "close")
    OUTPUTS = ("k", "d")
    SOURCE = "TA-Lib STOCHF with a simple moving average"

    def declare(self) -> None:
        """Set warm-up and state size from the periods."""
        fastk, fastd = (int(value) for value in self.values)
        self.warmup = fastk + fastd - 1
        self.block = whole_blocks(self.warmup, fastk)
        self._range, self._signal = BlockRange(fastk), ShortMean(fastd)
        self.width = self._range.width + self._signal.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return `k` and `d`, 0 to 100."""
        high, low, close = inputs
        end = self._range.width
        k = stochastic_position(close, *self._range.step(state[:end], rows, index, high, low, keep=keep))
        return k, self._signal.step(state[end:], rows, k, keep=keep)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return `k` and `d`, 0 to 100."""
        high, low, close = inputs
        end = self._range.width
        k = stochastic_position(close, *self._range.run(state[:end], index, high, low))
        return Run(np.stack([k, self._signal.run(state[end:], k)]), None)
