"""Vendors that were no help are passed over for a while, and the reason is not lost."""

from __future__ import annotations

from tickerplant.core.schemas import DIFFERS, NO_DATA, NOT_OFFERED
from tickerplant.core.times import HOUR_US
from tickerplant.market_data.backfill.vendor_penalties import Setbacks, market_key
from tickerplant.market_data.vendors.account import Blocked
from tickerplant.market_data.vendors.errors import UnknownSymbol

NOW = 1_767_700_200_000_000
KEY = ("AAPL", "1m")
NOBODY = Blocked(NOT_OFFERED, "no vendor is left to ask for intraday bars")


def test_who_is_avoided_and_for_how_long() -> None:
    setbacks = Setbacks()
    setbacks.refused(KEY, "a", UnknownSymbol("no such symbol"), NOW)
    setbacks.avoid(KEY, "b", NOW + 3 * HOUR_US, DIFFERS, "b is adjusted")
    assert sorted(setbacks.avoided(KEY, NOW)) == ["a", "b"]
    assert setbacks.avoided(("AAPL", "1d"), NOW) == []
    assert setbacks.avoided(KEY, NOW + HOUR_US) == ["b"]
    setbacks.forget(NOW + 3 * HOUR_US)
    assert setbacks.avoided(KEY, NOW) == []


def test_the_reason_is_that_of_the_vendor_that_can_be_asked_first() -> None:
    setbacks = Setbacks()
    assert setbacks.reason(KEY, NOBODY, NOW, NOW) == (NOBODY, [])
    setbacks.avoid(KEY, "b", NOW + 3 * HOUR_US, DIFFERS, "b is adjusted")
    why, stretches = setbacks.reason(KEY, NOBODY, NOW, NOW)
    assert why == Blocked(DIFFERS, "b is adjusted", NOW + 3 * HOUR_US)
    assert stretches == []
    why, _ = setbacks.reason(KEY, Blocked(NOT_OFFERED, "a: no", NOW + HOUR_US), NOW, NOW)
    assert why.again_us == NOW + HOUR_US


def test_what_no_vendor_has_is_no_data_of_that_stretch_alone() -> None:
    setbacks = Setbacks()
    setbacks.empty(KEY, NOW - HOUR_US, NOW, NOW + HOUR_US)
    why, stretches = setbacks.reason(KEY, NOBODY, NOW - 1, NOW)
    assert (why.verdict, why.again_us, stretches) == (NO_DATA, None, [(NOW - HOUR_US, NOW)])
    assert setbacks.reason(KEY, NOBODY, NOW, NOW) == (NOBODY, [])
    setbacks.avoid(KEY, "b", NOW + HOUR_US, DIFFERS, "b is adjusted")
    assert setbacks.reason(KEY, NOBODY, NOW - 1, NOW)[0].verdict == DIFFERS, "another vendor may have it"


def test_delays_are_of_a_market() -> None:
    assert market_key("AAPL", "XNYS") == market_key("MSFT", "XNYS")
    assert market_key("AAPL", "XNYS") != market_key("^GSPC", "XNYS")
    assert market_key("RY:TSX", "XTSE") != market_key("AAPL", "XNYS")
    assert market_key("BTC/USD", "24/7") != market_key("ETH/USD", "24/7")
