"""Log returns, and the common part of the realised volatilities."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, RowIndex, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array

MIN_PRICE: Final = 1e-200
"""Smallest price with a logarithm. Smaller prices are 0, negative, or so small that a ratio could overflow."""

VOLATILITY: Final = (period(20), Parameter("per_year", 1, 525_600, default=252))
"""Parameters: the window in bars, and the bars per year.

A year has 252 trading days, 19,656 five-minute bars (252 sessions of 6½ hours), or 525,600 minutes around the clock.
The value 1 gives the volatility per bar.
"""


def log_ratio(price: Float64Array, base: Float64Array) -> Float64Array:
    """Return ln(price / base), or 0 (no change) if either is below `MIN_PRICE`."""
    known = (price >= MIN_PRICE) & (base >= MIN_PRICE)
    ratio = np.where(known, price, 1.0) / np.where(known, base, 1.0)
    made: Float64Array = np.log(ratio)
    return made


class BarVolatility(Indicator):
    """Base class: the root of the mean variance of single bars over a window, annualised; 0.2 means 20 %."""

    PARAMETERS = VOLATILITY

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.warmup = self.block = int(self.values[0])
        self._mean = BlockMoments(self.block)
        self.width = self._mean.width

    @abstractmethod
    def variance(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return the variance of each bar's log price, estimated from the bar's own prices."""

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the volatility as a fraction per year."""
        mean, _ = self._mean.step(state, rows, index, self.variance(inputs), keep=keep)
        return (annual(mean, self.values[1]),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the volatility as a fraction per year."""
        mean, _ = self._mean.run(state, index, self.variance(inputs))
        return Run(annual(mean, self.values[1])[None], None)


def annual(variance: Float64Array, per_year: float) -> Float64Array:
    """Return the volatility per year, given the variance per bar. Negative rounding errors count as 0."""
    return np.sqrt(np.maximum(variance, 0.0) * per_year)
