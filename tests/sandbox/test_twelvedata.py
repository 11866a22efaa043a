"""Twelve Data's REST and stream in the words that the vendor is known for."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.sandbox.support import NOW, Desk
from tickerplant.core.quota import Quota
from tickerplant.core.times import DAY_US, MINUTE_US
from tickerplant.protocols.twelvedata.stream import Session
from tickerplant.sandbox.model import Market, MarketSettings

KEY = {"apikey": "k"}


def test_a_minute_and_a_day_are_refused_in_different_words() -> None:
    desk = Desk(quotas={"twelvedata": (Quota(8, MINUTE_US), Quota(10, DAY_US))})
    good = desk.ask("/price", symbol="AAPL", **KEY)
    assert (good.headers["api-credits-used"], good.headers["api-credits-left"]) == ("1", "7")
    minute = desk.ask("/price", symbol=",".join(f"S{at}" for at in range(8)), **KEY)
    assert minute.status == 429
    assert b"for the current minute. 9 API credits were used, with the current limit being 8" in minute.body
    assert minute.headers["api-credits-used"] == "1"
    desk.ask("/price", symbol=",".join(f"S{at}" for at in range(7)), **KEY)
    assert desk.json("/api_usage", **KEY)["current_usage"] == 8
    desk.now_us += MINUTE_US
    assert b"for the day. 19 API credits were used" in desk.ask("/price", symbol="A,B,C", **KEY).body


def test_errors_may_come_with_http_200() -> None:
    desk = Desk(errors_200=True)
    reply = desk.ask("/price", symbol="AAPL", apikey="bad")
    assert (reply.status, msgspec.json.decode(reply.body)["code"]) == (200, 401)
    reply = desk.ask("/time_series", symbol="AAPL", interval="1min", start_date="2031-01-01", **KEY)
    assert (reply.status, msgspec.json.decode(reply.body)["code"]) == (200, 400)


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
def test_what_is_wrong_is_said(query: dict[str, str], code: int, words: str) -> None:
    reply = Desk().ask("/time_series", **query, **KEY)
    assert reply.status == code
    assert words in reply.body.decode()


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("UTC", "2026-09-23 14:34:00"), ("Exchange", "2026-09-23 10:34:00"), ("Asia/Tokyo", "2026-09-23 23:34:00")],
)
def test_times_are_of_the_zone_asked_for(zone: str, shown: str) -> None:
    desk = Desk()
    values = desk.json("/time_series", symbol="AAPL", interval="1min", timezone=zone, **KEY)["values"]
    assert (len(values), values[0]["datetime"]) == (30, shown)
    again = desk.json("/time_series", symbol="AAPL", interval="1min", timezone=zone, start_date=shown, **KEY)
    assert [value["datetime"] for value in again["values"]] == [shown]


def test_intervals_from_a_minute_to_a_month() -> None:
    desk = Desk(sessions="us")
    for interval, size in (("45min", 20), ("1h", 20), ("4h", 20), ("1day", 300), ("1week", 50), ("1month", 12)):
        values = desk.json("/time_series", symbol="AAPL", interval=interval, outputsize=size, order="asc", **KEY)[
            "values"
        ]
        assert len(values) == size
        assert values == sorted(values, key=lambda value: value["datetime"])
    assert values[-1]["datetime"] == "2026-09-01"


def test_splits_dividends_and_batches() -> None:
    desk = Desk()
    splits = desk.json("/splits", symbol="AAPL", range="full", **KEY)["splits"]
    assert len(splits) == len(desk.tape.splits("AAPL", 0, NOW))
    assert splits[0]["ratio"] == pytest.approx(splits[0]["to_factor"] / splits[0]["from_factor"], abs=1e-5)
    assert len(desk.json("/splits", symbol="AAPL", **KEY)["splits"]) == 1
    paid = desk.json("/dividends", symbol="AAPL", start_date="2026-01-01", **KEY)["dividends"]
    assert [found["ex_date"] for found in paid] == sorted((found["ex_date"] for found in paid), reverse=True)
    spent = desk.front.books.counts()["twelvedata"]["credits"]
    assert spent == 60
    parts = {"one": {"url": "/price?symbol=AAPL&apikey=k"}, "two": {"url": "/price?symbol=NIKK"}, "x": {"url": "/no"}}
    reply = desk.ask("/batch", "POST", msgspec.json.encode(parts), **KEY)
    data = msgspec.json.decode(reply.body)["data"]
    assert (data["two"]["code"], data["x"]["code"]) == (400, 404)
    assert float(data["one"]["price"]) > 0


def test_csv_is_the_vendor_s() -> None:
    reply = Desk().ask("/time_series", symbol="AAPL", interval="1day", format="CSV", delimiter=",", outputsize=2, **KEY)
    assert reply.content_type == "text/csv"
    assert reply.body.decode().splitlines()[0] == "datetime,open,high,low,close,volume"
    assert Desk().ask("/price", symbol="AAPL", format="CSV", **KEY).body.startswith(b"price\n")


def test_the_plan_s_symbols_are_a_warning() -> None:
    market = Market(MarketSettings(("AAPL", "MSFT", "SPY"), 1.0))
    session = Session(market, max_symbols=2)
    answer = session.receive('{"action":"subscribe","params":{"symbols":"AAPL,MSFT,SPY"}}')
    assert (answer["status"], answer["fails"][0]["symbol"]) == ("warning", "SPY")
    assert session.receive('{"action":"unsubscribe","params":{"symbols":"AAPL"}}')["event"] == "unsubscribe-status"
    assert session.receive('{"action":"subscribe","params":{"symbols":"SPY"}}')["status"] == "ok"
    assert np.flatnonzero(session.wanted).tolist() == [1, 2]
    assert session.receive('{"action":"subscribe","params":{"symbols":"NIKK"}}')["status"] == "error"
    assert session.receive('{"action":"subscribe","params":{"symbols":"AAPL"}}', {"AAPL"})["status"] == "error"
    assert session.receive("{oops")["event"] == "error"
    assert session.receive('{"action":"sing"}')["status"] == "error"
