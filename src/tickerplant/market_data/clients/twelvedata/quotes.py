"""Twelve Data's messages over WebSocket into columns. Pure.

There is no trade id and no size: a print's size is the growth of `day_volume`, its time a whole second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from tickerplant.core.errors import BadInput
from tickerplant.core.flags import TickFlag
from tickerplant.core.schemas import TICKS
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US, Float64Array, Int64Array, timestamps
from tickerplant.market_data.clients.twelvedata.day_volume import DayVolumes
from tickerplant.market_data.clients.twelvedata.messages import SOURCE
from tickerplant.market_data.feed.writer import DeadRow


class Price(msgspec.Struct, gc=False):
    """One message of the stream; `event` other than `price` leaves the numbers out."""

    event: str
    symbol: str = ""
    timestamp: float = 0
    price: float | None = None
    day_volume: float | None = None
    exchange: str | None = None
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
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = []
    if len(found) != len(raw):  # also when texts are lists or joined pieces of each other
        found = []
        for text in raw:
            try:
                found.append(_price.decode(text))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                result.dead.append(DeadRow(f"the message cannot be read: {error}", text[:65_536]))
    result.prices = [message for message in found if message.event == "price"]
    if len(result.prices) != len(found):
        for message in found:
            if message.event == "price":
                continue
            if message.success is not None or message.fails is not None or message.event.endswith("-status"):
                result.statuses.append(_status(message))
            else:
                result.others += 1
    return result


def is_price(text: bytes) -> bool:
    """Return whether a message looks like a price, without reading it."""
    return b'"price"' in text


def is_answer(text: bytes) -> bool:
    """Return whether a message shows that the subscription arrived: its status, or a price."""
    return b"subscribe-status" in text or b'"price"' in text


def is_heartbeat(text: bytes) -> bool:
    """Return whether a message answers a heartbeat."""
    return b'"heartbeat"' in text


def _status(message: Price) -> SubscribeStatus:
    success = tuple(_name(item) for item in message.success or ())
    fails = tuple((_name(item), str(item.get("message", ""))) for item in message.fails or ())
    return SubscribeStatus(message.event, message.status or "", success, fails, tuple(message.messages or ()))


def _name(item: Mapping[str, Any]) -> str:
    return str(item.get("symbol", "")).strip().upper()


class QuoteColumns:
    """Turns prices into columns `schemas.TICKS`; remembers each symbol's volume of the day (see `day_volume`).

    Names are those expected: the vendor answers `RY:TSX` with symbol RY and exchange TSX. `stamped`: take `sent_ns`,
    which the sandbox may send, as the time.
    """

    def __init__(self, *, source: str = SOURCE, stamped: bool = False) -> None:
        self._source = pa.array([source])
        self._stamped = stamped
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._dictionary = pa.array([], pa.utf8())
        self._volumes = DayVolumes()
        self._by_exchange: set[str] = set()

    def forget_volumes(self) -> None:
        """Say that a new connection begins."""
        self._volumes.forget()

    def expect(self, symbols: Sequence[str]) -> None:
        """Make symbols known."""
        for symbol in symbols:
            self._learn(symbol)
        for symbol in symbols:
            plain, _, exchange = symbol.partition(":")
            if exchange and self._codes.setdefault(plain, self._codes[symbol]) != self._codes[symbol]:
                self._by_exchange.add(plain)  # several of one ticker: the exchange tells them apart
        self._renew()

    def ticks(self, prices: Sequence[Price], received_us: int) -> tuple[pa.RecordBatch, list[DeadRow]]:
        """Return the prints, and what is no print."""
        dead: list[DeadRow] = []
        codes_of = self._codes
        known = len(codes_of)
        codes = [codes_of.get(message.symbol, -1) for message in prices]
        found = [message.price for message in prices]
        if -1 in codes or None in found or self._by_exchange:
            prices, codes = self._odd(prices, dead)
            found = [message.price for message in prices]
        if len(codes_of) != known:
            self._renew()
        which = np.array(codes, np.int32)
        rows = len(prices)
        day = np.array([message.day_volume for message in prices], np.float64)  # None becomes nan
        if self._stamped and all(message.sent_ns is not None for message in prices):
            times = np.array([message.sent_ns for message in prices], np.int64) // 1_000
        else:
            times = _whole_times(np.array([message.timestamp for message in prices], np.float64))
        price = np.array(found, np.float64)
        sizes, place = self._volumes.sizes(which, day, times)
        if len(place):
            which, times, price = which[place], times[place], price[place]
        unknown = np.isnan(sizes)
        columns = [
            timestamps(times),
            pa.DictionaryArray.from_arrays(pa.array(which), self._dictionary),
            pa.array(price),
            pa.array(np.where(unknown, 0.0, sizes)),
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), self._source),
            pa.nulls(rows, pa.utf8()),
            pa.array(unknown * np.uint16(TickFlag.SIZE_UNKNOWN)),
            timestamps(np.full(rows, received_us, np.int64)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=TICKS), dead

    def _odd(self, prices: Sequence[Price], dead: list[DeadRow]) -> tuple[list[Price], list[int]]:
        good: list[Price] = []
        codes = []
        for message in prices:
            name = message.symbol
            if name in self._by_exchange and message.exchange:
                listed = f"{name}:{message.exchange}".upper()
                name = listed if listed in self._codes else name
            try:
                code = self._learn(name)
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
            self._dictionary = pa.array(self._names, pa.utf8())
            self._volumes.grow(len(self._names))


def _whole_times(seconds: Float64Array) -> Int64Array:
    """Return microseconds; what no clock says becomes 0, which the feed refuses."""
    sound = np.isfinite(seconds) & (np.abs(seconds) < 1e11)
    result: Int64Array = np.rint(np.where(sound, seconds, 0) * SECOND_US).astype(np.int64)
    return result
