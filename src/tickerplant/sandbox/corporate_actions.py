"""The simulated market as traded: the model's prices before and after splits, and their adjustment. Pure.

The model's prices are per share of 2026; prices before a split were higher by its ratio. A client that requests
adjusted prices must undo the adjustment to get the prices that the stream sent on that day. Past splits and dividends
are a function of the model's settings and the symbol. A scenario can add splits.
"""

from __future__ import annotations

import datetime as dt
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.core.times import DAY_US, MINUTE_US, WEEK_US, Float64Array, Int64Array, datetime_of, micros_of
from tickerplant.protocols.adjustment import dividend_factors, split_factors
from tickerplant.protocols.market import (
    AS_TRADED,
    CRYPTO,
    FOR_ALL,
    FOR_DIVIDENDS,
    FOR_SPLITS,
    FOREX,
    STOCK,
    Bars,
    Dividend,
    Instrument,
    Split,
    TradeBatch,
)
from tickerplant.sandbox.hours import EXCHANGE, session_of
from tickerplant.sandbox.model import SimulatedMarket

ANCHOR_US: Final = micros_of(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
"""Time from which prices as traded equal the model's prices, except for splits that a scenario adds."""
_FIRST_YEAR: Final = 2006
_RATIOS: Final = ((2, 1), (4, 1), (3, 1), (3, 2), (10, 1), (1, 5))
_EPOCH_ORDINAL: Final = dt.date(1970, 1, 1).toordinal()
_MONDAY_US: Final = 4 * DAY_US


@dataclass(frozen=True, slots=True)
class ScheduledSplit:
    """A split that a scenario adds. `date`: the first session at the new price."""

    symbol: str
    date: dt.date
    numerator: int
    denominator: int = 1


class TradedMarket:
    """The simulated market with its corporate actions. Methods with `now_us` return no data after that time."""

    def __init__(self, model: SimulatedMarket, added_splits: Sequence[ScheduledSplit] = ()) -> None:
        self.model = model
        self.instruments = tuple(_instrument(model, code) for code in range(len(model.symbols)))
        """Instruments, one per symbol, in the order of the model's codes."""
        self._added: dict[str, list[Split]] = {}
        self._splits = functools.lru_cache(8192)(self._compute_splits)
        self._dividends = functools.lru_cache(1024)(self._compute_dividends)
        self._day_factors = functools.lru_cache(2)(self._compute_day_factors)
        for split in added_splits:
            self.add(split)

    # Corporate actions -----------------------------------------------------------------------------------------------

    def add(self, split: ScheduledSplit) -> None:
        """Add a split. The stream sends the new price from the split's day on. Unknown symbols are ignored."""
        if split.symbol in self.model.code:
            day = micros_of(dt.datetime.combine(split.date, dt.time(), dt.UTC))
            self._added.setdefault(split.symbol, []).append(Split(day, split.numerator, split.denominator))
            for cache in (self._splits, self._dividends, self._day_factors):
                cache.cache_clear()

    def splits(self, symbol: str, start_us: int, now_us: int) -> list[Split]:
        """Return the splits that took effect from `start_us` to `now_us`, oldest first; [] if there are none."""
        return [split for split in self._splits(symbol) if start_us <= split.us <= now_us]

    def dividends(self, symbol: str, start_us: int, now_us: int) -> list[Dividend]:
        """Return the dividends with an ex-date from `start_us` to `now_us`, oldest first; [] if there are none."""
        return [paid for paid in self._dividends(symbol, datetime_of(now_us).year) if start_us <= paid.us <= now_us]

    def _compute_splits(self, symbol: str) -> list[Split]:
        model = self.model
        code = model.code[symbol]
        found = list(self._added.get(symbol, ()))
        if model.stock[code]:
            rng = np.random.default_rng([model.settings.seed % (1 << 63), *symbol.encode()])
            first = dt.date(_FIRST_YEAR, 1, 2).toordinal()
            last = datetime_of(ANCHOR_US).toordinal() - 2
            for day, ratio in zip(
                rng.integers(first, last, 1 + int(rng.integers(2))).tolist(),
                rng.permutation(len(_RATIOS)).tolist(),
                strict=False,
            ):
                numerator, denominator = _RATIOS[ratio]
                found.append(Split(_session_day(dt.date.fromordinal(day)), numerator, denominator))
        return sorted(found)

    def _compute_dividends(self, symbol: str, last_year: int) -> list[Dividend]:
        model = self.model
        code = model.code[symbol]
        rng = np.random.default_rng([model.settings.seed % (1 << 63), *symbol.encode(), 1])
        if not model.stock[code] or rng.random() < 0.4:
            return []
        month, day, quarterly = int(rng.integers(1, 4)), int(rng.integers(1, 28)), float(rng.uniform(0.001, 0.008))
        days = [
            _session_day(dt.date(year, month + 3 * quarter, day))
            for year in range(_FIRST_YEAR, last_year + 1)
            for quarter in range(4)
        ]
        times = np.array(days, np.int64)
        prices = model.price(np.full(len(days), code), times) * self._factor(symbol, times)
        amounts = np.maximum(np.rint(prices * quarterly * 100), 1) / 100
        return [Dividend(at, amount) for at, amount in zip(days, amounts.tolist(), strict=True)]

    def _factor(self, symbol: str, times_us: Int64Array) -> Float64Array:
        """Return the factor that converts the model's price at each time to the price as traded."""
        factor = np.ones(len(times_us))
        for split in self._splits(symbol):
            ratio = split.numerator / split.denominator
            if split.us < ANCHOR_US:
                factor = np.where(times_us < split.us, factor * ratio, factor)
            else:
                factor = np.where(times_us >= split.us, factor / ratio, factor)
        return factor

    def _split_factors(self, symbol: str, times_us: Int64Array, now_us: int) -> Float64Array:
        return split_factors(self.splits(symbol, 0, now_us), times_us)

    def _dividend_factors(self, symbol: str, times_us: Int64Array, now_us: int) -> Float64Array:
        def close_before(ex_date_us: int) -> float | None:
            days = self.bars(symbol, ex_date_us - 5 * DAY_US, ex_date_us, DAY_US, now_us)
            return float(days.close[-1]) if len(days.close) else None

        dividends = self.dividends(symbol, int(times_us[0]) + 1, now_us) if len(times_us) else ()
        return dividend_factors(dividends, close_before, times_us)

    # Trades and bars -------------------------------------------------------------------------------------------------

    def trades(self, start_us: int, end_us: int) -> TradeBatch:
        """Return the trades of all symbols in the range, at prices as traded."""
        batch = self.model.trades(start_us, end_us)
        if start_us >= ANCHOR_US and not self._added:
            return batch
        days = batch.times_us // DAY_US
        factor = np.ones(len(days))
        for day in np.unique(days).tolist():
            rows = days == day
            factor[rows] = self._day_factors(day)[batch.codes[rows]]
        volumes = np.rint(batch.day_volumes / factor).astype(np.int64)
        sizes = np.rint(batch.sizes / factor).astype(np.int64)
        return TradeBatch(batch.codes, batch.times_us, _scaled(batch.prices, factor), volumes, sizes)

    def _compute_day_factors(self, day: int) -> Float64Array:
        """Return each symbol's factor on a day (days since 1970): float64[symbols]. It changes only at 00:00 UTC."""
        at = np.array([day * DAY_US], np.int64)
        return np.array([float(self._factor(symbol, at)[0]) for symbol in self.model.symbols])

    def price(self, symbol: str, us: int) -> float:
        """Return the price as traded at a time."""
        code, at = np.array([self.model.code[symbol]]), np.array([us], np.int64)
        price = self.model.price(code, at) * self._factor(symbol, at)
        return float(price[0])

    def bars(
        self, symbol: str, start_us: int, end_us: int, length_us: int, now_us: int, *, adjustment: str = AS_TRADED
    ) -> Bars:
        """Return the bars that start in the range and have a trade. The last bar may be forming.

        Intraday bars longer than 30 minutes of a stock with sessions are aligned to the session's open. Weeks begin on
        Monday and are built from adjusted days. `adjustment`: AS_TRADED, FOR_SPLITS, FOR_DIVIDENDS or FOR_ALL.
        """
        if length_us == WEEK_US:
            first = (start_us - _MONDAY_US) // WEEK_US * WEEK_US + _MONDAY_US
            days = self.bars(symbol, first, end_us + WEEK_US, DAY_US, now_us, adjustment=adjustment)
            return _in_range(
                merge_bars(days, (days.starts_us - _MONDAY_US) // WEEK_US * WEEK_US + _MONDAY_US), start_us, end_us
            )
        if self._has_sessions(symbol) and 30 * MINUTE_US < length_us < DAY_US:
            found = self._by_session(symbol, start_us, end_us, length_us, now_us)
        else:
            found = self._on_grid(symbol, start_us, end_us, length_us, now_us)
        factor = self._factor(symbol, found.starts_us)
        if not (factor == 1).all():
            prices = [_scaled(column, factor) for column in (found.open, found.high, found.low, found.close)]
            volume = np.rint(found.volume / factor).astype(np.int64)
            found = Bars(found.starts_us, prices[0], prices[1], prices[2], prices[3], volume)
        if adjustment == AS_TRADED:
            return found
        split, paid = np.ones(len(factor)), np.ones(len(factor))
        if adjustment in (FOR_SPLITS, FOR_ALL):
            split = self._split_factors(symbol, found.starts_us, now_us)
        if adjustment in (FOR_DIVIDENDS, FOR_ALL):
            paid = self._dividend_factors(symbol, found.starts_us, now_us)
        both = split * paid
        return Bars(
            found.starts_us, found.open * both, found.high * both, found.low * both, found.close * both,
            np.rint(found.volume / split).astype(np.int64),
        )  # fmt: skip

    def month_bars(
        self, symbol: str, start_us: int, end_us: int, months: int, now_us: int, *, adjustment: str = AS_TRADED
    ) -> Bars:
        """Return bars of 1 or 3 months, built from adjusted days before the end. The first bar contains `start_us`."""
        first = month_of(np.array([start_us], np.int64), months).tolist()[0]
        days = self.bars(symbol, first, end_us, DAY_US, now_us, adjustment=adjustment)
        return merge_bars(days, month_of(days.starts_us, months))

    def _has_sessions(self, symbol: str) -> bool:
        return self.instruments[self.model.code[symbol]].has_sessions

    def _on_grid(self, symbol: str, start_us: int, end_us: int, length_us: int, now_us: int) -> Bars:
        """Return the model's bars. The forming bar is built from closed minutes and the current minute's trades."""
        first = -(-start_us // length_us) * length_us
        done = min(-(-end_us // length_us) * length_us, now_us // length_us * length_us)
        closed = self._closed_bars(symbol, first, done, length_us)
        if not first <= done < min(end_us, now_us):
            return closed
        minute = now_us // MINUTE_US * MINUTE_US
        forming = _concatenate(
            [self._closed_bars(symbol, done, minute, minute - done), self._current_minute(symbol, minute, now_us)]
        )
        return _concatenate([closed, merge_bars(forming, np.full(len(forming.starts_us), done))])

    def _closed_bars(self, symbol: str, start_us: int, end_us: int, length_us: int) -> Bars:
        if end_us > start_us:
            return self.model.bars(symbol, start_us, end_us, length_us)
        nothing, none = np.empty(0), np.empty(0, np.int64)
        return Bars(none, nothing, nothing, nothing, nothing, none)

    def _current_minute(self, symbol: str, minute_us: int, now_us: int) -> Bars:
        """Return the bar of a minute until now, built from the minute's trades; empty if there are none."""
        trades = self.model.trades_of(symbol, minute_us, now_us)
        starts, price = np.full(len(trades.prices), minute_us), trades.prices
        return merge_bars(Bars(starts, price, price, price, price, trades.sizes), starts)

    def _by_session(self, symbol: str, start_us: int, end_us: int, length_us: int, now_us: int) -> Bars:
        """Return bars longer than 30 minutes, aligned to the session's open and built from shorter bars."""
        piece_us = math.gcd(length_us, 30 * MINUTE_US)
        pieces = self._on_grid(symbol, start_us // DAY_US * DAY_US, end_us + length_us, piece_us, now_us)
        days, which = np.unique(pieces.starts_us // DAY_US, return_inverse=True)
        opens = np.array([session_of(day * DAY_US)[0] for day in days.tolist()], np.int64)
        passed = pieces.starts_us - opens[which] if len(days) else pieces.starts_us
        return _in_range(merge_bars(pieces, pieces.starts_us - passed % length_us), start_us, end_us)


def _instrument(model: SimulatedMarket, code: int) -> Instrument:
    symbol, name = model.symbols[code], f"{model.symbols[code]} of the sandbox"
    if model.stock[code]:
        return Instrument(symbol, STOCK, name, "NASDAQ", "XNAS", has_sessions=model.settings.sessions == "us")
    return Instrument(symbol, FOREX, name) if model.forex[code] else Instrument(symbol, CRYPTO, name, "Sandbox")


def _session_day(day: dt.date) -> int:
    """Return 00:00 UTC of the first day with a session, from `day` on."""
    first = day.toordinal() - _EPOCH_ORDINAL
    _, minutes = EXCHANGE.of(np.arange(first, first + 10))
    return (first + int(np.flatnonzero(minutes)[0])) * DAY_US


def _scaled(prices: Float64Array, factor: Float64Array) -> Float64Array:
    """Return prices times a factor, rounded to cents; unchanged where the factor is 1."""
    result: Float64Array = np.where(factor == 1, prices, np.maximum(np.rint(prices * factor * 100), 1) / 100)
    return result


def _columns(bars: Bars) -> tuple[Int64Array, Float64Array, Float64Array, Float64Array, Float64Array, Int64Array]:
    return bars.starts_us, bars.open, bars.high, bars.low, bars.close, bars.volume


def _concatenate(parts: list[Bars]) -> Bars:
    columns = [np.concatenate(column) for column in zip(*(_columns(part) for part in parts), strict=True)]
    return Bars(*columns)


def _in_range(bars: Bars, start_us: int, end_us: int) -> Bars:
    return bars.take((bars.starts_us >= start_us) & (bars.starts_us < end_us))


def month_of(times_us: Int64Array, months: int) -> Int64Array:
    """Return 00:00 UTC of the first day of each time's month (`months` 1) or quarter (3)."""
    month = times_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) // months * months
    return month.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)


def merge_bars(bars: Bars, starts_us: Int64Array) -> Bars:
    """Merge consecutive bars that have the same start in `starts_us`, the new start of each bar."""
    if not len(starts_us):
        return bars
    first = np.flatnonzero(np.append(True, starts_us[1:] != starts_us[:-1]))
    last = np.append(first[1:], len(starts_us)) - 1
    return Bars(
        starts_us[first], bars.open[first], np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first), bars.close[last], np.add.reduceat(bars.volume, first),
    )  # fmt: skip
