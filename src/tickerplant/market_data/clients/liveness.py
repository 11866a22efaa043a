"""When a feed that is up but brings no prices is silent too long: by the sessions, and by what it brought before. Pure.

A vendor may go on answering heartbeats while its prices have stopped. How long without one is too long depends on how
often they come, which is learned, apart for each set of calendars that are in regular hours together: with stocks
closed a few crypto pairs bring less. Outside of all regular hours nothing is expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.core.sessions import NO_SESSION, Calendars
from tickerplant.core.times import MINUTE_US

Regime = tuple[bool, ...]
"""Which of a feed's calendars are in regular hours."""

SHORTEST_S: Final = 20.0
GAPS: Final = 50
"""No price for as many expected gaps, and never less than `SHORTEST_S`: gaps that are exponential exceed 50 of their
mean once in 10^21; openings, lunch and halts of many symbols make them a tenth as frequent, not a fiftieth."""
UNKNOWN_S: Final = 1_800.0
"""Where nothing has been learned: half an hour, for one illiquid symbol may well be silent for minutes."""
LONGEST_S: Final = 3_600.0
HOLE_S: Final = 5.0
"""Prices that come again after so long without one, and after as many expected gaps, show that some were missed."""
_MEMORY_S: Final = 1_800.0
_ENOUGH: Final = 10.0


class Hours:
    """Which of the calendars of some symbols are open; looked up once a minute of the time asked for."""

    def __init__(self, calendars: Calendars, symbols: Iterable[str]) -> None:
        found = {calendar.name: calendar for calendar in (calendars.of(symbol) for symbol in symbols)}
        self._calendars = list(found.values())
        self._minute = -1
        self._regime: Regime = ()
        self._in_session = False

    def regime(self, now_us: int) -> Regime:
        """Return for each calendar whether it is in regular hours."""
        self._look(now_us)
        return self._regime

    def in_session(self, now_us: int) -> bool:
        """Return whether any symbol is in a session, extended hours included."""
        self._look(now_us)
        return self._in_session

    def _look(self, now_us: int) -> None:
        minute = now_us // MINUTE_US
        if minute != self._minute:
            times = np.array([now_us])
            self._minute = minute
            self._regime = tuple(bool(one.is_regular(times)[0]) for one in self._calendars)
            self._in_session = any(int(one.session_of(times)[0]) != NO_SESSION for one in self._calendars)


@dataclass(slots=True)
class _Rate:
    seconds: float = 0.0
    prices: float = 0.0


class Silence:
    """Learns how often prices come, and says when they have been gone for too long. Times are seconds of one clock.

    No shorter time than `shortest_s` is too long.
    """

    def __init__(self, shortest_s: float = SHORTEST_S) -> None:
        self._shortest_s = shortest_s
        self._rates: dict[Regime, _Rate] = {}
        self._regime: Regime = ()
        self._since_s = 0.0
        self._in_vain = 0

    def connected(self, now_s: float, regime: Regime) -> None:
        """Begin to listen: what was learned stays, the time without a connection counts for nothing."""
        self._regime, self._since_s = regime, now_s

    def heard(self, now_s: float, regime: Regime, prices: int) -> None:
        """Take note of prices that have come."""
        if regime == self._regime:
            rate = self._rates.setdefault(regime, _Rate())
            passed = now_s - self._since_s
            kept = math.exp(-passed / _MEMORY_S)
            rate.seconds = rate.seconds * kept + passed
            rate.prices = rate.prices * kept + prices
        self._regime, self._since_s, self._in_vain = regime, now_s, 0

    def allowed_s(self, regime: Regime) -> float:
        """Return how long no price may come; twice as long for each connection that brought none."""
        if not any(regime):
            return math.inf
        rate = self._rates.get(regime)
        known = rate is not None and rate.prices >= _ENOUGH
        shortest = max(self._shortest_s, GAPS * rate.seconds / rate.prices) if rate is not None and known else UNKNOWN_S
        return max(shortest, min(shortest * 2.0 ** min(self._in_vain, 16), LONGEST_S))

    def hole_s(self, regime: Regime) -> float:
        """Return after how long without a price those that come again show that some were missed in between."""
        rate = self._rates.get(regime)
        if rate is None or rate.prices < _ENOUGH or not any(regime):
            return math.inf
        return max(HOLE_S, GAPS * rate.seconds / rate.prices)

    def too_long(self, now_s: float, regime: Regime) -> bool:
        """Return whether it is; then the next connection is given more time."""
        if regime != self._regime:  # an opening or a close: what was expected before says nothing of now
            self._regime, self._since_s = regime, now_s
        if now_s - self._since_s <= self.allowed_s(regime):
            return False
        self._in_vain += 1
        return True
