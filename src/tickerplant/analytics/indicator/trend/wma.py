"""Weighted moving average.

Formula: Σ weight · close / Σ weight over the last `period` closes, with weights from 1 (oldest) to `period` (newest).

Warm-up: period bars.

Source: TA-Lib WMA.
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array


class WMA(Windowed):
    """Weighted moving average: the last `period` closes with weights from 1, the oldest, to `period`, the newest.

    Differences from the newest close are summed, so that the average of equal prices is exactly that price.
    """

    NAME = "WMA"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib WMA; summed without drift"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.looks_back(int(self.values[0]))

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the weighted moving average, in units of the input."""
        n, newest = self.length, at(0, 0)
        total = (n - 1) * (at(0, 1) - newest)
        for lag in range(2, n):
            total = total + (n - lag) * (at(0, lag) - newest)
        return (newest + total / (n * (n + 1) / 2),)
