"""Money flow index.

Formula: 100 · flow of rising bars / flow of rising and falling bars, over the last `period` changes. A bar's flow is
its typical price, (high + low + close) / 3, times its volume.

Warm-up: period + 1 bars.

Source: TA-Lib MFI; G. Quong and A. Soudack, Stocks & Commodities (1989).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, RowIndex, Run, period
from tickerplant.analytics.indicator.moments import BlockMoments
from tickerplant.core.times import Float64Array

_MIN_CHANGE: Final = 1e-14  # TA-Lib's epsilon: a smaller relative change of the typical price is a rounding error


class MFI(Indicator):
    """Money flow index: 100 · flow of rising bars / flow of rising and falling bars, over the last `period` changes.

    A bar rises or falls if its typical price does. The index is 0 without flow. The state contains the moments of both
    flows and the last typical price.
    """

    NAME = "MFI"
    PARAMETERS = (period(14),)
    INPUTS = ("high", "low", "close", "volume")
    SOURCE = (
        "TA-Lib MFI (0.8 and later: ties by a relative epsilon); G. Quong and A. Soudack, Stocks & Commodities (1989)"
    )

    def declare(self) -> None:
        """Set warm-up and state size from the period."""
        self.block = int(self.values[0])
        self.warmup = self.block + 1
        self._mean = BlockMoments(self.block)
        self.width = 2 * self._mean.width + 1

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the money flow index, 0 to 100."""
        high, low, close, volume = inputs
        half = self._mean.width
        typical = (high + low + close) / 3.0
        up, down = _flows(typical, state[-1, rows], volume)
        rose, _ = self._mean.step(state[:half], rows, index, up, keep=keep)
        fell, _ = self._mean.step(state[half:-1], rows, index, down, keep=keep)
        if keep:
            state[-1, rows] = typical
        return (_index(rose, fell),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Process many bars of one symbol; return the money flow index, 0 to 100."""
        high, low, close, volume = inputs
        half = self._mean.width
        typical = np.concatenate([state[-1:], (high + low + close) / 3.0])
        up, down = _flows(typical[1:], typical[:-1], volume)
        rose, _ = self._mean.run(state[:half], index, up)
        fell, _ = self._mean.run(state[half:-1], index, down)
        state[-1] = typical[-1]
        return Run(_index(rose, fell)[None], None)


def _flows(typical: Float64Array, before: Float64Array, volume: Float64Array) -> tuple[Float64Array, Float64Array]:
    change = typical - before
    moved = np.abs(change) > _MIN_CHANGE * (np.abs(typical) + np.abs(before))
    flow = np.where(moved, typical * volume, 0.0)
    falls = change < 0
    return np.where(falls, 0.0, flow), np.where(falls, flow, 0.0)


def _index(rose: Float64Array, fell: Float64Array) -> Float64Array:
    total = rose + fell
    flowed = total > 0
    return np.where(flowed, 100.0 * (np.minimum(np.maximum(rose, 0.0), total) / np.where(flowed, total, 1.0)), 0.0)
