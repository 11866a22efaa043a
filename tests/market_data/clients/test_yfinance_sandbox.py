"""The provider of Yahoo and yfinance, connected to the sandbox over sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.market_data.clients.sandboxed import COMMON_FAULTS, Sandboxed
from tickerplant.core.times import DAY_US
from tickerplant.market_data.clients.yahoo import client as yfinance_client
from tickerplant.market_data.clients.yahoo.client import YahooProvider
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest

# yfinance calls deprecated functions of pandas.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
async def provider(sandbox: Sandboxed, tmp_path: Path) -> AsyncIterator[YahooProvider]:
    made = yfinance_client.provider(sandbox.context("yahoo", cache=str(tmp_path)))
    yield made
    await made.close()
    made._thread.shutdown(wait=True)
    sandbox.order("clear")


@pytest.mark.parametrize(
    ("symbol", "interval", "days", "least"),
    [
        ("AAPL", "1m", 6, 1500),
        ("AAPL", "5m", 6, 300),
        ("AAPL", "30m", 6, 50),
        ("AAPL", "1d", 400, 270),
        ("EUR/USD", "1m", 1, 1440),
        ("EUR/USD", "1h", 20, 300),
        ("BTC/USD", "1d", 100, 99),
    ],
)
async def test_bars_equal_those_of_the_market(
    sandbox: Sandboxed, provider: YahooProvider, symbol: str, interval: str, days: int, least: int
) -> None:
    # AAPL was split two days ago, so earlier bars are unadjusted. Yahoo has no volume of currencies.
    assert await sandbox.equal(provider, symbol, interval, days, volume="EUR" not in symbol) >= least


async def test_splits_and_dividends_equal_those_of_the_market(sandbox: Sandboxed, provider: YahooProvider) -> None:
    truth = sandbox.get("actions", symbol="AAPL")
    answer = await provider.actions("AAPL", 0, sandbox.endpoint.clock.now_us())
    assert answer.splits["numerator"].to_pylist() == [split["numerator"] for split in truth["splits"]]
    assert answer.dividends["amount"].to_pylist() == [paid["amount"] for paid in truth["dividends"]]


@pytest.mark.parametrize(("order", "kind"), COMMON_FAULTS)
async def test_each_fault_raises_its_error(
    sandbox: Sandboxed, provider: YahooProvider, order: dict[str, str], kind: type[errors.VendorError]
) -> None:
    assert isinstance(await sandbox.trouble(provider, "AAPL", {**order, "vendor": "yahoo"}), kind)


async def test_rejections_of_one_symbol_are_its_result(sandbox: Sandboxed, provider: YahooProvider) -> None:
    now_us = sandbox.endpoint.clock.now_us()
    for symbol, interval, back_us, kind in (
        ("NIKK", "1d", 9, errors.UnknownSymbol),
        ("AAPL", "5m", 90, errors.NotEntitled),
        ("AAPL", "1h", 9, errors.NotEntitled),
    ):
        answer = await provider.bars(BarsRequest((symbol,), interval, now_us - back_us * DAY_US, now_us))
        assert isinstance(answer.found[symbol], kind)
