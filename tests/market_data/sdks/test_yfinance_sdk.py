"""yfinance reads the sandbox through a session that sends all requests for Yahoo to the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import pytest
import yfinance as yf
from curl_cffi import requests as curl
from yfinance.exceptions import YFPricesMissingError, YFRateLimitError

from tests.market_data.sdks.conftest import Vendor
from tests.sandbox.support import yahoo_stream_url
from tests.support.waiting import PATIENCE
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # yfinance calls deprecated functions of pandas


def session_to(url: str) -> Any:
    """Return a session that sends requests for Yahoo to `url`. Its answers have the address of Yahoo."""
    target = urlsplit(url)

    class Session(curl.Session):  # type: ignore[type-arg]
        def request(self, method: Any, url: str, *args: Any, **options: Any) -> Any:
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.hostname.endswith("yahoo.com")
            there = urlunsplit(parts._replace(scheme=target.scheme, netloc=target.netloc))
            options["timeout"] = PATIENCE.seconds(10)  # the SDK sets ten seconds
            answer = super().request(method, there, *args, **options)
            answer.url = url
            return answer

    return Session()


@pytest.fixture
def session(vendor: Vendor, tmp_path: Path) -> Iterator[Any]:
    yf.set_tz_cache_location(str(tmp_path))
    found = session_to(vendor.endpoint.url)
    yf.config.debug.hide_exceptions = False
    yield found
    yf.config.debug.hide_exceptions = True
    found.close()


def ticker(session: Any, name: str = "AAPL") -> Any:
    return yf.Ticker(name, session=session)


def stamps(frame: Any) -> list[int]:
    return [int(at.timestamp() * SECOND_US) for at in frame.index]


@pytest.mark.parametrize(("name", "symbol"), [("AAPL", "AAPL"), ("BTC-USD", "BTC/USD")])
def test_minutes_equal_those_of_the_market(vendor: Vendor, session: Any, name: str, symbol: str) -> None:
    frame = ticker(session, name).history(period="1d", interval="1m")
    at = stamps(frame)
    truth = vendor.bars(symbol, "1m", at[0], at[-1])  # the last row is live
    assert at[:-1] == truth["time_us"]
    assert all(us % MINUTE_US == 0 for us in at)  # yfinance moves the live row to the start of its minute
    for column in ("Open", "High", "Low", "Close"):
        np.testing.assert_allclose(frame[column].to_numpy()[:-1], truth[column.lower()], rtol=1e-6)
    assert frame["Volume"].tolist()[:-1] == truth["volume"]


def test_daily_bars_are_adjusted_for_splits_and_dividends(vendor: Vendor, session: Any) -> None:
    actions = vendor.actions("AAPL")
    split = actions["splits"][-1]
    ratio = split["numerator"] / split["denominator"]
    frame = ticker(session).history(period="max", auto_adjust=False)
    by_day = {int(at.tz_localize(None).normalize().timestamp()) * SECOND_US: row for at, row in frame.iterrows()}
    truth = vendor.bars("AAPL", "1d", split["us"] - 3 * DAY_US, split["us"] + 3 * DAY_US)
    for us, close, volume in zip(truth["time_us"], truth["close"], truth["volume"], strict=True):
        rate = ratio if us < split["us"] else 1
        assert by_day[us]["Close"] == pytest.approx(close / rate, rel=1e-6)
        assert by_day[us]["Volume"] == pytest.approx(volume * rate, abs=1)
    assert frame["Stock Splits"][frame["Stock Splits"] != 0].tolist() == [
        found["numerator"] / found["denominator"] for found in actions["splits"]
    ]
    paid = frame["Dividends"][frame["Dividends"] != 0]
    due = [
        each for each in actions["dividends"] if each["us"] in by_day
    ]  # a dividend of today is in the chart after its session has begun
    assert len(paid) == len(due)
    assert paid.iloc[-1] == pytest.approx(due[-1]["amount"], abs=1e-6)
    first = frame.iloc[0]
    assert 0 < first["Adj Close"] < first["Close"]
    assert frame.iloc[-1]["Adj Close"] == frame.iloc[-1]["Close"]


def test_weeks_months_and_half_hours_are_readable(session: Any) -> None:
    for interval, least in (("1wk", 12), ("1mo", 3), ("30m", 400)):
        frame = ticker(session, "MSFT").history(period="3mo" if interval != "30m" else "10d", interval=interval)
        assert len(frame) >= least
        assert (frame["Low"] <= frame["Close"]).all()
        assert not frame["Close"].isna().any()


def test_several_symbols_are_downloaded_at_once(session: Any) -> None:
    frame = yf.download(["AAPL", "MSFT"], period="5d", session=session, progress=False, threads=False)
    assert set(frame.columns.get_level_values("Ticker")) == {"AAPL", "MSFT"}
    assert len(frame) >= 4


def test_rejections_have_the_exception_types_of_yfinance(vendor: Vendor, session: Any) -> None:
    with pytest.raises(YFPricesMissingError, match="Only 8 days worth of 1m"):
        ticker(session).history(start="2020-01-01", end="2020-03-01", interval="1m")
    with pytest.raises(YFPricesMissingError, match="within the last 60 days"):
        ticker(session).history(start="2020-01-01", end="2020-01-03", interval="5m")
    yf.config.debug.hide_exceptions = True  # the default, by which an unknown symbol is only logged
    assert ticker(session, "NIKK").history(start="2026-01-01", end="2026-01-05").empty
    vendor.order("429", vendor="yahoo", seconds=60)
    with pytest.raises(YFRateLimitError, match="Too Many Requests"):
        ticker(session, "SPY").history(period="1d")


async def test_the_stream_delivers_prices(vendor: Vendor) -> None:
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with yf.AsyncWebSocket(url=yahoo_stream_url(vendor.endpoint), verbose=False) as stream:
        await stream.subscribe(["AAPL", "EURUSD=X"])
        listening = asyncio.create_task(stream.listen(messages.put_nowait))
        found: dict[str, dict[str, Any]] = {}
        while len(found) < 2:
            message = await asyncio.wait_for(messages.get(), PATIENCE.seconds(20))
            found[message["id"]] = message
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    us = int(found["AAPL"]["time"]) * 1_000
    truth = vendor.bars("AAPL", "1m", us // MINUTE_US * MINUTE_US, us + SECOND_US)
    assert truth["low"][0] * (1 - 1e-6) <= found["AAPL"]["price"] <= truth["high"][0] * (1 + 1e-6)
    assert int(found["AAPL"]["day_volume"]) > 0
    assert "day_volume" not in found["EURUSD=X"]
