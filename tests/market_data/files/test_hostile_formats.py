"""Files that earlier versions read wrongly: each gives values that were worked out by hand, or is refused."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.market_data.files.formats import ohlcv, replayed, trade, write
from tickerplant.core.errors import BadInput
from tickerplant.market_data.files.bars import read_bars
from tickerplant.market_data.files.options import ReadOptions

MINUTE = {"symbol": "A", "interval": "1m"}
DAY = {"symbol": "A", "interval": "1d"}
NEW_YORK = {**MINUTE, "tz": "America/New_York"}
HEAD = "time,open,high,low,close,volume\n"
VALUES = ",1,4,0.5,2,30\n"


def parquet(**columns: Any) -> bytes:
    """Return a Parquet file with these columns. Each row has the prices and the volume of `VALUES`."""
    rows = len(next(iter(columns.values())))
    prices = {"open": 1.0, "high": 4.0, "low": 0.5, "close": 2.0, "volume": 30.0}
    table = pa.table({name: [value] * rows for name, value in prices.items()} | columns)
    stream = io.BytesIO()
    pa.parquet.write_table(table, stream)
    return stream.getvalue()


def read(folder: Path, content: str | bytes, **options: Any) -> list[dict[str, Any]]:
    """Return the bars of a file, read without a log."""
    options["columns"] = tuple(options.pop("columns", {}).items())
    rows: list[dict[str, Any]] = read_bars(write(folder, content), ReadOptions(**options)).bars.to_pylist()
    return rows


def times_of(folder: Path, text: str | bytes, **options: Any) -> list[str]:
    bars = read(folder, text, **options)
    assert {ohlcv(bar)[1:] for bar in bars} <= {(1.0, 4.0, 0.5, 2.0, 30.0)}
    return [ohlcv(bar)[0] for bar in bars]


# Hours that occur twice ----------------------------------------------------------------------------------------------

ASCENDING = ["00:59", "01:00", "01:59", "01:00", "01:59", "02:00"]
IN_UTC = ["04:59", "05:00", "05:59", "06:00", "06:59", "07:00"]
"""The clocks of New York on 2024-11-03, which are set back at 02:00 EDT, and their hours in UTC."""


@pytest.mark.parametrize("step", [1, -1])
def test_the_repeated_hour_is_read_in_files_with_either_order_of_time(tmp_path: Path, step: int) -> None:
    text = HEAD + "".join(f"2024-11-03 {clock}:00{VALUES}" for clock in ASCENDING[::step])
    assert times_of(tmp_path, text, **NEW_YORK) == [f"2024-11-03 {clock}:00" for clock in IN_UTC[::step]]


def test_a_late_tick_in_the_repeated_hour_does_not_end_summer_time(tmp_path: Path) -> None:
    clocks = ["01:30:00.5", "01:30:00.4", "01:31:00", "01:00:00", "01:31:00"]
    text = "time,symbol,price\n" + "".join(f"2024-11-03 {clock},A,1\n" for clock in clocks)
    _, ticks, _ = replayed(tmp_path, write(tmp_path, text), tz="America/New_York")
    expected = ["05:30:00.500", "05:30:00.400", "05:31:00.000", "06:00:00.000", "06:31:00.000"]
    assert [trade(tick)[0] for tick in ticks] == [f"2024-11-03 {clock}000" for clock in expected]


def test_a_repeated_hour_that_the_file_has_once_is_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}2024-11-03 00:59:00{VALUES}2024-11-03 01:30:00{VALUES}2024-11-03 02:00:00{VALUES}")
    summary, bars, _ = replayed(tmp_path, path, **NEW_YORK)
    assert ohlcv(bars[1])[0] == "2024-11-03 05:30:00"
    assert any("2024-11-03 01:30:00" in note and "occur twice" in note for note in summary.notes)
    with pytest.raises(BadInput, match=r"f.csv: --strict: 2024-11-03 01:30:00 .* occur twice"):
        replayed(tmp_path, path, strict=True, **NEW_YORK)


# Clocks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Date,Hour,Minute,Open,High,Low,Close,Volume\n2024-03-28,9,31" + VALUES, "09:31:00"),
        ("Date,Hours,Min,Sec,Open,High,Low,Close,Volume\n20240328,9,31,0" + VALUES, "09:31:00"),
        ("date,minute,label,open,high,low,close,volume\n2024-03-28,09:31,09:31 AM" + VALUES, "09:31:00"),
        (HEAD + '"Thu, 28 Mar 2024 09:31:00"' + VALUES, "09:31:00"),
        (HEAD + "Thursday 28 March 2024 09:31" + VALUES, "09:31:00"),
        (HEAD + "2024-03-28t09:31:00z" + VALUES, "09:31:00"),
        (HEAD + "3/28/2024 12:31 PM" + VALUES, "12:31:00"),
    ],
)
def test_a_clock_is_read_from_all_its_parts(tmp_path: Path, text: str, expected: str) -> None:
    assert times_of(tmp_path, text, tz="UTC", **MINUTE) == [f"2024-03-28 {expected}"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3/28/2024 13:31 PM", "line 2: '3/28/2024 13:31 PM' is not a time"),
        ("28 Marketday 2024 09:31", "line 2: '28 Marketday 2024 09:31' is not a time"),
        ("2024-03-28 09:31:00 EST", "line 2: .* write an offset such as -05:00 in place of the zone"),
        ("2016-12-31T23:59:60Z", "line 2: .* a minute has no second 60"),
        ("1.71158E+12", "line 2: .* save the times as text with all digits"),
        ("28.03.24 09:31", "line 2: .* write the year with four digits"),
    ],
)
def test_a_text_that_is_no_time_is_refused_with_advice(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=f"f.csv.*{reason}"):
        read(tmp_path, HEAD + text + VALUES, tz="UTC", **MINUTE)


def test_a_time_without_am_or_pm_among_others_is_a_dead_letter(tmp_path: Path) -> None:
    text = f"{HEAD}3/28/2024 1:00 PM{VALUES}3/28/2024 2:00{VALUES}"
    _, bars, (dead,) = replayed(tmp_path, write(tmp_path, text), tz="UTC", **MINUTE)
    assert [ohlcv(bar)[0] for bar in bars] == ["2024-03-28 13:00:00"]
    assert (
        dead["reason"]
        == "f.csv line 3: '3/28/2024 2:00' is not a time: it has no AM or PM, but other times have; add it"
    )


@pytest.mark.parametrize(
    ("clocks", "unit"), [(("34200", "34260", "34320", "34380"), "seconds"), (("570", "571", "572"), "minutes")]
)
def test_seconds_and_minutes_since_midnight_are_no_clocks(tmp_path: Path, clocks: tuple[str, ...], unit: str) -> None:
    text = "date,time,open,high,low,close,volume\n" + "".join(f"20240328,{clock}{VALUES}" for clock in clocks)
    with pytest.raises(BadInput, match=rf"f.csv: '\d+' in the column time .* {unit} since midnight, write"):
        read(tmp_path, text, tz="UTC", **MINUTE)


@pytest.mark.parametrize(
    ("clocks", "is_choice"),
    [
        (("34200", "34201"), True),
        (("34200000", "34201000"), True),
        (("034200", "034201"), False),
        (("34200", "93000"), False),
        (tuple(str(34200 + at) for at in range(10)), False),
        (("930", "931"), False),
    ],
)
def test_a_few_clocks_that_may_be_seconds_since_midnight_are_a_choice(
    tmp_path: Path, clocks: tuple[str, ...], is_choice: bool
) -> None:
    path = write(tmp_path, "date,time,symbol,price\n" + "".join(f"20240328,{clock},A,1\n" for clock in clocks))
    summary, ticks, _ = replayed(tmp_path, path, tz="UTC")
    assert len(ticks) == len(clocks)
    assert [note for note in summary.notes if "is a clock of" in note][:1] == (
        [f"{clocks[0]} in the column time is a clock of {6 if len(clocks[0]) == 5 else 9} digits, not "
         f"{'seconds' if len(clocks[0]) == 5 else 'milliseconds'}"] if is_choice else []
    )  # fmt: skip
    if is_choice:
        with pytest.raises(BadInput, match="--strict: 34200"):
            replayed(tmp_path, path, tz="UTC", strict=True)


@pytest.mark.parametrize(("hour", "clock"), [("9.0", "09:00"), ("14", "14:00"), ("0.0", "00:00")])
def test_an_hour_with_a_fraction_of_zero_is_read(tmp_path: Path, hour: str, clock: str) -> None:
    path = write(tmp_path, f"date,hour,symbol,price\n2024-03-28,{hour},A,1\n2024-03-28,15.0,A,1\n")
    _, ticks, _ = replayed(tmp_path, path, tz="UTC")
    assert f"{ticks[0]['time']:%H:%M}" == clock


def test_dates_with_both_orders_of_day_and_month_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}13/04/2024{VALUES}04/05/2024{VALUES}04/14/2024{VALUES}")
    with pytest.raises(BadInput, match=r"f.csv: line 2: the dates 13/04/2024 and 04/14/2024 .*, or set --date-order"):
        replayed(tmp_path, path, **DAY)
    _, bars, (dead,) = replayed(tmp_path, path, date_order="dmy", **DAY)
    assert [ohlcv(bar)[0][:10] for bar in bars] == ["2024-04-13", "2024-05-04"]
    assert "line 4: '04/14/2024'" in dead["reason"]


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [" ", "\u00a0", "\u2009", "\u202f"])
def test_each_space_between_thousands_is_read(tmp_path: Path, space: str) -> None:
    text = HEAD.replace(",", ";") + "2024-03-28;1_001,0;1_004,0;1_000,5;1_002,0;1_234_567\n".replace("_", space)
    (bar,) = read(tmp_path, text, **DAY)
    assert ohlcv(bar)[1:] == (1001.0, 1004.0, 1000.5, 1002.0, 1_234_567.0)


def test_four_digits_before_a_comma_show_a_decimal_comma(tmp_path: Path) -> None:
    text = HEAD.replace(",", ";") + "2024-03-28;1234,567;1240,000;1230,123;1235,100;30\n"
    (bar,) = read(tmp_path, text, **DAY)
    assert ohlcv(bar)[1:] == (1234.567, 1240.0, 1230.123, 1235.1, 30.0)


def test_a_number_with_two_readings_after_plain_ones_is_a_dead_letter(tmp_path: Path) -> None:
    times = [dt.datetime(2024, 1, 1) + dt.timedelta(minutes=at) for at in range(40_000)]
    plain = "".join(f"{time:%Y-%m-%dT%H:%M:00Z};10;10;10;10;30\n" for time in times)
    text = HEAD.replace(",", ";") + plain + "2024-03-01T00:00:00Z;1,234;1,240;1,230;1,235;30\n"
    summary, bars, (dead,) = replayed(tmp_path, write(tmp_path, text), **MINUTE)
    assert (summary.bars, len(bars)) == (40_000, 40_000)
    assert dead["reason"].startswith(
        "f.csv line 40002: open '1,234' is not a number with a decimal point; set --decimal"
    )


def test_numbers_that_may_be_thousands_with_dots_are_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD.replace(",", ";") + "28.03.2024;38.450;38.500;38.400;38.460;30\n")
    summary, (bar,), _ = replayed(tmp_path, path, **DAY)
    assert ohlcv(bar)[1] == 38.45
    assert any("38.450 are read with a decimal point" in note for note in summary.notes)
    _, (bar,), _ = replayed(tmp_path, path, decimal="comma", **DAY)
    assert ohlcv(bar)[1] == 38_450.0


# Columns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "role", "first", "second"),
    [
        ("Date,Open,High,Low,Close,Close Price", "close", "Close", "Close Price"),
        ("Date,Open,open,High,Low,Close", "open", "Open", "open"),
        ("Date,Open,High,Low,Last,Latest", "close", "Last", "Latest"),
    ],
)
def test_two_columns_for_one_price_are_refused_with_both(
    tmp_path: Path, header: str, role: str, first: str, second: str
) -> None:
    text = f"{header}\n2024-03-28,1,1,1,1,1\n"
    expected = f"line 1: the {role} can be {first} or {second}; set --column {role}={first} or --column {role}={second}"
    with pytest.raises(BadInput, match=expected):
        read(tmp_path, text, **DAY)
    (bar,) = read(tmp_path, text, columns={role: second}, **DAY)
    assert ohlcv(bar)[1:5] == (1.0, 1.0, 1.0, 1.0)


def test_the_size_of_the_last_trade_precedes_the_volume_of_the_day(tmp_path: Path) -> None:
    path = write(tmp_path, "time,symbol,price,last_size,volume\n2024-03-28T00:01:00Z,A,2,3,5000\n")
    summary, (tick,), _ = replayed(tmp_path, path)
    assert trade(tick)[3] == 3.0
    assert "the column last_size is the size, not volume" in summary.notes
    with pytest.raises(BadInput, match="--strict: the column last_size is the size"):
        replayed(tmp_path, path, strict=True)


def test_shares_of_two_classes_are_two_symbols(tmp_path: Path) -> None:
    text = "DATE,TIME_M,SYM_ROOT,SYM_SUFFIX,SIZE,PRICE\n20240328,9:31:00.5,BRK,A,3,2\n20240328,9:31:00.5,BRK,B,3,4\n"
    text += "20240328,9:31:00.5,A,,3,1\n"
    _, ticks, _ = replayed(tmp_path, write(tmp_path, text), tz="UTC")
    assert [trade(tick)[1:3] for tick in ticks] == [("BRK.A", 2.0), ("BRK.B", 4.0), ("A", 1.0)]


def test_an_adjusted_close_without_header_is_not_the_volume(tmp_path: Path) -> None:
    text = "2024-03-27,1,4,0.5,2,1.9,30\n2024-03-28,1,4,0.5,2,1.9,30\n"
    with pytest.raises(BadInput, match=r"f.csv: line 1: the first line contains numbers, such as '2024-03-27'"):
        read(tmp_path, text, **DAY)


@pytest.mark.parametrize("text", [",Open,High,Low,Close,Volume\n2024-03-28" + VALUES, None])
def test_the_index_of_a_frame_is_the_time(tmp_path: Path, text: str | None) -> None:
    content = text or parquet(__index_level_0__=pa.array([dt.datetime(2024, 3, 28)], pa.timestamp("ns")))
    path = write(tmp_path, content)
    summary, (bar,), _ = replayed(tmp_path, path, **DAY)
    assert ohlcv(bar) == ("2024-03-28 00:00:00", 1.0, 4.0, 0.5, 2.0, 30.0)
    assert "a column without a name contains times; it is the time" in summary.notes


@pytest.mark.parametrize("trades", ["-7", "7.5"])
def test_a_number_of_trades_is_an_integer_and_not_negative(tmp_path: Path, trades: str) -> None:
    text = f"{HEAD.strip()},trades\n2024-03-28{VALUES.strip()},{trades}\n"
    with pytest.raises(BadInput, match=f"f.csv line 2: trades {trades}.* is not a number of trades"):
        read(tmp_path, text, **DAY)


# Types of Parquet ----------------------------------------------------------------------------------------------------

UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "nested times": ({"time": pa.array([{"a": 1}])}, "the column time for time contains struct"),
    "nested symbols": ({"time": [1711584060], "symbol": pa.array([{"a": "A"}])}, "symbol contains struct"),
    "lists of intervals": ({"time": [1711584060], "interval": pa.array([["1m"]])}, "interval contains list"),
    "booleans": ({"time": [1711584060], "open": [True]}, "the column open for open contains bool, not numbers"),
    "rounded times": ({"time": pa.array([1711584060.0], pa.float32())}, "row 1: 1711584000 .* float has rounded it"),
    "infinite times": ({"time": [float("inf")]}, "row 1: inf is not a time"),
    "a missing interval": ({"time": [1711584060], "interval": pa.array([None], pa.utf8())}, "interval is missing"),
    "bytes that are no text": ({"time": [1711584060], "symbol": [b"\xff"]}, "row 1: .* is not a symbol"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_column_with_another_type_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    columns, reason = UNREADABLE[name]
    given = {role: value for role, value in MINUTE.items() if role not in columns}
    with pytest.raises(BadInput, match=f"f.csv.*{reason}") as refusal:
        read(tmp_path, parquet(**columns), **given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "[" + ",".join(['{"time":1711584060,"open":1}'] * 10_000) + "]",
        "<!DOCTYPE html><html></html>",
        ",".join(["Date", *(f"c{at}" for at in range(3_000))]) + "\n",
        HEAD + "2024-03-28,1,4,0.5," + "9" * 100_000 + "x,30\n",
        HEAD + "9" * 100_000 + VALUES,
    ],
)
def test_a_refusal_is_short_whatever_the_file_contains(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput) as refusal:
        read(tmp_path, text, **DAY)
    assert "f.csv" in str(refusal.value)
    assert len(str(refusal.value)) < 600


# Choices that need all rows ------------------------------------------------------------------------------------------


def test_bars_widened_by_rounding_noise_are_a_choice(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}2024-03-27{VALUES}2024-03-28,1,3.9999999999999996,0.5,4,30\n")
    summary, bars, _ = replayed(tmp_path, path, **DAY)
    assert bars[1]["high"] == 4.0
    assert any(note.startswith("1 bars") and note.endswith("(first: f.csv line 3)") for note in summary.notes)
    with pytest.raises(BadInput, match=r"--strict: 1 bars .* rounding noise"):
        replayed(tmp_path, path, strict=True, **DAY)


def test_rows_of_one_bar_that_differ_are_refused_by_strict(tmp_path: Path) -> None:
    path = write(tmp_path, f"{HEAD}2024-03-28{VALUES}2024-03-28,1,4,0.5,3,30\n")
    summary, _, _ = replayed(tmp_path, path, **DAY)
    assert summary.conflicts == 1
    with pytest.raises(BadInput, match=r"--strict: 1 rows differ from .* lines 2 and 3"):
        replayed(tmp_path, path, strict=True, **DAY)
