"""Running averages and sums: exponential, Wilder's, and the plain sum.

The state of each is one float: first 0, then the sum of the values during the seed, then the average or sum itself.
`index` is the count of earlier values. It is negative while the smoothed series has not started; values are then
ignored. `step` processes one value of each of many symbols. `run` processes many values of one symbol, with the same
operations in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

from tickerplant.analytics.indicator.declaration import Count
from tickerplant.core.times import Float64Array

Value = TypeVar("Value", float, Float64Array)


@dataclass(frozen=True, slots=True)
class Smoothing(ABC):
    """A recursion whose first result follows from the first `seed` values, by default as their mean."""

    seed: int

    @abstractmethod
    def follow(self, before: Float64Array, x: Float64Array) -> Float64Array:
        """Return the next result, given the last result `before` and the value `x`. Called after the seed."""

    @abstractmethod
    def follow_all(self, before: float, x: list[float]) -> list[float]:
        """Return the results after the last result `before`, one per value.

        The results equal those of repeated calls of `follow`. Plain floats are 4 times as fast as such calls.
        """

    def begin(self, total: Value) -> Value:
        """Return the first result, given the sum of the seed."""
        return total / self.seed

    def step(self, before: Float64Array, index: Count, x: Float64Array) -> Float64Array:
        """Process one value of each symbol and return the new state."""
        value = self.follow(before, x)
        seeding = index < self.seed
        if np.any(seeding):
            total = before + x
            begun = np.where(index == self.seed - 1, self.begin(total), total)
            value = np.where(seeding, np.where(index < 0, before, begun), value)
        return value

    def run(self, before: float, index: int, x: Float64Array) -> Float64Array:
        """Process many values of one symbol and return the state after each. A value takes about 0.05 µs."""
        values: list[float] = x.tolist()
        idle = min(max(-index, 0), len(values))
        seeded = min(max(self.seed - index, 0), len(values))
        made = [before] * (idle + 1)
        made += list(accumulate(values[idle:seeded], initial=before))[1:]
        if seeded > idle and index + seeded == self.seed:
            made[-1] = self.begin(made[-1])
        made += self.follow_all(made[-1], values[seeded:])
        return np.array(made[1:], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Exponential(Smoothing):
    """The exponential moving average: before + `k` · (x − before)."""

    k: float

    def follow(self, before: Float64Array, x: Float64Array) -> Float64Array:
        """Return the exponential average after one more value."""
        return (x - before) * self.k + before

    def follow_all(self, before: float, x: list[float]) -> list[float]:
        """Return the exponential average after each value."""
        k = self.k
        return [before := (value - before) * k + before for value in x]


def exponential(period: int) -> Exponential:
    """Return the average with k = 2 / (period + 1), seeded with the mean of the first `period` values.

    TA-Lib (default compatibility) and TradingView seed it the same way.
    """
    return Exponential(period, 2.0 / (period + 1))


@dataclass(frozen=True, slots=True)
class Wilder(Smoothing):
    """Wilder's average over the period `seed`: (before · (seed − 1) + x) · `share`, where `share` is 1 / seed.

    The formula multiplies by `share`, as the RSI of TA-Lib 0.8 does. A division by `seed` would give different last
    bits, which change STOCHRSI while the price is unchanged.
    """

    share: float

    def follow(self, before: Float64Array, x: Float64Array) -> Float64Array:
        """Return Wilder's average after one more value."""
        return (before * (self.seed - 1) + x) * self.share

    def follow_all(self, before: float, x: list[float]) -> list[float]:
        """Return Wilder's average after each value."""
        others, share = self.seed - 1, self.share
        return [before := (before * others + value) * share for value in x]

    def begin(self, total: Value) -> Value:
        """Return Wilder's first average, given the sum of the seed."""
        return total * self.share


def wilder(period: int) -> Wilder:
    """Return Wilder's average over a period, seeded with the mean of the first `period` values."""
    return Wilder(period, 1.0 / period)


@dataclass(frozen=True, slots=True)
class WilderHeld(Wilder):
    """Wilder's average. An undefined value (NaN) leaves the average unchanged, and counts as 0 in the seed."""

    def step(self, before: Float64Array, index: Count, x: Float64Array) -> Float64Array:
        """Process one value of each symbol and return the new state."""
        undefined = np.isnan(x)
        value = Wilder.step(self, before, index, np.where(undefined, 0.0, x))
        return np.where(undefined & np.greater_equal(index, self.seed), before, value)

    def run(self, before: float, index: int, x: Float64Array) -> Float64Array:
        """Process many values of one symbol and return the state after each."""
        undefined = np.isnan(x)
        taken = ~undefined | (np.arange(index, index + len(x)) < self.seed)
        values = Wilder.run(self, before, index, np.where(undefined, 0.0, x)[taken])
        return np.concatenate([[before], values])[np.cumsum(taken)]


@dataclass(frozen=True, slots=True)
class WilderSum(Smoothing):
    """Wilder's sum over `period` values: before − before / period + x, seeded with the sum of the first `seed`."""

    period: int

    def follow(self, before: Float64Array, x: Float64Array) -> Float64Array:
        """Return Wilder's sum after one more value."""
        return before - before / self.period + x

    def follow_all(self, before: float, x: list[float]) -> list[float]:
        """Return Wilder's sum after each value."""
        period = self.period
        return [before := before - before / period + value for value in x]

    def begin(self, total: Value) -> Value:
        """Return the first sum: the sum of the seed."""
        return total


class Sum:
    """The sum of all values from the first one on."""

    def step(self, before: Float64Array, index: Count, x: Float64Array) -> Float64Array:
        """Process one value of each symbol and return the new state."""
        return np.where(np.less(index, 0), before, before + x)

    def run(self, before: float, index: int, x: Float64Array) -> Float64Array:
        """Process many values of one symbol and return the state after each."""
        counted = np.where(np.arange(index, index + len(x)) < 0, 0.0, x)
        return np.cumsum(np.concatenate([[before], counted]))[1:]
