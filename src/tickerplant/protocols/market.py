"""The market that the protocols serve: instruments, bars, trades and corporate actions at one instant. Pure.

`Market` is the only interface between a protocol and the data. An implementation is a view at a fixed time, `now_us`:
nothing later is visible through it. Times are microseconds UTC; ranges exclude their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import BoolArray, Float64Array, Int64Array

STOCK, FOREX, CRYPTO = "stock", "forex", "crypto"
AS_TRADED, FOR_SPLITS, FOR_DIVIDENDS, FOR_ALL = "none", "splits", "dividends", "all"
"""Adjustments of bars: none, splits, dividends, or both. The values are those of Twelve Data's parameter `adjust`."""
NEW_YORK: Final = ZoneInfo("America/New_York")
"""Time zone of stocks."""
NO_VOLUME: Final = -1
"""Value in `TradeBatch.day_volumes`: the day's volume is unknown."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """The description of a symbol.

    `kind`: STOCK, FOREX or CRYPTO. `has_sessions`: the symbol trades only in sessions of an exchange, not round the
    clock. `exchange` and `mic_code` are "" if the symbol has none. A pair's symbol is `BASE/QUOTE`.
    """

    symbol: str
    kind: str
    name: str
    exchange: str = ""
    mic_code: str = ""
    has_sessions: bool = False

    @property
    def pair(self) -> tuple[str, str]:
        """Return base and quote; the quote of a stock is ""."""
        base, _, quote = self.symbol.partition("/")
        return base, quote


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars of one symbol in time order. An interval without a trade has no bar."""

    starts_us: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Int64Array

    def take(self, rows: Int64Array | BoolArray | slice) -> Bars:
        """Return the selected bars."""
        return Bars(
            self.starts_us[rows], self.open[rows], self.high[rows], self.low[rows], self.close[rows], self.volume[rows]
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trades:
    """Trades of one symbol in time order."""

    times_us: Int64Array
    prices: Float64Array
    sizes: Int64Array


@dataclass(frozen=True, slots=True)
class TradeBatch:
    """Trades of many symbols in time order, as a stream sends them.

    `codes` are indices into the list of instruments. `day_volumes` are each symbol's volume of the UTC day, this trade
    included; NO_VOLUME if it is unknown.
    """

    codes: npt.NDArray[np.int64]
    times_us: Int64Array
    prices: Float64Array
    day_volumes: Int64Array
    sizes: Int64Array


class Split(NamedTuple):
    """A split, in force from `us`, 00:00 UTC of its day. A 4-for-1 split has numerator 4."""

    us: int
    numerator: int
    denominator: int


class Dividend(NamedTuple):
    """A dividend. `us` is 00:00 UTC of the ex-date; `amount` is the amount per share of that day."""

    us: int
    amount: float


class Market(Protocol):
    """A view of a market at `now_us`. Methods are pure. A symbol argument must be a known symbol, except for `find`."""

    @property
    def now_us(self) -> int:
        """Return the time of the view in microseconds UTC."""
        ...

    @property
    def instruments(self) -> Sequence[Instrument]:
        """Return all known instruments."""
        ...

    def find(self, symbol: str) -> Instrument | None:
        """Return a symbol's instrument; None if it is unknown."""
        ...

    def bars(self, symbol: str, start_us: int, end_us: int, length_us: int, adjustment: str = AS_TRADED) -> Bars:
        """Return the bars that start in the range; the last bar may be forming.

        Weeks begin on Monday, days at 00:00 UTC. Weeks are built from adjusted days. Intraday bars longer than 30
        minutes of an instrument with sessions are aligned to the session's open.
        """
        ...

    def month_bars(self, symbol: str, start_us: int, end_us: int, months: int, adjustment: str = AS_TRADED) -> Bars:
        """Return bars of 1 or 3 months, built from adjusted days before the end. The first bar contains `start_us`."""
        ...

    def trades(self, symbol: str, start_us: int, end_us: int) -> Trades:
        """Return the trades in the range."""
        ...

    def price(self, symbol: str) -> float:
        """Return the last price as traded at `now_us`."""
        ...

    def splits(self, symbol: str, start_us: int = 0) -> Sequence[Split]:
        """Return the splits that took effect from `start_us` to `now_us`, oldest first; [] if there are none."""
        ...

    def dividends(self, symbol: str, start_us: int = 0) -> Sequence[Dividend]:
        """Return the dividends with an ex-date from `start_us` to `now_us`, oldest first; [] if there are none."""
        ...

    def session_of(self, symbol: str, day_us: int) -> tuple[int, int]:
        """Return start and end of a stock's regular session on a date (00:00 UTC); the usual hours on a holiday."""
        ...

    def in_session(self, symbol: str, times_us: Int64Array) -> BoolArray:
        """Return a mask of the times within a regular session of the stock's exchange."""
        ...
