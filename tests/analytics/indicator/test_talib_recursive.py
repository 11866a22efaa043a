"""Recursive indicators give TA-Lib's values over whole files, with nulls in the same places."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import talib

from tests.analytics.support import FILES, ohlcv
from tickerplant.analytics import compute

Bars = Mapping[str, np.ndarray]


def close(function: Callable[..., object], *values: float) -> Callable[[Bars], object]:
    return lambda bars: function(bars["close"], *values)


def prices(function: Callable[..., object], *values: float) -> Callable[[Bars], object]:
    return lambda bars: function(bars["high"], bars["low"], bars["close"], *values)


def directions(period: int) -> Callable[[Bars], object]:
    functions = (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)
    return lambda bars: [function(bars["high"], bars["low"], bars["close"], period) for function in functions]


THEIRS: dict[str, Callable[[Bars], object]] = {
    "EMA(20)": close(talib.EMA, 20),
    "DEMA(2)": close(talib.DEMA, 2),
    "DEMA(20)": close(talib.DEMA, 20),
    "TEMA(2)": close(talib.TEMA, 2),
    "TEMA(20)": close(talib.TEMA, 20),
    "TEMA(200)": close(talib.TEMA, 200),
    "MACD": close(talib.MACD, 12, 26, 9),
    "MACD(3,40,1)": close(talib.MACD, 3, 40, 1),
    "MACD(2,3,30)": close(talib.MACD, 2, 3, 30),
    "RSI": close(talib.RSI, 14),
    "STOCHRSI": close(talib.STOCHRSI, 14, 5, 3),
    "STOCHRSI(14,14,3)": close(talib.STOCHRSI, 14, 14, 3),
    "STOCHRSI(2,1,1)": close(talib.STOCHRSI, 2, 1, 1),
    "STOCHRSI(50,40,20)": close(talib.STOCHRSI, 50, 40, 20),
    "ATR": prices(talib.ATR, 14),
    "ATR(1)": prices(talib.ATR, 1),
    "ATR(200)": prices(talib.ATR, 200),
    "NATR": prices(talib.NATR, 14),
    "NATR(2)": prices(talib.NATR, 2),
    "ADX": directions(14),
    "ADX(2)": directions(2),
    "ADX(100)": directions(100),
    "SAR": lambda bars: talib.SAR(bars["high"], bars["low"], 0.02, 0.2),
    "SAR(0.1,0.1)": lambda bars: talib.SAR(bars["high"], bars["low"], 0.1, 0.1),
    "SAR(0.013,1)": lambda bars: talib.SAR(bars["high"], bars["low"], 0.013, 1),
    "OBV": lambda bars: talib.OBV(bars["close"], bars["volume"]),
    "AD": lambda bars: talib.AD(bars["high"], bars["low"], bars["close"], bars["volume"]),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", THEIRS)
def test_a_batch_equals_talib_with_nulls_in_the_same_places(name: str, text: str) -> None:
    bars = ohlcv(name)
    theirs = THEIRS[text](bars)
    made = compute(bars, text)
    expected = [theirs] if isinstance(theirs, np.ndarray) else list(theirs)  # type: ignore[call-overload]
    for ours, values in zip(made.values(), expected, strict=True):
        assert (np.isnan(ours) == np.isnan(values)).all()
        np.testing.assert_allclose(ours, values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1.0, 1e9])
@pytest.mark.parametrize("text", ["RSI", "ADX", "NATR", "STOCHRSI"])
def test_ratios_equal_talib_in_any_unit_of_price(text: str, scale: float) -> None:
    columns = {field: values[:1000] * scale for field, values in ohlcv("new_york").items()}
    theirs = THEIRS[text](columns)
    made = compute(columns, text)
    expected = [theirs] if isinstance(theirs, np.ndarray) else list(theirs)  # type: ignore[call-overload]
    for ours, values in zip(made.values(), expected, strict=True):
        np.testing.assert_allclose(ours, values, rtol=1e-9, atol=1e-9)
