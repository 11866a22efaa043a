"""Answers of Twelve Data to other requests are recognised as errors when they are parsed as bars."""

from __future__ import annotations

import pytest

from tests.market_data.clients.canned import golden
from tickerplant.core.times import FOREVER_US
from tickerplant.market_data.clients.twelvedata.messages import Asked, parse_series
from tickerplant.market_data.vendors import errors


def asked(*symbols: str) -> Asked:
    return Asked(symbols, "1m", 0, FOREVER_US, 5_000)


@pytest.mark.parametrize("name", ["price_single", "quote"])
def test_a_price_or_a_quote_is_malformed_as_a_series(name: str) -> None:
    try:
        found = parse_series(golden("twelvedata", name), 200, asked("AAPL"), 0).found["AAPL"]
    except errors.Malformed:
        return
    assert isinstance(found, errors.Malformed)


def test_a_batch_of_prices_is_malformed_except_for_its_error() -> None:
    found = parse_series(golden("twelvedata", "error_batch"), 200, asked("SPY", "NIKK"), 0).found
    assert isinstance(found["SPY"], errors.Malformed)
    assert isinstance(found["NIKK"], errors.UnknownSymbol)


@pytest.mark.parametrize("status", [200, 414])
def test_a_request_that_is_too_long_is_a_bad_request(status: int) -> None:
    with pytest.raises(errors.BadRequest):
        parse_series(golden("twelvedata", "error_long"), status, asked("AAPL", "MSFT"), 0)
