"""Times: conversions, ISO 8601, ranges, and the old names of the conversions."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest

from tickerplant.core import times
from tickerplant.core.errors import BadInput
from tickerplant.core.times import check_range, datetime_of, iso, micros_of

MOMENT = dt.datetime(2012, 6, 21, 13, 30, tzinfo=dt.UTC)
MOMENT_US = 1_340_285_400_000_000


def test_microseconds_and_datetimes_convert_exactly() -> None:
    assert (micros_of(MOMENT), datetime_of(MOMENT_US)) == (MOMENT_US, MOMENT)
    assert micros_of(datetime_of(MOMENT_US + 1)) == MOMENT_US + 1
    with pytest.raises(ValueError, match="no time zone"):
        micros_of(MOMENT.replace(tzinfo=None))


def test_the_former_argument_of_iso_works_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="argument us of iso is now time"):
        assert iso(us=MOMENT_US) == "2012-06-21T13:30:00Z"  # type: ignore[call-arg]


def test_iso_writes_utc_as_z_and_other_zones_as_offsets() -> None:
    assert iso(MOMENT_US) == iso(MOMENT) == "2012-06-21T13:30:00Z"
    assert iso(MOMENT.astimezone(ZoneInfo("America/New_York"))) == "2012-06-21T09:30:00-04:00"


def test_a_range_must_begin_before_it_ends() -> None:
    for start_us, end_us in ((1, 2), (None, 2), (2, None), (None, None)):
        check_range(start_us, end_us, "--from", "--to")
    for start_us in (2, 3):
        with pytest.raises(BadInput, match="--from x is not before --to y"):
            check_range(start_us, 2, "--from x", "--to y")


def test_the_old_names_work_with_a_warning_that_names_the_new_ones() -> None:
    with pytest.warns(DeprecationWarning, match=r"core\.times\.from_us is now datetime_of"):
        assert times.from_us is datetime_of  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match=r"core\.times\.to_us is now micros_of"):
        from tickerplant.core.times import to_us  # type: ignore[attr-defined]  # noqa: F401
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        times.no_such_name  # type: ignore[attr-defined]  # noqa: B018
