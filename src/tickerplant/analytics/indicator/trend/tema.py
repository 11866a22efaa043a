"""Triple exponential moving average.

Formula: 3 · EMA − 3 · EMA(EMA) + EMA(EMA(EMA)).

Warm-up: 3 · period − 2 bars. Each average starts with the first value of the previous one.

Source: TA-Lib TEMA; P. Mulloy, Smoothing Data with Faster Moving Averages (TASC, 1994).
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import exponential
from tickerplant.core.times import Float64Array


class TEMA(Recursive):
    """Triple exponential moving average: 3 · EMA − 3 · EMA(EMA) + EMA(EMA(EMA))."""

    NAME = "TEMA"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib TEMA, default compatibility; P. Mulloy, Smoothing Data with Faster Moving Averages (TASC, 1994)"

    def declare(self) -> None:
        """Set the warm-up from the period; the state size is constant."""
        self._average = exponential(int(self.values[0]))
        self._lag = self._average.seed - 1
        self.warmup = 3 * self._lag + 1
        self.width = 3

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the triple exponential moving average, in units of the input."""
        once = past.smooth(self._average, inputs[0])
        twice = past.smooth(self._average, once, self._lag)
        thrice = past.smooth(self._average, twice, 2 * self._lag)
        return (3.0 * once - 3.0 * twice + thrice,)
