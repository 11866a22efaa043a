"""The public REST API of Binance's spot market as the sandbox answers it, for the sandbox's crypto symbols. Pure.

`BTC/USD` is the market BTCUSDT: the exchange has no dollars, and what its users take for a dollar price is Tether's.
Trades are said one by one with ids that grow; no endpoint can say that one was cancelled or corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, WEEK_US, Float64Array, Int64Array
from tickerplant.protocols.http_types import DAY, DOWN, PREMIUM, Refusal, Reply, Request, json_reply
from tickerplant.sandbox.corporate_actions import Tape
from tickerplant.sandbox.model import Bars, Prints

ROOT: Final = "/api/v3/"
INTERVALS: Final = {
    "1m": MINUTE_US, "3m": 3 * MINUTE_US, "5m": 5 * MINUTE_US, "15m": 15 * MINUTE_US, "30m": 30 * MINUTE_US,
    "1h": HOUR_US, "2h": 2 * HOUR_US, "4h": 4 * HOUR_US, "6h": 6 * HOUR_US, "8h": 8 * HOUR_US, "12h": 12 * HOUR_US,
    "1d": DAY_US, "3d": 3 * DAY_US, "1w": WEEK_US,
}  # fmt: skip
_WEIGHTS: Final = {
    "ping": 1, "time": 1, "exchangeInfo": 20, "klines": 2, "trades": 25, "aggTrades": 4, "ticker/24hr": 2,
    "ticker/price": 2,
}  # fmt: skip
_ALL_TICKERS: Final = 80
_LIMIT: Final = 1_000
_LIMIT_DEFAULT: Final = 500
_STEP_US: Final = 10 * MINUTE_US
_MAX_STEPS: Final = 144  # a day is looked through for one request; then the answer is what was found
_MS_US: Final = 1_000


class _Refused(Exception):
    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.reply = json_reply({"code": code, "msg": message}, status)


class Binance:
    """The vendor. It has no keys for public data: quotas (weights) are the address's."""

    name = "binance"

    def speaks(self, request: Request) -> bool:
        """Whether the request is to this vendor."""
        return request.path.startswith(ROOT)

    def key(self, request: Request) -> str:
        """Return "": the vendor needs no keys."""
        return ""

    def cost(self, request: Request) -> int:
        """Return the weight."""
        name = _name(request)
        if name.startswith("ticker/") and "symbol" not in request.query:
            return _ALL_TICKERS
        return _WEIGHTS.get(name, 1)

    def bad_key(self, request: Request) -> Reply | None:
        """Return None."""
        return None

    def refuse(self, refusal: Refusal, request: Request) -> Reply:
        """Return 429; 418, a ban, where the day is meant, which the vendor does not have; 451 for a wrong place."""
        if refusal.kind == DOWN:
            return Reply(refusal.status, b"<html><body>Service Temporarily Unavailable</body></html>", "text/html")
        if refusal.kind == PREMIUM:
            text = (
                "Service unavailable from a restricted location according to 'b. Eligibility' in "
                "https://www.binance.com/en/terms. Please contact customer service if you believe you received this "
                "message in error."
            )
            return json_reply({"code": 0, "msg": text}, 451)
        again = {"Retry-After": str(refusal.again_s)}
        if refusal.kind == DAY:
            text = "Way too much request weight used; IP banned. Please use WebSocket Streams to avoid bans."
            return json_reply({"code": -1003, "msg": text}, 418, again)
        text = (
            f"Too much request weight used; current limit is {refusal.limit or 6_000} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
        return json_reply({"code": -1003, "msg": text}, 429, again)

    def credit_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return the weight used in this minute."""
        return {"X-MBX-USED-WEIGHT": str(used), "X-MBX-USED-WEIGHT-1M": str(used)}

    def answer(self, request: Request, tape: Tape, now_us: int) -> Reply:
        """Return the answer. Errors are answers too."""
        function = _FUNCTIONS.get(_name(request))
        if function is None:
            return Reply(404, b"<html><body><h2>404 Not found</h2></body></html>", "text/html")
        try:
            return json_reply(function(tape, request.query, now_us))
        except _Refused as refused:
            return refused.reply


def _name(request: Request) -> str:
    return request.path.removeprefix(ROOT).rstrip("/")


def markets_of(tape: Tape) -> dict[str, str]:
    """Return the sandbox's symbols of the exchange's markets: BTCUSDT is BTC/USDT if there is one, else BTC/USD."""
    market = tape.market
    found: dict[str, str] = {}
    for code, symbol in enumerate(market.symbols):
        base, slash, quote = symbol.partition("/")
        if not slash or market.forex[code] or not tape.knows(symbol):
            continue
        name = base + ("USDT" if quote == "USD" else quote)
        if quote != "USD" or name not in found:
            found[name] = symbol
    return found


def _market(tape: Tape, query: Mapping[str, str]) -> str:
    name = query.get("symbol", "")
    if not name:
        raise _Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    symbol = markets_of(tape).get(name)
    if symbol is None:
        raise _Refused(-1121, "Invalid symbol.")
    return symbol


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise _Refused(
            -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        ) from None


def _limit(query: Mapping[str, str]) -> int:
    limit = _number(query, "limit")
    return _LIMIT_DEFAULT if limit is None else max(1, min(limit, _LIMIT))


def _price(value: float) -> str:
    return f"{value:.8f}"


def _ping(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    return {}


def _time(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    return {"serverTime": now_us // _MS_US}


def _exchange_info(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    markets = markets_of(tape)
    if "symbol" in query:
        _market(tape, query)
    wanted = [query["symbol"]] if "symbol" in query else list(markets)
    return {
        "timezone": "UTC", "serverTime": now_us // _MS_US,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6_000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 61_000},
        ],
        "exchangeFilters": [],
        "symbols": [
            {
                "symbol": name, "status": "TRADING", "baseAsset": markets[name].partition("/")[0],
                "baseAssetPrecision": 8, "quoteAsset": name.removeprefix(markets[name].partition("/")[0]),
                "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8,
                "quoteCommissionPrecision": 8, "orderTypes": ["LIMIT", "MARKET"], "icebergAllowed": True,
                "ocoAllowed": True, "isSpotTradingAllowed": True, "isMarginTradingAllowed": False,
                "filters": [
                    {
                        "filterType": "PRICE_FILTER", "minPrice": "0.01000000", "maxPrice": "1000000.00000000",
                        "tickSize": "0.01000000",
                    },
                    {
                        "filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00000000",
                        "stepSize": "0.00001000",
                    },
                    {"filterType": "NOTIONAL", "minNotional": "5.00000000", "maxNotional": "9000000.00000000"},
                ],
                "permissions": ["SPOT"],
            }
            for name in wanted
        ],
    }  # fmt: skip


def _klines(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    symbol, name = _market(tape, query), query.get("interval", "")
    length = INTERVALS.get(name)
    if length is None:
        raise _Refused(-1120, "Invalid interval.")
    limit, start, end = _limit(query), _number(query, "startTime"), _number(query, "endTime")
    end_us = min(now_us, (end + 1) * _MS_US if end is not None else now_us)
    if start is not None:
        first = -(-start * _MS_US // length) * length
        end_us = min(end_us, first + limit * length)
    else:
        first = -(-end_us // length) * length - limit * length
    if length == WEEK_US:
        first += 4 * DAY_US if start is None else (4 * DAY_US - first) % WEEK_US
    bars = tape.bars(symbol, first, max(first, end_us), length, now_us)
    return _candles(_filled(bars, length), length, limit)


def _filled(bars: Bars, length_us: int) -> Bars:
    """Return the bars with those between that had no trade: flat at the last close, as the exchange has them."""
    if len(bars.starts_us) < 2:
        return bars
    grid = np.arange(bars.starts_us[0], bars.starts_us[-1] + 1, length_us)
    row = np.searchsorted(bars.starts_us, grid, side="right") - 1
    traded = bars.starts_us[row] == grid
    close = bars.close[row]

    def column(prices: Float64Array) -> Float64Array:
        result: Float64Array = np.where(traded, prices[row], close)
        return result

    volume: Int64Array = np.where(traded, bars.volume[row], 0)
    return Bars(grid, column(bars.open), column(bars.high), column(bars.low), close, volume)


def _candles(bars: Bars, length_us: int, limit: int) -> list[list[Any]]:
    rows = []
    columns = (bars.starts_us, bars.open, bars.high, bars.low, bars.close, bars.volume)
    for start, open_, high, low, close, volume in zip(*(column[-limit:].tolist() for column in columns), strict=True):
        quote = volume * (open_ + close) / 2
        rows.append([
            start // _MS_US, _price(open_), _price(high), _price(low), _price(close), _price(volume),
            (start + length_us) // _MS_US - 1, _price(quote), int(volume > 0) and max(1, volume * 2 // 3),
            _price(volume / 2), _price(quote / 2), "0",
        ])  # fmt: skip
    return rows


class _Trades(msgspec.Struct):
    """Trades of one symbol, oldest first. An id is the microsecond of the trade."""

    times_us: Int64Array
    prices: Float64Array
    sizes: Int64Array


def _trades_of(tape: Tape, symbol: str, from_us: int, end_us: int, limit: int, *, newest: bool) -> _Trades:
    """Return up to `limit` trades of `[from, end)`, the oldest or the newest; some minutes after the other."""
    found: list[Prints] = []
    count = looked = 0
    while from_us < end_us and count < limit and looked < _MAX_STEPS:
        first, end = (max(from_us, end_us - _STEP_US), end_us) if newest else (from_us, min(end_us, from_us + _STEP_US))
        part = tape.market.prints_of(symbol, first, end)
        count, looked = count + len(part.codes), looked + 1
        found = [part, *found] if newest else [*found, part]
        from_us, end_us = (from_us, first) if newest else (end, end_us)
    cut = slice(-limit, None) if newest else slice(limit)
    nothing = np.empty(0, np.int64)
    return _Trades(
        np.concatenate([nothing, *(part.times_us for part in found)])[cut],
        np.concatenate([np.empty(0), *(part.prices for part in found)])[cut],
        np.concatenate([nothing, *(part.sizes for part in found)])[cut],
    )


def _recent(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    trades = _trades_of(tape, _market(tape, query), now_us - HOUR_US, now_us, _limit(query), newest=True)
    return [
        {
            "id": us, "price": _price(price), "qty": _price(size), "quoteQty": _price(price * size),
            "time": us // _MS_US, "isBuyerMaker": us % 2 == 0, "isBestMatch": True,
        }
        for us, price, size in zip(
            trades.times_us.tolist(), trades.prices.tolist(), trades.sizes.tolist(), strict=True
        )
    ]  # fmt: skip


def _aggregated(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    symbol, limit = _market(tape, query), _limit(query)
    first_id, start, end = (_number(query, name) for name in ("fromId", "startTime", "endTime"))
    if first_id is not None and (start is not None or end is not None):
        raise _Refused(-1128, "Combination of optional parameters invalid.")
    end_us = min(now_us, (end + 1) * _MS_US) if end is not None else now_us
    if first_id is not None:
        trades = _trades_of(tape, symbol, first_id, end_us, limit, newest=False)
    elif start is not None:
        trades = _trades_of(tape, symbol, start * _MS_US, end_us, limit, newest=False)
    else:
        trades = _trades_of(tape, symbol, end_us - HOUR_US, end_us, limit, newest=True)
    return [
        {
            "a": us, "p": _price(price), "q": _price(size), "f": us, "l": us, "T": us // _MS_US, "m": us % 2 == 0,
            "M": True,
        }
        for us, price, size in zip(
            trades.times_us.tolist(), trades.prices.tolist(), trades.sizes.tolist(), strict=True
        )
    ]  # fmt: skip


def _ticker(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    markets = markets_of(tape)
    if "symbol" in query:
        return _day_of(tape, query["symbol"], _market(tape, query), now_us)
    return [_day_of(tape, name, symbol, now_us) for name, symbol in markets.items()]


def _day_of(tape: Tape, name: str, symbol: str, now_us: int) -> dict[str, Any]:
    bars = tape.bars(symbol, (now_us - DAY_US) // MINUTE_US * MINUTE_US, now_us, MINUTE_US, now_us)
    if not len(bars.open):
        raise _Refused(-1121, "Invalid symbol.")
    first, last, volume = float(bars.open[0]), float(bars.close[-1]), int(bars.volume.sum())
    quote = float((bars.volume * bars.close).sum())
    return {
        "symbol": name, "priceChange": _price(last - first), "priceChangePercent": f"{(last / first - 1) * 100:.3f}",
        "weightedAvgPrice": _price(quote / volume if volume else last), "prevClosePrice": _price(first),
        "lastPrice": _price(last), "lastQty": _price(1), "bidPrice": _price(last - 0.01), "bidQty": _price(1),
        "askPrice": _price(last), "askQty": _price(1), "openPrice": _price(first),
        "highPrice": _price(float(bars.high.max())), "lowPrice": _price(float(bars.low.min())),
        "volume": _price(volume), "quoteVolume": _price(quote), "openTime": (now_us - DAY_US) // _MS_US,
        "closeTime": now_us // _MS_US, "firstId": int(bars.starts_us[0]), "lastId": now_us, "count": max(1, volume),
    }  # fmt: skip


def _last(tape: Tape, query: Mapping[str, str], now_us: int) -> Any:
    if "symbol" in query:
        return {"symbol": query["symbol"], "price": _price(tape.price(_market(tape, query), now_us))}
    return [{"symbol": name, "price": _price(tape.price(symbol, now_us))} for name, symbol in markets_of(tape).items()]


_FUNCTIONS: Final = {
    "ping": _ping, "time": _time, "exchangeInfo": _exchange_info, "klines": _klines, "trades": _recent,
    "aggTrades": _aggregated, "ticker/24hr": _ticker, "ticker/price": _last,
}  # fmt: skip
