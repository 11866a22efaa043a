"""Aroon oscillator.

Formula: Aroon up − Aroon down.

Warm-up: period + 1 bars.

Source: TA-Lib AROONOSC.
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.trend.aroon import lines
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array


class AROONOSC(Windowed):
    """Aroon oscillator: Aroon up minus Aroon down, −100 to 100."""

    NAME = "AROONOSC"
    PARAMETERS = (period(14),)
    INPUTS = ("high", "low")
    SOURCE = "TA-Lib AROONOSC"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.looks_back(int(self.values[0]) + 1)

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the Aroon oscillator, up minus down, −100 to 100."""
        up, down = lines(at, self.length - 1)
        return (up - down,)
