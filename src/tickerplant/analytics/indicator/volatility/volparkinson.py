"""Realised volatility after Parkinson."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.returns import BarVolatility, log_ratio
from tickerplant.core.times import Float64Array

_SCALE: Final = float(1.0 / (4.0 * np.log(2.0)))


class VOLPARKINSON(BarVolatility):
    """Realised volatility of the ranges: √(per_year · mean of ln(high / low)² / (4 ln 2)), a fraction a year.

    It takes prices to drift nowhere and to open where they closed. A bar with a price that is not positive counts as
    still.
    """

    NAME = "VOLPARKINSON"
    INPUTS = ("high", "low")
    SOURCE = "M. Parkinson, The Extreme Value Method for Estimating the Variance of the Rate of Return (1980)"

    def variance(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return each bar's variance."""
        high, low = inputs
        reach = log_ratio(high, low)
        return reach * reach * _SCALE
