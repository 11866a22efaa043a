"""Realised volatility by the Yang–Zhang estimator.

Formula: √(per_year · (Vo + k · Vc + (1 − k) · Vrs)) over `period` = n bars. Vo and Vc are the sample variances of
ln(open / previous close) and ln(close / open). Vrs is the mean of ln(high/close) ln(high/open) + ln(low/close)
ln(low/open), the Rogers–Satchell estimator. k = 0.34 / (1.34 + (n + 1) / (n − 1)).

Warm-up: period + 1 bars.

Source: D. Yang and Q. Zhang, Drift-Independent Volatility Estimation Based on High, Low, Open, and Close (2000).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.analytics.indicator.returns import VOLATILITY, annual, log_ratio
from tickerplant.core.times import Float64Array


class VOLYZ(Indicator):
    """Realised volatility by the Yang–Zhang estimator, from gaps, bodies and ranges, as a fraction per year.

    The estimator is independent of drift. A ratio with a price that is not positive has a logarithm of 0.
    """

    NAME = "VOLYZ"
    PARAMETERS = VOLATILITY
    INPUTS = ("open", "high", "low", "close")
    SOURCE = "D. Yang and Q. Zhang, Drift-Independent Volatility Estimation Based on High, Low, Open, and Close (2000)"

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        n = self.block = int(self.values[0])
        self.warmup = n + 1
        self._spread, self._mean = BlockMoments(n, squares=True), BlockMoments(n)
        self._ends = (self._spread.width, 2 * self._spread.width)
        self.width = self._ends[1] + self._mean.width + 1
        self._k = 0.34 / (1.34 + (n + 1) / (n - 1))

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the volatility as a fraction per year."""
        one, two = self._ends
        gap, body, reach = _terms(inputs, state[-1, rows])
        _, gaps = self._spread.step(state[:one], rows, index, gap, keep=keep)
        _, bodies = self._spread.step(state[one:two], rows, index, body, keep=keep)
        mean, _ = self._mean.step(state[two:-1], rows, index, reach, keep=keep)
        if keep:
            state[-1, rows] = inputs[3]
        return (self._volatility(gaps, bodies, mean),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the volatility as a fraction per year."""
        one, two = self._ends
        closes = np.concatenate([state[-1:], inputs[3]])
        gap, body, reach = _terms(inputs, closes[:-1])
        _, gaps = self._spread.run(state[:one], index, gap)
        _, bodies = self._spread.run(state[one:two], index, body)
        mean, _ = self._mean.run(state[two:-1], index, reach)
        state[-1] = closes[-1]
        return Run(self._volatility(gaps, bodies, mean)[None], None)

    def _volatility(self, gaps: Float64Array, bodies: Float64Array, mean: Float64Array) -> Float64Array:
        others = self.block - 1
        variance = gaps / others + self._k * (bodies / others) + (1.0 - self._k) * np.maximum(mean, 0.0)
        return annual(variance, self.values[1])


def _terms(inputs: tuple[Float64Array, ...], before: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
    opened, high, low, close = inputs
    above = log_ratio(high, close) * log_ratio(high, opened)
    below = log_ratio(low, close) * log_ratio(low, opened)
    return log_ratio(opened, before), log_ratio(close, opened), above + below
