"""Files that need far more memory or time than their size: each is refused by one short line, in bounded memory."""

from __future__ import annotations

import contextlib
import csv
import datetime as dt
import gzip
import subprocess
import sys
import zlib
from pathlib import Path

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.market_data.files.databento import encoded, metadata, trade, zstd
from tickerplant.core.errors import BadInput
from tickerplant.market_data.files import dbn_file, parquet_pages
from tickerplant.market_data.files.bar_folder import BarFolder
from tickerplant.market_data.files.file_layout import layout_of
from tickerplant.market_data.files.open_file import errors_of, open_file
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.row_reader import RowReader

LIMITED = """
import resource, sys
from pathlib import Path
from tests.market_data.files.test_bombs import rows_of
memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = memory + (512 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    try:
        print(rows_of(Path(name)), "rows")
    except Exception as error:
        print(type(error).__name__, error)
"""


def rows_of(path: Path) -> int:
    """Return the number of readable rows, read as `replay` and `compute` read them."""
    with errors_of(path):
        file = open_file(path)
        symbol = None if "symbol" in file.header else "A"
        options = ReadOptions(symbol=symbol, tz="UTC")
        layout = layout_of(file, options)
        reader = RowReader.of(file, layout, options)
        return sum(reader.read(block).batch.num_rows for block in file.blocks(layout.used_columns))


def columns(rows: int) -> dict[str, pa.Array]:
    times = np.arange(rows, dtype=np.int64) * 60_000_000 + 1_700_000_000_000_000
    return {"time": pa.array(times).cast(pa.timestamp("us", "UTC")), "price": pa.array(np.ones(rows))}


def parquet(path: Path, table: dict[str, pa.Array], **options: object) -> Path:
    pq.write_table(pa.table(table), path, **{"compression": "zstd", **options})
    return path


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Write small files of large contents; return words of each refusal by path."""
    folder = tmp_path_factory.mktemp("bombs")
    long = "A" * (1 << 20)
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(60_000, np.int32)), pa.array([long]))
    dictionary = parquet(folder / "dictionary.parquet", {**columns(60_000), "symbol": repeated})
    whole = {"use_dictionary": False, "data_page_size": 1 << 30, "write_batch_size": 1_000}
    page = parquet(folder / "page.parquet", {**columns(80), "symbol": pa.array([long] * 80)}, **whole)
    lists = pa.ListArray.from_arrays(np.arange(5, dtype=np.int32) * 4_500_000, np.zeros(18_000_000, np.int8))
    listed = parquet(folder / "lists.parquet", {**columns(4), "symbol": pa.array(["A"] * 4), "conditions": lists})
    record = bytes(encoded(metadata(dbn.Schema.TRADES), [trade()]))[len(metadata(dbn.Schema.TRADES)) :]
    records = folder / "records.dbn.zst"
    records.write_bytes(zstd(metadata(dbn.Schema.TRADES) + record * 400_000))
    head = folder / "head.dbn.zst"
    head.write_bytes(zstd(b"DBN\x03" + (200 << 20).to_bytes(4, "little") + bytes(1 << 20)))
    wide = folder / "wide.csv.gz"
    wide.write_bytes(gzip.compress(b"time,price," + b"a," * 400_000 + b"\n" + b"1,2\n" * 10))
    name = folder / "name.csv.gz"
    name.write_bytes(gzip.compress(b"time,price," + b"n" * 200_000 + b"\n1,2,3\n"))
    line = folder / "line.csv.gz"
    line.write_bytes(gzip.compress(b"time,price\n" + b"2024-01-02T15:00:00Z,2\n" * 100 + b"1" * (8 << 20)))
    return {
        dictionary: "has a value of more than 1,024 bytes in symbol",
        page: "declares a page of 83,886",
        listed: "18,000,000 values in lists of 4 rows",
        records: "decompresses to more than 1,000 times its size",
        head: "209,715,200 bytes of metadata",
        wide: "more than 4,096 values",
        name: "cannot be read: field larger than field limit",
        line: "a line is longer than a megabyte",
    }


def test_a_small_file_of_a_large_content_is_refused_within_half_a_gigabyte(bombs: dict[Path, str]) -> None:
    expected = bombs
    assert max(path.stat().st_size for path in expected) < 500_000
    command = [sys.executable, "-c", LIMITED, *map(str, expected)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = found.stdout.splitlines()
    assert len(lines) == len(expected), found
    for (path, words), text in zip(expected.items(), lines, strict=True):
        assert text.startswith(f"BadInput {path.name}"), text
        assert words in text
        assert len(text) < 300


def test_a_declared_size_is_checked_before_it_is_used(tmp_path: Path) -> None:
    """Refuse a page of 1.2 MB whose header contains a size of 134 MB."""
    path = parquet(
        tmp_path / "liar.parquet", columns(150_000), compression="none", use_dictionary=False, data_page_size=1 << 21,
        write_batch_size=150_000, write_statistics=False, max_rows_per_page=200_000,
    )  # fmt: skip
    with pq.ParquetFile(path) as file:
        at = file.metadata.row_group(0).column(1).data_page_offset
    data = bytearray(path.read_bytes())
    assert data[at : at + 3] == b"\x15\x00\x15", "type: data page; then the decompressed size, four bytes here"
    assert [byte >> 7 for byte in data[at + 3 : at + 7]] == [1, 1, 1, 0]
    data[at + 3 : at + 7] = b"\xfe\xff\xff\x7f"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"liar.parquet declares a page of 134,217,727 bytes in the column price"):
        rows_of(path)
    data[at : at + 3] = b"\x15\x00\x00"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"liar.parquet is damaged: the page header at byte [\d,]+ has no size"):
        rows_of(path)


def test_more_rows_than_the_bytes_can_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "FEW_ROWS", 1_000)
    monkeypatch.setattr(parquet_pages, "ROWS_PER_BYTE", 10)
    zeros = pa.array(np.zeros(200_000, np.int64)).cast(pa.timestamp("us", "UTC"))
    path = parquet(tmp_path / "rows.parquet", {"time": zeros, "price": pa.array(np.ones(200_000))})
    with pytest.raises(BadInput, match="declares 200,000 rows in"):
        rows_of(path)


def test_normal_files_are_read_in_blocks_that_fit_their_rows(tmp_path: Path) -> None:
    texts = {**columns(100_000), "symbol": pa.array(["A", "BB"] * 50_000)}
    for number, options in enumerate(
        ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"compression": "none"})
    ):
        path = parquet(tmp_path / f"{number}.parquet", texts, **options)
        with pq.ParquetFile(path) as file:
            assert parquet_pages.block_rows(path, file.metadata, ["time", "price", "symbol"], 65_536) == 65_536
        assert rows_of(path) == 100_000
    long = pa.array([f"{at:01000d}" for at in range(400)])
    wide = parquet(tmp_path / "wide.parquet", {**columns(400), "symbol": long}, use_dictionary=False)
    with pq.ParquetFile(wide) as file:
        rows = parquet_pages.block_rows(wide, file.metadata, ["symbol"], 65_536)
    assert rows == pytest.approx(parquet_pages.BLOCK_BYTES / 1_004, rel=0.02)


def test_a_metadata_of_many_names_is_read_only_if_the_file_has_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dbn_file, "FEW_BYTES", 10_000)
    names = {f"S{at}": [("2024-01-02", "2024-02-01", at)] for at in range(2_000)}
    head = metadata(dbn.Schema.TRADES, names)
    path = tmp_path / "names.dbn"
    path.write_bytes(encoded(head, [trade(instrument=7)]))
    assert rows_of(path) == 1, "the file is as large as its metadata"
    monkeypatch.setattr(dbn_file, "EXPANSION", 2)
    small = tmp_path / "names.dbn.zst"
    small.write_bytes(zstd(encoded(head, [trade(instrument=7)])))
    with pytest.raises(BadInput, match=r"names.dbn.zst is not a valid DBN file: [\d,]+ bytes of metadata"):
        rows_of(small)


EXTREME = [
    pa.array([dt.date(9999, 12, 31)]), pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
    pa.array([2**63 - 1]), pa.array([2**64 - 1], pa.uint64()), pa.array([-(2**63)]).cast(pa.timestamp("s", "UTC")),
    pa.array([2**63 - 1]).cast(pa.timestamp("ms", "UTC")), pa.array([float("inf")]), pa.array([b"\xff\xfe"]),
    pa.array(["9" * 900]), pa.array([True]),
    pa.array([[1, 2]]), pa.array([{"a": 1}]), pa.nulls(1), pa.array([2**62]).cast(pa.duration("us")),
    pa.array([2**62]).cast(pa.time64("us")),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(EXTREME)))
@pytest.mark.parametrize("role", ["time", "price", "symbol", "size"])
def test_a_column_of_any_type_and_value_is_read_or_refused_by_one_line(tmp_path: Path, role: str, at: int) -> None:
    good = {**columns(1), "symbol": pa.array(["A"]), "size": pa.array([1.0])}
    path = tmp_path / "f.parquet"
    with contextlib.suppress(pa.ArrowException):  # Parquet has no such type
        pq.write_table(pa.table({**good, role: EXTREME[at]}), path)
    refused = refusal_of(path)
    assert refused is None or (("f.parquet" in refused) and "\n" not in refused and len(refused) < 2_100)


def refusal_of(path: Path) -> str | None:
    """Return the message of a file that is refused, None for a file that is read. Other errors are raised."""
    try:
        rows_of(path)
    except BadInput as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(), pa.ArrowInvalid("no\nway"), pa.ArrowCapacityError("x"), OverflowError("int too big"),
        csv.Error("line contains NUL"), ValueError("x" * 10**6), zlib.error("Error -3"), EOFError(), RecursionError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_each_error_of_a_library_is_one_short_line_with_the_name_of_the_file(error: Exception) -> None:
    with pytest.raises(BadInput) as caught, errors_of(Path("/folder/odd.csv")):
        raise error
    assert str(caught.value).startswith("odd.csv ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2_100


def test_a_bomb_among_a_folders_files_is_an_error_of_that_file(bombs: dict[Path, str]) -> None:
    good = next(iter(bombs)).parent / "AAPL_1m.csv"
    good.write_text("time,open,high,low,close,volume\n2024-01-02T15:00:00Z,1,1,1,1,1\n2024-01-02T15:01:00Z,1,1,1,1,1\n")
    folder = BarFolder(good.parent, ReadOptions(tz="UTC"))
    folder.scan()
    found = {path: indexed.error for path, indexed in folder._files.items()}
    assert {path for path, error in found.items() if not error} == {good}
    assert set(bombs) < set(found)
    assert all(len(error or "") < 2_100 for error in found.values())
