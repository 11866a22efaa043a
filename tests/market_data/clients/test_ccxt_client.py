"""The provider of crypto exchanges and ccxt, connected over sockets to a server with golden answers of Binance."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest

from tests.market_data.clients.binance import BinanceVendor, golden
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import ConfigError
from tickerplant.core.schemas import VENDOR_BARS
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US
from tickerplant.market_data.clients.ccxt import client as ccxt_client
from tickerplant.market_data.clients.ccxt.client import CcxtProvider, read_bars
from tickerplant.market_data.vendors import errors, registry
from tickerplant.market_data.vendors.port import BarsRequest, ProviderContext
from tickerplant.system_clock import SystemClock, starting_at

FIRST_US = 1_704_207_000_000_000
LATER = starting_at(FIRST_US + DAY_US, 1.0)


@pytest.fixture
async def vendor() -> AsyncIterator[BinanceVendor]:
    async with BinanceVendor().serving() as found:
        yield found


@pytest.fixture
async def provider(vendor: BinanceVendor) -> AsyncIterator[CcxtProvider]:
    made = ccxt_client.provider(ProviderContext("ccxt", url=vendor.url, clock=LATER))
    yield made
    await made.close()
    await made.close()


def request(
    from_us: int = FIRST_US, to_us: int = FIRST_US + 5 * MINUTE_US, symbol: str = "BTC/USDT", interval: str = "1m"
) -> BarsRequest:
    return BarsRequest((symbol,), interval, from_us, to_us)


async def test_bars_equal_those_of_the_exchange(vendor: BinanceVendor, provider: CcxtProvider) -> None:
    answer = await provider.bars(request())
    found = answer.found["BTC/USDT"]
    assert isinstance(found, pa.RecordBatch)
    found.validate(full=True)
    assert found.schema == VENDOR_BARS
    assert times_of(found["time"]).tolist() == [FIRST_US + at * MINUTE_US for at in range(5)]
    first = found.to_pylist()[0]
    values = [first[name] for name in ("symbol", "interval", "open", "high", "low", "close", "volume", "source")]
    assert values == ["BTC/USDT", "1m", 42000.1, 42010.2, 41990.05, 42005.0, 12.34567, "ccxt"]
    assert (first["vwap"], first["trades"], first["complete"]) == (None, None, True)
    assert answer.covers == {"BTC/USDT": (FIRST_US, FIRST_US + 5 * MINUTE_US)}
    (_, info), (name, query) = vendor.asked
    assert (info, name) == ({}, "klines")
    assert query == {"interval": "1m", "limit": "5", "symbol": "BTCUSDT", "startTime": str(FIRST_US // 1_000)}


async def test_an_answer_that_ends_early_covers_only_its_bars(provider: CcxtProvider) -> None:
    answer = await provider.bars(request(to_us=FIRST_US + 60 * MINUTE_US))
    assert answer.covers == {"BTC/USDT": (FIRST_US, FIRST_US + 5 * MINUTE_US)}
    answer = await provider.bars(request(FIRST_US + MINUTE_US, FIRST_US + 3 * MINUTE_US))
    found = answer.found["BTC/USDT"]
    assert isinstance(found, pa.RecordBatch)
    assert times_of(found["time"]).tolist() == [FIRST_US + MINUTE_US, FIRST_US + 2 * MINUTE_US]
    assert answer.covers == {"BTC/USDT": (FIRST_US + MINUTE_US, FIRST_US + 3 * MINUTE_US)}


@pytest.mark.parametrize(("after_s", "bars"), [(0, 4), (59, 4), (61, 4), (63, 5)])
def test_a_bar_that_may_still_change_is_dropped(after_s: int, bars: int) -> None:
    rows = [[(FIRST_US + at * MINUTE_US) // 1_000, 1.0, 2.0, 0.5, 1.5, 10.0] for at in range(5)]
    now_us = FIRST_US + 4 * MINUTE_US + after_s * SECOND_US + (3 * SECOND_US if not after_s else 0)
    found, covers = read_bars(rows, request(to_us=FIRST_US + 9 * MINUTE_US), now_us, "x")
    assert isinstance(found, pa.RecordBatch)
    assert found.num_rows == bars
    assert covers == (FIRST_US, FIRST_US + bars * MINUTE_US)


def test_rows_with_missing_values_are_read_and_invalid_rows_are_malformed() -> None:
    at = FIRST_US // 1_000
    found, covers = read_bars([], request(), FIRST_US + DAY_US, "x")
    assert isinstance(found, errors.NoData)
    assert covers == (FIRST_US, FIRST_US + 5 * MINUTE_US)
    found, _ = read_bars([[at, 1, 1, 1, 1, None], [at + 60_000, None, 1, 1, 1, 1]], request(), FIRST_US + DAY_US, "x")
    assert isinstance(found, pa.RecordBatch)
    assert found["volume"].to_pylist() == [0.0]
    rows: list[Any]
    for rows in ([[at + 1, 1, 1, 1, 1, 1]], [["x", 1, 1, 1, 1, 1]], [[at]], [5]):
        with pytest.raises(errors.Malformed):
            read_bars(rows, request(), FIRST_US + DAY_US, "x")
    late = [[at + 120_000, 1, 1, 1, 1, 1]]
    _, covers = read_bars(late, request(), FIRST_US + DAY_US, "x", newest_alone=True)
    assert covers == (FIRST_US + 2 * MINUTE_US, FIRST_US + 3 * MINUTE_US)


@pytest.mark.parametrize(
    ("answer", "kind", "retry_after_s"),
    [
        ((429, {"Retry-After": "17"}, golden("error_weight")), errors.Burst, 17.0),
        ((429, {}, golden("error_weight")), errors.Burst, 10.0),
        ((418, {"Retry-After": "300"}, golden("error_weight")), errors.QuotaSpent, 300.0),
        ((418, {}, b""), errors.QuotaSpent, 600.0),
        ((451, {}, golden("error_place")), errors.NotEntitled, None),
        ((401, {}, golden("error_key")), errors.BadKey, None),
        ((400, {}, golden("error_interval")), errors.BadRequest, None),
        ((503, {}, b"<html></html>"), errors.VendorDown, 5.0),
        ((504, {}, b""), errors.VendorDown, 5.0),
        (None, errors.VendorDown, 5.0),
        ((200, {"Content-Type": "text/html"}, b"<html></html>"), errors.Malformed, None),
        ((200, {"Content-Type": "application/json"}, b'{"a":'), errors.Malformed, None),
    ],
)
async def test_each_error_answer_raises_its_error(
    vendor: BinanceVendor,
    provider: CcxtProvider,
    answer: tuple[int, dict[str, str], bytes] | None,
    kind: type[errors.VendorError],
    retry_after_s: float | None,
) -> None:
    vendor.failing["klines"] = answer
    try:
        found = (await provider.bars(request())).found["BTC/USDT"]
    except errors.VendorError as error:
        found = error
    assert type(found) is kind
    assert found.retry_after_s == retry_after_s


async def test_a_symbol_that_the_exchange_does_not_list_is_unknown(
    vendor: BinanceVendor, provider: CcxtProvider
) -> None:
    for symbol in ("AAPL", "BTC/EUR"):
        answer = await provider.bars(request(symbol=symbol))
        assert isinstance(answer.found[symbol], errors.UnknownSymbol)
    assert [name for name, _ in vendor.asked] == ["exchangeInfo"]
    vendor.failing["klines"] = (400, {}, golden("error_symbol"))
    answer = await provider.bars(request())
    assert isinstance(answer.found["BTC/USDT"], errors.UnknownSymbol)


async def test_a_symbol_that_is_listed_later_is_found(vendor: BinanceVendor) -> None:
    made = ccxt_client.provider(ProviderContext("ccxt", url=vendor.url, clock=starting_at(FIRST_US + DAY_US, 10_000.0)))
    try:
        assert isinstance((await made.bars(request(symbol="SOL/USDT"))).found["SOL/USDT"], errors.UnknownSymbol)
        vendor.bodies["exchangeInfo"] = vendor.bodies["exchangeInfo"].replace(b"ETH", b"SOL")
        await made._clock.sleep(7 * 3_600.0)
        assert isinstance((await made.bars(request(symbol="SOL/USDT"))).found["SOL/USDT"], pa.RecordBatch)
    finally:
        await made.close()


async def test_a_request_outside_the_offer_is_refused(provider: CcxtProvider) -> None:
    assert [offer.interval for offer in provider.offer.bars] == ["1m", "5m", "1d"]
    assert provider.offer.markets == ("*/*",)
    assert provider.cost(request()) == 1
    for wrong in (request(interval="1h"), request(to_us=FIRST_US), BarsRequest((), "1m", 0, 1)):
        with pytest.raises(errors.BadRequest):
            await provider.bars(wrong)
    with pytest.raises(errors.NotEntitled):
        await provider.actions("BTC/USDT", 0, 1)
    await provider.close()
    with pytest.raises(errors.VendorDown):
        await provider.bars(request())


def test_the_options_select_exchange_and_markets() -> None:
    made = registry.provider(ProviderContext("ccxt", options={"exchange": "Kraken", "markets": "BTC/*, ETH/*"}))
    assert made.offer.markets == ("BTC/*", "ETH/*")
    assert [offer.lookback_us for offer in made.offer.bars] == [719 * MINUTE_US, 719 * 5 * MINUTE_US, 719 * DAY_US]
    for options, why in (({"exchange": "nyse"}, "no exchange 'nyse'"), ({"exchang": "x"}, "no option 'exchang'")):
        with pytest.raises(ConfigError, match=why):
            registry.provider(ProviderContext("ccxt", options=options, clock=SystemClock()))


def test_a_missing_package_is_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    monkeypatch.delitem(sys.modules, "ccxt.async_support")
    with pytest.raises(ConfigError, match=r"pip install 'tickerplant\[ccxt\]'"):
        ccxt_client.provider(ProviderContext("ccxt"))
