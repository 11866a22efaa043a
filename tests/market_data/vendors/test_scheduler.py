"""The request scheduler chooses a vendor, debits credits before a request, and records the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.market_data.vendors.support import NOON_US, OFFER, ManualClock, MemoryStore, Vendor, bars_batch
from tests.support.killed import Killed
from tickerplant.core import faults, schemas
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


class Setup:
    """A scheduler with vendors `a` and `b` by default, a manual clock, and a store in memory."""

    def __init__(
        self, *vendors: Vendor, orders: Mapping[str, Sequence[str]] | None = None, store: MemoryStore | None = None,
        quotas: Mapping[str, Sequence[Quota]] | None = None, reserve: float = 0.25, clock: ManualClock | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock or ManualClock()
        self.vendors = {vendor.name: vendor for vendor in vendors or (Vendor("a"), Vendor("b"))}
        self.store = store or MemoryStore()
        names = list(self.vendors)
        self.orders = orders if orders is not None else {"intraday": names, "daily": names, "actions": names}
        self.plan = VendorPlan(self.vendors, self.orders, quotas or {}, reserve)
        self.desk = RequestScheduler(
            self.plan, clock=self.clock, save=self.store, stored=self.store.values, jitter=lambda: 0.5
        )

    def again(self, **more: Any) -> Setup:
        """Return a new setup whose scheduler is restored from the stored state, as after a restart."""
        return Setup(*self.vendors.values(), orders=self.orders, store=self.store, clock=self.clock, **more)

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

    async def ask_failing(self, name: str, error: VendorError, *symbols: str) -> None:
        self.vendors[name].does.append(error)
        with pytest.raises(type(error)):
            await self.ask(name, GAP_FILL, *symbols)

    def used(self, name: str = "a", window: int = 0) -> int:
        return next(row for row in self.desk.status() if row.vendor == name).windows[window].used


# Choice of a vendor --------------------------------------------------------------------------------------------------


def test_the_first_vendor_in_the_order_that_offers_the_data_is_chosen() -> None:
    crypto = Vendor("c", replace(OFFER, markets=("*/USD", "*-PERP"), bars=(BarsOffer("1m", 1_000),)))
    setup = Setup(crypto, Vendor("a"), Vendor("b"))
    choice = setup.choose()
    assert isinstance(choice, Choice)
    assert (choice.name, choice.offer.interval, choice.credits) == ("a", "1m", 6)
    assert setup.name(symbol="BTC/USD") == "c"
    assert setup.name(symbol="BTC/USD", interval="1d") == "a"
    assert setup.name(without=["a"]) == "b"
    assert setup.name(interval="1d", from_us=NOON_US - 3_000 * DAY_US) == "a"
    assert [vendor.name for vendor in setup.desk.providers("daily")] == ["c", "a", "b"]


def test_each_kind_of_data_has_its_own_order_of_vendors() -> None:
    setup = Setup(orders={"intraday": ["b", "a", "unknown"], "daily": ["a"], "actions": []})
    assert setup.name() == "b"
    assert setup.name(interval="1d") == "a"
    without_vendors = Setup(orders={})
    assert without_vendors.blocked() == Blocked(NOT_OFFERED, "no vendor is left to ask for intraday bars")
    assert "daily bars" in without_vendors.blocked(interval="1d").note


def test_data_that_no_vendor_offers_are_reported() -> None:
    setup = Setup(Vendor("a"))
    assert setup.blocked(interval="5m").verdict == NOT_OFFERED
    far = setup.blocked(from_us=NOON_US - 31 * DAY_US)
    assert far == Blocked(NOT_OFFERED, "1m bars of a reach back 30 days")
    assert Setup(Vendor("c", replace(OFFER, markets=("*/USD",)))).blocked().note == "c has no market of AAPL"


async def test_a_gap_may_use_credits_of_the_minute_that_history_must_leave() -> None:
    setup = Setup()
    setup.clock.forward(20 * SECOND_US)
    for _ in range(6):
        assert setup.name() == "a"
        await setup.ask()
    wait = setup.blocked()
    assert wait.verdict == QUOTA
    assert wait.again_us == NOON_US + 61 * SECOND_US
    assert wait.note.startswith("a: ")
    assert setup.name(GAP_FILL) == "a"
    await setup.ask("a", GAP_FILL)
    await setup.ask("a", GAP_FILL)
    assert setup.name(GAP_FILL) == "b"
    setup.clock.forward(37 * SECOND_US)  # a wait of four seconds is too short to switch vendors
    assert setup.blocked(GAP_FILL).again_us == NOON_US + 61 * SECOND_US
    setup.clock.forward(4 * SECOND_US)
    assert setup.name() == setup.name(GAP_FILL) == "a"


async def test_the_next_vendor_is_chosen_after_the_credits_of_the_day_are_spent() -> None:
    setup = Setup(quotas={"a": [Quota(4, DAY_US)], "b": [Quota(4, HOUR_US)]})
    for name in ("a", "b"):
        for _ in range(3):
            assert setup.name() == name
            await setup.ask(name)
    assert setup.name(GAP_FILL) == "a"
    wait = setup.blocked()
    assert wait.verdict == QUOTA
    assert wait.again_us == NOON_US + HOUR_US + SECOND_US
    assert wait.note.startswith("b: ")


async def test_a_request_that_exceeds_the_quota_is_not_sent() -> None:
    setup = Setup(Vendor("a"))
    with pytest.raises(BadRequest, match="7 credits exceeds the maximum of 6"):
        await setup.ask("a", HISTORY, *"ABCDEFG")
    await setup.ask("a", GAP_FILL, *"ABCDEFG")
    assert len(setup.vendors["a"].asked) == 1


async def test_credits_spent_since_the_choice_are_not_spent_twice() -> None:
    setup = Setup(Vendor("a"))
    results = await asyncio.gather(*(setup.ask() for _ in range(9)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, QuotaSpent)]
    assert len(refused) == 3
    assert len(setup.vendors["a"].asked) == 6
    assert refused[0].retry_after_s == pytest.approx(61, abs=1)
    assert not refused[0].daily
    assert setup.vendors["a"].most_at_once == 1


async def test_the_scheduler_waits_for_the_pace_and_does_not_switch_vendors() -> None:
    setup = Setup(Vendor("a", replace(OFFER, pace_s=1.5)), Vendor("b"))
    for _ in range(3):
        assert setup.name() == "a"
        await setup.ask()
    assert setup.clock.slept == pytest.approx([1.5, 1.5], abs=0.01)


# Debits before requests ----------------------------------------------------------------------------------------------


async def test_a_request_is_debited_and_stored_before_it_is_sent() -> None:
    setup, seen = Setup(Vendor("a")), []

    def look(request: BarsRequest) -> None:
        seen.append((setup.store.times, setup.again().used(), setup.again().used("a", 1)))

    setup.vendors["a"].does.append(look)
    await setup.ask("a", HISTORY, "AAPL", "MSFT")
    assert seen == [(1, 2, 2)]
    assert setup.store.times == 2
    assert setup.again().desk.status() == setup.desk.status()


@pytest.mark.parametrize(("point", "asked"), [("desk.debited", 0), ("desk.answered", 1)])
@pytest.mark.parametrize("fails", [False, True])
async def test_credits_stay_spent_after_a_kill_at_any_point(point: str, asked: int, fails: bool) -> None:
    setup = Setup(Vendor("a"))
    if fails:
        setup.vendors["a"].does.append(NoData("nothing"))

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    faults.install(kill)
    try:
        with pytest.raises(Killed):
            await setup.ask("a", HISTORY, "AAPL", "MSFT")
    finally:
        faults.install(None)
    assert len(setup.vendors["a"].asked) == asked
    again = setup.again()
    assert again.used() == again.used("a", 1) == 2
    choice = again.choose()
    assert isinstance(choice, Choice)
    assert choice.credits == 4


async def test_after_repeated_kills_no_quota_is_exceeded() -> None:
    setup = Setup(Vendor("a"), reserve=0.0)

    def kill(name: str) -> None:
        raise Killed

    for n in range(20):
        faults.install(kill if n % 3 else None)
        try:
            await setup.ask()
        except (Killed, QuotaSpent):
            setup = setup.again(reserve=0.0)
        finally:
            faults.install(None)
    assert setup.used() == 8
    assert len(setup.vendors["a"].asked) <= 8


async def test_a_request_whose_debit_cannot_be_stored_is_not_sent() -> None:
    setup = Setup(Vendor("a"))
    setup.store.error = LogUnavailable("the disk is gone")
    with pytest.raises(LogUnavailable):
        await setup.ask()
    assert setup.vendors["a"].asked == []
    assert setup.used() == 0
    setup.store.error = None
    await setup.ask()
    assert setup.used() == setup.again().used() == 1


async def test_an_answer_is_returned_even_if_its_outcome_cannot_be_stored() -> None:
    setup = Setup(Vendor("a"))

    def gone(request: BarsRequest) -> BarsAnswer:
        setup.store.error = LogUnavailable("the disk is gone")
        return BarsAnswer({"AAPL": UnknownSymbol("no AAPL")})

    setup.vendors["a"].does.append(gone)
    assert isinstance((await setup.ask()).found["AAPL"], UnknownSymbol)
    setup.store.error = None
    await setup.ask("a", HISTORY, "MSFT")
    assert setup.again().blocked().note == "a: no AAPL"


async def test_a_request_that_is_cancelled_stays_debited() -> None:
    setup = Setup(Vendor("a"))

    asked = asyncio.Event()

    async def forever(request: BarsRequest) -> None:
        asked.set()
        await asyncio.Event().wait()

    setup.vendors["a"].does.append(forever)
    task = asyncio.create_task(setup.ask())
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert setup.used() == 1
    assert setup.name() == "a"
    await setup.ask()


async def test_a_request_without_an_answer_is_abandoned() -> None:
    setup = Setup(Vendor("a"))
    setup.desk._flight_s = 0.01

    async def forever(request: BarsRequest) -> None:
        await asyncio.Event().wait()

    setup.vendors["a"].does.append(forever)
    with pytest.raises(VendorDown, match="did not answer"):
        await setup.ask()


# Recorded outcomes ---------------------------------------------------------------------------------------------------


async def test_credits_in_headers_apply_if_they_leave_less_than_the_debits() -> None:
    setup = Setup(Vendor("a"), Vendor("b"))
    setup.vendors["a"].credits = Credits(used=7, left=1)
    await setup.ask()
    assert setup.used() == 7
    assert setup.used("a", 1) == 1
    assert setup.again().used() == 7


async def test_a_vendor_that_is_down_is_replaced_and_retried_later() -> None:
    setup = Setup()
    for _ in range(2):
        await setup.ask_failing("a", VendorDown("ConnectTimeout"))
        assert setup.name() == "a"
    await setup.ask_failing("a", VendorDown("ConnectTimeout"))
    assert setup.name() == setup.again().name() == "b"
    await setup.desk.close()
    only = Setup(setup.vendors["a"], store=setup.store, clock=setup.clock)
    block = only.blocked()
    assert (block.verdict, block.note) == (OUTAGE, "a: ConnectTimeout")
    assert block.again_us == setup.clock.now_us() + 30 * SECOND_US
    with pytest.raises(VendorDown) as refused:
        await only.ask()
    assert refused.value.retry_after_s == pytest.approx(30)
    setup.clock.forward(30 * SECOND_US)
    assert setup.name() == "a"
    await setup.ask_failing("a", VendorDown("ConnectTimeout"))
    assert setup.name() == "b"
    setup.clock.forward(60 * SECOND_US)
    await setup.ask()
    assert setup.name() == "a"
    assert next(row for row in setup.desk.status() if row.vendor == "a").breaker == "closed"


async def test_a_half_open_vendor_gets_one_trial_request() -> None:
    setup = Setup()
    for _ in range(3):
        await setup.ask_failing("a", VendorDown("ConnectTimeout"))
    setup.clock.forward(30 * SECOND_US)
    seen: list[str] = []
    setup.vendors["a"].does.append(lambda request: seen.append(setup.name()))
    assert setup.name() == "a"
    await setup.ask()
    assert seen == ["b"]


async def test_repeated_invalid_answers_and_plug_in_failures_are_outages() -> None:
    setup = Setup()
    for _ in range(2):
        await setup.ask_failing("a", Malformed("unknown shape"))
    setup.vendors["a"].does.append(ValueError("key=hush"))
    with pytest.raises(Malformed, match="the provider of a failed: ValueError") as broken:
        await setup.ask()
    assert "hush" not in str(broken.value)
    assert setup.name() == "b"
    garbled = Setup(Vendor("a"))
    for _ in range(3):
        garbled.vendors["a"].does.append(BarsAnswer({"AAPL": Malformed("what"), "MSFT": Malformed("what")}))
        await garbled.ask("a", GAP_FILL, "AAPL", "MSFT")
    assert garbled.blocked().verdict == OUTAGE


async def test_a_bad_key_blocks_the_vendor_until_a_restart() -> None:
    setup = Setup()
    await setup.ask_failing("a", BadKey("a: the key is wrong"))
    assert setup.name() == "b"
    setup.clock.forward(HOUR_US)
    assert setup.name() == "b"
    assert setup.again().name() == "a"
    read_only = vendor_statuses(setup.plan, stored=setup.store.values, now_us=setup.clock.now_us())
    assert (read_only[0].breaker, read_only[0].last_error) == ("open", "a: the key is wrong")


async def test_a_quota_rejection_does_not_open_the_breaker() -> None:
    setup = Setup()
    setup.clock.forward(20 * SECOND_US)
    await setup.ask_failing("a", QuotaSpent("run out of API credits", 10.0))
    assert setup.blocked() == Blocked(QUOTA, "a: run out of API credits", NOON_US + 61 * SECOND_US)
    assert setup.name(GAP_FILL) == "b"
    setup.clock.forward(61 * SECOND_US)
    assert setup.name() == "a"
    await setup.ask_failing("a", QuotaSpent("25 requests per day", 10.0, daily=True))
    assert setup.name() == "b"
    row = setup.again().desk.status()[0]
    assert (row.breaker, row.blocked_us) == ("closed", NOON_US + 12 * HOUR_US + SECOND_US)
    setup.clock.forward(12 * HOUR_US)
    assert setup.name() == "a"
    await setup.ask_failing("a", Burst("too fast", 3.0))
    again = setup.blocked().again_us
    assert again is not None
    assert again - setup.clock.now_us() >= 3 * SECOND_US


async def test_a_permanent_rejection_is_not_requested_again() -> None:
    setup = Setup()
    await setup.ask_failing("a", NotEntitled("premium endpoint"))
    assert setup.name() == "b"
    assert setup.name(symbol="MSFT") == setup.name(interval="1d") == "a"
    await setup.ask_failing("a", UnknownSymbol("one of them is unknown"), "X", "Y")
    assert setup.name(symbol="X") == "b"  # either symbol may be the unknown symbol
    setup.clock.forward(HOUR_US)
    assert setup.name(symbol="X") == "a"  # the rejection was valid for an hour
    await setup.ask_failing("b", UnknownSymbol("no AAPL"))
    block = setup.again().blocked()
    assert (block.verdict, block.note) == (NOT_OFFERED, "a: premium endpoint")
    assert block.again_us == NOON_US + DAY_US
    setup.clock.forward(23 * HOUR_US)
    assert setup.name(from_us=TO_US) == "a"


async def test_each_symbol_of_an_answer_is_recorded() -> None:
    setup = Setup()
    found = {
        "AAPL": bars_batch("AAPL", FROM_US, 3),
        "NIKK": UnknownSymbol("symbol not found: NIKK"),
        "NONE": NoData("nothing on the dates"),
        "LATE": QuotaSpent("run out", 30.0),
    }
    found["PART"] = NoData("nothing in that month")
    covers = {"PART": (FROM_US + MINUTE_US, TO_US)}
    setup.vendors["a"].does.append(BarsAnswer(found, covers))
    await setup.ask("a", HISTORY, *found)
    assert setup.blocked(symbol="AAPL").verdict == QUOTA
    setup.clock.forward(2 * MINUTE_US)
    assert setup.name(symbol="AAPL") == setup.name(symbol="LATE") == "a"
    assert setup.name(symbol="NIKK") == setup.name(symbol="NONE") == "b"
    assert setup.name(symbol="NONE", from_us=FROM_US - 1) == setup.name(symbol="PART") == "a"
    assert setup.name(symbol="PART", from_us=FROM_US + MINUTE_US) == "b"


# Comparisons ---------------------------------------------------------------------------------------------------------


def test_a_vendor_that_is_not_the_first_is_compared_once_a_day() -> None:
    setup = Setup()
    assert not setup.desk.needs_comparison("a", "AAPL", "1m")
    assert setup.desk.needs_comparison("b", "AAPL", "1m")
    setup.desk.compared("b", "AAPL", "1m", Comparison(SAME, 120))
    assert not setup.desk.needs_comparison("b", "AAPL", "1m")
    assert setup.desk.needs_comparison("b", "AAPL", "1d")
    setup.desk.compared("b", "AAPL", "1d", Comparison(TOO_FEW, 3))
    setup.clock.forward(HOUR_US)
    assert setup.desk.needs_comparison("b", "AAPL", "1d")
    setup.clock.forward(23 * HOUR_US)
    assert setup.desk.needs_comparison("b", "AAPL", "1m")


async def test_a_vendor_whose_bars_differ_is_chosen_only_if_no_other_is_left() -> None:
    setup = Setup()
    setup.desk.compared("a", "AAPL", "1m", Comparison(ADJUSTED, 120, ratio=4.0))
    assert setup.name() == "b"
    assert setup.name(symbol="MSFT") == setup.name(interval="1d") == "a"
    assert setup.name(without=["b"]) == "a"
    for _ in range(3):
        await setup.ask_failing("b", VendorDown("down"))
    again = setup.again()
    assert again.blocked().verdict == OUTAGE  # an adjusted source does not replace a vendor that is down
    assert again.name(symbol="MSFT") == "a"
    setup.clock.forward(DAY_US)
    assert again.name(from_us=TO_US) == "a"


# Corporate actions ---------------------------------------------------------------------------------------------------


async def test_corporate_actions_are_those_of_the_first_vendor_that_answers() -> None:
    setup = Setup(
        Vendor("n", replace(OFFER, actions=False)),
        Vendor("dear", replace(OFFER, actions_credits=40)),
        Vendor("a"),
        Vendor("b"),
    )
    setup.vendors["a"].does.append(NotEntitled("premium"))
    answer = await setup.desk.actions("AAPL", FROM_US, TO_US, HISTORY)
    assert not isinstance(answer, Blocked)
    assert answer.splits.num_rows == answer.dividends.num_rows == 0
    assert [len(vendor.actions_asked) for vendor in setup.vendors.values()] == [0, 0, 1, 1]
    await setup.desk.actions("AAPL", FROM_US, TO_US, HISTORY)
    assert [len(vendor.actions_asked) for vendor in setup.vendors.values()] == [0, 0, 1, 2]
    assert setup.used("b") == 2
    setup.vendors["b"].does.append(VendorDown("down"))
    assert await setup.desk.actions("AAPL", FROM_US, TO_US, HISTORY) == Blocked(
        OUTAGE, "b: down", setup.clock.now_us() + 5 * SECOND_US
    )
    blocked = await Setup(orders={}).desk.actions("AAPL", FROM_US, TO_US, HISTORY)
    assert isinstance(blocked, Blocked)
    assert "splits and dividends" in blocked.note


# Status -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dividends", "error"),
    [
        ([{"symbol": "MSFT"}], "dividends of 'MSFT', which was not requested"),
        ([{"currency": "USD\x1b[2J"}], "is not a currency"),
        ([{"currency": "x" * 100_000}], "is not a currency"),
        ([{"time": 2**62}], "a time outside the years"),
        ([{"amount": 1e300}], "a dividend of 1e\\+300 is not plausible"),
        ([{}] * 10_001, "10,001 dividends; at most 10,000"),
    ],
)
async def test_actions_that_cannot_be_right_are_an_invalid_answer(dividends: list[dict[str, Any]], error: str) -> None:
    row = {"time": FROM_US, "symbol": "AAPL", "amount": 0.25, "currency": "USD", "source": "a"}
    batch = pa.RecordBatch.from_pylist([row | change for change in dividends], schema=schemas.DIVIDENDS)
    setup = Setup(Vendor("a"))
    setup.vendors["a"].does.append(
        lambda request: BarsAnswer({"AAPL": bars_batch("AAPL", request.start_us, 3)}, dividends=batch)
    )
    with pytest.raises(Malformed, match=error) as found:
        await setup.ask()
    assert len(str(found.value)) < 200
    assert isinstance(await setup.ask(), BarsAnswer)


async def test_the_status_has_all_fields() -> None:
    setup = Setup(orders={"intraday": ["b", "a"], "daily": ["a"]})
    setup.clock.forward(20 * SECOND_US)
    await setup.ask("a", HISTORY, "AAPL", "MSFT")
    await setup.ask_failing("a", QuotaSpent("run out", 30.0))
    a, b = setup.desk.status()
    assert (a.vendor, a.kinds, a.requests, a.credits) == ("a", {"intraday": 2, "daily": 1}, 2, 3)
    assert (b.requests, b.windows[0].left, b.last_error_us) == (0, 8, None)
    row = a.as_dict()
    assert row["last_error"] == row["blocked_by"] == "run out"
    assert row["blocked_at"] == "2026-03-09T12:01:01Z"
    assert row["windows"][0] == {
        "quota": "8/minute", "used": 3, "limit": 8, "left": 5, "history_left": 3, "resets": "2026-03-09T12:01:00Z",
    }  # fmt: skip
    read_only = vendor_statuses(setup.plan, stored=setup.store.values, now_us=setup.clock.now_us())
    assert read_only == [a, b]


async def test_quotas_of_the_settings_replace_those_of_the_vendor_and_an_empty_list_is_no_limit() -> None:
    setup = Setup(quotas={"a": [Quota(610, MINUTE_US)], "b": []})
    choice, other = setup.choose(GAP_FILL), setup.choose(GAP_FILL, without=["a"])
    assert isinstance(choice, Choice)
    assert isinstance(other, Choice)
    assert choice.credits == 610
    assert other.credits > 10**9


async def test_all_vendors_are_closed_even_if_one_close_fails() -> None:
    class Stuck(Vendor):
        async def close(self) -> None:
            raise VendorDown("the connection does not close")

    setup = Setup(Stuck("a"), Vendor("b"))
    await setup.desk.close()
    assert setup.vendors["b"].closed == 1


@pytest.mark.parametrize("key", ["a", "a/refusals"])
async def test_the_state_of_a_newer_version_is_refused(key: str) -> None:
    import msgspec

    setup = Setup(Vendor("a"))
    await setup.ask()
    newer = {**msgspec.msgpack.decode(setup.store.values[key]), "format": 99, "more": [1]}
    setup.store.values[key] = msgspec.msgpack.encode(newer)
    with pytest.raises(SnapshotRefused, match="vendor a has format 99"):
        setup.again()
    setup.store.values[key] = b"\xc1"
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        setup.again()


def test_the_cost_of_a_request_is_that_of_its_first_page() -> None:
    class ByBars(Vendor):
        def cost(self, request: BarsRequest) -> int:
            return (request.end_us - request.start_us) // MINUTE_US // 1_000

    setup = Setup(ByBars("a", Offer(bars=(BarsOffer("1m", 5_000),), quotas=(Quota(8, MINUTE_US),))))
    assert setup.name(from_us=NOON_US - 300 * DAY_US) == "a"
