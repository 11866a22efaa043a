"""Twelve Data's messages, REST and WebSocket, into columns and typed errors. Pure.

On the stream there is no trade id and no size: a print's size is the growth of `day_volume`, its time a whole second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core import interval as intervals
from tickerplant.core.errors import BadInput
from tickerplant.core.schemas import SMALL_TEXT, TEXT, TICKS, VENDOR_BARS
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US, TIMESTAMP, Float64Array, Int64Array, timestamps
from tickerplant.market_data.clients.errors import (
    BadKey,
    BadRequest,
    Malformed,
    NoData,
    QuotaSpent,
    UnknownSymbol,
    VendorDown,
    VendorError,
)
from tickerplant.market_data.feed import DeadRow

SOURCE: Final = "twelvedata"
INTERVAL_NAMES: Final = {
    "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "1h", "1d": "1day", "1w": "1week",
}  # fmt: skip
"""Our intervals' names to the vendor's."""
_UNTIL_NEXT_MINUTE_S: Final = 60.0
_UNTIL_TOMORROW_S: Final = 3_600.0  # the day of the quota is not documented: ask once an hour

# REST


class _Value(msgspec.Struct):
    datetime: str
    open: str
    high: str
    low: str
    close: str
    volume: str | None = None


class _Meta(msgspec.Struct):
    symbol: str = ""
    interval: str = ""
    exchange_timezone: str | None = None


class _Body(msgspec.Struct):
    status: str = "ok"
    code: int | None = None
    message: str = ""
    meta: _Meta | None = None
    values: list[_Value] | None = None


_one = msgspec.json.Decoder(_Body)
_many = msgspec.json.Decoder(dict[str, _Body])


@dataclass(frozen=True, slots=True)
class Credits:
    """What the headers of an answer say of the quota; None where they say nothing."""

    used: int | None = None
    left: int | None = None


def credits_of(headers: Mapping[str, str]) -> Credits:
    """Return the quota that an answer's headers (lower-case names) tell."""

    def number(name: str) -> int | None:
        text = headers.get(name, "")
        return int(text) if text.isdigit() else None

    return Credits(number("api-credits-used"), number("api-credits-left"))


def error_of(code: int, message: str) -> VendorError:
    """Return the error that a code and message of the vendor mean."""
    text = message.lower()
    if code == 429:
        daily = "day" in text and "minute" not in text
        return QuotaSpent(message, _UNTIL_TOMORROW_S if daily else _UNTIL_NEXT_MINUTE_S)
    if code in (401, 403):
        return BadKey(message)
    if "no data is available" in text:
        return NoData(message)
    if "**symbol**" in text or (code == 404 and "symbol" in text):
        return UnknownSymbol(message)
    if code >= 500:
        return VendorDown(f"{code}: {message}")
    return BadRequest(f"{code}: {message}")


def parse_series(
    body: bytes, status: int, symbols: Sequence[str], interval: str, *, source: str = SOURCE
) -> dict[str, pa.RecordBatch | VendorError]:
    """Return for each symbol asked its bars (columns `schemas.VENDOR_BARS`, oldest first) or its error.

    The request must have had `timezone=UTC` and `adjust=none`. An error of the whole request, which may come with any
    HTTP status, is raised: one of the classes of `clients.errors`.
    """
    try:
        whole = _one.decode(body)
    except msgspec.MsgspecError:
        whole = None
    if whole is not None and (whole.status == "error" or whole.code is not None):
        error = error_of(whole.code or status, whole.message)
        if len(symbols) == 1 and isinstance(error, NoData | UnknownSymbol):
            return {symbols[0]: error}
        raise error
    if status >= 400:
        raise error_of(status, body[:200].decode("utf-8", "replace"))
    try:
        bodies = {symbols[0]: _one.decode(body)} if len(symbols) == 1 else _many.decode(body)
    except msgspec.MsgspecError as error:
        raise Malformed(f"the time series cannot be read: {error}") from error
    result: dict[str, pa.RecordBatch | VendorError] = {}
    for symbol in symbols:
        found = bodies.get(symbol)
        if found is None:
            result[symbol] = Malformed(f"the answer does not speak of {symbol}")
        elif found.status == "error" or found.code is not None:
            result[symbol] = error_of(found.code or status, found.message)
        elif found.values is None:
            result[symbol] = Malformed(f"the answer for {symbol} has no values")
        else:
            try:
                result[symbol] = _bars(symbol, interval, found.values, source)
            except (pa.ArrowInvalid, ValueError) as error:
                result[symbol] = Malformed(f"bars of {symbol} cannot be read: {error}")
    return result


def _bars(symbol: str, interval: str, values: list[_Value], source: str) -> pa.RecordBatch:
    rows = len(values)
    time = pa.array([value.datetime for value in values], pa.utf8()).cast(pa.timestamp("us")).cast(TIMESTAMP)

    def number(name: str) -> pa.Array:
        return pa.array([getattr(value, name) or "0" for value in values], pa.utf8()).cast(pa.float64())

    def same(text: str, kind: pa.DataType) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text])).cast(kind)

    columns = [
        time,
        same(symbol, TEXT),
        same(interval, SMALL_TEXT),
        *(number(name) for name in ("open", "high", "low", "close", "volume")),
        pa.nulls(rows, pa.float64()),
        pa.nulls(rows, pa.int64()),
        same(source, TEXT),
        pa.array(np.ones(rows, dtype=np.bool_)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=VENDOR_BARS).sort_by("time")


def vendor_interval(interval: str) -> str:
    """Return the vendor's name of an interval of ours. Raises BadInput for one that it does not have."""
    name = INTERVAL_NAMES.get(intervals.parse(interval).name)
    if name is None:
        raise BadInput(f"Twelve Data has no interval {interval}")
    return name


# WebSocket


class Price(msgspec.Struct):
    """One message of the stream; `event` other than `price` leaves the numbers out."""

    event: str
    symbol: str = ""
    timestamp: float = 0
    price: float | None = None
    day_volume: float | None = None
    sent_ns: int | None = None
    status: str | None = None
    success: list[dict[str, Any]] | None = None
    fails: list[dict[str, Any]] | None = None
    messages: list[str] | None = None


_price = msgspec.json.Decoder(Price)
_prices = msgspec.json.Decoder(list[Price])


@dataclass(frozen=True, slots=True)
class SubscribeStatus:
    """The answer to a subscription. A warning (some symbols refused) is no reason to connect again."""

    event: str
    status: str
    success: tuple[str, ...]
    fails: tuple[tuple[str, str], ...]
    messages: tuple[str, ...] = ()


@dataclass(slots=True)
class Messages:
    """What came over the stream: prices, answers to subscriptions, what could not be read."""

    prices: list[Price] = field(default_factory=list)
    statuses: list[SubscribeStatus] = field(default_factory=list)
    dead: list[DeadRow] = field(default_factory=list)
    others: int = 0


def read_messages(texts: Sequence[str | bytes]) -> Messages:
    """Return what these messages say. They are decoded as one list, and one by one only if that fails."""
    result = Messages()
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    try:
        found = _prices.decode(b"[" + b",".join(raw) + b"]")
    except msgspec.MsgspecError:
        found = []
    if len(found) != len(raw):  # also when texts are lists or joined pieces of each other
        found = []
        for text in raw:
            try:
                found.append(_price.decode(text))
            except msgspec.MsgspecError as error:
                result.dead.append(DeadRow(f"the message cannot be read: {error}", text[:65_536]))
    for message in found:
        if message.event == "price":
            result.prices.append(message)
        elif message.success is not None or message.fails is not None or message.event.endswith("-status"):
            result.statuses.append(_status(message))
        else:
            result.others += 1
    return result


def _status(message: Price) -> SubscribeStatus:
    success = tuple(str(item.get("symbol", "")) for item in message.success or ())
    fails = tuple((str(item.get("symbol", "")), str(item.get("message", ""))) for item in message.fails or ())
    return SubscribeStatus(message.event, message.status or "", success, fails, tuple(message.messages or ()))


class QuoteColumns:
    """Turns prices into columns `schemas.TICKS`; remembers each symbol's volume of the day.

    Where `day_volume` is absent the size is 0. The first of a symbol after a connection has size 0: what was traded
    before is not its own. A volume that went back by less than half is late or corrected, size 0; by more, the day has
    begun again, and all of it is new. `stamped`: take `sent_ns`, which the sandbox may send, as the time.
    """

    def __init__(self, *, source: str = SOURCE, stamped: bool = False) -> None:
        self._source = source
        self._stamped = stamped
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._dictionary = pa.array([], pa.utf8())
        self._volumes = np.empty(0)

    def forget_volumes(self) -> None:
        """Say that a new connection begins."""
        self._volumes[:] = np.nan

    def expect(self, symbols: Sequence[str]) -> None:
        """Make symbols known."""
        for symbol in symbols:
            self._learn(symbol)
        self._renew()

    def ticks(self, prices: Sequence[Price], received_us: int) -> tuple[pa.RecordBatch, list[DeadRow]]:
        """Return the prints, and what is no print."""
        dead: list[DeadRow] = []
        codes_of = self._codes
        known = len(codes_of)
        codes = [codes_of.get(message.symbol, -1) for message in prices]
        if -1 in codes or any(message.price is None for message in prices):
            prices, codes = self._odd(prices, dead)
        if len(codes_of) != known:
            self._renew()
        which = np.array(codes, np.int32)
        rows = len(prices)
        day = np.array([m.day_volume if m.day_volume is not None else np.nan for m in prices], np.float64)
        if self._stamped and all(m.sent_ns is not None for m in prices):
            times = np.array([m.sent_ns for m in prices], np.int64) // 1_000
        else:
            times = _whole_times(np.array([m.timestamp for m in prices], np.float64))
        columns = [
            timestamps(times),
            pa.DictionaryArray.from_arrays(pa.array(which), self._dictionary),
            pa.array(np.array([m.price for m in prices], np.float64)),
            pa.array(self._sizes(which, day)),
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([self._source])),
            pa.nulls(rows, pa.utf8()),
            pa.array(np.zeros(rows, np.uint16)),
            timestamps(np.full(rows, received_us, np.int64)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=TICKS), dead

    def _odd(self, prices: Sequence[Price], dead: list[DeadRow]) -> tuple[list[Price], list[int]]:
        good: list[Price] = []
        codes = []
        for message in prices:
            try:
                code = self._learn(message.symbol)
            except BadInput as error:
                dead.append(DeadRow(str(error), msgspec.json.encode(message)))
                continue
            if message.price is None:
                dead.append(DeadRow("a price message without a price", msgspec.json.encode(message)))
                continue
            good.append(message)
            codes.append(code)
        return good, codes

    def _learn(self, name: str) -> int:
        code = self._codes.get(name)
        if code is None:
            symbol = check_symbol(name)
            code = self._codes.get(symbol, len(self._names))
            if code == len(self._names):
                self._names.append(symbol)
                self._codes[symbol] = code
            self._codes[name] = code
        return code

    def _renew(self) -> None:
        if len(self._names) != len(self._dictionary):
            new = len(self._names) - len(self._dictionary)
            self._dictionary = pa.array(self._names, pa.utf8())
            self._volumes = np.concatenate([self._volumes, np.full(new, np.nan)])

    def _sizes(self, codes: npt.NDArray[np.int32], day: Float64Array) -> Float64Array:
        told = np.flatnonzero(~np.isnan(day))
        sizes = np.zeros(len(codes))
        if not len(told):
            return sizes
        order = told[np.argsort(codes[told], kind="stable")]
        symbol, volume = codes[order], day[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = symbol[1:] != symbol[:-1]
        before = np.empty(len(order))
        before[1:] = volume[:-1]
        before[first] = self._volumes[symbol[first]]
        grown = volume - before
        back = grown < 0
        if back.any():
            return self._sizes_one_by_one(codes, day, told)
        sizes[order] = np.where(np.isnan(before), 0.0, grown)
        last = np.append(first[1:], True)
        self._volumes[symbol[last]] = volume[last]
        return sizes

    def _sizes_one_by_one(self, codes: npt.NDArray[np.int32], day: Float64Array, told: Int64Array) -> Float64Array:
        """Where a volume goes back, what follows depends on why: once a day, or with a vendor that mends."""
        sizes = np.zeros(len(codes))
        for row in told.tolist():
            code, volume = int(codes[row]), float(day[row])
            before = float(self._volumes[code])
            if np.isnan(before):
                self._volumes[code] = volume
            elif volume >= before:
                sizes[row] = volume - before
                self._volumes[code] = volume
            elif volume < before / 2:
                sizes[row] = volume
                self._volumes[code] = volume
        return sizes


def _whole_times(seconds: Float64Array) -> Int64Array:
    """Return microseconds; what no clock says becomes 0, which the feed refuses."""
    sound = np.isfinite(seconds) & (np.abs(seconds) < 1e11)
    result: Int64Array = np.rint(np.where(sound, seconds, 0) * SECOND_US).astype(np.int64)
    return result


def without_key(text: str) -> str:
    """Return the text with the value of every `apikey=` struck out: for logs and errors."""
    return re.sub(r"(?i)(apikey[=: ]+)[^&\s'\"]+", r"\1***", text)
