"""Stochastic RSI.

Formula: `fastk` is 100 · (RSI − lowest RSI) / (highest RSI − lowest RSI) over `fastk` bars. `fastd` is the simple mean
of `fastk` over `fastd` bars.

Warm-up: period + fastk + fastd − 1 bars; both outputs start together, as in TA-Lib.

Source: TA-Lib STOCHRSI with a simple average; T. Chande and S. Kroll, The New Technical Trader (1994).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Parameter, period
from tickerplant.analytics.indicator.momentum.rsi import RSI_WIDTH, relative_strength
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import wilder
from tickerplant.core.times import Float64Array

_ROUNDING: Final = 1e-14  # TA-Lib's epsilon: a smaller relative range of the RSI is a rounding error


class STOCHRSI(Recursive):
    """Stochastic RSI: the position of the RSI in its range of `fastk` bars, in percent, and the mean of this position
    over `fastd` bars.

    `fastk` is 0 if the RSI has not moved, as in TA-Lib. TradingView's %K (14, 14, 3) is `fastd` of STOCHRSI(14,14,3)
    here. TradingView's %D is the mean of the last three %K.
    """

    NAME = "STOCHRSI"
    PARAMETERS = (
        period(14),
        Parameter("fastk", 1, 40, default=5),  # bounded, because checkpoints contain fastk + fastd floats
        Parameter("fastd", 1, 20, default=3),
    )
    OUTPUTS = ("fastk", "fastd")
    SOURCE = "TA-Lib STOCHRSI, fastd a simple average; T. Chande and S. Kroll, The New Technical Trader (1994)"

    def declare(self) -> None:
        """Set warm-up and state size from the periods."""
        n, self._fastk, self._fastd = (int(value) for value in self.values)
        self._average = wilder(n)
        self.warmup = n + 1 + (self._fastk - 1) + (self._fastd - 1)
        self.width = RSI_WIDTH + (self._fastk - 1) + (self._fastd - 1)

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return `fastk` and `fastd`, 0 to 100."""
        index = relative_strength(past, self._average, inputs[0])
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
