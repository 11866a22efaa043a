"""The sandbox's market as it was traded: the model's prices before and after splits, and what vendors make of them.

The model's prices are in the shares of 2026: what was traded before a split cost as many times more. So a client that
asks a vendor for adjusted prices must turn them back to find what the stream said on the day. Splits and dividends of
the past are a function of (seed, symbol), as prices are; a scenario may add splits of its own. Pure.
"""

from __future__ import annotations

import copy
import datetime as dt
import functools
import math
import zoneinfo
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tickerplant.core.times import DAY_US, MINUTE_US, WEEK_US, BoolArray, Float64Array, Int64Array, micros_of
from tickerplant.core.times import datetime_of as moment
from tickerplant.sandbox.hours import Hours
from tickerplant.sandbox.model import Bars, Market, Prints

ANCHOR_US: Final = micros_of(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
"""From here on prices as traded are the model's own, but for splits that a scenario adds."""
NEW_YORK: Final = zoneinfo.ZoneInfo("America/New_York")
NONE, SPLITS, DIVIDENDS, ALL = "none", "splits", "dividends", "all"
_FIRST_YEAR: Final = 2006
_RATIOS: Final = ((2, 1), (4, 1), (3, 1), (3, 2), (10, 1), (1, 5))
_SESSION_MINUTES: Final = (570, 960)
_EXCHANGE: Final = Hours("XNYS")
_EPOCH_ORDINAL: Final = dt.date(1970, 1, 1).toordinal()
_MONDAY_US: Final = 4 * DAY_US


class Split(NamedTuple):
    """A split, in force from `us`, 00:00 UTC of its day: 4 for 1 is numerator 4."""

    us: int
    numerator: int
    denominator: int


class Dividend(NamedTuple):
    """A dividend; `us` is 00:00 UTC of the ex-date, `amount` is a share's, as paid."""

    us: int
    amount: float


@dataclass(frozen=True, slots=True)
class NewSplit:
    """A split that a scenario adds. `date`: of the first session at the new price."""

    symbol: str
    date: dt.date
    numerator: int
    denominator: int = 1


class Tape:
    """A market with its corporate actions. `now_us` of every method: nothing later than this is known."""

    def __init__(self, market: Market, new_splits: Sequence[NewSplit] = ()) -> None:
        self.market = market
        self._hidden: frozenset[str] = frozenset()
        self._new: dict[str, list[Split]] = {}
        self._splits = functools.lru_cache(8192)(self._all_splits)
        self._dividends = functools.lru_cache(1024)(self._all_dividends)
        self._levels = functools.lru_cache(2)(self._all_levels)
        for split in new_splits:
            self.add(split)

    def knows(self, symbol: str) -> bool:
        """Whether there is such a symbol."""
        return symbol in self.market.code and symbol not in self._hidden

    def without(self, symbols: Iterable[str]) -> Tape:
        """Return the same tape, but for symbols that it does not know."""
        view = copy.copy(self)
        view._hidden = frozenset(symbols)
        return view

    # Corporate actions -----------------------------------------------------------------------------------------------

    def add(self, split: NewSplit) -> None:
        """Take a split into the market: from its day on the stream is at the new price."""
        if split.symbol in self.market.code:
            day = micros_of(dt.datetime.combine(split.date, dt.time(), dt.UTC))
            self._new.setdefault(split.symbol, []).append(Split(day, split.numerator, split.denominator))
            for kept in (self._splits, self._dividends, self._levels):
                kept.cache_clear()

    def splits(self, symbol: str, from_us: int, now_us: int) -> list[Split]:
        """Return the splits in force by now, from a day on, oldest first."""
        return [split for split in self._splits(symbol) if from_us <= split.us <= now_us]

    def dividends(self, symbol: str, from_us: int, now_us: int) -> list[Dividend]:
        """Return the dividends by ex-date, from a day on, oldest first."""
        return [paid for paid in self._dividends(symbol, moment(now_us).year) if from_us <= paid.us <= now_us]

    def _all_splits(self, symbol: str) -> list[Split]:
        market = self.market
        code = market.code[symbol]
        found = list(self._new.get(symbol, ()))
        if market.stock[code]:
            dice = np.random.default_rng([market.settings.seed % (1 << 63), *symbol.encode()])
            first = dt.date(_FIRST_YEAR, 1, 2).toordinal()
            last = moment(ANCHOR_US).toordinal() - 2
            for day, ratio in zip(
                dice.integers(first, last, 1 + int(dice.integers(2))).tolist(),
                dice.permutation(len(_RATIOS)).tolist(),
                strict=False,
            ):
                numerator, denominator = _RATIOS[ratio]
                found.append(Split(_session_day(dt.date.fromordinal(day)), numerator, denominator))
        return sorted(found)

    def _all_dividends(self, symbol: str, last_year: int) -> list[Dividend]:
        market = self.market
        code = market.code[symbol]
        dice = np.random.default_rng([market.settings.seed % (1 << 63), *symbol.encode(), 1])
        if not market.stock[code] or dice.random() < 0.4:
            return []
        month, day, quarterly = int(dice.integers(1, 4)), int(dice.integers(1, 28)), float(dice.uniform(0.001, 0.008))
        days = [
            _session_day(dt.date(year, month + 3 * quarter, day))
            for year in range(_FIRST_YEAR, last_year + 1)
            for quarter in range(4)
        ]
        times = np.array(days, np.int64)
        prices = market.price(np.full(len(days), code), times) * self._factor(symbol, times)
        amounts = np.maximum(np.rint(prices * quarterly * 100), 1) / 100
        return [Dividend(at, amount) for at, amount in zip(days, amounts.tolist(), strict=True)]

    def _factor(self, symbol: str, times_us: Int64Array) -> Float64Array:
        """Return what the model's price is to be multiplied with at each time to be as traded."""
        factor = np.ones(len(times_us))
        for split in self._splits(symbol):
            ratio = split.numerator / split.denominator
            if split.us < ANCHOR_US:
                factor = np.where(times_us < split.us, factor * ratio, factor)
            else:
                factor = np.where(times_us >= split.us, factor / ratio, factor)
        return factor

    def split_factor(self, symbol: str, times_us: Int64Array, now_us: int) -> Float64Array:
        """Return what a price as traded is to be multiplied with to be in the shares of now."""
        factor = np.ones(len(times_us))
        for split in self.splits(symbol, 0, now_us):
            factor = np.where(times_us < split.us, factor * (split.denominator / split.numerator), factor)
        return factor

    def dividend_factor(self, symbol: str, times_us: Int64Array, now_us: int) -> Float64Array:
        """Return what a price is to be multiplied with so that dividends paid since leave no step.

        By the usual rule: 1 - amount / close of the day before the ex-date, for all days before it.
        """
        factor = np.ones(len(times_us))
        if not len(times_us):
            return factor
        for paid in self.dividends(symbol, int(times_us[0]) + 1, now_us):
            before = self.bars(symbol, paid.us - 5 * DAY_US, paid.us, DAY_US, now_us)
            if len(before.close):
                factor = np.where(times_us < paid.us, factor * (1 - paid.amount / before.close[-1]), factor)
        return factor

    # Prints and bars -------------------------------------------------------------------------------------------------

    def prints(self, from_us: int, end_us: int) -> Prints:
        """Return the prints of `[from, to)`, as traded."""
        prints = self.market.prints(from_us, end_us)
        if from_us >= ANCHOR_US and not self._new:
            return prints
        days = prints.times_us // DAY_US
        factor = np.ones(len(days))
        for day in np.unique(days).tolist():
            here = days == day
            factor[here] = self._levels(day)[prints.codes[here]]
        volumes = np.rint(prints.day_volumes / factor).astype(np.int64)
        sizes = np.rint(prints.sizes / factor).astype(np.int64)
        return Prints(prints.codes, prints.times_us, _times(prints.prices, factor), volumes, sizes)

    def _all_levels(self, day: int) -> Float64Array:
        """Return each symbol's factor on a day since 1970: it changes at 00:00 UTC only."""
        at = np.array([day * DAY_US], np.int64)
        return np.array([float(self._factor(symbol, at)[0]) for symbol in self.market.symbols])

    def price(self, symbol: str, us: int) -> float:
        """Return the price as traded at a time."""
        code, at = np.array([self.market.code[symbol]]), np.array([us], np.int64)
        price = self.market.price(code, at) * self._factor(symbol, at)
        return float(price[0])

    def gaps(self, symbol: str) -> bool:
        """Whether the symbol trades in sessions only."""
        return self.market.settings.sessions == "us" and bool(self.market.stock[self.market.code[symbol]])

    def bars(self, symbol: str, from_us: int, end_us: int, length_us: int, now_us: int, *, adjust: str = NONE) -> Bars:
        """Return the bars that start in `[from, to)`, those without a print left out; the last may be forming.

        Of a stock that trades in sessions the grid of bars longer than 30 minutes begins with the session. Weeks begin
        on Monday and are made of the days, adjusted first. `adjust`: NONE, SPLITS, DIVIDENDS or ALL.
        """
        if length_us == WEEK_US:
            first = (from_us - _MONDAY_US) // WEEK_US * WEEK_US + _MONDAY_US
            days = self.bars(symbol, first, end_us + WEEK_US, DAY_US, now_us, adjust=adjust)
            return _between(
                grouped(days, (days.starts_us - _MONDAY_US) // WEEK_US * WEEK_US + _MONDAY_US), from_us, end_us
            )
        if self.gaps(symbol) and 30 * MINUTE_US < length_us < DAY_US:
            found = self._by_session(symbol, from_us, end_us, length_us, now_us)
        else:
            found = self._on_grid(symbol, from_us, end_us, length_us, now_us)
        factor = self._factor(symbol, found.starts_us)
        if not (factor == 1).all():
            prices = [_times(column, factor) for column in (found.open, found.high, found.low, found.close)]
            volume = np.rint(found.volume / factor).astype(np.int64)
            found = Bars(found.starts_us, prices[0], prices[1], prices[2], prices[3], volume)
        if adjust == NONE:
            return found
        split, paid = np.ones(len(factor)), np.ones(len(factor))
        if adjust in (SPLITS, ALL):
            split = self.split_factor(symbol, found.starts_us, now_us)
        if adjust in (DIVIDENDS, ALL):
            paid = self.dividend_factor(symbol, found.starts_us, now_us)
        both = split * paid
        return Bars(
            found.starts_us, found.open * both, found.high * both, found.low * both, found.close * both,
            np.rint(found.volume / split).astype(np.int64),
        )  # fmt: skip

    def months(self, symbol: str, from_us: int, end_us: int, months: int, now_us: int, *, adjust: str = NONE) -> Bars:
        """Return bars of 1 or 3 months, of the days that lie in them, adjusted first; of months begun by `end`."""
        first = month_of(np.array([from_us], np.int64), months).tolist()[0]
        days = self.bars(symbol, first, end_us, DAY_US, now_us, adjust=adjust)
        return grouped(days, month_of(days.starts_us, months))

    def _on_grid(self, symbol: str, from_us: int, end_us: int, length_us: int, now_us: int) -> Bars:
        """Return the model's bars, the one that is forming made of what has been until now."""
        first = -(-from_us // length_us) * length_us
        done = min(-(-end_us // length_us) * length_us, now_us // length_us * length_us)
        whole = self._whole(symbol, first, done, length_us)
        if not first <= done < min(end_us, now_us):
            return whole
        minute = now_us // MINUTE_US * MINUTE_US
        forming = _joined([self._whole(symbol, done, minute, minute - done), self._begun(symbol, minute, now_us)])
        return _joined([whole, grouped(forming, np.full(len(forming.starts_us), done))])

    def _whole(self, symbol: str, from_us: int, end_us: int, length_us: int) -> Bars:
        if end_us > from_us:
            return self.market.bars(symbol, from_us, end_us, length_us)
        nothing, none = np.empty(0), np.empty(0, np.int64)
        return Bars(none, nothing, nothing, nothing, nothing, none)

    def _begun(self, symbol: str, minute_us: int, now_us: int) -> Bars:
        """Return the bar of a minute so far, from its prints."""
        prints = self.market.prints_of(symbol, minute_us, now_us)
        starts, price = np.full(len(prints.prices), minute_us), prints.prices
        return grouped(Bars(starts, price, price, price, price, prints.sizes), starts)

    def _by_session(self, symbol: str, from_us: int, end_us: int, length_us: int, now_us: int) -> Bars:
        """Return bars longer than 30 minutes, which begin with the session: of shorter ones on its grid."""
        piece_us = math.gcd(length_us, 30 * MINUTE_US)
        pieces = self._on_grid(symbol, from_us // DAY_US * DAY_US, end_us + length_us, piece_us, now_us)
        days, which = np.unique(pieces.starts_us // DAY_US, return_inverse=True)
        opens = np.array([session_of(day * DAY_US)[0] for day in days.tolist()], np.int64)
        passed = pieces.starts_us - opens[which] if len(days) else pieces.starts_us
        return _between(grouped(pieces, pieces.starts_us - passed % length_us), from_us, end_us)


def in_session(times_us: Int64Array) -> BoolArray:
    """Return whether each time lies in the regular session of New York, whatever hours the sandbox keeps."""
    return _EXCHANGE.is_open(times_us)


@functools.lru_cache(4096)
def session_of(day_us: int) -> tuple[int, int]:
    """Return when the stocks' session of a date (00:00 UTC) begins and ends, whether or not there is one."""
    opens, minutes = _EXCHANGE.of(np.array([day_us // DAY_US], np.int64))
    if minutes[0]:
        return int(opens[0]), int(opens[0] + minutes[0] * MINUTE_US)
    midnight = moment(day_us).replace(tzinfo=NEW_YORK)
    begin, end = _SESSION_MINUTES
    return micros_of(midnight + dt.timedelta(minutes=begin)), micros_of(midnight + dt.timedelta(minutes=end))


def _session_day(day: dt.date) -> int:
    """Return 00:00 UTC of the day, or of the next one with a session."""
    first = day.toordinal() - _EPOCH_ORDINAL
    _, minutes = _EXCHANGE.of(np.arange(first, first + 10))
    return (first + int(np.flatnonzero(minutes)[0])) * DAY_US


def _times(prices: Float64Array, factor: Float64Array) -> Float64Array:
    """Return prices at a factor, rounded to cents as stocks are; where the factor is 1 as they are."""
    result: Float64Array = np.where(factor == 1, prices, np.maximum(np.rint(prices * factor * 100), 1) / 100)
    return result


def _columns(bars: Bars) -> tuple[Int64Array, Float64Array, Float64Array, Float64Array, Float64Array, Int64Array]:
    return bars.starts_us, bars.open, bars.high, bars.low, bars.close, bars.volume


def _joined(parts: list[Bars]) -> Bars:
    columns = [np.concatenate(column) for column in zip(*(_columns(part) for part in parts), strict=True)]
    return Bars(*columns)


def _between(bars: Bars, from_us: int, end_us: int) -> Bars:
    keep = (bars.starts_us >= from_us) & (bars.starts_us < end_us)
    return Bars(
        bars.starts_us[keep], bars.open[keep], bars.high[keep], bars.low[keep], bars.close[keep], bars.volume[keep]
    )


def month_of(times_us: Int64Array, months: int) -> Int64Array:
    """Return 00:00 UTC of the first day of the month, or of the quarter, of each time."""
    month = times_us.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64) // months * months
    return month.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)


def grouped(bars: Bars, starts_us: Int64Array) -> Bars:
    """Return longer bars of those with the same start."""
    if not len(starts_us):
        return bars
    first = np.flatnonzero(np.append(True, starts_us[1:] != starts_us[:-1]))
    last = np.append(first[1:], len(starts_us)) - 1
    return Bars(
        starts_us[first], bars.open[first], np.maximum.reduceat(bars.high, first),
        np.minimum.reduceat(bars.low, first), bars.close[last], np.add.reduceat(bars.volume, first),
    )  # fmt: skip
