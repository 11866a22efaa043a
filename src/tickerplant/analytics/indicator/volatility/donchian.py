"""Donchian channel.

Formula: the highest high, the lowest low and their middle over the last `period` bars.

Warm-up: period bars.

Source: R. D. Donchian's weekly rule; C. M. Faith, Way of the Turtle (2007).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run, period
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.core.times import Float64Array


class DONCHIAN(Indicator):
    """Donchian channel: the highest high and the lowest low of the last `period` bars, the current one included.

    `middle` is halfway between `upper` and `lower`. A break-out is a close beyond the channel of the previous bar.
    """

    NAME = "DONCHIAN"
    PARAMETERS = (period(20),)
    INPUTS = ("high", "low")
    OUTPUTS = ("upper", "middle", "lower")
    SOURCE = "R. D. Donchian's weekly rule; C. M. Faith, Way of the Turtle (2007)"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._range = BlockRange(self.block)
        self.width = self._range.width

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the channel, in units of price."""
        upper, lower = self._range.step(state, rows, index, *inputs, keep=keep)
        return upper, (upper + lower) / 2.0, lower

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the channel, in units of price."""
        upper, lower = self._range.run(state, index, *inputs)
        return Run(np.stack([upper, (upper + lower) / 2.0, lower]), None)
