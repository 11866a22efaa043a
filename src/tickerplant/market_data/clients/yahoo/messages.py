"""Conversion of Yahoo's answers (columns of yfinance) to bars as traded, and of its symbols and errors. Pure.

Yahoo's prices, volumes and dividends are adjusted for all splits up to now, and prices are float32. Prices and
dividends are multiplied by the later splits, and volumes are divided by them. Each price is then rounded to 2, 4, 6
or 8 decimal places, the fewest within the noise of float32.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core import interval as intervals
from tickerplant.core.adjustment import split_factors
from tickerplant.core.currency import units_of
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, Float64Array, Int64Array
from tickerplant.market_data.vendors.columns import bars_batch, dividends_batch, on_the_grid, splits_batch
from tickerplant.market_data.vendors.errors import (
    BadRequest,
    Malformed,
    NoData,
    NotEntitled,
    UnknownSymbol,
    VendorDown,
    VendorError,
)
from tickerplant.market_data.vendors.port import BarsRequest

INTERVAL_NAMES: Final = {"1m": "1m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1h", "1d": "1d"}
"""The vendor's name of each interval."""
MARKETS: Final = ("[!:]*",)
"""Patterns of the symbols that the vendor may have. Yahoo writes an exchange as a suffix (`VOD.L`), never as in
`RY:TSX`."""

DELAY_US: Final = 20 * MINUTE_US
"""Maximum delay of quotes. A bar that the vendor's clock has not passed is held back for this time."""

_FLOAT32: Final = 6e-8  # relative noise: half of the last binary digit
_CURRENCIES: Final = re.compile(
    "(AED|ARS|AUD|BRL|CAD|CHF|CLP|CNH|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|ISK|JPY|KRW|KWD|MXN|MYR|NOK|NZD"
    "|PEN|PHP|PKR|PLN|QAR|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|XAG|XAU|XPD|XPT|ZAR)"
)
_ERRORS: Final = (
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
    """Return the vendor's name of a currency pair, a crypto pair, a class of shares, or another symbol.

    >>> yahoo_symbol("EUR/USD"), yahoo_symbol("BTC/USD"), yahoo_symbol("BRK.B"), yahoo_symbol("VOD.L")
    ('EURUSD=X', 'BTC-USD', 'BRK-B', 'VOD.L')
    """
    base, slash, quote = symbol.partition("/")
    if slash:
        is_forex = _CURRENCIES.fullmatch(base) and _CURRENCIES.fullmatch(quote)
        return f"{base}{quote}=X" if is_forex else f"{base}-{quote}"
    return re.sub(r"\.([AB])$", r"-\1", symbol)


def error_of(reason: str) -> VendorError:
    """Return the error for Yahoo's reason; "" means that Yahoo returned no reason."""
    lower = reason.lower()
    if not lower:
        return NoData("Yahoo has no prices in the range")
    for pattern, kind in _ERRORS:
        if fnmatch.fnmatchcase(lower, pattern):
            return kind(reason[:300])
    return Malformed(f"unknown error of Yahoo: {reason[:300]}")


class _Error(msgspec.Struct):
    description: str = ""


class _Paid(msgspec.Struct):
    date: float = 0
    currency: str | None = None


class _Events(msgspec.Struct):
    dividends: dict[str, _Paid] = {}


class _Result(msgspec.Struct):
    events: _Events | None = None


class _Chart(msgspec.Struct):
    error: _Error | None = None
    result: list[_Result] | None = None


class _Body(msgspec.Struct):
    chart: _Chart | None = None


_body = msgspec.json.Decoder(_Body)


def raise_error(status: int, body: bytes) -> None:
    """Raise the error in the body of a chart with a status of 400 or more, if it is known.

    A status 404 with an unknown reason raises UnknownSymbol.
    """
    try:
        chart = _body.decode(body).chart
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if chart is None or chart.error is None or not chart.error.description:
        return
    error = error_of(chart.error.description)
    if not isinstance(error, Malformed):
        raise error
    if status == 404:
        raise UnknownSymbol(str(error))


def dividend_currencies(body: bytes) -> dict[int, str]:
    """Return the currencies of the dividends in a chart, by time in microseconds.

    The result is {} if the chart contains none, or if the body cannot be decoded.
    """
    try:
        chart = _body.decode(body).chart
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    events = [result.events for result in (chart.result if chart is not None else None) or [] if result.events]
    return {
        int(paid.date * SECOND_US): paid.currency
        for event in events
        for paid in event.dividends.values()
        if paid.currency and abs(paid.date) < 1e11
    }


@dataclass(frozen=True, slots=True)
class Columns:
    """A frame of `Ticker.history(auto_adjust=False)` as columns, in its order.

    `time`: starts in microseconds UTC; `local`: the same starts in the exchange's local time (midnight for days).
    `splits`, `dividends`: 0 in rows without a split or dividend. `market_us`: the vendor's clock, by its last trade;
    None if unknown. `paid_in`: currencies of the dividends in the chart, by time in microseconds.
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
    paid_in: Mapping[int, str] = field(default_factory=dict)


NOTHING: Final = Columns(np.empty(0, np.int64), np.empty(0, np.int64), *[np.empty(0)] * 7)  # type: ignore[arg-type]
"""Columns of an empty frame."""


@dataclass(frozen=True, slots=True)
class Splits:
    """The splits of a symbol. `day`: 00:00 UTC of the first session at the new price. `ratio`: new per old shares."""

    day: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    ratio: Float64Array = field(default_factory=lambda: np.empty(0))

    def merged_with(self, columns: Columns) -> Splits:
        """Return these splits and those of the columns. For a day that both contain, the columns' split is used."""
        day, ratio = splits_of(columns)
        mine = ~np.isin(self.day, day)
        return Splits(np.concatenate([self.day[mine], day]), np.concatenate([self.ratio[mine], ratio]))


@dataclass(frozen=True, slots=True)
class Answer:
    """Bars of the requested range, the end of the range that the bars cover, splits and dividends."""

    bars: pa.RecordBatch
    until_us: int
    splits: pa.RecordBatch
    dividends: pa.RecordBatch


def splits_of(columns: Columns) -> tuple[Int64Array, Float64Array]:
    """Return the days of the splits among the rows, as 00:00 UTC in microseconds, and their ratios."""
    there = np.isfinite(columns.splits) & (columns.splits > 0)
    return columns.local[there] // DAY_US * DAY_US, columns.splits[there]


def read_columns(columns: Columns, request: BarsRequest, now_us: int, splits: Splits, source: str) -> Answer:
    """Return the answer to a request of one symbol; `splits` are all splits of the symbol from `start_us` up to now.

    Rows outside the requested range, rows with an unknown price and rows off the grid (the live last row) are dropped.
    Bars that are still forming are dropped too; for intraday bars, the vendor's clock decides. Raises NotEntitled if
    several rows have prices and none is on the grid. Exchanges that open at half past the hour have 1h bars that start
    at half past.
    """
    symbol, interval, start_us, end_us = request.symbols[0], request.interval, request.start_us, request.end_us
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
    keep = fits & (time >= start_us) & (time < end_us) & (time <= settled_us - length)
    if known.sum() > 1 and not fits.any():
        raise NotEntitled(f"Yahoo's {interval} bars of {symbol} do not begin with the hour")
    volume = np.where(np.isfinite(columns.volume), columns.volume, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        traded = np.where(factor == 1.0, volume, np.rint(volume / factor))
    bars = bars_batch(symbol, interval, time[keep], tuple(price[keep] for price in prices), traded[keep], source)
    until_us = max(start_us, min(end_us, intervals.parse(interval).floor(settled_us)))
    split_rows, dividend_rows = read_actions(columns, symbol, start_us, end_us, splits, source)
    return Answer(bars, until_us, split_rows, dividend_rows)


def read_actions(
    columns: Columns, symbol: str, start_us: int, end_us: int, splits: Splits, source: str
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Return the splits and dividends from the day of `start_us` to `end_us`; amounts are as paid."""
    first_us = start_us // DAY_US * DAY_US
    day, ratio = splits_of(columns)
    wanted = (day >= first_us) & (day < end_us)
    split_rows = splits_batch(symbol, day[wanted], ratio[wanted], source, error=1e-6)
    paid_day = columns.local // DAY_US * DAY_US
    paid = np.isfinite(columns.dividends) & (columns.dividends > 0) & (paid_day >= first_us) & (paid_day < end_us)
    factor = split_factors(paid_day[paid], splits.day, splits.ratio)
    amounts = _as_traded(columns.dividends[paid], factor)
    sound = np.isfinite(amounts)
    rows = np.flatnonzero(paid)[sound]
    amounts, currencies = _in_the_currency_of_prices(columns, rows, amounts[sound])
    return split_rows, dividends_batch(symbol, paid_day[rows], amounts, currencies, source)


def _in_the_currency_of_prices(
    columns: Columns, rows: Int64Array, amounts: Float64Array
) -> tuple[Float64Array, list[str]]:
    """Return amounts of dividends in the unit of the prices, and their currencies.

    The amount is unchanged if a dividend is paid in a currency A and prices are in another currency B. Its currency is
    then `A/B`. Prices in pence (GBp) often have dividends in pounds: their amounts are multiplied by 100.
    """
    amounts, result, prices_in = amounts.copy(), [columns.currency] * len(rows), columns.currency
    for time, currency in columns.paid_in.items():
        at = int(np.searchsorted(columns.time[rows], time, side="right")) - 1
        if at < 0 or time - columns.time[rows[at]] >= DAY_US or not prices_in:
            continue
        factor = units_of(currency, prices_in)
        if factor is None:
            result[at] = f"{currency}/{prices_in}"
        else:
            amounts[at] *= factor
    return amounts, result


def _as_traded(prices: Float64Array, factor: Float64Array) -> Float64Array:
    """Return prices as traded: multiplied by `factor` and rounded.

    Each price has 2, 4, 6 or 8 decimal places, the fewest within the noise of float32; it is unchanged if none fits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result: Float64Array = prices * factor
        open_ = np.isfinite(result)
        for digits in (2, 4, 6, 8):
            rounded = np.round(result, digits)
            near = open_ & (np.abs(rounded - result) <= np.abs(result) * _FLOAT32)
            result = np.where(near, rounded, result)
            open_ = open_ & ~near
    return result
