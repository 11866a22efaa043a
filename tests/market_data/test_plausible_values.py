"""Answers of a vendor that cannot be right: another symbol, impossible splits, prices and ids."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yfinance as yf

from tests.market_data.clients.canned import Answer, golden, serving
from tests.market_data.clients.test_hostile_bodies import NOW_US, asking, error_of
from tests.market_data.support import embedded
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.schemas import SMALL_TEXT, TEXT, TICKS, VENDOR_BARS
from tickerplant.core.times import DAY_US, FOREVER_US, MINUTE_US
from tickerplant.market_data.clients.alphavantage import messages as alphavantage
from tickerplant.market_data.clients.ccxt.stream import TradesStream
from tickerplant.market_data.clients.twelvedata import messages as twelvedata
from tickerplant.market_data.clients.yahoo import client as yahoo
from tickerplant.market_data.feed.dead_letters import dead_rows
from tickerplant.market_data.feed.validation import check_bars, check_ticks
from tickerplant.market_data.files.replay import ReplayOptions, replay
from tickerplant.market_data.vendors.bounds import is_same_symbol
from tickerplant.market_data.vendors.errors import Malformed
from tickerplant.market_data.vendors.port import BarsRequest
from tickerplant.system_clock import SystemClock


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("AAPL", "AAPL", True), ("aapl", "AAPL", True), ("RY:TSX", "RY", True), ("BRK.B", "BRK-B", True),
        ("EUR/USD", "EURUSD", True), ("AAPL", "MSFT", False), ("BRK.B", "BRK.A", False), ("AAPL", "", False),
        ("ПР", "ПР", True),
    ],
)  # fmt: skip
def test_a_symbol_may_have_another_case_separator_or_exchange(asked: str, answered: str, same: bool) -> None:
    assert is_same_symbol(asked, answered) == same


def test_bars_of_another_symbol_are_malformed() -> None:
    body = golden("twelvedata", "series_intraday")
    for symbols in (["MSFT"], ["MSFT", "NIKK"]):
        asked = twelvedata.Asked(symbols, "1m", 0, FOREVER_US, 5_000)
        answer = body if len(symbols) == 1 else json.dumps({"MSFT": json.loads(body)}).encode()
        found = twelvedata.parse_series(answer, 200, asked, FOREVER_US).found["MSFT"]
        assert isinstance(found, Malformed)
        assert str(found) == "the answer is for 'AAPL' instead of MSFT"
    with pytest.raises(Malformed, match="the answer is for 'IBM' instead of MSFT"):
        alphavantage.parse_series(golden("alphavantage", "intraday"), "MSFT", "1m", 0, FOREVER_US, FOREVER_US, "v")


def test_actions_of_another_symbol_are_malformed() -> None:
    body = b'{"meta":{"symbol":"AAPL"},"splits":[],"dividends":[]}'
    for parse in (twelvedata.parse_splits, twelvedata.parse_dividends):
        with pytest.raises(Malformed, match="instead of MSFT"):
            parse(body, "MSFT", 0, FOREVER_US)
        assert parse(body, "AAPL", 0, FOREVER_US).num_rows == 0
    for parse_one in (alphavantage.parse_splits, alphavantage.parse_dividends):
        with pytest.raises(Malformed, match="instead of MSFT"):
            parse_one(b'{"symbol":"IBM","data":[]}', "MSFT", 0, FOREVER_US, FOREVER_US, "v")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
async def test_a_chart_of_another_symbol_is_malformed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yf, yahoo._MARK, False, raising=False)
    with serving() as canned:
        canned.put("/v1/test/getcrumb", b"crumb")
        canned.put("/consent", Answer(b"<html>", 404))
        canned.put("/v8", golden("yahoo", "chart_1d"))
        provider = asking(canned.url, yahoo.provider, cache=str(tmp_path))
        error = await error_of(provider, BarsRequest(("MSFT",), "1d", NOW_US - 90 * DAY_US, NOW_US))
    assert isinstance(error, Malformed)
    assert str(error) == "the answer is for 'AAPL' instead of MSFT"


@pytest.mark.parametrize(
    "split",
    [
        {"from_factor": 1e308, "to_factor": 1}, {"from_factor": 1, "to_factor": 5e-324},
        {"from_factor": -4, "to_factor": 1},
        {"ratio": 5e-324}, {"ratio": 1e300}, {"ratio": "1e300"}, {"ratio": -2}, {"description": "2000000-for-1"},
    ],
)  # fmt: skip
def test_terms_of_a_split_that_are_not_plausible_are_malformed(split: dict[str, Any]) -> None:
    body = json.dumps({"splits": [{"date": "2024-06-10", **split}]}).encode()
    with pytest.raises(Malformed, match=r"a split of .* is not plausible"):
        twelvedata.parse_splits(body, "NVDA", 0, FOREVER_US)


@pytest.mark.parametrize(
    "text", ["1.2.3-for-1", "٤-for-١", "9" * 5_000 + "-for-1", "1e5-for-1", "for", "", "nan-for-1"]
)
def test_an_unreadable_description_of_a_split_leaves_the_ratio(text: str) -> None:
    body = json.dumps({"splits": [{"date": "2024-06-10", "description": text, "ratio": 0.1}]}).encode()
    found = twelvedata.parse_splits(body, "NVDA", 0, FOREVER_US).to_pylist()
    assert [(row["numerator"], row["denominator"]) for row in found] == [(10.0, 1.0)]


@pytest.mark.parametrize("date", ["now", "today", "٢٠٢٤-٠٦-١٠", "99999-06-10", "2024", "2024-13-01", "NaT", ""])
def test_a_date_of_an_action_has_ten_ascii_characters(date: str) -> None:
    body = json.dumps({"splits": [{"date": date, "ratio": 0.1}]}).encode()
    with pytest.raises(Malformed, match="is not a date"):
        twelvedata.parse_splits(body, "NVDA", 0, FOREVER_US)


def test_amounts_and_ratios_out_of_range_are_malformed() -> None:
    body = b'{"dividends":[{"ex_date":"2024-06-10","amount":1e300}]}'
    with pytest.raises(Malformed, match=r"a dividend of 1e\+300 is not plausible"):
        twelvedata.parse_dividends(body, "A", 0, FOREVER_US)
    body = b'{"data":[{"ex_dividend_date":"2024-06-10","amount":"1e300"}]}'
    with pytest.raises(Malformed, match=r"a dividend of 1e\+300"):
        alphavantage.parse_dividends(body, "A", 0, FOREVER_US, FOREVER_US, "v")
    body = b'{"data":[{"effective_date":"2024-06-10","split_factor":"1e300"}]}'
    with pytest.raises(Malformed, match=r"a split of 1e\+300 for 1"):
        alphavantage.parse_splits(body, "A", 0, FOREVER_US, FOREVER_US, "v")


def ticks(prices: list[float], sizes: list[float], ids: list[str | None]) -> pa.RecordBatch:
    count = len(prices)
    text = pa.array(["A"] * count, pa.utf8()).dictionary_encode().cast(TEXT)
    times = timestamps(np.full(count, NOW_US, np.int64))
    arrays = [times, text, pa.array(prices), pa.array(sizes), text, pa.array(ids, pa.utf8()),
              pa.array(np.zeros(count, np.uint16)), times]  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=TICKS)


def test_ticks_out_of_a_sane_range_are_refused_with_the_limit() -> None:
    prices = [1e15, 1.1e15, -1e15, -2e15, 1e308, 0.0, 1e-18, 9e-19, -37.63, 1.0, 1.0, 1.0, 1.0]
    sizes = [1.0] * 9 + [1e20, 1.1e20, 1e308, 0.0]
    ids = [None] * 11 + ["é" * 128, "é" * 129]
    found = check_ticks(ticks(prices, sizes, ids))
    outside = "is not 0 or of 1e-18 to 1e+15"
    assert found == {
        1: f"the price 1100000000000000.0 {outside}", 3: f"the price -2000000000000000.0 {outside}",
        4: f"the price 1e+308 {outside}", 7: f"the price 9e-19 {outside}",
        10: "the size 1.1e+20 is above 1e+20", 11: "the size 1e+308 is above 1e+20",
        12: "the trade id has more than 256 bytes",
    }  # fmt: skip


def test_bars_out_of_a_sane_range_are_refused_with_the_limit() -> None:
    values = [1.0, 1e15, 1.1e15, 1e308, 1e-19, 1.0]
    volumes = [1e20, 0.0, 1.0, 1.0, 1.0, 1e21]
    count = len(values)
    columns = [
        timestamps(NOW_US + np.arange(count, dtype=np.int64) * MINUTE_US),
        pa.array(["A"] * count).dictionary_encode().cast(TEXT),
        pa.array(["1m"] * count).dictionary_encode().cast(SMALL_TEXT),
        *(pa.array(values),) * 4, pa.array(volumes), pa.nulls(count, pa.float64()), pa.nulls(count, pa.int64()),
        pa.array(["v"] * count).dictionary_encode().cast(TEXT), pa.array([True] * count),
    ]  # fmt: skip
    found = check_bars(pa.RecordBatch.from_arrays(columns, schema=VENDOR_BARS))
    outside = "is not 0 or of 1e-18 to 1e+15"
    assert found == {
        2: f"the price 1100000000000000.0 {outside}", 3: f"the price 1e+308 {outside}", 4: f"the price 1e-19 {outside}",
        5: "the volume 1e+21 is above 1e+20",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"timestamp": 10**20}, {"timestamp": -1}, {"price": "abc"}, {"price": None}, {"price": [1]},
        {"amount": {"a": 1}}, {"price": 10**400},
    ],
)  # fmt: skip
async def test_an_impossible_trade_of_an_exchange_is_dead_and_the_stream_continues(change: dict[str, Any]) -> None:
    good = {"id": "1", "timestamp": NOW_US // 1_000, "price": 1.5, "amount": 2.0, "info": {"a": 1}}
    stream = TradesStream(SimpleNamespace(id="x"), ["A/B"], "x", SystemClock())  # type: ignore[arg-type]
    assert stream._trade("A/B", {**good, **change}) is None
    assert stream._trade("A/B", 5) is None
    trade = stream._trade("A/B", good)
    assert trade is not None
    assert (trade.price, trade.size) == (1.5, 2.0)
    assert len(stream._dead) == 2
    assert all(row.reason.startswith("a trade of A/B cannot be used: ") for row in stream._dead)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("kind", "impossible"),
    [
        (pa.timestamp("us", "UTC"), (2**62, -(2**62))), (pa.timestamp("ms", "UTC"), (2**62,)),
        (pa.timestamp("ns", "UTC"), (2**63 - 1,)),
    ],
)  # fmt: skip
def test_a_time_that_python_does_not_have_is_a_dead_letter_of_its_row(
    tmp_path: Path, kind: pa.DataType, impossible: tuple[int, ...]
) -> None:
    per_second = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]
    times = [1_773_063_000 * per_second, *impossible]
    columns = {"time": pa.array(times, pa.int64()).cast(kind), "symbol": ["AAPL"] * len(times)}
    table = pa.table({**columns, "price": [1.0] * len(times), "size": [1.0] * len(times)})
    pq.write_table(table, tmp_path / "ticks.parquet")
    with embedded(tmp_path, 1) as log:
        found = replay(log, tmp_path / "ticks.parquet", ReplayOptions())
    assert (found.rows_read, found.dead) == (len(times), len(impossible))


def test_a_live_tick_with_a_time_that_python_does_not_have_is_a_dead_letter() -> None:
    rows = [{"time": 2**62, "symbol": "AAPL", "price": 1.0, "size": 1.0, "source": "x", "received_at": 0, "flags": 0}]
    batch = pa.RecordBatch.from_pylist(rows, schema=TICKS)
    [row] = dead_rows(batch, check_ticks(batch))
    assert row.reason == "the time 4611686018427387904 µs since 1970 is in the future"
    assert b'"time":"4611686018427387904 (timestamp[us, tz=UTC])"' in row.payload
