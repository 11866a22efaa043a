"""Trading hours of the simulated market, and the share of each minute in a day's activity.

Activity is U-shaped in an exchange's session and nearly flat round the clock.
"""

from __future__ import annotations

import datetime as dt
import functools
from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.sessions import NO_SESSION, Calendar, calendar
from tickerplant.core.times import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    BoolArray,
    Float64Array,
    Int64Array,
    datetime_of,
    micros_of,
)
from tickerplant.protocols.market import NEW_YORK

BLOCK: Final = 30
"""Minutes per block. Activity is distributed over a day's blocks, then over a block's minutes."""
_DAY_MINUTES: Final = 1_440
_SESSION_MINUTES: Final = (570, 960)
"""The usual session in minutes after midnight, New York: 09:30 to 16:00."""


class Hours:
    """The part of each UTC day in which symbols trade: all of it, or the regular session of a calendar."""

    def __init__(self, calendar_name: str | None) -> None:
        self._calendar: Calendar | None = None if calendar_name is None else calendar(calendar_name)
        self._shapes: dict[int, Float64Array] = {}

    @property
    def is_always(self) -> bool:
        """Return True if every day is open from midnight to midnight."""
        return self._calendar is None

    @property
    def is_continuous(self) -> bool:
        """Return True if one day continues the day before: prices do not move overnight."""
        return self.is_always

    def of(self, days: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return open (microseconds) and length (minutes, 0 if closed) of each day, given as days since 1970."""
        opens = days * DAY_US
        if self._calendar is None:
            return opens, np.full(len(days), _DAY_MINUTES, np.int64)
        # 17:00 UTC is 12:00 or 13:00 in New York. A session that closes at 13:00 contains it, with its extended hours.
        sessions = self._calendar.session_of(opens + 17 * HOUR_US)
        open_ = sessions != NO_SESSION
        minutes = np.zeros(len(days), np.int64)
        opens[open_] = self._calendar.open_of(sessions[open_])
        minutes[open_] = (self._calendar.close_of(sessions[open_]) - opens[open_]) // MINUTE_US
        return opens, minutes

    def is_open(self, times_us: Int64Array) -> BoolArray:
        """Return a mask of the times at which symbols trade."""
        if self._calendar is None:
            return np.ones(len(times_us), np.bool_)
        return self._calendar.is_regular(times_us)

    def shapes(self, minutes: Int64Array) -> tuple[Float64Array, npt.NDArray[np.int64]]:
        """Return the activity of each minute for days of the given lengths, and the index of each day's length.

        The activity is float64[lengths, blocks, BLOCK]. Its mean is about 1; it is 0 after the last minute. The index
        is int64[days].
        """
        lengths, which = np.unique(minutes, return_inverse=True)
        blocks = max(1, -(-int(minutes.max(initial=0)) // BLOCK))
        table = np.zeros((len(lengths), blocks * BLOCK))
        for at, length in enumerate(lengths.tolist()):
            if length not in self._shapes:
                self._shapes[length] = self._shape(length)
            table[at, :length] = self._shapes[length]
        return table.reshape(len(lengths), blocks, BLOCK), which.astype(np.int64)

    def _shape(self, length: int) -> Float64Array:
        if self._calendar is None:
            return _flat_shape(length)
        minute = np.arange(length)
        to_close = length - 1 - minute
        shape = 0.55 + 2.0 * np.exp(-minute / 18) + 0.7 * np.exp(-minute / 70) + 1.6 * np.exp(-to_close / 12)
        shape += 0.6 * np.exp(-to_close / 60)
        result: Float64Array = shape / shape.mean() if length else shape
        return result


class WeekHours(Hours):
    """The part of each UTC day in which foreign exchange trades: its market closes only at weekends."""

    @property
    def is_continuous(self) -> bool:
        """Return True: one day continues the day before."""
        return True

    def of(self, days: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return open and length of each day: a part of Friday and Sunday, nothing of Saturday, all of other days."""
        assert self._calendar is not None
        starts, ends = days * DAY_US, (days + 1) * DAY_US
        first, last = self._calendar.session_of(starts), self._calendar.session_of(ends - 1)
        opens, closes = starts.copy(), starts.copy()
        begins, finishes = (first == NO_SESSION) & (last != NO_SESSION), (first != NO_SESSION) & (last == NO_SESSION)
        closes[last != NO_SESSION] = ends[last != NO_SESSION]
        opens[begins] = self._calendar.open_of(last[begins])
        closes[finishes] = self._calendar.close_of(first[finishes])
        return opens, (closes - opens) // MINUTE_US

    def _shape(self, length: int) -> Float64Array:
        return _flat_shape(length)


def _flat_shape(length: int) -> Float64Array:
    """Return the activity of each of the first `length` minutes of a day round the clock.

    The maximum is at 15:00 UTC, during the day of Europe and America; the minimum is at 03:00.
    """
    result: Float64Array = 1 + 0.2 * np.sin((np.arange(length) / _DAY_MINUTES - 0.375) * 2 * np.pi)
    return result


EXCHANGE: Final = Hours("XNYS")


def in_session(times_us: Int64Array) -> BoolArray:
    """Return a mask of the times within New York's regular session, even if the simulated market is always open."""
    return EXCHANGE.is_open(times_us)


@functools.lru_cache(4096)
def session_of(day_us: int) -> tuple[int, int]:
    """Return the start and end (µs UTC) of New York's session on a date (00:00 UTC).

    A date without a session has 09:30 to 16:00 in New York.
    """
    opens, minutes = EXCHANGE.of(np.array([day_us // DAY_US], np.int64))
    if minutes[0]:
        return int(opens[0]), int(opens[0] + minutes[0] * MINUTE_US)
    midnight = datetime_of(day_us).replace(tzinfo=NEW_YORK)
    begin, end = _SESSION_MINUTES
    return micros_of(midnight + dt.timedelta(minutes=begin)), micros_of(midnight + dt.timedelta(minutes=end))
