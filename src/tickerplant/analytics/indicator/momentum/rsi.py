"""Relative strength index.

Formula: 100 · gains / (gains + losses), where both are Wilder's averages of the changes of the close.

Warm-up: period + 1 bars.

Source: TA-Lib RSI; J. Welles Wilder, New Concepts in Technical Trading Systems (1978).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import TALIB, TRADINGVIEW, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import Wilder, wilder
from tickerplant.core.times import Float64Array


class RSI(Recursive):
    """Relative strength index: 100 · gains / (gains + losses), Wilder's averages over `period` changes of the close.

    The index is 0, or 100 in the dialect `tradingview`, if the price has never moved.
    """

    NAME = "RSI"
    PARAMETERS = (period(14),)
    SOURCE = "TA-Lib RSI, default compatibility; J. Welles Wilder, New Concepts in Technical Trading Systems (1978)"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set the warm-up from the period; the state size is constant."""
        self._average = wilder(int(self.values[0]))
        self.warmup = self._average.seed + 1
        self.width = RSI_WIDTH

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the relative strength index, 0 to 100."""
        return (relative_strength(past, self._average, inputs[0], still=0.0 if self.dialect == TALIB else 100.0),)


RSI_WIDTH: Final = 3


def relative_strength(past: Past, average: Wilder, close: Float64Array, still: float = 0.0) -> Float64Array:
    """Return the relative strength index of closes, 0 to 100; `still` if they have never moved.

    Uses RSI_WIDTH floats of the state.
    """
    change = close - past.last(close)
    gains = past.smooth(average, np.maximum(change, 0.0), start=1)
    losses = past.smooth(average, np.maximum(-change, 0.0), start=1)
    total = gains + losses
    moved = total > 0.0
    return np.where(moved, 100.0 * (gains / np.where(moved, total, 1.0)), still)
