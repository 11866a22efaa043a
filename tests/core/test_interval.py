"""Buckets of intervals against hand-written times, names of intervals, and activity intervals."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickerplant.core import interval
from tickerplant.core.errors import BadInput
from tickerplant.core.times import datetime_of, iso, micros_of


def us(text: str) -> int:
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("name", "time", "start"),
    [
        ("1m", "2012-06-21T13:30:59.999999", "2012-06-21T13:30:00"),
        ("1m", "2012-06-21T13:31:00", "2012-06-21T13:31:00"),
        ("5m", "2012-06-21T13:34:59", "2012-06-21T13:30:00"),
        ("15m", "2012-06-21T13:44:59", "2012-06-21T13:30:00"),
        ("30m", "2012-06-21T13:29:59", "2012-06-21T13:00:00"),
        ("1h", "2012-06-21T13:29:59", "2012-06-21T13:00:00"),
        ("1d", "2012-06-21T23:59:59", "2012-06-21T00:00:00"),
        ("1w", "2012-06-21T00:00:00", "2012-06-18T00:00:00"),
        ("1w", "2012-06-18T00:00:00", "2012-06-18T00:00:00"),
        ("1w", "2012-06-17T00:00:00", "2012-06-11T00:00:00"),
        ("5m", "1969-12-31T23:59:59", "1969-12-31T23:55:00"),
        ("1w", "1969-12-29T00:00:00", "1969-12-29T00:00:00"),
    ],
)
def test_a_time_falls_into_its_bucket(name: str, time: str, start: str) -> None:
    assert interval.parse(name).floor(us(time)) == us(start)


@given(time=st.integers(-(10**17), 10**17), which=st.sampled_from(interval.INTERVALS))
def test_buckets_are_half_open_and_cover_all_time(time: int, which: interval.Interval) -> None:
    start = which.floor(time)
    assert start <= time < which.end(start)
    assert which.floor(which.end(start)) == which.end(start)
    assert which.floor(np.array([time]))[0] == start


def test_vendors_names_are_parsed_and_errors_list_the_known_ones() -> None:
    assert interval.parse("1day") is interval.D1
    with pytest.raises(BadInput, match="1m, 5m, 15m, 30m, 1h, 1d, 1w"):
        interval.parse("7m")


def test_times_are_written_with_z_and_parsed_back_exactly() -> None:
    assert iso(us("2012-06-21T13:30:00")) == "2012-06-21T13:30:00Z"
    assert micros_of(datetime_of(1_340_285_400_000_001)) == 1_340_285_400_000_001


def test_activity_intervals_have_an_amount_and_no_length() -> None:
    for name, measure, amount in (("100t", "t", 100), ("10000v", "v", 10_000), ("1000000d", "d", 1_000_000)):
        found = interval.parse(name)
        assert (found.name, found.measure, found.amount, found.is_activity, found.is_intraday) == (
            name, measure, amount, True, True,
        )  # fmt: skip
        with pytest.raises(ValueError, match=name):
            found.floor(0)
    assert not interval.parse("1d").is_activity
    for wrong in ("5d", "0t", "-1v", "1.5v", "10x", "t"):
        with pytest.raises(BadInput, match="100t"):
            interval.parse(wrong)
