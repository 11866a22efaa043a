"""Units and conversions of time. Internally a time is int64 microseconds since 1970 UTC.

`arrow_values` converts columns. This module needs no Arrow, so that small processes need not load it.
"""

from __future__ import annotations

import datetime as dt
from types import ModuleType
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.deprecation import renamed, renamed_arguments
from tickerplant.core.errors import BadInput

MILLISECOND_US: Final = 1_000
SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
WEEK_US: Final = 7 * DAY_US

NEVER_US: Final = -(1 << 62)
"""Time before all other times, and the value of an unknown watermark. Subtracting a lateness does not overflow."""
FOREVER_US: Final = 1 << 62
"""Time after all other times: an open end, or no upper bound."""

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)

FIRST_US: Final = (dt.datetime(1800, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND
LAST_US: Final = (dt.datetime(2261, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND
"""First and last accepted time of a row. Aggregation rejects records with other times; the store contains none."""
RANGE_MARGIN_US: Final = 8 * DAY_US
"""Maximum distance of a clamped bound before `FIRST_US` or after `LAST_US`. It is longer than the longest bar."""


def micros_of(moment: dt.datetime) -> int:
    """Return microseconds since 1970 UTC of an aware datetime, exactly. Raises ValueError for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    return (moment - _EPOCH) // _MICROSECOND


def datetime_of(us: int) -> dt.datetime:
    """Return the aware UTC datetime of microseconds since 1970. Raises OverflowError outside years 1–9999."""
    return _EPOCH + us * _MICROSECOND


@renamed_arguments(us="time")
def iso(time: int | dt.datetime) -> str:
    """Return a time as ISO 8601. Microseconds since 1970 are written in UTC, a datetime in its own zone.

    UTC is written as Z. A fraction of zero microseconds is omitted.

    >>> iso(1_340_285_400_000_000), iso(1_340_285_400_250_000)
    ('2012-06-21T13:30:00Z', '2012-06-21T13:30:00.250000Z')
    """
    moment = time if isinstance(time, dt.datetime) else datetime_of(time)
    return moment.isoformat().replace("+00:00", "Z")


def clamp_range(start_us: int | None, end_us: int | None) -> tuple[int | None, int | None]:
    """Return a range with bounds near the accepted times, which contains the same rows. None stays None.

    The start is between `FIRST_US - RANGE_MARGIN_US` and `LAST_US`, the end between `FIRST_US` and
    `LAST_US + RANGE_MARGIN_US`. A range that is not empty does not become empty. Rounding a bound to the start or end
    of a bar cannot leave the years 1 to 9999.

    >>> clamp_range(0, micros_of(dt.datetime(9999, 12, 31, tzinfo=dt.UTC))) == (0, LAST_US + RANGE_MARGIN_US)
    True
    """
    return (
        None if start_us is None else min(max(start_us, FIRST_US - RANGE_MARGIN_US), LAST_US),
        None if end_us is None else min(max(end_us, FIRST_US), LAST_US + RANGE_MARGIN_US),
    )


def check_range(start_us: int | None, end_us: int | None, start: str, end: str) -> None:
    """Raise BadInput unless `start_us` is before `end_us`. A bound of None is open and always valid.

    `start` and `end` are the user's texts, for the message: `--from 2012-06-21`.

    >>> check_range(2, 1, "--from 2", "--to 1")
    Traceback (most recent call last):
    tickerplant.core.errors.BadInput: --from 2 is not before --to 1; use an earlier start or a later end
    """
    if start_us is not None and end_us is not None and start_us >= end_us:
        raise BadInput(f"{start} is not before {end}; use an earlier start or a later end")


def _arrow_values() -> ModuleType:
    from tickerplant.core import arrow_values

    return arrow_values


if not TYPE_CHECKING:
    __getattr__ = renamed(
        __name__,
        {"from_us": ("datetime_of", datetime_of), "to_us": ("micros_of", micros_of)},
        moved=dict.fromkeys(("TIMESTAMP", "times_of", "timestamps"), _arrow_values),
    )
