"""A symbol's trading day in the sandbox: how many prints it has, when they come, at which prices and sizes.

All follows from (seed, symbol, day) and a print's number in the day, without walking through the prints before it:

- Closes and opens lie on a Brownian path over quarters of days, with regimes of volatility and a jump a month.
- Within the day the price is a bridge between them over the numbers of the prints, so that busy minutes are volatile
  ones. A print is at the bid or at the ask around it, rounded to ticks.
- Of the day's prints the first, the last and up to 63 between them decide its high and low; the others are reflected
  into that range. In the same way at most nine of a minute's prints decide the minute's range. So bars of any length
  are exactly those of the prints, at a cost that does not grow with their number.
- Activity is shared out over the day's blocks of 30 minutes and over a block's minutes by random weights around the
  day's shape; of the n prints of a minute each lies at a random place of its n-th part.
- Sizes are read from one long table, from a random place on; differences of its running sums are volumes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import MINUTE_US, Float64Array, Int64Array
from tickerplant.sandbox.hours import BLOCK, Hours
from tickerplant.sandbox.noise import ONE, Paths, UInt32Array, hashed, unit
from tickerplant.sandbox.symbol_profiles import SIZES, Traits, size_sums

_CYCLE_DAYS: Final = 1_024
"""Length of the long path; at its ends prices are near the symbol's base, so that they never run away."""
_LONG_LEVELS: Final = 12
"""Down to a quarter of a day."""
_REGIME_DAYS: Final = 16
_JUMP_DAYS: Final = 32
_JUMP_SIGMA: Final = 0.35
_SAMPLE_BITS: Final = 6
"""64 parts of a day, whose ends decide its range."""
_KNOTS: Final = 9
"""Prints that decide a minute's range, its first and last among them."""
_DAY_LEVELS: Final = 14
"""16,384 parts of a day: below that a bridge would move by less than a tick."""
(
    _SALT_DAY, _SALT_CYCLE, _SALT_REGIME, _SALT_JUMP, _SALT_JUMP_DAY, _SALT_JUMP_TIME, _SALT_COUNT, _SALT_ROUND,
    _SALT_SIZES, _SALT_SIDE, _SALT_PLACE, _SALT_PHASE, _SALT_MINUTE, _SALT_BLOCK,
) = range(20, 34)  # fmt: skip
_LONG = Paths((1.0,) * 6 + (0.0,) * (_LONG_LEVELS - 6))
_FINE = Paths((0.0,) * 6 + (1.0,) * (_LONG_LEVELS - 6))
_WITHIN = Paths((1.0,) * _DAY_LEVELS)
_YEAR_DAYS: Final = 365.0


@dataclass(frozen=True, slots=True)
class Days:
    """Days of symbols, by row. Prints are numbered from 0 in each row's day."""

    code: npt.NDArray[np.int64]
    open_us: Int64Array
    minutes: Int64Array
    """How long it is open; 0: not at all."""
    count: Int64Array
    """Prints."""
    key: UInt32Array
    level: Float64Array
    """Logarithm of the first price over the symbol's base."""
    slope: Float64Array
    """What is added to it up to the last print, but for the jump."""
    sigma: Float64Array
    jump: Float64Array
    jump_at: Int64Array
    """Where the jump is, of [0, ONE]."""
    sizes_from: Int64Array
    low: Int64Array
    """Lowest price, in ticks."""
    high: Int64Array

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """Return these rows, in this order."""
        return type(self)(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, slots=True)
class Minutes:
    """Minutes that have prints: the row of their day, their start, first print, number of prints, low and high."""

    row: npt.NDArray[np.int64]
    start_us: Int64Array
    first: Int64Array
    count: Int64Array
    low: Int64Array
    high: Int64Array


class DayModel:
    """Makes days, and the minutes and prints in them."""

    def __init__(self, traits: Traits, rate: float) -> None:
        self._traits = traits
        self._rate = rate
        self._sums = size_sums()

    def days(self, hours: Hours, codes: npt.NDArray[np.int64], days: Int64Array) -> Days:
        """Return the days (counted since 1970) of the symbols `codes`, row by row."""
        traits, keys = self._traits, self._traits.key[codes]
        open_us, minutes = hours.of(days)
        key = hashed(keys, _SALT_DAY, days)
        begin, end = days * 4, days * 4 + (4 if hours.is_always else 3)
        span = (end - begin) / 4
        jump, jump_day, jump_at = self._jumps(keys, days, by_night=not hours.is_always)
        jump = jump * traits.sigma[codes] / _JUMP_SIGMA
        part = jump_day - days // _JUMP_DAYS * _JUMP_DAYS
        today = (jump_day == days) & (jump_at > 0)
        passed = (jump_day < days) | ((jump_day == days) & (jump_at == 0))
        within = days % _JUMP_DAYS
        level = self._long(codes, begin) + jump * (passed - within / _JUMP_DAYS)
        close = self._long(codes, end) + jump * ((part <= within) - (within + span) / _JUMP_DAYS)
        # News brings trade: a day with a jump has more prints. The mean over days stays what the rate asks for.
        busy = (0.6 + 0.8 * unit(hashed(key, _SALT_COUNT))) * np.where(jump_day == days, 1.8, 1.0)
        busy /= 1 + 0.8 / _JUMP_DAYS
        mean = self._rate * traits.share[codes] * minutes * 60 * busy
        count = np.floor(mean + unit(hashed(key, _SALT_ROUND))).astype(np.int64)
        jump = np.where(today, jump, 0.0)
        sigma = traits.sigma[codes] * np.sqrt(span / _YEAR_DAYS) * self._regime(keys, days * 4)
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
        """Return how many prints come before each minute of a block of a row, and its end: int64[blocks, BLOCK + 1]."""
        shapes, which = hours.shapes(days.minutes)
        upto = self._upto(shapes, which, days)
        low, high = upto[rows, blocks][:, None], upto[rows, blocks + 1][:, None]
        minute = blocks[:, None] * BLOCK + np.arange(BLOCK)
        # Exponential weights over a floor: some minutes have several times the prints of their neighbours.
        burst = 0.35 - 0.65 * np.log(unit(hashed(days.key[rows][:, None], _SALT_MINUTE, minute)))
        within = np.zeros((len(blocks), BLOCK + 1))
        np.cumsum(shapes[which[rows], blocks] * burst, axis=1, out=within[:, 1:])
        within /= np.maximum(within[:, -1:], 1e-300)
        share = np.minimum(low + (high - low) * within, high)
        # The last one is set, not computed: it is the next block's first to the last bit.
        share[:, -1] = high[:, 0]
        return _numbers(days.key[rows], days.count[rows], share)

    def minute_of(self, hours: Hours, days: Days, numbers: Int64Array) -> Minutes:
        """Return the minute of a print of each row."""
        shapes, which = hours.shapes(days.minutes)
        begins = _numbers(days.key, days.count, self._upto(shapes, which, days))
        rows = np.arange(len(numbers))
        block = (begins <= numbers[:, None]).sum(axis=1) - 1
        edges = self.edges(hours, days, rows, block)
        minute = (edges <= numbers[:, None]).sum(axis=1) - 1
        first = edges[rows, minute]
        start_us = days.open_us + (block * BLOCK + minute) * MINUTE_US
        return self.ranged(days, rows, start_us, first, edges[rows, minute + 1] - first)

    def minutes(self, hours: Hours, days: Days, rows: npt.NDArray[np.int64], blocks: Int64Array) -> Minutes:
        """Return the minutes of some blocks of some rows, in that order, without those that have no print."""
        edges = self.edges(hours, days, rows, blocks)
        starts = days.open_us[rows][:, None] + (blocks[:, None] * BLOCK + np.arange(BLOCK)) * MINUTE_US
        first, count = edges[:, :-1].ravel(), np.diff(edges, axis=1).ravel()
        at = np.flatnonzero(count)
        return self.ranged(days, np.repeat(rows, BLOCK)[at], starts.ravel()[at], first[at], count[at])

    def ranged(
        self, days: Days, row: npt.NDArray[np.int64], start_us: Int64Array, first: Int64Array, count: Int64Array
    ) -> Minutes:
        """Return minutes with their lows and highs, given their prints."""
        knots = first[:, None] + np.arange(_KNOTS) * (count[:, None] - 1) // (_KNOTS - 1)
        prices = self._in_day(days.take(np.repeat(row, _KNOTS)), knots.ravel()).reshape(-1, _KNOTS)
        low, high = prices.min(axis=1), prices.max(axis=1)
        # The prints that decide the day's range stay what they are: their minutes reach as far.
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
        """Return the prices of prints, in ticks, given the range of each one's minute."""
        return _reflected(self._in_day(days, numbers), low, high)

    def price(self, days: Days, ticks: Int64Array) -> Float64Array:
        """Return prices of ticks."""
        result: Float64Array = ticks / self._traits.per_unit[days.code]
        return result

    def volume_before(self, days: Days, numbers: Int64Array) -> Int64Array:
        """Return the volume of the day before each print."""
        table = self._traits.sizes[days.code]
        at = days.sizes_from + numbers
        rounds = at // SIZES
        total = self._sums[table, at - rounds * SIZES] + rounds * self._sums[table, SIZES]
        result: Int64Array = (total - self._sums[table, days.sizes_from]) * self._traits.multiple[days.code]
        return result

    @staticmethod
    def offsets(key: UInt32Array, first: Int64Array, count: Int64Array, at: Int64Array) -> Int64Array:
        """Return how long after its minute's start the print number `at` of a minute comes, in microseconds."""
        place = hashed(key, _SALT_PLACE, first + at).astype(np.int64) * MINUTE_US >> 32
        result: Int64Array = (at * MINUTE_US + place) // count
        return result

    def before(self, days: Days, first: Int64Array, count: Int64Array, offset_us: Int64Array) -> Int64Array:
        """Return how many of a minute's prints come before an offset from its start, of [0, a minute]."""
        # Each print lies in its own part of the minute, so that only that of the offset's part is in doubt.
        at = np.minimum(offset_us * count // MINUTE_US, count - 1)
        result: Int64Array = at + (self.offsets(days.key, first, count, at) < offset_us)
        return result

    @staticmethod
    def _upto(shapes: Float64Array, which: npt.NDArray[np.int64], days: Days) -> Float64Array:
        """Return the share of the day's activity before each block and at the end: float64[days, blocks + 1]."""
        longest = shapes.shape[1]
        uneven = 0.65 + 0.7 * unit(hashed(days.key[:, None], _SALT_BLOCK, np.arange(longest)[None, :]))
        upto = np.zeros((len(days.key), longest + 1))
        np.cumsum(shapes.sum(axis=2)[which] * uneven, axis=1, out=upto[:, 1:])
        upto /= np.maximum(upto[:, -1:], 1e-300)
        return upto

    def _in_day(self, days: Days, numbers: Int64Array) -> Int64Array:
        return _reflected(self._raw(days, numbers), days.low, days.high)

    def _raw(self, days: Days, numbers: Int64Array) -> Int64Array:
        """Return prices in ticks before any range is applied."""
        traits, last, bits = self._traits, np.maximum(days.count - 1, 1), _bits(days.count)
        part = (((numbers + 1) << bits) - 1) // last
        begin = part * last >> bits
        length = np.maximum(((part + 1) * last >> bits) - begin, 1)
        points = (part << (30 - bits)) + ((numbers - begin) << (30 - bits)) // length
        log = days.level + days.slope * (points / ONE) + days.jump * (points >= days.jump_at)
        log += days.sigma * _WITHIN.at(days.key, points)
        middle = np.exp(log) * (traits.base * traits.per_unit)[days.code]
        half = np.maximum(np.rint(middle * traits.spread[days.code]), 1.0) / 2
        side = (hashed(days.key, _SALT_SIDE, numbers) >> np.uint32(31)).astype(np.float64) * 2 - 1
        result: Int64Array = np.maximum(np.rint(middle + side * half), 1).astype(np.int64)
        return result

    def _long(self, codes: npt.NDArray[np.int64], quarters: Int64Array) -> Float64Array:
        """Return logarithms of prices over the base at quarters of days, without jumps."""
        keys = self._traits.key[codes]
        cycle = quarters // (4 * _CYCLE_DAYS)
        points = quarters % (4 * _CYCLE_DAYS) * (ONE // (4 * _CYCLE_DAYS))
        cycle_keys = hashed(keys, _SALT_CYCLE, cycle)
        left = unit(cycle_keys)
        right = unit(hashed(keys, _SALT_CYCLE, cycle + 1))
        path = _LONG.at(cycle_keys, points) + self._regime(keys, quarters) * _FINE.at(cycle_keys, points)
        ends = 0.3 * (left + (right - left) * (points / ONE) - 0.5)
        result: Float64Array = self._traits.sigma[codes] * (ends + np.sqrt(_CYCLE_DAYS / _YEAR_DAYS) * path)
        return result

    @staticmethod
    def _regime(keys: UInt32Array, quarters: Int64Array) -> Float64Array:
        """Return how volatile the time is, about 1: the same for 16 days, at whose ends the fine levels are 0."""
        regime = unit(hashed(keys, _SALT_REGIME, quarters // (4 * _REGIME_DAYS)))
        result: Float64Array = np.exp(1.1 * (regime - 0.5) - 0.05)
        return result

    def _jumps(
        self, keys: UInt32Array, days: Int64Array, *, by_night: bool
    ) -> tuple[Float64Array, Int64Array, Int64Array]:
        """Return the jump of each day's month: its size, its day, and where in the day; 0: before the open."""
        month = days // _JUMP_DAYS
        size = hashed(keys, _SALT_JUMP, month)
        # For a stock of 35 % a year: 1 % at the least, 1.5 % at the median, over 10 % once in 46 jumps.
        height = np.minimum(0.01 * unit(size) ** -0.6, 0.2) * np.where(size & np.uint32(1), 1.0, -1.0)
        day = month * _JUMP_DAYS + (hashed(keys, _SALT_JUMP_DAY, month) >> np.uint32(27)).astype(np.int64)
        time = unit(hashed(keys, _SALT_JUMP_TIME, month))
        at = np.maximum((time * ONE).astype(np.int64), 1)
        if by_night:  # three of five come while the exchange is closed
            at = np.where(time < 0.6, 0, np.maximum(((time - 0.6) / 0.4 * ONE).astype(np.int64), 1))
        return height, day, at


def _numbers(key: UInt32Array, count: Int64Array, share: Float64Array) -> Int64Array:
    """Return how many prints come before shares of the days' activity: int64[days, shares]."""
    phase = 0.999 * unit(hashed(key, _SALT_PHASE))
    result: Int64Array = np.floor(count[:, None] * share + phase[:, None]).astype(np.int64)
    return result


def _bits(count: Int64Array) -> Int64Array:
    """Return into how many parts a day of `count` prints is cut, as a power of two; none is without a print."""
    bits = np.frexp(np.maximum(count - 1, 1).astype(np.float64))[1].astype(np.int64) - 1
    result: Int64Array = np.minimum(bits, _SAMPLE_BITS)
    return result


def _samples(count: Int64Array) -> Int64Array:
    """Return the numbers of the prints that decide a day's range, some twice: int64[days, 65]."""
    bits = _bits(count)[:, None]
    part = np.minimum(np.arange((1 << _SAMPLE_BITS) + 1)[None, :], 1 << bits)
    result: Int64Array = np.minimum(part * np.maximum(count[:, None] - 1, 1) >> bits, np.maximum(count[:, None] - 1, 0))
    return result


def _reflected(ticks: Int64Array, low: Int64Array, high: Int64Array) -> Int64Array:
    """Return prices within their ranges: those outside are as far inside, or at the end that this leads to."""
    ticks = np.where(ticks > high, 2 * high - ticks, ticks)
    ticks = np.where(ticks < low, 2 * low - ticks, ticks)
    result: Int64Array = np.clip(ticks, low, high)
    return result
