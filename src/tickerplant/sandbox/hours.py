"""When the sandbox's market is open, and how activity goes over its day: U-shaped on an exchange, gentle elsewhere."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.sessions import NO_SESSION, Calendar, calendar
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, BoolArray, Float64Array, Int64Array

BLOCK: Final = 30
"""Minutes in a block: activity is shared out over a day's blocks, then over a block's minutes."""
_DAY_MINUTES: Final = 1_440


class Hours:
    """The stretch of each UTC day in which symbols are traded: all of it, or the regular session of a calendar."""

    def __init__(self, calendar_name: str | None) -> None:
        self._calendar: Calendar | None = None if calendar_name is None else calendar(calendar_name)
        self._shapes: dict[int, Float64Array] = {}

    @property
    def is_always(self) -> bool:
        """Whether every day is open from midnight to midnight."""
        return self._calendar is None

    def of(self, days: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return when each day (days since 1970) opens, in microseconds, and for how many minutes: 0 if it does not."""
        opens = days * DAY_US
        if self._calendar is None:
            return opens, np.full(len(days), _DAY_MINUTES, np.int64)
        # 17:00 UTC is noon or 13:00 in New York: in the session, early closes with their late trading included.
        sessions = self._calendar.session_of(opens + 17 * HOUR_US)
        open_ = sessions != NO_SESSION
        minutes = np.zeros(len(days), np.int64)
        opens[open_] = self._calendar.open_of(sessions[open_])
        minutes[open_] = (self._calendar.close_of(sessions[open_]) - opens[open_]) // MINUTE_US
        return opens, minutes

    def is_open(self, times_us: Int64Array) -> BoolArray:
        """Return whether there is trade at each time."""
        if self._calendar is None:
            return np.ones(len(times_us), np.bool_)
        return self._calendar.is_regular(times_us)

    def shapes(self, minutes: Int64Array) -> tuple[Float64Array, npt.NDArray[np.int64]]:
        """Return how active each minute is in days of such lengths, by block, and which of these each day has.

        float64[lengths, blocks, BLOCK], about 1 on the average, 0 after the last minute; and int64[days].
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
        minute = np.arange(length)
        if self._calendar is None:
            # Most at 15:00 UTC, when Europe and America are both awake, least at 03:00.
            return 1 + 0.2 * np.sin((minute / _DAY_MINUTES - 0.375) * 2 * np.pi)
        to_close = length - 1 - minute
        shape = 0.55 + 2.0 * np.exp(-minute / 18) + 0.7 * np.exp(-minute / 70) + 1.6 * np.exp(-to_close / 12)
        shape += 0.6 * np.exp(-to_close / 60)
        result: Float64Array = shape / shape.mean() if length else shape
        return result
