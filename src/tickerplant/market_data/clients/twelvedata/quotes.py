"""Converts Twelve Data's WebSocket messages into columns. Pure.

A message has no trade id and no size. The size of a tick is the growth of `day_volume`; its time has a resolution of
one second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core.arrow_values import timestamps
from tickerplant.core.errors import BadInput
from tickerplant.core.flags import TickFlag
from tickerplant.core.schemas import TICKS
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import SECOND_US, Float64Array, Int64Array
from tickerplant.market_data.clients.twelvedata.day_volume import DayVolumes
from tickerplant.market_data.clients.twelvedata.messages import SOURCE
from tickerplant.market_data.feed.dead_letters import DeadRow
from tickerplant.market_data.vendors.bounds import shortened


class Price(msgspec.Struct, gc=False):
    """One message of the stream; messages other than `price` have no numbers."""

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


_SAMPLES: Final = 100
"""Maximum number of symbols that were not requested whose first print becomes a dead letter."""
_ALIASES: Final = 10_000
"""Maximum number of remembered spellings of names."""
_STATUS_TEXTS: Final = 20
"""Maximum messages of one answer to a subscription that are passed on."""

_price = msgspec.json.Decoder(Price)
_prices = msgspec.json.Decoder(list[Price])


@dataclass(frozen=True, slots=True)
class SubscribeStatus:
    """The answer to a subscription. A warning (some symbols rejected) does not require a reconnect."""

    event: str
    status: str
    success: tuple[str, ...]
    fails: tuple[tuple[str, str], ...]
    messages: tuple[str, ...] = ()


@dataclass(slots=True)
class ParsedMessages:
    """Messages of the stream by kind: prices, answers to subscriptions, heartbeats, others, unreadable messages."""

    prices: list[Price] = field(default_factory=list)
    statuses: list[SubscribeStatus] = field(default_factory=list)
    dead: list[DeadRow] = field(default_factory=list)
    heartbeats: int = 0
    others: int = 0


@dataclass(frozen=True, slots=True)
class PriceColumns:
    """Price messages as columns, in the order of arrival.

    `codes`: symbol codes. `volumes`: volumes of the day, NaN if missing.
    """

    codes: npt.NDArray[np.int32]
    times: Int64Array
    prices: Float64Array
    volumes: Float64Array


def read_messages(texts: Sequence[str | bytes]) -> ParsedMessages:
    """Parse messages. They are decoded as one list, and one by one only if the list cannot be decoded."""
    result = ParsedMessages()
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    try:
        found = _prices.decode(b"[" + b",".join(raw) + b"]")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = []
    if len(found) != len(raw):  # or the text of one message is in two texts, or one text has two
        found = []
        for text in raw:
            try:
                found.append(_price.decode(text))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                result.dead.append(DeadRow(shortened(f"the message cannot be parsed: {error}"), text))
    result.prices = [message for message in found if message.event == "price"]
    if len(result.prices) != len(found):
        for message in found:
            if message.event == "price":
                continue
            if message.success is not None or message.fails is not None or message.event.endswith("-status"):
                result.statuses.append(_status(message))
            elif message.event == "heartbeat":
                result.heartbeats += 1
            else:
                result.others += 1
    return result


def _status(message: Price) -> SubscribeStatus:
    success = tuple(_name(item) for item in message.success or ())
    fails = tuple((_name(item), shortened(str(item.get("message", "")))) for item in message.fails or ())
    texts = tuple(map(shortened, (message.messages or [])[:_STATUS_TEXTS]))
    return SubscribeStatus(shortened(message.event), shortened(message.status or ""), success, fails, texts)


def _name(item: Mapping[str, Any]) -> str:
    return shortened(str(item.get("symbol", "")).strip().upper())


class QuoteDecoder:
    """Converts price messages to ticks (`schemas.TICKS`); stores each symbol's volume of the day (see `day_volume`).

    Symbols are written as subscribed: the vendor answers `RY:TSX` with symbol RY and exchange TSX. `stamped`: use
    `sent_ns`, which the sandbox may send, as the time. `wanted_only`: messages of symbols that were not requested are
    dropped and counted. The first message of each of `_SAMPLES` such symbols becomes a dead letter.
    """

    def __init__(self, *, source: str = SOURCE, stamped: bool = False, wanted_only: bool = False) -> None:
        self._wanted_only = wanted_only
        self._unwanted = 0
        self._unwanted_names: set[str] = set()
        self._aliases = 0
        self._source = pa.array([source])
        self._stamped = stamped
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._dictionary = pa.array([], pa.utf8())
        self._volumes = DayVolumes()
        self._by_exchange: set[str] = set()

    def forget_volumes(self) -> None:
        """Remove all volumes, for a new connection or after a gap: the trades in between belong to no tick."""
        self._volumes.forget()

    def add_symbols(self, symbols: Sequence[str]) -> None:
        """Add symbols that are subscribed."""
        for symbol in symbols:
            self._code_of(symbol)
        for symbol in symbols:
            plain, _, exchange = symbol.partition(":")
            if exchange and self._codes.setdefault(plain, self._codes[symbol]) != self._codes[symbol]:
                self._by_exchange.add(plain)  # several symbols have this ticker: the exchange distinguishes them
        self._grow()

    def columns(self, prices: Sequence[Price]) -> tuple[PriceColumns, list[DeadRow]]:
        """Return the ticks as columns, and dead letters for the other messages.

        Of the messages of symbols that were not requested, only the first of each symbol becomes a dead letter.
        """
        dead: list[DeadRow] = []
        codes_of = self._codes
        known = len(codes_of)
        codes = [codes_of.get(message.symbol, -1) for message in prices]
        found = [message.price for message in prices]
        if -1 in codes or None in found or self._by_exchange:
            prices, codes = self._one_by_one(prices, codes, dead)
            found = [message.price for message in prices]
        if len(codes_of) != known:
            self._grow()
        volumes = np.array([message.day_volume for message in prices], np.float64)  # None becomes NaN
        if self._stamped and all(message.sent_ns is not None for message in prices):
            times = np.array([message.sent_ns for message in prices], np.int64) // 1_000
        else:
            times = _micros(np.array([message.timestamp for message in prices], np.float64))
        return PriceColumns(np.array(codes, np.int32), times, np.array(found, np.float64), volumes), dead

    def ticks(self, columns: PriceColumns, received_us: int | Int64Array) -> pa.RecordBatch:
        """Return the columns as ticks with their sizes; update the volumes of the day.

        `received_us`: the time of arrival of all ticks, or of each tick.
        """
        codes, times, prices = columns.codes, columns.times, columns.prices
        rows = len(codes)
        received = np.full(rows, received_us, np.int64)
        sizes, order = self._volumes.sizes(codes, columns.volumes, times)
        if len(order):
            codes, times, prices, received = codes[order], times[order], prices[order], received[order]
        unknown = np.isnan(sizes)
        arrays = [
            timestamps(times),
            pa.DictionaryArray.from_arrays(pa.array(codes), self._dictionary),
            pa.array(prices),
            pa.array(np.where(unknown, 0.0, sizes)),
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), self._source),
            pa.nulls(rows, pa.utf8()),
            pa.array(unknown * np.uint16(TickFlag.SIZE_UNKNOWN)),
            timestamps(received),
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=TICKS)

    def take_unwanted(self) -> int:
        """Return the count of messages of symbols that were not requested, since the last call."""
        count, self._unwanted = self._unwanted, 0
        return count

    def _one_by_one(
        self, prices: Sequence[Price], known: Sequence[int], dead: list[DeadRow]
    ) -> tuple[list[Price], list[int]]:
        """Return the messages that are ticks, and their codes. `known`: the code of each message's name, or -1."""
        valid: list[Price] = []
        codes = []
        for message, code in zip(prices, known, strict=True):
            name = message.symbol
            if name in self._by_exchange and message.exchange:
                listed = f"{name}:{message.exchange}".upper()
                code = self._codes.get(listed, code)
            if code < 0:
                reason, code = self._new_code(name)
                if reason:
                    dead.append(DeadRow(reason, msgspec.json.encode(message)))
                if code < 0:
                    continue
            if message.price is None:
                dead.append(DeadRow("a price message without a price", msgspec.json.encode(message)))
                continue
            valid.append(message)
            codes.append(code)
        return valid, codes

    def _new_code(self, name: str) -> tuple[str, int]:
        """Return the reason for a dead letter ("" for none), and the code of the unknown name (-1 for none)."""
        try:
            symbol = check_symbol(name)
        except BadInput as error:
            return shortened(str(error)), -1
        if self._wanted_only and symbol not in self._codes:
            self._unwanted += 1
            if symbol in self._unwanted_names or len(self._unwanted_names) >= _SAMPLES:
                return "", -1
            self._unwanted_names.add(symbol)
            return f"the symbol {symbol} was not requested; further prints are only counted", -1
        return "", self._code_of(name)

    def _code_of(self, name: str) -> int:
        """Return the code of a name. Raises BadInput for an invalid symbol.

        A new symbol gets the next code. A different spelling of a known symbol gets the symbol's code.
        """
        code = self._codes.get(name)
        if code is None:
            symbol = check_symbol(name)
            code = self._codes.get(symbol, len(self._names))
            if code == len(self._names):
                self._names.append(symbol)
                self._codes[symbol] = code
            if name != symbol and self._aliases < _ALIASES:  # a vendor may spell one name in any number of ways
                self._aliases += 1
                self._codes[name] = code
        return code

    def _grow(self) -> None:
        if len(self._names) != len(self._dictionary):
            self._dictionary = pa.array(self._names, pa.utf8())
            self._volumes.grow(len(self._names))


def _micros(seconds: Float64Array) -> Int64Array:
    """Return seconds since 1970 as microseconds. An impossible time becomes 0, which the feed writer rejects."""
    valid = np.isfinite(seconds) & (np.abs(seconds) < 1e11)
    result: Int64Array = np.rint(np.where(valid, seconds, 0) * SECOND_US).astype(np.int64)
    return result
