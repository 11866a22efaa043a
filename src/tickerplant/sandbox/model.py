"""The simulated market: prices, sizes and times of trades as a pure function of settings, symbol and time.

The stream and the history of any day therefore agree in every query, and a run can be repeated. Bars equal the bars of
the trades, to the last price increment. `days` models a trading day, `hours` the trading hours, `symbol_profiles` each
symbol's properties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.errors import ConfigError
from tickerplant.core.sessions import FOREIGN_EXCHANGE, matches
from tickerplant.core.times import DAY_US, MINUTE_US, BoolArray, Float64Array, Int64Array
from tickerplant.protocols.market import Bars, TradeBatch
from tickerplant.sandbox.days import DayModel, Days, Minutes
from tickerplant.sandbox.hours import BLOCK, Hours, WeekHours
from tickerplant.sandbox.symbol_profiles import KNOWN, SymbolProfiles

_DAYS_PER_BATCH: Final = 128
"""Days computed together for bars. 128 days have 184,320 minutes round the clock and need about 50 MB."""
_LOOKBACK_DAYS: Final = 10
"""Days searched for a symbol's last trade. The longest period without a session is shorter."""


def symbol_names(count: int) -> tuple[str, ...]:
    """Return the first `count` symbols of the sandbox.

    >>> symbol_names(13)[-2:]
    ('BTC/USD', 'SYM0001')
    """
    known = list(KNOWN)
    return (*known[:count], *(f"SYM{at + 1:04d}" for at in range(max(0, count - len(known)))))


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """The settings of a market. `rate`: average trades per second over all symbols while their markets are open.

    `sessions`: `always` or `us`. `us`: stocks trade in New York's regular sessions, with holidays and half days.
    Currency pairs trade from Sunday 17:00 to Friday 17:00 New York; other symbols trade round the clock. `always`: all
    symbols trade round the clock, so that a demo shows trades at any hour. The plant then needs the calendar `24/7`.
    """

    symbols: Sequence[str] = field(default_factory=lambda: symbol_names(12))
    rate: float = 50.0
    seed: int = 7
    sessions: str = "always"


class SimulatedMarket:
    """A simulated market. Methods may be called for any time, in any order, from any thread.

    The only state is a cache of the last day and minute, because the next trades of a stream are usually in them.
    """

    def __init__(self, settings: MarketSettings) -> None:
        if not settings.symbols or settings.rate <= 0:
            raise ConfigError("the sandbox needs at least one symbol and a rate above 0")
        if settings.sessions not in ("always", "us"):
            raise ConfigError(f"sandbox.sessions is {settings.sessions!r}; use always or us")
        self.settings = settings
        self.symbols = tuple(dict.fromkeys(settings.symbols))
        self.code = {symbol: at for at, symbol in enumerate(self.symbols)}
        self._profiles = SymbolProfiles(self.symbols, settings.seed)
        self.forex, self.stock = self._profiles.forex, self._profiles.stock
        self._model = DayModel(self._profiles, settings.rate)
        always, exchange = Hours(None), Hours("XNYS")
        self._stock_hours = exchange if settings.sessions == "us" else always
        demo = np.full(len(self.symbols), self._stock_hours.is_always)
        pairs = np.array([matches(symbol, "{currency}/{currency}") for symbol in self.symbols])
        by_hours = (
            (always, np.flatnonzero(demo | ~(self.stock | pairs))),
            (exchange, np.flatnonzero(self.stock & ~demo)),
            (WeekHours(FOREIGN_EXCHANGE), np.flatnonzero(pairs & ~demo)),
        )
        self._groups = [_HoursGroup(hours, codes) for hours, codes in by_hours if len(codes)]

    def trades(self, start_us: int, end_us: int) -> TradeBatch:
        """Return all symbols' trades in the range. A second of 20,000 trades over 5,000 symbols takes at most 0.1 s."""
        return self._all_trades(self._groups, start_us, end_us)

    def trades_of(self, symbol: str, start_us: int, end_us: int) -> TradeBatch:
        """Return one symbol's trades in the range. A minute takes a few milliseconds for any number of symbols."""
        code = self.code[symbol]
        group = next(group for group in self._groups if code in group.codes)
        return self._all_trades([_HoursGroup(group.hours, np.array([code]))], start_us, end_us)

    def _all_trades(self, groups: Sequence[_HoursGroup], start_us: int, end_us: int) -> TradeBatch:
        parts = []
        minute_us = start_us // MINUTE_US * MINUTE_US
        while minute_us < end_us:
            for group in groups:
                part = self._minute_trades(group, minute_us, start_us - minute_us, end_us - minute_us)
                if part is not None:
                    parts.append(part)
            minute_us += MINUTE_US
        if not parts:
            nothing = np.empty(0, np.int64)
            return TradeBatch(nothing, nothing, np.empty(0), nothing, nothing)
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((columns[0], columns[1]))
        return TradeBatch(*(column[order] for column in columns))

    def bars(self, symbol: str, start_us: int, end_us: int, length_us: int) -> Bars:
        """Return a symbol's bars that start in the range, on the grid of `length_us` from `start_us`.

        The bars equal the bars of the symbol's trades. Years of daily bars are cheap if `start_us` is 00:00 UTC: the
        model computes a day's bar without its minutes. Raises ValueError if `length_us` is not a positive
        multiple of a minute, or if `start_us` is not a multiple of a minute.
        """
        by_day = not (length_us % DAY_US or start_us % DAY_US)
        if length_us <= 0 or length_us % MINUTE_US or start_us % MINUTE_US:
            raise ValueError(f"bars of {length_us} µs from {start_us} are not aligned to whole minutes")
        code = self.code[symbol]
        group = next(group for group in self._groups if code in group.codes)
        count = -(-max(0, end_us - start_us) // length_us)
        end_us = start_us + count * length_us
        days = np.arange(start_us // DAY_US, -(-end_us // DAY_US))
        rows = self._day_rows if by_day else self._minute_rows
        parts = [
            rows(group.hours, code, days[at : at + _DAYS_PER_BATCH]) for at in range(0, len(days), _DAYS_PER_BATCH)
        ] or [rows(group.hours, code, days)]
        start, first, close, low, high, volume = (np.concatenate(column) for column in zip(*parts, strict=True))
        inside = (start >= start_us) & (start < end_us)
        bar = (start[inside] - start_us) // length_us
        begins = np.flatnonzero(np.diff(bar, prepend=-1))
        ends = np.append(begins[1:], len(bar)) - 1
        starts = start_us + bar[begins] * length_us
        if not len(begins):
            nothing = np.empty(0)
            return Bars(starts, nothing, nothing, nothing, nothing, np.empty(0, np.int64))
        per_unit = self._profiles.per_unit[code]
        return Bars(
            starts,
            first[inside][begins] / per_unit,
            np.maximum.reduceat(high[inside], begins) / per_unit,
            np.minimum.reduceat(low[inside], begins) / per_unit,
            close[inside][ends] / per_unit,
            np.add.reduceat(volume[inside], begins),
        )

    def price(self, codes: npt.NDArray[np.int64], times_us: Int64Array) -> Float64Array:
        """Return each symbol's price at each time: the price of its last trade at or before the time.

        If that day and the nine days before have no trade, the price is the path's value at the day's open.
        """
        result = np.empty(len(codes))
        for group in self._groups:
            at = np.flatnonzero(np.isin(codes, group.codes))
            if len(at):
                result[at] = self._last_prices(group.hours, codes[at], times_us[at])
        return result

    def spread(self, codes: npt.NDArray[np.int64], prices: Float64Array) -> Float64Array:
        """Return ask minus bid at the given prices. A trade is at the bid or the ask."""
        per_unit = self._profiles.per_unit[codes]
        result: Float64Array = np.maximum(np.rint(prices * per_unit * self._profiles.spread[codes]), 1) / per_unit
        return result

    def is_open(self, times_us: Int64Array) -> BoolArray:
        """Return a mask of the times at which stocks trade: always, or in New York's regular sessions."""
        return self._stock_hours.is_open(times_us)

    def _minute_trades(
        self, group: _HoursGroup, minute_us: int, start_us: int, end_us: int
    ) -> list[npt.NDArray[Any]] | None:
        """Return the columns of a group's trades between two offsets (µs) of a minute; None if the market is closed."""
        day = minute_us // DAY_US
        found = group.day
        if found is None or found[0] != day:
            codes = group.codes
            found = group.day = (day, self._model.days(group.hours, codes, np.full(len(codes), day)))
        days = found[1]
        if not days.minutes[0] or not 0 <= minute_us - int(days.open_us[0]) < int(days.minutes[0]) * MINUTE_US:
            return None
        kept = group.minute
        if kept is None or kept[0] != minute_us:
            rows = np.arange(len(group.codes))
            minute = (minute_us - int(days.open_us[0])) // MINUTE_US
            edges = self._model.edges(group.hours, days, rows, np.full(len(rows), minute // BLOCK))
            first, count = edges[:, minute % BLOCK], np.diff(edges, axis=1)[:, minute % BLOCK]
            rows = np.flatnonzero(count)
            ranged = self._model.ranged(days, rows, np.full(len(rows), minute_us), first[rows], count[rows])
            kept = group.minute = (minute_us, ranged, days.take(rows))
        _, minutes, mine = kept
        bounds = [np.full(len(minutes.row), min(max(bound, 0), MINUTE_US)) for bound in (start_us, end_us)]
        begin, end = (self._model.before(mine, minutes.first, minutes.count, bound) for bound in bounds)
        of = np.repeat(np.arange(len(begin)), end - begin)
        at = np.arange(len(of)) - np.repeat(np.cumsum(end - begin) - end, end - begin)
        each, number = mine.take(of), minutes.first[of] + at
        ticks = self._model.ticks(each, number, minutes.low[of], minutes.high[of])
        times = minute_us + self._model.offsets(each.key, minutes.first[of], minutes.count[of], at)
        before, after = (self._model.volume_before(each, numbers) for numbers in (number, number + 1))
        return [each.code, times, self._model.price(each, ticks), after, after - before]

    def _day_rows(self, hours: Hours, code: int, numbers: Int64Array) -> tuple[Int64Array, ...]:
        """Return the days with trades: start; first, last, low and high price in increments; volume."""
        days = self._model.days(hours, np.full(len(numbers), code), numbers)
        days = days.take(np.flatnonzero(days.count))
        first = np.zeros(len(days.count), np.int64)
        edges = (self._model.ticks(days, at, days.low, days.high) for at in (first, days.count - 1))
        volume = self._model.volume_before(days, days.count)
        return days.open_us // DAY_US * DAY_US, *edges, days.low, days.high, volume

    def _minute_rows(self, hours: Hours, code: int, numbers: Int64Array) -> tuple[Int64Array, ...]:
        """Return the minutes with trades, in the columns of `_day_rows`."""
        days = self._model.days(hours, np.full(len(numbers), code), numbers)
        blocks = -(-days.minutes // BLOCK)
        rows = np.repeat(np.arange(len(numbers)), blocks)
        block = np.arange(len(rows)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        minutes = self._model.minutes(hours, days, rows, block)
        mine, end = days.take(minutes.row), minutes.first + minutes.count
        edges = (self._model.ticks(mine, at, minutes.low, minutes.high) for at in (minutes.first, end - 1))
        volume = self._model.volume_before(mine, end) - self._model.volume_before(mine, minutes.first)
        return minutes.start_us, *edges, minutes.low, minutes.high, volume

    def _last_prices(self, hours: Hours, codes: npt.NDArray[np.int64], times_us: Int64Array) -> Float64Array:
        model, result, left = self._model, np.empty(len(codes)), np.arange(len(codes))
        for back in range(_LOOKBACK_DAYS):
            days = model.days(hours, codes[left], times_us[left] // DAY_US - back)
            if back == 0:
                result[:] = self._profiles.base[codes] * np.exp(days.level)
            rows = np.arange(len(left))
            passed = np.clip(times_us[left] - days.open_us, 0, np.maximum(days.minutes * MINUTE_US - 1, 0))
            minute = passed // MINUTE_US
            edges = model.edges(hours, days, rows, minute // BLOCK)
            first, end = edges[rows, minute % BLOCK], edges[rows, minute % BLOCK + 1]
            # A trade at exactly this microsecond counts, as does every trade of a day that is over.
            offset = np.where(times_us[left] < days.open_us, 0, passed - minute * MINUTE_US + 1)
            done = np.where(end > first, model.before(days, first, np.maximum(end - first, 1), offset), 0)
            last = first + done - 1
            at = np.flatnonzero(last >= 0)
            mine = days.take(at)
            its = model.minute_of(hours, mine, last[at])
            result[left[at]] = model.price(mine, model.ticks(mine, last[at], its.low, its.high))
            left = np.delete(left, at)
            if not len(left):
                break
        return result


@dataclass(slots=True)
class _HoursGroup:
    """Symbols with the same trading hours, and the cache of their last day and minute."""

    hours: Hours
    codes: npt.NDArray[np.int64]
    day: tuple[int, Days] | None = None
    minute: tuple[int, Minutes, Days] | None = None
    """The minute's start, its symbols with trades, and their days."""
