"""Parsing of indicator calls, names of columns, and equality of the basic indicators with TA-Lib."""

from __future__ import annotations

import numpy as np
import pytest
import talib

from tests.analytics.support import FILES, closes
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import parse
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.core.errors import BadInput

TEXTS = ["SMA(2)", "SMA(20)", "SMA(200)", "EMA(2)", "EMA(12)", "EMA(200)", "RSI(2)", "RSI(14)", "BBANDS(20,2)",
         "BBANDS(5,1.5)"]  # fmt: skip


def expected(indicator: Indicator, x: np.ndarray) -> list[np.ndarray]:
    n = int(indicator.values[0])
    if indicator.NAME == "BBANDS":
        return list(talib.BBANDS(x, n, indicator.values[1], indicator.values[1]))
    return [getattr(talib, indicator.NAME)(x, n)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", FILES)
def test_a_batch_equals_talib_with_nulls_in_the_same_places(name: str, text: str) -> None:
    x = closes(name)
    made = list(compute(x, text).values())
    reference = expected(parse(text), x)
    for ours, theirs in zip(made[: len(reference)], reference, strict=True):  # BBANDS has outputs that TA-Lib lacks
        assert (np.isnan(ours) == np.isnan(theirs)).all()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("price", [0.1, 1 / 3, 123.456, 1e-12, 1e12])
def test_constant_prices_have_a_deviation_of_exactly_zero(price: float) -> None:
    bands = compute(np.full(500, price), "BBANDS(20,2)")
    assert all((bands[f"bbands_20_2_{name}"][19:] == price).all() for name in ("upper", "middle", "lower"))
    assert (compute(np.full(500, price), "SMA(200)")["sma_200"][199:] == price).all()
    np.testing.assert_array_equal(compute(np.full(50, price), "RSI(14)")["rsi_14"], talib.RSI(np.full(50, price), 14))


def test_a_spike_has_no_effect_after_it_leaves_the_window() -> None:
    x = np.full(100, 0.1)
    x[30] = 1e9
    bands = compute(x, "BBANDS(20,2)")
    assert bands["bbands_20_2_upper"][60] == bands["bbands_20_2_lower"][60] == 0.1


def test_columns_are_named_after_the_call() -> None:
    assert parse(" sma ( 20 ) ").columns == ("sma_20",)
    assert parse("BBANDS(20,2)").columns[:3] == ("bbands_20_2_upper", "bbands_20_2_middle", "bbands_20_2_lower")
    assert parse("BBANDS(20,2)").columns[3:] == ("bbands_20_2_percent_b", "bbands_20_2_bandwidth")
    assert parse("BBANDS(20,2.5)").columns[0] == "bbands_20_2p5_upper"
    assert str(parse("bbands")) == "BBANDS(20,2)"
    assert parse("bbands(20.0,2)") == parse("BBANDS(20,2)")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SMA 20", "not an indicator"),
        ("SMA(20)@unknown", "no dialect 'unknown'"),
        ("", "not an indicator"),
        ("SMA(20", "not an indicator"),
        ("FOO(3)", "unknown indicator 'FOO'"),
        ("SMA(20,3)", "takes"),
        ("SMA(1)", "2..1000"),
        ("EMA(-3)", "2..1000"),
        ("SMA(20.5)", "must be an integer"),
        ("SMA(x)", "'x' is not a number"),
        ("SMA(nan)", "'nan' is not a number"),
        ("BBANDS(20,)", "'' is not a number"),
        ("BBANDS(20,0)", "deviations"),
    ],
)
def test_an_invalid_call_raises_an_error_with_the_cause(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason.replace("(", r"\(").replace(".", r"\.")):
        parse(text)
