"""Detects a feed that is connected but delivers no prices, from trading hours and the feed's own rate. Pure.

A vendor may answer heartbeats while its prices have stopped. The allowed time without a price depends on the usual
rate. The rate is measured separately for each set of calendars that are in regular hours together. A few crypto pairs,
for example, deliver fewer prices while stocks are closed. No price is expected outside all regular hours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.core.sessions import NO_SESSION, Calendars
from tickerplant.core.times import MINUTE_US

OpenMarkets = tuple[bool, ...]
"""One flag for each calendar of a feed: True if it is in regular hours."""

SHORTEST_S: Final = 20.0
INTERVALS: Final = 50
"""Allowed time without a price, in mean times between prices, but never less than `SHORTEST_S`. Exponential times
between prices exceed 50 means once in 10^21. Openings, lunch breaks and halts of many symbols reduce the rate to a
tenth of the mean, not to a fiftieth."""
UNKNOWN_S: Final = 1_800.0
"""Allowed seconds without a price if no rate is known: one illiquid symbol may be silent for minutes."""
LONGEST_S: Final = 3_600.0
GAP_S: Final = 5.0
"""Minimum seconds without a price on a live connection after which prices count as missed. The time is also at least
`INTERVALS` mean times."""
_MEMORY_S: Final = 1_800.0
_ENOUGH: Final = 10.0


class OpenHours:
    """The open hours of some symbols' calendars, evaluated once for each minute of the requested times."""

    def __init__(self, calendars: Calendars, symbols: Iterable[str]) -> None:
        found = {calendar.name: calendar for calendar in (calendars.of(symbol) for symbol in symbols)}
        self._calendars = list(found.values())
        self._minute = -1
        self._open_markets: OpenMarkets = ()
        self._in_session = False

    def open_markets(self, now_us: int) -> OpenMarkets:
        """Return a flag for each calendar: True if it is in regular hours."""
        self._update(now_us)
        return self._open_markets

    def in_session(self, now_us: int) -> bool:
        """Return True if any symbol is in a session, including extended hours."""
        self._update(now_us)
        return self._in_session

    def _update(self, now_us: int) -> None:
        minute = now_us // MINUTE_US
        if minute != self._minute:
            times = np.array([now_us])
            self._minute = minute
            self._open_markets = tuple(bool(one.is_regular(times)[0]) for one in self._calendars)
            self._in_session = any(int(one.session_of(times)[0]) != NO_SESSION for one in self._calendars)


@dataclass(slots=True)
class _Rate:
    seconds: float = 0.0
    prices: float = 0.0


class PriceLiveness:
    """Measures the rate of prices and detects that they have stopped. Times are seconds of one monotonic clock.

    `shortest_s`: lower bound of the allowed time without a price.
    """

    def __init__(self, shortest_s: float = SHORTEST_S) -> None:
        self._shortest_s = shortest_s
        self._rates: dict[OpenMarkets, _Rate] = {}
        self._markets: OpenMarkets = ()
        self._since_s = 0.0
        self._silent_connections = 0

    def start(self, now_s: float, markets: OpenMarkets) -> None:
        """Start a connection. Measured rates are retained; the time without a connection does not count."""
        self._markets, self._since_s = markets, now_s

    def observe(self, now_s: float, markets: OpenMarkets, prices: int) -> None:
        """Update the rate with prices that arrived."""
        if markets == self._markets:
            rate = self._rates.setdefault(markets, _Rate())
            passed = now_s - self._since_s
            weight = math.exp(-passed / _MEMORY_S)
            rate.seconds = rate.seconds * weight + passed
            rate.prices = rate.prices * weight + prices
        self._markets, self._since_s, self._silent_connections = markets, now_s, 0

    def allowed_s(self, markets: OpenMarkets) -> float:
        """Return the allowed seconds without a price, doubled for each connection in a row without a price.

        The doubling ends at LONGEST_S. The result is infinite if no calendar is open.
        """
        if not any(markets):
            return math.inf
        rate = self._rates.get(markets)
        known = rate is not None and rate.prices >= _ENOUGH
        usual_s = INTERVALS * rate.seconds / rate.prices if rate is not None and known else UNKNOWN_S
        shortest_s = max(self._shortest_s, usual_s) if known else UNKNOWN_S
        return max(shortest_s, min(shortest_s * 2.0 ** min(self._silent_connections, 16), LONGEST_S))

    def min_gap_s(self, markets: OpenMarkets) -> float:
        """Return the seconds without a price after which prices count as missed.

        The result is infinite if no rate is known or no calendar is open.
        """
        rate = self._rates.get(markets)
        if rate is None or rate.prices < _ENOUGH or not any(markets):
            return math.inf
        return max(GAP_S, INTERVALS * rate.seconds / rate.prices)

    def is_too_long(self, now_s: float, markets: OpenMarkets) -> bool:
        """Return True if no price arrived for too long; the next connection is then allowed more time."""
        if markets != self._markets:  # an opening or a close: the earlier rate no longer applies
            self._markets, self._since_s = markets, now_s
        if now_s - self._since_s <= self.allowed_s(markets):
            return False
        self._silent_connections += 1
        return True
