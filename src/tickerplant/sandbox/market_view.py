"""The simulated market as the protocols read it: `protocols.market.Market` at a fixed time. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from tickerplant.core.times import BoolArray, Int64Array
from tickerplant.protocols.market import AS_TRADED, Bars, Dividend, Instrument, Split, Trades
from tickerplant.sandbox.corporate_actions import TradedMarket
from tickerplant.sandbox.hours import in_session, session_of


@dataclass(frozen=True, slots=True)
class MarketView:
    """A view of a market at `now_us`. Symbols in `hidden` are unknown."""

    traded: TradedMarket
    now_us: int
    hidden: Set[str] = frozenset()

    @property
    def instruments(self) -> Sequence[Instrument]:
        """Return all instruments that are not hidden."""
        return [found for found in self.traded.instruments if found.symbol not in self.hidden]

    def find(self, symbol: str) -> Instrument | None:
        """Return a symbol's instrument; None if it is unknown or hidden."""
        code = self.traded.model.code.get(symbol)
        return None if code is None or symbol in self.hidden else self.traded.instruments[code]

    def bars(self, symbol: str, start_us: int, end_us: int, length_us: int, adjustment: str = AS_TRADED) -> Bars:
        """Return the bars that start in the range; the last bar may be forming."""
        return self.traded.bars(symbol, start_us, end_us, length_us, self.now_us, adjustment=adjustment)

    def month_bars(self, symbol: str, start_us: int, end_us: int, months: int, adjustment: str = AS_TRADED) -> Bars:
        """Return bars of 1 or 3 months. The first bar contains `start_us`."""
        return self.traded.month_bars(symbol, start_us, end_us, months, self.now_us, adjustment=adjustment)

    def trades(self, symbol: str, start_us: int, end_us: int) -> Trades:
        """Return the trades in the range, with the model's prices and sizes: splits are not applied."""
        batch = self.traded.model.trades_of(symbol, start_us, end_us)
        return Trades(batch.times_us, batch.prices, batch.sizes)

    def price(self, symbol: str) -> float:
        """Return the last price as traded."""
        return self.traded.price(symbol, self.now_us)

    def splits(self, symbol: str, start_us: int = 0) -> Sequence[Split]:
        """Return the splits that took effect from `start_us` to `now_us`, oldest first; [] if there are none."""
        return self.traded.splits(symbol, start_us, self.now_us)

    def dividends(self, symbol: str, start_us: int = 0) -> Sequence[Dividend]:
        """Return the dividends with an ex-date from `start_us` to `now_us`, oldest first; [] if there are none."""
        return self.traded.dividends(symbol, start_us, self.now_us)

    def session_of(self, symbol: str, day_us: int) -> tuple[int, int]:
        """Return start and end of New York's regular session on a date; the usual hours on a holiday."""
        return session_of(day_us)

    def in_session(self, symbol: str, times_us: Int64Array) -> BoolArray:
        """Return a mask of the times within New York's regular session."""
        return in_session(times_us)
