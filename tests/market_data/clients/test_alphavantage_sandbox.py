"""The provider of Alpha Vantage, connected to the sandbox over sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.market_data.clients.sandboxed import Sandboxed
from tickerplant.core.times import DAY_US
from tickerplant.market_data.clients.alphavantage import client as alphavantage_client
from tickerplant.market_data.clients.alphavantage.client import AlphaVantageProvider
from tickerplant.market_data.vendors import errors
from tickerplant.market_data.vendors.port import BarsRequest, ProviderContext


@pytest.fixture
async def provider(sandbox: Sandboxed) -> AsyncIterator[AlphaVantageProvider]:
    made = alphavantage_client.provider(sandbox.context("alphavantage"))
    yield made
    await made.close()
    sandbox.order("clear")


@pytest.mark.parametrize(
    ("interval", "days", "least"), [("1m", 2, 700), ("5m", 6, 300), ("30m", 6, 50), ("1d", 90, 60), ("1d", 400, 270)]
)
async def test_bars_equal_those_of_the_market(
    sandbox: Sandboxed, provider: AlphaVantageProvider, interval: str, days: int, least: int
) -> None:
    assert await sandbox.equal(provider, "AAPL", interval, days) >= least


async def test_history_is_covered_to_the_end_of_the_request(sandbox: Sandboxed, provider: AlphaVantageProvider) -> None:
    end_us = sandbox.endpoint.clock.now_us() - 60 * DAY_US
    answer = await provider.bars(BarsRequest(("AAPL",), "5m", end_us - 40 * DAY_US, end_us))
    assert answer.found["AAPL"].num_rows > 100  # type: ignore[union-attr]
    assert answer.covers["AAPL"][1] == end_us


async def test_splits_and_dividends_equal_those_of_the_market(
    sandbox: Sandboxed, provider: AlphaVantageProvider
) -> None:
    truth = sandbox.get("actions", symbol="AAPL")
    answer = await provider.actions("AAPL", 0, sandbox.endpoint.clock.now_us())
    assert answer.splits["numerator"].to_pylist() == [split["numerator"] for split in truth["splits"]]
    assert answer.dividends["amount"].to_pylist() == [paid["amount"] for paid in truth["dividends"]]


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ({"do": "429", "kind": "minute"}, errors.QuotaSpent),
        ({"do": "429", "kind": "day"}, errors.QuotaSpent),
        ({"do": "429", "kind": "burst"}, errors.Burst),
        ({"do": "premium"}, errors.NotEntitled),
        ({"do": "down", "status": "503"}, errors.VendorDown),
        ({"do": "down", "how": "reset"}, errors.VendorDown),
        ({"do": "malformed", "how": "json"}, errors.Malformed),
        ({"do": "malformed", "how": "truncated"}, errors.VendorDown),
    ],
)
async def test_each_fault_raises_its_error(
    sandbox: Sandboxed, provider: AlphaVantageProvider, order: dict[str, str], kind: type[errors.VendorError]
) -> None:
    assert isinstance(await sandbox.trouble(provider, "AAPL", {**order, "vendor": "alphavantage"}), kind)


async def test_a_bad_key_raises_bad_key(sandbox: Sandboxed) -> None:
    made = alphavantage_client.provider(ProviderContext("alphavantage", "badkey", url=sandbox.endpoint.url))
    with pytest.raises(errors.BadKey):
        await made.bars(BarsRequest(("AAPL",), "1d", 0, DAY_US))
    await made.close()
