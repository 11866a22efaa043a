"""The inputs `vwap` and `session`, derived from other columns where a bar lacks them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence

import numpy as np

from tickerplant.core.rules import Rules
from tickerplant.core.sessions import NO_SESSION, Calendar, Calendars
from tickerplant.core.times import DAY_US, BoolArray, Float64Array, Int64Array

DERIVED = {"vwap": ("high", "low", "close"), "session": ("time",)}
"""Columns from which an input is derived if its own column is missing."""


def fill_vwap(
    vwap: Float64Array, high: Float64Array, low: Float64Array, close: Float64Array, limit: float = sys.float_info.max
) -> Float64Array:
    """Return the vwap of each bar, replaced by the typical price where it is NaN or beyond ±`limit`."""
    valid = np.abs(vwap) <= limit
    if valid.all():
        return vwap
    with np.errstate(over="ignore", invalid="ignore"):  # a bar with such prices is not usable
        return np.where(valid, vwap, (high + low + close) / 3)


def missing_column(name: str, names: Collection[str]) -> str | None:
    """Return the first column that the input `name` needs and that is not in `names`; None if no column is missing."""
    if name in names:
        return None
    return next((part for part in DERIVED.get(name, (name,)) if part not in names), None)


def input_column(
    name: str, names: Collection[str], floats: Callable[[str], Float64Array], times: Callable[[], Int64Array]
) -> Float64Array:
    """Return the values of one input for all bars: its own column, or the column derived from others.

    No needed column may be missing: `missing_column` must return None. The typical price replaces a missing column
    `vwap`. It also replaces each missing value of `vwap`, if there are columns high, low and close. The UTC date in
    days since 1970 replaces a missing column `session`. `times` returns microseconds since 1970.
    """
    if name == "session" and name not in names:
        return (times() // DAY_US).astype(np.float64)
    if name != "vwap":
        return floats(name)
    if any(part not in names for part in DERIVED["vwap"]):
        return floats(name)
    high, low, close = (floats(part) for part in DERIVED["vwap"])
    own = floats(name) if name in names else np.full(len(high), np.nan)
    return fill_vwap(own, high, low, close)


class SessionNumbers:
    """The number of a bar's session: the date of the session in days since 1970.

    A time between two sessions has the number of its UTC date plus one half, so overnight bars belong to no session.
    """

    def __init__(self, rules: Rules) -> None:
        """Load the calendars. Raises ConfigError for a calendar that cannot be loaded."""
        self._all_calendars = Calendars(rules)
        self._all_calendars.check()
        self._calendars: list[Calendar] = []
        self._of_symbol = np.empty(0, dtype=np.int64)

    def of(self, symbols: Int64Array, known: Sequence[str], times: Int64Array, by_date: BoolArray) -> Float64Array:
        """Return each bar's session number: float64[n].

        `symbols` are indices into `known`. `by_date` marks bars whose time is the date of their session. Each calendar
        is evaluated once, for the distinct times.
        """
        self._add_symbols(known)
        if by_date.all():
            return (times // DAY_US).astype(np.float64)
        if len(times) and (times == times[0]).all():  # true for most records
            distinct, inverse = times[:1], np.zeros(1, dtype=np.int64)
        else:
            distinct, inverse = np.unique(times, return_inverse=True)
        dates = distinct // DAY_US
        between = dates.astype(np.float64) + 0.5
        numbers = np.array([self._numbers(calendar, distinct, between) for calendar in self._calendars])
        found: Float64Array = numbers[self._of_symbol[symbols], inverse]
        return np.where(by_date, dates[inverse], found) if by_date.any() else found

    @staticmethod
    def _numbers(calendar: Calendar, distinct: Int64Array, between: Float64Array) -> Float64Array:
        sessions = calendar.session_of(distinct)
        return np.where(sessions == NO_SESSION, between, sessions / DAY_US)

    def _add_symbols(self, known: Sequence[str]) -> None:
        """Look up the calendars of new symbols."""
        new = known[len(self._of_symbol) :]
        if not new:
            return
        codes = []
        for symbol in new:
            calendar = self._all_calendars.of(symbol)
            if calendar not in self._calendars:
                self._calendars.append(calendar)
            codes.append(self._calendars.index(calendar))
        self._of_symbol = np.concatenate([self._of_symbol, np.array(codes, dtype=np.int64)])
