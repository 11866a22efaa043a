"""Accumulation/distribution line.

Formula: the sum of volume · ((close − low) − (high − close)) / (high − low) over all bars.

Warm-up: 1 bar.

Source: TA-Lib AD; M. Chaikin's line, in S. Achelis, Technical Analysis from A to Z (1995).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import MIN_DIVISOR
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import Sum
from tickerplant.core.times import Float64Array

_SUM: Final = Sum()


class AD(Recursive):
    """Accumulation/distribution line: the sum of volume · ((close − low) − (high − close)) / (high − low).

    A bar with high = low adds 0. The sum starts at the first bar, so only its changes are meaningful, not its level.
    """

    NAME = "AD"
    PARAMETERS = ()
    INPUTS = ("high", "low", "close", "volume")
    SOURCE = "TA-Lib AD; M. Chaikin's line, in S. Achelis, Technical Analysis from A to Z (1995)"

    def declare(self) -> None:
        """Set warm-up and state size (both constant)."""
        self.warmup = 1
        self.width = 1

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the accumulation/distribution line, in units of volume."""
        high, low, close, volume = inputs
        span = high - low
        some = span >= MIN_DIVISOR
        flow = (((close - low) - (high - close)) / np.where(some, span, 1.0)) * volume
        return (past.smooth(_SUM, np.where(some, flow, 0.0)),)
