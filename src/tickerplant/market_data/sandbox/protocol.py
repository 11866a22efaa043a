"""What the sandbox answers: Twelve Data's REST and WebSocket, as text in and text out. Pure.

Where the vendor's documentation is silent the shapes are those that its own SDK needs.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, WEEK_US, from_us, to_us
from tickerplant.market_data.sandbox.model import Market, Prints

INTERVALS: Final = {
    "1min": MINUTE_US, "5min": 5 * MINUTE_US, "15min": 15 * MINUTE_US, "30min": 30 * MINUTE_US,
    "45min": 45 * MINUTE_US, "1h": 60 * MINUTE_US, "2h": 120 * MINUTE_US, "4h": 240 * MINUTE_US,
    "8h": 480 * MINUTE_US, "1day": DAY_US, "1week": WEEK_US,
}  # fmt: skip
MAX_OUTPUT: Final = 5_000
MAX_BATCH: Final = 120
WEBSOCKET_PATH: Final = "/v1/quotes/price"
_MONDAY_US: Final = 4 * DAY_US


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer over HTTP."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request that the vendor would refuse, with its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message, "status": "error"}
        self.code = code


@dataclass(slots=True)
class Credits:
    """API credits of one minute, for all keys together. `limit` 0: no limit."""

    limit: int = 0
    used: int = 0
    minute: int = 0

    def take(self, count: int, now_us: int) -> None:
        """Use credits up. Raises Refused (429) when there are not enough left."""
        minute = now_us // MINUTE_US
        if minute != self.minute:
            self.minute, self.used = minute, 0
        if self.limit and self.used + count > self.limit:
            raise Refused(
                429,
                "You have run out of API credits for the current minute. "
                f"{self.used + count} API credits were used, with the current limit being {self.limit}. "
                "Wait for the next minute or consider switching to a higher tier plan.",
            )
        self.used += count

    def headers(self) -> dict[str, str]:
        """Return the vendor's headers."""
        left = max(0, self.limit - self.used) if self.limit else 1_000_000
        return {"api-credits-used": str(self.used), "api-credits-left": str(left)}


def check_key(key: str | None) -> None:
    """Raise Refused (401) for no key, or one that begins with `bad`; every other is a good one here."""
    if not key or key.startswith("bad"):
        raise Refused(
            401,
            "**apikey** parameter is incorrect or not specified. You can get your free API key instantly following "
            "this link: https://twelvedata.com/pricing. If you believe that everything is correct, you can contact us",
        )


def answer(
    market: Market, path: str, query: Mapping[str, str], credits: Credits, now_us: int, *, errors_200: bool = False
) -> Reply:
    """Return what the REST API answers to a request whose key is in `query`. Errors are answers too."""
    try:
        check_key(query.get("apikey"))
        return _answer(market, path.rstrip("/") or "/", query, credits, now_us)
    except Refused as refused:
        status = 200 if errors_200 else refused.code
        return Reply(status, msgspec.json.encode(refused.body), headers=credits.headers())


def _answer(market: Market, path: str, query: Mapping[str, str], credits: Credits, now_us: int) -> Reply:
    if path == "/technical_indicators":
        return _json({"data": {}, "status": "ok"}, credits)
    if path == "/api_usage":
        stamp = from_us(now_us).strftime("%Y-%m-%d %H:%M:%S")
        limit = credits.limit or 1_000_000
        usage = {"timestamp": stamp, "current_usage": credits.used, "plan_limit": limit, "plan_category": "sandbox"}
        return _json(usage, credits)
    single = {"/time_series": _time_series, "/price": _price, "/quote": _quote}.get(path)
    if single is None:
        raise Refused(404, f"The requested resource {path} was not found.")
    names = [name.strip().upper() for name in query.get("symbol", "").split(",") if name.strip()]
    if not names:
        raise Refused(400, "**symbol** parameter is missing or invalid. Please provide a valid symbol.")
    if len(names) > MAX_BATCH:
        raise Refused(414, f"The parameter is too long: at most {MAX_BATCH} symbols are allowed in one request.")
    credits.take(len(names), now_us)
    if len(names) == 1:
        body = single(market, names[0], query, now_us)
        if query.get("format", "JSON").upper() == "CSV" and "values" in body:
            return Reply(200, _csv(body["values"], query), "text/csv", credits.headers())
        return _json(body, credits)
    bodies: dict[str, Any] = {}
    for name in names:
        try:
            bodies[name] = single(market, name, query, now_us)
        except Refused as refused:
            meta = {"symbol": query["symbol"], "interval": query.get("interval", ""), "exchange": ""}
            bodies[name] = {**refused.body, "meta": meta}
    reply = _json(bodies, credits)
    return Reply(reply.status, reply.body, headers={**reply.headers, "Is_batch": "true"})


def _json(body: Any, credits: Credits) -> Reply:
    return Reply(200, msgspec.json.encode(body), headers=credits.headers())


def _known(market: Market, name: str) -> str:
    if name not in market.code:
        raise Refused(400, f"**symbol** not found: {name}. Please specify it correctly.")
    return name


def _meta(market: Market, symbol: str) -> dict[str, Any]:
    if "/" in symbol:
        base, _, quote = symbol.partition("/")
        crypto = base == "BTC"
        return {
            "symbol": symbol, "currency_base": base, "currency_quote": quote,
            "type": "Digital Currency" if crypto else "Physical Currency",
            **({"exchange": "Sandbox"} if crypto else {}),
        }  # fmt: skip
    return {
        "symbol": symbol, "currency": "USD", "exchange_timezone": "America/New_York", "exchange": "NASDAQ",
        "mic_code": "XNAS", "type": "Common Stock",
    }  # fmt: skip


def _zone(query: Mapping[str, str], symbol: str) -> dt.tzinfo:
    name = query.get("timezone", "Exchange")
    if name.lower() == "exchange":
        return dt.UTC if "/" in symbol else zoneinfo.ZoneInfo("America/New_York")
    try:
        return dt.UTC if name == "UTC" else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(400, f"Invalid **timezone** provided: {name}. It is case-sensitive.") from None


def _time_series(market: Market, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    symbol = _known(market, name)
    interval = query.get("interval", "")
    if interval not in INTERVALS:
        raise Refused(400, f"Invalid **interval** provided: {interval}. Supported intervals: {', '.join(INTERVALS)}")
    length = INTERVALS[interval]
    zone = dt.UTC if length >= DAY_US else _zone(query, symbol)
    dated = "start_date" in query or "end_date" in query
    size = _integer(query, "outputsize", MAX_OUTPUT if dated else 30, 1, MAX_OUTPUT)
    digits = _integer(query, "dp", 5, 0, 11)
    origin = _MONDAY_US if length == WEEK_US else 0
    last = (now_us - origin) // length * length + origin
    end_us = min(_moment(query, "end_date", zone, now_us), last) + length
    end_us -= (end_us - origin) % length
    start_us = _moment(query, "start_date", zone, end_us - size * length * (8 if _gaps(market, symbol) else 1))
    start_us += -(start_us - origin) % length
    start_us = max(start_us, end_us - size * length * 8)
    if not _gaps(market, symbol):
        start_us = max(start_us, end_us - size * length)
    bars = market.bars(symbol, start_us, max(start_us, end_us), length)
    count = len(bars.starts_us)
    if not count:
        raise Refused(400, "No data is available on the specified dates. Try setting different start/end dates.")
    form = "%Y-%m-%d" if length >= DAY_US else "%Y-%m-%d %H:%M:%S"
    values = []
    for at in range(max(0, count - size), count):
        value = {"datetime": from_us(int(bars.starts_us[at])).astimezone(zone).strftime(form)}
        for column in ("open", "high", "low", "close"):
            value[column] = f"{getattr(bars, column)[at]:.{digits}f}"
        if not market.forex[market.code[symbol]]:
            value["volume"] = str(int(bars.volume[at]))
        values.append(value)
    if query.get("order", "desc").lower() != "asc":
        values.reverse()
    return {"meta": {"symbol": symbol, "interval": interval, **_meta(market, symbol)}, "values": values, "status": "ok"}


def _gaps(market: Market, symbol: str) -> bool:
    return market.settings.sessions == "us" and "/" not in symbol


def _moment(query: Mapping[str, str], name: str, zone: dt.tzinfo, default_us: int) -> int:
    text = query.get(name)
    if not text:
        return default_us
    try:
        moment = dt.datetime.fromisoformat(text.replace(" ", "T", 1))
    except ValueError:
        raise Refused(400, f"Invalid **{name}** provided: {text}. Use 2006-01-02 or 2006-01-02T15:04:05.") from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _integer(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise Refused(400, f"Invalid **{name}** provided: {text}. Supported values: {low} to {high}.")
    return value


def _now_price(market: Market, symbol: str, now_us: int) -> float:
    return float(market.price(np.array([market.code[symbol]]), np.array([now_us]))[0])


def _price(market: Market, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    return {"price": f"{_now_price(market, _known(market, name), now_us):.{_integer(query, 'dp', 5, 0, 11)}f}"}


def _quote(market: Market, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    symbol = _known(market, name)
    day = now_us // DAY_US * DAY_US
    bars = market.bars(symbol, day - 251 * DAY_US, day + DAY_US, DAY_US)
    if not len(bars.starts_us):
        raise Refused(400, f"No data is available for {symbol}.")
    close = _now_price(market, symbol, now_us)
    previous = float(bars.close[-2]) if len(bars.close) > 1 else close
    meta = _meta(market, symbol)
    low, high = float(bars.low.min()), float(bars.high.max())
    values = {
        "symbol": symbol, "name": f"{symbol} of the sandbox", "exchange": meta.get("exchange", ""),
        "mic_code": meta.get("mic_code", ""), "currency": meta.get("currency", ""),
        "datetime": from_us(day).strftime("%Y-%m-%d"), "timestamp": day // SECOND_US,
        "last_quote_at": now_us // SECOND_US,
        "open": f"{bars.open[-1]:.5f}", "high": f"{max(float(bars.high[-1]), close):.5f}",
        "low": f"{min(float(bars.low[-1]), close):.5f}", "close": f"{close:.5f}", "volume": str(int(bars.volume[-1])),
        "previous_close": f"{previous:.5f}", "change": f"{close - previous:.5f}",
        "percent_change": f"{(close / previous - 1) * 100:.5f}", "average_volume": str(int(bars.volume.mean())),
        "is_market_open": bool(not _gaps(market, symbol) or market.is_open(np.array([now_us]))[0]),
        "fifty_two_week": {
            "low": f"{low:.5f}", "high": f"{high:.5f}", "low_change": f"{close - low:.5f}",
            "high_change": f"{close - high:.5f}", "low_change_percent": f"{(close / low - 1) * 100:.5f}",
            "high_change_percent": f"{(close / high - 1) * 100:.5f}", "range": f"{low:.6f} - {high:.6f}",
        },
    }  # fmt: skip
    return values


def _csv(values: list[dict[str, str]], query: Mapping[str, str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(values[0]), delimiter=query.get("delimiter", ";"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    return text.getvalue().encode()


# WebSocket


class Frames:
    """Makes the frames of prints: whole WebSocket frames, unmasked, ready to be joined and written to a socket."""

    def __init__(self, market: Market) -> None:
        self._heads = []
        self._forex = market.forex.tolist()
        for symbol in market.symbols:
            meta = {k: v for k, v in _meta(market, symbol).items() if k not in ("exchange_timezone", "mic_code")}
            text = msgspec.json.encode({"event": "price", **meta}).decode()
            self._heads.append(text[:-1] + ',"timestamp":')

    def make(self, prints: Prints, sent_ns: int | None) -> list[bytes]:
        """Return one frame for each print. `sent_ns` is added to each message when it is given."""
        tail = "}" if sent_ns is None else f',"sent_ns":{sent_ns}}}'
        seconds = (prints.times_us // SECOND_US).tolist()
        heads, forex = self._heads, self._forex
        frames = []
        # One JSON text a message is what the protocol asks for: this loop is the sandbox's cost, about 1 µs a print.
        for code, second, price, volume in zip(
            prints.codes.tolist(), seconds, prints.prices.tolist(), prints.day_volumes.tolist(), strict=True
        ):
            middle = f',"day_volume":{volume}' if not forex[code] else ""
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
    """One WebSocket connection: what it has subscribed to, and what it is answered."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self.wanted = np.zeros(len(market.symbols), dtype=np.bool_)
        """Whether each symbol is subscribed to: bool[symbols]."""

    def receive(self, text: str | bytes) -> dict[str, Any]:
        """Return the answer to a message of the client."""
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
            return self._subscribe(action, on=action.action == "subscribe")
        return {"event": "error", "status": "error", "messages": [f"unknown action {action.action!r}"]}

    def _subscribe(self, action: _Action, *, on: bool) -> dict[str, Any]:
        given = action.params.symbols
        items = given.split(",") if isinstance(given, str) else given
        names = [(item.symbol if isinstance(item, _Wanted) else item).strip().upper() for item in items]
        success, fails = [], []
        for name in filter(None, names):
            plain = name.partition(":")[0]
            code = self._market.code.get(plain)
            if code is None:
                fails.append({"symbol": name, "message": "symbol not found"})
                continue
            self.wanted[code] = on
            meta = _meta(self._market, plain)
            found = {"symbol": plain, "exchange": meta.get("exchange", "FOREX"), "type": meta["type"]}
            success.append({**found, "country": "United States"} if "mic_code" in meta else found)
        event = f"{action.action}-status"
        if not success:
            return {
                "event": event,
                "status": "error",
                "messages": ["no symbol was found"],
                "success": [],
                "fails": fails,
            }
        return {"event": event, "status": "warning" if fails else "ok", "success": success, "fails": fails}
