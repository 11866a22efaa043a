"""TA-Lib's functions except MAVP give the same values here.

A windowed function needs only its declared number of earlier bars.
"""

from __future__ import annotations

import numpy as np
import pytest
import talib
from talib import abstract

from tests.analytics.support import ohlcv
from tickerplant.analytics import compute
from tickerplant.analytics.ondemand import talib_functions
from tickerplant.analytics.ondemand.calculation import parse_calculation

FILE = "real_days"
NAMES = [name for name in talib.get_functions() if name != "MAVP"]


def test_all_functions_are_listed_except_the_one_that_needs_an_array_of_periods() -> None:
    assert len(talib_functions.names()) >= 150
    assert [*talib_functions.names()] == sorted(NAMES)
    assert parse_calculation("TA_MAX(5)").columns == ("ta_max_5",)


@pytest.mark.parametrize("name", NAMES)
def test_values_equal_those_of_the_abstract_interface(name: str) -> None:
    data = ohlcv(FILE)
    made = compute(data, f"TA_{name}")
    function = abstract.Function(name)
    known = function(data)
    known = known if isinstance(known, list) else [known]
    for values, reference in zip(made.values(), known, strict=True):
        reference = np.where(np.arange(len(reference)) < function.lookback, np.nan, reference.astype(float))
        np.testing.assert_array_equal(values, np.where(np.isfinite(reference), reference, np.nan))


@pytest.mark.parametrize("name", [name for name in NAMES if parse_calculation(f"TA_{name}").memory is not None])
def test_a_windowed_function_needs_no_bars_older_than_its_memory(name: str) -> None:
    data = {key: values[-3000:] for key, values in ohlcv(FILE).items()}
    calculation = parse_calculation(f"TA_{name}")
    memory = calculation.memory
    assert memory is not None
    whole = np.array([*compute(data, f"TA_{name}").values()])
    for bar in range(max(memory, 600), 3000, 37):
        window = tuple(data[column][bar - memory : bar + 1] for column in calculation.inputs)
        np.testing.assert_allclose(calculation.run(window)[:, -1], whole[:, bar], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("TA_SMA(5)", 4), ("TA_EMA(5)", None), ("TA_OBV", None), ("TA_DEMA", None), ("TA_SAR", None),
        ("TA_MAXINDEX", None),
        ("TA_BBANDS(5)", 4), ("TA_BBANDS(5, matype=ema)", None), ("TA_BBANDS(5, matype=wma)", 4), ("CDLDOJI", 10),
        ("TA_STOCH(slowk_matype=1)", None), ("SMA(5)", 10), ("EMA(5)", None),
    ],
)  # fmt: skip
def test_memory_is_the_number_of_earlier_bars_that_determine_a_value(text: str, memory: int | None) -> None:
    assert parse_calculation(text).memory == memory


def test_parameters_accept_the_spellings_of_other_tools() -> None:
    for text in ("TA_RSI(14)", "TA_RSI(timeperiod=14)", "TA_RSI(time_period=14)", "TA_RSI(period=14)", "ta_rsi"):
        assert str(parse_calculation(text)) == "TA_RSI(14)"
    assert str(parse_calculation("TA_MACD(fast_period=5, slow=10)")) == "TA_MACD(5,10,9)"
    assert parse_calculation("TA_STOCH(fast_k_period=7, slow_kma_type=ema)").columns[0] == "ta_stoch_7_3_1_3_0_slowk"
    assert str(parse_calculation("RSI(time_period=9)")) == "RSI(9)"
    assert str(parse_calculation("BBANDS(sd=3)")) == "BBANDS(20,3)"
    assert parse_calculation("BETA(price0=close, price1=volume)").inputs == ("close", "volume")


def test_nan_and_infinity_become_null() -> None:
    assert np.isnan(compute([0.0, -1.0, 1.0], "LN")["ln"][:2]).all()
    assert np.isnan(compute({"high": [1.0], "low": [0.0]}, "DIV")["div"]).all()
