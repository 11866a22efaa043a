"""The average directional index and the directional indicators."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import SMALLEST, TALIB, TRADINGVIEW, WILDER, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import WilderHeld, WilderSum
from tickerplant.analytics.indicator.volatility.atr import true_range
from tickerplant.core.times import Float64Array

_NOTHING: Final = 1e-14  # TA-Lib's epsilon: +DI and -DI that are less together are both 0


class ADX(Recursive):
    """Average directional index, and the directional indicators +DI and -DI that it is made of, 0 to 100.

    +DI and -DI are Wilder's sums of the movements up and down in percent of his sum of the true ranges; the index is
    his average of |+DI - -DI| in percent of their sum, which stays as it is where both are 0. The sums of the dialect
    `talib` begin with period - 1 bars, those of `wilder` and `tradingview`, as in the book, with `period`.
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
        """Set the sizes that follow from the period."""
        n = self._n = int(self.values[0])
        self._sum = WilderSum(n - 1 if self.dialect == TALIB else n, n)
        self._average = WilderHeld(n, 1.0 / n)
        self.warmups = (2 * n, n + 1, n + 1)
        self.width = 7

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the index, +DI and -DI."""
        high, low, _ = inputs
        up, down = high - past.last(high), past.last(low) - low
        ranges = past.smooth(self._sum, true_range(past, *inputs), start=1)
        rises = past.smooth(self._sum, np.where((up > 0.0) & (up > down), up, 0.0), start=1)
        falls = past.smooth(self._sum, np.where((down > 0.0) & (down > up), down, 0.0), start=1)
        some = ranges >= SMALLEST
        whole = np.where(some, ranges, 1.0)
        plus, minus = 100.0 * (rises / whole), 100.0 * (falls / whole)
        both = plus + minus
        some_di = some & (both >= _NOTHING)
        index = 100.0 * (np.abs(minus - plus) / np.where(some_di, both, 1.0))
        average = past.smooth(self._average, np.where(some_di, index, np.nan), start=self._n)
        return average, np.where(some, plus, 0.0), np.where(some, minus, 0.0)
