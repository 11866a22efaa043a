"""Recursive indicators that TA-Lib lacks equal derivations in plain Python over whole files.

Sources of the derivations:

- TradingView's Pine Script reference manual: `ta.ema`, `ta.rma`, `ta.tr`, `ta.atr`, `ta.macd`, `ta.rsi`, `ta.dmi`,
  `ta.supertrend`. Its `ta.ema` and `ta.rma` start with the simple average.
- StockCharts' ChartSchool: "Keltner Channels" and "Volume-Weighted Average Price".
- J. Welles Wilder, New Concepts (1978): the ADX.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import nan

import numpy as np
import pytest

from tests.analytics.support import FILES, ohlcv
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import parse
from tickerplant.core.errors import BadInput

Bars = Mapping[str, list[float]]


def averaged(x: list[float], period: int, weight: float) -> list[float]:
    """Return the exponential average `weight · x + (1 - weight) · previous` of each value, NaN before the seed.

    The seed is the mean of the first `period` values other than NaN.
    """
    made, seed, before = [], [], nan
    for value in x:
        if value != value:
            made.append(nan)
            continue
        if len(seed) < period:
            seed.append(value)
            before = sum(seed) / period if len(seed) == period else nan
        else:
            before = weight * value + (1 - weight) * before
        made.append(before)
    return made


def ema(x: list[float], period: int) -> list[float]:
    return averaged(x, period, 2 / (period + 1))


def rma(x: list[float], period: int) -> list[float]:
    return averaged(x, period, 1 / period)


def true_ranges(bars: Bars, first: bool) -> list[float]:
    """Return the true range of each bar. The first value is high less low if `first`, else NaN."""
    rows = list(zip(bars["high"], bars["low"], bars["close"], strict=True))
    made = [rows[0][0] - rows[0][1] if first else nan]
    for (_, _, before), (high, low, _) in pairwise(rows):
        made.append(max(high - low, abs(high - before), abs(low - before)))
    return made


def less(x: list[float], y: list[float]) -> list[float]:
    return [a - b for a, b in zip(x, y, strict=True)]


def macd(bars: Bars, fast: int, slow: int, signal: int) -> list[list[float]]:
    line = less(ema(bars["close"], fast), ema(bars["close"], slow))
    signals = ema(line, signal)
    return [line, signals, less(line, signals)]


def rsi(bars: Bars, period: int) -> list[list[float]]:
    changes = [nan, *less(bars["close"][1:], bars["close"][:-1])]
    up = rma([change if change != change else max(change, 0.0) for change in changes], period)
    down = rma([change if change != change else max(-change, 0.0) for change in changes], period)
    return [[100.0 if d == 0 else 100 - 100 / (1 + u / d) for u, d in zip(up, down, strict=True)]]


def adx(bars: Bars, period: int) -> list[list[float]]:
    up = [nan, *less(bars["high"][1:], bars["high"][:-1])]
    down = [nan, *less(bars["low"][:-1], bars["low"][1:])]
    pairs = list(zip(up, down, strict=True))
    rises = rma([u if u != u else (u if u > d and u > 0 else 0.0) for u, d in pairs], period)
    falls = rma([u if u != u else (d if d > u and d > 0 else 0.0) for u, d in pairs], period)
    ranges = rma(true_ranges(bars, first=False), period)
    plus = [100 * move / span for move, span in zip(rises, ranges, strict=True)]
    minus = [100 * move / span for move, span in zip(falls, ranges, strict=True)]
    index = [100 * abs(p - m) / (p + m) for p, m in zip(plus, minus, strict=True)]
    return [rma(index, period), plus, minus]


def keltner(bars: Bars, period: int, span: int, ranges: float, first: bool) -> list[list[float]]:
    middle = ema(bars["close"], period)
    distance = [ranges * value for value in rma(true_ranges(bars, first), span)]
    upper = [m + d for m, d in zip(middle, distance, strict=True)]
    return [upper, middle, less(middle, distance)]


def supertrend(bars: Bars, period: int, factor: float, first: bool) -> list[list[float]]:
    """Return line and direction as the manual's code does, NaN in the warm-up.

    The code derives the previous trend from the line. In the manual, direction 1 is down. Here, -1 is down.
    """
    average = rma(true_ranges(bars, first), period)
    lines, directions = [], []
    line = lower_before = upper_before = 0.0
    for bar, atr in enumerate(average):
        if atr != atr:
            lines.append(nan)
            directions.append(nan)
            continue
        middle = (bars["high"][bar] + bars["low"][bar]) / 2
        close, last = bars["close"][bar], bars["close"][bar - 1] if bar else nan
        lower, upper = middle - factor * atr, middle + factor * atr
        if not (lower > lower_before or last < lower_before):
            lower = lower_before
        if not (upper < upper_before or last > upper_before):
            upper = upper_before
        if not lines or lines[-1] != lines[-1]:
            direction = 1
        elif line == upper_before:
            direction = -1 if close > upper else 1
        else:
            direction = 1 if close < lower else -1
        line = lower if direction == -1 else upper
        lower_before, upper_before = lower, upper
        lines.append(line)
        directions.append(float(-direction))
    return [lines, directions]


def session_vwap(bars: Bars) -> list[list[float]]:
    made: list[float] = []
    turnover = volume = 0.0
    session = None
    for price, size, own in zip(bars["vwap"], bars["volume"], bars["session"], strict=True):
        if own != session:
            session, turnover, volume = own, 0.0, 0.0
        turnover, volume = turnover + price * size, volume + size
        made.append(turnover / volume if volume else price)
    return [made]


OURS = {
    "MACD(12,26,9)@tradingview": lambda bars: macd(bars, 12, 26, 9),
    "MACD(3,7,1)@tradingview": lambda bars: macd(bars, 3, 7, 1),
    "RSI(14)@tradingview": lambda bars: rsi(bars, 14),
    "ATR(14)@tradingview": lambda bars: [rma(true_ranges(bars, first=True), 14)],
    "ADX(14)@tradingview": lambda bars: adx(bars, 14),
    "ADX(5)@wilder": lambda bars: adx(bars, 5),
    "KELTNER(20,10,2)": lambda bars: keltner(bars, 20, 10, 2, first=False),
    "KELTNER(5,30,1.5)@tradingview": lambda bars: keltner(bars, 5, 30, 1.5, first=True),
    "SUPERTREND(10,3)": lambda bars: supertrend(bars, 10, 3, first=False),
    "SUPERTREND(10,3)@tradingview": lambda bars: supertrend(bars, 10, 3, first=True),
    "SUPERTREND(3,1.2)@tradingview": lambda bars: supertrend(bars, 3, 1.2, first=True),
    "VWAP": session_vwap,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", OURS)
def test_values_equal_the_source_with_nulls_in_the_same_places(name: str, text: str) -> None:
    bars = ohlcv(name)
    expected = OURS[text]({field: values.tolist() for field, values in bars.items()})
    for ours, values in zip(compute(bars, text).values(), expected, strict=True):
        assert (np.isnan(ours) == np.isnan(values)).all()
        np.testing.assert_allclose(ours, values, rtol=1e-9, atol=1e-9)


def test_the_vwap_of_equal_prices_is_exact_and_that_of_no_volume_is_the_newest_price() -> None:
    bars = {"vwap": [0.1] * 9 + [5.0, 6.0, 7.0], "volume": [3.0, 0.0, 7.0] * 3 + [0.0, 0.0, 2.0],
            "session": [1.0] * 9 + [2.0] * 3}  # fmt: skip
    assert compute(bars, "VWAP")["vwap"].tolist() == [0.1] * 9 + [5.0, 6.0, 7.0]


def test_the_rsi_of_an_unchanged_price_is_0_or_100_by_dialect() -> None:
    assert compute(np.full(20, 7.0), "RSI(14)")["rsi_14"][-1] == 0
    assert compute(np.full(20, 7.0), "RSI(14)@tradingview")["rsi_14_tradingview"][-1] == 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [("MACD(26,12,9)", "fast is 26"), ("MACD(12,12,9)", "fast is 12"), ("SAR(0.3,0.2)", "acceleration is 0.3")],
)
def test_parameters_that_contradict_each_other_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        parse(text)
