"""The reader of DBN files returns the same rows as the library of Databento, which writes the files."""

from __future__ import annotations

import contextlib
import random
import struct
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
import pytest

from tests.market_data.files.databento import (
    AAPL,
    DAY_NS,
    OPEN_NS,
    as_csv,
    bar,
    encoded,
    metadata,
    trade,
    write,
    zstd,
)
from tests.market_data.support import embedded, headers, rows
from tests.support.killed import Killed
from tickerplant.core import faults, records
from tickerplant.core.errors import BadInput
from tickerplant.core.times import FOREVER_US
from tickerplant.market_data.files import dbn_file as ours
from tickerplant.market_data.files import dbn_metadata
from tickerplant.market_data.files.bars import read_bars
from tickerplant.market_data.files.dbn_file import DbnFile
from tickerplant.market_data.files.open_file import open_file
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.replay import ReplayOptions, replay

TRADES, M1 = dbn.Schema.TRADES, dbn.Schema.OHLCV_1M


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, with times in µs."""
    file = DbnFile(path)
    found = []
    for block in file.blocks(file.header):
        table = pa.table({name: block.columns[name] for name in file.header})
        table.validate(full=True)
        times = table["ts_event"].cast(pa.int64()).to_pylist()
        found += [{**row, "ts_event": us} for row, us in zip(table.to_pylist(), times, strict=True)]
    return found


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_trades_equal_those_of_databentos_reader(tmp_path: Path, version: int, compressed: bool) -> None:
    made = [trade(at, 187 + at * 0.0137, at + 1) for at in range(500)]
    data = encoded(metadata(TRADES, version=version), made)
    found = read(write(tmp_path, zstd(data) if compressed else data))
    assert found == [
        {"ts_event": one.ts_event // 1_000, "symbol": "AAPL", "price": one.pretty_price, "size": float(one.size)}
        for one in made
    ]


@pytest.mark.parametrize(
    ("schema", "rtype", "step_s", "interval"),
    [
        (dbn.Schema.OHLCV_1S, dbn.RType.OHLCV_1S, 1, "1s"),
        (dbn.Schema.OHLCV_1M, dbn.RType.OHLCV_1M, 60, "1m"),
        (dbn.Schema.OHLCV_1H, dbn.RType.OHLCV_1H, 3_600, "1h"),
        (dbn.Schema.OHLCV_1D, dbn.RType.OHLCV_1D, 86_400, "1d"),
    ],
)
def test_bars_of_every_interval_are_read(
    tmp_path: Path, schema: dbn.Schema, rtype: dbn.RType, step_s: int, interval: str
) -> None:
    made = [bar(at, 100 + at / 7, rtype=rtype, step_s=step_s, volume=10**9 * at) for at in range(20)]
    (first, *_), found = made, read(write(tmp_path, encoded(metadata(schema), made)))
    assert found[0] == {
        "ts_event": first.ts_event // 1_000, "symbol": "AAPL", "interval": interval, "open": first.pretty_open,
        "high": first.pretty_high, "low": first.pretty_low, "close": first.pretty_close, "volume": 0.0,
    }  # fmt: skip
    assert [row["close"] for row in found] == [one.pretty_close for one in made]
    assert [row["volume"] for row in found] == [float(one.volume) for one in made]


@pytest.mark.parametrize("schema", [dbn.Schema.MBP_1, dbn.Schema.TBBO])
def test_only_the_trades_of_a_book_are_read(tmp_path: Path, schema: dbn.Schema) -> None:
    made = [
        dbn.MBP1Msg(
            2, 38, OPEN_NS + at * 1_000, (100 + at) * 10**9, 5, dbn.Action.TRADE if at % 3 == 0 else dbn.Action.ADD,
            dbn.Side.ASK, 0, OPEN_NS + at * 1_000, levels=dbn.BidAskPair(),
        )
        for at in range(9)
    ]  # fmt: skip
    path = write(tmp_path, encoded(metadata(schema), made))
    assert [row["price"] for row in read(path)] == [100.0, 103.0, 106.0]
    (block,) = DbnFile(path).blocks(["price"])
    assert (block.numbers.tolist(), block.end) == ([1, 4, 7], 10)


def test_the_symbol_of_a_record_depends_on_its_instrument_and_date(tmp_path: Path) -> None:
    names = {
        "FB": [("2024-01-02", "2024-01-04", 7)],
        "META": [("2024-01-04", "2024-02-01", 7)],
        "ESH4": [("2024-01-02", "2024-01-03", 9), ("2024-01-03", "2024-01-05", 3_000_000_000)],
        "NONE": [],
    }
    made = [
        trade(at, instrument=instrument, ns=OPEN_NS + day * DAY_NS)
        for at, (day, instrument) in enumerate(
            [(0, 7), (0, 9), (1, 7), (1, 3_000_000_000), (1, 9), (2, 7), (2, 3_000_000_000), (3, 3_000_000_000),
             (3, 12345), (40, 7), (-9, 7)]
        )
    ]  # fmt: skip
    data = encoded(metadata(TRADES, names), made)
    found = [row["symbol"] for row in read(write(tmp_path, data))]
    assert found == ["FB", "ESH4", "FB", "ESH4", None, "META", "ESH4", None, None, None, None]
    assert [row["symbol"] or None for row in as_csv(data)] == found


def test_a_trade_belongs_to_the_date_on_which_it_was_received(tmp_path: Path) -> None:
    names = {"A": [("2024-01-02", "2024-01-03", 7)], "B": [("2024-01-03", "2024-01-04", 7)]}
    midnight = 1_704_240_000 * 10**9
    made = [
        trade(instrument=7, ns=midnight - 5, recv=midnight + 5),
        trade(instrument=7, ns=midnight - 5, recv=midnight - 1),
        trade(instrument=7, ns=midnight - 5, recv=ours.UNDEFINED_TIME),
    ]
    data = encoded(metadata(TRADES, names), made)
    assert [row["symbol"] for row in read(write(tmp_path, data))] == ["B", "A", "A"]
    assert [row["symbol"] for row in as_csv(data)[:2]] == ["B", "A"]


def test_a_file_requested_by_instrument_id_has_symbols(tmp_path: Path) -> None:
    names = {"38": [("2024-01-02", "2024-02-01", "AAPL")]}
    head = metadata(TRADES, names, stype_in=dbn.SType.INSTRUMENT_ID, stype_out=dbn.SType.RAW_SYMBOL)
    data = encoded(head, [trade()])
    assert read(write(tmp_path, data))[0]["symbol"] == as_csv(data)[0]["symbol"] == "AAPL"


def test_undefined_prices_and_times_are_null(tmp_path: Path) -> None:
    made = [trade(fixed=dbn.UNDEF_PRICE), trade(fixed=-5), trade(ns=dbn.UNDEF_TIMESTAMP, recv=OPEN_NS)]
    found = read(write(tmp_path, encoded(metadata(TRADES), made)))
    assert [row["price"] for row in found] == [None, -5e-9, 187.15]
    assert found[2]["ts_event"] is None


def test_records_with_a_sending_time_are_read(tmp_path: Path) -> None:
    made = [bytes(trade(at, 1 + at)) for at in range(3)]
    longer = [bytes([len(one) // 4 + 2, *one[1:48], *struct.pack("<Q", OPEN_NS)]) for one in made]
    assert {len(one) for one in longer} == {56}
    found = read(write(tmp_path, metadata(TRADES, ts_out=True) + b"".join(longer)))
    assert [row["price"] for row in found] == [1.0, 2.0, 3.0]


def test_golden_bytes_of_version_one_are_read() -> None:
    """Read bytes that were written by hand from the published layout."""
    text = {name: name.encode().ljust(22, b"\0") for name in ("MSFT", "77")}
    fixed = struct.pack("<16sHQQQQBBB", b"XNAS.ITCH", 4, 1, 2, 0, 1, 1, 0, 0).ljust(100, b"\0")
    lists = struct.pack("<I", 0) + struct.pack("<I", 1) + text["MSFT"] + struct.pack("<II", 0, 0)
    lists += struct.pack("<I", 1) + text["MSFT"] + struct.pack("<III", 1, 20_240_102, 99_991_231) + text["77"]
    data = memoryview(b"DBN\x01" + struct.pack("<I", len(fixed + lists)) + fixed + lists)
    at = 0

    def read_next(size: int) -> bytes:
        nonlocal at
        at += size
        return bytes(data[at - size : at])

    found = dbn_metadata.read_metadata(read_next, "f")
    assert (found.version, found.dataset, found.schema, found.ts_out) == (1, "XNAS.ITCH", "trades", False)
    assert found.names == (dbn_metadata.InstrumentName(77, 1_704_153_600_000_000, FOREVER_US, "MSFT"),)
    assert at == len(data)


def test_blocks_are_adjacent_and_contain_all_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [trade(at, 1 + at) for at in range(25)]
    path = write(tmp_path, zstd(encoded(metadata(TRADES), made)))
    monkeypatch.setattr(ours, "BLOCK_ROWS", 10)
    blocks = list(DbnFile(path).blocks(["price"]))
    assert [block.end for block in blocks] == [11, 21, 26]
    assert np.concatenate([block.numbers for block in blocks]).tolist() == list(range(1, 26))


def test_several_frames_of_zstd_are_one_file(tmp_path: Path) -> None:
    path = write(tmp_path, zstd(metadata(TRADES)) + zstd(bytes(trade())) + zstd(bytes(trade(5))))
    assert len(read(path)) == 2


# Invalid files --------------------------------------------------------------------------------------------------------

WHOLE = encoded(metadata(TRADES), [trade(at) for at in range(50)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"DBN\x04" + WHOLE[4:], "version 4; the supported versions are 1 to 3"),
        (b"DBN\x00" + WHOLE[4:], "version 0"),
        (b"DBN", "ends inside its metadata"),
        (WHOLE[:150], "ends inside its metadata"),
        (b"DBN\x03\xff\xff\xff\xff" + WHOLE[8:], "bytes of metadata"),
        (zstd(b"time,price\n1,2\n"), "is not a DBN file"),
        (zstd(WHOLE)[:40], "is damaged"),
        (ours.ZSTD_MAGIC + b"nonsense", "is damaged"),
        (metadata(dbn.Schema.MBO), "has records of mbo; the supported schemas are trades"),
        (metadata(None), "has records of several schemas"),
        (metadata(TRADES), "no rows"),
        (WHOLE[:-1], "ends inside record 50"),
        (zstd(WHOLE)[:-20], "is damaged"),
        (
            WHOLE + bytes(bar()),
            "record 51 has type 0x21 and 56 bytes, but records of trades have type 0x00 and 48 bytes",
        ),
        (encoded(metadata(M1), [bar(), bar(publisher=7)]), r"several venues for one instrument \(publishers 2 and 7\)"),
        (encoded(metadata(TRADES, {}), [trade(), trade(instrument=39)]), "several instruments: 38, 39"),
    ],
)
def test_an_invalid_file_is_rejected(tmp_path: Path, data: bytes, reason: str) -> None:
    path = write(tmp_path, data)
    with embedded(tmp_path, 1) as log:
        with pytest.raises(BadInput, match=reason):
            replay(log, path, ReplayOptions(symbol=None if b"AAPL" in data else "AAPL"))
        assert not headers(log)


def test_changed_bytes_are_read_or_rejected(tmp_path: Path) -> None:
    choose = random.Random(4)
    for _ in range(400):
        data = bytearray(WHOLE)
        for _ in range(choose.randrange(1, 4)):
            data[choose.randrange(4, 700)] = choose.randrange(256)
        path = write(tmp_path, bytes(data))
        with contextlib.suppress(BadInput):
            read(path)


# Replays --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_a_replay_appends_trades_and_reports_invalid_records(tmp_path: Path, compressed: bool) -> None:
    names = {**AAPL, "MSFT": [("2024-01-02", "2024-02-01", 39)], "IBM": [("2024-01-02", "2024-02-01", 40)]}
    made = [trade(at, 100 + at, instrument=38 + at % 2) for at in range(20)]
    made.append(trade(21, fixed=dbn.UNDEF_PRICE))
    data = encoded(metadata(TRADES, names), made)
    path = write(tmp_path, zstd(data) if compressed else data, "any.name")
    with embedded(tmp_path, 1) as log:
        summary = replay(log, path)
        found = rows(log, records.Ticks)
        assert (summary.ticks, summary.dead, summary.symbols, summary.notes) == (20, 1, 2, ())
        assert summary.errors == ["any.name record 21: the price is missing"]
        assert [row["price"] for row in found] == [100.0 + at for at in range(20)]
        assert [row["symbol"] for row in found[:3]] == ["AAPL", "MSFT", "AAPL"]
        assert replay(log, path).already


def test_a_replay_of_bars_without_symbols_needs_the_option_symbol(tmp_path: Path) -> None:
    path = write(tmp_path, encoded(metadata(M1, {}), [bar(at) for at in range(3)]))
    with embedded(tmp_path, 1) as log:
        with pytest.raises(BadInput, match="--symbol"):
            replay(log, path)
        replay(log, path, ReplayOptions(symbol="msft"))
        found = rows(log, records.VendorBars)
        assert [(row["symbol"], row["interval"], row["open"]) for row in found] == [("MSFT", "1m", 1.1)] * 3


def test_bars_of_an_hour_are_rejected_with_the_supported_intervals(tmp_path: Path) -> None:
    made = [bar(rtype=dbn.RType.OHLCV_1H, ns=OPEN_NS - OPEN_NS % (3_600 * 10**9))]
    with (
        embedded(tmp_path, 1) as log,
        pytest.raises(BadInput, match="has 1h bars; the supported intervals are 1m, 5m, 1d"),
    ):
        replay(log, write(tmp_path, encoded(metadata(dbn.Schema.OHLCV_1H), made)))


@pytest.mark.parametrize("point", ["feed.append.after", "feed.commit.before", "feed.commit.after"])
def test_a_killed_replay_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    monkeypatch.setattr("tickerplant.market_data.files.replay.BATCH_ROWS", 16)
    monkeypatch.setattr("tickerplant.market_data.files.replay.TRANSACTION_BYTES", 1_000)
    monkeypatch.setattr(ours, "BLOCK_ROWS", 50)
    path = write(tmp_path, zstd(encoded(metadata(TRADES), [trade(at, 1 + at) for at in range(200)])))
    left = 6

    def hook(name: str) -> None:
        nonlocal left
        left -= name == point
        if not left and name == point:
            raise Killed

    with embedded(tmp_path, 1) as log:
        faults.install(hook)
        try:
            with pytest.raises(Killed):
                replay(log, path)
        finally:
            faults.install(None)
        assert 0 < len(rows(log, records.Ticks)) < 200
        assert replay(log, path).ticks == 200
        assert [row["price"] for row in rows(log, records.Ticks)] == [1.0 + at for at in range(200)]


def test_all_bars_of_a_file_are_read(tmp_path: Path) -> None:
    found = read_bars(write(tmp_path, encoded(metadata(M1), [bar(at) for at in range(3)])), ReadOptions())
    assert (found.bars.num_rows, found.broken) == (3, [])


def test_the_format_is_detected_by_the_first_bytes(tmp_path: Path) -> None:
    for data in (WHOLE, zstd(WHOLE)):
        file = open_file(write(tmp_path, data, "prices.csv"))
        assert isinstance(file, DbnFile)
        assert (file.symbols, file.header) == (["AAPL"], ["ts_event", "symbol", "price", "size"])
