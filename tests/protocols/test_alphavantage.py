"""Alpha Vantage's API, over the sandbox's market."""

from __future__ import annotations

import msgspec
import pytest

from tests.sandbox.support import NOW, SandboxClient
from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of
from tickerplant.sandbox.quotas import FREE_PACE_S, FREE_PLANS

INTRADAY = {"function": "TIME_SERIES_INTRADAY", "symbol": "AAPL", "interval": "1min", "apikey": "k"}


def test_closed_minutes_are_served_newest_first() -> None:
    body = SandboxClient().json("/query", **INTRADAY)
    assert list(body) == ["Meta Data", "Time Series (1min)"]
    times = list(body["Time Series (1min)"])
    assert (len(times), times[0]) == (100, "2026-09-23 10:33:00")
    assert times == sorted(times, reverse=True)
    assert body["Meta Data"]["3. Last Refreshed"] == times[0]


def test_a_month_begins_and_ends_in_new_york() -> None:
    client = SandboxClient()
    params = {**INTRADAY, "interval": "60min", "month": "2026-03", "outputsize": "full"}
    series = client.json("/query", **params)["Time Series (60min)"]
    times = sorted(series)
    assert (times[0], times[-1], len(times)) == ("2026-03-01 00:00:00", "2026-03-31 23:00:00", 31 * 24 - 1)
    regular = client.json("/query", **params, extended_hours="false")["Time Series (60min)"]
    assert {time[11:] for time in regular} == {f"{hour}:00:00" for hour in range(10, 16)}
    compact = client.json("/query", **{**params, "outputsize": "compact"})["Time Series (60min)"]
    assert sorted(compact) == times[-100:]
    assert "Error Message" in client.json("/query", **{**params, "month": "March"})
    assert "Error Message" in client.json("/query", **{**params, "month": "2031-03"})


def test_intraday_bars_are_adjusted_by_default_and_days_are_as_traded() -> None:
    client = SandboxClient()
    split = client.market.splits("AAPL", 0, NOW)[-1]
    ratio = split.numerator / split.denominator
    params = {
        **INTRADAY,
        "interval": "60min",
        "outputsize": "full",
        "month": datetime_of(split.us - DAY_US).strftime("%Y-%m"),
    }
    raw = client.json("/query", **params, adjusted="false")["Time Series (60min)"]
    adjusted = client.json("/query", **params)["Time Series (60min)"]
    day = datetime_of(split.us - DAY_US).strftime("%Y-%m-%d")
    time = next(time for time in raw if time.startswith(day) and time < f"{day} 15")
    assert float(adjusted[time]["4. close"]) < float(raw[time]["4. close"]) / ratio
    daily = client.json("/query", function="TIME_SERIES_DAILY", symbol="AAPL", outputsize="full", apikey="k")
    close = float(daily["Time Series (Daily)"][day]["4. close"])
    truth = client.market.bars("AAPL", split.us - DAY_US, split.us, DAY_US, NOW).close[0]
    assert close == pytest.approx(truth, abs=1e-4)


def test_splits_dividends_and_quotes_are_served() -> None:
    client = SandboxClient()
    splits = client.json("/query", function="SPLITS", symbol="AAPL", apikey="k")
    assert len(splits["data"]) == len(client.market.splits("AAPL", 0, NOW))
    paid = client.json("/query", function="DIVIDENDS", symbol="AAPL", apikey="k")["data"]
    assert paid[0]["ex_dividend_date"] > paid[1]["ex_dividend_date"]
    assert float(paid[0]["amount"]) == client.market.dividends("AAPL", 0, NOW)[-1].amount
    assert client.json("/query", function="SPLITS", symbol="NIKK", apikey="k")["data"] == []
    assert client.json("/query", function="GLOBAL_QUOTE", symbol="NIKK", apikey="k") == {"Global Quote": {}}
    response = client.request("/query", function="DIVIDENDS", symbol="AAPL", datatype="csv", apikey="k")
    assert response.content_type == "application/x-download"
    assert response.body.startswith(b"ex_dividend_date,declaration_date,record_date,payment_date,amount\r\n")


@pytest.mark.parametrize(
    ("query", "key"),
    [
        ({"function": "TIME_SERIES_DAILY", "symbol": "NIKK", "apikey": "k"}, "Error Message"),
        ({"function": "TIME_SERIES_DAILY", "symbol": "EUR/USD", "apikey": "k"}, "Error Message"),
        ({"function": "TIME_SERIES_DAILY", "apikey": "k"}, "Error Message"),
        ({"function": "TIME_SERIES_DAILY", "symbol": "NIKK", "apikey": "k", "datatype": "csv"}, "Error Message"),
        ({**INTRADAY, "interval": "2min"}, "Error Message"),
        ({"function": "NOTHING", "apikey": "k"}, "Error Message"),
        ({"function": "TIME_SERIES_DAILY_ADJUSTED", "symbol": "AAPL", "apikey": "k"}, "Information"),
        ({"function": "TIME_SERIES_DAILY", "symbol": "AAPL"}, "Error Message"),
    ],
)
def test_failures_have_http_status_200(query: dict[str, str], key: str) -> None:
    response = SandboxClient().request("/query", **query)
    assert response.status == 200
    assert list(msgspec.json.decode(response.body)) == [key]


def test_the_free_plan_allows_25_requests_a_day_and_one_a_second() -> None:
    client = SandboxClient(quotas=FREE_PLANS, pace_s=FREE_PACE_S)
    params = {"function": "GLOBAL_QUOTE", "symbol": "AAPL", "apikey": "my-key"}
    assert "Global Quote" in client.json("/query", **params)
    assert "Burst pattern detected" in client.json("/query", **params)["Information"]
    for _ in range(24):
        client.now_us += 2 * MINUTE_US // 60
        assert "Global Quote" in client.json("/query", **params)
    client.now_us += MINUTE_US
    assert "25 requests per day" in client.json("/query", **params)["Information"]
    client.now_us += DAY_US
    assert "Global Quote" in client.json("/query", **params)


def test_a_spent_minute_quota_is_a_note() -> None:
    client = SandboxClient(quotas={"alphavantage": (Quota(1, MINUTE_US),)})
    client.json("/query", **INTRADAY)
    assert "1 calls per minute" in client.json("/query", **INTRADAY)["Note"]
