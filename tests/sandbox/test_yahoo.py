"""Yahoo's chart, its oddities included."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from tests.sandbox.support import NOW, Desk
from tickerplant.core.times import DAY_US, HOUR_US, SECOND_US
from tickerplant.sandbox.corporate_actions import session_of

CHART = "/v8/finance/chart/AAPL"


def result(desk: Desk, path: str = CHART, **query: Any) -> dict[str, Any]:
    body = desk.json(path, **query)["chart"]
    assert body["error"] is None
    found: dict[str, Any] = body["result"][0]
    return found


def test_the_cookie_and_the_crumb() -> None:
    desk = Desk()
    cookie = desk.ask("/")
    assert (cookie.status, cookie.headers["Set-Cookie"][:3]) == (404, "A3=")
    assert desk.ask("/v1/test/getcrumb").content_type.startswith("text/plain")
    assert desk.ask("/v10/finance/quoteSummary/NIKK").status == 404


def test_the_live_row_is_off_the_grid_and_prices_are_float32() -> None:
    desk = Desk()
    found = result(desk, range="1d", interval="5m")
    assert found["timestamp"][-2:] == [NOW // SECOND_US // 300 * 300, NOW // SECOND_US]
    quote = found["indicators"]["quote"][0]
    assert (quote["volume"][-1], quote["open"][-1]) == (0, quote["close"][-2])
    assert all(float(np.float32(price)) == price for price in quote["close"])
    assert "adjclose" not in found["indicators"]
    day = result(desk, range="5d", interval="1d")
    assert day["timestamp"][-1] == NOW // SECOND_US
    assert day["timestamp"][-2] == session_of(NOW // DAY_US * DAY_US - DAY_US)[0] // SECOND_US
    assert day["indicators"]["adjclose"][0]["adjclose"][-1] == day["indicators"]["quote"][0]["close"][-1]


def test_minutes_without_a_trade_are_null() -> None:
    quote = result(Desk(rate=0.05), range="1d", interval="1m")["indicators"]["quote"][0]
    empty = [at for at, close in enumerate(quote["close"]) if close is None]
    assert empty
    assert all(quote[name][empty[0]] is None for name in ("open", "high", "low", "volume"))


def test_sessions_and_their_periods() -> None:
    desk = Desk(sessions="us")
    found = result(desk, range="1d", interval="1m", includePrePost="true")
    opens, closes = (us // SECOND_US for us in session_of(NOW // DAY_US * DAY_US))
    assert found["timestamp"][0] == opens
    periods = found["meta"]["tradingPeriods"]
    assert [periods["regular"][0][0][name] for name in ("start", "end")] == [opens, closes]
    assert periods["pre"][0][0]["end"] == opens
    assert periods["post"][0][0]["start"] == closes
    assert found["meta"]["currentTradingPeriod"]["regular"]["timezone"] == "EDT"
    regular = result(desk, range="5d", interval="60m")
    assert len(regular["meta"]["tradingPeriods"]) == 5
    assert regular["timestamp"][0] % 3_600 == 1_800


def test_ranges_and_periods() -> None:
    desk = Desk()
    for name, least in (("5d", 5), ("1mo", 30), ("ytd", 265), ("1y", 365), ("2wk", 14), ("max", 7_000)):
        assert len(result(desk, range=name, interval="1d")["timestamp"]) >= least
    found = result(desk, period1=NOW // SECOND_US - 7_200, period2=NOW // SECOND_US - 3_600, interval="1m")
    assert len(found["timestamp"]) == 60
    assert (found["meta"]["range"], found["meta"]["dataGranularity"]) == ("", "1m")
    assert len(result(desk, range="1y", interval="3mo")["timestamp"]) == 5
    assert result(desk, "/v8/finance/chart/EURUSD=X", range="1d", interval="1m")["meta"]["instrumentType"] == "CURRENCY"
    assert result(desk, "/v8/finance/chart/BTC-USD", range="1d", interval="1m")["meta"]["symbol"] == "BTC-USD"


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
def test_what_cannot_be_asked_for(path: str, query: dict[str, Any], status: int, words: str) -> None:
    reply = Desk().ask(path, **query)
    assert reply.status == status
    body = msgspec.json.decode(reply.body)["chart"]
    assert body["result"] is None
    assert words in body["error"]["description"]


def test_splits_and_dividends_are_events() -> None:
    desk = Desk()
    split = desk.tape.splits("AAPL", 0, NOW)[-1]
    first, end = (split.us - 200 * DAY_US) // SECOND_US, (split.us + DAY_US) // SECOND_US
    found = result(desk, period1=first, period2=end, interval="1d", events="div,splits,capitalGains")
    stamp = session_of(split.us)[0] // SECOND_US
    assert found["events"]["splits"][str(stamp)]["numerator"] == split.numerator
    paid = [each for each in desk.tape.dividends("AAPL", 0, NOW) if first <= session_of(each.us)[0] // SECOND_US < end]
    amounts = [event["amount"] for event in found["events"]["dividends"].values()]
    rate = split.denominator / split.numerator
    assert amounts == [pytest.approx(each.amount * (rate if each.us < split.us else 1)) for each in paid]
    assert "events" not in result(desk, period1=first, period2=end, interval="1d")


def test_too_many_is_a_line_of_text() -> None:
    desk = Desk()
    desk.order("do=429&vendor=yahoo&kind=day")
    reply = desk.ask(CHART)
    assert (reply.status, reply.body) == (429, b"Too Many Requests\r\n")
    assert desk.ask("/v1/test/getcrumb").status == 200


def test_an_intraday_stretch_without_trades_is_empty() -> None:
    desk = Desk(sessions="us")
    sunday = NOW // DAY_US * DAY_US - 3 * DAY_US
    found = result(desk, period1=sunday // SECOND_US, period2=(sunday + HOUR_US) // SECOND_US, interval="1m")
    assert "timestamp" not in found
    assert found["indicators"]["quote"] == [{}]
