"""Realised volatility by Parkinson's estimator.

Formula: √(per_year · mean of ln(high / low)² / (4 ln 2)) over `period` bars.

Warm-up: period bars.

Source: M. Parkinson, The Extreme Value Method for Estimating the Variance of the Rate of Return (1980).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.returns import BarVolatility, log_ratio
from tickerplant.core.times import Float64Array

_SCALE: Final = float(1.0 / (4.0 * np.log(2.0)))


class VOLPARKINSON(BarVolatility):
    """Realised volatility by Parkinson's estimator, from ranges, as a fraction per year.

    The estimator assumes no drift and no gaps between bars. A bar with a price that is not positive has a range of 0.
    """

    NAME = "VOLPARKINSON"
    INPUTS = ("high", "low")
    SOURCE = "M. Parkinson, The Extreme Value Method for Estimating the Variance of the Rate of Return (1980)"

    def variance(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return the variance of each bar's log price by Parkinson's estimator."""
        high, low = inputs
        reach = log_ratio(high, low)
        return reach * reach * _SCALE
