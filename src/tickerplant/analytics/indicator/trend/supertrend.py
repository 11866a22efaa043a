"""Supertrend.

Formula: bands at (high + low) / 2 ± ranges · ATR. The lower band never falls while the close is above it, and the upper
band never rises while the close is below it. A close beyond the opposite band reverses the trend.

Warm-up: period + 1 bars; `period` bars in the dialect `tradingview`.

Source: O. Seban's Supertrend, as ta.supertrend of TradingView's Pine Script defines it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tickerplant.analytics.indicator.declaration import TALIB, TRADINGVIEW, Count, Parameter, period
from tickerplant.analytics.indicator.recursive import Past, Recursive
from tickerplant.analytics.indicator.smoothing import wilder
from tickerplant.analytics.indicator.volatility.atr import first_range_index, true_range
from tickerplant.core.times import Float64Array


class SUPERTREND(Recursive):
    """Supertrend: a line below the price in an uptrend (direction 1), above the price in a downtrend (direction −1).

    The first trend is down, as in TradingView, where the direction has the opposite sign. The dialects are those of
    ATR.
    """

    NAME = "SUPERTREND"
    PARAMETERS = (period(10, least=1), Parameter("ranges", 0.01, 100, whole=False, default=3))
    INPUTS = ("high", "low", "close")
    OUTPUTS = ("line", "direction")
    SOURCE = "O. Seban's Supertrend, as ta.supertrend of TradingView's Pine Script defines it"
    DIALECTS = (TALIB, TRADINGVIEW)

    def declare(self) -> None:
        """Set the warm-up from the period and the dialect; the state size is constant."""
        self._average, self._start = wilder(int(self.values[0])), first_range_index(self.dialect)
        self.warmup = self._average.seed + self._start
        self.width = 2 + _BANDS.width

    def formula(self, past: Past, *inputs: Float64Array) -> tuple[Float64Array, ...]:
        """Return the line, in units of price, and the direction: 1 up, −1 down."""
        high, low, close = inputs
        distance = self.values[1] * past.smooth(self._average, true_range(past, *inputs), self._start)
        middle = (high + low) / 2.0
        bands = middle - distance, middle + distance
        lower, upper, direction, _ = past.recur(_BANDS, *bands, close, start=self.warmup - 1)
        return np.where(direction > 0.0, lower, upper), direction


@dataclass(frozen=True, slots=True)
class _Bands:
    """The state: lower band, upper band, direction, previous close. The first average range starts the recursion."""

    width: ClassVar[int] = 4

    def step(self, before: tuple[Float64Array, ...], index: Count, *x: Float64Array) -> tuple[Float64Array, ...]:
        """Process one bar of each symbol; return the new state. `x`: bands of this bar alone, and the close."""
        bare_lower, bare_upper, close = x
        last_lower, last_upper, last_direction, last = before
        lower = np.where((bare_lower > last_lower) | (last < last_lower), bare_lower, last_lower)
        upper = np.where((bare_upper < last_upper) | (last > last_upper), bare_upper, last_upper)
        falling = np.where(close > upper, 1.0, -1.0)
        rising = np.where(close < lower, -1.0, 1.0)
        direction = np.where(last_direction > 0.0, rising, falling)
        is_first = np.less_equal(index, 0)
        if np.any(is_first):
            lower, upper = np.where(is_first, bare_lower, lower), np.where(is_first, bare_upper, upper)
            direction = np.where(is_first, -1.0, direction)
            idle = np.less(index, 0)
            after = (lower, upper, direction, close)
            return tuple(np.where(idle, old, new) for old, new in zip(before, after, strict=True))
        return lower, upper, direction, close

    def run(self, before: tuple[float, ...], index: int, *x: list[float]) -> Iterator[tuple[float, ...]]:
        """Process many bars of one symbol; yield the state after each."""
        lower, upper, direction, last = before
        for bar, (bare_lower, bare_upper, close) in enumerate(zip(*x, strict=True), start=index):
            if bar > 0:
                if bare_lower > lower or last < lower:
                    lower = bare_lower
                if bare_upper < upper or last > upper:
                    upper = bare_upper
                stays_up, turns_up = direction > 0.0 and close >= lower, direction <= 0.0 and close > upper
                direction = 1.0 if stays_up or turns_up else -1.0
            elif bar == 0:
                lower, upper, direction = bare_lower, bare_upper, -1.0
            if bar >= 0:
                last = close
            yield lower, upper, direction, last


_BANDS = _Bands()
