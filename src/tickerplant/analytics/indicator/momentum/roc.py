"""The rate of change."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import period
from tickerplant.analytics.indicator.window import At, Windowed
from tickerplant.core.times import Float64Array

_NO_PRICE: Final = 1e-200  # smaller than any price; a rate from it could leave float64


class ROC(Windowed):
    """Rate of change: by how many percent the close differs from that of `period` bars ago.

    From a price of 0 (any within ±1e-200) there is no rate: 0, as TA-Lib says.
    """

    NAME = "ROC"
    PARAMETERS = (period(10, least=1),)
    SOURCE = "TA-Lib ROC"

    def declare(self) -> None:
        """Set the sizes that follow from the period."""
        self.looks_back(int(self.values[0]) + 1)

    def formula(self, at: At) -> tuple[Float64Array, ...]:
        """Return the rate."""
        then = at(0, int(self.values[0]))
        nothing = np.abs(then) < _NO_PRICE
        return (np.where(nothing, 0.0, (at(0, 0) / np.where(nothing, 1.0, then) - 1.0) * 100.0),)
