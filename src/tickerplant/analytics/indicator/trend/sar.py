"""Wilder's parabolic stop and reverse.

Formula: stop + share · (extreme price − stop). The share grows by `acceleration` with each new extreme, up to
`maximum`.

Warm-up: 2 bars.

Source: TA-Lib SAR; J. Welles Wilder, New Concepts in Technical Trading Systems (1978).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Parameter
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Float64Array


class SAR(Recursive):
    """Parabolic stop and reverse: the stop of a position that is always long or short, in units of price.

    The stop moves towards the position's extreme price. A bar that reaches the stop reverses the position, and its
    value is the stop of the new position. The first position is short if the second bar's low falls by more than its
    high rises, otherwise long.
    """

    NAME = "SAR"
    PARAMETERS = (
        Parameter("acceleration", 0.0001, 1, whole=False, default=0.02),
        Parameter("maximum", 0.0001, 1, whole=False, default=0.2),
    )
    INPUTS = ("high", "low")
    SOURCE = "TA-Lib SAR; J. Welles Wilder, New Concepts in Technical Trading Systems (1978)"

    def declare(self) -> None:
        """Set warm-up and state size (both constant). Raises BadInput for an acceleration above the maximum."""
        acceleration, maximum = self.values
        if acceleration > maximum:
            raise BadInput(f"SAR: acceleration is {acceleration:g}; it must not exceed maximum, which is {maximum:g}")
        self._stop = _Stop(acceleration, maximum)
        self.warmup = 2
        self.width = self._stop.width + 2

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the stop of the position, in units of price."""
        high, low = inputs
        before = past.last(high), past.last(low)
        return (past.recur(self._stop, high, low, *before, start=1)[0],)


@dataclass(frozen=True, slots=True)
class _Stop:
    """The state: shown value, side (1 long, −1 short), next bar's stop, extreme price, and share.

    Stop and extreme price of a short position are negated, so that one formula covers both sides.
    """

    acceleration: float
    maximum: float
    width: ClassVar[int] = 5

    def step(self, before: tuple[Float64Array, ...], index: Count, *x: Float64Array) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the new state. `x` is high and low, then those of the previous bar."""
        high, low, last_high, last_low = x
        _, side, stop, best, share = before
        first = np.equal(index, 0)
        if np.any(first):
            fall = last_low - low
            short = (fall > 0.0) & (fall > high - last_high)
            side = np.where(first, np.where(short, -1.0, 1.0), side)
            stop = np.where(first, np.where(short, -last_high, last_low), stop)
            best = np.where(first, np.where(short, -low, high), best)
            share = np.where(first, self.acceleration, share)
            last_high, last_low = np.where(first, high, last_high), np.where(first, low, last_low)
        long = side > 0.0
        top, bottom = np.where(long, high, -low), np.where(long, low, -high)
        last_top, last_bottom = np.where(long, last_high, -last_low), np.where(long, last_low, -last_high)
        turned = bottom <= stop
        shown = np.where(turned, _higher(_higher(best, last_top), top), stop)
        new_best = np.where(turned, bottom, _higher(best, top))
        grown = share + self.acceleration
        grown = np.where(grown > self.maximum, self.maximum, grown)
        new_share = np.where(turned, self.acceleration, np.where(top > best, grown, share))
        moved = shown + new_share * (new_best - shown)
        turned_stop = _higher(_higher(moved, last_top), top)
        kept_stop = _lower(_lower(moved, last_bottom), bottom)
        turn = np.where(turned, -1.0, 1.0)
        after = (
            side * shown,
            side * turn,
            turn * np.where(turned, turned_stop, kept_stop),
            turn * new_best,
            new_share,
        )
        idle = np.less(index, 0)
        if np.any(idle):
            return tuple(np.where(idle, old, new) for old, new in zip(before, after, strict=True))
        return after

    def run(self, before: tuple[float, ...], index: int, *x: list[float]) -> Iterator[tuple[float, ...]]:
        """Process many bars of one symbol; yield the state after each."""
        shown, side, stop, best, share = before
        step, most = self.acceleration, self.maximum
        for bar, (high, low, last_high, last_low) in enumerate(zip(*x, strict=True), start=index):
            if bar == 0:
                fall = last_low - low
                short = fall > 0.0 and fall > high - last_high
                side, stop, best = (-1.0, -last_high, -low) if short else (1.0, last_low, high)
                share, last_high, last_low = step, high, low
            if bar >= 0:
                top, bottom, last_top, last_bottom = (
                    (high, low, last_high, last_low) if side > 0.0 else (-low, -high, -last_low, -last_high)
                )
                if bottom <= stop:
                    stop = max(best, last_top, top)
                    shown, best, share = side * stop, bottom, step
                    side, stop, best = -side, -max(stop + share * (best - stop), last_top, top), -best
                else:
                    shown = side * stop
                    if top > best:
                        best, share = top, min(share + step, most)
                    stop = min(stop + share * (best - stop), last_bottom, bottom)
            yield shown, side, stop, best, share


def _higher(x: Float64Array, y: Float64Array) -> Float64Array:
    return np.where(x < y, y, x)


def _lower(x: Float64Array, y: Float64Array) -> Float64Array:
    return np.where(x > y, y, x)
