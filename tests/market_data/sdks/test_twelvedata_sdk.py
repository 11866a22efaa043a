"""The SDK of Twelve Data reads the sandbox. Only the address is changed."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twelvedata import TDClient
from twelvedata.exceptions import BadRequestError, InternalServerError, InvalidApiKeyError, TwelveDataError

from tests.market_data.sdks.conftest import Vendor
from tests.support.waiting import PATIENCE
from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of


def client(vendor: Vendor, key: str = "demo") -> Any:
    return TDClient(apikey=key, base_url=vendor.endpoint.url)


def text(us: int) -> str:
    return datetime_of(us).strftime("%Y-%m-%d %H:%M:%S")


def test_a_time_series_equals_the_bars_of_the_market(vendor: Vendor) -> None:
    end = vendor.clock.now_us() // MINUTE_US * MINUTE_US
    start = end - 20 * MINUTE_US
    series = client(vendor).time_series(
        symbol="AAPL", interval="1min", start_date=text(start), end_date=text(end - 1), timezone="UTC", outputsize=50
    )
    values = series.as_json()
    truth = vendor.bars("AAPL", "1m", start, end)
    assert [v["datetime"] for v in reversed(values)] == [text(us) for us in truth["time_us"]]
    for name in ("open", "high", "low", "close", "volume"):
        assert [float(v[name]) for v in reversed(values)] == truth[name]
    frame = series.as_pandas()
    assert list(frame["close"]) == list(reversed(truth["close"]))


def test_daily_bars_are_adjusted_for_splits_by_default(vendor: Vendor) -> None:
    split = vendor.actions("AAPL")["splits"][-1]
    asked = {
        "symbol": "AAPL", "interval": "1day", "outputsize": 10,
        "start_date": datetime_of(split["us"] - 3 * DAY_US).strftime("%Y-%m-%d"),
        "end_date": datetime_of(split["us"] + DAY_US).strftime("%Y-%m-%d"),
    }  # fmt: skip
    truth = vendor.bars("AAPL", "1d", split["us"] - 3 * DAY_US, split["us"] + 2 * DAY_US)
    adjusted = list(reversed(client(vendor).time_series(**asked).as_json()))
    raw = list(reversed(client(vendor).time_series(**asked, adjust="none").as_json()))
    assert [float(v["close"]) for v in raw] == truth["close"]
    ratio = split["numerator"] / split["denominator"]
    expected = [
        close / ratio if us < split["us"] else close for us, close in zip(truth["time_us"], truth["close"], strict=True)
    ]
    assert [float(v["close"]) for v in adjusted] == pytest.approx(expected, abs=2e-5)


def test_a_batch_contains_bars_or_an_error_per_symbol(vendor: Vendor) -> None:
    series = client(vendor).time_series(symbol=["AAPL", "MSFT"], interval="1day", outputsize=3)
    found = series.as_json()
    assert set(found) == {"AAPL", "MSFT"}
    assert len(found["AAPL"]) == 3
    assert set(series.as_pandas().index.get_level_values(0)) == {"AAPL", "MSFT"}
    mixed = client(vendor).price(symbol="AAPL,NIKK").as_json()
    assert mixed["NIKK"]["code"] == 400
    assert float(mixed["AAPL"]["price"]) > 0


def test_csv_price_quote_and_usage_are_readable(vendor: Vendor) -> None:
    td = client(vendor)
    rows = td.time_series(symbol="EUR/USD", interval="1h", outputsize=4).as_csv()
    assert len(rows) == 5
    assert list(rows[0]) == ["datetime", "open", "high", "low", "close"]
    assert float(td.price(symbol="BTC/USD").as_json()["price"]) > 1_000
    quote = td.quote(symbol="AAPL").as_json()
    assert float(quote["fifty_two_week"]["low"]) <= float(quote["close"]) <= float(quote["fifty_two_week"]["high"])
    assert td.api_usage().as_json()["plan_category"] == "sandbox"
    assert len(td.get_splits(symbol="AAPL", range="full").as_json()) == len(vendor.actions("AAPL")["splits"])


def test_errors_have_the_exception_types_of_the_sdk(vendor: Vendor) -> None:
    def price() -> None:
        client(vendor).price(symbol="AAPL").as_json()

    with pytest.raises(BadRequestError, match="not found"):
        client(vendor).price(symbol="NIKK").as_json()
    with pytest.raises(BadRequestError, match=r"Invalid \*\*interval\*\*"):
        client(vendor).time_series(symbol="AAPL", interval="7min").as_json()
    with pytest.raises(InvalidApiKeyError):
        client(vendor, "bad").price(symbol="AAPL").as_json()
    vendor.order("429", vendor="twelvedata", kind="day", seconds=60)
    with pytest.raises(TwelveDataError, match="out of API credits for the day"):
        price()
    vendor.order("down", vendor="twelvedata", seconds=60)
    with pytest.raises(InternalServerError):
        price()


@pytest.fixture
def stream(vendor: Vendor) -> Iterator[tuple[Any, Callable[[Callable[[dict[str, Any]], bool]], dict[str, Any]]]]:
    """Yield the WebSocket of the SDK and a function that waits for an event that satisfies a condition."""
    events: queue.Queue[dict[str, Any]] = queue.Queue()
    log = logging.getLogger("twelvedata-test")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    socket = client(vendor).websocket(symbols=["AAPL"], on_event=events.put, logger=log, self_heal_time_s=0.05)
    socket.url = f"{vendor.endpoint.stream_url}?apikey=demo"

    def wait(condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            event = events.get(timeout=PATIENCE.seconds(20))
            if condition(event):
                return event

    socket.connect()
    yield socket, wait
    socket.self_heal = lambda: None  # otherwise the SDK keeps reconnecting
    vendor.order("disconnect")  # otherwise the close of the SDK waits ten seconds for an answer
    socket.event_receiver.join(PATIENCE.seconds(10))


def is_a(event: str, symbol: str = "") -> Callable[[dict[str, Any]], bool]:
    return lambda found: found["event"] == event and (not symbol or found.get("symbol") == symbol)


def test_the_stream_subscribes_sends_heartbeats_reconnects_and_resets(vendor: Vendor, stream: Any) -> None:
    socket, wait = stream
    status = wait(is_a("subscribe-status"))
    assert (status["status"], status["success"][0]["symbol"]) == ("ok", "AAPL")
    price = wait(is_a("price", "AAPL"))
    assert isinstance(price["price"], float)
    assert price["day_volume"] > 0
    second = vendor.bars("AAPL", "1m", price["timestamp"] * 10**6 // MINUTE_US * MINUTE_US, vendor.clock.now_us())
    assert second["low"][0] <= price["price"] <= second["high"][0]
    socket.subscribe(["EUR/USD", "NIKK"])
    status = wait(lambda event: event["event"] == "subscribe-status")
    assert (status["status"], status["fails"][0]["symbol"]) == ("warning", "NIKK")
    assert "day_volume" not in wait(is_a("price", "EUR/USD"))
    socket.heartbeat()
    assert wait(is_a("heartbeat"))["status"] == "ok"
    socket.unsubscribe("NIKK")
    wait(is_a("unsubscribe-status"))
    vendor.order("disconnect", vendor="twelvedata")
    again = wait(is_a("subscribe-status"))
    assert {found["symbol"] for found in again["success"]} == {"AAPL", "EUR/USD"}
    wait(is_a("price", "AAPL"))
    socket.reset()
    wait(is_a("reset-status"))
