"""Double exponential moving average.

Formula: 2 · EMA − EMA(EMA).

Warm-up: 2 · period − 1 bars. The second average starts with the first value of the first one.

Source: TA-Lib DEMA; P. Mulloy, Smoothing Data with Faster Moving Averages (TASC, 1994).
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import exponential
from tickerplant.core.times import Float64Array


class DEMA(Recursive):
    """Double exponential moving average: 2 · EMA − EMA of the EMA. It lags less than an EMA."""

    NAME = "DEMA"
    PARAMETERS = (period(20),)
    SOURCE = "TA-Lib DEMA, default compatibility; P. Mulloy, Smoothing Data with Faster Moving Averages (TASC, 1994)"

    def declare(self) -> None:
        """Set the warm-up from the period; the state size is constant."""
        self._average = exponential(int(self.values[0]))
        self._lag = self._average.seed - 1
        self.warmup = 2 * self._lag + 1
        self.width = 2

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the double exponential moving average, in units of the input."""
        once = past.smooth(self._average, inputs[0])
        twice = past.smooth(self._average, once, self._lag)
        return (2.0 * once - twice,)
