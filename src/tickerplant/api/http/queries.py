"""Query parameters of the routes as dataclasses, and the parsed request for one page of rows.

FastAPI uses each dataclass as a dependency: its fields become query parameters in the order of the fields. This module
has no `from __future__ import annotations`, because FastAPI cannot resolve the text annotations of a dataclass.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query

from tickerplant.api.http import formats, params
from tickerplant.api.http.openapi import LIMITS, Adjust, End, Format, Limit, Skip, Start, Times, Zone
from tickerplant.api.http.params import DEFAULT_LIMIT, MAX_LIMIT, RowRange
from tickerplant.core.interval import Interval


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A valid request for one page of a symbol's rows. `interval` is None for ticks."""

    symbol: str
    interval: Interval | None
    range: RowRange
    tz: str
    zone: dt.tzinfo
    format: str
    times: str

    @property
    def by_session(self) -> bool:
        """Return True for daily and weekly bars. Their rows have dates of trading sessions instead of instants."""
        return self.interval is not None and not self.interval.is_intraday

    def head(self) -> dict[str, Any]:
        """Return the fields that identify the rows in a JSON answer."""
        interval = {} if self.interval is None else {"interval": self.interval.name}
        return {"symbol": self.symbol, **interval, "tz": self.tz}

    def time(self, us: int) -> str | int:
        """Format a row's time, given in µs, in the requested style, exact to the microsecond."""
        return formats.exact_time(us, self.zone, self.times, sessions=self.by_session)


@dataclass(frozen=True, slots=True)
class RowQuery:
    """Parameters of the routes that return rows of an interval: range, page size and encoding."""

    start: Start = None
    end: End = None
    limit: Limit = DEFAULT_LIMIT
    tz: Zone = "UTC"
    format: Format = "json"
    times: Times = "iso"

    def page(self, symbol: str, interval: Interval) -> PageRequest:
        """Return the parsed request for rows of a symbol and interval. Raises BadInput."""
        name, zone = params.parse_symbol(symbol), params.parse_zone(self.tz)
        requested = params.parse_range(self.start, self.end, self.limit, zone, sessions=not interval.is_intraday)
        return PageRequest(name, interval, requested, self.tz, zone, self.format, self.times)


@dataclass(frozen=True, slots=True)
class BarQuery(RowQuery):
    """Parameters of the routes that return bars."""

    adjust: Adjust = "none"


@dataclass(frozen=True, slots=True)
class TickQuery:
    """Parameters of the route that returns ticks."""

    start: Start = None
    end: End = None
    limit: Limit = DEFAULT_LIMIT
    skip: Skip = 0
    tz: Zone = "UTC"
    format: Format = "json"
    times: Times = "iso"

    def page(self, symbol: str) -> PageRequest:
        """Return the parsed request for ticks of a symbol. Raises BadInput."""
        name, zone = params.parse_symbol(symbol), params.parse_zone(self.tz)
        requested = params.parse_range(self.start, self.end, self.limit, zone, skip=self.skip)
        return PageRequest(name, None, requested, self.tz, zone, self.format, self.times)


@dataclass(frozen=True, slots=True)
class RealtimeQuery:
    """Parameters of the route that returns the newest state, or ticks if `start`, `end`, `limit` or `skip` is given."""

    start: Start = None
    end: End = None
    limit: Annotated[
        int | None,
        Query(description=f"Maximum number of ticks, up to {MAX_LIMIT:,}. If given, the answer contains ticks, not the "
              f"state. Default with `start` or `end`: {DEFAULT_LIMIT:,}. `next` has the next page's parameters.",
              json_schema_extra=LIMITS),
    ] = None  # fmt: skip
    skip: Skip = 0
    tz: Zone = "UTC"
    format: Format = "json"
    times: Times = "iso"

    @property
    def wants_ticks(self) -> bool:
        """Return True if the client requested ticks instead of the newest state."""
        return bool(self.start or self.end or self.limit is not None or self.skip)

    def page(self, symbol: str) -> PageRequest:
        """Return the parsed request for ticks of a symbol. Raises BadInput."""
        limit = DEFAULT_LIMIT if self.limit is None else self.limit
        ticks = TickQuery(self.start, self.end, limit, self.skip, self.tz, self.format, self.times)
        return ticks.page(symbol)


CoverageInterval = Annotated[str, Query(description="The interval of the bars: `1m`, `5m` or `1d`.", examples=["1m"])]
CoverageFrom = Annotated[
    str | None,
    Query(alias="from", description="Start of the range, inclusive: ISO 8601, a date, or seconds, milliseconds or "
          "microseconds since 1970. Default: the last five sessions, or one year for daily bars.",
          examples=["2026-03-09"]),
]  # fmt: skip
CoverageTo = Annotated[
    str | None, Query(alias="to", description="End of the range, exclusive, in the formats of `from`. Default: now.")
]


@dataclass(frozen=True, slots=True)
class CoverageQuery:
    """Parameters of the route that returns one symbol's coverage."""

    interval: CoverageInterval = "1m"
    from_: CoverageFrom = None
    to: CoverageTo = None
    limit: Annotated[
        int,
        Query(description=f"Maximum number of ranges, up to {MAX_LIMIT:,}. `next` contains the start of the next "
              "page.", json_schema_extra=LIMITS),
    ] = MAX_LIMIT  # fmt: skip
    tz: Zone = "UTC"
    format: Format = "json"
    times: Times = "iso"
