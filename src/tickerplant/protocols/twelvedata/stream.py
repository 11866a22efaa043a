"""Twelve Data's WebSocket as the sandbox speaks it: what a connection is answered, and prices as whole frames. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.core.times import SECOND_US
from tickerplant.protocols.twelvedata.rest import meta_of
from tickerplant.sandbox.model import Market, Prints

PATH: Final = "/v1/quotes/price"
NO_VOLUME: Final = -1
"""In `Prints.day_volumes`: the message leaves the volume out."""


def frame(body: bytes) -> bytes:
    """Return a text as one WebSocket frame of a server."""
    size = len(body)
    if size < 126:
        return b"\x81" + bytes((size,)) + body
    return b"\x81" + (b"\x7e" + size.to_bytes(2, "big") if size < 65_536 else b"\x7f" + size.to_bytes(8, "big")) + body


class Frames:
    """Makes the frames of prints: whole WebSocket frames, unmasked, ready to be joined and written to a socket."""

    def __init__(self, market: Market) -> None:
        self._heads = []
        self._forex = market.forex
        for symbol in market.symbols:
            meta = {k: v for k, v in meta_of(symbol).items() if k not in ("exchange_timezone", "mic_code")}
            text = msgspec.json.encode({"event": "price", **meta}).decode()
            self._heads.append(text[:-1] + ',"timestamp":')

    def make(self, prints: Prints, sent_ns: int | None) -> list[bytes]:
        """Return one frame for each print. `sent_ns` is added to each message when it is given."""
        tail = "}" if sent_ns is None else f',"sent_ns":{sent_ns}}}'
        seconds = (prints.times_us // SECOND_US).tolist()
        volumes = np.where(self._forex[prints.codes], NO_VOLUME, prints.day_volumes).tolist()
        heads = self._heads
        frames = []
        # One JSON text a message is what the protocol asks for: this loop is the sandbox's cost, about 1 µs a print.
        for code, second, price, volume in zip(
            prints.codes.tolist(), seconds, prints.prices.tolist(), volumes, strict=True
        ):
            middle = f',"day_volume":{volume}' if volume >= 0 else ""
            body = f'{heads[code]}{second},"price":{price!r}{middle}{tail}'.encode()
            size = len(body)
            head = b"\x81" + (bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big"))
            frames.append(head + body)
        return frames


class _Wanted(msgspec.Struct):
    symbol: str
    exchange: str | None = None
    mic_code: str | None = None
    type: str | None = None


class _Params(msgspec.Struct):
    symbols: str | list[_Wanted | str] = ""


class _Action(msgspec.Struct):
    action: str
    params: _Params = msgspec.field(default_factory=_Params)


_ACTIONS = msgspec.json.Decoder(_Action)


class Session:
    """One connection: what it has subscribed to, and what it is answered.

    `max_symbols` 0: no limit; the vendor's trial has 8.
    """

    def __init__(self, market: Market, max_symbols: int = 0) -> None:
        self._market = market
        self._max = max_symbols
        self.wanted = np.zeros(len(market.symbols), dtype=np.bool_)
        """Whether each symbol is subscribed to: bool[symbols]."""

    def receive(self, text: str | bytes, unknown: Iterable[str] = ()) -> dict[str, Any]:
        """Return the answer to a message of the client. `unknown`: symbols that are not known for now."""
        try:
            action = _ACTIONS.decode(text)
        except msgspec.MsgspecError:
            return {"event": "error", "status": "error", "messages": ["the message is no JSON of a known shape"]}
        if action.action == "heartbeat":
            return {"event": "heartbeat", "status": "ok"}
        if action.action == "reset":
            self.wanted[:] = False
            return {"event": "reset-status", "status": "ok"}
        if action.action in ("subscribe", "unsubscribe"):
            return self._subscribe(action, set(unknown), on=action.action == "subscribe")
        return {"event": "error", "status": "error", "messages": [f"unknown action {action.action!r}"]}

    def _subscribe(self, action: _Action, unknown: set[str], *, on: bool) -> dict[str, Any]:
        given = action.params.symbols
        items = given.split(",") if isinstance(given, str) else given
        names = [(item.symbol if isinstance(item, _Wanted) else item).strip().upper() for item in items]
        success, fails = [], []
        for name in filter(None, names):
            plain = name.partition(":")[0]
            code = self._market.code.get(plain)
            if code is None or plain in unknown:
                fails.append({"symbol": name, "message": "symbol not found"})
                continue
            if on and self._max and not self.wanted[code] and self.wanted.sum() >= self._max:
                fails.append({"symbol": name, "message": f"the plan allows {self._max} symbols at a time"})
                continue
            self.wanted[code] = on
            meta = meta_of(plain)
            found = {"symbol": plain, "exchange": meta.get("exchange", "FOREX"), "type": meta["type"]}
            success.append({**found, "country": "United States"} if "mic_code" in meta else found)
        event = f"{action.action}-status"
        if not success:
            messages = ["no symbol was found"]
            return {"event": event, "status": "error", "messages": messages, "success": [], "fails": fails}
        return {"event": event, "status": "warning" if fails else "ok", "success": success, "fails": fails}
