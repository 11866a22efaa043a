"""Windowed indicators give TA-Lib's values to 1e-9 over whole files, with nulls in the same places.

TA-Lib's running sums lose digits. For STDDEV, WMA and CCI, exact arithmetic shows that our values are at least as close
where both differ most.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import talib

from tests.analytics.support import FILES, ohlcv
from tickerplant.analytics import compute

Bars = dict[str, np.ndarray]


def prices(bars: Bars) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return bars["high"], bars["low"], bars["close"]


def aroon(bars: Bars, n: int) -> tuple[np.ndarray, ...]:
    down, up = talib.AROON(bars["high"], bars["low"], n)
    return up, down


CASES: dict[str, Callable[[Bars], object]] = {
    "STOCH(14,3,3)": lambda bars: talib.STOCH(*prices(bars), 14, 3, 0, 3, 0),
    "STOCH(5,1,4)": lambda bars: talib.STOCH(*prices(bars), 5, 1, 0, 4, 0),
    "STOCH(3,7,1)": lambda bars: talib.STOCH(*prices(bars), 3, 7, 0, 1, 0),
    "STOCH(200,20,30)": lambda bars: talib.STOCH(*prices(bars), 200, 20, 0, 30, 0),
    "STOCHF(14,3)": lambda bars: talib.STOCHF(*prices(bars), 14, 3, 0),
    "STOCHF(5,1)": lambda bars: talib.STOCHF(*prices(bars), 5, 1, 0),
    "WILLR(14)": lambda bars: talib.WILLR(*prices(bars), 14),
    "WILLR(2)": lambda bars: talib.WILLR(*prices(bars), 2),
    "WILLR(300)": lambda bars: talib.WILLR(*prices(bars), 300),
    "ROC(10)": lambda bars: talib.ROC(bars["close"], 10),
    "ROC(1)": lambda bars: talib.ROC(bars["close"], 1),
    "MOM(10)": lambda bars: talib.MOM(bars["close"], 10),
    "CCI(20)": lambda bars: talib.CCI(*prices(bars), 20),
    "CCI(100)": lambda bars: talib.CCI(*prices(bars), 100),
    "MFI(14)": lambda bars: talib.MFI(*prices(bars), bars["volume"], 14),
    "MFI(2)": lambda bars: talib.MFI(*prices(bars), bars["volume"], 2),
    "WMA(20)": lambda bars: talib.WMA(bars["close"], 20),
    "WMA(2)": lambda bars: talib.WMA(bars["close"], 2),
    "WMA(200)": lambda bars: talib.WMA(bars["close"], 200),
    "AROON(14)": lambda bars: aroon(bars, 14),
    "AROON(2)": lambda bars: aroon(bars, 2),
    "AROONOSC(14)": lambda bars: talib.AROONOSC(bars["high"], bars["low"], 14),
    "STDDEV(20)": lambda bars: talib.STDDEV(bars["close"], 20),
    "STDDEV(2)": lambda bars: talib.STDDEV(bars["close"], 2),
    "STDDEV(250)": lambda bars: talib.STDDEV(bars["close"], 250),
    "BBANDS(20,2)": lambda bars: talib.BBANDS(bars["close"], 20, 2.0, 2.0),
}


@pytest.mark.parametrize("text", CASES)
@pytest.mark.parametrize("name", FILES)
def test_a_batch_equals_talib_with_nulls_in_the_same_places(name: str, text: str) -> None:
    bars = ohlcv(name)
    found = CASES[text](bars)
    reference = found if isinstance(found, (tuple, list)) else (found,)
    made = list(compute(bars, text).values())
    for ours, theirs in zip(made, reference, strict=text != "BBANDS(20,2)"):
        assert (np.isnan(ours) == np.isnan(theirs)).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def exact_variance(x: list[Fraction]) -> Fraction:
    mean = sum(x) / len(x)
    return sum((value - mean) ** 2 for value in x) / len(x)


def exact_wma(x: list[Fraction]) -> Fraction:
    n = len(x)
    return sum(weight * value for weight, value in enumerate(x, start=1)) / Fraction(n * (n + 1), 2)


def worst(ours: np.ndarray, theirs: np.ndarray, count: int = 50) -> list[int]:
    """Return the indices of the `count` bars with the largest differences, ascending by difference. NaN counts as 0."""
    return np.argsort(np.nan_to_num(np.abs(ours - theirs)))[-count:].tolist()


@pytest.mark.parametrize("name", FILES)
def test_where_the_deviation_differs_from_talib_it_is_closer_to_the_exact_value(name: str) -> None:
    close = ohlcv(name)["close"]
    ours, theirs = compute(close, "STDDEV(20)")["stddev_20"], talib.STDDEV(close, 20)
    off = {"ours": 0.0, "theirs": 0.0}
    for bar in worst(ours, theirs):
        variance = exact_variance([Fraction(value) for value in close[bar - 19 : bar + 1].tolist()])
        for library, value in (("ours", ours[bar]), ("theirs", theirs[bar])):
            off[library] = max(off[library], abs(float(Fraction(float(value)) ** 2 / variance - 1)))
    assert off["ours"] < 1e-12
    assert off["ours"] < off["theirs"]


@pytest.mark.parametrize("name", FILES)
def test_where_the_weighted_average_differs_from_talib_it_is_at_least_as_close_to_the_exact_value(name: str) -> None:
    close = ohlcv(name)["close"]
    ours, theirs = compute(close, "WMA(20)")["wma_20"], talib.WMA(close, 20)
    off = {"ours": 0.0, "theirs": 0.0}
    for bar in worst(ours, theirs):
        reference = exact_wma([Fraction(value) for value in close[bar - 19 : bar + 1].tolist()])
        for library, value in (("ours", ours[bar]), ("theirs", theirs[bar])):
            off[library] = max(off[library], abs(float(Fraction(float(value)) / reference - 1)))
    assert off["ours"] < 5e-16
    assert off["ours"] <= off["theirs"]


@pytest.mark.parametrize("name", FILES)
def test_the_commodity_channel_index_is_closer_to_the_exact_value_than_that_of_talib(name: str) -> None:
    bars = ohlcv(name)
    ours, theirs = compute(bars, "CCI(20)")["cci_20"], talib.CCI(*prices(bars), 20)
    typical = [Fraction(value) for value in ((bars["high"] + bars["low"] + bars["close"]) / 3.0).tolist()]
    off = {"ours": 0.0, "theirs": 0.0}
    for bar in worst(ours, theirs):
        window = typical[bar - 19 : bar + 1]
        mean = sum(window) / 20
        reference = (window[-1] - mean) / (Fraction(15, 1000) * sum(abs(value - mean) for value in window) / 20)
        for library, value in (("ours", ours[bar]), ("theirs", theirs[bar])):
            off[library] = max(off[library], abs(float(Fraction(float(value)) - reference)))
    assert off["ours"] < 1e-9
    assert off["ours"] < off["theirs"]


def random_bars(bars: int, seed: int) -> Bars:
    """Return bars with prices from 1 to 5, so that equal extremes, zero ranges and unchanged bars are frequent."""
    rng = np.random.default_rng(seed)
    grid = np.sort(rng.integers(1, 6, (3, bars)).astype(float), axis=0)
    return {"high": grid[2], "low": grid[0], "close": grid[1], "volume": rng.integers(0, 3, bars).astype(float)}


@pytest.mark.parametrize("text", ["STOCH(3,2,2)", "STOCHF(2,2)", "WILLR(2)", "MFI(3)", "AROON(6)", "AROONOSC(6)"])
def test_ties_and_ranges_of_zero_height_equal_talib(text: str) -> None:
    n = [int(word) for word in text[text.index("(") + 1 : -1].split(",")]
    reference: dict[str, Callable[[Bars], object]] = {
        "STOCH": lambda bars: talib.STOCH(*prices(bars), n[0], n[1], 0, n[2], 0),
        "STOCHF": lambda bars: talib.STOCHF(*prices(bars), n[0], n[1], 0),
        "WILLR": lambda bars: talib.WILLR(*prices(bars), n[0]),
        "MFI": lambda bars: talib.MFI(*prices(bars), bars["volume"], n[0]),
        "AROON": lambda bars: aroon(bars, n[0]),
        "AROONOSC": lambda bars: talib.AROONOSC(bars["high"], bars["low"], n[0]),
    }
    for seed in range(20):
        bars = random_bars(400, seed)
        found = reference[text[: text.index("(")]](bars)
        series = found if isinstance(found, (tuple, list)) else (found,)
        for ours, theirs in zip(compute(bars, text).values(), series, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("price", [0.1, 1 / 3, 123.456, 1e-12, 1e12])
def test_constant_prices_give_exact_values(price: float) -> None:
    same = np.full(60, price)
    bars = {"high": same, "low": same, "close": same, "volume": same}
    for text, value in [
        ("STOCH", 0.0), ("STOCHF", 0.0), ("WILLR", 0.0), ("ROC", 0.0), ("MOM", 0.0), ("CCI", 0.0), ("MFI", 0.0),
        ("WMA", price), ("AROON", 100.0), ("AROONOSC", 0.0), ("STDDEV", 0.0),
    ]:  # fmt: skip
        for column in compute(bars, text).values():
            assert (column[~np.isnan(column)] == value).all(), text
    assert (talib.AROON(same, same, 14)[0][14:] == 100.0).all()
    assert (talib.CCI(same, same, same, 20)[19:] == 0.0).all()


def test_typical_prices_that_differ_by_rounding_count_as_unchanged() -> None:
    high, low, close = np.array([[1.46, 1.44, 1.46], [1.41, 1.41, 1.40], [1.42, 1.44, 1.43]])
    assert len(set(((high + low + close) / 3).tolist())) > 1  # each is 1.43 in exact arithmetic
    volume = np.full(3, 100.0)
    made = compute({"high": high, "low": low, "close": close, "volume": volume}, "MFI(2)")["mfi_2"]
    np.testing.assert_array_equal(made, talib.MFI(high, low, close, volume, 2))
    assert made[2] == 0.0


def test_the_rate_of_change_from_zero_is_zero() -> None:
    close = np.array([0.0, 5.0, 0.0, 2.0])
    assert compute(close, "ROC(1)")["roc_1"][1:].tolist() == [0.0, -100.0, 0.0]
    np.testing.assert_array_equal(compute(close, "ROC(1)")["roc_1"], talib.ROC(close, 1))
