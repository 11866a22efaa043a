"""Ichimoku Kinko Hyo, the equilibrium chart."""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import (
    TALIB,
    TRADINGVIEW,
    Count,
    Indicator,
    Parameter,
    Place,
    Run,
    period,
)
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.analytics.indicator.short_windows import Delay
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array


class ICHIMOKU(Indicator):
    """Ichimoku: the middles of three ranges, and the cloud that stands at this bar.

    The middle of a range is (highest high + lowest low) / 2. `tenkan` and `kijun` are the middles of the last that many
    bars. The cloud's edges are drawn `displacement` bars ahead of the bar that they are made at, so what stands at this
    bar was made that many bars ago: `senkou_a` is (tenkan + kijun) / 2 of then, and `senkou_b` the middle of the last
    `senkou` bars of then. A `displacement` of 0 gives what this bar will have put ahead.

    The chikou span has no output: it is the close itself, drawn `displacement` bars back, and a row of its own time
    could only hold a close from the future.

    The dialect `tradingview` counts the bar itself as the first of the displacement: one bar less. All outputs begin
    together.
    """

    NAME = "ICHIMOKU"
    PARAMETERS = (
        period(9, "tenkan", least=1),
        period(26, "kijun"),
        period(52, "senkou"),
        Parameter("displacement", 0, 1_000, default=26),
    )
    INPUTS = ("high", "low")
    OUTPUTS = ("tenkan", "kijun", "senkou_a", "senkou_b")
    SOURCE = "G. Hosoda, Ichimoku Kinko Hyo (1969); N. Elliott, Ichimoku Charts (2007)"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set the sizes that follow from the periods, which must not fall from one to the next."""
        tenkan, kijun, senkou, displacement = (int(value) for value in self.values)
        if not tenkan <= kijun <= senkou:
            raise BadInput(f"ICHIMOKU: tenkan {tenkan}, kijun {kijun} and senkou {senkou} must not fall")
        if self.dialect == TRADINGVIEW:
            displacement = max(displacement - 1, 0)
        self.warmup = senkou + displacement
        self.block = 2 * senkou + displacement  # the three ranges have blocks of their own, begun anywhere in this one
        self._ranges = tuple(BlockRange(bars) for bars in (tenkan, kijun, senkou))
        self._delay = Delay(displacement)
        widths = [*(part.width for part in self._ranges), displacement, displacement]
        ends = np.cumsum(widths).tolist()
        self._parts = tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))
        self.width = ends[-1]

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        high, low = inputs
        *ranges, a, b = self._parts
        tenkan, kijun, senkou = (
            _middle(*part.step(state[where], rows, index, high, low, keep=keep))
            for part, where in zip(self._ranges, ranges, strict=True)
        )
        senkou_a = self._delay.step(state[a], rows, index, _middle(tenkan, kijun), keep=keep)
        return tenkan, kijun, senkou_a, self._delay.step(state[b], rows, index, senkou, keep=keep)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        high, low = inputs
        *ranges, a, b = self._parts
        tenkan, kijun, senkou = (
            _middle(*part.run(state[where], index, high, low)) for part, where in zip(self._ranges, ranges, strict=True)
        )
        senkou_a = self._delay.run(state[a], index, _middle(tenkan, kijun))
        return Run(np.stack([tenkan, kijun, senkou_a, self._delay.run(state[b], index, senkou)]), None)


def _middle(one: Float64Array, other: Float64Array) -> Float64Array:
    return (one + other) / 2.0
