"""Rejected data is not requested again until its rejection expires. Other data is requested."""

from __future__ import annotations

import msgspec
import pytest

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US
from tickerplant.market_data.vendors.errors import (
    BadRequest,
    Malformed,
    NoData,
    NotEntitled,
    UnknownSymbol,
    VendorDown,
    VendorError,
)
from tickerplant.market_data.vendors.rejections import MOST, Rejections, RejectionsState

NOON_US = 1_773_057_600_000_000


def refused(rejections: Rejections, symbol: str = "AAPL", interval: str = "1m", at_us: int = NOON_US) -> str | None:
    found = rejections.of(symbol, interval, 0, HOUR_US, at_us)
    return found.note if found else None


def recorded(error: VendorError, *symbols: str, interval: str = "1m") -> Rejections:
    rejections = Rejections()
    for symbol in symbols or ("AAPL",):
        rejections.record(symbol, interval, 0, HOUR_US, error, NOON_US)
    return rejections


@pytest.mark.parametrize(
    ("error", "for_us"), [(NotEntitled("no"), DAY_US), (UnknownSymbol("no"), DAY_US), (BadRequest("no"), HOUR_US)]
)
def test_a_rejection_is_valid_for_a_day_or_an_hour(error: VendorError, for_us: int) -> None:
    rejections = recorded(error)
    assert refused(rejections) == "no"
    assert refused(rejections, at_us=NOON_US + for_us - 1) == "no"
    assert refused(rejections, "MSFT") is None
    assert rejections.count(NOON_US) == 1
    assert refused(rejections, at_us=NOON_US + for_us) is None
    assert not rejections.state.rejections


def test_no_data_of_the_last_minutes_is_not_recorded() -> None:
    rejections = Rejections()
    rejections.record("AAPL", "1m", NOON_US - 20 * MINUTE_US, NOON_US, NoData("not yet"), NOON_US)
    assert not rejections.state.rejections
    rejections.record("AAPL", "1m", NOON_US - HOUR_US, NOON_US, NoData("nothing"), NOON_US)
    half = NOON_US - 30 * MINUTE_US
    assert rejections.of("AAPL", "1m", NOON_US - HOUR_US, half, NOON_US) is not None
    assert rejections.of("AAPL", "1m", half, half + MINUTE_US, NOON_US + HOUR_US) is None
    rejections.record("AAPL", "1d", NOON_US - DAY_US, NOON_US, NoData("not yet"), NOON_US)
    assert rejections.of("AAPL", "1d", NOON_US - DAY_US, NOON_US, NOON_US) is None


def test_an_unknown_symbol_is_rejected_for_all_intervals_and_a_plan_for_one_interval() -> None:
    assert refused(recorded(UnknownSymbol("no")), interval="1d") == "no"
    assert refused(recorded(NotEntitled("no")), interval="1d") is None


def test_no_data_is_valid_for_its_range_and_adjacent_ranges_merge() -> None:
    rejections = recorded(NoData("nothing"))
    assert rejections.of("AAPL", "1m", 10, 20, NOON_US) is not None
    assert rejections.of("AAPL", "1m", 10, HOUR_US + 1, NOON_US) is None
    rejections.record("AAPL", "1m", HOUR_US, 3 * HOUR_US, NoData("nothing"), NOON_US)
    assert rejections.of("AAPL", "1m", 10, 3 * HOUR_US, NOON_US) is not None
    rejections.record("AAPL", "1m", 9 * HOUR_US, 10 * HOUR_US, NoData("nothing"), NOON_US)
    assert rejections.of("AAPL", "1m", 10, HOUR_US, NOON_US) is None  # only the newest range is stored


def test_two_symbols_outside_the_plan_reject_their_market() -> None:
    rejections = recorded(NotEntitled("premium"), "AAPL", "MSFT")
    assert refused(rejections, "GOOG") == "premium"
    assert refused(rejections, "GOOG", "1d") is None
    rejections.answered("GOOG", "1m")  # a later request for GOOG succeeded
    assert refused(rejections, "GOOG") is None
    assert refused(recorded(NotEntitled("premium"), "BTC/USD", "ETH/USD")) is None  # both symbols are crypto
    assert refused(recorded(NotEntitled("premium"), "BTC/USD", "ETH/USD"), "EUR/USD") == "premium"
    assert refused(recorded(NotEntitled("premium"), "BTC/USD", "IBM"), "SPY") is None
    known = Rejections()
    known.answered("IBM", "1m")
    for symbol in ("AAPL", "MSFT", "SPY"):
        known.record(symbol, "1m", 0, 1, NotEntitled("premium"), NOON_US)
    assert refused(known, "GOOG") is None
    assert refused(known, "SPY") == "premium"


def test_a_rejection_of_a_request_for_several_symbols_is_valid_for_an_hour() -> None:
    rejections = Rejections()
    for symbol in ("AAPL", "MSFT", "BTC/USD"):
        rejections.record(symbol, "1m", 0, HOUR_US, NotEntitled("premium"), NOON_US, sure=False)
    assert refused(rejections) == "premium"
    assert refused(rejections, "GOOG") is None
    assert refused(rejections, at_us=NOON_US + HOUR_US) is None


def test_a_symbol_without_splits_and_dividends_may_have_bars() -> None:
    rejections = recorded(UnknownSymbol("no"), interval="actions")
    assert refused(rejections, interval="actions") == "no"
    assert refused(rejections) is None


def test_temporary_errors_are_not_recorded() -> None:
    assert recorded(VendorDown("down")).count(NOON_US) == recorded(Malformed("what")).count(NOON_US) == 0


def test_rejections_are_bounded_and_those_that_expire_first_are_dropped() -> None:
    rejections = Rejections()
    for n in range(MOST + 1):
        rejections.record(f"S{n}", "1m", 0, 1, UnknownSymbol("no"), NOON_US + n)
    assert 0.9 * MOST <= rejections.count(NOON_US) <= MOST
    assert refused(rejections, f"S{MOST}", at_us=NOON_US + MOST) == "no"
    again = Rejections(msgspec.msgpack.decode(msgspec.msgpack.encode(rejections.state), type=RejectionsState))
    assert again.state == rejections.state
