"""Yahoo's stream as the sandbox speaks it: JSON with a protobuf `PricingData` in base64, written out here. Pure.

The fields' numbers and types are those of the message definition that yfinance ships (`pricing.proto`).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.protocols.twelvedata.stream import NO_VOLUME, frame
from tickerplant.protocols.yahoo.chart import name_of, symbol_of
from tickerplant.sandbox.corporate_actions import Tape
from tickerplant.sandbox.model import Prints

PATH: Final = "/"
_REGULAR_MARKET: Final = 1
_EQUITY, _CURRENCY, _CRYPTO = 8, 14, 41


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
    """Makes the frames of prints. Times are of the millisecond; a volume of the day of 0 is not sent."""

    def __init__(self, tape: Tape) -> None:
        market = tape.market
        self._heads, self._tails = [], []
        for code, symbol in enumerate(market.symbols):
            kind = _EQUITY if market.stock[code] else _CURRENCY if market.forex[code] else _CRYPTO
            exchange = {_EQUITY: "NMS", _CURRENCY: "CCY", _CRYPTO: "CCC"}[kind]
            self._heads.append(_text(1, name_of(tape, symbol)) + b"\x15")
            self._tails.append(
                _text(4, "USD") + _text(5, exchange) + b"\x30" + _varint(kind) + b"\x38" + _varint(_REGULAR_MARKET)
            )
        self._forex = market.forex

    def make(self, prints: Prints, sent_ns: int | None) -> list[bytes]:
        """Return one frame for each print. `sent_ns` is not said: the message has no place for it."""
        volumes = np.where(self._forex[prints.codes], NO_VOLUME, prints.day_volumes).tolist()
        frames = []
        for code, us, price, volume in zip(
            prints.codes.tolist(), prints.times_us.tolist(), prints.prices.tolist(), volumes, strict=True
        ):
            message = self._heads[code] + struct.pack("<f", price) + b"\x18" + _zigzag(us // 1_000) + self._tails[code]
            if volume > 0:
                message += b"\x48" + _zigzag(volume)
            frames.append(frame(b'{"type":"pricing","message":"' + base64.b64encode(message) + b'"}'))
        return frames


class _Message(msgspec.Struct):
    subscribe: list[str] = []
    unsubscribe: list[str] = []


_MESSAGES = msgspec.json.Decoder(_Message)


class YahooSession:
    """One connection. It is answered nothing but prices; who asks for an unknown symbol hears nothing of it."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.wanted = np.zeros(len(tape.market.symbols), dtype=np.bool_)
        """Whether each symbol is subscribed to: bool[symbols]."""

    def receive(self, text: str | bytes, unknown: Iterable[str] = ()) -> dict[str, Any] | None:
        """Take a subscription; return None."""
        try:
            message = _MESSAGES.decode(text)
        except msgspec.MsgspecError:
            return None
        for names, on in ((message.subscribe, True), (message.unsubscribe, False)):
            for name in names:
                symbol = symbol_of(self._tape, name)
                if symbol is not None and symbol not in unknown:
                    self.wanted[self._tape.market.code[symbol]] = on
        return None
