"""Donchian channels."""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place, Run, period
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.core.times import Float64Array


class DONCHIAN(Indicator):
    """Donchian channel: the highest high and the lowest low of the last `period` bars, this one among them.

    `middle` is halfway between. A break-out is a close beyond the channel of the bar before.
    """

    NAME = "DONCHIAN"
    PARAMETERS = (period(20),)
    INPUTS = ("high", "low")
    OUTPUTS = ("upper", "middle", "lower")
    SOURCE = "R. D. Donchian's weekly rule; C. M. Faith, Way of the Turtle (2007)"

    def declare(self) -> None:
        """Set the sizes that follow from the period."""
        self.warmup = self.block = int(self.values[0])
        self._range = BlockRange(self.block)
        self.width = self._range.width

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        upper, lower = self._range.step(state, rows, index, *inputs, keep=keep)
        return upper, (upper + lower) / 2.0, lower

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        upper, lower = self._range.run(state, index, *inputs)
        return Run(np.stack([upper, (upper + lower) / 2.0, lower]), None)
