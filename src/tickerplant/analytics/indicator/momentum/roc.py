"""Rate of change.

Formula: 100 · (close / close `period` bars ago − 1).

Warm-up: period + 1 bars.

Source: TA-Lib ROC.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array

_NO_PRICE: Final = 1e-200  # smaller than any price; a rate from such a value could overflow float64


class ROC(Windowed):
    """Rate of change: the change of the close over `period` bars, in percent.

    The rate from a price of 0 (within ±1e-200) is 0, as in TA-Lib.
    """

    NAME = "ROC"
    PARAMETERS = (period(10, least=1),)
    SOURCE = "TA-Lib ROC"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.looks_back(int(self.values[0]) + 1)

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the rate of change: the change of the close over `period` bars, in percent."""
        then = at(0, int(self.values[0]))
        nothing = np.abs(then) < _NO_PRICE
        return (np.where(nothing, 0.0, (at(0, 0) / np.where(nothing, 1.0, then) - 1.0) * 100.0),)
