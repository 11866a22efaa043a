"""A vendor with a penalty receives no requests until the penalty expires. The reason is reported."""

from __future__ import annotations

from tickerplant.core.schemas import DIFFERS, NO_DATA, NOT_OFFERED
from tickerplant.core.times import HOUR_US
from tickerplant.market_data.backfill.vendor_penalties import VendorPenalties, market_key
from tickerplant.market_data.vendors.account import Blocked
from tickerplant.market_data.vendors.errors import UnknownSymbol

NOW = 1_767_700_200_000_000
KEY = ("AAPL", "1m")
NO_VENDOR = Blocked(NOT_OFFERED, "no vendor is left to ask for intraday bars")


def test_a_penalty_excludes_a_vendor_from_one_series_until_it_expires() -> None:
    penalties = VendorPenalties()
    penalties.add_error(KEY, "a", UnknownSymbol("no such symbol"), NOW)
    penalties.add(KEY, "b", NOW + 3 * HOUR_US, DIFFERS, "b is adjusted")
    assert sorted(penalties.excluded(KEY, NOW)) == ["a", "b"]
    assert penalties.excluded(("AAPL", "1d"), NOW) == []
    assert penalties.excluded(KEY, NOW + HOUR_US) == ["b"]
    penalties.forget(NOW + 3 * HOUR_US)
    assert penalties.excluded(KEY, NOW) == []


def test_the_reason_is_that_of_the_penalty_that_expires_first() -> None:
    penalties = VendorPenalties()
    assert penalties.reason(KEY, NO_VENDOR, NOW, NOW) == (NO_VENDOR, [])
    penalties.add(KEY, "b", NOW + 3 * HOUR_US, DIFFERS, "b is adjusted")
    blocked, ranges = penalties.reason(KEY, NO_VENDOR, NOW, NOW)
    assert blocked == Blocked(DIFFERS, "b is adjusted", NOW + 3 * HOUR_US)
    assert ranges == []
    blocked, _ = penalties.reason(KEY, Blocked(NOT_OFFERED, "a: no", NOW + HOUR_US), NOW, NOW)
    assert blocked.again_us == NOW + HOUR_US


def test_a_range_that_no_vendor_has_is_no_data_for_that_range_alone() -> None:
    penalties = VendorPenalties()
    penalties.add_empty(KEY, NOW - HOUR_US, NOW, NOW + HOUR_US)
    blocked, ranges = penalties.reason(KEY, NO_VENDOR, NOW - 1, NOW)
    assert (blocked.verdict, blocked.again_us, ranges) == (NO_DATA, None, [(NOW - HOUR_US, NOW)])
    assert penalties.reason(KEY, NO_VENDOR, NOW, NOW) == (NO_VENDOR, [])
    penalties.add(KEY, "b", NOW + HOUR_US, DIFFERS, "b is adjusted")
    assert penalties.reason(KEY, NO_VENDOR, NOW - 1, NOW)[0].verdict == DIFFERS, (
        "a range is no data although another vendor may have it"
    )


def test_a_delay_applies_to_one_market() -> None:
    assert market_key("AAPL", "XNYS") == market_key("MSFT", "XNYS")
    assert market_key("AAPL", "XNYS") != market_key("^GSPC", "XNYS")
    assert market_key("RY:TSX", "XTSE") != market_key("AAPL", "XNYS")
    assert market_key("BTC/USD", "24/7") != market_key("ETH/USD", "24/7")
