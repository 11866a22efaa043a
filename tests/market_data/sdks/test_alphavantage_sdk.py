"""The Python SDK of Alpha Vantage reads the sandbox. Only the address is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from alpha_vantage.alphavantage import AlphaVantage
from alpha_vantage.timeseries import TimeSeries

from tests.market_data.sdks.conftest import Vendor
from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of
from tickerplant.protocols.market import NEW_YORK


@pytest.fixture
def series(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(AlphaVantage, "_ALPHA_VANTAGE_API_URL", f"{vendor.endpoint.url}/query?")
    return lambda key="demo", **options: TimeSeries(key=key, **options)


def test_intraday_bars_equal_those_of_the_market(vendor: Vendor, series: Callable[..., Any]) -> None:
    data, meta = series().get_intraday("AAPL", interval="5min")
    assert meta["6. Time Zone"] == "US/Eastern"
    assert len(data) == 100
    now_us = vendor.clock.now_us()
    truth = vendor.bars("AAPL", "5m", now_us - 102 * 5 * MINUTE_US, now_us)
    shown = [datetime_of(us).astimezone(NEW_YORK).strftime("%Y-%m-%d %H:%M:%S") for us in truth["time_us"]]
    closes = dict(zip(shown, truth["close"], strict=True))
    newest = list(data)[1]  # the newest bar may be newer than the bars of the market that were requested
    assert float(data[newest]["4. close"]) == pytest.approx(closes[newest], abs=1e-4)


def test_daily_bars_are_as_traded(vendor: Vendor, series: Callable[..., Any]) -> None:
    frame, _ = series(output_format="pandas").get_daily("AAPL", outputsize="full")
    split = vendor.actions("AAPL")["splits"][-1]
    truth = vendor.bars("AAPL", "1d", split["us"] - 2 * DAY_US, split["us"] + 2 * DAY_US)
    days = [datetime_of(us).strftime("%Y-%m-%d") for us in truth["time_us"]]
    assert frame.loc[days, "4. close"].tolist() == pytest.approx(truth["close"], abs=1e-4)
    compact, meta = series().get_daily("MSFT")
    assert len(compact) == 100
    assert meta["5. Time Zone"] == "US/Eastern"


def test_quotes_and_csv_are_readable(series: Callable[..., Any]) -> None:
    quote, _ = series().get_quote_endpoint("AAPL")
    assert quote["01. symbol"] == "AAPL"
    rows = list(series(output_format="csv").get_daily("AAPL")[0])
    assert rows[0] == ["timestamp", "open", "high", "low", "close", "volume"]
    assert len(rows) == 101


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ({"do": "429", "kind": "minute"}, "standard API call frequency"),
        ({"do": "429", "kind": "day"}, "requests per day"),
        ({"do": "429", "kind": "burst"}, "Burst pattern detected"),
        ({"do": "premium"}, "premium endpoint"),
    ],
)
def test_rejections_contain_the_text_of_the_vendor(
    vendor: Vendor, series: Callable[..., Any], order: dict[str, str], text: str
) -> None:
    options = dict(order)
    vendor.order(options.pop("do"), vendor="alphavantage", seconds=60, **options)
    with pytest.raises(ValueError, match=text):
        series().get_daily("AAPL")


def test_errors_contain_the_text_of_the_vendor(series: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="Invalid API call"):
        series().get_daily("NIKK")
    with pytest.raises(ValueError, match="apikey is invalid or missing"):
        series("bad").get_daily("AAPL")
    with pytest.raises(ValueError, match="premium endpoint"):
        series().get_daily_adjusted("AAPL")
