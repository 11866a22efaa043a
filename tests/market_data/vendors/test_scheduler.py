"""The request scheduler: its choice of a vendor, debits before requests, and recorded outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.market_data.vendors.support import NOON_US, OFFER, Hand, Kept, Vendor, bars_batch
from tests.support.killed import Killed
from tickerplant.core import faults
from tickerplant.core.errors import LogUnavailable, SnapshotRefused
from tickerplant.core.schemas import NOT_OFFERED, OUTAGE, QUOTA
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tickerplant.market_data.vendors.comparison import ADJUSTED, SAME, TOO_FEW, Comparison
from tickerplant.market_data.vendors.errors import (
    BadKey,
    BadRequest,
    Burst,
    Malformed,
    NoData,
    NotEntitled,
    QuotaSpent,
    UnknownSymbol,
    VendorDown,
    VendorError,
)
from tickerplant.market_data.vendors.port import BarsAnswer, BarsOffer, BarsRequest, Credits, Offer, Quota
from tickerplant.market_data.vendors.scheduler import (
    Blocked,
    Choice,
    Purpose,
    RequestScheduler,
    VendorPlan,
    vendor_statuses,
)

HISTORY, GAP_FILL = Purpose.HISTORY, Purpose.GAP_FILL
FROM_US, TO_US = NOON_US - 3 * HOUR_US, NOON_US - 2 * HOUR_US


class Place:
    """A scheduler with vendors `a` and `b`, a stopped clock, and its stored state."""

    def __init__(
        self, *vendors: Vendor, orders: Mapping[str, Sequence[str]] | None = None, kept: Kept | None = None,
        quotas: Mapping[str, Sequence[Quota]] | None = None, reserve: float = 0.25, clock: Hand | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock or Hand()
        self.vendors = {vendor.name: vendor for vendor in vendors or (Vendor("a"), Vendor("b"))}
        self.kept = kept or Kept()
        names = list(self.vendors)
        self.orders = orders if orders is not None else {"intraday": names, "daily": names, "actions": names}
        self.plan = VendorPlan(self.vendors, self.orders, quotas or {}, reserve)
        self.desk = RequestScheduler(
            self.plan, clock=self.clock, save=self.kept, stored=self.kept.values, jitter=lambda: 0.5
        )

    def again(self, **more: Any) -> Place:
        """Return the scheduler after a restart, from the stored state."""
        return Place(*self.vendors.values(), orders=self.orders, kept=self.kept, clock=self.clock, **more)

    def choose(
        self, purpose: Purpose = HISTORY, symbol: str = "AAPL", interval: str = "1m", **more: Any
    ) -> Choice | Blocked:
        return self.desk.choose(interval, symbol, more.pop("from_us", FROM_US), TO_US, purpose, **more)

    def name(self, *arguments: Any, **more: Any) -> str:
        choice = self.choose(*arguments, **more)
        assert isinstance(choice, Choice), choice
        return choice.name

    def blocked(self, *arguments: Any, **more: Any) -> Blocked:
        found = self.choose(*arguments, **more)
        assert isinstance(found, Blocked), found
        return found

    async def ask(self, name: str = "a", purpose: Purpose = HISTORY, *symbols: str, interval: str = "1m") -> BarsAnswer:
        offer = self.vendors[name].offer.of(interval)
        assert offer is not None
        request = BarsRequest(symbols or ("AAPL",), interval, FROM_US, TO_US)
        return await self.desk.bars(Choice(self.vendors[name], offer, 1), request, purpose)

    async def ask_in_vain(self, name: str, error: VendorError, *symbols: str) -> None:
        self.vendors[name].does.append(error)
        with pytest.raises(type(error)):
            await self.ask(name, GAP_FILL, *symbols)

    def used(self, name: str = "a", window: int = 0) -> int:
        return next(row for row in self.desk.status() if row.vendor == name).windows[window].used


# Choosing ------------------------------------------------------------------------------------------------------------


def test_the_first_of_the_order_that_has_it_is_chosen() -> None:
    crypto = Vendor("c", replace(OFFER, markets=("*/USD", "*-PERP"), bars=(BarsOffer("1m", 1_000),)))
    place = Place(crypto, Vendor("a"), Vendor("b"))
    choice = place.choose()
    assert isinstance(choice, Choice)
    assert (choice.name, choice.offer.interval, choice.credits) == ("a", "1m", 6)
    assert place.name(symbol="BTC/USD") == "c"
    assert place.name(symbol="BTC/USD", interval="1d") == "a"
    assert place.name(without=["a"]) == "b"
    assert place.name(interval="1d", from_us=NOON_US - 3_000 * DAY_US) == "a"
    assert [vendor.name for vendor in place.desk.providers("daily")] == ["c", "a", "b"]


def test_each_kind_of_data_has_its_order() -> None:
    place = Place(orders={"intraday": ["b", "a", "nobody"], "daily": ["a"], "actions": []})
    assert place.name() == "b"
    assert place.name(interval="1d") == "a"
    nobody = Place(orders={})
    assert nobody.blocked() == Blocked(NOT_OFFERED, "no vendor is left to ask for intraday bars")
    assert "daily bars" in nobody.blocked(interval="1d").note


def test_data_that_no_vendor_offers_are_reported() -> None:
    place = Place(Vendor("a"))
    assert place.blocked(interval="5m").verdict == NOT_OFFERED
    far = place.blocked(from_us=NOON_US - 31 * DAY_US)
    assert far == Blocked(NOT_OFFERED, "1m bars of a reach back 30 days")
    assert Place(Vendor("c", replace(OFFER, markets=("*/USD",)))).blocked().note == "c has no market of AAPL"


async def test_without_credits_of_the_minute_history_waits_and_a_gap_does_not() -> None:
    place = Place()
    place.clock.forward(20 * SECOND_US)
    for _ in range(6):
        assert place.name() == "a"
        await place.ask()
    wait = place.blocked()
    assert wait.verdict == QUOTA
    assert wait.again_us == NOON_US + 61 * SECOND_US
    assert wait.note.startswith("a: ")
    assert place.name(GAP_FILL) == "a"
    await place.ask("a", GAP_FILL)
    await place.ask("a", GAP_FILL)
    assert place.name(GAP_FILL) == "b"
    place.clock.forward(37 * SECOND_US)  # four seconds are waited for by anybody
    assert place.blocked(GAP_FILL).again_us == NOON_US + 61 * SECOND_US
    place.clock.forward(4 * SECOND_US)
    assert place.name() == place.name(GAP_FILL) == "a"


async def test_without_credits_of_the_day_the_next_vendor_is_asked() -> None:
    place = Place(quotas={"a": [Quota(4, DAY_US)], "b": [Quota(4, HOUR_US)]})
    for name in ("a", "b"):
        for _ in range(3):
            assert place.name() == name
            await place.ask(name)
    assert place.name(GAP_FILL) == "a"
    wait = place.blocked()
    assert wait.verdict == QUOTA
    assert wait.again_us == NOON_US + HOUR_US + SECOND_US
    assert wait.note.startswith("b: ")


async def test_a_request_that_exceeds_the_quota_is_not_sent() -> None:
    place = Place(Vendor("a"))
    with pytest.raises(BadRequest, match="7 credits exceeds the maximum of 6"):
        await place.ask("a", HISTORY, *"ABCDEFG")
    await place.ask("a", GAP_FILL, *"ABCDEFG")
    assert len(place.vendors["a"].asked) == 1


async def test_credits_spent_since_the_choice_are_not_spent_twice() -> None:
    place = Place(Vendor("a"))
    results = await asyncio.gather(*(place.ask() for _ in range(9)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, QuotaSpent)]
    assert len(refused) == 3
    assert len(place.vendors["a"].asked) == 6
    assert refused[0].retry_after_s == pytest.approx(61, abs=1)
    assert not refused[0].daily
    assert place.vendors["a"].most_at_once == 1


async def test_the_pace_is_waited_for_and_is_no_reason_to_switch() -> None:
    place = Place(Vendor("a", replace(OFFER, pace_s=1.5)), Vendor("b"))
    for _ in range(3):
        assert place.name() == "a"
        await place.ask()
    assert place.clock.slept == pytest.approx([1.5, 1.5], abs=0.01)


# The debit comes first -----------------------------------------------------------------------------------------------


async def test_a_request_is_debited_and_stored_before_it_is_sent() -> None:
    place, seen = Place(Vendor("a")), []

    def look(request: BarsRequest) -> None:
        seen.append((place.kept.times, place.again().used(), place.again().used("a", 1)))

    place.vendors["a"].does.append(look)
    await place.ask("a", HISTORY, "AAPL", "MSFT")
    assert seen == [(1, 2, 2)]
    assert place.kept.times == 2
    assert place.again().desk.status() == place.desk.status()


@pytest.mark.parametrize(("point", "asked"), [("desk.debited", 0), ("desk.answered", 1)])
@pytest.mark.parametrize("fails", [False, True])
async def test_a_kill_at_any_point_has_spent_the_credits(point: str, asked: int, fails: bool) -> None:
    place = Place(Vendor("a"))
    if fails:
        place.vendors["a"].does.append(NoData("nothing"))

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    faults.install(kill)
    try:
        with pytest.raises(Killed):
            await place.ask("a", HISTORY, "AAPL", "MSFT")
    finally:
        faults.install(None)
    assert len(place.vendors["a"].asked) == asked
    again = place.again()
    assert again.used() == again.used("a", 1) == 2
    choice = again.choose()
    assert isinstance(choice, Choice)
    assert choice.credits == 4


async def test_after_repeated_kills_no_quota_is_exceeded() -> None:
    place = Place(Vendor("a"), reserve=0.0)

    def kill(name: str) -> None:
        raise Killed

    for n in range(20):
        faults.install(kill if n % 3 else None)
        try:
            await place.ask()
        except (Killed, QuotaSpent):
            place = place.again(reserve=0.0)
        finally:
            faults.install(None)
    assert place.used() == 8
    assert len(place.vendors["a"].asked) <= 8


async def test_a_request_whose_debit_cannot_be_stored_is_not_sent() -> None:
    place = Place(Vendor("a"))
    place.kept.refuses = LogUnavailable("the disk is gone")
    with pytest.raises(LogUnavailable):
        await place.ask()
    assert place.vendors["a"].asked == []
    assert place.used() == 0
    place.kept.refuses = None
    await place.ask()
    assert place.used() == place.again().used() == 1


async def test_an_answer_is_returned_even_if_its_outcome_cannot_be_stored() -> None:
    place = Place(Vendor("a"))

    def gone(request: BarsRequest) -> BarsAnswer:
        place.kept.refuses = LogUnavailable("the disk is gone")
        return BarsAnswer({"AAPL": UnknownSymbol("no AAPL")})

    place.vendors["a"].does.append(gone)
    assert isinstance((await place.ask()).found["AAPL"], UnknownSymbol)
    place.kept.refuses = None
    await place.ask("a", HISTORY, "MSFT")
    assert place.again().blocked().note == "a: no AAPL"


async def test_a_request_that_is_cancelled_stays_debited() -> None:
    place = Place(Vendor("a"))

    asked = asyncio.Event()

    async def forever(request: BarsRequest) -> None:
        asked.set()
        await asyncio.Event().wait()

    place.vendors["a"].does.append(forever)
    task = asyncio.create_task(place.ask())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert place.used() == 1
    assert place.name() == "a"
    await place.ask()


async def test_a_request_without_an_answer_is_abandoned() -> None:
    place = Place(Vendor("a"))
    place.desk._flight_s = 0.01

    async def forever(request: BarsRequest) -> None:
        await asyncio.Event().wait()

    place.vendors["a"].does.append(forever)
    with pytest.raises(VendorDown, match="did not answer"):
        await place.ask()


# Learning ------------------------------------------------------------------------------------------------------------


async def test_headers_count_where_they_are_worse() -> None:
    place = Place(Vendor("a"), Vendor("b"))
    place.vendors["a"].credits = Credits(used=7, left=1)
    await place.ask()
    assert place.used() == 7
    assert place.used("a", 1) == 1
    assert place.again().used() == 7


async def test_a_vendor_that_is_down_is_replaced_and_tried_again() -> None:
    place = Place()
    for _ in range(2):
        await place.ask_in_vain("a", VendorDown("ConnectTimeout"))
        assert place.name() == "a"
    await place.ask_in_vain("a", VendorDown("ConnectTimeout"))
    assert place.name() == place.again().name() == "b"
    await place.desk.close()
    only = Place(place.vendors["a"], kept=place.kept, clock=place.clock)
    block = only.blocked()
    assert (block.verdict, block.note) == (OUTAGE, "a: ConnectTimeout")
    assert block.again_us == place.clock.now_us() + 30 * SECOND_US
    with pytest.raises(VendorDown) as refused:
        await only.ask()
    assert refused.value.retry_after_s == pytest.approx(30)
    place.clock.forward(30 * SECOND_US)
    assert place.name() == "a"
    await place.ask_in_vain("a", VendorDown("ConnectTimeout"))
    assert place.name() == "b"
    place.clock.forward(60 * SECOND_US)
    await place.ask()
    assert place.name() == "a"
    assert next(row for row in place.desk.status() if row.vendor == "a").breaker == "closed"


async def test_a_half_open_vendor_gets_one_trial_request() -> None:
    place = Place()
    for _ in range(3):
        await place.ask_in_vain("a", VendorDown("ConnectTimeout"))
    place.clock.forward(30 * SECOND_US)
    seen: list[str] = []
    place.vendors["a"].does.append(lambda request: seen.append(place.name()))
    assert place.name() == "a"
    await place.ask()
    assert seen == ["b"]


async def test_repeated_invalid_answers_and_plug_in_failures_are_outages() -> None:
    place = Place()
    for _ in range(2):
        await place.ask_in_vain("a", Malformed("what is this"))
    place.vendors["a"].does.append(ValueError("key=hush"))
    with pytest.raises(Malformed, match="the client of a failed: ValueError") as broken:
        await place.ask()
    assert "hush" not in str(broken.value)
    assert place.name() == "b"
    garbled = Place(Vendor("a"))
    for _ in range(3):
        garbled.vendors["a"].does.append(BarsAnswer({"AAPL": Malformed("what"), "MSFT": Malformed("what")}))
        await garbled.ask("a", GAP_FILL, "AAPL", "MSFT")
    assert garbled.blocked().verdict == OUTAGE


async def test_a_bad_key_blocks_the_vendor_until_a_restart() -> None:
    place = Place()
    await place.ask_in_vain("a", BadKey("a: the key is wrong"))
    assert place.name() == "b"
    place.clock.forward(HOUR_US)
    assert place.name() == "b"
    assert place.again().name() == "a"
    looked = vendor_statuses(place.plan, stored=place.kept.values, now_us=place.clock.now_us())
    assert (looked[0].breaker, looked[0].last_error) == ("open", "a: the key is wrong")


async def test_a_quota_rejection_does_not_open_the_breaker() -> None:
    place = Place()
    place.clock.forward(20 * SECOND_US)
    await place.ask_in_vain("a", QuotaSpent("run out of API credits", 10.0))
    assert place.blocked() == Blocked(QUOTA, "a: run out of API credits", NOON_US + 61 * SECOND_US)
    assert place.name(GAP_FILL) == "b"
    place.clock.forward(61 * SECOND_US)
    assert place.name() == "a"
    await place.ask_in_vain("a", QuotaSpent("25 requests per day", 10.0, daily=True))
    assert place.name() == "b"
    row = place.again().desk.status()[0]
    assert (row.breaker, row.blocked_us) == ("closed", NOON_US + 12 * HOUR_US + SECOND_US)
    place.clock.forward(12 * HOUR_US)
    assert place.name() == "a"
    await place.ask_in_vain("a", Burst("too fast", 3.0))
    again = place.blocked().again_us
    assert again is not None
    assert again - place.clock.now_us() >= 3 * SECOND_US


async def test_a_permanent_rejection_is_not_requested_again() -> None:
    place = Place()
    await place.ask_in_vain("a", NotEntitled("premium endpoint"))
    assert place.name() == "b"
    assert place.name(symbol="MSFT") == place.name(interval="1d") == "a"
    await place.ask_in_vain("a", UnknownSymbol("one of them is unknown"), "X", "Y")
    assert place.name(symbol="X") == "b"  # the error may concern either symbol
    place.clock.forward(HOUR_US)
    assert place.name(symbol="X") == "a"  # it was valid for an hour
    await place.ask_in_vain("b", UnknownSymbol("no AAPL"))
    block = place.again().blocked()
    assert (block.verdict, block.note) == (NOT_OFFERED, "a: premium endpoint")
    assert block.again_us == NOON_US + DAY_US
    place.clock.forward(23 * HOUR_US)
    assert place.name(from_us=TO_US) == "a"


async def test_each_symbol_of_an_answer_is_recorded() -> None:
    place = Place()
    found = {
        "AAPL": bars_batch("AAPL", FROM_US, 3),
        "NIKK": UnknownSymbol("symbol not found: NIKK"),
        "NONE": NoData("nothing on the dates"),
        "LATE": QuotaSpent("run out", 30.0),
    }
    found["PART"] = NoData("nothing in that month")
    covers = {"PART": (FROM_US + MINUTE_US, TO_US)}
    place.vendors["a"].does.append(BarsAnswer(found, covers))
    await place.ask("a", HISTORY, *found)
    assert place.blocked(symbol="AAPL").verdict == QUOTA
    place.clock.forward(2 * MINUTE_US)
    assert place.name(symbol="AAPL") == place.name(symbol="LATE") == "a"
    assert place.name(symbol="NIKK") == place.name(symbol="NONE") == "b"
    assert place.name(symbol="NONE", from_us=FROM_US - 1) == place.name(symbol="PART") == "a"
    assert place.name(symbol="PART", from_us=FROM_US + MINUTE_US) == "b"


# Comparisons ---------------------------------------------------------------------------------------------------------


def test_a_vendor_that_is_not_the_first_is_compared_once_a_day() -> None:
    place = Place()
    assert not place.desk.needs_comparison("a", "AAPL", "1m")
    assert place.desk.needs_comparison("b", "AAPL", "1m")
    place.desk.compared("b", "AAPL", "1m", Comparison(SAME, 120))
    assert not place.desk.needs_comparison("b", "AAPL", "1m")
    assert place.desk.needs_comparison("b", "AAPL", "1d")
    place.desk.compared("b", "AAPL", "1d", Comparison(TOO_FEW, 3))
    place.clock.forward(HOUR_US)
    assert place.desk.needs_comparison("b", "AAPL", "1d")
    place.clock.forward(23 * HOUR_US)
    assert place.desk.needs_comparison("b", "AAPL", "1m")


async def test_a_source_that_differs_is_skipped_unless_it_is_the_only_one() -> None:
    place = Place()
    place.desk.compared("a", "AAPL", "1m", Comparison(ADJUSTED, 120, ratio=4.0))
    assert place.name() == "b"
    assert place.name(symbol="MSFT") == place.name(interval="1d") == "a"
    assert place.name(without=["b"]) == "a"
    for _ in range(3):
        await place.ask_in_vain("b", VendorDown("down"))
    again = place.again()
    assert again.blocked().verdict == OUTAGE  # another price is no cure for an outage
    assert again.name(symbol="MSFT") == "a"
    place.clock.forward(DAY_US)
    assert again.name(from_us=TO_US) == "a"


# Corporate actions ---------------------------------------------------------------------------------------------------


async def test_corporate_actions_come_from_the_first_vendor_that_answers() -> None:
    place = Place(
        Vendor("n", replace(OFFER, actions=False)),
        Vendor("dear", replace(OFFER, actions_credits=40)),
        Vendor("a"),
        Vendor("b"),
    )
    place.vendors["a"].does.append(NotEntitled("premium"))
    answer = await place.desk.actions("AAPL", FROM_US, TO_US, HISTORY)
    assert not isinstance(answer, Blocked)
    assert answer.splits.num_rows == answer.dividends.num_rows == 0
    assert [len(vendor.actions_asked) for vendor in place.vendors.values()] == [0, 0, 1, 1]
    await place.desk.actions("AAPL", FROM_US, TO_US, HISTORY)
    assert [len(vendor.actions_asked) for vendor in place.vendors.values()] == [0, 0, 1, 2]
    assert place.used("b") == 2
    place.vendors["b"].does.append(VendorDown("down"))
    assert await place.desk.actions("AAPL", FROM_US, TO_US, HISTORY) == Blocked(
        OUTAGE, "b: down", place.clock.now_us() + 5 * SECOND_US
    )
    nobody = await Place(orders={}).desk.actions("AAPL", FROM_US, TO_US, HISTORY)
    assert isinstance(nobody, Blocked)
    assert "splits and dividends" in nobody.note


# Looking -------------------------------------------------------------------------------------------------------------


async def test_the_status_has_all_fields() -> None:
    place = Place(orders={"intraday": ["b", "a"], "daily": ["a"]})
    place.clock.forward(20 * SECOND_US)
    await place.ask("a", HISTORY, "AAPL", "MSFT")
    await place.ask_in_vain("a", QuotaSpent("run out", 30.0))
    a, b = place.desk.status()
    assert (a.vendor, a.kinds, a.requests, a.credits) == ("a", {"intraday": 2, "daily": 1}, 2, 3)
    assert (b.requests, b.windows[0].left, b.last_error_us) == (0, 8, None)
    row = a.as_dict()
    assert row["last_error"] == row["blocked_by"] == "run out"
    assert row["blocked_at"] == "2026-03-09T12:01:01Z"
    assert row["windows"][0] == {
        "quota": "8/minute", "used": 3, "limit": 8, "left": 5, "history_left": 3, "resets": "2026-03-09T12:01:00Z",
    }  # fmt: skip
    looked = vendor_statuses(place.plan, stored=place.kept.values, now_us=place.clock.now_us())
    assert looked == [a, b]


async def test_settings_beat_the_vendors_own_quotas_and_none_is_no_limit() -> None:
    place = Place(quotas={"a": [Quota(610, MINUTE_US)], "b": []})
    choice, other = place.choose(GAP_FILL), place.choose(GAP_FILL, without=["a"])
    assert isinstance(choice, Choice)
    assert isinstance(other, Choice)
    assert choice.credits == 610
    assert other.credits > 10**9


async def test_connections_are_closed_also_where_one_fails_to() -> None:
    class Stuck(Vendor):
        async def close(self) -> None:
            raise VendorDown("cannot even hang up")

    place = Place(Stuck("a"), Vendor("b"))
    await place.desk.close()
    assert place.vendors["b"].closed == 1


@pytest.mark.parametrize("key", ["a", "a/refusals"])
async def test_the_state_of_a_newer_version_is_refused(key: str) -> None:
    import msgspec

    place = Place(Vendor("a"))
    await place.ask()
    newer = {**msgspec.msgpack.decode(place.kept.values[key]), "format": 99, "more": [1]}
    place.kept.values[key] = msgspec.msgpack.encode(newer)
    with pytest.raises(SnapshotRefused, match="vendor a has format 99"):
        place.again()
    place.kept.values[key] = b"\xc1"
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        place.again()


def test_a_price_by_the_page_is_that_of_the_first_page() -> None:
    class ByBars(Vendor):
        def cost(self, request: BarsRequest) -> int:
            return (request.end_us - request.start_us) // MINUTE_US // 1_000

    place = Place(ByBars("a", Offer(bars=(BarsOffer("1m", 5_000),), quotas=(Quota(8, MINUTE_US),))))
    assert place.name(from_us=NOON_US - 300 * DAY_US) == "a"
