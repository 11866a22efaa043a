"""The time windows in which vendors count credits. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from functools import cache
from zoneinfo import ZoneInfo

from tickerplant.core.times import datetime_of, micros_of
from tickerplant.market_data.vendors.port import Quota

_DAY = dt.timedelta(days=1)


def window_of(quota: Quota, us: int) -> tuple[int, int]:
    """Return `[start, end)` of the quota's window that contains this time.

    A day begins at 00:00 in the quota's zone and has 23 to 25 hours. If the clocks skip midnight, the day begins at the
    first time of its date.

    >>> from tickerplant.core.times import DAY_US, HOUR_US
    >>> start, end = window_of(Quota(25, DAY_US, "America/New_York"), 1_773_000_000_000_000)
    >>> (end - start) // HOUR_US
    23
    """
    if not quota.daily:
        start = us - us % quota.period_us
        return start, start + quota.period_us
    date = datetime_of(us).astimezone(ZoneInfo(quota.zone)).date()
    return _midnight(date, quota.zone), _midnight(date + _DAY, quota.zone)


def touched(quota: Quota, start_us: int, end_us: int) -> Iterator[tuple[int, int]]:
    """Yield the windows that overlap `[start_us, end_us]`, oldest first."""
    start, end = window_of(quota, start_us)
    yield start, end
    while end <= end_us:
        start, end = window_of(quota, end)
        yield start, end


@cache
def _midnight(date: dt.date, zone: str) -> int:
    return micros_of(dt.datetime(date.year, date.month, date.day, tzinfo=ZoneInfo(zone)).astimezone(dt.UTC))
