"""The relative strength index."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Indicator, Place, Run, period
from tickerplant.core.times import Float64Array

_STILL: Final = 1e-14  # TA-Lib's epsilon: a price that has moved less than this on average has an RSI of 0


class RSI(Indicator):
    """Relative strength index: 100 · gains / (gains + losses), averaged after Wilder over `period` changes.

    The state is the last close and the averages (until the first value: the sums) of gains and of losses. Where the
    price has not moved at all TA-Lib says 0, and so does this.
    """

    NAME = "RSI"
    PARAMETERS = (period(14),)
    SOURCE = "TA-Lib RSI, default compatibility; J. Welles Wilder, New Concepts in Technical Trading Systems (1978)"

    def declare(self) -> None:
        """Set the sizes that follow from the period; a change needs two closes."""
        self._n = int(self.values[0])
        self.warmup = self._n + 1
        self.width = 3

    def step(
        self, state: Float64Array, rows: Place, index: Count, inputs: tuple[Float64Array, ...], *, keep: bool
    ) -> tuple[Float64Array, ...]:
        """Take one bar of each symbol."""
        x, n = inputs[0], self._n
        before, gains, losses = state[0, rows], state[1, rows], state[2, rows]
        change = np.where(index == 0, 0.0, x - before)
        gain, loss = np.maximum(change, 0.0), np.maximum(-change, 0.0)
        new_gains, new_losses = (gains * (n - 1) + gain) / n, (losses * (n - 1) + loss) / n
        seeding = index <= n
        if np.any(seeding):
            parts = np.where(index == n, float(n), 1.0)
            new_gains = np.where(seeding, (gains + gain) / parts, new_gains)
            new_losses = np.where(seeding, (losses + loss) / parts, new_losses)
        if keep:
            state[0, rows], state[1, rows], state[2, rows] = x, new_gains, new_losses
        return (_index(new_gains, new_losses),)

    def run(self, state: Float64Array, index: int, inputs: tuple[Float64Array, ...]) -> Run:
        """Take many bars of one symbol: a recursion, so on plain floats, 0.2 µs a bar."""
        n = self._n
        before, gains, losses = state.tolist()
        trace: list[tuple[float, float, float]] = []
        for bar, x in enumerate(inputs[0].tolist(), start=index):
            change = x - before if bar else 0.0
            gain, loss = (change, 0.0) if change > 0 else (0.0, -change)
            if bar > n:
                gains, losses = (gains * (n - 1) + gain) / n, (losses * (n - 1) + loss) / n
            else:
                gains, losses = gains + gain, losses + loss
                if bar == n:
                    gains, losses = gains / n, losses / n
            before = x
            trace.append((x, gains, losses))
        state[:] = before, gains, losses
        states = np.array(trace, dtype=np.float64).reshape(len(trace), 3)
        return Run(_index(states[:, 1], states[:, 2])[None], states)


def _index(gains: Float64Array, losses: Float64Array) -> Float64Array:
    total = gains + losses
    moved = total >= _STILL
    return np.where(moved, 100.0 * (gains / np.where(moved, total, 1.0)), 0.0)
