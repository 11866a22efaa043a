"""Rate limits: no vendor counts more than its limit, even after kills and with clocks that differ by half a second."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.properties import examples
from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tickerplant.market_data.vendors.port import Credits, Quota
from tickerplant.market_data.vendors.quota_windows import window_of
from tickerplant.market_data.vendors.rate_limits import GUARD_US, UNLIMITED, Purpose, RateLimits

NOON_US = 1_773_057_600_000_000  # 2026-03-09T12:00:00Z
MINUTE, DAY = Quota(8, MINUTE_US), Quota(20, DAY_US)
HISTORY, GAP_FILL = Purpose.HISTORY, Purpose.GAP_FILL


def used(limits: RateLimits, now_us: int, window: int = 0) -> int:
    return limits.status(now_us)[window].used


def spend(limits: RateLimits, now_us: int, cost: int = 1, took_us: int = 200_000) -> int:
    """Debit and settle one request that is answered after `took_us`; return the time of the answer in µs."""
    charge = limits.spend(now_us, cost)
    limits.settle(charge, now_us + took_us)
    return now_us + took_us


# Counts of vendors -----------------------------------------------------------------------------------------------


@dataclass
class Vendor:
    """A vendor that counts credits per fixed or rolling window, by a clock that is off by `skew_us`."""

    quotas: list[Quota]
    skew_us: int

    def __post_init__(self) -> None:
        self.received: list[tuple[int, int]] = []

    def receive(self, at_us: int, credits: int) -> None:
        self.received.append((at_us + self.skew_us, credits))

    def most(self, quota: Quota) -> int:
        """Return the largest number of credits that arrived in any window of the quota."""
        if quota.rolling:
            return max(
                (sum(c for at, c in self.received if last - quota.period_us < at <= last) for last, _ in self.received),
                default=0,
            )
        counts: Counter[int] = Counter()
        for at, credits in self.received:
            counts[window_of(quota, at)[0]] += credits
        return max(counts.values(), default=0)


REQUESTS = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 2_000_000), st.integers(0, 90 * SECOND_US), st.integers(0, 3 * HOUR_US)
        ),  # idle time before the request in µs
        st.integers(1, 4),  # cost in credits
        st.one_of(st.integers(0, 3_000_000), st.integers(0, 60 * SECOND_US)),  # time until the answer in µs
        st.floats(0, 1),  # fraction of that time after which the request arrives
        st.sampled_from(["answered"] * 6 + ["killed before", "killed after", "cancelled before"]),
        st.booleans(),  # fills a gap
    ),
    min_size=5,
    max_size=60,
)

# A request is sent at :50 before a kill, and arrives at :08 of the next minute. Three requests of 4 credits follow.
ARRIVES_AFTER_THE_KILL = [(50 * SECOND_US, 4, 60 * SECOND_US, 0.3, "killed after", True)] + 3 * [
    (0, 4, 0, 0.0, "answered", True)
]


@pytest.mark.parametrize(
    "quotas",
    [
        [MINUTE, DAY],
        [Quota(5, MINUTE_US, rolling=True), Quota(25, DAY_US, "America/New_York")],
        [Quota(6, HOUR_US), Quota(4, MINUTE_US)],
        [Quota(10, HOUR_US, rolling=True), Quota(30, DAY_US, rolling=True)],
    ],
    ids=str,
)
@examples(80)
@given(
    requests=REQUESTS,
    skew_us=st.integers(-500_000, 500_000),
    begin_us=st.integers(0, 2 * DAY_US),
    reserve=st.floats(0, 0.5),
)
@example(requests=ARRIVES_AFTER_THE_KILL, skew_us=0, begin_us=0, reserve=0.0)
def test_no_window_exceeds_its_limit_even_by_a_vendor_clock_half_a_second_off(
    quotas: list[Quota],
    requests: list[tuple[int, int, int, float, str, bool]],
    skew_us: int,
    begin_us: int,
    reserve: float,
) -> None:
    vendors = [Vendor(quotas, skew) for skew in (skew_us, 0, -500_000, 500_000)]
    now, limits = NOON_US - DAY_US + begin_us, RateLimits(quotas, reserve=reserve)
    for idle_us, cost, took_us, part, fate, heal in requests:
        at = limits.earliest(now + idle_us, cost, GAP_FILL if heal else HISTORY)
        if at is None:
            continue
        assert at >= now + idle_us
        assert limits.earliest(at, cost, GAP_FILL if heal else HISTORY) == at
        charge = limits.spend(at, cost)
        stored = limits.encode()
        if fate == "cancelled before":
            limits.refund(charge)
            now = at
            continue
        if fate != "killed before":
            for vendor in vendors:
                vendor.receive(at + int(took_us * part), cost)
        if fate == "answered":
            now = at + took_us
            limits.settle(charge, now)
        else:  # a restart from the stored state
            now, limits = at, RateLimits(quotas, reserve=reserve, stored=stored)
            now += int(took_us * part)
    for quota in quotas:
        for vendor in vendors:
            assert vendor.most(quota) <= quota.credits, (str(quota), vendor.skew_us)


@examples(100)
@given(requests=REQUESTS, pace_s=st.floats(0.1, 5.0))
def test_two_requests_never_arrive_closer_than_the_pace(
    requests: list[tuple[int, int, int, float, str, bool]], pace_s: float
) -> None:
    limits, now, received = RateLimits([], reserve=0, pace_s=pace_s), NOON_US, []
    for idle_us, cost, took_us, part, _, _ in requests:
        at = limits.earliest(now + idle_us, cost, GAP_FILL)
        assert at is not None
        charge = limits.spend(at, cost)
        received.append(at + int(took_us * part))
        now = at + took_us
        limits.settle(charge, now)
    assert all(later - former >= int(pace_s * SECOND_US) for former, later in itertools.pairwise(received))


@examples(100)
@given(requests=REQUESTS)
@example(requests=[(0, 1, 0, 0.0, "answered", False)] * 60)
def test_a_quota_is_used_up_to_less_than_one_request(requests: list[tuple[int, int, int, float, str, bool]]) -> None:
    """Check that requests of 1 to 4 credits leave at most 3 credits of a minute. The guard delays them by seconds."""
    limits, now, spent = RateLimits([MINUTE], reserve=0.0), NOON_US, 0
    minutes: Counter[int] = Counter()
    for _, cost, _, _, _, _ in requests:
        at = limits.earliest(now, cost, GAP_FILL)
        assert at is not None
        assert at <= window_of(MINUTE, now)[1] + GUARD_US + SECOND_US
        now = spend(limits, at, cost, 10_000)
        minutes[window_of(MINUTE, at)[0]] += cost
        spent += cost
    assert limits.credits == spent
    assert all(count >= MINUTE.credits - 3 for minute, count in minutes.items() if minute < max(minutes))


def test_a_second_burst_at_the_end_of_a_minute_waits_for_the_guard() -> None:
    limits = RateLimits([MINUTE], reserve=0)
    end = NOON_US + MINUTE_US
    for _ in range(8):
        spend(limits, end - 10 * SECOND_US)
    assert limits.earliest(end - SECOND_US, 1, GAP_FILL) == end + GUARD_US
    assert limits.earliest(end, 1, GAP_FILL) == end + GUARD_US  # the vendor's clock may be behind
    assert limits.available(end, GAP_FILL) == 0
    assert limits.available(end + GUARD_US, GAP_FILL) == 8
    # A request answered within a second of the end may count in either minute.
    late = RateLimits([MINUTE], reserve=0)
    late.settle(late.spend(end - 300_000, 3), end - 100_000)
    assert used(late, NOON_US) == used(late, end) == 3


def test_a_request_in_flight_counts_in_each_window_in_which_it_may_arrive() -> None:
    limits = RateLimits([MINUTE], reserve=0)
    charge = limits.spend(NOON_US + 50 * SECOND_US, 5)
    assert [used(limits, NOON_US + n * MINUTE_US) for n in range(3)] == [5, 5, 0]
    limits.settle(charge, NOON_US + 51 * SECOND_US)
    assert [used(limits, NOON_US + n * MINUTE_US) for n in range(3)] == [5, 0, 0]


# Purposes ------------------------------------------------------------------------------------------------------------


def test_history_does_not_use_the_reserve_and_gaps_may() -> None:
    limits = RateLimits([MINUTE, DAY], reserve=0.25)
    assert (limits.available(NOON_US, HISTORY), limits.available(NOON_US, GAP_FILL)) == (6, 8)
    now = spend(limits, NOON_US, 6)
    assert (limits.available(now, HISTORY), limits.available(now, GAP_FILL)) == (0, 2)
    assert limits.earliest(now, 1, HISTORY) == NOON_US + MINUTE_US + GUARD_US
    assert limits.earliest(now, 2, GAP_FILL) == now
    for minute in range(1, 4):
        now = spend(limits, NOON_US + minute * MINUTE_US + GUARD_US, 3)
    now += MINUTE_US
    assert used(limits, now, 1) == 15
    midnight = window_of(DAY, now)[1]
    assert limits.earliest(now, 1, HISTORY) == midnight + GUARD_US
    assert limits.earliest(now, 5, GAP_FILL) == now
    rows = limits.status(now)
    assert (rows[1].left, rows[1].history_left, rows[1].resets_us) == (5, 0, midnight)


def test_a_cost_above_the_quota_is_reported_at_once() -> None:
    limits = RateLimits([MINUTE], reserve=0.25)
    assert limits.earliest(NOON_US, 8, HISTORY) is None
    assert limits.earliest(NOON_US, 8, GAP_FILL) == NOON_US
    assert (limits.most(HISTORY), limits.most(GAP_FILL)) == (6, 8)
    assert RateLimits([MINUTE], reserve=1.0).earliest(NOON_US, 1, HISTORY) is None
    assert RateLimits([Quota(1, MINUTE_US)], reserve=0.25).earliest(NOON_US, 1, HISTORY) == NOON_US


def test_without_quotas_only_the_pace_counts() -> None:
    limits = RateLimits([], reserve=0.25, pace_s=2.0)
    assert limits.available(NOON_US, HISTORY) == UNLIMITED
    charge = limits.spend(NOON_US, 1)
    assert limits.earliest(NOON_US, 1, HISTORY) == NOON_US + 2 * SECOND_US
    limits.settle(charge, NOON_US + SECOND_US)  # the request may have arrived as late as this
    assert limits.earliest(NOON_US + SECOND_US, 1, HISTORY) == NOON_US + 3 * SECOND_US


# Answers of vendors -------------------------------------------------------------------------------------------------


@given(
    ours=st.integers(0, 8),
    reported=st.one_of(st.none(), st.integers(0, 12)),
    left=st.one_of(st.none(), st.integers(0, 800)),
)
def test_headers_never_increase_the_remaining_credits(ours: int, reported: int | None, left: int | None) -> None:
    limits, now = RateLimits([MINUTE, DAY], reserve=0), NOON_US + 5 * SECOND_US
    charge = limits.spend(now, ours)
    limits.settle(charge, now + SECOND_US)
    limits.record_credits(Credits(reported, left), charge, now + SECOND_US)
    minute, day = limits.status(now + SECOND_US)
    assert minute.used == min(8, max(ours, reported or 0, 8 - left if left is not None else 0))
    assert left is None or minute.left <= left
    assert day.used == ours


def test_credits_spent_by_other_users_of_the_key_are_counted() -> None:
    for quota in (MINUTE, Quota(8, MINUTE_US, rolling=True)):
        limits = RateLimits([quota], reserve=0)
        charge = limits.spend(NOON_US + 5 * SECOND_US, 1)
        now = NOON_US + 6 * SECOND_US
        limits.settle(charge, now)
        limits.record_credits(Credits(used=7, left=1), charge, now)
        assert used(limits, now) == 7
        assert limits.earliest(now, 1, GAP_FILL) == now
        later = limits.earliest(now, 2, GAP_FILL)
        assert later is not None
        assert later > now + 50 * SECOND_US


def test_a_header_received_near_midnight_counts_for_the_day_of_its_request() -> None:
    limits = RateLimits([DAY], reserve=0)
    midnight = window_of(DAY, NOON_US)[1]
    charge = limits.spend(midnight - 200_000, 1)
    limits.settle(charge, midnight + 100_000)
    limits.record_credits(Credits(used=20, left=0, daily=True), charge, midnight + 100_000)
    assert used(limits, midnight - 1) == 20
    assert used(limits, midnight + GUARD_US) == 1
    assert limits.earliest(midnight + GUARD_US, 10, GAP_FILL) == midnight + GUARD_US


def test_a_rejection_blocks_until_the_minute_ends_and_repeated_ones_double_the_pause() -> None:
    limits = RateLimits([MINUTE, DAY], reserve=0)
    assert (
        limits.quota_spent(NOON_US + 50 * SECOND_US, 1.0, daily=False, reason="spent") == NOON_US + MINUTE_US + GUARD_US
    )
    assert limits.blocked(NOON_US + 59 * SECOND_US) == (NOON_US + MINUTE_US + GUARD_US, "spent")
    assert limits.available(NOON_US + 59 * SECOND_US, GAP_FILL) == 0
    assert limits.earliest(NOON_US + 50 * SECOND_US, 1, GAP_FILL) == NOON_US + MINUTE_US + GUARD_US
    now, waits = NOON_US + 2 * MINUTE_US, []
    for _ in range(12):
        until = limits.quota_spent(now, 60.0, daily=False, reason="spent")
        waits.append((until - now) // MINUTE_US)
        now = until
    assert waits[:4] == [2, 4, 8, 16]
    assert waits[-1] == 60  # a vendor that rejects all day receives one request per hour
    limits.answered()
    assert limits.quota_spent(now, 60.0, daily=False, reason="spent") - now <= MINUTE_US + GUARD_US


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_daily_rejection_blocks_until_the_vendors_next_day(zone: str) -> None:
    quota = Quota(25, DAY_US, zone)
    limits = RateLimits([MINUTE, quota], reserve=0)
    until = limits.quota_spent(NOON_US, 5.0, daily=True, reason="the day's")
    assert until == window_of(quota, NOON_US)[1] + GUARD_US
    assert limits.earliest(NOON_US + HOUR_US, 1, GAP_FILL) == until
    assert RateLimits([quota], reserve=0, stored=limits.encode()).earliest(NOON_US, 1, GAP_FILL) == until


def test_a_daily_rejection_without_a_quota_blocks_for_retry_after_up_to_a_day() -> None:
    limits = RateLimits([], reserve=0)
    assert limits.quota_spent(NOON_US, 3600.0, daily=True, reason="") == NOON_US + HOUR_US
    assert limits.quota_spent(NOON_US, 1e9, daily=True, reason="") == NOON_US + DAY_US


def test_a_burst_rejection_costs_seconds_but_no_credits() -> None:
    limits = RateLimits([MINUTE], reserve=0)
    assert [limits.burst(NOON_US, 2.0, "burst") - NOON_US for _ in range(3)] == [
        2 * SECOND_US, 4 * SECOND_US, 8 * SECOND_US,
    ]  # fmt: skip
    assert used(limits, NOON_US) == 0
    assert limits.available(NOON_US + 8 * SECOND_US, GAP_FILL) == 8


# Stored state --------------------------------------------------------------------------------------------------------


def test_limits_restored_from_the_stored_state_equal_the_original() -> None:
    limits = RateLimits([MINUTE, DAY, Quota(5, HOUR_US, rolling=True)], reserve=0.25, pace_s=1.0)
    now = spend(limits, NOON_US, 4)
    limits.burst(now, 2.0, "too fast")
    again = RateLimits(limits.quotas, reserve=0.25, pace_s=1.0, stored=limits.encode())
    assert again.status(now) == limits.status(now)
    assert again.blocked(now) == limits.blocked(now)
    assert (again.requests, again.credits) == (1, 4)
    assert again.encode() == limits.encode()


def test_spent_credits_are_restored_after_a_change_of_limit_or_zone() -> None:
    limits = RateLimits([MINUTE, Quota(20, DAY_US)], reserve=0)
    now = spend(limits, NOON_US, 7)
    more = RateLimits([Quota(610, MINUTE_US), Quota(20, DAY_US, "America/New_York")], reserve=0, stored=limits.encode())
    assert [row.used for row in more.status(now)] == [7, 7]
    assert more.available(now, GAP_FILL) == 13


def test_the_stored_state_is_bounded() -> None:
    quotas = [Quota(610, MINUTE_US), Quota(10_000, HOUR_US, rolling=True), Quota(800_000, DAY_US, rolling=True)]
    limits, now = RateLimits(quotas, reserve=0), NOON_US
    for _ in range(3_000):
        now = spend(limits, now + 2 * SECOND_US)
    assert len(limits.encode()) < 8_000
    assert [row.used for row in limits.status(now)][2] == 3_000


def test_a_wrong_clock_does_not_block_for_long() -> None:
    limits = RateLimits([MINUTE, DAY], reserve=0, pace_s=1.0)
    ahead = NOON_US + 400 * DAY_US
    spend(limits, ahead)
    limits.quota_spent(ahead, 60.0, daily=True, reason="")
    at = limits.earliest(NOON_US, 1, GAP_FILL)
    assert at == NOON_US
    assert limits.earliest(at + 1, 1, GAP_FILL) == at + 1
    spend(limits, at)
    assert len(limits.encode()) < 300
    # A clock that is set back by seconds drops no spent credits.
    back = RateLimits([MINUTE], reserve=0)
    spend(back, NOON_US + SECOND_US, 8)
    assert back.available(NOON_US - 2 * SECOND_US, GAP_FILL) == 0


def test_a_newer_format_is_refused() -> None:
    newer = msgspec.msgpack.encode({**msgspec.msgpack.decode(RateLimits([], reserve=0).encode()), "format": 2})
    with pytest.raises(SnapshotRefused, match="format 2"):
        RateLimits([], reserve=0, stored=newer)
    with pytest.raises(SnapshotRefused, match="cannot be read"):
        RateLimits([], reserve=0, stored=b"\xff")
