"""Momentum.

Formula: close − close `period` bars ago.

Warm-up: period + 1 bars.

Source: TA-Lib MOM.
"""

from __future__ import annotations

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array


class MOM(Windowed):
    """Momentum: close minus the close `period` bars ago, in units of price."""

    NAME = "MOM"
    PARAMETERS = (period(10, least=1),)
    SOURCE = "TA-Lib MOM"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.looks_back(int(self.values[0]) + 1)

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the momentum: the change of the close over `period` bars, in units of price."""
        return (at(0, 0) - at(0, int(self.values[0])),)
