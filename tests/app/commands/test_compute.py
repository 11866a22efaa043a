"""The commands `compute` (on files) and `indicators`, and charts. They need no plant."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import talib
from tests.analytics.support import ohlcv
from tests.support.commands import assert_refused, invoke, objects
from tests.support.data import real_days, years
from tests.support.plant import Plant

from tickerplant.app.terminal.price_chart import panel

TWO = "time,symbol,interval,open,high,low,close,volume\n" + "".join(
    f"2024-01-{day:02d}T00:00:00Z,{symbol},1d,{price},{price},{price},{price},1\n"
    for day in (3, 1, 4, 2)  # not in time order
    for symbol, price in (("B", 10.0 * day), ("A", float(day)))
)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "data")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "two.csv"
    path.write_text(TWO)
    return path


def table(text: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(text))]


@pytest.mark.parametrize(("file", "name"), [(real_days, "real_days"), (years, "years")])
def test_csv_and_json_have_the_values_of_talib(plant: Plant, file: Callable[[], Path], name: str) -> None:
    path, close = file(), ohlcv(name)["close"]
    result = invoke(plant, "compute", path, "--indicator", "RSI(14)", "--indicator", "TA_APO(matype=sma)", "--csv")
    assert (result.code, result.err) == (0, "")
    rows = table(result.out)
    assert [*rows[0]] == ["time", "open", "high", "low", "close", "volume", "rsi_14", "ta_apo_12_26_0"]
    assert [row["rsi_14"] for row in rows[:15]] == [""] * 14 + [rows[14]["rsi_14"]]
    np.testing.assert_allclose([float(row["rsi_14"]) for row in rows[14:]], talib.RSI(close, 14)[14:], rtol=1e-9)
    np.testing.assert_allclose(
        [float(row["ta_apo_12_26_0"]) for row in rows[25:]], talib.APO(close, 12, 26, 0)[25:], rtol=1e-9, atol=1e-12
    )
    found = objects(invoke(plant, "compute", path, "--indicator", "rsi", "--json", "-n", "3"))
    assert [str(row["rsi_14"]) for row in found] == [row["rsi_14"] for row in rows[-3:]]
    assert [row["symbol"] for row in found] == [path.stem.upper()] * 3


def test_a_shown_range_is_computed_from_all_earlier_bars(plant: Plant) -> None:
    all_rows = table(invoke(plant, "compute", real_days(), "--indicator", "EMA(200)", "--csv").out)
    year = ("--start", "2010-01-01", "--end", "2011-01-01")
    part = invoke(plant, "compute", real_days(), "--indicator", "EMA(200)", "--csv", *year)
    assert table(part.out) == [row for row in all_rows if row["time"].startswith("2010")]
    assert len(table(part.out)) == 252  # number of trading days in New York in 2010
    newest = invoke(plant, "compute", real_days(), "--indicator", "EMA(200)", "--csv", "--last", "4")
    assert table(newest.out) == all_rows[-4:]


def test_symbols_are_computed_separately_and_in_time_order(plant: Plant, two: Path) -> None:
    found = objects(invoke(plant, "compute", two, "--indicator", "SMA(2)", "--json"))
    assert [(row["symbol"], row["time"][:10], row["sma_2"]) for row in found] == [
        ("A", "2024-01-01", None), ("A", "2024-01-02", 1.5), ("A", "2024-01-03", 2.5), ("A", "2024-01-04", 3.5),
        ("B", "2024-01-01", None), ("B", "2024-01-02", 15.0), ("B", "2024-01-03", 25.0), ("B", "2024-01-04", 35.0),
    ]  # fmt: skip
    newest = objects(invoke(plant, "compute", two, "--indicator", "SMA(2)", "--json", "-n", "1"))
    assert [row["sma_2"] for row in newest] == [3.5, 35.0]
    result = invoke(plant, "compute", two, "--indicator", "SMA(2)", "--symbol", "b", "--csv")
    assert [row["sma_2"] for row in table(result.out)] == ["", "15.0", "25.0", "35.0"]
    assert invoke(plant, "compute", two, "--indicator", "SMA(2)").out.split()[:3] == ["time", "symbol", "open"]


def test_unreadable_rows_of_parquet_are_reported_and_skipped(plant: Plant, tmp_path: Path) -> None:
    path = tmp_path / "bars.parquet"
    days = np.datetime64("2024-01-01", "us") + np.arange(40) * np.timedelta64(1, "D")
    price = np.arange(40.0) + 1
    price[7] = np.nan
    pa.parquet.write_table(
        pa.table({"date": days, "Open": price, "High": price, "Low": price, "Close": price, "Volume": price}), path
    )
    result = invoke(plant, "compute", path, "--indicator", "SMA(3)", "--csv")
    assert result.code == 0
    assert "bars.parquet row 8" in result.err
    assert len(table(result.out)) == 39


def test_a_terminal_gets_a_chart_and_a_pipe_gets_a_table(plant: Plant) -> None:
    piped = invoke(plant, "compute", real_days(), "--indicator", "RSI", "-n", "30")
    assert len(piped.out.splitlines()) == 31
    drawn = invoke(plant, "compute", real_days(), "--indicator", "RSI", "--indicator", "BBANDS", "-n", "30", "--draw")
    lines = drawn.out.splitlines()
    assert lines[0] == "MSFT close"
    assert "RSI(14): rsi_14" in lines
    assert any(line.startswith("BBANDS(20,2): bbands_20_2_upper, bbands_20_2_middle, ") for line in lines)
    assert (
        sum("2013-01-17" in line and "2013-03-01" in line for line in lines) == 4
    )  # one time axis per panel; BBANDS has two panels, prices and fractions
    assert lines[-6].split()[:2] == ["time", "open"]
    assert on_a_terminal("compute", str(real_days()), "--indicator", "RSI", "-n", "30").startswith(f"{lines[0]}\r\n")


def on_a_terminal(*arguments: str) -> str:
    """Return the output of a command on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tickerplant.app", *arguments], stdout=theirs)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal closes when the command ends
        while piece := os.read(ours, 65_536):
            shown += piece
    os.close(ours)
    assert process.wait() == 0
    return shown.decode()


def test_invalid_requests_are_refused_in_one_sentence(plant: Plant, two: Path, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks.csv"
    ticks.write_text("time,symbol,price,size\n2024-01-01T00:00:00Z,A,1,1\n")
    rsi = ("--indicator", "RSI")
    assert_refused(invoke(plant, "compute", tmp_path / "none", *rsi), 2, "there is no file")
    assert_refused(invoke(plant, "compute", ticks, *rsi), 2, "has ticks")
    assert_refused(invoke(plant, "compute", two, "--indicator", "RSII"), 2, "did you mean", "RSI")
    assert_refused(invoke(plant, "compute", two, "--indicator", "RSI(1)"), 2, "period is 1")
    assert_refused(invoke(plant, "compute", two, *rsi, "--symbol", "C"), 2, "no bars of C; it has A, B")
    assert_refused(invoke(plant, "compute", two, *rsi, "--csv", "--json"), 2, "exclude each other")
    assert_refused(invoke(plant, "compute", two, *rsi, "--draw"), 2, "2 symbols", "--symbol")
    assert_refused(invoke(plant, "compute", two, *rsi, "--date-order", "ymd"), 2, "mdy")
    assert_refused(invoke(plant, "compute", two, *rsi, "--start", "2024-02-02", "--end", "2024-02-01"), 2, "not before")
    assert_refused(invoke(plant, "compute", two, *rsi, "--start", "2030-01-01"), 1, "no bars in this range")
    two.write_text(TWO + "2024-01-01T00:00:00Z,A,1d,1,1,1,1,1\n")
    assert_refused(invoke(plant, "compute", two, *rsi), 2, "same time")


def test_indicators_are_listed(plant: Plant) -> None:
    lines = invoke(plant, "indicators").out.splitlines()
    rsi = next(line for line in lines if line.startswith("RSI "))
    assert rsi.split()[:3] == ["RSI", "period=14", "15"]
    assert any(line.split()[:2] == ["TA_RSI", "timeperiod=14"] for line in lines)
    found = objects(invoke(plant, "indicators", "--json"))
    assert len(found) > 150
    assert {one["kind"] for one in found} == {"declared", "talib"}
    (one,) = objects(invoke(plant, "indicators", "ta_rsi", "--json"))
    assert (one["warmup"], one["recursive"], one["inputs"]) == (15, True, ["close"])
    assert "period=14 (2 to 1000)" in invoke(plant, "indicators", "rsi").out
    assert_refused(invoke(plant, "indicators", "rsii"), 2, "did you mean")


def test_a_chart_has_the_extremes_at_their_positions() -> None:
    values = np.concatenate([np.full(5, np.nan), np.linspace(10, 20, 60), [np.nan], np.full(10, 15.0)])
    lines = panel("title", {"x": values}, [str(i) for i in range(len(values))], width=60, height=10)
    assert lines[0] == "title"
    assert len(lines) == 1 + 10 + 2
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].startswith("20.0 ┤")
    assert lines[10].startswith("10.0 ┤")
    dots = [[(ord(mark) - 0x2800 if 0x2800 <= ord(mark) < 0x2900 else 0) for mark in line[6:]] for line in lines[1:11]]
    columns = [
        max((row for row in range(10) if at < len(dots[row]) and dots[row][at]), default=None) for at in range(54)
    ]
    assert columns[:3] == [None] * 3  # no dot is drawn without a value
    rising = [row for row in columns[3:45] if row is not None]
    assert rising == sorted(rising, reverse=True)
    assert lines[-1].split() == ["0", "38", "75"]


@pytest.mark.parametrize(
    "values", [[5.0], [5.0, 5.0, 5.0], [0.0, 0.0], [1e-9, 2e-9], [1e15, 3e15], [-1.0, float("nan")]]
)
def test_any_values_can_be_drawn(values: list[float]) -> None:
    times = [f"2024-01-{day + 1:02d}" for day in range(len(values))]
    lines = panel("t", {"x": np.array(values)}, times, width=40, height=6)
    assert len(lines) == 9
    assert any(0x2800 < ord(mark) < 0x2900 for line in lines for mark in line)
    assert panel("t", {"x": np.full(3, np.nan)}, times, width=40, height=6) == ["t", "  no values"]


def test_a_narrow_terminal_gets_a_chart(plant: Plant) -> None:
    with mock.patch("shutil.get_terminal_size", return_value=os.terminal_size((10, 5))):
        assert invoke(plant, "compute", real_days(), "--indicator", "RSI", "-n", "300", "--draw").code == 0
