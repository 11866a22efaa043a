"""REST paths with symbols of any script, and times in the spellings of files."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pyarrow as pa
import pytest

from tests.api.support import MINUTE, T0, MemoryStore, bar_batch, serving, tick_batch
from tickerplant.log.port import EventLog

SYMBOLS = ("M&M.NS", "贵州茅台", "A#1?B", "BRK/B%", "СБЕР")


@pytest.fixture
def client(log: EventLog, store: MemoryStore) -> Iterator[httpx.Client]:
    store.tables["prices"] = pa.Table.from_batches([tick_batch([(T0, symbol, 1.0) for symbol in SYMBOLS])])
    bars = [{"time": T0 + 5 * n * MINUTE, "symbol": "AAPL", "interval": "5m", "open": float(n)} for n in range(24)]
    store.tables["ohlcv"] = pa.Table.from_batches([bar_batch(bars)])
    with serving(log, store) as (client, _, _):
        yield client


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_of_any_script_has_an_answer_in_json_and_csv(client: httpx.Client, symbol: str) -> None:
    path = f"/v1/ticks/{quote(symbol.lower(), safe='')}"
    assert client.get(path).json()["symbol"] == symbol
    answer = client.get(path, params={"format": "csv"})
    assert len(answer.text.splitlines()) == 2
    name = f"{symbol.replace('/', '-')}-ticks.csv"
    assert quote(name, safe="") in answer.headers["content-disposition"]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("20260309", "20260310"),
        ("2026-03-09", "2026-03-10"),
        ("1773014400", "1773100800000"),
        ("1773014400000000000", "1773100800000000"),
        ("2026-03-08T20:00:00-04:00", "2026-03-09T20:00:00 -04:00"),
        ("09.03.2026", "10 Mar 2026"),
    ],
)
def test_each_spelling_of_a_range_gives_the_same_bars(client: httpx.Client, start: str, end: str) -> None:
    # 2026-03-09 00:00 UTC is 1773014400.
    bars = client.get("/v1/intraday/AAPL", params={"interval": "5m", "start": start, "end": end}).json()["bars"]
    assert len(bars) == 24
    assert client.get("/v1/intraday/AAPL", params={"interval": "5m", "start": end}).json()["count"] == 0
