"""The stochastic of the relative strength index."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Parameter, period
from tickerplant.analytics.indicator.momentum.rsi import RSI_WIDTH, strength
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import wilder
from tickerplant.core.times import Float64Array

_ROUNDING: Final = 1e-14  # TA-Lib's: an RSI that moves less than this part of itself does so by rounding alone


class STOCHRSI(Recursive):
    """Where the RSI lies between its lowest and highest of `fastk` bars, in percent, and that one's mean of `fastd`.

    Where the RSI has not moved TA-Lib says 0. TradingView's %K (14, 14, 3) is `fastd` of STOCHRSI(14,14,3) here; its %D
    is the mean of three of those.
    """

    NAME = "STOCHRSI"
    PARAMETERS = (
        period(14),
        Parameter("fastk", 1, 40, default=5),  # with fastd so many floats of a state that is kept every few bars
        Parameter("fastd", 1, 20, default=3),
    )
    OUTPUTS = ("fastk", "fastd")
    SOURCE = "TA-Lib STOCHRSI, fastd a simple average; T. Chande and S. Kroll, The New Technical Trader (1994)"

    def declare(self) -> None:
        """Set the sizes that follow from the periods; both outputs begin together, as in TA-Lib."""
        n, self._fastk, self._fastd = (int(value) for value in self.values)
        self._average = wilder(n)
        self.warmup = n + 1 + (self._fastk - 1) + (self._fastd - 1)
        self.width = RSI_WIDTH + (self._fastk - 1) + (self._fastd - 1)

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return fastk and fastd."""
        index = strength(past, self._average, inputs[0])
        lowest = highest = lagged = index
        for _ in range(self._fastk - 1):
            lagged = past.last(lagged)
            lowest, highest = np.minimum(lowest, lagged), np.maximum(highest, lagged)
        spread = highest - lowest
        moved = spread > _ROUNDING * (highest + lowest)
        fastk = np.where(moved, (index - lowest) / (np.where(moved, spread, 1.0) / 100.0), 0.0)
        total = lagged = fastk
        for _ in range(self._fastd - 1):
            lagged = past.last(lagged)
            total = total + lagged
        return fastk, total / self._fastd
