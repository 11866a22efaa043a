"""Commodity channel index.

Formula: (typical price − its mean) / (0.015 · mean absolute deviation) over the last `period` bars. The typical price
is (high + low + close) / 3.

Warm-up: period bars.

Source: TA-Lib CCI; D. R. Lambert, Commodity Channel Index, Commodities (October 1980).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array

_MIN_DEVIATION: Final = 1e-14  # relative: a smaller mean deviation is a rounding error


class CCI(Windowed):
    """Commodity channel index: (typical − mean) / (0.015 · mean absolute deviation) over the last `period` bars.

    The index is 0 if all typical prices are equal. TA-Lib sums the prices. This class sums their differences
    from the newest price, which are smaller and lose less precision.
    """

    NAME = "CCI"
    PARAMETERS = (period(20),)
    INPUTS = ("high", "low", "close")
    KEPT = 1
    SOURCE = "TA-Lib CCI; D. R. Lambert, Commodity Channel Index, Commodities (October 1980)"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.looks_back(int(self.values[0]))

    def kept(self, inputs: tuple[Float64Array, ...]) -> tuple[Float64Array, ...]:
        """Return the typical price of each bar, in units of price."""
        high, low, close = inputs
        return ((high + low + close) / 3.0,)

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the commodity channel index, a number without unit or bounds."""
        n, newest = self.length, at(0, 0)
        total = at(0, 1) - newest
        for lag in range(2, n):
            total = total + (at(0, lag) - newest)
        mean = newest + total / n
        deviation_sum = np.abs(newest - mean)
        for lag in range(1, n):
            deviation_sum = deviation_sum + np.abs(at(0, lag) - mean)
        scale = 0.015 * (deviation_sum / n)
        still = (deviation_sum / n <= _MIN_DEVIATION * (np.abs(newest) + np.abs(mean))) | (scale == 0)
        return (np.where(still, 0.0, (newest - mean) / np.where(still, 1.0, scale)),)
