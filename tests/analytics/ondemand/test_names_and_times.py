"""The library reads the names of columns and the times that files have, or refuses them with the reason."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tickerplant.analytics import compute
from tickerplant.analytics.ondemand.dataframes import read_frame
from tickerplant.core.errors import BadInput

CLOSES = np.array([4.0, 1.0, 2.0])
"""Closes of three bars, the newest bar first."""
EXPECTED = [3.0, np.nan, 1.5]
"""SMA(2) of `CLOSES` in their order: by time, the closes 1, 2, 4 give nothing, 1.5 and 3."""

TIMES: dict[str, Any] = {
    "ISO texts": ["2024-03-28", "2024-03-26", "2024-03-27"],
    "texts that sort otherwise as text": ["10.04.2024", "02.04.2024", "09.04.2024"],
    "numbers as text of several lengths": ["1711584000", "999999999", "1000000000"],
    "units that differ": [1711584000, 1711411200000, 1711497600000000],
    "dates as numbers": [20240328, 20240326, 20240327],
    "texts with offsets that sort otherwise as text": [
        "2024-03-28T09:00:00+09:00",  # 00:00 UTC
        "2024-03-28T00:30:00+01:00",  # 23:30 UTC of the day before
        "2024-03-27T23:45:00+00:00",
    ],
    "datetimes": [dt.datetime(2024, 3, 28), dt.datetime(2024, 3, 26), dt.datetime(2024, 3, 27)],
    "dates": [dt.date(2024, 3, 28), dt.date(2024, 3, 26), dt.date(2024, 3, 27)],
    "numbers that are no times": [2, 0, 1],
}


@pytest.mark.parametrize("name", ["time", "Date", "datetime", "timestamp", "Open Time"])
@pytest.mark.parametrize("kind", TIMES)
def test_a_series_is_in_order_of_any_time(kind: str, name: str) -> None:
    data = {name: TIMES[kind], "Close": CLOSES}
    np.testing.assert_array_equal(compute(data, "SMA(2)")["sma_2"], EXPECTED)
    for frame in (pa.table(data), pl.DataFrame(data), pd.DataFrame(data)):
        found = np.array(compute(frame, "SMA(2)")["sma_2"].to_numpy(), np.float64)
        np.testing.assert_array_equal(found, EXPECTED)


@pytest.mark.parametrize("name", ["Date", None])
def test_a_pandas_index_of_texts_is_an_index_of_times(name: str | None) -> None:
    frame = pd.DataFrame({"Close": CLOSES}, index=pd.Index(TIMES["texts that sort otherwise as text"], name=name))
    np.testing.assert_array_equal(compute(frame, "SMA(2)")["sma_2"], EXPECTED)
    labels = pd.DataFrame({"Close": CLOSES}, index=["x", "y", "z"])
    np.testing.assert_array_equal(compute(labels, "SMA(2)")["sma_2"], [np.nan, 2.5, 1.5])


@pytest.mark.parametrize("name", ["ticker", "Symbol", "SYM_ROOT"])
def test_symbols_of_any_name_are_separate_series(name: str) -> None:
    found = compute({name: ["A", "B", "A", "B"], "close": [1.0, 10.0, 3.0, 30.0]}, "SMA(2)")["sma_2"]
    np.testing.assert_array_equal(found, [np.nan, np.nan, 2.0, 20.0])


def test_a_date_and_a_clock_are_one_time() -> None:
    data = {"Date": ["2024-03-28"] * 3, "Time": ["16:00", "9:30", "12:00"], "close": CLOSES}
    np.testing.assert_array_equal(compute(data, "SMA(2)")["sma_2"], EXPECTED)


def test_a_price_is_the_close_of_a_frame_without_a_close() -> None:
    assert compute({"Price": [1.0, 2.0]}, "SMA(2)")["sma_2"].tolist()[1] == 1.5


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (["2024-03-28", "yesterday", "2024-03-27"], "row 1 .from 0.: 'yesterday' is not a time"),
        ([1711584000, 19, 1711411200], "row 1 .from 0.: 19 is not a time"),
        (["3/4/2024", "3/5/2024", "3/6/2024"], "order of day and month in 3/4/2024 is ambiguous"),
        (["2024-03-28T00:00Z", "2024-03-27 00:00", "2024-03-26T00:00Z"], "row 1 .from 0.: the time .* has no zone"),
        (["2024-03-28", "20240328", "2024-03-27"], "same time: rows 0 and 1"),
        ([dt.datetime(2024, 3, 28), "2024-03-27", 5], "cannot be read .*; use one type for all values"),
    ],
)
def test_times_that_show_no_order_are_refused(times: list[object], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        compute({"Date": times, "close": CLOSES}, "SMA(2)")


def test_a_clock_in_columns_of_hours_and_minutes_orders_the_bars() -> None:
    data = {"Date": ["2024-03-28"] * 3, "Hour": [9, 9, 10], "Minute": [32, 31, 0], "close": [2.0, 1.0, 3.0]}
    (rows,) = read_frame(data).series()
    assert rows.tolist() == [1, 0, 2]


def test_the_periods_of_a_pandas_index_order_the_bars() -> None:
    index = pd.PeriodIndex(["2024-03-28", "2024-03-26", "2024-03-27"], freq="D")
    frame = read_frame(pd.DataFrame({"close": [3.0, 1.0, 2.0]}, index=index))
    (rows,) = frame.series()
    assert rows.tolist() == [1, 2, 0]
    assert frame.to_caller({"x": np.zeros(3)}).index.equals(index)
