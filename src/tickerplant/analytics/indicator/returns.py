"""Logarithms of prices' ratios, and what realised volatilities have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Parameter, Place, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array

LEAST_PRICE: Final = 1e-200
"""Below this a price has no logarithm here: zero, negative, or so small that a ratio to it could leave float64."""

VOLATILITY: Final = (period(20), Parameter("per_year", 1, 525_600, default=252))
"""The window in bars and the bars in a year: 252 days of trading, 19,656 five-minute bars of 252 sessions of 6½ hours,
525,600 minutes around the clock. 1 leaves the volatility per bar."""


def log_ratio(price: Float64Array, base: Float64Array) -> Float64Array:
    """Return ln(price / base), and 0, no change, where one of them is below `LEAST_PRICE`."""
    known = (price >= LEAST_PRICE) & (base >= LEAST_PRICE)
    ratio = np.where(known, price, 1.0) / np.where(known, base, 1.0)
    made: Float64Array = np.log(ratio)
    return made


class BarVolatility(Indicator):
    """The root of the mean, over a window, of what each bar alone says of the variance; annualised, 0.2 being 20 %."""

    PARAMETERS = VOLATILITY

    def declare(self) -> None:
        """Set the sizes that follow from the period."""
        self.warmup = self.block = int(self.values[0])
        self._mean = BlockMoments(self.block)
        self.width = self._mean.width

    @abstractmethod
    def variance(self, inputs: tuple[Float64Array, ...]) -> Float64Array:
        """Return each bar's variance, of its own prices alone."""

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        mean, _ = self._mean.step(state, rows, index, self.variance(inputs), keep=keep)
        return (annual(mean, self.values[1]),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol."""
        mean, _ = self._mean.run(state, index, self.variance(inputs))
        return Run(annual(mean, self.values[1])[None], None)


def annual(variance: Float64Array, per_year: float) -> Float64Array:
    """Return the volatility a year from the variance a bar; rounding below 0 is 0."""
    return np.sqrt(np.maximum(variance, 0.0) * per_year)
