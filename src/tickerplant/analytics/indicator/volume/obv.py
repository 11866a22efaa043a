"""On-balance volume.

Formula: the sum of volume · sign(close − previous close) over all bars; the first bar adds its volume.

Warm-up: 1 bar.

Source: TA-Lib OBV; J. Granville, New Key to Stock Market Profits (1963).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import Sum
from tickerplant.core.times import Float64Array

_SUM: Final = Sum()


class OBV(Recursive):
    """On-balance volume: the volume of bars that closed higher minus the volume of bars that closed lower.

    The sum starts with the first bar's volume, so only its changes are meaningful, not its level.
    """

    NAME = "OBV"
    PARAMETERS = ()
    INPUTS = ("close", "volume")
    SOURCE = "TA-Lib OBV; J. Granville, New Key to Stock Market Profits (1963)"

    def declare(self) -> None:
        """Set warm-up and state size (both constant)."""
        self.warmup = 1
        self.width = 2

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the on-balance volume, in units of volume."""
        close, volume = inputs
        before = past.last(close)
        signed = np.where(close > before, volume, np.where(close < before, -volume, 0.0))
        return (past.smooth(_SUM, np.where(np.equal(past.index, 0), volume, signed)),)
