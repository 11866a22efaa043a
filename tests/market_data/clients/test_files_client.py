"""The provider that reads bars from files of the user."""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import pyarrow as pa
import pyarrow.parquet
import pytest
from structlog.testing import capture_logs

from tests.market_data.files import databento
from tickerplant.core.arrow_values import times_of
from tickerplant.core.clock import Clock
from tickerplant.core.errors import ConfigError
from tickerplant.core.schemas import VENDOR_BARS
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, iso
from tickerplant.market_data.clients.files.client import FilesProvider
from tickerplant.market_data.files import bar_folder
from tickerplant.market_data.vendors import errors, registry
from tickerplant.market_data.vendors.port import BarsRequest, ProviderContext
from tickerplant.system_clock import starting_at

FIRST_US = databento.OPEN_NS // 1_000
LATER = starting_at(FIRST_US + 400 * DAY_US, 1.0)
HEAD = "time,symbol,interval,open,high,low,close,volume,vwap,trades\n"


def rows(
    first_us: int = FIRST_US, count: int = 20, step_us: int = MINUTE_US, symbol: str = "AAPL", interval: str = "1m",
    price: float = 100.0,
) -> str:  # fmt: skip
    lines = [
        f"{iso(first_us + at * step_us)},{symbol},{interval},{price + at},{price + at + 1},{price + at - 1},"
        f"{price + at},{10 * at},{price + at},{at}\n"
        for at in range(count)
    ]
    return "".join(lines)


def bare(first_us: int = FIRST_US, count: int = 20, step_us: int = MINUTE_US, price: float = 100.0) -> str:
    """Return the text of a file without the columns symbol and interval."""
    lines = [f"{iso(first_us + at * step_us)},{price},{price},{price},{price},1\n" for at in range(count)]
    return "time,open,high,low,close,volume\n" + "".join(lines)


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def provider(path: Path, clock: Clock = LATER, **options: str) -> FilesProvider:
    made = registry.provider(ProviderContext("files", options={"path": str(path), **options}, clock=clock))
    assert isinstance(made, FilesProvider)
    return made


async def ask(
    made: FilesProvider, symbols: Sequence[str] = ("AAPL",), interval: str = "1m", from_us: int = FIRST_US - DAY_US,
    to_us: int = FIRST_US + 90 * DAY_US,
) -> dict[str, Any]:  # fmt: skip
    """Request pages, newest first, until the range is covered; return bars as rows, or the first error, by symbol.

    The key `covers` contains the ranges with bars of each symbol, newest first.
    """
    made._scanned_s = None
    found: dict[str, Any] = {"covers": {}}
    for symbol in symbols:
        bars: list[dict[str, Any]] = []
        left_us = to_us
        while left_us > from_us:
            answer = await made.bars(BarsRequest((symbol,), interval, from_us, left_us))
            result, covered = answer.found[symbol], answer.covers.get(symbol, (from_us, left_us))
            assert from_us <= covered[0] < left_us, "an answer covers no new time"
            left_us = covered[0]
            found.setdefault(symbol, result)
            if isinstance(result, pa.RecordBatch):
                result.validate(full=True)
                assert result.schema == VENDOR_BARS
                bars = result.to_pylist() + bars
                found["covers"].setdefault(symbol, []).append(covered)
                found[symbol] = bars
                assert {row["source"] for row in bars} == {"files"}
    return found


async def test_files_of_all_formats_in_a_folder_are_read_as_one_archive(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", HEAD + rows() + rows(symbol="IBM"))
    put(tmp_path, "in/MSFT_1m.csv.gz", gzip.compress(bare().encode()))
    table = pa.table({"date": [FIRST_US // 1_000_000 + 60 * at for at in range(30)], "close": [2.0] * 30})
    for name in ("open", "high", "low"):
        table = table.append_column(name, table["close"])
    pyarrow.parquet.write_table(table, tmp_path / "BRK.B.parquet")
    made = [databento.bar(at, 50.0) for at in range(5)]
    head = databento.metadata(dbn.Schema.OHLCV_1M, {"SPY": [("2024-01-02", "2024-02-01", 38)]})
    put(tmp_path, "x.dbn.zst", databento.zstd(databento.encoded(head, made)))
    put(tmp_path, ".hidden.csv", "nonsense")
    put(tmp_path, "README.md", "# My files\n")
    with capture_logs() as logs:
        found = await ask(provider(tmp_path), ("AAPL", "IBM", "MSFT", "BRK.B", "SPY", "TSLA"))
    assert not logs
    assert [len(found[name]) for name in ("AAPL", "IBM", "MSFT", "BRK.B", "SPY")] == [20, 20, 20, 30, 5]
    assert isinstance(found["TSLA"], errors.UnknownSymbol)
    third = found["AAPL"][2]
    assert {**third, "time": third["time"].isoformat()} == {
        "time": "2024-01-02T14:52:00+00:00", "symbol": "AAPL", "interval": "1m", "open": 102.0, "high": 103.0,
        "low": 101.0, "close": 102.0, "volume": 20.0, "vwap": 102.0, "trades": 2, "source": "files", "complete": True,
    }  # fmt: skip
    assert found["covers"]["SPY"] == [(FIRST_US, FIRST_US + 5 * MINUTE_US)]


async def test_an_answer_contains_exactly_the_requested_bars(tmp_path: Path) -> None:
    five = rows(FIRST_US - FIRST_US % (5 * MINUTE_US), 6, 5 * MINUTE_US, interval="5m")
    days = rows(FIRST_US - FIRST_US % DAY_US, 6, DAY_US, interval="1d")
    made = provider(put(tmp_path, "a.csv", HEAD + rows() + five + days))
    found = await ask(made, from_us=FIRST_US + 2 * MINUTE_US, to_us=FIRST_US + 4 * MINUTE_US)
    assert [row["open"] for row in found["AAPL"]] == [102.0, 103.0]
    assert found["covers"] == {"AAPL": [(FIRST_US + 2 * MINUTE_US, FIRST_US + 4 * MINUTE_US)]}
    assert [row["interval"] for row in (await ask(made, interval="5m"))["AAPL"]] == ["5m"] * 6
    assert [row["time"].hour for row in (await ask(made, interval="1d"))["AAPL"]] == [0] * 6
    found = await ask(made, from_us=FIRST_US + 100 * MINUTE_US)
    assert isinstance(found["AAPL"], errors.NoData)
    for wrong in (BarsRequest((), "1m", 0, 1), BarsRequest(("A",), "1h", 0, 1), BarsRequest(("A",), "1m", 1, 1)):
        with pytest.raises(errors.BadRequest):
            await made.bars(wrong)
    with pytest.raises(errors.NotEntitled):
        await made.actions("AAPL", 0, 1)
    assert (made.stream(["AAPL"]), made.offer.quotas, made.cost(BarsRequest((), "1m", 0, 1))) == (None, (), 0)
    await made.close()


async def test_a_forming_bar_is_dropped(tmp_path: Path) -> None:
    clock = starting_at(FIRST_US + 10 * MINUTE_US + 30 * SECOND_US, 1.0)
    found = await ask(provider(put(tmp_path, "a.csv", HEAD + rows()), clock))
    assert len(found["AAPL"]) == 10


async def test_gaps_between_files_are_not_covered(tmp_path: Path) -> None:
    put(tmp_path, "1.csv", HEAD + rows(FIRST_US))
    put(tmp_path, "2.csv", HEAD + rows(FIRST_US + 3 * DAY_US))
    put(tmp_path, "3.csv", HEAD + rows(FIRST_US + 30 * DAY_US))
    made = provider(tmp_path)
    found = await ask(made)
    end_us = FIRST_US + 20 * MINUTE_US
    assert len(found["AAPL"]) == 60
    assert found["covers"]["AAPL"] == [
        (FIRST_US + 30 * DAY_US, end_us + 30 * DAY_US),
        (FIRST_US, end_us + 3 * DAY_US),
    ]
    made._scanned_s = None
    gap = BarsRequest(("AAPL",), "1m", FIRST_US, FIRST_US + 30 * DAY_US)
    answer = await made.bars(gap)
    assert isinstance(answer.found["AAPL"], errors.NoData)
    assert answer.covers["AAPL"] == (end_us + 3 * DAY_US, FIRST_US + 30 * DAY_US)


async def test_the_last_file_by_name_wins_if_two_files_have_a_bar(tmp_path: Path) -> None:
    put(tmp_path, "b.csv", HEAD + rows(price=200.0, count=3))
    put(tmp_path, "a.csv", HEAD + rows() + rows(price=300.0, count=1))
    found = await ask(provider(tmp_path))
    assert [row["open"] for row in found["AAPL"]] == [200.0, 201.0, 202.0, *(100.0 + at for at in range(3, 20))]


@pytest.mark.parametrize(
    ("name", "text", "options", "symbol", "interval"),
    [
        ("AAPL.csv", bare(), {}, "AAPL", "1m"),
        ("aapl.csv", bare(step_us=5 * MINUTE_US, first_us=FIRST_US - FIRST_US % (5 * MINUTE_US)), {}, "AAPL", "5m"),
        ("AAPL.csv", bare(step_us=DAY_US, first_us=FIRST_US - FIRST_US % DAY_US), {}, "AAPL", "1d"),
        ("AAPL_daily.csv", bare(step_us=DAY_US, first_us=FIRST_US - FIRST_US % DAY_US, count=2), {}, "AAPL", "1d"),
        ("BTC-USD_5min.txt", bare(count=1), {}, "BTC-USD", "5m"),
        ("ES_F.csv", bare(count=1), {"interval": "5min"}, "ES_F", "5m"),
        ("AAPL.csv", "date,open,high,low,close\n3/1/2024 9:30,1,1,1,1\n",
         {"interval": "1m", "tz": "America/New_York", "date_order": "mdy"}, "AAPL", "1m"),
    ],
)  # fmt: skip
async def test_options_replace_what_a_file_lacks(
    tmp_path: Path, name: str, text: str, options: dict[str, str], symbol: str, interval: str
) -> None:
    put(tmp_path, name, text)
    found = await ask(provider(tmp_path, **options), (symbol,), interval)
    assert {row["interval"] for row in found[symbol]} == {interval}
    if "tz" in options:
        assert found[symbol][0]["time"].isoformat() == "2024-03-01T14:30:00+00:00"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("AAPL.csv", bare(count=5), "does not follow from their times"),
        ("AAPL.csv", bare(step_us=60 * MINUTE_US), "does not follow from their times"),
        ("my file.csv", bare(), "the file's name is not a symbol"),
        ("AAPL.csv", bare().replace("Z", ""), "has no zone; set it with the option tz"),
        ("AAPL_1d.csv", bare().replace("2024-01-02T14:50:00Z", "3/4/2024"), "set it with the option date_order"),
        ("a.csv", "time,symbol,price\n2024-01-02T14:50:00Z,A,1\n", "it has ticks"),
        ("a.csv", "", "is empty"),
        ("a.parquet", b"PAR1nonsense", "is not a Parquet file"),
        ("a.dbn", b"DBN\x03", "ends inside its metadata"),
        ("a.csv", HEAD + "x,AAPL,1m,1,1,1,1,1,1,1\n", "line 2: 'x' is not a time"),
        ("a.csv", HEAD + rows(count=1).replace("101.0", "x"), "none of its 1 rows can be read"),
    ],
)
async def test_an_unreadable_file_is_logged_once_and_again_after_a_change(
    tmp_path: Path, name: str, text: str | bytes, why: str
) -> None:
    bad = put(tmp_path, name, text)
    put(tmp_path, "good.csv", HEAD + rows(symbol="GOOD"))
    made = provider(tmp_path)
    with capture_logs() as logs:
        for _ in range(3):
            assert len((await ask(made, ("GOOD",)))["GOOD"]) == 20
        (line,) = logs
        assert (line["event"], line["file"]) == (
            "a file cannot be read; correct it or remove it from the folder",
            str(bad),
        )
        assert why in line["reason"]
        put(tmp_path, name, HEAD + rows(symbol="NEW"))
        assert len((await ask(made, ("NEW",)))["NEW"]) == 20
        assert len(logs) == 1


async def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", HEAD + rows().replace("103.0", "x"))
    with capture_logs() as logs:
        assert len((await ask(provider(tmp_path)))["AAPL"]) < 20
    assert (logs[0]["event"], logs[0]["rows"]) == ("rows of a file cannot be read; correct or delete them", 3)


@pytest.mark.parametrize("column", [False, True])
async def test_the_interval_of_a_file_may_be_forced(tmp_path: Path, column: bool) -> None:
    text = HEAD + rows(step_us=5 * MINUTE_US) if column else bare(step_us=5 * MINUTE_US)
    put(tmp_path, "a.csv" if column else "AAPL_1m.csv", text)
    with capture_logs() as logs:
        assert isinstance((await ask(provider(tmp_path)))["AAPL"], errors.UnknownSymbol)
    assert logs[0]["reason"].startswith("the bars are not 1m bars: all times are multiples of 5 min apart; ")
    assert logs[0]["reason"].endswith("the option `force_interval` reads the bars as they are")
    assert ("correct the column" in logs[0]["reason"]) is column
    with capture_logs() as logs:
        assert len((await ask(provider(tmp_path, force_interval="True")))["AAPL"]) == 20
    (choice,) = [each["choice"] for each in logs if "choice" in each]
    assert choice.startswith("force_interval: read although the bars are not 1m bars")


async def test_new_changed_and_deleted_files_are_noticed(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", HEAD + rows(count=3))
    made = provider(tmp_path)
    assert len((await ask(made))["AAPL"]) == 3
    path.write_text(HEAD + rows(count=7))
    os.utime(path, ns=(1, 1))
    assert len((await ask(made))["AAPL"]) == 7
    put(tmp_path, "b.csv", HEAD + rows(symbol="IBM"))
    assert len((await ask(made, ("AAPL", "IBM")))["IBM"]) == 20
    path.unlink()
    assert isinstance((await ask(made))["AAPL"], errors.UnknownSymbol)
    # Before the next scan, a changed file is read completely or not at all.
    await ask(made, ("IBM",))
    put(tmp_path, "b.csv", HEAD + rows(symbol="IBM", count=2))
    answer = await made.bars(BarsRequest(("IBM",), "1m", FIRST_US, FIRST_US + 20 * MINUTE_US))
    found = answer.found["IBM"]
    assert isinstance(found, errors.UnknownSymbol) or found.num_rows == 20
    assert len((await ask(made, ("IBM",)))["IBM"]) == 2


async def test_large_files_are_read_in_blocks_and_small_files_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HEAD + "".join(rows(FIRST_US + at * DAY_US, 300, symbol=f"S{at % 3}") for at in range(9))
    small, large = provider(put(tmp_path, "a.csv", text)), provider(tmp_path / "a.csv")
    cached = await ask(small, ("S0", "S1"))
    monkeypatch.setattr(bar_folder, "CACHE_BYTES", 1_000)
    monkeypatch.setattr("tickerplant.market_data.files.csv_file.BLOCK_BYTES", 4_096)
    read = await ask(large, ("S0", "S1"))
    assert read == cached
    assert len(read["S0"]) == 900
    assert (len(small._folder._cache), len(large._folder._cache)) == (1, 0)
    part = await ask(large, ("S1",), from_us=FIRST_US + 4 * DAY_US, to_us=FIRST_US + 4 * DAY_US + 9 * MINUTE_US)
    assert times_of(pa.array([row["time"] for row in part["S1"]])).tolist() == [
        FIRST_US + 4 * DAY_US + at * MINUTE_US for at in range(9)
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, "needs the option path"),
        ({"path": "/no/such/folder"}, "which does not exist"),
        ({"path": "/", "pat": "x"}, "no option 'pat'"),
        ({"path": "/", "interval": "1h"}, "the option interval is 1h; use one of 1m, 5m, 1d"),
        ({"path": "/", "interval": "soon"}, "unknown interval"),
        ({"path": "/", "tz": "Mars"}, "unknown time zone 'Mars'"),
        ({"path": "/", "date_order": "ymd"}, "use mdy or dmy"),
        ({"path": "/", "force_interval": "1m"}, "the option force_interval is '1m'; use true or false"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        registry.provider(ProviderContext("files", options=options))
