"""Numbers and texts of a hostile vendor are bounded, and a bad header is an error of that vendor only."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from structlog.testing import capture_logs

from tests.market_data.clients.test_twelvedata_client import FROM_US, TO_US, asking
from tests.market_data.clients.test_twelvedata_stream import client
from tests.market_data.clients.vendor import RestVendor, StreamVendor
from tests.market_data.vendors.support import NOON_US, OFFER, Vendor
from tests.market_data.vendors.test_scheduler import FROM_US as START_US
from tests.market_data.vendors.test_scheduler import HISTORY, Setup
from tests.market_data.vendors.test_scheduler import TO_US as END_US
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US, micros_of
from tickerplant.market_data.clients.twelvedata.messages import credits_of
from tickerplant.market_data.clients.twelvedata.session import StreamSettings
from tickerplant.market_data.vendors.bounds import MAX_WAIT_S, parse_count, retry_after
from tickerplant.market_data.vendors.circuit_breaker import CircuitBreaker
from tickerplant.market_data.vendors.errors import Burst, Malformed, QuotaSpent, VendorDown, VendorError
from tickerplant.market_data.vendors.port import BarsRequest, Credits
from tickerplant.market_data.vendors.scheduler import Choice

HOSTILE = ["9" * 25, "9" * 400, "9" * 5_000, "-5", "NaN", "inf", "1e9", "٣٣", "0x10", "5, 7", "+3", "soon", "1" * 10]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("7", 7.0), (" 7 ", 7.0), ("2.5", 2.5), ("86400", 86_400.0), ("999999999", 86_400.0), ("", None)],
)
def test_a_valid_wait_is_bounded_by_a_day(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, NOON_US) == (seconds, "")


def test_a_date_of_http_is_a_wait() -> None:
    now = dt.datetime(2026, 3, 9, 12, tzinfo=dt.UTC)
    for text, seconds in (
        ("Mon, 09 Mar 2026 12:01:30 GMT", 90.0),
        ("Mon, 09 Mar 2026 11:00:00 GMT", 0.0),
        ("Mon, 09 Mar 2099 12:00:00 GMT", MAX_WAIT_S),
    ):
        assert retry_after({"retry-after": text}, micros_of(now)) == (seconds, "")


@pytest.mark.parametrize("text", [*HOSTILE, "Mon, 99 Mar 2026 12:01:30 GMT", "Mon, 09 Mar 99999 12:01:30 GMT"])
def test_an_invalid_wait_is_none_with_a_short_note(text: str) -> None:
    seconds, note = retry_after({"retry-after": text}, NOON_US)
    assert seconds is None
    assert "Retry-After" in note
    assert len(note) < 200


@pytest.mark.parametrize("text", [text for text in HOSTILE if text != "1" * 10] + ["1.5"])
def test_an_invalid_count_of_credits_is_left_out_and_noted(text: str) -> None:
    assert parse_count(text) is None
    found = credits_of({"api-credits-used": text, "api-credits-left": "6"})
    assert (found.used, found.left) == (None, 6)
    assert "api-credits-used is not a count" in found.problem
    assert len(found.problem) < 200


@pytest.mark.parametrize("wait_s", [1e25, math.inf, -math.inf, math.nan, -1.0, 10**400, "soon", None], ids=range(8))
@pytest.mark.parametrize("kind", [QuotaSpent, Burst, VendorDown])
async def test_any_wait_of_a_plug_in_keeps_the_scheduler_alive(kind: type[VendorError], wait_s: object) -> None:
    error = VendorDown("no") if kind is VendorDown else kind("no", 1.0)
    error.retry_after_s = wait_s  # type: ignore[assignment]
    vendor = Vendor("a")
    setup = Setup(vendor)
    vendor.does = [error, error]
    for _ in range(2):
        choice = setup.desk.choose("1m", "A", START_US, END_US, HISTORY)
        if isinstance(choice, Choice):
            with pytest.raises(kind):
                await setup.desk.bars(choice, BarsRequest(["A"], "1m", START_US, END_US), HISTORY)
    [row] = setup.desk.status()
    assert "no" in row.last_error
    for end in (row.blocked_us, row.until_us):
        assert end is None or end <= setup.clock.now_us() + DAY_US + MINUTE_US
    assert setup.store.values, "the state is stored"


async def test_any_credits_of_an_answer_keep_the_scheduler_alive_and_are_shown() -> None:
    vendor = Vendor("a")
    setup = Setup(vendor)
    for credits in (
        Credits(10**400, 10**400), Credits(-5, -5), Credits(math.nan), Credits("8", problem="odd header"),
    ):  # fmt: skip
        vendor.credits = credits
        setup.clock.forward(2 * DAY_US)
        now_us = setup.clock.now_us()
        choice = setup.desk.choose("1m", "A", now_us - HOUR_US, now_us, HISTORY)
        assert isinstance(choice, Choice)
        await setup.desk.bars(choice, BarsRequest(["A"], "1m", now_us - HOUR_US, now_us), HISTORY)
        [row] = setup.desk.status()
        limits = {quota.credits for quota in OFFER.quotas}
        assert all(0 <= window.used <= window.quota.credits for window in row.windows)
        assert {window.quota.credits for window in row.windows} == limits
    assert row.last_error == "odd header"


@pytest.mark.parametrize("wait_s", [1e25, math.inf, math.nan])
def test_a_breaker_bounds_the_pause_that_a_vendor_requests(wait_s: float) -> None:
    breaker = CircuitBreaker()
    for _ in range(5):
        breaker.failed(NOON_US, "down", 0.5, retry_after_s=wait_s)
    assert breaker.state.until_us <= NOON_US + HOUR_US


@pytest.mark.parametrize("text", ["9" * 25, "9" * 400, "٣٣", "-1"])
async def test_a_bad_header_is_part_of_the_vendors_error(text: str) -> None:
    async with RestVendor().serving() as rest:
        body = b'{"code":429,"message":"slow down","status":"error"}'
        rest.answers["/time_series"] = (429, {"Retry-After": text, "api-credits-used": text}, body)
        vendor = asking(rest)
        with pytest.raises(Burst, match="slow down; the header Retry-After") as caught:
            await vendor.bars(BarsRequest(["A", "B"], "1m", FROM_US, TO_US))
        await vendor.close()
    assert caught.value.retry_after_s == 2.0


@pytest.mark.parametrize(
    "headers",
    [{"Retry-After": "9" * 400}, [("Retry-After", "9"), ("Retry-After", "7")], {"Retry-After": "999999999"}],
)
async def test_a_refused_stream_bounds_the_wait_of_a_hostile_header(headers: object) -> None:
    async with StreamVendor().serving() as vendor:
        vendor.status = (429, headers)  # type: ignore[assignment]
        settings = StreamSettings(backoff_first_s=0.01, backoff_max_s=0.01)
        with capture_logs() as lines:
            async with client(vendor, ["AAPL"], settings=settings) as stream:
                await stream.until(lambda: bool(lines))
                stream.take()
    assert lines[0]["reason"].startswith("HTTP 429")
    assert lines[0]["pause_s"] <= HOUR_US / SECOND_US


def test_an_error_keeps_the_beginning_of_a_long_message() -> None:
    text = "x" * 5_000_000
    for error in (Malformed(text), QuotaSpent(text, 1.0), Burst(text), VendorDown(f"500: {text}")):
        assert len(str(error)) < 600
        assert "5,000,0" in str(error)
