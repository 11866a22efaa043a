"""Alpha Vantage's answers as columns and typed errors. Pure.

Errors have HTTP 200 and one of three keys (`Error Message`, `Note`, `Information`); the text determines the error's
kind. Numbers before names (`5. volume`) differ between functions, so names are matched without numbers.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of
from tickerplant.core.digits import parse_float
from tickerplant.core.errors import BadInput
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, Float64Array, Int64Array, datetime_of, micros_of
from tickerplant.market_data.vendors.bounds import SHOWN_CHARS, is_same_symbol, shortened
from tickerplant.market_data.vendors.columns import bars_batch, dividends_batch, on_the_grid, splits_batch
from tickerplant.market_data.vendors.errors import (
    BadKey,
    BadRequest,
    Burst,
    Malformed,
    NoData,
    NotEntitled,
    QuotaSpent,
    UnknownSymbol,
    VendorDown,
    VendorError,
)

ZONE_NAME: Final = "America/New_York"
"""Zone of the vendor's day, and of its times unless the answer contains another zone."""
ZONE: Final = ZoneInfo(ZONE_NAME)
INTERVAL_NAMES: Final = {"1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min"}
"""The vendor's name of each intraday interval."""

_BURST: Final = ("burst", "sparingly", "per second")
_BURST_S: Final = 2.0
_MESSAGE_CHARS: Final = 300
_SERIES: Final = "Time Series"
_COLUMNS: Final = ("open", "high", "low", "close", "volume")
_SPLIT_ERROR: Final = 5e-5  # factors have four digits

_Cell = str | float | None
_whole = msgspec.json.Decoder(dict[str, msgspec.Raw])
_meta = msgspec.json.Decoder(dict[str, str])
_rows = msgspec.json.Decoder(dict[str, dict[str, _Cell]])
_actions = msgspec.json.Decoder(list[dict[str, _Cell]])
_any = msgspec.json.Decoder()


# Errors --------------------------------------------------------------------------------------------------------------


def without_key(text: str, key: str = "") -> str:
    """Return the text without the key, which the vendor may repeat."""
    if key:
        text = text.replace(key, "***")
    return re.sub(r"(?i)(apikey=|api key as )[^&\s'\"]+", r"\1***", text)


def error_of(key: str, text: str, now_us: int) -> VendorError:
    """Return the error for the key and text of an answer. The text may contain the API key."""
    lower, message = text.lower(), text[:_MESSAGE_CHARS]
    if any(words in lower for words in _BURST):
        return Burst(message, _BURST_S)
    if "per minute" in lower:
        return QuotaSpent(message, (MINUTE_US - now_us % MINUTE_US) / SECOND_US)
    if "per day" in lower or "daily rate limit" in lower:
        return QuotaSpent(message, (_tomorrow_us(now_us) - now_us) / SECOND_US, daily=True)
    if "call frequency" in lower or "rate limit" in lower:
        return QuotaSpent(message, (MINUTE_US - now_us % MINUTE_US) / SECOND_US)
    if "demo" in lower and "key" in lower:
        return BadKey(message)
    if "premium" in lower:
        return NotEntitled(message)
    if "apikey" in lower or "api key" in lower:
        return BadKey(message)
    if "invalid api call" in lower:
        return UnknownSymbol(message)
    return BadRequest(message) if key == "Error Message" else Malformed(f"{key}: {message}")


def raise_error(body: Mapping[str, Any], now_us: int) -> None:
    """Raise the error that an answer contains, or NoData if the answer is empty. Values may be raw JSON."""
    if not body:
        raise NoData("the answer is empty")
    for key in ("Error Message", "Information", "Note"):
        if key in body:
            value = body[key]
            text = _decode(_any, value) if isinstance(value, msgspec.Raw) else value
            raise error_of(key, text if isinstance(text, str) else repr(text), now_us)


def raise_status(status: int, body: bytes) -> None:
    """Raise the error of an HTTP status other than 2xx."""
    if status < 300:
        return
    message = f"HTTP {status}: {body[:_MESSAGE_CHARS].decode('utf-8', 'replace')}"
    if status == 429:
        raise Burst(message, 60.0)
    if status in (401, 403):
        raise BadKey(message)
    raise VendorDown(message) if status >= 500 or status == 408 else Malformed(message)


def _tomorrow_us(now_us: int) -> int:
    """Return the start of the vendor's next day."""
    today = datetime_of(now_us).astimezone(ZONE).date()
    return micros_of(dt.datetime.combine(today + dt.timedelta(days=1), dt.time(), tzinfo=ZONE))


# Bars ----------------------------------------------------------------------------------------------------------------


def month_of(us: int) -> tuple[str, int, int]:
    """Return the vendor's month of an instant, as `2009-01`, with its start and end in microseconds."""
    first = datetime_of(us).astimezone(ZONE).date().replace(day=1)
    following = (first + dt.timedelta(days=31)).replace(day=1)
    begin, end = (micros_of(dt.datetime.combine(day, dt.time(), tzinfo=ZONE)) for day in (first, following))
    return first.strftime("%Y-%m"), begin, end


@dataclass(frozen=True, slots=True)
class Series:
    """Closed bars of the requested range (`schemas.VENDOR_BARS`).

    `rows`: count of rows in the whole answer. `first_us`, `last_us`: start of its first and of its last row.
    """

    bars: pa.RecordBatch
    rows: int
    first_us: int
    last_us: int


def parse_series(
    body: bytes, symbol: str, interval: str, start_us: int, end_us: int, now_us: int, source: str
) -> Series:
    """Return the bars of an answer. The request must have been for prices as traded.

    Times are in the zone of the answer; a local time that occurs twice means its first occurrence. Rows that lack a
    price, and rows off the grid, are dropped. Raises VendorError.
    """
    whole = _decode(_whole, body)
    raise_error(whole, now_us)
    name = next((name for name in whole if _SERIES in name), None)
    if name is None:
        raise Malformed(f"no time series among {', '.join(whole)[:_MESSAGE_CHARS]}")
    wanted = "Daily" if interval == "1d" else INTERVAL_NAMES[interval]
    if wanted not in name:
        raise Malformed(f"{name!r} instead of {wanted}")
    rows = _decode(_rows, whole[name])
    if not rows:
        raise NoData(f"no {interval} bars of {symbol}")
    meta = _decode(_meta, whole["Meta Data"]) if "Meta Data" in whole else {}
    _check_symbol(symbol, _by_suffix(meta, "Symbol"))
    zone = _by_suffix(meta, "Time Zone") or ZONE_NAME
    try:
        time = _times(list(rows), None if interval == "1d" else zone)
        columns = [_numbers(rows.values(), column) for column in _COLUMNS]
    except (pa.ArrowInvalid, ValueError, OverflowError, BadInput) as error:
        raise Malformed(f"bars of {symbol} cannot be read: {str(error)[:_MESSAGE_CHARS]}") from error
    *prices, volume = columns
    known = ~np.isnan(np.array(prices)).any(axis=0)
    length = intervals.parse(interval).us
    keep = known & on_the_grid(time, interval) & (time >= start_us) & (time < end_us) & (time <= now_us - length)
    kept = tuple(price[keep] for price in prices)
    traded = np.where(np.isnan(volume), 0.0, volume)[keep]
    bars = bars_batch(symbol, interval, time[keep], kept, traded, source)
    return Series(bars, len(time), int(time.min()), int(time.max()))


def _times(texts: list[str], zone: str | None) -> Int64Array:
    """Return microseconds UTC of local times in a zone, or of dates (00:00 UTC) if the zone is None."""
    naive = pa.array(texts, pa.utf8()).cast(pa.timestamp("us"))
    if zone is None:
        days: Int64Array = times_of(naive) // DAY_US * DAY_US
        return days
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        raise BadInput(f"the answer has the unknown time zone {zone[:60]!r} instead of an IANA name") from None
    return times_of(pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="earliest"))


def _by_suffix(named: Mapping[str, Any], suffix: str) -> Any:
    """Return the value whose name without its number is `suffix`; None if there is none."""
    return next((value for name, value in named.items() if _bare(name) == suffix), None)


def _bare(name: str) -> str:
    return re.sub(r"^[0-9]+[a-z]?[.):]?\s*", "", name)


def _numbers(rows: Iterable[Mapping[str, _Cell]], suffix: str) -> Float64Array:
    """Return the column `suffix`; NaN for rows without a value. Raises ValueError for a text that is no number."""
    name = ""
    found: list[_Cell] = []
    for row in rows:
        cell = row.get(name)
        if cell is None:  # the first row, or a row whose name has another number
            name = next((name for name in row if _bare(name) == suffix), name)
            cell = row.get(name)
        found.append(np.nan if cell is None or cell == "" else cell)
    return np.array([_float(cell) for cell in found if cell is not None], np.float64)


def _float(cell: str | float) -> float:
    return parse_float(cell) if isinstance(cell, str) else cell


def _check_symbol(asked: str, answered: object) -> None:
    """Raise Malformed if the answer's symbol differs from the requested symbol."""
    if isinstance(answered, str) and not is_same_symbol(asked, answered):
        raise Malformed(f"the answer is for {shortened(answered, SHOWN_CHARS)!r} instead of {asked}")


# Splits and dividends ------------------------------------------------------------------------------------------------


def parse_splits(body: bytes, symbol: str, start_us: int, end_us: int, now_us: int, source: str) -> pa.RecordBatch:
    """Return the splits of `[start_us, end_us)` (`schemas.SPLITS`). Raises VendorError."""
    time, ratios, _ = _read_actions(body, symbol, "effective_date", "split_factor", now_us)
    keep = (time >= start_us) & (time < end_us) & (ratios > 0) & np.isfinite(ratios)
    return splits_batch(symbol, time[keep], ratios[keep], source, error=_SPLIT_ERROR)


def parse_dividends(body: bytes, symbol: str, start_us: int, end_us: int, now_us: int, source: str) -> pa.RecordBatch:
    """Return the dividends of `[start_us, end_us)` (`schemas.DIVIDENDS`). Raises VendorError."""
    time, amounts, currencies = _read_actions(body, symbol, "ex_dividend_date", "amount", now_us)
    keep = (time >= start_us) & (time < end_us) & (amounts > 0) & np.isfinite(amounts)
    kept = [currencies[row] for row in np.flatnonzero(keep).tolist()]
    return dividends_batch(symbol, time[keep], amounts[keep], kept, source)


def _read_actions(
    body: bytes, symbol: str, date: str, number: str, now_us: int
) -> tuple[Int64Array, Float64Array, list[str]]:
    """Return dates, numbers and the currency of each row ("" if it has none).

    Rows with a missing date or number are dropped.
    """
    whole = _decode(_whole, body)
    raise_error(whole, now_us)
    if "data" not in whole:
        raise Malformed(f"no data among {', '.join(whole)[:_MESSAGE_CHARS]}")
    if "symbol" in whole:
        _check_symbol(symbol, _decode(_any, whole["symbol"]))
    rows = _decode(_actions, whole["data"])
    complete = [row for row in rows if not {row.get(date), row.get(number)} & {None, "", "None", "none", "-"}]
    given = (row.get("currency") for row in complete)
    currencies = [text.strip() if isinstance(text, str) else "" for text in given]
    try:
        time = _times([str(row[date]) for row in complete], None)
        numbers = np.array([_float(cell) for row in complete if (cell := row[number]) is not None], np.float64)
    except (pa.ArrowInvalid, ValueError, OverflowError) as error:
        raise Malformed(f"corporate actions cannot be read: {str(error)[:_MESSAGE_CHARS]}") from error
    return time, numbers, currencies


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes | msgspec.Raw) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _malformed(error)


def _malformed(error: Exception) -> NoReturn:
    raise Malformed(f"the answer cannot be read: {type(error).__name__}: {str(error)[:_MESSAGE_CHARS]}") from None
