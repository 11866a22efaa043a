"""The bars that should be stored: depths of the settings, ranges, and users' orders. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from tickerplant.core.times import DAY_US, HOUR_US

MAX_DAYS: Final = {"1d": 3_653, "5m": 731, "1m": 731}
"""Number of days that `max` covers, by interval, unless the longest lookback of all vendors is shorter.

Ten years for daily bars; the store's retention for the other intervals.
"""

ONCE_WAIT_S: Final = 90.0
"""Maximum wait, in seconds, of a manager that runs once: enough for a minute's credits, but not for a day's credits."""

Lookback = Callable[[str], int | None]
"""Function that returns the longest lookback of all vendors for an interval, in microseconds.

None if a vendor has no limit; 0 if no vendor offers the interval.
"""


@dataclass(frozen=True, slots=True)
class Depth:
    """The days of one interval that should be stored. `days`: None for all days that vendors offer, up to MAX_DAYS."""

    interval: str
    days: int | None

    def start_us(self, now_us: int, lookback_us: int | None) -> int:
        """Return the start of the range. `lookback_us`: the result of a `Lookback`."""
        if self.days is not None:
            return now_us - self.days * DAY_US
        max_us = MAX_DAYS.get(self.interval, 731) * DAY_US
        # An hour less than the vendor's limit: the oldest request is sent some time after it was planned.
        return now_us - (max_us if lookback_us is None else min(max_us, max(0, lookback_us - HOUR_US)))


@dataclass(frozen=True, slots=True)
class WantedRange:
    """A range of a symbol's bars that should be stored, `[start_us, end_us)`."""

    symbol: str
    interval: str
    start_us: int
    end_us: int


class Order(msgspec.Struct, kw_only=True):
    """A user's order for bars, beyond the depths of the settings.

    Empty `intervals` select the intervals of the plan's depths, and empty `symbols` the symbols of the plan.
    `start_us`: 0 for the start of the interval's depth. `end_us`: 0 for now.
    """

    id: str
    symbols: Sequence[str] = ()
    intervals: Sequence[str] = ()
    start_us: int = msgspec.field(default=0, name="from_us")
    end_us: int = msgspec.field(default=0, name="to_us")


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """The work of one manager: bars of all `symbols` as far back as `depths`, and bars of the `ranges`.

    `once`: the manager ends when no request is possible within `once_wait_s` of its clock; used by a command. `order`:
    the manager fetches this order in place of the depths; the depths then only limit how far back the order reaches. If
    a plan has no depths and no ranges, the manager only requests the bars of orders.
    """

    symbols: Sequence[str]
    depths: Sequence[Depth] = ()
    ranges: Sequence[WantedRange] = ()
    order: Order | None = None
    once: bool = False
    once_wait_s: float = ONCE_WAIT_S

    def wanted(self, now_us: int, lookback_us: Lookback) -> Iterator[WantedRange]:
        """Yield the ranges that should be stored at `now_us`, without the ranges of orders."""
        for depth in self.depths if self.order is None else ():
            start_us = depth.start_us(now_us, lookback_us(depth.interval))
            for symbol in self.all_symbols:
                yield WantedRange(symbol, depth.interval, start_us, now_us)
        yield from self.ranges

    def ranges_of(self, order: Order, now_us: int, lookback_us: Lookback) -> list[WantedRange]:
        """Return the ranges of an order, with its defaults filled in."""
        symbols = list(order.symbols) or self.all_symbols
        found = []
        for interval in list(order.intervals) or [depth.interval for depth in self.depths]:
            depth = next((depth for depth in self.depths if depth.interval == interval), Depth(interval, None))
            start_us = order.start_us or depth.start_us(now_us, lookback_us(interval))
            found += [WantedRange(symbol, interval, start_us, order.end_us or now_us) for symbol in symbols]
        return found

    @property
    def all_symbols(self) -> list[str]:
        """Return the symbols of `order` if it has any; otherwise the symbols of the plan, without repeats."""
        ordered = self.order.symbols if self.order is not None else ()
        return list(ordered or dict.fromkeys(self.symbols))
