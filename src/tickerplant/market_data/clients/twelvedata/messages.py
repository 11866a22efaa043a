"""Twelve Data's REST answers as columns and typed errors. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import TIMESTAMP, timestamps
from tickerplant.core.digits import parse_float
from tickerplant.core.errors import BadInput
from tickerplant.core.schemas import DIVIDENDS, SMALL_TEXT, SPLITS, TEXT, VENDOR_BARS
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US
from tickerplant.market_data.vendors.bounds import SHOWN_CHARS, is_same_symbol, parse_count, shortened
from tickerplant.market_data.vendors.columns import check_amounts, check_terms
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
from tickerplant.market_data.vendors.port import Credits

SOURCE: Final = "twelvedata"
INTERVAL_NAMES: Final = {
    "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1day", "1w": "1week",
}  # fmt: skip
"""The vendor's name of each interval."""

# Errors and credits --------------------------------------------------------------------------------------------------

_PLAN: Final = ("available starting with", "available exclusively", "upgrad", "your plan", "subscription")
_KEY: Final = ("**apikey**", "api key is", "apikey is", "invalid api key")
_BURST: Final = ("per second", "too many requests", "burst", "slow down")


def credits_of(headers: Mapping[str, str]) -> Credits:
    """Return the quota in an answer's headers (lower-case names).

    `api-credits-used` and `api-credits-left` count the minute; headers with `day` in their names count the day. The
    day's quota is returned if it has no credits left, or if there is no header of the minute. A header that is not a
    count is ignored and noted.
    """
    found: dict[tuple[bool, str], int] = {}
    problem = ""
    for name, text in headers.items():
        if not name.startswith("api-credits"):
            continue
        count = parse_count(text)
        if count is None:
            problem = f"the header {name[:SHOWN_CHARS]} is not a count: {shortened(text, SHOWN_CHARS)!r}"
            continue
        for what in ("used", "left"):
            if what in name:
                found[("day" in name or "daily" in name, what)] = count
    daily = found.get((True, "left")) == 0 or (bool(found) and not any(not of_day for of_day, _ in found))
    return Credits(found.get((daily, "used")), found.get((daily, "left")), daily, problem)


def error_of(code: int, message: str, now_us: int, retry_after_s: float | None = None) -> VendorError:
    """Return the error for a code and message of the vendor. `retry_after_s`: seconds of the header `Retry-After`."""
    text = message.lower()
    if code == 429 or "out of api credits" in text:
        return _quota(message, text, now_us, retry_after_s)
    if code == 401 or (code in (400, 403) and any(words in text for words in _KEY)):
        return BadKey(message)
    if code == 403 or (400 <= code < 500 and any(words in text for words in _PLAN)):
        return NotEntitled(message)
    if "no data is available" in text or ("data" in text and "not be found" in text):
        return NoData(message)
    if "**symbol**" in text or (code in (400, 404) and "symbol" in text and ("not found" in text or "invalid" in text)):
        return UnknownSymbol(message)
    if code >= 500 or code == 408:
        down = VendorDown(f"{code}: {message}")
        down.retry_after_s = down.retry_after_s if retry_after_s is None else retry_after_s
        return down
    return BadRequest(f"{code}: {message}")


def _quota(message: str, text: str, now_us: int, retry_after_s: float | None) -> VendorError:
    if "credits for the day" in text or "daily" in text or ("day" in text and "minute" not in text):
        return QuotaSpent(message, (DAY_US - now_us % DAY_US) / SECOND_US, daily=True)
    if "credit" not in text and any(words in text for words in _BURST):
        return Burst(message) if retry_after_s is None else Burst(message, retry_after_s)
    left_s = (MINUTE_US - now_us % MINUTE_US) / SECOND_US
    return QuotaSpent(message, left_s if retry_after_s is None else max(left_s, retry_after_s))


def without_key(text: str, key: str = "") -> str:
    """Return the text without the key and without the values of `apikey=`, for logs and errors."""
    if key:
        text = text.replace(key, "***")
    return re.sub(r"(?i)(apikey[=: ]+)[^&\s'\"]+", r"\1***", text)


# Bars ----------------------------------------------------------------------------------------------------------------


class _Value(msgspec.Struct, gc=False):
    datetime: str
    open: str | None = None
    high: str | None = None
    low: str | None = None
    close: str | None = None
    volume: str | None = None


class _Meta(msgspec.Struct):
    symbol: str | None = None
    currency: str | None = None


class _Body(msgspec.Struct):
    status: str | None = "ok"
    code: int | None = None
    message: str = ""
    meta: _Meta | None = None
    values: list[_Value] | None = None


class _Error(msgspec.Struct):
    """The fields of an answer that report an error of the whole request."""

    status: str | None = None
    code: int | None = None
    message: str = ""


_body = msgspec.json.Decoder(_Body)
_error = msgspec.json.Decoder(_Error)
_keyed = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(slots=True)
class Series:
    """The answer to `/time_series`: bars or error by symbol, and the oldest time of each full page."""

    found: dict[str, pa.RecordBatch | VendorError] = field(default_factory=dict)
    full_since_us: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The request to `/time_series`: bars that start in `[start_us, end_us)`, at most `page` bars per symbol."""

    symbols: Sequence[str]
    interval: str
    start_us: int
    end_us: int
    page: int
    source: str = SOURCE


def raise_error(body: bytes, status: int, now_us: int, retry_after_s: float | None = None) -> None:
    """Raise the error of a whole request, which may have any HTTP status; return if there is none."""
    try:
        whole = _error.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        whole = _Error()
    if whole.status == "error" or (whole.code is not None and whole.code >= 400):
        raise error_of(whole.code or status, whole.message, now_us, retry_after_s)
    if status >= 400:
        raise error_of(status, whole.message or body[:200].decode("utf-8", "replace"), now_us, retry_after_s)
    if status >= 300:
        raise Malformed(f"HTTP {status} where an answer was expected")


def parse_series(body: bytes, status: int, asked: Asked, now_us: int, retry_after_s: float | None = None) -> Series:
    """Return the parsed answer. Bars are `schemas.VENDOR_BARS`, oldest first, all closed at `now_us`.

    The request must have had `timezone=UTC`, `adjust=none` and `order=desc`. Raises VendorError for an error of the
    whole request; an error of one symbol is that symbol's result.
    """
    symbols = asked.symbols
    try:
        raise_error(body, status, now_us, retry_after_s)
    except (NoData, UnknownSymbol, NotEntitled) as error:
        if len(symbols) == 1:
            return Series({symbols[0]: error})
        raise
    try:
        if len(symbols) == 1 and (one := _body.decode(body)).values is not None:
            bodies: Mapping[str, bytes | msgspec.Raw | _Body] = {symbols[0]: one}
        else:
            bodies = _keyed.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the time series cannot be read: {error}") from error
    series = Series()
    answers = _by_symbol(symbols, bodies)
    for symbol in symbols:
        try:
            series.found[symbol] = _one_series(symbol, answers.get(symbol), asked, now_us, series)
        except (msgspec.MsgspecError, pa.ArrowInvalid, ValueError, RecursionError) as error:
            series.found[symbol] = Malformed(f"bars of {symbol} cannot be read: {error}")
    return series


def _by_symbol(symbols: Sequence[str], bodies: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bodies by requested symbol; the vendor may use upper case, or omit the exchange."""
    spelled = {name.upper(): body for name, body in bodies.items()}
    plain: dict[str, list[str]] = {}
    for symbol in symbols:
        plain.setdefault(symbol.upper().partition(":")[0], []).append(symbol)
    result = {}
    for symbol in symbols:
        name = symbol.upper()
        short = name.partition(":")[0]
        if name in spelled:
            result[symbol] = spelled[name]
        elif short in spelled and len(plain[short]) == 1:
            result[symbol] = spelled[short]
    return result


def _one_series(symbol: str, answer: Any, asked: Asked, now_us: int, series: Series) -> pa.RecordBatch | VendorError:
    if answer is None:
        return Malformed(f"the answer does not contain {symbol}")
    body = answer if isinstance(answer, _Body) else _body.decode(answer)
    if body.status == "error" or body.code is not None:
        return error_of(body.code or 400, body.message, now_us)
    other = _other_symbol(symbol, body.meta)
    if other is not None:
        return other
    if body.values is None:
        return Malformed(f"the answer for {symbol} has no values")
    if not body.values:
        return NoData(f"no bars of {symbol}")
    bars = _bars(symbol, asked, body.values, now_us)
    if len(body.values) >= asked.page and bars.num_rows:
        series.full_since_us[symbol] = int(bars["time"][0].value)
    return bars


def _other_symbol(symbol: str, meta: _Meta | None) -> Malformed | None:
    """Return the error of an answer for a symbol that was not requested; None if the symbol is right or missing."""
    if meta is None or meta.symbol is None or is_same_symbol(symbol, meta.symbol):
        return None
    return Malformed(f"the answer is for {shortened(meta.symbol, SHOWN_CHARS)!r} instead of {symbol}")


def _bars(symbol: str, asked: Asked, values: list[_Value], now_us: int) -> pa.RecordBatch:
    rows = len(values)
    time = pa.array([value.datetime for value in values], pa.utf8()).cast(pa.timestamp("us")).cast(TIMESTAMP)

    def number(name: str) -> pa.Array:
        return pa.array([getattr(value, name) or None for value in values], pa.utf8()).cast(pa.float64())

    def same(text: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text])).cast(kind)

    prices = [number(name) for name in ("open", "high", "low", "close")]
    us = time.cast(pa.int64())
    over_us = now_us - intervals.parse(asked.interval).us
    wanted = pc.and_(pc.greater_equal(us, asked.start_us), pc.less(us, asked.end_us))
    wanted = pc.and_(wanted, pc.less_equal(us, over_us))
    for price in prices:  # a bar without a price is dropped
        wanted = pc.and_(wanted, pc.is_valid(price))
    columns = [
        time,
        same(symbol, TEXT),
        same(asked.interval, SMALL_TEXT),
        *(pc.fill_null(price, 0.0) for price in prices),
        pc.fill_null(number("volume"), 0.0),
        pa.nulls(rows, pa.float64()),
        pa.nulls(rows, pa.int64()),
        same(asked.source, TEXT),
        pa.array(np.ones(rows, dtype=np.bool_)),
    ]
    bars = pa.RecordBatch.from_arrays(columns, schema=VENDOR_BARS).filter(wanted)
    return bars.sort_by("time")


def vendor_interval(interval: str) -> str:
    """Return the vendor's name of an interval. Raises BadInput if it has none."""
    name = INTERVAL_NAMES.get(intervals.parse(interval).name)
    if name is None:
        raise BadInput(f"Twelve Data has no interval {interval}; use one of {', '.join(INTERVAL_NAMES)}")
    return name


# Splits and dividends ------------------------------------------------------------------------------------------------


_TERMS: Final = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*-?(?:for|:)-?\s*([0-9]{1,12}(?:\.[0-9]{1,12})?)")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class _Split(msgspec.Struct):
    date: str
    description: str | None = None
    ratio: float | str | None = None
    from_factor: float | None = None
    to_factor: float | None = None


class _Dividend(msgspec.Struct):
    ex_date: str
    amount: float | str | None = None


class _Actions(msgspec.Struct):
    meta: _Meta | None = None
    splits: list[_Split] = []
    dividends: list[_Dividend] = []


_actions = msgspec.json.Decoder(_Actions, strict=False)


def parse_splits(body: bytes, symbol: str, start_us: int, end_us: int, source: str = SOURCE) -> pa.RecordBatch:
    """Return the splits of `[start_us, end_us)` (columns `schemas.SPLITS`). Raises Malformed.

    A 4-for-1 split has ratio 0.25, from_factor 4, to_factor 1.
    """
    rows = []
    for split in _read_actions(body, symbol).splits:
        terms = _terms(split)
        if terms is not None:
            rows.append((_day(split.date), *terms))
    rows = sorted(row for row in rows if start_us <= row[0] < end_us)
    return pa.RecordBatch.from_arrays(
        [
            timestamps(np.array([row[0] for row in rows], np.int64)),
            _texts(symbol, len(rows)),
            pa.array([row[1] for row in rows], pa.float64()),
            pa.array([row[2] for row in rows], pa.float64()),
            _texts(source, len(rows)),
        ],
        schema=SPLITS,
    )


def parse_dividends(body: bytes, symbol: str, start_us: int, end_us: int, source: str = SOURCE) -> pa.RecordBatch:
    """Return the dividends of `[start_us, end_us)` (columns `schemas.DIVIDENDS`). Raises Malformed.

    The request must have had `adjust=false`: amounts as paid.
    """
    found = _read_actions(body, symbol)
    amounts = ((one.ex_date, _number(one.amount)) for one in found.dividends)
    rows = sorted((_day(date), amount) for date, amount in amounts if amount is not None and 0 < amount < math.inf)
    rows = [row for row in rows if start_us <= row[0] < end_us]
    check_amounts(np.array([row[1] for row in rows], np.float64))
    currency = found.meta.currency if found.meta is not None else None
    return pa.RecordBatch.from_arrays(
        [
            timestamps(np.array([row[0] for row in rows], np.int64)),
            _texts(symbol, len(rows)),
            pa.array([row[1] for row in rows], pa.float64()),
            _texts(currency, len(rows)) if currency else pa.nulls(len(rows), TEXT),
            _texts(source, len(rows)),
        ],
        schema=DIVIDENDS,
    )


def _read_actions(body: bytes, symbol: str) -> _Actions:
    try:
        actions = _actions.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the corporate actions cannot be read: {error}") from error
    other = _other_symbol(symbol, actions.meta)
    if other is not None:
        raise other
    return actions


def _terms(split: _Split) -> tuple[float, float] | None:
    """Return numerator and denominator from the factors, the description or the ratio; None if none is usable.

    Raises Malformed for terms that are not plausible.
    """
    found = _TERMS.match(split.description or "")
    if split.from_factor and split.to_factor:
        terms = float(split.from_factor), float(split.to_factor)
    elif found:
        terms = float(found[1]), float(found[2])
    else:
        ratio = _number(split.ratio)
        if not ratio:
            return None
        terms = (1.0 / ratio, 1.0) if ratio < 1 else (1.0, ratio)
    check_terms(*terms)
    return terms


def _number(value: float | str | None) -> float | None:
    try:
        return parse_float(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _day(text: str) -> int:
    try:
        if not _DATE.match(text):  # NumPy also reads "now" and years of any length
            raise ValueError
        return int(np.datetime64(text[:10], "us").astype(np.int64))
    except ValueError as error:
        raise Malformed(f"{text[:40]!r} is not a date") from error


def _texts(text: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text], pa.utf8())).cast(TEXT)
