"""Average true range.

Formula: Wilder's average of max(high − low, |high − previous close|, |low − previous close|).

Warm-up: period + 1 bars; `period` bars in the dialect `tradingview`.

Source: TA-Lib ATR; J. Welles Wilder, New Concepts in Technical Trading Systems (1978).
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import TALIB, TRADINGVIEW, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import wilder
from tickerplant.core.times import Float64Array


class ATR(Recursive):
    """Average true range: Wilder's average of the bar's range including the previous close, in units of price.

    In the dialect `talib` the first bar has no true range, because it has no previous close. In `tradingview` its true
    range is high − low, so the average starts one bar earlier.
    """

    NAME = "ATR"
    PARAMETERS = (period(14, least=1),)
    INPUTS = ("high", "low", "close")
    SOURCE = "TA-Lib ATR, default compatibility; J. Welles Wilder, New Concepts in Technical Trading Systems (1978)"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set the warm-up from the period and the dialect; the state size is constant."""
        self._average, self._start = wilder(int(self.values[0])), first_range_index(self.dialect)
        self.warmup = self._average.seed + self._start
        self.width = 2

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the average true range, in units of price."""
        return (past.smooth(self._average, true_range(past, *inputs), self._start),)


def first_range_index(dialect: str) -> int:
    """Return the index, from 0, of the first bar that has a true range."""
    return 1 if dialect == TALIB else 0


def true_range(past: Past, high: Float64Array, low: Float64Array, close: Float64Array) -> Float64Array:
    """Return the largest of high − low, |high − previous close| and |low − previous close|.

    The first bar has high − low. Uses one float of the state.
    """
    before = past.last(close)
    own = high - low
    true_ranges = np.maximum(np.maximum(own, np.abs(high - before)), np.abs(low - before))
    return np.where(np.equal(past.index, 0), own, true_ranges)
