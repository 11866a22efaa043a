"""`tickerplant.analytics.compute` accepts bars in every supported container."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.analytics.support import ohlcv, random_bars
from tickerplant.analytics import compute
from tickerplant.analytics.indicator import parse
from tickerplant.core.errors import BadInput, UnknownIndicator

TEXTS = ["RSI(14)", "BBANDS(20,2)", "TA_STOCH"]


def bars() -> dict[str, np.ndarray]:
    columns = {name: values[:, 0] for name, values in random_bars(120, 1).items()}
    columns["close"][50] = np.nan
    columns["time"] = np.datetime64("2026-03-09T14:30", "us") + np.arange(120) * np.timedelta64(60_000_000, "us")
    return columns


def expected() -> dict[str, np.ndarray]:
    return compute(bars(), TEXTS)


def test_arrays_and_mappings_give_arrays() -> None:
    made = expected()
    assert [*made] == [
        "rsi_14", *parse("BBANDS(20,2)").columns,
        "ta_stoch_5_3_0_3_0_slowk", "ta_stoch_5_3_0_3_0_slowd",
    ]  # fmt: skip
    for text, name in (("RSI(14)", "rsi_14"), (parse("RSI(14)"), "rsi_14")):
        np.testing.assert_array_equal(compute(bars()["close"], text)[name], made[name])
    np.testing.assert_array_equal(compute(list(bars()["close"]), "RSI")["rsi_14"], made["rsi_14"])


def test_a_bar_without_a_price_is_ignored() -> None:
    with_nan = bars()["close"]
    whole = compute(np.delete(with_nan, 50), "RSI(14)")["rsi_14"]
    made = compute(with_nan, "RSI(14)")["rsi_14"]
    assert np.isnan(made[50])
    np.testing.assert_array_equal(np.delete(made, 50), whole)


@pytest.mark.parametrize("kind", [pa.table, lambda columns: pa.table(columns).to_batches()[0]])
def test_arrow_gives_an_arrow_table_with_nulls(kind: object) -> None:
    made = compute(kind(bars()), TEXTS)  # type: ignore[operator]
    assert isinstance(made, pa.Table)
    for name, values in expected().items():
        assert made[name].null_count == np.isnan(values).sum()
        np.testing.assert_array_equal(made[name].to_numpy(), values)


def test_an_arrow_array_contains_closes() -> None:
    made = compute(pa.chunked_array([bars()["close"][:60], bars()["close"][60:]]), "RSI(14)")
    np.testing.assert_array_equal(made["rsi_14"].to_numpy(), expected()["rsi_14"])


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("indexed", [True, False])
def test_pandas_gives_a_frame_with_the_same_index(zone: str | None, indexed: bool) -> None:
    frame = pd.DataFrame(bars()).rename(columns={"close": "Close"})
    frame["time"] = frame["time"].dt.tz_localize(zone)
    frame = frame.set_index("time") if indexed else frame.set_index(frame.index[::-1])
    made = compute(frame.sample(frac=1, random_state=1), TEXTS)
    assert isinstance(made, pd.DataFrame)
    assert sorted(made.index) == sorted(frame.index)
    for name, values in expected().items():
        np.testing.assert_array_equal(made.loc[frame.index, name], values)


def test_a_pandas_series_may_contain_pandas_nulls() -> None:
    column = pd.DataFrame(bars())["close"].astype("Float64")
    made = compute(column, "RSI(14)")
    assert made.index.equals(column.index)
    np.testing.assert_array_equal(made["rsi_14"], expected()["rsi_14"])


def test_a_pandas_multi_index_is_refused_and_works_after_reset_index() -> None:
    columns = pd.DataFrame(bars())
    frame = pd.concat([columns.assign(symbol="A"), columns.assign(symbol="B", close=columns["close"] * 2)])
    levels = frame.set_index(["symbol", "time"])
    for refused in (levels, levels["close"]):
        with pytest.raises(BadInput, match=r"levels \(symbol, time\).*reset_index\(\)"):
            compute(refused, "RSI(14)")
    made = compute(levels.reset_index(), "RSI(14)")["rsi_14"].to_numpy()
    np.testing.assert_allclose(made, np.tile(expected()["rsi_14"], 2), rtol=1e-12)
    named_twice = columns.assign(ID=1, id=2)  # two columns of one name in lower case, which `compute` does not read
    np.testing.assert_array_equal(compute(named_twice, "RSI(14)")["rsi_14"], expected()["rsi_14"])


def test_polars_gives_a_polars_frame_with_nulls() -> None:
    frame = pl.DataFrame(bars()).with_columns(
        pl.lit("A").alias("symbol"), pl.lit("1m").cast(pl.Categorical).alias("interval")
    )
    made = compute(frame.reverse(), TEXTS).reverse()
    assert isinstance(made, pl.DataFrame)
    for name, values in expected().items():
        assert made[name].null_count() == np.isnan(values).sum()
        np.testing.assert_array_equal(made[name].to_numpy(), values)
    assert compute(frame["close"], "RSI(14)")["rsi_14"].null_count() == np.isnan(expected()["rsi_14"]).sum()
    with pytest.raises(BadInput, match="collect"):
        compute(frame.lazy(), "RSI")


def test_series_are_separated_and_sorted_by_time() -> None:
    close = random_bars(60, 4)["close"]
    rows = [
        {"symbol": "AB"[s % 2], "interval": ("1m", "5m")[s // 2], "time": minute, "close": close[minute, s]}
        for s in range(4)
        for minute in range(60)
    ]
    order = np.random.default_rng(3).permutation(len(rows))
    alone = np.concatenate([compute(close[:, s], "EMA(5)")["ema_5"] for s in range(4)])
    shuffled = pa.Table.from_pylist([rows[i] for i in order])
    np.testing.assert_array_equal(compute(shuffled, "EMA(5)")["ema_5"].to_numpy(), alone[order])
    as_frame = compute(pd.DataFrame([rows[i] for i in order]), "EMA(5)")
    np.testing.assert_array_equal(as_frame["ema_5"], alone[order])


@pytest.mark.parametrize(
    ("data", "text", "error"),
    [
        ([1.0, 2.0], "NOPE(3)", "no indicator 'NOPE'"),
        ([1.0, 2.0], "RSI(1)", "period is 1"),
        ([1.0, 2.0], "RSI(2,3)", "takes"),
        ([1.0, 2.0], "RSI(days=3)", "no parameter 'days'"),
        ([1.0, 2.0], "RSI(3, period=3)", "twice"),
        ([1.0, 2.0], "RSI(period=3, 3)", "no name"),
        ([1.0, 2.0], "RSI(x)", "not a number"),
        ([1.0, 2.0], "RSI 14", "not an indicator; write"),
        ([1.0, 2.0], "TA_RSI(1)", "TA-Lib refuses"),
        ([1.0, 2.0], "APO(12.5)", "must be an integer"),
        ([1.0, 2.0], "APO(matype=best)", "sma, ema"),
        ([1.0, 2.0], "TA_CCI@wilder", "no parameter 'dialect'"),
        ([1.0, 2.0], "RSI@mine", "no dialect 'mine'"),
        ([1.0, 2.0], "TA_ATR", "needs the column 'high'"),
        ({}, "RSI", "no columns"),
        ({"close": ["a", "b"]}, "RSI", "not numbers"),
        ({"high": [1.0], "low": [1.0, 2.0]}, "TA_AROON", "dimension"),
        ({"close": [1.0, 2.0], "time": [5, 5]}, "RSI", "same time: rows 0 and 1"),
        ({"close": [1.0, 2.0], "time": [5, 5], "symbol": ["A", "A"]}, "RSI", "same time"),
        ({"close": [1.0, 2.0], "time": [5.0, np.nan]}, "RSI", "time is missing"),
        ({"close": [1.0, 2.0], "time": [5, None]}, "RSI", "time"),
        ({"close": [1.0, 2.0], "time": [5]}, "RSI", "one for each"),
        (np.ones((3, 2)), "RSI", "shape"),
        ({"close": "abc"}, "RSI", "not str"),
        (5.0, "RSI", "not float"),
        ([1.0, 2.0], None, "None is not an indicator"),
        ([1.0, 2.0], ["RSI", 5], "5 is not an indicator"),
        ({"Close": [1.0], "close": [2.0]}, "RSI", "columns 'Close' and 'close'"),
        (pd.DataFrame({"Close": [1.0], "close": [2.0]}), "RSI", "columns 'Close' and 'close'"),
        (pl.DataFrame({"CLOSE": [1.0], "Close": [2.0]}), "RSI", "pass a single 'close'"),
    ],
)
def test_invalid_input_raises_an_error_with_the_cause(data: object, text: Any, error: str) -> None:
    with pytest.raises(BadInput, match=error):
        compute(data, text)


def test_an_unknown_name_raises_an_error_with_similar_names() -> None:
    with pytest.raises(UnknownIndicator, match=r"did you mean .*RSI"):
        compute([1.0], "RSII")


def test_missing_sessions_are_utc_dates_and_a_missing_vwap_is_the_typical_price() -> None:
    columns = {name: values for name, values in bars().items() if name not in ("session", "vwap")}
    columns["close"] = columns["open"]
    days = columns["time"].astype("datetime64[D]").astype(np.int64)
    typical = (columns["high"] + columns["low"] + columns["close"]) / 3
    expected_vwap = compute({**columns, "session": days, "vwap": typical}, "VWAP")["vwap"]
    np.testing.assert_array_equal(compute(columns, "VWAP")["vwap"], expected_vwap)
    np.testing.assert_array_equal(compute(pl.DataFrame(columns), "VWAP")["vwap"].to_numpy(), expected_vwap)
    zoned = pd.DataFrame(columns)
    zoned["time"] = zoned["time"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    np.testing.assert_array_equal(compute(zoned, "VWAP")["vwap"], expected_vwap)
    np.testing.assert_array_equal(compute(zoned.set_index("time"), "VWAP")["vwap"], expected_vwap)
    del columns["time"]
    with pytest.raises(BadInput, match="needs the column 'time'"):
        compute(columns, "VWAP")


def test_the_input_is_not_modified() -> None:
    columns = bars()
    before = {name: values.copy() for name, values in columns.items()}
    compute(columns, TEXTS)
    for name, values in columns.items():
        np.testing.assert_array_equal(values, before[name])


def test_no_bars_give_no_values() -> None:
    assert compute([], ["RSI", "TA_RSI"])["rsi_14"].shape == (0,)
    assert compute(pa.table({"close": pa.array([], pa.float64())}), "RSI").num_rows == 0


def test_an_indicator_text_may_select_another_column() -> None:
    data = ohlcv("real_days")
    for text, column in (("SMA(5, series_type=open)", "sma_5_open"), ("TA_SMA(5, price=open)", "ta_sma_5_open")):
        np.testing.assert_allclose(compute(data, text)[column], compute(data["open"], "SMA(5)")["sma_5"], rtol=1e-9)


def test_declared_indicators_import_neither_pandas_nor_polars_nor_talib() -> None:
    code = (
        "import sys; from tickerplant.analytics import compute; compute([1.0] * 30, 'RSI(14)');"
        "assert not {'pandas', 'polars', 'talib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
