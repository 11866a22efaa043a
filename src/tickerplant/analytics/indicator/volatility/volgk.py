"""Realised volatility by the Garman–Klass estimator.

Formula: √(per_year · mean of ½ ln(high/low)² − (2 ln 2 − 1) ln(close/open)²) over `period` bars.

Warm-up: period bars.

Source: M. B. Garman and M. J. Klass, On the Estimation of Security Price Volatilities from Historical Data (1980).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.returns import BarVolatility, log_ratio
from tickerplant.core.times import Float64Array

_BODY: Final = float(2.0 * np.log(2.0) - 1.0)


class VOLGK(BarVolatility):
    """Realised volatility by the Garman–Klass estimator, from ranges and bodies, as a fraction per year.

    The estimator assumes no drift and no gaps between bars. A ratio with a price that is not positive has a logarithm
    of 0.
    """

    NAME = "VOLGK"
    INPUTS = ("open", "high", "low", "close")
    SOURCE = (
        "M. B. Garman and M. J. Klass, On the Estimation of Security Price Volatilities from Historical Data (1980)"
    )

    def variance(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return the variance of each bar's log price by the Garman–Klass estimator."""
        opened, high, low, close = inputs
        reach, body = log_ratio(high, low), log_ratio(close, opened)
        return 0.5 * (reach * reach) - _BODY * (body * body)
