"""Times of files: the dates of daily bars, numbers, clocks, and the names of feeds, through every reader of files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.market_data.files.formats import replayed, write
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import BadInput
from tickerplant.core.times import DAY_US
from tickerplant.market_data.files.bar_folder import BarFolder
from tickerplant.market_data.files.bars import read_bars
from tickerplant.market_data.files.options import ReadOptions

SESSIONS = [f"2024-03-{day}" for day in (18, 19, 20, 21, 22, 25, 26, 27, 28)] + [
    f"2024-04-0{day}" for day in (2, 3, 4, 5)
]
"""Sessions around Easter in Frankfurt. Berlin's clocks change on 2024-03-31."""
BERLIN = ZoneInfo("Europe/Berlin")
LOCAL = [dt.datetime.fromisoformat(session).replace(tzinfo=BERLIN) for session in SESSIONS]
PRICES = "1,4,0.5,2,30"


def parquet(path: Path, times: Any) -> Path:
    """Write daily bars with a typed time column."""
    prices = {name: np.arange(1.0, len(SESSIONS) + 1) for name in ("open", "high", "low", "close")}
    pa.parquet.write_table(pa.table({"time": times, **prices, "volume": prices["open"]}), path)
    return path


def csv(path: Path, times: list[object]) -> Path:
    path.write_text("time,open,high,low,close,volume\n" + "".join(f"{time},{PRICES}\n" for time in times))
    return path


def files(folder: Path) -> dict[str, tuple[Path, dict[str, str]]]:
    """Return files of the same daily bars at local midnight, with the options that they need."""
    by_duckdb = folder / "duckdb_1d.parquet"
    values = ", ".join(f"('{moment.isoformat()}'::timestamptz, 1.0, 4.0, 0.5, 2.0, 30.0)" for moment in LOCAL)
    duckdb.sql(
        f"COPY (SELECT * FROM (VALUES {values}) AS t(time, open, high, low, close, volume)) "
        f"TO '{by_duckdb}' (FORMAT parquet)"
    )
    numbers = [int(moment.timestamp()) for moment in LOCAL]
    return {
        "offsets": (csv(folder / "a_1d.csv", [str(moment) for moment in LOCAL]), {}),
        "a zone": (parquet(folder / "b_1d.parquet", pa.array(LOCAL, pa.timestamp("us", tz="Europe/Berlin"))), {}),
        "seconds": (csv(folder / "c_1d.csv", numbers), {"tz": "Europe/Berlin"}),
        "typed milliseconds": (
            parquet(folder / "d_1d.parquet", pa.array(numbers).cast("int64")),
            {"tz": "Europe/Berlin"},
        ),
        "DuckDB's timestamps": (by_duckdb, {"tz": "Europe/Berlin"}),
        "typed dates as numbers": (
            parquet(folder / "e_1d.parquet", pa.array([int(day.replace("-", "")) for day in SESSIONS])),
            {},
        ),
        "dates as text": (csv(folder / "f_1d.csv", [day.replace("-", "") for day in SESSIONS]), {}),
    }


NAMES = (
    "offsets",
    "a zone",
    "seconds",
    "typed milliseconds",
    "DuckDB's timestamps",
    "typed dates as numbers",
    "dates as text",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_daily_bar_at_local_midnight_has_the_date_of_its_session(tmp_path: Path, name: str) -> None:
    path, options = files(tmp_path)[name]
    _, bars, dead = replayed(tmp_path, path, symbol="SAP", interval="1d", **options)
    assert ([str(bar["time"].date()) for bar in bars], dead) == (SESSIONS, [])
    found = read_bars(path, ReadOptions(interval="1d", **options)).bars
    assert [str(time)[:10] for time in found["time"].to_pylist()] == SESSIONS


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_of_a_vendor_has_the_same_dates(tmp_path: Path, name: str) -> None:
    path, options = files(tmp_path)[name]
    folder = BarFolder(path, ReadOptions(**options))
    (indexed,) = folder.scan()
    assert indexed.error is None
    symbol = path.name.partition("_")[0].upper()
    first = np.datetime64(SESSIONS[0], "us").astype(np.int64).item()
    found, failed = folder.bars([symbol], "1d", first, first + 19 * DAY_US, "files")
    assert not failed
    bars = found[symbol].bars
    assert bars is not None
    assert np.datetime_as_string(times_of(bars["time"]).view("datetime64[us]"), unit="D").tolist() == SESSIONS


@pytest.mark.parametrize("name", ["offsets", "a zone", "dates as text"])
def test_bars_stamped_with_dates_or_midnights_are_daily_without_an_option(tmp_path: Path, name: str) -> None:
    path, _ = files(tmp_path)[name]
    path = path.rename(path.with_name("SAP" + path.suffix))
    folder = BarFolder(path, ReadOptions())
    (indexed,) = folder.scan()
    assert (indexed.error, list(indexed.series)) == (None, [("SAP", "1d")])
    bars = read_bars(path, ReadOptions()).bars
    assert bars["interval"].unique().to_pylist() == ["1d"]
    assert [str(time)[:10] for time in bars["time"].to_pylist()] == SESSIONS


@pytest.mark.parametrize("name", ["seconds", "DuckDB's timestamps"])
def test_an_instant_that_is_not_midnight_utc_needs_a_zone(tmp_path: Path, name: str) -> None:
    path, _ = files(tmp_path)[name]
    where = "line 2" if path.suffix == ".csv" else "row 1"
    with pytest.raises(BadInput, match=f"{where}: the time .* is not midnight UTC .*2024-03-17 23:00:00Z.*--tz"):
        replayed(tmp_path, path, symbol="SAP", interval="1d")
    with pytest.raises(BadInput, match=f"{where}: the time .*--tz"):
        read_bars(path, ReadOptions(interval="1d"))
    (indexed,) = BarFolder(path, ReadOptions()).scan()
    assert "--tz" in (indexed.error or "")


def test_a_daily_bar_keeps_its_date_in_a_file_that_also_has_minutes(tmp_path: Path) -> None:
    text = (
        "time,symbol,interval,open,high,low,close\n"
        "2024-03-28 00:00:00+01:00,SAP,1d,1,1,1,1\n2024-03-28 09:00:00+01:00,SAP,1m,1,1,1,1\n"
    )
    _, bars, _ = replayed(tmp_path, write(tmp_path, text))
    assert [(bar["interval"], bar["time"].strftime("%m-%d %H:%M")) for bar in bars] == [
        ("1d", "03-28 00:00"), ("1m", "03-28 08:00"),
    ]  # fmt: skip


@pytest.mark.parametrize("times", [["1711618200", "1711618260000"], ["1711618200000000", "1711618260000"]])
def test_the_unit_of_a_file_may_change(tmp_path: Path, times: list[str]) -> None:
    _, bars, dead = replayed(tmp_path, csv(tmp_path / "f.csv", [*times]), symbol="A", interval="1m")
    assert ([bar["time"].strftime("%Y-%m-%d %H:%M") for bar in bars], dead) == (
        ["2024-03-28 09:30", "2024-03-28 09:31"],
        [],
    )


def test_a_number_that_is_no_time_is_a_dead_letter_with_its_row(tmp_path: Path) -> None:
    path = csv(tmp_path / "f.csv", ["1711618200", "45379", "19", "1711618260"])
    _, bars, dead = replayed(tmp_path, path, symbol="A", interval="1m")
    assert len(bars) == 2
    assert [row["reason"].partition(" is not")[0] for row in dead] == ["f.csv line 3: 45379", "f.csv line 4: 19"]


def test_daily_bars_before_1980_are_read_by_their_dates(tmp_path: Path) -> None:
    _, bars, _ = replayed(tmp_path, csv(tmp_path / "f.csv", ["1962-01-02", "18000102"]), symbol="KO", interval="1d")
    assert [str(bar["time"].date()) for bar in bars] == ["1962-01-02", "1800-01-02"]


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        (["93000", "160000"], ["09:30:00", "16:00:00"]),
        (["930", "1600"], ["09:30:00", "16:00:00"]),
        (["093000123", "160000000"], ["09:30:00", "16:00:00"]),
        (["9:30", "16:00"], ["09:30:00", "16:00:00"]),
        (["09:30:00.5", "16:00:00"], ["09:30:00", "16:00:00"]),
        (["9:30:00 AM", "4:00:00 PM"], ["09:30:00", "16:00:00"]),
        (["2024-03-28 09:30", "2024-03-28 16:00"], ["09:30:00", "16:00:00"]),
        (["1711618200", "1711641600"], ["09:30:00", "16:00:00"]),
    ],
)
@pytest.mark.parametrize("name", ["Time", "TIME_M", "time_of_day", "Clock"])
def test_a_clock_in_another_column_completes_the_date(
    tmp_path: Path, name: str, clocks: list[str], expected: list[str]
) -> None:
    if name == "TIME_M" and clocks[0] == "930":
        expected = ["00:09:30", "00:16:00"]  # TAQ's TIME_M has seconds
    text = f"Date,{name},symbol,price\n" + "".join(f"2024-03-28,{clock},A,1\n" for clock in clocks)
    _, ticks, dead = replayed(tmp_path, write(tmp_path, text), tz="UTC")
    assert ([tick["time"].strftime("%H:%M:%S") for tick in ticks], dead) == (expected, [])


def test_an_hour_is_a_clock_and_a_later_longer_clock_is_refused(tmp_path: Path) -> None:
    text = "Date,Hour,symbol,price\n2024-03-28,9,A,1\n2024-03-28,16,A,1\n"
    _, ticks, _ = replayed(tmp_path, write(tmp_path, text), tz="UTC")
    assert [tick["time"].hour for tick in ticks] == [9, 16]


def test_a_clock_of_another_name_is_named_by_an_option(tmp_path: Path) -> None:
    path = write(tmp_path, "Date,Uhrzeit,symbol,price\n2024-03-28,09:30,A,1\n")
    with pytest.raises(BadInput, match=r"line 2: all times are dates .*--column clock=NAME"):
        replayed(tmp_path, path, tz="UTC")
    _, (tick,), _ = replayed(tmp_path, path, tz="UTC", columns={"clock": "uhrzeit"})
    assert tick["time"].strftime("%H:%M") == "09:30"


@pytest.mark.parametrize("clock", ["Time (UTC)", "GMT time", "UTC_Time", "Time GMT"])
def test_a_clock_whose_name_contains_the_zone_needs_no_option(tmp_path: Path, clock: str) -> None:
    path = write(tmp_path, f"Date,{clock},symbol,price\n2012-06-21,09:30,A,1\n2012-06-22,09:31,A,1\n")
    _, ticks, _ = replayed(tmp_path, path, tz="America/New_York")
    assert [f"{tick['time']:%d %H:%M}" for tick in ticks] == ["21 09:30", "22 09:31"]


BARS = "open,high,low,close"
FEEDS = [
    ("time,symbol,price,size\n1340285400,A,1,1\n", {}, "48717806c0083a8ec803-aa7d246f"),
    (
        "time,price\n2012-06-21T13:30,1\n",
        {"symbol": "a", "tz": "US/Eastern", "source": "me"},
        "682928e4b522c397803e-f23cf1ab",
    ),
    (
        f"date,{BARS},volume\n2012-06-21,1,1,1,1,5\n",
        {"symbol": "A", "interval": "1d"},
        "7e1a14a9ece9752e1da8-e1852126",
    ),
    (f"date,symbol,interval,{BARS}\n20120621,A,1d,1,1,1,1\n", {}, "7798eef42cf8a7614291-aa7d246f"),
    (
        f"date,symbol,interval,{BARS}\n1/13/2012,A,1d,1,1,1,1\n3/4/2012,A,1d,1,1,1,1\n",
        {"date_order": "dmy"},
        "85c3bd6a471fc6d57959-2520a323",
    ),
    (
        "date,time,symbol,price,cond\n2012-06-21,09:30,A,1,B\n",
        {"tz": "America/New_York", "conditions": "utp", "whole": False},
        "21920cf3c19d5f439085-76bde70a",
    ),
    (
        f"date,symbol,interval,{BARS}\n03.04.2012,A,1d,1,1,1,1\n",
        {"date_order": "dmy"},
        "4301e1c016ab7cf03a39-2520a323",
    ),
    ("t;o;h;l;c;v\n1340285400000;1;1;1;1;5\n", {"symbol": "A", "interval": "5m"}, "3e9430d1b918c65033b2-ff3197ea"),
]
"""Files and options, with the names that the version before the options `columns` and `decimal` gave their feeds."""


@pytest.mark.parametrize(("text", "options", "name"), FEEDS)
def test_a_file_that_an_earlier_version_read_keeps_its_feed(
    tmp_path: Path, text: str, options: dict[str, Any], name: str
) -> None:
    summary, _, _ = replayed(tmp_path, write(tmp_path, text), **options)
    assert summary.feed == f"file:{name}"


def test_a_file_whose_dates_an_earlier_version_read_otherwise_has_another_feed(tmp_path: Path) -> None:
    # The old name was computed with the old code. Its bar had the date 2024-03-27.
    path = write(tmp_path, f"date,{BARS}\n2024-03-28 00:00:00+01:00,1,1,1,1\n")
    summary, _, _ = replayed(tmp_path, path, symbol="A", interval="1d")
    same, _, _ = replayed(tmp_path, write(tmp_path, f"date,{BARS}\n2024-03-28,1,1,1,1\n"), symbol="A", interval="1d")
    assert summary.feed.rpartition("-")[2] != same.feed.rpartition("-")[2]


def test_a_column_option_that_repeats_the_layout_keeps_the_feed(tmp_path: Path) -> None:
    path = write(tmp_path, "time,symbol,price,size,other\n1340285400,A,1,1,5\n")
    plain = replayed(tmp_path, path)[0].feed
    assert replayed(tmp_path, path, columns={"price": "price"})[0].feed == plain
    assert replayed(tmp_path, path, columns={"size": "other"})[0].feed != plain
