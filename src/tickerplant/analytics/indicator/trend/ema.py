"""Exponential moving average.

Formula: before + k · (close − before), k = 2 / (period + 1), seeded with the mean of the first `period` closes.

Warm-up: period bars.

Source: TA-Lib EMA, default compatibility.
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import exponential
from tickerplant.core.times import Float64Array


class EMA(Recursive):
    """Exponential moving average: k = 2 / (period + 1), seeded with the mean of the first `period` closes."""

    NAME = "EMA"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib EMA, default compatibility: seeded with the SMA of the first period"

    def declare(self) -> None:
        """Set the warm-up from the period; the state size is constant."""
        self._average = exponential(int(self.values[0]))
        self.warmup = self._average.seed
        self.width = 1

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the exponential moving average, in units of the input."""
        return (past.smooth(self._average, inputs[0]),)
