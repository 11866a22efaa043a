"""A symbol's trading day: the number of trades, and their times, prices and sizes.

Each value is a function of the market's settings, the symbol, the day and the trade's index in the day. No value
depends on earlier trades.

- Opens and closes are points of a Brownian path over quarters of days. The path has volatility regimes and one jump in
  32 days.
- The price within a day is a Brownian bridge from open to close. Its argument is the trade's index, not the time, so
  that busy minutes are volatile. A trade is at the bid or the ask around that price, rounded to price increments.
- The day's first and last trade and up to 63 trades between them determine its high and low. Other trades are reflected
  into that range. Up to nine trades of a minute, and the trades that determine the day's range, determine the minute's
  range. Bars of any length therefore equal the bars of the trades. Their cost does not depend on the number of trades.
- Random weights around the day's shape distribute activity over the day's blocks of 30 minutes, and over a block's
  minutes. A minute with n trades has n equal parts, with one trade at a random time in each part.
- Sizes are consecutive entries of a long table (`size_sums`), from a random position. Differences of the table's
  running sums are volumes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import MINUTE_US, Float64Array, Int64Array
from tickerplant.sandbox.hours import BLOCK, Hours
from tickerplant.sandbox.noise import ONE, Paths, UInt32Array, hashed, unit
from tickerplant.sandbox.symbol_profiles import SIZES, SymbolProfiles, size_sums

_CYCLE_DAYS: Final = 1_024
"""Days of the long path. Prices return near the symbol's base at both ends of the path, so they stay bounded."""
_LONG_LEVELS: Final = 12
"""Number of levels of the long path. The finest level has steps of a quarter of a day."""
_REGIME_DAYS: Final = 16
_JUMP_DAYS: Final = 32
_JUMP_SIGMA: Final = 0.35
_SAMPLE_BITS: Final = 6
"""Binary logarithm of the number of parts of a day (64) whose ends determine its range."""
_KNOTS: Final = 9
"""Maximum evenly spaced trades that determine a minute's range, the first and the last included."""
_DAY_LEVELS: Final = 14
"""Number of levels of the path in a day: 16,384 parts."""
(
    _SALT_DAY, _SALT_CYCLE, _SALT_REGIME, _SALT_JUMP, _SALT_JUMP_DAY, _SALT_JUMP_TIME, _SALT_COUNT, _SALT_ROUND,
    _SALT_SIZES, _SALT_SIDE, _SALT_TIME, _SALT_PHASE, _SALT_MINUTE, _SALT_BLOCK,
) = range(20, 34)  # fmt: skip
_LONG = Paths((1.0,) * 6 + (0.0,) * (_LONG_LEVELS - 6))
_FINE = Paths((0.0,) * 6 + (1.0,) * (_LONG_LEVELS - 6))
_WITHIN = Paths((1.0,) * _DAY_LEVELS)
_YEAR_DAYS: Final = 365.0


@dataclass(frozen=True, slots=True)
class Days:
    """Days of symbols, one per row. Trades are numbered from 0 within each row."""

    code: npt.NDArray[np.int64]
    open_us: Int64Array
    minutes: Int64Array
    """Length in minutes; 0 if the day is closed."""
    count: Int64Array
    """Number of trades."""
    key: UInt32Array
    level: Float64Array
    """Natural logarithm of (first price / base price)."""
    slope: Float64Array
    """Change of this logarithm from the first to the last trade, without the jump."""
    sigma: Float64Array
    jump: Float64Array
    jump_at: Int64Array
    """Position of the jump in [0, ONE]."""
    sizes_from: Int64Array
    low: Int64Array
    """Lowest price, in increments."""
    high: Int64Array

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Return the selected rows."""
        return type(self)(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, slots=True)
class Minutes:
    """Minutes with trades: row of their day, start, index of the first trade, number of trades, low and high."""

    row: npt.NDArray[np.int64]
    start_us: Int64Array
    first: Int64Array
    count: Int64Array
    low: Int64Array
    high: Int64Array


class DayModel:
    """Computes days, and the minutes and trades in them."""

    def __init__(self, profiles: SymbolProfiles, rate: float) -> None:
        self._profiles = profiles
        self._rate = rate
        self._sums = size_sums()

    def days(self, hours: Hours, codes: npt.NDArray[np.int64], days: Int64Array) -> Days:
        """Return one row per pair of a symbol (`codes`) and a day (`days`, counted since 1970)."""
        profiles, keys = self._profiles, self._profiles.key[codes]
        open_us, minutes = hours.of(days)
        key = hashed(keys, _SALT_DAY, days)
        begin, end = days * 4, days * 4 + (4 if hours.is_continuous else 3)
        span = (end - begin) / 4
        jump, jump_day, jump_at = self._jumps(keys, days, by_night=not hours.is_continuous)
        jump = jump * profiles.sigma[codes] / _JUMP_SIGMA
        part = jump_day - days // _JUMP_DAYS * _JUMP_DAYS
        today = (jump_day == days) & (jump_at > 0)
        passed = (jump_day < days) | ((jump_day == days) & (jump_at == 0))
        within = days % _JUMP_DAYS
        level = self._long(codes, begin) + jump * (passed - within / _JUMP_DAYS)
        close = self._long(codes, end) + jump * ((part <= within) - (within + span) / _JUMP_DAYS)
        # A day with a jump has more trades, as a day with news does. The mean over days still equals the rate.
        busy = (0.6 + 0.8 * unit(hashed(key, _SALT_COUNT))) * np.where(jump_day == days, 1.8, 1.0)
        busy /= 1 + 0.8 / _JUMP_DAYS
        mean = self._rate * profiles.share[codes] * minutes * 60 * busy
        count = np.floor(mean + unit(hashed(key, _SALT_ROUND))).astype(np.int64)
        jump = np.where(today, jump, 0.0)
        sigma = profiles.sigma[codes] * np.sqrt(span / _YEAR_DAYS) * self._regime(keys, days * 4)
        sizes_from = (hashed(key, _SALT_SIZES) % np.uint32(SIZES)).astype(np.int64)
        none = np.zeros(len(codes), np.int64)
        made = Days(
            codes, open_us, minutes, count, key, level, close - level - jump, sigma, jump, jump_at, sizes_from, none,
            none,
        )  # fmt: skip
        samples = self._raw(
            made.take(np.repeat(np.arange(len(codes)), (1 << _SAMPLE_BITS) + 1)), _samples(count).ravel()
        ).reshape(len(codes), -1)
        return replace(made, low=samples.min(axis=1), high=samples.max(axis=1))

    def edges(self, hours: Hours, days: Days, rows: npt.NDArray[np.int64], blocks: Int64Array) -> Int64Array:
        """Return the number of the day's trades before each minute of each block, and before the block's end.

        The shape is int64[blocks, BLOCK + 1]. `rows`: each block's row in `days`.
        """
        shapes, which = hours.shapes(days.minutes)
        cumulative = self._cumulative_activity(shapes, which, days)
        low, high = cumulative[rows, blocks][:, None], cumulative[rows, blocks + 1][:, None]
        minute = blocks[:, None] * BLOCK + np.arange(BLOCK)
        # Exponential weights above a minimum: some minutes have several times as many trades as their neighbours.
        burst = 0.35 - 0.65 * np.log(unit(hashed(days.key[rows][:, None], _SALT_MINUTE, minute)))
        within = np.zeros((len(blocks), BLOCK + 1))
        np.cumsum(shapes[which[rows], blocks] * burst, axis=1, out=within[:, 1:])
        within /= np.maximum(within[:, -1:], 1e-300)
        share = np.minimum(low + (high - low) * within, high)
        # The last value is assigned, not computed, so that it equals the next block's first value to the last bit.
        share[:, -1] = high[:, 0]
        return _numbers(days.key[rows], days.count[rows], share)

    def minute_of(self, hours: Hours, days: Days, numbers: Int64Array) -> Minutes:
        """Return the minutes that contain the given trades, one trade per row of `days`."""
        shapes, which = hours.shapes(days.minutes)
        begins = _numbers(days.key, days.count, self._cumulative_activity(shapes, which, days))
        rows = np.arange(len(numbers))
        block = (begins <= numbers[:, None]).sum(axis=1) - 1
        edges = self.edges(hours, days, rows, block)
        minute = (edges <= numbers[:, None]).sum(axis=1) - 1
        first = edges[rows, minute]
        start_us = days.open_us + (block * BLOCK + minute) * MINUTE_US
        return self.ranged(days, rows, start_us, first, edges[rows, minute + 1] - first)

    def minutes(self, hours: Hours, days: Days, rows: npt.NDArray[np.int64], blocks: Int64Array) -> Minutes:
        """Return the minutes with trades of each block, in time order. `rows`: each block's row in `days`."""
        edges = self.edges(hours, days, rows, blocks)
        starts = days.open_us[rows][:, None] + (blocks[:, None] * BLOCK + np.arange(BLOCK)) * MINUTE_US
        first, count = edges[:, :-1].ravel(), np.diff(edges, axis=1).ravel()
        at = np.flatnonzero(count)
        return self.ranged(days, np.repeat(rows, BLOCK)[at], starts.ravel()[at], first[at], count[at])

    def ranged(
        self, days: Days, row: npt.NDArray[np.int64], start_us: Int64Array, first: Int64Array, count: Int64Array
    ) -> Minutes:
        """Return minutes with their lows and highs, given the first trade and the number of trades of each."""
        knots = first[:, None] + np.arange(_KNOTS) * (count[:, None] - 1) // (_KNOTS - 1)
        prices = self._in_day(days.take(np.repeat(row, _KNOTS)), knots.ravel()).reshape(-1, _KNOTS)
        low, high = prices.min(axis=1), prices.max(axis=1)
        # Trades that determine the day's range keep their price: the range of such a trade's minute includes its price.
        mine = days.take(row)
        last, bits = np.maximum(mine.count - 1, 1), _bits(mine.count)
        begin, end = -(-(first << bits) // last), -(-((first + count) << bits) // last)
        end = np.minimum(end, (1 << bits) + 1)
        extra = np.where(count > _KNOTS, end - begin, 0)
        for number in range(int(extra.max(initial=0))):
            at = np.flatnonzero(extra > number)
            price = self._raw(mine.take(at), (begin[at] + number) * last[at] >> bits[at])
            low[at], high[at] = np.minimum(low[at], price), np.maximum(high[at], price)
        return Minutes(row, start_us, first, count, low, high)

    def ticks(self, days: Days, numbers: Int64Array, low: Int64Array, high: Int64Array) -> Int64Array:
        """Return the prices of trades in increments, given the range of each trade's minute."""
        return _reflected(self._in_day(days, numbers), low, high)

    def price(self, days: Days, ticks: Int64Array) -> Float64Array:
        """Convert increments to prices."""
        result: Float64Array = ticks / self._profiles.per_unit[days.code]
        return result

    def volume_before(self, days: Days, numbers: Int64Array) -> Int64Array:
        """Return the day's volume before each trade."""
        table = self._profiles.sizes[days.code]
        at = days.sizes_from + numbers
        rounds = at // SIZES
        total = self._sums[table, at - rounds * SIZES] + rounds * self._sums[table, SIZES]
        result: Int64Array = (total - self._sums[table, days.sizes_from]) * self._profiles.multiple[days.code]
        return result

    @staticmethod
    def offsets(key: UInt32Array, first: Int64Array, count: Int64Array, at: Int64Array) -> Int64Array:
        """Return the microseconds from a minute's start to its trade number `at`, counted from 0."""
        within = hashed(key, _SALT_TIME, first + at).astype(np.int64) * MINUTE_US >> 32
        result: Int64Array = (at * MINUTE_US + within) // count
        return result

    def before(self, days: Days, first: Int64Array, count: Int64Array, offset_us: Int64Array) -> Int64Array:
        """Return the number of a minute's trades before an offset in [0, 1 minute] from its start."""
        # Each trade is within its own part of the minute. Only the trade of the offset's part must therefore be
        # compared.
        at = np.minimum(offset_us * count // MINUTE_US, count - 1)
        result: Int64Array = at + (self.offsets(days.key, first, count, at) < offset_us)
        return result

    @staticmethod
    def _cumulative_activity(shapes: Float64Array, which: npt.NDArray[np.int64], days: Days) -> Float64Array:
        """Return the fraction of the day's activity before each block and at the end: float64[days, blocks + 1]."""
        longest = shapes.shape[1]
        uneven = 0.65 + 0.7 * unit(hashed(days.key[:, None], _SALT_BLOCK, np.arange(longest)[None, :]))
        cumulative = np.zeros((len(days.key), longest + 1))
        np.cumsum(shapes.sum(axis=2)[which] * uneven, axis=1, out=cumulative[:, 1:])
        cumulative /= np.maximum(cumulative[:, -1:], 1e-300)
        return cumulative

    def _in_day(self, days: Days, numbers: Int64Array) -> Int64Array:
        return _reflected(self._raw(days, numbers), days.low, days.high)

    def _raw(self, days: Days, numbers: Int64Array) -> Int64Array:
        """Return prices in increments before any range is applied."""
        profiles, last, bits = self._profiles, np.maximum(days.count - 1, 1), _bits(days.count)
        part = (((numbers + 1) << bits) - 1) // last
        begin = part * last >> bits
        length = np.maximum(((part + 1) * last >> bits) - begin, 1)
        points = (part << (30 - bits)) + ((numbers - begin) << (30 - bits)) // length
        log = days.level + days.slope * (points / ONE) + days.jump * (points >= days.jump_at)
        log += days.sigma * _WITHIN.at(days.key, points)
        middle = np.exp(log) * (profiles.base * profiles.per_unit)[days.code]
        half = np.maximum(np.rint(middle * profiles.spread[days.code]), 1.0) / 2
        side = (hashed(days.key, _SALT_SIDE, numbers) >> np.uint32(31)).astype(np.float64) * 2 - 1
        result: Int64Array = np.maximum(np.rint(middle + side * half), 1).astype(np.int64)
        return result

    def _long(self, codes: npt.NDArray[np.int64], quarters: Int64Array) -> Float64Array:
        """Return the logarithm of price divided by base, without jumps, at times counted in quarters of a day."""
        keys = self._profiles.key[codes]
        cycle = quarters // (4 * _CYCLE_DAYS)
        points = quarters % (4 * _CYCLE_DAYS) * (ONE // (4 * _CYCLE_DAYS))
        cycle_keys = hashed(keys, _SALT_CYCLE, cycle)
        left = unit(cycle_keys)
        right = unit(hashed(keys, _SALT_CYCLE, cycle + 1))
        path = _LONG.at(cycle_keys, points) + self._regime(keys, quarters) * _FINE.at(cycle_keys, points)
        ends = 0.3 * (left + (right - left) * (points / ONE) - 0.5)
        result: Float64Array = self._profiles.sigma[codes] * (ends + np.sqrt(_CYCLE_DAYS / _YEAR_DAYS) * path)
        return result

    @staticmethod
    def _regime(keys: UInt32Array, quarters: Int64Array) -> Float64Array:
        """Return the volatility factor (0.55 to 1.65). It changes every 16 days, where the path's fine levels are 0."""
        regime = unit(hashed(keys, _SALT_REGIME, quarters // (4 * _REGIME_DAYS)))
        result: Float64Array = np.exp(1.1 * (regime - 0.5) - 0.05)
        return result

    def _jumps(
        self, keys: UInt32Array, days: Int64Array, *, by_night: bool
    ) -> tuple[Float64Array, Int64Array, Int64Array]:
        """Return the jump in each day's period of 32 days: size (a logarithm), day, and position in that day.

        Position 0 is before the open.
        """
        month = days // _JUMP_DAYS
        size = hashed(keys, _SALT_JUMP, month)
        # Sizes at a volatility of 35 % a year: minimum 1 %, median 1.5 %, above 10 % in one of 46 jumps.
        height = np.minimum(0.01 * unit(size) ** -0.6, 0.2) * np.where(size & np.uint32(1), 1.0, -1.0)
        day = month * _JUMP_DAYS + (hashed(keys, _SALT_JUMP_DAY, month) >> np.uint32(27)).astype(np.int64)
        time = unit(hashed(keys, _SALT_JUMP_TIME, month))
        at = np.maximum((time * ONE).astype(np.int64), 1)
        if by_night:  # three of five jumps occur while the exchange is closed
            at = np.where(time < 0.6, 0, np.maximum(((time - 0.6) / 0.4 * ONE).astype(np.int64), 1))
        return height, day, at


def _numbers(key: UInt32Array, count: Int64Array, share: Float64Array) -> Int64Array:
    """Return the number of trades before each fraction of a day's activity: int64[days, fractions]."""
    phase = 0.999 * unit(hashed(key, _SALT_PHASE))
    result: Int64Array = np.floor(count[:, None] * share + phase[:, None]).astype(np.int64)
    return result


def _bits(count: Int64Array) -> Int64Array:
    """Return the binary logarithm of the number of parts of a day with `count` trades. Every part contains a trade."""
    bits = np.frexp(np.maximum(count - 1, 1).astype(np.float64))[1].astype(np.int64) - 1
    result: Int64Array = np.minimum(bits, _SAMPLE_BITS)
    return result


def _samples(count: Int64Array) -> Int64Array:
    """Return the indices of the trades that determine a day's range: int64[days, 65]. Indices may repeat."""
    bits = _bits(count)[:, None]
    part = np.minimum(np.arange((1 << _SAMPLE_BITS) + 1)[None, :], 1 << bits)
    result: Int64Array = np.minimum(part * np.maximum(count[:, None] - 1, 1) >> bits, np.maximum(count[:, None] - 1, 0))
    return result


def _reflected(ticks: Int64Array, low: Int64Array, high: Int64Array) -> Int64Array:
    """Reflect prices at the ends of their ranges. A price that is still outside is set to the nearer end."""
    ticks = np.where(ticks > high, 2 * high - ticks, ticks)
    ticks = np.where(ticks < low, 2 * low - ticks, ticks)
    result: Int64Array = np.clip(ticks, low, high)
    return result
