"""The inputs `vwap` and `session`, for the stream and for batches over columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence

import numpy as np

from tickerplant.core.rules import Rules
from tickerplant.core.sessions import NO_SESSION, Calendar, Calendars
from tickerplant.core.times import DAY_US, BoolArray, Float64Array, Int64Array

DERIVED = {"vwap": ("high", "low", "close"), "session": ("time",)}
"""The columns that an input is made of where it has none of its own."""


def filled(
    vwap: Float64Array, high: Float64Array, low: Float64Array, close: Float64Array, most: float = sys.float_info.max
) -> Float64Array:
    """Return the vwap of each bar, the typical price where it is NaN or beyond ±`most`."""
    own = np.abs(vwap) <= most
    if own.all():
        return vwap
    with np.errstate(over="ignore", invalid="ignore"):  # such prices make a bar that is not used at all
        return np.where(own, vwap, (high + low + close) / 3)


def lacking(name: str, names: Collection[str]) -> str | None:
    """Return the first column that the input `name` cannot do without and that is not among `names`."""
    if name in names:
        return None
    return next((part for part in DERIVED.get(name, (name,)) if part not in names), None)


def supplied(
    name: str, names: Collection[str], floats: Callable[[str], Float64Array], times: Callable[[], Int64Array]
) -> Float64Array:
    """Return an input over columns of bars: its column, or what stands for it where nothing is `lacking`.

    Without a column `vwap` it is the typical price, as for single bars that have none; without a column `session` the
    UTC date of `times`, which are microseconds since 1970.
    """
    if name == "session" and name not in names:
        return (times() // DAY_US).astype(np.float64)
    if name != "vwap":
        return floats(name)
    if any(part not in names for part in DERIVED["vwap"]):
        return floats(name)
    high, low, close = (floats(part) for part in DERIVED["vwap"])
    own = floats(name) if name in names else np.full(len(high), np.nan)
    return filled(own, high, low, close)


class SessionNumbers:
    """The number of the session that a bar belongs to: days since 1970 of its date.

    A time between two sessions has the number of its UTC date and a half: overnight prints are of no session's average.
    """

    def __init__(self, rules: Rules) -> None:
        """Load the calendars. Raises ConfigError for one that is unknown."""
        self._followed = Calendars(rules)
        self._followed.check()
        self._calendars: list[Calendar] = []
        self._of_symbol = np.empty(0, dtype=np.int64)

    def of(self, symbols: Int64Array, known: Sequence[str], times: Int64Array, by_date: BoolArray) -> Float64Array:
        """Return each bar's number. `symbols` index `known`; `by_date` bars are stamped with their session's date.

        Each calendar is asked once, for the different times.
        """
        self._follow(known)
        if by_date.all():
            return (times // DAY_US).astype(np.float64)
        if len(times) and (times == times[0]).all():  # as in most records
            moments, moment = times[:1], np.zeros(1, dtype=np.int64)
        else:
            moments, moment = np.unique(times, return_inverse=True)
        dates = moments // DAY_US
        between = dates.astype(np.float64) + 0.5
        numbers = np.array([self._numbers(calendar, moments, between) for calendar in self._calendars])
        found: Float64Array = numbers[self._of_symbol[symbols], moment]
        return np.where(by_date, dates[moment], found) if by_date.any() else found

    @staticmethod
    def _numbers(calendar: Calendar, moments: Int64Array, between: Float64Array) -> Float64Array:
        sessions = calendar.session_of(moments)
        return np.where(sessions == NO_SESSION, between, sessions / DAY_US)

    def _follow(self, known: Sequence[str]) -> None:
        """Note the calendars of symbols that are new."""
        new = known[len(self._of_symbol) :]
        if not new:
            return
        codes = []
        for symbol in new:
            calendar = self._followed.of(symbol)
            if calendar not in self._calendars:
                self._calendars.append(calendar)
            codes.append(self._calendars.index(calendar))
        self._of_symbol = np.concatenate([self._of_symbol, np.array(codes, dtype=np.int64)])
