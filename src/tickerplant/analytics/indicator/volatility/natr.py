"""The average true range in percent of the price."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import Wilder
from tickerplant.analytics.indicator.volatility.atr import true_range
from tickerplant.core.times import Float64Array

_NOTHING: Final = 1e-14  # TA-Lib's epsilon: a close nearer to 0 than this is none to divide by, and the value is 0


class NATR(Recursive):
    """Normalised average true range: 100 · ATR / close."""

    NAME = "NATR"
    PARAMETERS = (period(14, least=1),)
    INPUTS = ("high", "low", "close")
    SOURCE = "TA-Lib NATR, default compatibility; J. Forman, Cross-Market Evaluations with NATR (TASC, 2006)"

    def declare(self) -> None:
        """Set the sizes that follow from the period."""
        self._average = Wilder(int(self.values[0]))
        self.warmup = self._average.seed + 1
        self.width = 2

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the average in percent."""
        average = past.smooth(self._average, true_range(past, *inputs), start=1)
        close = inputs[2]
        some = np.abs(close) >= _NOTHING
        return (np.where(some, average / np.where(some, close, 1.0) * 100.0, 0.0),)
