"""Twelve Data's REST API and stream, over the sandbox's market."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.sandbox.support import NOW, SandboxClient
from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.protocols.twelvedata.stream import TwelveDataSession
from tickerplant.sandbox.corporate_actions import TradedMarket
from tickerplant.sandbox.model import MarketSettings, SimulatedMarket

KEY = {"apikey": "k"}


def test_the_text_of_a_429_names_the_minute_or_the_day() -> None:
    client = SandboxClient(quotas={"twelvedata": (Quota(8, MINUTE_US), Quota(10, DAY_US))})
    good = client.request("/price", symbol="AAPL", **KEY)
    assert (good.headers["api-credits-used"], good.headers["api-credits-left"]) == ("1", "7")
    minute = client.request("/price", symbol=",".join(f"S{at}" for at in range(8)), **KEY)
    assert minute.status == 429
    assert b"for the current minute. 9 API credits were used, with the current limit being 8" in minute.body
    assert minute.headers["api-credits-used"] == "1"
    client.request("/price", symbol=",".join(f"S{at}" for at in range(7)), **KEY)
    assert client.json("/api_usage", **KEY)["current_usage"] == 8
    client.now_us += MINUTE_US
    assert b"for the day. 19 API credits were used" in client.request("/price", symbol="A,B,C", **KEY).body


def test_errors_can_have_http_status_200() -> None:
    client = SandboxClient(errors_200=True)
    response = client.request("/price", symbol="AAPL", apikey="bad")
    assert (response.status, msgspec.json.decode(response.body)["code"]) == (200, 401)
    response = client.request("/time_series", symbol="AAPL", interval="1min", start_date="2031-01-01", **KEY)
    assert (response.status, msgspec.json.decode(response.body)["code"]) == (200, 400)


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"symbol": "NIKK", "interval": "1min"}, 400, "**symbol** not found: NIKK"),
        ({"symbol": "AAPL", "interval": "1minute"}, 400, "Invalid **interval**"),
        ({"symbol": "AAPL", "interval": "1min", "outputsize": "6000"}, 400, "Invalid **outputsize**"),
        ({"symbol": "AAPL", "interval": "1min", "timezone": "america/new_york"}, 400, "Invalid **timezone**"),
        ({"symbol": "AAPL", "interval": "1min", "adjust": "some"}, 400, "Invalid **adjust**"),
        ({"symbol": "AAPL", "interval": "1min", "start_date": "yesterday"}, 400, "Invalid **start_date**"),
        ({"symbol": "", "interval": "1min"}, 400, "**symbol** parameter is missing"),
        ({"symbol": ",".join(f"S{at}" for at in range(121)), "interval": "1min"}, 414, "too long"),
    ],
)
def test_an_invalid_request_gets_the_vendor_s_error(query: dict[str, str], code: int, words: str) -> None:
    response = SandboxClient().request("/time_series", **query, **KEY)
    assert response.status == code
    assert words in response.body.decode()


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("UTC", "2026-09-23 14:34:00"), ("Exchange", "2026-09-23 10:34:00"), ("Asia/Tokyo", "2026-09-23 23:34:00")],
)
def test_times_are_in_the_requested_zone(zone: str, shown: str) -> None:
    client = SandboxClient()
    values = client.json("/time_series", symbol="AAPL", interval="1min", timezone=zone, **KEY)["values"]
    assert (len(values), values[0]["datetime"]) == (30, shown)
    again = client.json("/time_series", symbol="AAPL", interval="1min", timezone=zone, start_date=shown, **KEY)
    assert [value["datetime"] for value in again["values"]] == [shown]


def test_intervals_range_from_a_minute_to_a_month() -> None:
    client = SandboxClient(sessions="us")
    for interval, size in (("45min", 20), ("1h", 20), ("4h", 20), ("1day", 300), ("1week", 50), ("1month", 12)):
        values = client.json("/time_series", symbol="AAPL", interval=interval, outputsize=size, order="asc", **KEY)[
            "values"
        ]
        assert len(values) == size
        assert values == sorted(values, key=lambda value: value["datetime"])
    assert values[-1]["datetime"] == "2026-09-01"


def test_splits_dividends_and_batches_are_served() -> None:
    client = SandboxClient()
    splits = client.json("/splits", symbol="AAPL", range="full", **KEY)["splits"]
    assert len(splits) == len(client.market.splits("AAPL", 0, NOW))
    assert splits[0]["ratio"] == pytest.approx(splits[0]["to_factor"] / splits[0]["from_factor"], abs=1e-5)
    assert len(client.json("/splits", symbol="AAPL", **KEY)["splits"]) == 1
    paid = client.json("/dividends", symbol="AAPL", start_date="2026-01-01", **KEY)["dividends"]
    assert [found["ex_date"] for found in paid] == sorted((found["ex_date"] for found in paid), reverse=True)
    spent = client.router.quotas.counts()["twelvedata"]["credits"]
    assert spent == 60
    parts = {"one": {"url": "/price?symbol=AAPL&apikey=k"}, "two": {"url": "/price?symbol=NIKK"}, "x": {"url": "/no"}}
    response = client.request("/batch", "POST", msgspec.json.encode(parts), **KEY)
    data = msgspec.json.decode(response.body)["data"]
    assert (data["two"]["code"], data["x"]["code"]) == (400, 404)
    assert float(data["one"]["price"]) > 0


def test_csv_has_the_vendor_s_format() -> None:
    response = SandboxClient().request(
        "/time_series", symbol="AAPL", interval="1day", format="CSV", delimiter=",", outputsize=2, **KEY
    )
    assert response.content_type == "text/csv"
    assert response.body.decode().splitlines()[0] == "datetime,open,high,low,close,volume"
    assert SandboxClient().request("/price", symbol="AAPL", format="CSV", **KEY).body.startswith(b"price\n")


def test_a_subscription_beyond_the_plan_is_a_warning() -> None:
    market = SimulatedMarket(MarketSettings(("AAPL", "MSFT", "SPY"), 1.0))
    session = TwelveDataSession(TradedMarket(market).instruments, max_symbols=2)
    answer = session.receive('{"action":"subscribe","params":{"symbols":"AAPL,MSFT,SPY"}}')
    assert (answer["status"], answer["fails"][0]["symbol"]) == ("warning", "SPY")
    assert session.receive('{"action":"unsubscribe","params":{"symbols":"AAPL"}}')["event"] == "unsubscribe-status"
    assert session.receive('{"action":"subscribe","params":{"symbols":"SPY"}}')["status"] == "ok"
    assert np.flatnonzero(session.subscribed).tolist() == [1, 2]
    assert session.receive('{"action":"subscribe","params":{"symbols":"NIKK"}}')["status"] == "error"
    assert session.receive('{"action":"subscribe","params":{"symbols":"AAPL"}}', {"AAPL"})["status"] == "error"
    assert session.receive("{oops")["event"] == "error"
    assert session.receive('{"action":"sing"}')["status"] == "error"
