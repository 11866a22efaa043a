"""What yfinance says of Yahoo, as columns, into batches of as-traded bars; names and refusals. Pure.

Yahoo's prices are float32, adjusted for all splits up to now, volumes and dividends too. They are multiplied back by
the splits that came after them, and freed of float32's noise where a decimal of up to eight digits lies within it.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core import interval as intervals
from tickerplant.core.adjustment import split_factors
from tickerplant.core.times import DAY_US, MINUTE_US, Float64Array, Int64Array
from tickerplant.market_data.clients.columns import bars_batch, dividends_batch, on_the_grid, splits_batch
from tickerplant.market_data.vendors.errors import (
    BadRequest,
    Malformed,
    NoData,
    NotEntitled,
    UnknownSymbol,
    VendorDown,
    VendorError,
)

INTERVAL_NAMES: Final = {"1m": "1m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1h", "1d": "1d"}
"""Our intervals' names to the vendor's."""
MARKETS: Final = ("[!:]*",)
"""Symbols that it may know. Exchanges are endings of its own (`VOD.L`), never `RY:TSX`."""

DELAY_US: Final = 20 * MINUTE_US
"""Quotes of some exchanges come so late: for so long a bar is held back that the vendor's clock has not passed."""

_FLOAT32: Final = 6e-8  # half of its last digit, relative
_CURRENCIES: Final = re.compile(
    "(AED|ARS|AUD|BRL|CAD|CHF|CLP|CNH|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|ISK|JPY|KRW|KWD|MXN|MYR|NOK|NZD"
    "|PEN|PHP|PKR|PLN|QAR|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|XAG|XAU|XPD|XPT|ZAR)"
)
_REFUSALS: Final = (
    ("*no data found*", UnknownSymbol),
    ("*not found*", UnknownSymbol),
    ("*delisted*", UnknownSymbol),
    ("*data doesn't exist*", NoData),
    ("*must be within the last*", NotEntitled),
    ("*not available for*", BadRequest),
    ("*worth of*", BadRequest),
    ("*invalid*", BadRequest),
    ("*not supported*", BadRequest),
    ("*internal*", VendorDown),
    ("*unavailable*", VendorDown),
    ("*try again*", VendorDown),
    ("*timeout*", VendorDown),
    ("*timed out*", VendorDown),
)


def yahoo_symbol(symbol: str) -> str:
    """Return the vendor's name of a symbol: of currency pairs, of crypto pairs, of classes of shares.

    >>> yahoo_symbol("EUR/USD"), yahoo_symbol("BTC/USD"), yahoo_symbol("BRK.B"), yahoo_symbol("VOD.L")
    ('EURUSD=X', 'BTC-USD', 'BRK-B', 'VOD.L')
    """
    base, slash, quote = symbol.partition("/")
    if slash:
        is_forex = _CURRENCIES.fullmatch(base) and _CURRENCIES.fullmatch(quote)
        return f"{base}{quote}=X" if is_forex else f"{base}-{quote}"
    return re.sub(r"\.([AB])$", r"-\1", symbol)


def refusal_of(reason: str) -> VendorError:
    """Return the error that Yahoo's reason for having no prices means; "" where it gave none."""
    said = reason.lower()
    if not said:
        return NoData("Yahoo has no prices there")
    for pattern, kind in _REFUSALS:
        if fnmatch.fnmatchcase(said, pattern):
            return kind(reason[:300])
    return Malformed(f"Yahoo refuses in words that are not known: {reason[:300]}")


class _Error(msgspec.Struct):
    description: str = ""


class _Chart(msgspec.Struct):
    error: _Error | None = None


class _Body(msgspec.Struct):
    chart: _Chart | None = None


_body = msgspec.json.Decoder(_Body)


def raise_refusal(status: int, body: bytes) -> None:
    """Raise what the body of a chart with a status of 400 or more says, if it says so in words that are known."""
    try:
        chart = _body.decode(body).chart
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if chart is None or chart.error is None or not chart.error.description:
        return
    error = refusal_of(chart.error.description)
    if not isinstance(error, Malformed):
        raise error
    if status == 404:
        raise UnknownSymbol(str(error))


@dataclass(frozen=True, slots=True)
class Columns:
    """A frame of `Ticker.history(auto_adjust=False)` as columns, in its order.

    `time`: microseconds UTC of the starts; `local`: the same on the exchange's clocks (a day's is its midnight).
    `splits`, `dividends`: 0 in rows without one. `market_us`: how far the vendor's clock is, by the last trade that it
    knows, None where it does not say.
    """

    time: Int64Array
    local: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    splits: Float64Array
    dividends: Float64Array
    currency: str = ""
    market_us: int | None = None


NOTHING: Final = Columns(np.empty(0, np.int64), np.empty(0, np.int64), *[np.empty(0)] * 7)  # type: ignore[arg-type]
"""An empty frame's columns."""


@dataclass(frozen=True, slots=True)
class Splits:
    """A symbol's splits: `day`, 00:00 UTC of the first session at the new price, and new shares for an old one."""

    day: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    ratio: Float64Array = field(default_factory=lambda: np.empty(0))

    def with_those_of(self, columns: Columns) -> Splits:
        """Return these and those of the columns; of a day that both know, the columns'."""
        day, ratio = splits_of(columns)
        mine = ~np.isin(self.day, day)
        return Splits(np.concatenate([self.day[mine], day]), np.concatenate([self.ratio[mine], ratio]))


@dataclass(frozen=True, slots=True)
class Said:
    """What columns say: bars of `[from, to)`, and up to when they speak for that stretch; splits and dividends."""

    bars: pa.RecordBatch
    until_us: int
    splits: pa.RecordBatch
    dividends: pa.RecordBatch


def splits_of(columns: Columns) -> tuple[Int64Array, Float64Array]:
    """Return the days and ratios of the splits among the rows."""
    there = np.isfinite(columns.splits) & (columns.splits > 0)
    return columns.local[there] // DAY_US * DAY_US, columns.splits[there]


def read_columns(
    columns: Columns, symbol: str, interval: str, from_us: int, to_us: int, now_us: int, splits: Splits, source: str
) -> Said:
    """Return what the columns say of `[from, to)`; `splits` are all of the symbol's from there up to now.

    Left out are rows without a price, those that are not on the grid (the live last row), and bars that are not over by
    the vendor's clock. Raises NotEntitled if none of the rows with a price is on the grid: the hours of exchanges that
    open at half past are none of the plant's.
    """
    daily = interval == "1d"
    length = intervals.parse(interval).us
    time = columns.local // DAY_US * DAY_US if daily else columns.time
    factor = split_factors(columns.local // DAY_US * DAY_US, splits.day, splits.ratio)
    prices = tuple(_as_traded(column, factor) for column in (columns.open, columns.high, columns.low, columns.close))
    known = np.isfinite(np.array(prices)).all(axis=0)
    fits = known & on_the_grid(time, interval)
    settled_us = now_us
    if not daily:
        market_us = columns.market_us if columns.market_us is not None else now_us - DELAY_US
        settled_us = min(now_us, max(market_us, now_us - DELAY_US))
    keep = fits & (time >= from_us) & (time < to_us) & (time <= settled_us - length)
    if known.sum() > 1 and not fits.any():
        raise NotEntitled(f"Yahoo's {interval} bars of {symbol} do not begin with the hour")
    volume = np.where(np.isfinite(columns.volume), columns.volume, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        traded = np.where(factor == 1.0, volume, np.rint(volume / factor))
    bars = bars_batch(symbol, interval, time[keep], tuple(price[keep] for price in prices), traded[keep], source)
    until_us = max(from_us, min(to_us, intervals.parse(interval).floor(settled_us)))
    split_rows, dividend_rows = read_actions(columns, symbol, from_us, to_us, splits, source)
    return Said(bars, until_us, split_rows, dividend_rows)


def read_actions(
    columns: Columns, symbol: str, from_us: int, to_us: int, splits: Splits, source: str
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Return the splits and dividends whose day, 00:00 UTC, lies in `[from, to)` or holds `from`; amounts as paid."""
    first_us = from_us // DAY_US * DAY_US
    day, ratio = splits_of(columns)
    wanted = (day >= first_us) & (day < to_us)
    split_rows = splits_batch(symbol, day[wanted], ratio[wanted], source, error=1e-6)
    paid_day = columns.local // DAY_US * DAY_US
    paid = np.isfinite(columns.dividends) & (columns.dividends > 0) & (paid_day >= first_us) & (paid_day < to_us)
    factor = split_factors(paid_day[paid], splits.day, splits.ratio)
    amounts = _as_traded(columns.dividends[paid], factor)
    sound = np.isfinite(amounts)
    return split_rows, dividends_batch(symbol, paid_day[paid][sound], amounts[sound], columns.currency, source)


def _as_traded(prices: Float64Array, factor: Float64Array) -> Float64Array:
    """Return adjusted prices multiplied back, each the shortest decimal that float32's noise cannot tell from it."""
    with np.errstate(over="ignore", invalid="ignore"):
        result: Float64Array = prices * factor
        open_ = np.isfinite(result)
        for digits in (2, 4, 6, 8):
            rounded = np.round(result, digits)
            near = open_ & (np.abs(rounded - result) <= np.abs(result) * _FLOAT32)
            result = np.where(near, rounded, result)
            open_ = open_ & ~near
    return result
