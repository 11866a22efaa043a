"""Normalised average true range.

Formula: 100 · ATR / close.

Warm-up: period + 1 bars.

Source: TA-Lib NATR; J. Forman, Cross-Market Evaluations with NATR (TASC, 2006).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import MIN_DIVISOR, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import wilder
from tickerplant.analytics.indicator.volatility.atr import true_range
from tickerplant.core.times import Float64Array


class NATR(Recursive):
    """Normalised average true range: 100 · ATR / close; 0 if the close is 0."""

    NAME = "NATR"
    PARAMETERS = (period(14),)
    INPUTS = ("high", "low", "close")
    SOURCE = "TA-Lib NATR, default compatibility; J. Forman, Cross-Market Evaluations with NATR (TASC, 2006)"

    def declare(self) -> None:
        """Set the warm-up from the period; the state size is constant."""
        self._average = wilder(int(self.values[0]))
        self.warmup = self._average.seed + 1
        self.width = 2

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the average true range in percent of the close."""
        average = past.smooth(self._average, true_range(past, *inputs), start=1)
        close = inputs[2]
        some = np.abs(close) >= MIN_DIVISOR
        return (np.where(some, average / np.where(some, close, 1.0) * 100.0, 0.0),)
