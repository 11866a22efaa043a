"""`compute` reads files as `replay` does: closes, symbols in names, zones, and choices."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.commands import assert_refused, invoke
from tests.support.plant import Plant


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "data")


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


CLOSES = [1.0, 2.0, 4.0]
SMA = [None, 1.5, 3.0]
"""The means of two closes, by hand."""


@pytest.mark.parametrize(
    "text",
    [
        "close\n1\n2\n4\n",
        "Close\n1,0\n2,0\n4,0\n".replace(",0", ""),
        "Date,Close\n2024-03-26,1\n2024-03-27,2\n2024-03-28,4\n",
        "Date,Price\n28.03.2024,4\n27.03.2024,2\n26.03.2024,1\n",  # the newest first
        "time;close\n2024-03-26;1,0\n2024-03-27;2,0\n2024-03-28;4,0\n",
        "datetime,ticker,close\n1711411200,A,1\n1711497600,A,2\n1711584000,A,4\n",
    ],
)
def test_a_file_of_closes_is_computed_in_order_of_time(plant: Plant, tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "A.csv", text)
    found = invoke(plant, "compute", path, "--indicator", "SMA(2)", "--json").lines
    assert [(row["symbol"], row["close"], row["sma_2"]) for row in found] == [
        ("A", close, mean) for close, mean in zip(CLOSES, SMA, strict=True)
    ]
    answer = invoke(plant, "compute", path, "--indicator", "ATR(2)")
    assert (answer.code, "needs the column 'high'" in answer.err) == (2, True)


def test_closes_without_times_have_no_range(plant: Plant, tmp_path: Path) -> None:
    path = write(tmp_path, "A.csv", "close\n1\n2\n4\n")
    assert_refused(invoke(plant, "compute", path, "--indicator", "SMA(2)", "--start", "2024-03-28"), 2, "no times")
    assert "4" in invoke(plant, "compute", path, "--indicator", "SMA(2)").out


@pytest.mark.parametrize("name", ["BRK.B.csv", "brk.b_1d.csv", "BRK.B_1d.csv"])
def test_the_name_of_a_file_is_its_symbol(plant: Plant, tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, "date,open,high,low,close\n2024-03-28,1,1,1,1\n2024-03-29,1,1,1,1\n")
    found = invoke(plant, "compute", path, "--indicator", "SMA(2)", "--json").lines
    assert {row["symbol"] for row in found} == {"BRK.B"}


def test_a_daily_bar_at_local_midnight_keeps_its_date(plant: Plant, tmp_path: Path) -> None:
    rows = "".join(f"2024-03-{day} 00:00:00+01:00,1,1,1,1\n" for day in (27, 28))
    path = write(tmp_path, "SAP.csv", "date,open,high,low,close\n" + rows)
    found = invoke(plant, "compute", path, "--indicator", "SMA(2)", "--json").lines
    assert [row["time"] for row in found] == ["2024-03-27T00:00:00Z", "2024-03-28T00:00:00Z"]
    numbers = write(tmp_path, "SAP.csv", "date,open,high,low,close\n1711494000,1,1,1,1\n1711580400,1,1,1,1\n")
    daily = ("compute", numbers, "--indicator", "SMA(2)", "--interval", "1d", "--json")
    assert_refused(invoke(plant, *daily), 2, "not midnight UTC")
    found = invoke(plant, *daily, "--tz", "Europe/Berlin").lines
    assert [row["time"][:10] for row in found] == ["2024-03-27", "2024-03-28"]


def test_a_choice_is_noted_and_refused_by_strict(plant: Plant, tmp_path: Path) -> None:
    path = write(tmp_path, "A.csv", "Date,Price,Open,High,Low\n2024-03-27,2,1,4,0.5\n2024-03-28,2,1,4,0.5\n")
    answer = invoke(plant, "compute", path, "--indicator", "SMA(2)")
    assert (answer.code, answer.err) == (0, "A.csv: the column Price is the close of the bars\n")
    assert_refused(
        invoke(plant, "compute", path, "--indicator", "SMA(2)", "--strict"), 2, "the column Price is the close"
    )


def test_options_decide_between_two_readings(plant: Plant, tmp_path: Path) -> None:
    path = write(tmp_path, "A.csv", "Date,Open,High,Low,Last,Settle\n2024-03-27,1,4,0.5,2,1\n2024-03-28,1,4,0.5,2,3\n")
    assert_refused(invoke(plant, "compute", path, "--indicator", "SMA(2)"), 2, "A.csv: line 1: ", "Last or Settle")
    found = invoke(plant, "compute", path, "--indicator", "SMA(2)", "--json", "--column", "close=Settle").lines
    assert [row["sma_2"] for row in found] == [None, 2.0]
    assert_refused(invoke(plant, "compute", path, "--indicator", "SMA(2)", "--column", "Settle"), 2, "write ROLE=NAME")
    assert_refused(invoke(plant, "compute", path, "--indicator", "SMA(2)", "--decimal", "dot"), 2, "use point")
