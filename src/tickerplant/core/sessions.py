"""Trading sessions: the session of a time, its open and close, and the calendar of a symbol.

The key of a session is its date, at 00:00 UTC in microseconds. Its *regular* hours are half-open, `[open, close)`,
without the lunch break if the exchange has one. Extended hours surround them:

- A session begins at 04:00 local time, or at its open if that is earlier.
- It ends at 20:00 local time or four hours after its close, whichever is earlier, but not before its close.
- It begins at or after the end of its predecessor, and ends at or before the open of its successor.

The calendars `24/7` and `FX` have no extended hours.

Times between two sessions belong to no session. An overnight print is in intraday bars, which depend on time only, and
in no daily bar.

`core.schedules` loads the schedules. They cover fixed years, so sessions do not depend on the clock. There is no
session outside these years.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase, translate
from functools import cache
from typing import Final, Protocol

import numpy as np

from tickerplant.core.currency import ISO_4217
from tickerplant.core.rules import Rules
from tickerplant.core.schedules import Schedule, foreign_exchange_schedule, library_schedule, packaged_schedule
from tickerplant.core.times import DAY_US, FOREVER_US, NEVER_US, BoolArray, Int64Array

NO_SESSION: Final = NEVER_US
"""Result of `session_of` for a time in no session."""

ALWAYS_OPEN: Final = "24/7"
FOREIGN_EXCHANGE: Final = "FX"
"""Name of the calendar of currency pairs. `schedules.foreign_exchange_schedule` returns its schedule."""
_CURRENCY: Final = "{currency}"
_PLACE: Final = "\ue000"  # a character without meaning in patterns


class Calendar(Protocol):
    """The sessions of one exchange, vectorised: int64[n] in, int64[n] or bool[n] out. Times are microseconds UTC."""

    name: str

    def session_of(self, times: Int64Array) -> Int64Array:
        """Return the date of the session of each time, extended hours included, or NO_SESSION."""
        ...

    def is_regular(self, times: Int64Array) -> BoolArray:
        """Return whether each time is in regular hours."""
        ...

    def is_session(self, dates: Int64Array) -> BoolArray:
        """Return whether each time is the key of a session: 00:00 UTC of its date."""
        ...

    def open_of(self, sessions: Int64Array) -> Int64Array:
        """Return the open of each session. Raises ValueError for a date without a session."""
        ...

    def close_of(self, sessions: Int64Array) -> Int64Array:
        """Return the close of each session, exclusive. Raises ValueError like `open_of`."""
        ...

    def bounds_of(self, sessions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return start and end of each session, extended hours included. Raises ValueError like `open_of`."""
        ...

    def start_of_last_sessions(self, times: Int64Array, sessions: int) -> Int64Array:
        """Return for each time the start of the `sessions`-th last session that has begun by then.

        The date of that session is returned if it is earlier than the start; NEVER_US if fewer sessions have begun.
        """
        ...

    def bounds(self) -> tuple[int, int]:
        """Return the range that the calendar covers, `[start, end)`."""
        ...


class AlwaysOpen:
    """The calendar `24/7`: each UTC day is a session of regular hours."""

    name = ALWAYS_OPEN

    def session_of(self, times: Int64Array) -> Int64Array:
        """Return the UTC day of each time."""
        return times - times % DAY_US

    def is_regular(self, times: Int64Array) -> BoolArray:
        """Return True for each time."""
        return np.ones(len(times), dtype=np.bool_)

    def is_session(self, dates: Int64Array) -> BoolArray:
        """Return whether each time is 00:00 UTC of a day."""
        return np.asarray(dates % DAY_US == 0)

    def open_of(self, sessions: Int64Array) -> Int64Array:
        """Return 00:00 UTC of each session."""
        return self._checked(sessions)

    def close_of(self, sessions: Int64Array) -> Int64Array:
        """Return 00:00 UTC of the day after each session."""
        return self._checked(sessions) + DAY_US

    def bounds_of(self, sessions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return open and close of each session."""
        return self.open_of(sessions), self.close_of(sessions)

    def start_of_last_sessions(self, times: Int64Array, sessions: int) -> Int64Array:
        """Return for each time the start of the last `sessions` UTC days, the current day included."""
        return self.session_of(times) - (sessions - 1) * DAY_US

    def bounds(self) -> tuple[int, int]:
        """Return (NEVER_US, FOREVER_US): the calendar covers all times."""
        return NEVER_US, FOREVER_US

    @staticmethod
    def _checked(sessions: Int64Array) -> Int64Array:
        if np.any(sessions % DAY_US):
            raise ValueError("the key of a session is 00:00 UTC of its date")
        return sessions


class ExchangeCalendar:
    """An exchange's schedule as sorted arrays, one element per session."""

    def __init__(
        self,
        name: str,
        *,
        dates: Int64Array,
        opens: Int64Array,
        closes: Int64Array,
        breaks: tuple[Int64Array, Int64Array],
        extended: tuple[Int64Array, Int64Array],
    ) -> None:
        self.name = name
        self._dates, self._opens, self._closes = dates, opens, closes
        self._break_starts, self._break_ends = breaks
        begins, ends = np.minimum(extended[0], opens), np.maximum(extended[1], closes)
        ends[:-1] = np.minimum(ends[:-1], np.maximum(opens[1:], closes[:-1]))
        begins[1:] = np.maximum(begins[1:], ends[:-1])
        self._begins, self._ends = begins, ends

    def session_of(self, times: Int64Array) -> Int64Array:
        """Return the date of the session of each time, or NO_SESSION."""
        at = np.searchsorted(self._begins, times, side="right") - 1
        inside = (at >= 0) & (times < self._ends[at])
        return np.where(inside, self._dates[at], NO_SESSION)

    def is_regular(self, times: Int64Array) -> BoolArray:
        """Return whether each time is in `[open, close)` and not in the lunch break."""
        at = np.searchsorted(self._opens, times, side="right") - 1
        regular: BoolArray = (at >= 0) & (times < self._closes[at])
        regular &= ~((times >= self._break_starts[at]) & (times < self._break_ends[at]))
        return regular

    def is_session(self, dates: Int64Array) -> BoolArray:
        """Return whether each time is the key of a session."""
        at = np.minimum(np.searchsorted(self._dates, dates), len(self._dates) - 1)
        return np.asarray(self._dates[at] == dates)

    def open_of(self, sessions: Int64Array) -> Int64Array:
        """Return the open of each session."""
        return self._opens[self._at(sessions)]

    def close_of(self, sessions: Int64Array) -> Int64Array:
        """Return the close of each session."""
        return self._closes[self._at(sessions)]

    def bounds_of(self, sessions: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Return start and end of each session, extended hours included."""
        at = self._at(sessions)
        return self._begins[at], self._ends[at]

    def start_of_last_sessions(self, times: Int64Array, sessions: int) -> Int64Array:
        """Return the start of a session or its date, as `Calendar.start_of_last_sessions` defines it."""
        at = np.searchsorted(self._begins, times, side="right") - sessions
        found = np.minimum(self._begins[at], self._dates[at])
        return np.where(at >= 0, found, NEVER_US)

    def bounds(self) -> tuple[int, int]:
        """Return the start of the first session and the end of the last session."""
        return int(self._begins[0]), int(self._ends[-1])

    def _at(self, sessions: Int64Array) -> Int64Array:
        at = np.minimum(np.searchsorted(self._dates, sessions), len(self._dates) - 1)
        if np.any(self._dates[at] != sessions):
            raise ValueError(f"not sessions of {self.name}: {sessions[self._dates[at] != sessions][:3]}")
        return at


@cache
def calendar(name: str) -> Calendar:
    """Return the calendar with a name: `24/7`, `FX`, or a name of exchange_calendars, for example `XNYS`.

    Results are cached. The first call takes about 0.25 s if no schedule is packaged, plus some seconds to import the
    library. Raises ConfigError for an unknown name, or if the library fails.
    """
    if name == ALWAYS_OPEN:
        return AlwaysOpen()
    if name == FOREIGN_EXCHANGE:
        return _from_schedule(name, foreign_exchange_schedule())
    return _from_schedule(name, packaged_schedule(name) or library_schedule(name))


def _from_schedule(name: str, schedule: Schedule) -> ExchangeCalendar:
    return ExchangeCalendar(
        name,
        dates=schedule["dates"],
        opens=schedule["open"],
        closes=schedule["close"],
        breaks=(schedule["break_start"], schedule["break_end"]),
        extended=(schedule["extended_from"], schedule["extended_to"]),
    )


def end_of(calendar: Calendar, session: int, *, extended: bool) -> int:
    """Return the end of a session in microseconds UTC: the end of its extended hours, or its regular close.

    A date that is not a session of the calendar ends with its UTC day.
    """
    sessions = np.array([session])
    try:
        ends = calendar.bounds_of(sessions)[1] if extended else calendar.close_of(sessions)
    except ValueError:
        return session + DAY_US
    return int(ends[0])


def matches(symbol: str, pattern: str) -> bool:
    """Return whether a symbol matches a shell pattern in which `{currency}` is a code of ISO 4217.

    >>> matches("EUR/USD", "{currency}/{currency}"), matches("BTC/USD", "{currency}/{currency}")
    (True, False)
    """
    if _CURRENCY not in pattern:
        return fnmatchcase(symbol, pattern)
    found = re.match(translate(pattern.replace(_CURRENCY, _PLACE)).replace(_PLACE, "([A-Z]{3})"), symbol)
    return found is not None and ISO_4217.issuperset(found.groups())


MAX_KEPT: Final = 65_536
"""Maximum symbols whose calendars are kept. A client of the API may request any name."""


class Calendars:
    """The calendar of each symbol by the rules' patterns. The first matching pattern applies."""

    def __init__(self, rules: Rules) -> None:
        self._patterns: Mapping[str, str] = dict(rules.calendars)
        self._found: dict[str, Calendar] = {}

    def loaded(self, symbol: str) -> Calendar | None:
        """Return the symbol's calendar if `of` has returned it before and it is kept, otherwise None."""
        return self._found.get(symbol)

    def of(self, symbol: str) -> Calendar:
        """Return the symbol's calendar, 24/7 if no pattern matches. Raises ConfigError as `calendar` does."""
        found = self._found.get(symbol)
        if found is None:
            names = (name for pattern, name in self._patterns.items() if matches(symbol, pattern))
            found = calendar(next(names, ALWAYS_OPEN))
            if len(self._found) >= MAX_KEPT:
                self._found.popitem()  # the newest: symbols of the feeds are older
            self._found[symbol] = found
        return found

    def check(self) -> None:
        """Load all calendars of the rules. Raises ConfigError as `calendar` does."""
        for name in self._patterns.values():
            calendar(name)
