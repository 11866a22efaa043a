"""Average directional index, +DI and −DI.

Formula: +DI and −DI are Wilder's sums of the up and down movements, in percent of Wilder's sum of the true ranges. The
ADX is Wilder's average of 100 · |+DI − (−DI)| / (+DI + (−DI)).

Warm-up: 2 · period bars for the ADX, period + 1 for +DI and −DI.

Source: TA-Lib ADX, PLUS_DI, MINUS_DI; J. Welles Wilder, New Concepts in Technical Trading Systems (1978).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import MIN_DIVISOR, TALIB, TRADINGVIEW, WILDER, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import WilderHeld, WilderSum
from tickerplant.analytics.indicator.volatility.atr import true_range
from tickerplant.core.times import Float64Array

_MIN_DI_SUM: Final = 1e-14  # TA-Lib's epsilon: +DI and −DI count as 0 if their sum is smaller


class ADX(Recursive):
    """Average directional index (ADX), 0 to 100, and the directional indicators +DI and −DI.

    The ADX is unchanged while +DI and −DI are both 0. In the dialect `talib` the sums are seeded with period − 1 bars;
    in `wilder` and `tradingview`, as in the book, with `period` bars.
    """

    NAME = "ADX"
    PARAMETERS = (period(14),)
    INPUTS = ("high", "low", "close")
    OUTPUTS = ("adx", "plus_di", "minus_di")
    SOURCE = (
        "TA-Lib ADX, PLUS_DI, MINUS_DI, default compatibility; "
        "J. Welles Wilder, New Concepts in Technical Trading Systems (1978)"
    )
    DIALECTS = (TALIB, WILDER, TRADINGVIEW)

    def declare(self) -> None:
        """Set the warm-up from the period; the state size is constant."""
        n = self._n = int(self.values[0])
        self._sum = WilderSum(n - 1 if self.dialect == TALIB else n, n)
        self._average = WilderHeld(n, 1.0 / n)
        self.warmups = (2 * n, n + 1, n + 1)
        self.width = 7

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return ADX, +DI and −DI, each 0 to 100."""
        high, low, _ = inputs
        up, down = high - past.last(high), past.last(low) - low
        ranges = past.smooth(self._sum, true_range(past, *inputs), start=1)
        rises = past.smooth(self._sum, np.where((up > 0.0) & (up > down), up, 0.0), start=1)
        falls = past.smooth(self._sum, np.where((down > 0.0) & (down > up), down, 0.0), start=1)
        some = ranges >= MIN_DIVISOR
        divisor = np.where(some, ranges, 1.0)
        plus, minus = 100.0 * (rises / divisor), 100.0 * (falls / divisor)
        both = plus + minus
        some_di = some & (both >= _MIN_DI_SUM)
        index = 100.0 * (np.abs(minus - plus) / np.where(some_di, both, 1.0))
        average = past.smooth(self._average, np.where(some_di, index, np.nan), start=self._n)
        return average, np.where(some, plus, 0.0), np.where(some, minus, 0.0)
