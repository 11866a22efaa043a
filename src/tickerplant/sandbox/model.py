"""The sandbox's market: prices, sizes and times of prints as a pure function of (seed, symbol, time).

So the stream of now and the history of any day agree, whoever asks and whenever, and a run can be repeated; bars are
those of the prints, to the last tick. It looks like a market: `days` says how a day goes, `hours` when there is one,
`traits` what each symbol is like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.errors import ConfigError
from tickerplant.core.times import DAY_US, MINUTE_US, BoolArray, Float64Array, Int64Array
from tickerplant.sandbox.days import DayModel, Days, Minutes
from tickerplant.sandbox.hours import BLOCK, Hours
from tickerplant.sandbox.symbol_profiles import KNOWN, Traits

_DAYS_AT_ONCE: Final = 128
"""Days that are worked out together for bars: 184,320 minutes round the clock, some 50 MB at the most."""
_DAYS_BACK: Final = 10
"""Days that are searched for a symbol's last print; the longest stretch without a session is shorter."""


def symbol_names(count: int) -> tuple[str, ...]:
    """Return the first `count` symbols of the sandbox.

    >>> symbol_names(13)[-2:]
    ('BTC/USD', 'SYM0001')
    """
    known = list(KNOWN)
    return (*known[:count], *(f"SYM{at + 1:04d}" for at in range(max(0, count - len(known)))))


@dataclass(frozen=True, slots=True)
class MarketSettings:
    """What is traded. `rate`: prints a second over all symbols, on the average while their markets are open.

    `sessions`: `always`, or `us` (stocks in the regular session of New York, with its holidays and half days; the rest
    round the clock). With `always` stocks trade round the clock too, so that a demo lives at any hour: give the plant
    the calendar `24/7`.
    """

    symbols: Sequence[str] = field(default_factory=lambda: symbol_names(12))
    rate: float = 50.0
    seed: int = 7
    sessions: str = "always"


@dataclass(frozen=True, slots=True)
class Prints:
    """Prints in the order of time: symbol codes, microseconds, prices, each symbol's volume of the UTC day so far.

    That volume includes the print, whose own size is in `sizes`.
    """

    codes: npt.NDArray[np.int64]
    times_us: Int64Array
    prices: Float64Array
    day_volumes: Int64Array
    sizes: Int64Array


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
    """The market of some settings. Every method may be called for any time, in any order, from any thread.

    All it remembers is what it worked out last, for the next 10 ms of a stream.
    """

    def __init__(self, settings: MarketSettings) -> None:
        if not settings.symbols or settings.rate <= 0:
            raise ConfigError("the sandbox needs a symbol and a rate above 0")
        if settings.sessions not in ("always", "us"):
            raise ConfigError(f"sessions of the sandbox are always or us, not {settings.sessions!r}")
        self.settings = settings
        self.symbols = tuple(dict.fromkeys(settings.symbols))
        self.code = {symbol: at for at, symbol in enumerate(self.symbols)}
        self._traits = Traits(self.symbols, settings.seed)
        self.forex, self.stock = self._traits.forex, self._traits.stock
        self._model = DayModel(self._traits, settings.rate)
        always, exchange = Hours(None), Hours("XNYS")
        self._stock_hours = exchange if settings.sessions == "us" else always
        round_the_clock = ~self.stock | self._stock_hours.is_always
        groups = ((always, np.flatnonzero(round_the_clock)), (exchange, np.flatnonzero(~round_the_clock)))
        self._boards = [_Board(hours, codes) for hours, codes in groups if len(codes)]

    def prints(self, from_us: int, to_us: int) -> Prints:
        """Return the prints of `[from_us, to_us)`. A second of 20,000 prints over 5,000 symbols costs 0.1 s or less."""
        return self._prints_of(self._boards, from_us, to_us)

    def prints_of(self, symbol: str, from_us: int, to_us: int) -> Prints:
        """Return one symbol's prints of `[from_us, to_us)`. A minute costs some milliseconds, however many symbols."""
        code = self.code[symbol]
        board = next(board for board in self._boards if code in board.codes)
        return self._prints_of([_Board(board.hours, np.array([code]))], from_us, to_us)

    def _prints_of(self, boards: Sequence[_Board], from_us: int, to_us: int) -> Prints:
        parts = []
        minute_us = from_us // MINUTE_US * MINUTE_US
        while minute_us < to_us:
            for board in boards:
                part = self._prints(board, minute_us, from_us - minute_us, to_us - minute_us)
                if part is not None:
                    parts.append(part)
            minute_us += MINUTE_US
        if not parts:
            nothing = np.empty(0, np.int64)
            return Prints(nothing, nothing, np.empty(0), nothing, nothing)
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.lexsort((columns[0], columns[1]))
        return Prints(*(column[order] for column in columns))

    def bars(self, symbol: str, from_us: int, to_us: int, length_us: int) -> Bars:
        """Return a symbol's bars that start in `[from_us, to_us)`, which lie on the grid of `length_us` from `from_us`.

        They are those of the symbol's prints, to the last tick. Years of daily bars cost little where `from_us` is
        00:00 UTC, as a day knows its own. Raises ValueError where length or beginning are not whole minutes.
        """
        by_day = not (length_us % DAY_US or from_us % DAY_US)
        if length_us <= 0 or length_us % MINUTE_US or from_us % MINUTE_US:
            raise ValueError(f"bars of {length_us} µs from {from_us} do not go by whole minutes")
        code = self.code[symbol]
        board = next(board for board in self._boards if code in board.codes)
        count = -(-max(0, to_us - from_us) // length_us)
        end_us = from_us + count * length_us
        days = np.arange(from_us // DAY_US, -(-end_us // DAY_US))
        rows = self._day_rows if by_day else self._minute_rows
        parts = [
            rows(board.hours, code, days[at : at + _DAYS_AT_ONCE]) for at in range(0, len(days), _DAYS_AT_ONCE)
        ] or [rows(board.hours, code, days)]
        start, first, close, low, high, volume = (np.concatenate(column) for column in zip(*parts, strict=True))
        inside = (start >= from_us) & (start < end_us)
        bar = (start[inside] - from_us) // length_us
        begins = np.flatnonzero(np.diff(bar, prepend=-1))
        ends = np.append(begins[1:], len(bar)) - 1
        starts = from_us + bar[begins] * length_us
        if not len(begins):
            nothing = np.empty(0)
            return Bars(starts, nothing, nothing, nothing, nothing, np.empty(0, np.int64))
        per_unit = self._traits.per_unit[code]
        return Bars(
            starts,
            first[inside][begins] / per_unit,
            np.maximum.reduceat(high[inside], begins) / per_unit,
            np.minimum.reduceat(low[inside], begins) / per_unit,
            close[inside][ends] / per_unit,
            np.add.reduceat(volume[inside], begins),
        )

    def price(self, codes: npt.NDArray[np.int64], times_us: Int64Array) -> Float64Array:
        """Return the price of each symbol at each time: that of its last print at or before it.

        Of a symbol without a print in the ten days before it: where its path is.
        """
        result = np.empty(len(codes))
        for board in self._boards:
            at = np.flatnonzero(np.isin(codes, board.codes))
            if len(at):
                result[at] = self._last_prices(board.hours, codes[at], times_us[at])
        return result

    def spread(self, codes: npt.NDArray[np.int64], prices: Float64Array) -> Float64Array:
        """Return how far the ask lies above the bid at such prices; a print is at one of the two."""
        per_unit = self._traits.per_unit[codes]
        result: Float64Array = np.maximum(np.rint(prices * per_unit * self._traits.spread[codes]), 1) / per_unit
        return result

    def is_open(self, times_us: Int64Array) -> BoolArray:
        """Return whether stocks are traded: always, or in New York's regular session, holidays and half days known."""
        return self._stock_hours.is_open(times_us)

    def _prints(self, board: _Board, minute_us: int, from_us: int, to_us: int) -> list[npt.NDArray[Any]] | None:
        """Return the columns of the board's prints of a minute, from and to so many µs after its start."""
        day = minute_us // DAY_US
        found = board.day
        if found is None or found[0] != day:
            codes = board.codes
            found = board.day = (day, self._model.days(board.hours, codes, np.full(len(codes), day)))
        days = found[1]
        if not days.minutes[0] or not 0 <= minute_us - int(days.open_us[0]) < int(days.minutes[0]) * MINUTE_US:
            return None
        kept = board.minute
        if kept is None or kept[0] != minute_us:
            rows = np.arange(len(board.codes))
            minute = (minute_us - int(days.open_us[0])) // MINUTE_US
            edges = self._model.edges(board.hours, days, rows, np.full(len(rows), minute // BLOCK))
            first, count = edges[:, minute % BLOCK], np.diff(edges, axis=1)[:, minute % BLOCK]
            rows = np.flatnonzero(count)
            ranged = self._model.ranged(days, rows, np.full(len(rows), minute_us), first[rows], count[rows])
            kept = board.minute = (minute_us, ranged, days.take(rows))
        _, minutes, mine = kept
        bounds = [np.full(len(minutes.row), min(max(bound, 0), MINUTE_US)) for bound in (from_us, to_us)]
        begin, end = (self._model.before(mine, minutes.first, minutes.count, bound) for bound in bounds)
        of = np.repeat(np.arange(len(begin)), end - begin)
        at = np.arange(len(of)) - np.repeat(np.cumsum(end - begin) - end, end - begin)
        each, number = mine.take(of), minutes.first[of] + at
        ticks = self._model.ticks(each, number, minutes.low[of], minutes.high[of])
        times = minute_us + self._model.offsets(each.key, minutes.first[of], minutes.count[of], at)
        before, after = (self._model.volume_before(each, numbers) for numbers in (number, number + 1))
        return [each.code, times, self._model.price(each, ticks), after, after - before]

    def _day_rows(self, hours: Hours, code: int, numbers: Int64Array) -> tuple[Int64Array, ...]:
        """Return the days with prints: start, first, last, low and high in ticks, volume."""
        days = self._model.days(hours, np.full(len(numbers), code), numbers)
        days = days.take(np.flatnonzero(days.count))
        first = np.zeros(len(days.count), np.int64)
        edges = (self._model.ticks(days, at, days.low, days.high) for at in (first, days.count - 1))
        volume = self._model.volume_before(days, days.count)
        return days.open_us // DAY_US * DAY_US, *edges, days.low, days.high, volume

    def _minute_rows(self, hours: Hours, code: int, numbers: Int64Array) -> tuple[Int64Array, ...]:
        """Return the same of minutes."""
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
        for back in range(_DAYS_BACK):
            days = model.days(hours, codes[left], times_us[left] // DAY_US - back)
            if back == 0:
                result[:] = self._traits.base[codes] * np.exp(days.level)
            rows = np.arange(len(left))
            passed = np.clip(times_us[left] - days.open_us, 0, np.maximum(days.minutes * MINUTE_US - 1, 0))
            minute = passed // MINUTE_US
            edges = model.edges(hours, days, rows, minute // BLOCK)
            first, end = edges[rows, minute % BLOCK], edges[rows, minute % BLOCK + 1]
            # A print of this very microsecond counts, so does every print of a day that is over.
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
class _Board:
    """Symbols that are traded at the same hours, and what was worked out last of all of them together."""

    hours: Hours
    codes: npt.NDArray[np.int64]
    day: tuple[int, Days] | None = None
    minute: tuple[int, Minutes, Days] | None = None
    """The minute's start, its symbols with prints, and their days."""
