"""The Binance class of ccxt reads the sandbox. Only the address is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ccxt
import pytest

from tests.market_data.sdks.conftest import Vendor
from tickerplant.core.times import MINUTE_US


@pytest.fixture
def exchange(vendor: Vendor) -> Iterator[Any]:
    found = ccxt.binance({"options": {"fetchMarkets": {"types": ["spot"]}}, "enableRateLimit": False})
    found.urls["api"]["public"] = f"{vendor.endpoint.url}/api/v3"
    yield found
    found.session.close()


def test_candles_equal_those_of_the_market(vendor: Vendor, exchange: Any) -> None:
    markets = exchange.load_markets()
    assert list(markets) == ["BTC/USDT"]
    end_us = vendor.clock.now_us() // MINUTE_US * MINUTE_US
    start_us = end_us - 50 * MINUTE_US
    candles = exchange.fetch_ohlcv("BTC/USDT", "1m", since=start_us // 1_000, limit=50)
    truth = vendor.bars("BTC/USD", "1m", start_us, end_us)
    assert [row[0] * 1_000 for row in candles] == truth["time_us"]
    for at, name in enumerate(("open", "high", "low", "close", "volume"), 1):
        assert [row[at] for row in candles] == pytest.approx(truth[name])
    assert len(exchange.fetch_ohlcv("BTC/USDT", "1d", limit=10)) == 10


def test_candles_equal_the_bars_of_the_trades(vendor: Vendor, exchange: Any) -> None:
    start_us = vendor.clock.now_us() // MINUTE_US * MINUTE_US - 3 * MINUTE_US
    trades: list[dict[str, Any]] = []
    while not trades or trades[-1]["timestamp"] * 1_000 < start_us + MINUTE_US:
        page = {"fromId": int(trades[-1]["id"]) + 1} if trades else {}
        since = None if trades else start_us // 1_000
        trades += exchange.fetch_trades("BTC/USDT", since=since, limit=100, params=page)
    ids = [int(trade["id"]) for trade in trades]
    assert ids == sorted(set(ids))
    mine = [trade for trade in trades if trade["timestamp"] * 1_000 < start_us + MINUTE_US]
    truth = vendor.bars("BTC/USD", "1m", start_us, start_us + MINUTE_US)
    prices = [trade["price"] for trade in mine]
    assert [prices[0], max(prices), min(prices), prices[-1]] == [
        truth[name][0] for name in ("open", "high", "low", "close")
    ]
    assert sum(trade["amount"] for trade in mine) == truth["volume"][0]


def test_time_ticker_and_trades_are_readable(exchange: Any, vendor: Vendor) -> None:
    assert abs(exchange.fetch_time() * 1_000 - vendor.clock.now_us()) < MINUTE_US
    ticker = exchange.fetch_ticker("BTC/USDT")
    assert ticker["low"] <= ticker["last"] <= ticker["high"]
    newest = exchange.fetch_trades("BTC/USDT", limit=5)
    assert len(newest) == 5


def test_errors_have_the_exception_types_of_the_sdk(vendor: Vendor, exchange: Any) -> None:
    exchange.load_markets()
    with pytest.raises(ccxt.BadSymbol):
        exchange.fetch_ohlcv("ETH/USDT")
    with pytest.raises(ccxt.BadSymbol):
        exchange.public_get_klines({"symbol": "NIKK", "interval": "1m"})
    vendor.order("429", vendor="binance", seconds=60)
    with pytest.raises(ccxt.DDoSProtection, match="-1003"):
        exchange.fetch_ohlcv("BTC/USDT")
    vendor.order("429", vendor="binance", kind="day", seconds=60)
    with pytest.raises(ccxt.DDoSProtection, match="banned"):
        exchange.fetch_ohlcv("BTC/USDT")
    vendor.order("down", vendor="binance", seconds=60)
    with pytest.raises(ccxt.ExchangeNotAvailable):
        exchange.fetch_ohlcv("BTC/USDT")
