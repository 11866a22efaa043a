"""Quota windows are adjacent, even if a day has 23 or 25 hours or begins at 01:00."""

from __future__ import annotations

import datetime as dt
import doctest
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, micros_of
from tickerplant.market_data.vendors import quota_windows
from tickerplant.market_data.vendors.port import Quota
from tickerplant.market_data.vendors.quota_windows import touched, window_of

ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Asia/Beirut",
)
QUOTAS = [Quota(1, MINUTE_US), Quota(1, HOUR_US), *(Quota(1, DAY_US, zone) for zone in ZONES)]


@given(quota=st.sampled_from(QUOTAS), us=st.integers(1_200_000_000_000_000, 1_900_000_000_000_000))
def test_a_time_is_in_its_window_and_windows_are_adjacent(quota: Quota, us: int) -> None:
    start, end = window_of(quota, us)
    assert start <= us < end
    assert window_of(quota, start) == window_of(quota, end - 1) == (start, end)
    assert window_of(quota, end)[0] == end
    assert abs(end - start - quota.period_us) <= (HOUR_US if quota.daily else 0)


@given(
    quota=st.sampled_from(QUOTAS),
    us=st.integers(1_500_000_000_000_000, 1_600_000_000_000_000),
    more=st.integers(0, 3 * HOUR_US),
)
def test_the_windows_of_a_range_are_adjacent_and_cover_it(quota: Quota, us: int, more: int) -> None:
    found = list(touched(quota, us, us + more))
    assert found[0] == window_of(quota, us)
    assert found[-1] == window_of(quota, us + more)
    assert all(former[1] == later[0] for former, later in itertools.pairwise(found))


@pytest.mark.parametrize(
    ("zone", "date", "hours", "begins"),
    [
        ("America/New_York", dt.date(2026, 3, 8), 23, "05:00"),
        ("America/New_York", dt.date(2026, 11, 1), 25, "04:00"),
        ("America/Sao_Paulo", dt.date(2018, 11, 4), 23, "03:00"),  # clocks went from 00:00 to 01:00
    ],
)
def test_the_window_of_a_day_with_a_clock_change_has_23_or_25_hours(
    zone: str, date: dt.date, hours: int, begins: str
) -> None:
    noon = micros_of(dt.datetime(date.year, date.month, date.day, 16, tzinfo=dt.UTC))
    start, end = window_of(Quota(1, DAY_US, zone), noon)
    assert (end - start) == hours * HOUR_US
    assert f"{start // HOUR_US % 24:02}:00" == begins


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(quota_windows).failed == 0
