"""Twelve Data's WebSocket: answers to a client's messages, and prices as frames. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.core.times import SECOND_US
from tickerplant.protocols.market import FOREX, NO_VOLUME, Instrument, TradeBatch
from tickerplant.protocols.twelvedata.instruments import meta_of

PATH: Final = "/v1/quotes/price"


class TwelveDataFrames:
    """Encodes trades as frames: complete, unmasked WebSocket frames that can be joined and written to a socket."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._heads = []
        self._forex = np.array([instrument.kind == FOREX for instrument in instruments])
        for instrument in instruments:
            meta = {k: v for k, v in meta_of(instrument).items() if k not in ("exchange_timezone", "mic_code")}
            text = msgspec.json.encode({"event": "price", **meta}).decode()
            self._heads.append(text[:-1] + ',"timestamp":')

    def encode(self, trades: TradeBatch, sent_ns: int | None = None) -> list[bytes]:
        """Return one frame per trade, with the field `sent_ns` if it is given."""
        tail = "}" if sent_ns is None else f',"sent_ns":{sent_ns}}}'
        seconds = (trades.times_us // SECOND_US).tolist()
        volumes = np.where(self._forex[trades.codes], NO_VOLUME, trades.day_volumes).tolist()
        heads = self._heads
        frames = []
        # The protocol requires one JSON text per message. This loop costs about 1 µs a trade (benchmarks/stream.py).
        for code, second, price, volume in zip(
            trades.codes.tolist(), seconds, trades.prices.tolist(), volumes, strict=True
        ):
            middle = f',"day_volume":{volume}' if volume >= 0 else ""
            body = f'{heads[code]}{second},"price":{price!r}{middle}{tail}'.encode()
            size = len(body)
            head = b"\x81" + (bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big"))
            frames.append(head + body)
        return frames


class _Item(msgspec.Struct):
    symbol: str
    exchange: str | None = None
    mic_code: str | None = None
    type: str | None = None


class _Params(msgspec.Struct):
    symbols: str | list[_Item | str] = ""


class _Action(msgspec.Struct):
    action: str
    params: _Params = msgspec.field(default_factory=_Params)


_ACTIONS = msgspec.json.Decoder(_Action)
_EXAMPLE = '{"action": "subscribe", "params": {"symbols": "AAPL"}}'
_NOT_A_COMMAND = f"the message is not a command; send JSON such as {_EXAMPLE}"


class TwelveDataSession:
    """The subscriptions of one connection. `max_symbols`: the plan's limit (8 on the free plan); 0 means no limit."""

    def __init__(self, instruments: Sequence[Instrument], max_symbols: int = 0) -> None:
        self._instruments = instruments
        self._codes = {instrument.symbol: code for code, instrument in enumerate(instruments)}
        self._max = max_symbols
        self.subscribed = np.zeros(len(instruments), dtype=np.bool_)

    def receive(self, text: str | bytes, hidden: Iterable[str] = ()) -> dict[str, Any]:
        """Return the answer to a client's message. Symbols in `hidden` are treated as unknown."""
        try:
            action = _ACTIONS.decode(text)
        except msgspec.MsgspecError:
            return {"event": "error", "status": "error", "messages": [_NOT_A_COMMAND]}
        if action.action == "heartbeat":
            return {"event": "heartbeat", "status": "ok"}
        if action.action == "reset":
            self.subscribed[:] = False
            return {"event": "reset-status", "status": "ok"}
        if action.action in ("subscribe", "unsubscribe"):
            return self._subscribe(action, set(hidden), on=action.action == "subscribe")
        unknown = f"unknown action {action.action!r}; send subscribe, unsubscribe, reset or heartbeat"
        return {"event": "error", "status": "error", "messages": [unknown]}

    def _subscribe(self, action: _Action, hidden: set[str], *, on: bool) -> dict[str, Any]:
        given = action.params.symbols
        items = given.split(",") if isinstance(given, str) else given
        names = [(item.symbol if isinstance(item, _Item) else item).strip().upper() for item in items]
        success, fails = [], []
        for name in filter(None, names):
            symbol = name.partition(":")[0]
            code = self._codes.get(symbol)
            if code is None or symbol in hidden:
                fails.append({"symbol": name, "message": "symbol not found"})
                continue
            if on and self._max and not self.subscribed[code] and self.subscribed.sum() >= self._max:
                fails.append({"symbol": name, "message": f"the plan allows {self._max} symbols at a time"})
                continue
            self.subscribed[code] = on
            meta = meta_of(self._instruments[code])
            found = {"symbol": symbol, "exchange": meta.get("exchange", "FOREX"), "type": meta["type"]}
            success.append({**found, "country": "United States"} if "mic_code" in meta else found)
        event = f"{action.action}-status"
        if not success:
            messages = ["no symbol was accepted; correct the symbols in `fails`"]
            return {"event": event, "status": "error", "messages": messages, "success": [], "fails": fails}
        return {"event": event, "status": "warning" if fails else "ok", "success": success, "fails": fails}
