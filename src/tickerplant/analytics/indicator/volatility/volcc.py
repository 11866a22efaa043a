"""Realised volatility, close to close.

Formula: √per_year · sample standard deviation of ln(close / previous close) over `period` returns.

Warm-up: period + 1 bars.

Source: J. C. Hull, Options, Futures, and Other Derivatives: estimating volatility from historical data.
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import TALIB, TRADINGVIEW, Count, Indicator, RowIndex, Run
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.analytics.indicator.returns import VOLATILITY, annual, log_ratio
from tickerplant.core.times import Float64Array


class VOLCC(Indicator):
    """Realised volatility, close to close: the sample standard deviation of `period` log returns, per year.

    The volatility is a fraction: 0.2 means 20 %. A return is 0 if one of its prices is not positive. The dialect
    `tradingview` computes TradingView's Historical Volatility: the population standard deviation, in percent.
    """

    NAME = "VOLCC"
    PARAMETERS = VOLATILITY
    SOURCE = "J. C. Hull, Options, Futures, and Other Derivatives: estimating volatility from historical data"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.block = int(self.values[0])
        self.warmup = self.block + 1
        self._moments = BlockMoments(self.block, squares=True)
        self.width = self._moments.width + 1

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the volatility per year: a fraction, or percent in `tradingview`."""
        made = log_ratio(inputs[0], state[-1, rows])
        _, squares = self._moments.step(state[:-1], rows, index, made, keep=keep)
        if keep:
            state[-1, rows] = inputs[0]
        return (self._volatility(squares),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the volatility per year: a fraction, or percent in `tradingview`."""
        closes = np.concatenate([state[-1:], inputs[0]])
        _, squares = self._moments.run(state[:-1], index, log_ratio(closes[1:], closes[:-1]))
        state[-1] = closes[-1]
        return Run(self._volatility(squares)[None], None)

    def _volatility(self, squares: Float64Array) -> Float64Array:
        if self.dialect == TRADINGVIEW:
            return 100.0 * annual(squares / self.block, self.values[1])
        return annual(squares / (self.block - 1), self.values[1])
