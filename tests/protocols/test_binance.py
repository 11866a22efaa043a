"""Binance's public REST API, over the sandbox's market."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.sandbox.support import NOW, SandboxClient
from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US

KLINES = "/api/v3/klines"


def test_klines_are_paged_forward_from_the_start_time() -> None:
    client = SandboxClient()
    start = (NOW // MINUTE_US - 200) * MINUTE_US // 1_000
    page = client.json(KLINES, symbol="BTCUSDT", interval="1m", startTime=start, limit=100)
    assert [row[0] for row in page] == [start + at * 60_000 for at in range(100)]
    assert page[0][6] == start + 59_999
    newest = client.json(KLINES, symbol="BTCUSDT", interval="1m", limit=3)
    assert newest[-1][0] == NOW // MINUTE_US * 60_000
    assert len(client.json(KLINES, symbol="BTCUSDT", interval="1w")) == 500
    assert client.json(KLINES, symbol="BTCUSDT", interval="1m", startTime=NOW // 1_000 + 60_000) == []


def test_a_minute_without_a_trade_is_flat() -> None:
    client = SandboxClient(rate=0.05)
    rows = client.json(KLINES, symbol="BTCUSDT", interval="1m", limit=100)
    flat = [at for at, row in enumerate(rows) if row[5] == "0.00000000"]
    assert flat
    assert rows[flat[0]][1:5] == [rows[flat[0] - 1][4]] * 4
    assert rows[flat[0]][8] == 0


def test_trades_aggregated_trades_and_tickers_agree() -> None:
    client = SandboxClient()
    newest = client.json("/api/v3/trades", symbol="BTCUSDT", limit=7)
    assert len(newest) == 7
    page = client.json("/api/v3/aggTrades", symbol="BTCUSDT", fromId=newest[3]["id"])
    assert [row["a"] for row in page] == [row["id"] for row in newest[3:]]
    assert [row["q"] for row in page] == [row["qty"] for row in newest[3:]]
    day = client.json("/api/v3/ticker/24hr", symbol="BTCUSDT")
    assert float(day["lowPrice"]) <= float(day["lastPrice"]) <= float(day["highPrice"])
    assert len(client.json("/api/v3/ticker/24hr")) == len(client.json("/api/v3/ticker/price")) == 1
    midnight = NOW // DAY_US * DAY_US // 1_000
    first = client.json("/api/v3/aggTrades", symbol="BTCUSDT", startTime=midnight - 2_000, endTime=midnight + 2_000)
    assert all(0 < float(row["q"]) < 1_000 for row in first)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"interval": "1m"}, -1102),
        ({"symbol": "AAPL", "interval": "1m"}, -1121),
        ({"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ({"symbol": "BTCUSDT", "interval": "1m", "startTime": "now"}, -1100),
    ],
)
def test_an_invalid_request_gets_the_exchange_s_code(query: dict[str, Any], code: int) -> None:
    response = SandboxClient().request(KLINES, **query)
    assert (response.status, msgspec.json.decode(response.body)["code"]) == (400, code)


def test_weights_are_counted_and_limited() -> None:
    client = SandboxClient(quotas={"binance": (Quota(22, MINUTE_US),)})
    assert client.request("/api/v3/exchangeInfo").headers["X-MBX-USED-WEIGHT-1M"] == "20"
    assert client.request("/api/v3/ping").status == 200
    response = client.request(KLINES, symbol="BTCUSDT", interval="1m")
    assert (response.status, msgspec.json.decode(response.body)["code"]) == (429, -1003)
    assert response.headers["Retry-After"] == "4"
    client.fault("do=premium&vendor=binance")
    assert client.request("/api/v3/time").status == 451
