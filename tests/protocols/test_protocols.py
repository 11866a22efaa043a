"""Each protocol over a market that is not the sandbox's: formats, paths and errors."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.protocols.fixed_market import DIVIDEND, OPEN_US, SPLIT, FixedMarket
from tickerplant.core.times import HOUR_US, MINUTE_US, SECOND_US, datetime_of
from tickerplant.protocols.alphavantage.rest import AlphaVantage
from tickerplant.protocols.binance.rest import Binance
from tickerplant.protocols.http_types import BURST, DAY, DOWN, MINUTE, PREMIUM, Refusal, Request, RestProtocol
from tickerplant.protocols.market import Market
from tickerplant.protocols.twelvedata.rest import TwelveData
from tickerplant.protocols.yahoo.chart import Yahoo

PROTOCOLS: tuple[RestProtocol, ...] = (TwelveData("basic"), AlphaVantage(), Yahoo("A3=x", "crumb"), Binance())
MARKET: Market = FixedMarket()


def get(protocol: RestProtocol, path: str, **query: str) -> Any:
    response = protocol.respond(Request(path, query), MARKET)
    assert response.status == 200, response.body
    return msgspec.json.decode(response.body)


def test_twelve_data_serves_the_market_s_values() -> None:
    values = get(PROTOCOLS[0], "/time_series", symbol="ACME", interval="1min", outputsize="1")["values"]
    ohlc = {"open": "10.00000", "high": "12.00000", "low": "9.00000", "close": "11.00000"}
    assert values == [{"datetime": "2026-03-09 10:29:00", **ohlc, "volume": "700"}]
    quote = get(PROTOCOLS[0], "/quote", symbol="ACME")
    assert (quote["name"], quote["exchange"], quote["is_market_open"]) == ("Acme Corporation", "NASDAQ", True)
    paid = get(PROTOCOLS[0], "/dividends", symbol="ACME", range="full")["dividends"]
    assert paid == [{"ex_date": datetime_of(DIVIDEND.us).strftime("%Y-%m-%d"), "amount": 0.06}]
    assert get(PROTOCOLS[0], "/api_usage")["plan_category"] == "basic"


def test_alpha_vantage_serves_the_market_s_values() -> None:
    body = get(PROTOCOLS[1], "/query", function="TIME_SERIES_INTRADAY", symbol="ACME", interval="60min")
    newest = next(iter(body["Time Series (60min)"].items()))
    assert newest[1]["4. close"] == "11.0000"
    splits = get(PROTOCOLS[1], "/query", function="SPLITS", symbol="ACME")["data"]
    assert splits == [{"effective_date": datetime_of(SPLIT.us).strftime("%Y-%m-%d"), "split_factor": "4.0000"}]


def test_yahoo_serves_the_market_s_values() -> None:
    result = get(PROTOCOLS[2], "/v8/finance/chart/ACME", interval="1d", range="5d", events="div,split")["chart"][
        "result"
    ]
    assert (result[0]["meta"]["longName"], result[0]["meta"]["instrumentType"]) == ("Acme Corporation", "EQUITY")
    assert set(result[0]["indicators"]["quote"][0]["close"]) == {11.0}
    assert result[0]["timestamp"][-1] == MARKET.now_us // SECOND_US
    crumb = PROTOCOLS[2].respond(Request("/v1/test/getcrumb"), MARKET)
    assert crumb.body == b"crumb"


def test_binance_serves_the_market_s_values() -> None:
    rows = get(PROTOCOLS[3], "/api/v3/klines", symbol="BTCUSDT", interval="1h", limit="2")
    assert [row[0] for row in rows] == [OPEN_US // HOUR_US * HOUR_US // 1_000, (OPEN_US // HOUR_US + 1) * 3_600_000]
    assert rows[0][4] == "11.00000000"
    trades = get(PROTOCOLS[3], "/api/v3/trades", symbol="BTCUSDT", limit="3")
    assert [trade["id"] for trade in trades] == [OPEN_US + at * MINUTE_US for at in (57, 58, 59)]
    assert [found["symbol"] for found in get(PROTOCOLS[3], "/api/v3/exchangeInfo")["symbols"]] == ["BTCUSDT"]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_refusal_has_a_response(protocol: RestProtocol) -> None:
    request = Request("/", {"apikey": "k", "symbol": "ACME"})
    for kind in (MINUTE, DAY, BURST, PREMIUM, DOWN):
        response = protocol.refuse(Refusal(kind, used=9, limit=8), request)
        assert response.body
        assert response.status == 503 if kind == DOWN else response.status in (200, 401, 403, 418, 429, 451)
    assert protocol.key_error().body


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/time_series", ["twelvedata"]), ("/query", ["alphavantage"]), ("/", ["yahoo"]),
        ("/v8/finance/chart/ACME", ["yahoo"]), ("/api/v3/klines", ["binance"]), ("/v1/bars/ACME", []),
    ],
)  # fmt: skip
def test_a_path_belongs_to_one_protocol(path: str, names: list[str]) -> None:
    assert [protocol.name for protocol in PROTOCOLS if protocol.matches(Request(path))] == names


def test_keys_are_found_where_each_api_has_them() -> None:
    request = Request("/price", {}, {"authorization": "apikey secret"})
    keys = [protocol.api_key(request) for protocol in PROTOCOLS]
    assert keys == ["secret", "", None, None]
    assert PROTOCOLS[1].api_key(Request("/query", {"apikey": "secret"})) == "secret"
