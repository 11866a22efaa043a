"""Yahoo's stream: JSON messages that contain a protobuf `PricingData` in base64. Pure.

The protobuf fields are encoded here. Numbers and types are those of the definition that yfinance ships
(`pricing.proto`).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.protocols.market import CRYPTO, FOREX, NO_VOLUME, STOCK, Instrument, TradeBatch
from tickerplant.protocols.stream_types import text_frame
from tickerplant.protocols.yahoo.symbols import name_of, symbol_of

PATH: Final = "/"
_REGULAR_MARKET: Final = 1
_QUOTE_TYPES: Final = {STOCK: (8, "NMS"), FOREX: (14, "CCY"), CRYPTO: (41, "CCC")}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _text(number: int, text: str) -> bytes:
    raw = text.encode()
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw


class YahooFrames:
    """Encodes trades as frames. Times are in milliseconds. A day's volume is omitted if it is 0 or unknown."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._heads, self._tails = [], []
        for instrument in instruments:
            quote_type, exchange = _QUOTE_TYPES[instrument.kind]
            self._heads.append(_text(1, name_of(instrument)) + b"\x15")
            self._tails.append(
                _text(4, "USD") + _text(5, exchange) + b"\x30" + _varint(quote_type) + b"\x38"
                + _varint(_REGULAR_MARKET)
            )  # fmt: skip
        self._forex = np.array([instrument.kind == FOREX for instrument in instruments])

    def encode(self, trades: TradeBatch, sent_ns: int | None = None) -> list[bytes]:
        """Return one frame per trade. `sent_ns` is ignored: the message has no field for it."""
        volumes = np.where(self._forex[trades.codes], NO_VOLUME, trades.day_volumes).tolist()
        frames = []
        for code, us, price, volume in zip(
            trades.codes.tolist(), trades.times_us.tolist(), trades.prices.tolist(), volumes, strict=True
        ):
            message = self._heads[code] + struct.pack("<f", price) + b"\x18" + _zigzag(us // 1_000) + self._tails[code]
            if volume > 0:
                message += b"\x48" + _zigzag(volume)
            frames.append(text_frame(b'{"type":"pricing","message":"' + base64.b64encode(message) + b'"}'))
        return frames


class _Message(msgspec.Struct):
    subscribe: list[str] = []
    unsubscribe: list[str] = []


_MESSAGES = msgspec.json.Decoder(_Message)


class YahooSession:
    """Subscriptions of one connection. The API sends no answers and ignores unknown symbols and malformed messages."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._codes = {instrument.symbol: code for code, instrument in enumerate(instruments)}
        self.subscribed = np.zeros(len(instruments), dtype=np.bool_)

    def receive(self, text: str | bytes, hidden: Iterable[str] = ()) -> dict[str, Any] | None:
        """Apply a client's subscriptions; return None, because the API sends no answers."""
        try:
            message = _MESSAGES.decode(text)
        except msgspec.MsgspecError:
            return None
        for names, on in ((message.subscribe, True), (message.unsubscribe, False)):
            for name in names:
                symbol = symbol_of(name)
                if symbol in self._codes and symbol not in hidden:
                    self.subscribed[self._codes[symbol]] = on
        return None
