"""Aroon lines.

Formula: 100 · (period − bars since the highest high, or the lowest low) / period.

Warm-up: period + 1 bars.

Source: TA-Lib AROON; T. S. Chande, A Time Price Oscillator, Stocks & Commodities (September 1995).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array


class AROON(Windowed):
    """Aroon: how recent the highest high (`up`) and the lowest low (`down`) are, from 0 to 100 (the current bar).

    The window contains `period` bars and one earlier bar. The latest of equal extremes counts.
    """

    NAME = "AROON"
    PARAMETERS = (period(14),)
    INPUTS = ("high", "low")
    OUTPUTS = ("up", "down")
    SOURCE = "TA-Lib AROON; T. S. Chande, A Time Price Oscillator, Stocks & Commodities (September 1995)"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.looks_back(int(self.values[0]) + 1)

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the Aroon lines `up` and `down`, 0 to 100."""
        return lines(at, self.length - 1)


def lines(at: At, period: int) -> tuple[Float64Array, Float64Array]:
    """Return (up, down), 0 to 100, where input 0 contains the highs and input 1 the lows."""
    highest, lowest = at(0, 0), at(1, 0)
    age_high, age_low = np.zeros(len(highest)), np.zeros(len(lowest))
    for lag in range(1, period + 1):
        high, low = at(0, lag), at(1, lag)
        age_high = np.where(high > highest, lag, age_high)
        age_low = np.where(low < lowest, lag, age_low)
        highest, lowest = np.maximum(highest, high), np.minimum(lowest, low)
    return 100.0 / period * (period - age_high), 100.0 / period * (period - age_low)
