"""Yahoo's chart API, over the sandbox's market."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tests.sandbox.support import NOW, SandboxClient
from tickerplant.core.times import DAY_US, HOUR_US, SECOND_US
from tickerplant.sandbox.hours import session_of

CHART = "/v8/finance/chart/AAPL"


def result(client: SandboxClient, path: str = CHART, **query: Any) -> dict[str, Any]:
    body = client.json(path, **query)["chart"]
    assert body["error"] is None
    found: dict[str, Any] = body["result"][0]
    return found


def test_cookie_and_crumb_are_issued() -> None:
    client = SandboxClient()
    cookie = client.request("/")
    assert (cookie.status, cookie.headers["Set-Cookie"][:3]) == (404, "A3=")
    assert client.request("/v1/test/getcrumb").content_type.startswith("text/plain")
    assert client.request("/v10/finance/quoteSummary/NIKK").status == 404


def test_the_live_row_is_not_aligned_and_prices_are_float32() -> None:
    client = SandboxClient()
    found = result(client, range="1d", interval="5m")
    assert found["timestamp"][-2:] == [NOW // SECOND_US // 300 * 300, NOW // SECOND_US]
    quote = found["indicators"]["quote"][0]
    assert (quote["volume"][-1], quote["open"][-1]) == (0, quote["close"][-2])
    assert all(float(np.float32(price)) == price for price in quote["close"])
    assert "adjclose" not in found["indicators"]
    day = result(client, range="5d", interval="1d")
    assert day["timestamp"][-1] == NOW // SECOND_US
    assert day["timestamp"][-2] == session_of(NOW // DAY_US * DAY_US - DAY_US)[0] // SECOND_US
    assert day["indicators"]["adjclose"][0]["adjclose"][-1] == day["indicators"]["quote"][0]["close"][-1]


def test_minutes_without_a_trade_are_null() -> None:
    quote = result(SandboxClient(rate=0.05), range="1d", interval="1m")["indicators"]["quote"][0]
    empty = [at for at, close in enumerate(quote["close"]) if close is None]
    assert empty
    assert all(quote[name][empty[0]] is None for name in ("open", "high", "low", "volume"))


def test_trading_periods_follow_the_sessions() -> None:
    client = SandboxClient(sessions="us")
    found = result(client, range="1d", interval="1m", includePrePost="true")
    opens, closes = (us // SECOND_US for us in session_of(NOW // DAY_US * DAY_US))
    assert found["timestamp"][0] == opens
    periods = found["meta"]["tradingPeriods"]
    assert [periods["regular"][0][0][name] for name in ("start", "end")] == [opens, closes]
    assert periods["pre"][0][0]["end"] == opens
    assert periods["post"][0][0]["start"] == closes
    assert found["meta"]["currentTradingPeriod"]["regular"]["timezone"] == "EDT"
    regular = result(client, range="5d", interval="60m")
    assert len(regular["meta"]["tradingPeriods"]) == 5
    assert regular["timestamp"][0] % 3_600 == 1_800


@pytest.mark.parametrize("sessions", ["always", "us"])
@pytest.mark.parametrize("hour", range(24))
def test_a_day_is_the_newest_one_that_has_opened_at_every_hour(sessions: str, hour: int) -> None:
    client = SandboxClient(sessions=sessions)
    midnight = NOW // DAY_US * DAY_US + DAY_US + 4 * HOUR_US  # of New York, a Thursday
    client.now_us = midnight + hour * HOUR_US + HOUR_US // 4
    yesterday, today = (midnight // DAY_US * DAY_US + HOUR_US * 27 // 2 + day * DAY_US for day in (-1, 0))  # 09:30
    (stamp,) = result(client, range="1d", interval="1d")["timestamp"]
    trades_until = 16 if sessions == "us" else 20  # the close, or 00:00 UTC; until then the day has the current time
    assert stamp * SECOND_US == (
        yesterday if hour < 10
        else client.now_us if hour < trades_until
        else today + 6 * HOUR_US + HOUR_US // 2 if hour < 20
        else today
    )  # fmt: skip


def test_ranges_and_periods_select_the_bars() -> None:
    client = SandboxClient()
    for name, least in (("5d", 5), ("1mo", 30), ("ytd", 265), ("1y", 365), ("2wk", 14), ("max", 7_000)):
        assert len(result(client, range=name, interval="1d")["timestamp"]) >= least
    found = result(client, period1=NOW // SECOND_US - 7_200, period2=NOW // SECOND_US - 3_600, interval="1m")
    assert len(found["timestamp"]) == 60
    assert (found["meta"]["range"], found["meta"]["dataGranularity"]) == ("", "1m")
    assert len(result(client, range="1y", interval="3mo")["timestamp"]) == 5
    assert (
        result(client, "/v8/finance/chart/EURUSD=X", range="1d", interval="1m")["meta"]["instrumentType"] == "CURRENCY"
    )
    assert result(client, "/v8/finance/chart/BTC-USD", range="1d", interval="1m")["meta"]["symbol"] == "BTC-USD"


@pytest.mark.parametrize(
    ("path", "query", "status", "words"),
    [
        ("/v8/finance/chart/NIKK", {}, 404, "No data found, symbol may be delisted"),
        (CHART, {"interval": "7m"}, 400, "interval=7m is not supported"),
        (CHART, {"range": "3 days"}, 422, "is not supported"),
        (CHART, {"interval": "1m", "range": "1mo"}, 422, "Only 8 days worth of 1m"),
        (CHART, {"interval": "1m", "period1": 1_780_000_000, "period2": 1_780_003_600}, 422, "within the last 30 days"),
        (CHART, {"interval": "5m", "range": "3mo"}, 422, "within the last 60 days"),
        (CHART, {"interval": "1h", "range": "5y"}, 422, "within the last 730 days"),
        (CHART, {"interval": "1d", "period1": 1_890_000_000, "period2": 1_891_000_000}, 400, "Data doesn't exist"),
        (CHART, {"interval": "1d", "period1": 9, "period2": 8}, 400, "start date cannot be after end date"),
        (CHART, {"interval": "1d", "period1": "now"}, 400, "are seconds"),
    ],
)
def test_an_invalid_request_gets_the_vendor_s_error(path: str, query: dict[str, Any], status: int, words: str) -> None:
    response = SandboxClient().request(path, **query)
    assert response.status == status
    body = msgspec.json.decode(response.body)["chart"]
    assert body["result"] is None
    assert words in body["error"]["description"]


def test_splits_and_dividends_are_events() -> None:
    client = SandboxClient()
    split = client.market.splits("AAPL", 0, NOW)[-1]
    first, end = (split.us - 200 * DAY_US) // SECOND_US, (split.us + DAY_US) // SECOND_US
    found = result(client, period1=first, period2=end, interval="1d", events="div,splits,capitalGains")
    stamp = session_of(split.us)[0] // SECOND_US
    assert found["events"]["splits"][str(stamp)]["numerator"] == split.numerator
    paid = [
        each for each in client.market.dividends("AAPL", 0, NOW) if first <= session_of(each.us)[0] // SECOND_US < end
    ]
    amounts = [event["amount"] for event in found["events"]["dividends"].values()]
    rate = split.denominator / split.numerator
    assert amounts == [pytest.approx(each.amount * (rate if each.us < split.us else 1)) for each in paid]
    assert "events" not in result(client, period1=first, period2=end, interval="1d")


def test_a_spent_quota_is_a_429_of_plain_text() -> None:
    client = SandboxClient()
    client.fault("do=429&vendor=yahoo&kind=day")
    response = client.request(CHART)
    assert (response.status, response.body) == (429, b"Too Many Requests\r\n")
    assert client.request("/v1/test/getcrumb").status == 200


def test_an_intraday_range_without_trades_is_empty() -> None:
    client = SandboxClient(sessions="us")
    sunday = NOW // DAY_US * DAY_US - 3 * DAY_US
    found = result(client, period1=sunday // SECOND_US, period2=(sunday + HOUR_US) // SECOND_US, interval="1m")
    assert "timestamp" not in found
    assert found["indicators"]["quote"] == [{}]
