"""Bar intervals: names, lengths and bucket arithmetic. Buckets are half-open, `[start, end)`, in UTC.

Activity intervals have no length in time. `100t` is a bar of 100 trades, and `10000v` a bar of 10,000 shares or
units. `1000000d` is a bar with a turnover of 1,000,000 in the symbol's currency (dollar bars).

Intraday buckets are aligned to midnight UTC. The time of a `1d` bar is 00:00 UTC of its session's date; `sessions`
assigns ticks to sessions. The time of a `1w` bar is 00:00 UTC of the Monday of its week.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeVar

from tickerplant.core.errors import BadInput
from tickerplant.core.shown import cut
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, WEEK_US, Int64Array

TimesUs = TypeVar("TimesUs", int, Int64Array)
"""Microseconds: one time, or a column of them."""

_MONDAY_OFFSET_US = 4 * DAY_US  # 1970-01-01 was a Thursday; the first Monday is 4 days later


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """A bar interval. Intervals are ordered by length, then by name. Use the constants of this module or `parse`.

    `us` is the length in microseconds, 0 for an activity interval. Only an activity interval has a `measure`
    (`t`, `v` or `d`) and an `amount`.
    """

    us: int
    name: str
    measure: str = ""
    amount: int = 0

    def __str__(self) -> str:
        return self.name

    @property
    def is_intraday(self) -> bool:
        """Return whether a bar's time is an instant. False for `1d` and `1w`, whose times are dates."""
        return self.us < DAY_US

    @property
    def is_activity(self) -> bool:
        """Return whether a bar ends after an amount of activity instead of a length of time."""
        return bool(self.measure)

    def floor(self, times_us: TimesUs) -> TimesUs:
        """Return the start of the bucket of each time, also before 1970. The times are session dates for `1d` and `1w`.

        >>> M5.floor(7 * 60_000_000) // 60_000_000
        5
        """
        self._require_length()
        origin = _MONDAY_OFFSET_US if self.us == WEEK_US else 0
        return times_us - (times_us - origin) % self.us

    def end(self, starts_us: TimesUs) -> TimesUs:
        """Return the end of the bucket at each start, exclusive."""
        self._require_length()
        return starts_us + self.us

    def _require_length(self) -> None:
        if self.is_activity:
            raise ValueError(f"{self.name} is an activity interval: it has no buckets of time")


M1: Final = Interval(MINUTE_US, "1m")
M5: Final = Interval(5 * MINUTE_US, "5m")
M15: Final = Interval(15 * MINUTE_US, "15m")
M30: Final = Interval(30 * MINUTE_US, "30m")
H1: Final = Interval(HOUR_US, "1h")
D1: Final = Interval(DAY_US, "1d")
W1: Final = Interval(WEEK_US, "1w")

INTERVALS: Final = (M1, M5, M15, M30, H1, D1, W1)
_BY_NAME = {interval.name: interval for interval in INTERVALS}
_ALIASES = {
    "1min": M1, "5min": M5, "15min": M15, "30min": M30, "60min": H1, "60m": H1, "1hour": H1,
    "1day": D1, "d": D1, "daily": D1, "1week": W1, "1wk": W1, "weekly": W1,
}  # fmt: skip


_ACTIVITY = re.compile(r"([1-9][0-9]{0,14})([tvd])")
_MIN_TURNOVER = 100  # a user who writes `5d` means days, not a bar per five dollars


def parse(name: str) -> Interval:
    """Return the interval with a name (`5m`) or with a vendor's alias (`5min`, `1day`).

    Raises BadInput that lists the supported names.

    >>> parse("5min") is M5, parse("100t").amount
    (True, 100)
    """
    found = _BY_NAME.get(name) or _ALIASES.get(name.lower()) or _activity(name)
    if found is None:
        raise BadInput(
            f"unknown interval {cut(name)!r}; use one of {', '.join(_BY_NAME)}, "
            "or activity bars such as 100t (trades), 10000v (volume), 1000000d (turnover)"
        )
    return found


def _activity(name: str) -> Interval | None:
    match = _ACTIVITY.fullmatch(name)
    if match is None:
        return None
    amount, measure = int(match[1]), match[2]
    return None if measure == "d" and amount < _MIN_TURNOVER else Interval(0, name, measure, amount)
