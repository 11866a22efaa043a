"""Broken files: an unreadable file gives a clear error, and an unreadable row gives a dead letter.

No file gives a traceback.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.support import CommandResult, rows, run_command
from tests.support.commands import invoke
from tests.support.plant import Plant

pytestmark = [pytest.mark.slow]

HEADER = "time,symbol,price,size"


def line(minute: int, symbol: str, price: object = None, size: object = 10, year: int = 2012) -> str:
    return f"{year}-06-21T13:{30 + minute}:00.5Z,{symbol},{100 + minute if price is None else price},{size}"


def csv(*lines: str, header: str = HEADER, end: str = "\n") -> bytes:
    return "".join(text + end for text in (header, *lines)).encode()


def some(symbol: str, **instead: str) -> list[str]:
    """Return six rows of a symbol; `row3="…"` replaces the fourth row, on line 5."""
    return [instead.get(f"row{number}", line(number, symbol)) for number in range(6)]


_PACKED = gzip.compress(csv(*(line(n % 30, "CUT", price=100 + n % 7) for n in range(4000))))
_NOISE = random.Random(1).randbytes(4000)

REFUSED = {
    "no_price": (csv("2012-06-21T13:30:00Z,X,1", header="time,symbol,size"), ["line 1", "price"]),
    "no_time": (csv("X,1,1", header="symbol,price,size"), ["line 1", "time"]),
    "no_header": (csv(*some("X")[1:], header=some("X")[0]), ["line 1"]),
    "empty": (b"", ["line 1", "empty"]),
    "blank": (b"\n\r\n", ["line 1", "empty"]),
    "header_only": (csv(), ["line 2", "no rows"]),
    "header_without_line_end": (HEADER.encode(), ["line 2", "no rows"]),
    "twice_the_same_column": (csv("2012-06-21T13:30:00Z,X,1,2", header="time,symbol,price,price"), ["line 1", "price"]),
    "binary": (_NOISE, ["neither a CSV nor a Parquet file"]),
    "binary_without_zeros": (_NOISE.replace(b"\0", b"\1"), ["neither a CSV nor a Parquet file"]),
    "no_parquet": (b"PAR1" + _NOISE, ["not a Parquet file"]),
    "utf16": (csv(*some("X")).decode().encode("utf-16-le"), ["UTF-16 text without a byte order mark", "UTF-8"]),
    "lines_end_in_cr": (csv(*some("X"), end="\r"), ["line 1", "CR"]),
    "cut_in_the_middle.gz": (_PACKED[: len(_PACKED) // 2], ["line ", "is damaged"]),
    "cut_before_its_checksum.gz": (_PACKED[:-4], ["line 4002", "is damaged"]),
    "cut_in_its_head.gz": (_PACKED[:12], ["line 1", "is damaged"]),
    "garbage_behind.gz": (_PACKED + b"garbage", ["line 4002", "is damaged"]),
}
"""Refused files by name: the bytes, and words of the error."""

TAKEN = {
    "FIRST": (csv(*some("FIRST", row0="yesterday,FIRST,1,1")), 5, ["line 2: 'yesterday' is not a time"]),
    "TXT": (csv(*some("TXT", row2=line(2, "TXT", "hello"))), 5, ["line 4: price 'hello' is not a number"]),
    "FEW": (
        csv(*some("FEW", row2="2012-06-21T13:32:00.5Z,FEW", row4=line(4, "FEW") + ",9,9")),
        4,
        ["line 4: 2 values where the header has 4", "line 6: 6 values where the header has 4"],
    ),
    "MOOD": (csv(*(text + ",merry" for text in some("MOOD")), header=HEADER + ",mood"), 6, []),
    "NAN": (
        csv(*some("NAN", row1=line(1, "NAN", "NaN"), row2=line(2, "NAN", "-inf"), row3=line(3, "NAN", size=-3),
                  row4=line(4, "NAN", ""))),
        2,
        ["line 3: the price nan is not a finite number", "line 4: the price -inf is not a finite number",
         "line 5: the size -3.0 is negative", "line 6: the price is"],
    ),
    # Prices below zero are valid: crude oil settled at -37.63 on 2020-04-20.
    "OIL": (csv(*some("OIL", row3=line(3, "OIL", -37.63))), 6, []),
    "Y3000": (
        csv(*some("Y3000", row2=line(2, "Y3000", year=3000), row5=line(5, "Y3000", year=3000))),
        4,
        ["line 4: the time 3000-", "line 7: the time 3000-"],
    ),
    "Y1": (csv(*some("Y1", row0="0001-01-01T00:00:00Z,Y1,1,1")), 5, ["line 2: the time 0001-01-01"]),
    "ZONES": (
        csv(*some("ZONES", row1="2012-06-21T09:31:00.5-04:00,ZONES,101,10",
                  row2="2012-06-21 15:32:00.5+0200,ZONES,102,10", row4="2012-06-21T13:34:00.5,ZONES,104,10")),
        5,
        ["line 6: "],
    ),
    "CRLF": (csv(*some("CRLF"), end="\r\n"), 6, []),
    "SEMI": (csv(*some("SEMI")).replace(b",", b";"), 6, []),
    "SYM": (csv(*some("SYM", row2=line(2, "no way!"), row3=line(3, ""))), 4, ["line 4: 'no way!'", "line 5: "]),
}  # fmt: skip
"""Accepted files by symbol: the bytes, the number of stored ticks, and the reasons of the dead letters."""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Plant:
    plant = Plant(tmp_path_factory.mktemp("broken") / "data")
    plant.run("create-topics")
    return plant


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def results(plant: Plant, folder: Path) -> dict[str, CommandResult]:
    """Replay each file into the log and return the results by name. A last replay waits until all rows are stored."""

    def replay_file(name: str) -> CommandResult:
        path = folder / (name if name.endswith(".gz") else f"{name}.csv")
        path.write_bytes((REFUSED.get(name) or TAKEN[name])[0])
        return invoke(plant, "replay", path, "--no-wait")

    found = {name: replay_file(name) for name in [*REFUSED, *TAKEN]}
    (folder / "sound.csv").write_bytes(csv(*some("SOUND")))
    result = run_command(plant, "replay", folder / "sound.csv")
    assert result.code == 0, result.err
    return found


@pytest.fixture(scope="module")
def dsn(plant: Plant, results: dict[str, CommandResult]) -> Iterator[str]:
    with plant.store() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def dead_letters(plant: Plant, results: dict[str, CommandResult]) -> list[str]:
    result = run_command(plant, "tail", "deadletter", "--from", "earliest", "-n", "1000", "--json")
    assert result.code == 0, result.err
    return [row["reason"] for row in result.lines]


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(results: dict[str, CommandResult], name: str) -> None:
    result = results[name]
    assert result.code == 2, result
    for word in REFUSED[name][1]:
        assert word in result.err
    assert result.out == ""


def test_no_row_of_a_refused_file_is_stored(dsn: str) -> None:
    assert rows(dsn, "SELECT count(*) FROM realtime_prices WHERE symbol IN ('X', 'CUT')") == [(0,)]


@pytest.mark.parametrize("symbol", TAKEN)
def test_valid_rows_of_a_broken_file_are_stored_and_others_are_dead_letters(
    results: dict[str, CommandResult], dead_letters: list[str], dsn: str, symbol: str
) -> None:
    _, ticks, reasons = TAKEN[symbol]
    assert results[symbol].code == 0, results[symbol].err
    assert rows(dsn, f"SELECT count(*) FROM realtime_prices WHERE symbol = '{symbol}'") == [(ticks,)]
    minutes = f"SELECT count(*) FROM intraday_ohlcv WHERE symbol = '{symbol}' AND interval = '1m' AND state = 'final'"
    assert rows(dsn, minutes) == [(ticks,)]
    mine = [letter for letter in dead_letters if letter.startswith(f"{symbol}.csv ")]
    assert len(mine) == len(reasons)
    for letter, reason in zip(sorted(mine), reasons, strict=True):
        assert letter.startswith(f"{symbol}.csv {reason}")


def test_an_unknown_column_is_named(results: dict[str, CommandResult]) -> None:
    assert "columns not used: mood" in results["MOOD"].err


def test_times_in_several_zones_are_the_same_instants(dsn: str) -> None:
    found = rows(dsn, "SELECT time, price FROM realtime_prices WHERE symbol = 'ZONES' ORDER BY time")
    assert [(time.hour, time.minute, price - 100) for time, price in found] == [
        (13, 30 + n, n) for n in (0, 1, 2, 3, 5)
    ]


@pytest.mark.parametrize("path", ["nowhere.csv", "."])
def test_a_missing_file_and_a_folder_are_refused(plant: Plant, folder: Path, path: str) -> None:
    result = invoke(plant, "replay", folder / path)
    assert result.code == 2
    assert "there is no file" in result.err
