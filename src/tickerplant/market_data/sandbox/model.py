"""The sandbox's market: prices, sizes and times of prints as a pure function of (seed, symbol, time).

So the stream of now and the history of any day agree, whoever asks and whenever, and a run can be repeated. Log prices
are a sum of smooth noises of periods 1 s, 4 s, 16 s … two years, with amplitudes that grow with the root of the period,
as a random walk's would. Prints come at a steady rate over all symbols, each symbol at its own offset; volumes are
telescoping, so the volume between any two prints is known without walking through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import ConfigError
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, BoolArray, Float64Array, Int64Array
from tickerplant.market_data.cursors import UInt64Array, mix

KNOWN: Final = {
    "AAPL": 230.0, "MSFT": 420.0, "GOOG": 175.0, "AMZN": 190.0, "NVDA": 125.0, "TSLA": 250.0, "META": 560.0,
    "JPM": 215.0, "SPY": 570.0, "QQQ": 485.0, "EUR/USD": 1.09, "BTC/USD": 64_000.0,
}  # fmt: skip
"""The first symbols and about where their prices lie; then come SYM0001, SYM0002 and so on."""

_PERIODS_S: Final = tuple(4**k for k in range(14))
_YEAR_S: Final = 365 * 86_400
_SAMPLES: Final = 300
_SAMPLES_COARSE: Final = 60
"""Prints looked at for a bar, first and last among them: at most 300 for a minute, 60 for longer bars.

A bar with more prints has its exact open, close and volume, and a high and low that leave out the finest noise; a bar
of a day would otherwise cost a million prices.
"""
_G = np.uint64(0x9E3779B97F4A7C15)


def symbol_names(count: int) -> tuple[str, ...]:
    """Return the first `count` symbols of the sandbox.

    >>> symbol_names(13)[-2:]
    ('BTC/USD', 'SYM0001')
    """
    known = list(KNOWN)
    return (*known[:count], *(f"SYM{at + 1:04d}" for at in range(max(0, count - len(known)))))


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """What is traded. `rate`: prints a second over all symbols.

    `sessions`: `always`, or `us` (stocks on weekdays, 09:30–16:00 New York).
    With `always` stocks trade round the clock, so that a demo lives at any hour: give the plant the calendar `24/7`.
    """

    symbols: Sequence[str] = field(default_factory=lambda: symbol_names(12))
    rate: float = 50.0
    seed: int = 7
    sessions: str = "always"


@dataclass(frozen=True, slots=True)
class Prints:
    """Prints in the order of time: symbol codes, microseconds, prices, and each symbol's volume of the day so far."""

    codes: npt.NDArray[np.int64]
    times_us: Int64Array
    prices: Float64Array
    day_volumes: Int64Array


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars of one symbol by time; those without a print are left out."""

    starts_us: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Int64Array


class Market:
    """The market of some settings. No state: every method may be called for any time, in any order."""

    def __init__(self, settings: MarketSettings) -> None:
        if not settings.symbols or settings.rate <= 0:
            raise ConfigError("the sandbox needs a symbol and a rate above 0")
        if settings.sessions not in ("always", "us"):
            raise ConfigError(f"sessions of the sandbox are always or us, not {settings.sessions!r}")
        self.settings = settings
        self.symbols = tuple(dict.fromkeys(settings.symbols))
        self.code = {symbol: at for at, symbol in enumerate(self.symbols)}
        names = np.array([_name_hash(symbol) for symbol in self.symbols], np.uint64)
        with np.errstate(over="ignore"):
            self._seeds = mix(names + np.uint64(settings.seed % (1 << 63)) * _G)
        unit = _unit(self._seeds)
        base = np.array([KNOWN.get(symbol, 0.0) for symbol in self.symbols])
        self._base = np.where(base > 0, base, np.exp(np.log(8) + unit * np.log(60)))
        self.forex = np.array(["/" in symbol and not symbol.startswith("BTC") for symbol in self.symbols])
        self.stock = np.array(["/" not in symbol for symbol in self.symbols])
        self._digits = np.where(self._base < 10, 1e5, 1e2)
        self._sigma = np.where(self.forex, 0.08, 0.2 + 0.3 * _unit(mix(self._seeds)))
        self._lot = np.maximum(1, (2e4 / self._base * (0.5 + unit))).astype(np.int64)
        self._place = np.argsort(mix(self._seeds ^ _G))  # which symbol prints at each place of a round
        self._at = np.argsort(self._place)

    def prints(self, from_us: int, to_us: int) -> Prints:
        """Return the prints of `[from_us, to_us)`."""
        first, end = self._number(from_us), self._number(to_us)
        numbers = np.arange(first, max(first, end), dtype=np.int64)
        codes = self._place[numbers % len(self.symbols)]
        times = self._time(numbers)
        if self.settings.sessions == "us":
            keep = self.is_open(times) | ~self.stock[codes]
            numbers, codes, times = numbers[keep], codes[keep], times[keep]
        return Prints(codes, times, self.price(codes, times), self._day_volume(codes, numbers, times))

    def bars(self, symbol: str, from_us: int, to_us: int, length_us: int) -> Bars:
        """Return a symbol's bars that start in `[from_us, to_us)`, which lie on the grid of `length_us`."""
        code = self.code[symbol]
        starts = np.arange(from_us, to_us, length_us, dtype=np.int64)
        first, end = self._own(code, starts), self._own(code, starts + length_us)
        keep = end > first
        if self.settings.sessions == "us" and self.stock[code]:
            probe = starts if length_us < DAY_US else starts + 15 * 3_600 * SECOND_US  # in New York's session all year
            keep &= self.is_open(probe)
        starts, first, end = starts[keep], first[keep], end[keep]
        if not len(starts):
            nothing = np.empty(0)
            return Bars(starts, nothing, nothing, nothing, nothing, np.empty(0, np.int64))
        samples = int(min(_SAMPLES if length_us <= MINUTE_US else _SAMPLES_COARSE, (end - first).max()))
        along = np.linspace(0, 1, samples) if samples > 1 else np.zeros(1)
        picked = first[:, None] + np.rint(along * (end - 1 - first)[:, None]).astype(np.int64)
        numbers = picked * len(self.symbols) + self._at[code]
        prices = self.price(np.full(picked.size, code), self._time(numbers.ravel())).reshape(picked.shape)
        volume = self._sold(code, end - 1) - self._sold(code, first - 1)
        return Bars(starts, prices[:, 0], prices.max(axis=1), prices.min(axis=1), prices[:, -1], volume)

    def price(self, codes: npt.NDArray[np.int64], times_us: Int64Array) -> Float64Array:
        """Return the price of each symbol at each time, rounded as its market quotes it."""
        log_price = np.zeros(len(times_us))
        seeds = self._seeds[codes]
        for octave, period_s in enumerate(_PERIODS_S):
            at = times_us / (period_s * SECOND_US)
            low = np.floor(at)
            share = at - low
            share = share * share * (3 - 2 * share)
            left = low.astype(np.int64).astype(np.uint64)
            a, b = _noise(seeds, octave, left), _noise(seeds, octave, left + np.uint64(1))
            log_price += (a + (b - a) * share) * np.sqrt(period_s / _YEAR_S)
        digits = self._digits[codes]
        price = self._base[codes] * np.exp(self._sigma[codes] * log_price)
        result: Float64Array = np.maximum(np.rint(price * digits), 1) / digits
        return result

    def is_open(self, times_us: Int64Array) -> BoolArray:
        """Return whether the stocks' session is on: weekdays 09:30 to 16:00 in New York, without holidays."""
        shown = pc.local_timestamp(pa.array(times_us).view(pa.timestamp("us", tz="America/New_York")))
        local = shown.view(pa.int64()).to_numpy(zero_copy_only=False)
        minute = local % DAY_US // MINUTE_US
        weekday = (local // DAY_US + 3) % 7
        result: BoolArray = (minute >= 570) & (minute < 960) & (weekday < 5)
        return result

    def _number(self, us: int) -> int:
        """Return the number of the first print at or after a time."""
        number = int(us / SECOND_US * self.settings.rate) - 2
        while int(self._time(np.array([number]))[0]) < us:
            number += 1
        return number

    def _time(self, numbers: Int64Array) -> Int64Array:
        rate = self.settings.rate
        whole = np.floor(numbers / rate)
        rest = (numbers - whole * rate) / rate
        result: Int64Array = (whole.astype(np.int64) * SECOND_US) + np.rint(rest * SECOND_US).astype(np.int64)
        return result

    def _own(self, code: int, times_us: Int64Array) -> Int64Array:
        """Return the symbol's own number of its first print at or after each time."""
        count, at = len(self.symbols), int(self._at[code])
        guess: Int64Array = np.floor((times_us / SECOND_US * self.settings.rate - at) / count).astype(np.int64) - 1
        for _ in range(3):
            guess = guess + (self._time(guess * count + at) < times_us)
        return guess

    def _sold(self, code: int | npt.NDArray[np.int64], own: Int64Array) -> Int64Array:
        """Return the volume up to and including the symbol's own print; the differences are sizes of 1 lot to 2."""
        lot = self._lot[code]
        shift = np.floor(lot * _unit(mix(self._seeds[code] ^ own.astype(np.uint64))))
        result: Int64Array = own * (lot + 1) + shift.astype(np.int64)
        return result

    def _day_volume(self, codes: npt.NDArray[np.int64], numbers: Int64Array, times_us: Int64Array) -> Int64Array:
        if not len(numbers):
            return np.empty(0, np.int64)
        own = numbers // len(self.symbols)
        days = times_us // DAY_US
        before = np.empty(len(numbers), np.int64)
        for day in np.unique(days).tolist():
            begin = self._number(day * DAY_US)
            here = days == day
            # The last own print before the day: a place in the round that the day's first print has not passed yet.
            before[here] = (begin - self._at[codes[here]] + len(self.symbols) - 1) // len(self.symbols) - 1
        return self._sold(codes, own) - self._sold(codes, before)


def _name_hash(symbol: str) -> int:
    value = 0xCBF29CE484222325
    for byte in symbol.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


def _unit(values: UInt64Array) -> Float64Array:
    """Return numbers in [0, 1)."""
    return (values >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _noise(seeds: UInt64Array, octave: int, lattice: UInt64Array) -> Float64Array:
    with np.errstate(over="ignore"):
        return _unit(mix(seeds + lattice * _G ^ np.uint64(octave + 1) << np.uint64(56))) * 2 - 1
