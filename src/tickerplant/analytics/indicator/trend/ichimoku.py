"""Ichimoku Kinko Hyo.

Formula: the middle of a range is (highest high + lowest low) / 2. `tenkan` and `kijun` are the middles of the last
`tenkan` and `kijun` bars. `senkou_a` is (tenkan + kijun) / 2, and `senkou_b` the middle of the last `senkou` bars, both
as of `displacement` bars ago.

Warm-up: senkou + displacement bars. In the dialect `tradingview` the warm-up is one bar less if displacement > 0. All
outputs start together.

Source: G. Hosoda, Ichimoku Kinko Hyo (1969); N. Elliott, Ichimoku Charts (2007).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import (
    TALIB,
    TRADINGVIEW,
    Count,
    Indicator,
    Parameter,
    RowIndex,
    Run,
    period,
)
from tickerplant.analytics.indicator.extremes import BlockRange
from tickerplant.analytics.indicator.short_windows import Delay
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array


class ICHIMOKU(Indicator):
    """Ichimoku: tenkan and kijun, the middles of two ranges, and the cloud at this bar (`senkou_a`, `senkou_b`).

    Charts draw the cloud `displacement` bars ahead of the bar that it is computed from. The cloud at this bar was
    therefore computed from earlier bars. A `displacement` of 0 gives the cloud computed from this bar.

    The chikou span has no output: it is the close, drawn `displacement` bars back. A row at that time could only
    contain a close from the future.

    The dialect `tradingview` counts the current bar as the first of the displacement, so it uses one bar less.
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
        """Set warm-up and state size from the periods and the dialect.

        Raises BadInput unless tenkan <= kijun <= senkou.
        """
        tenkan, kijun, senkou, displacement = (int(value) for value in self.values)
        if not tenkan <= kijun <= senkou:
            raise BadInput(f"ICHIMOKU: tenkan {tenkan}, kijun {kijun} and senkou {senkou} must be in ascending order")
        if self.dialect == TRADINGVIEW:
            displacement = max(displacement - 1, 0)
        self.warmup = senkou + displacement
        self.block = 2 * senkou + displacement  # the blocks of the three ranges may start anywhere inside this block
        self._ranges = tuple(BlockRange(bars) for bars in (tenkan, kijun, senkou))
        self._delay = Delay(displacement)
        widths = [*(part.width for part in self._ranges), displacement, displacement]
        ends = np.cumsum(widths).tolist()
        self._parts = tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))
        self.width = ends[-1]

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return both lines and the cloud, in units of price."""
        high, low = inputs
        *ranges, a, b = self._parts
        tenkan, kijun, senkou = (
            _middle(*part.step(state[where], rows, index, high, low, keep=keep))
            for part, where in zip(self._ranges, ranges, strict=True)
        )
        senkou_a = self._delay.step(state[a], rows, index, _middle(tenkan, kijun), keep=keep)
        return tenkan, kijun, senkou_a, self._delay.step(state[b], rows, index, senkou, keep=keep)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return both lines and the cloud, in units of price."""
        high, low = inputs
        *ranges, a, b = self._parts
        tenkan, kijun, senkou = (
            _middle(*part.run(state[where], index, high, low)) for part, where in zip(self._ranges, ranges, strict=True)
        )
        senkou_a = self._delay.run(state[a], index, _middle(tenkan, kijun))
        return Run(np.stack([tenkan, kijun, senkou_a, self._delay.run(state[b], index, senkou)]), None)


def _middle(one: Float64Array, other: Float64Array) -> Float64Array:
    return (one + other) / 2.0
