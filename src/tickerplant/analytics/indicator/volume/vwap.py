"""Volume-weighted average price of the session.

Formula: Σ price · volume / Σ volume over the session's bars so far. The price is the bar's vwap, or its typical price.

Warm-up: 1 bar.

Source: S. Berkowitz, D. Logue, E. Noser, The Total Cost of Transactions on the NYSE (1988); updated by West's method
(1979).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tickerplant.analytics.indicator.declaration import Count
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.core.times import Float64Array


class VWAP(Recursive):
    """Volume-weighted average price of the session so far. It restarts with each session.

    The value is the average over the session's trades if the bars contain their own vwap, as bars built from ticks do.
    A bar without a vwap counts with its typical price (high + low + close) / 3. Until a session has volume, the value
    is the newest bar's price.
    """

    NAME = "VWAP"
    PARAMETERS = ()
    INPUTS = ("vwap", "volume", "session")
    SOURCE = (
        "S. Berkowitz, D. Logue, E. Noser, The Total Cost of Transactions on the NYSE (1988); "
        "summed by West's method (1979)"
    )

    def declare(self) -> None:
        """Set warm-up and state size (both constant)."""
        self.warmup = 1
        self.width = _MEAN.width

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the volume-weighted average price of the session so far, in units of price."""
        return (past.recur(_MEAN, *inputs)[0],)


@dataclass(frozen=True, slots=True)
class _Mean:
    """The state: mean price, volume and session.

    Each price moves the mean by its share of the volume, so equal prices give exactly that price.
    """

    width: ClassVar[int] = 3

    def step(self, before: tuple[Float64Array, ...], index: Count, *x: Float64Array) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the new state."""
        price, volume, session = x
        mean, total, last = before
        begins = np.equal(index, 0) | (session != last)
        volume_sum = np.where(begins, 0.0, total) + volume
        traded = volume_sum > volume
        moved = mean + (price - mean) * (volume / np.where(traded, volume_sum, 1.0))
        return np.where(traded, moved, price), volume_sum, session

    def run(self, before: tuple[float, ...], index: int, *x: list[float]) -> Iterator[tuple[float, ...]]:
        """Process many bars of one symbol; yield the state after each."""
        mean, total, last = before
        for bar, (price, volume, session) in enumerate(zip(*x, strict=True), start=index):
            if bar == 0 or session != last:
                total = 0.0
            total += volume
            mean = mean + (price - mean) * (volume / total) if total > volume else price
            last = session
            yield mean, total, last


_MEAN = _Mean()
