"""The public REST API of Binance's spot market, for the market's crypto symbols. Pure.

The market name of `BTC/USD` is BTCUSDT: the exchange trades no dollars, and its users treat prices in Tether as dollar
prices. Trade ids increase with time. The API cannot report a cancelled or corrected trade.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from tickerplant.core.digits import parse_int
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, WEEK_US, Float64Array, Int64Array
from tickerplant.protocols.http_types import DAY, DOWN, PREMIUM, Refusal, Request, Response, json_response
from tickerplant.protocols.market import CRYPTO, Bars, Market, Trades

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
_MAX_STEPS: Final = 144  # a request searches at most one day and returns the trades found in it
_MS_US: Final = 1_000


class _ApiError(Exception):
    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.response = json_response({"code": code, "msg": message}, status)


class Binance:
    """The `RestProtocol` of Binance. Public data need no key: the used weight is counted per IP address."""

    name = "binance"

    def matches(self, request: Request) -> bool:
        """Return True if the request's path belongs to this API."""
        return request.path.startswith(ROOT)

    def api_key(self, request: Request) -> None:
        """Return None: public data need no key."""

    def cost(self, request: Request) -> int:
        """Return the request's weight."""
        name = _name(request)
        if name.startswith("ticker/") and "symbol" not in request.query:
            return _ALL_TICKERS
        return _WEIGHTS.get(name, 1)

    def key_error(self) -> Response:
        """Return the response to an invalid key. No public path checks keys."""
        return json_response({"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}, 401)

    def refuse(self, refusal: Refusal, request: Request) -> Response:
        """Return 418 (a ban) for DAY, 451 for PREMIUM, the refusal's status for DOWN, and 429 otherwise.

        The exchange has no daily quota; only a fault causes DAY.
        """
        if refusal.kind == DOWN:
            return Response(refusal.status, b"<html><body>Service Temporarily Unavailable</body></html>", "text/html")
        if refusal.kind == PREMIUM:
            text = (
                "Service unavailable from a restricted location according to 'b. Eligibility' in "
                "https://www.binance.com/en/terms. Please contact customer service if you believe you received this "
                "message in error."
            )
            return json_response({"code": 0, "msg": text}, 451)
        retry = {"Retry-After": str(refusal.retry_after_s)}
        if refusal.kind == DAY:
            text = "Way too much request weight used; IP banned. Please use WebSocket Streams to avoid bans."
            return json_response({"code": -1003, "msg": text}, 418, retry)
        text = (
            f"Too much request weight used; current limit is {refusal.limit or 6_000} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API."
        )
        return json_response({"code": -1003, "msg": text}, 429, retry)

    def quota_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return the headers that report the weight used in this minute. The limit is not reported."""
        return {"X-MBX-USED-WEIGHT": str(used), "X-MBX-USED-WEIGHT-1M": str(used)}

    def respond(self, request: Request, market: Market) -> Response:
        """Return the API's response, which may be an error response."""
        function = _FUNCTIONS.get(_name(request))
        if function is None:
            return Response(404, b"<html><body><h2>404 Not found</h2></body></html>", "text/html")
        try:
            return json_response(function(market, request.query))
        except _ApiError as error:
            return error.response


def _name(request: Request) -> str:
    return request.path.removeprefix(ROOT).rstrip("/")


def markets_of(market: Market) -> dict[str, str]:
    """Return the market's crypto symbols, keyed by the exchange's market name.

    BTCUSDT maps to BTC/USDT if the market contains that symbol, else to BTC/USD.
    """
    found: dict[str, str] = {}
    for instrument in market.instruments:
        if instrument.kind != CRYPTO:
            continue
        symbol, (base, quote) = instrument.symbol, instrument.pair
        name = base + ("USDT" if quote == "USD" else quote)
        if quote != "USD" or name not in found:
            found[name] = symbol
    return found


def _symbol(market: Market, query: Mapping[str, str]) -> str:
    name = query.get("symbol", "")
    if not name:
        raise _ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
    symbol = markets_of(market).get(name)
    if symbol is None:
        raise _ApiError(-1121, "Invalid symbol.")
    return symbol


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return parse_int(text)
    except ValueError:
        raise _ApiError(
            -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
        ) from None


def _limit(query: Mapping[str, str]) -> int:
    limit = _number(query, "limit")
    return _LIMIT_DEFAULT if limit is None else max(1, min(limit, _LIMIT))


def _price(value: float) -> str:
    return f"{value:.8f}"


def _ping(market: Market, query: Mapping[str, str]) -> Any:
    return {}


def _time(market: Market, query: Mapping[str, str]) -> Any:
    return {"serverTime": market.now_us // _MS_US}


def _exchange_info(market: Market, query: Mapping[str, str]) -> Any:
    markets = markets_of(market)
    if "symbol" in query:
        _symbol(market, query)
    wanted = [query["symbol"]] if "symbol" in query else list(markets)
    return {
        "timezone": "UTC", "serverTime": market.now_us // _MS_US,
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


def _klines(market: Market, query: Mapping[str, str]) -> Any:
    symbol, name, now_us = _symbol(market, query), query.get("interval", ""), market.now_us
    length = INTERVALS.get(name)
    if length is None:
        raise _ApiError(-1120, "Invalid interval.")
    limit, start, end = _limit(query), _number(query, "startTime"), _number(query, "endTime")
    end_us = min(now_us, (end + 1) * _MS_US if end is not None else now_us)
    if start is not None:
        first = -(-start * _MS_US // length) * length
        end_us = min(end_us, first + limit * length)
    else:
        first = -(-end_us // length) * length - limit * length
    if length == WEEK_US:
        first += 4 * DAY_US if start is None else (4 * DAY_US - first) % WEEK_US
    bars = market.bars(symbol, first, max(first, end_us), length)
    return _candles(_filled(bars, length), length, limit)


def _filled(bars: Bars, length_us: int) -> Bars:
    """Return the bars, with a flat bar at the previous close for each missing bar, as the exchange returns them."""
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


def _trades_of(market: Market, symbol: str, start_us: int, end_us: int, limit: int, *, newest: bool) -> Trades:
    """Return up to `limit` trades of a range, the oldest or the newest.

    The search starts at that end of the range, proceeds in steps of ten minutes, and stops after one day.
    """
    found: list[Trades] = []
    count = steps = 0
    while start_us < end_us and count < limit and steps < _MAX_STEPS:
        if newest:
            first, end = max(start_us, end_us - _STEP_US), end_us
        else:
            first, end = start_us, min(end_us, start_us + _STEP_US)
        part = market.trades(symbol, first, end)
        count, steps = count + len(part.times_us), steps + 1
        found = [part, *found] if newest else [*found, part]
        start_us, end_us = (start_us, first) if newest else (end, end_us)
    kept = slice(-limit, None) if newest else slice(limit)
    nothing = np.empty(0, np.int64)
    return Trades(
        np.concatenate([nothing, *(part.times_us for part in found)])[kept],
        np.concatenate([np.empty(0), *(part.prices for part in found)])[kept],
        np.concatenate([nothing, *(part.sizes for part in found)])[kept],
    )


def _rows_of(trades: Trades) -> Iterator[tuple[int, float, int]]:
    """Return an iterator of time, price and size. The time in microseconds is the trade's id."""
    return zip(trades.times_us.tolist(), trades.prices.tolist(), trades.sizes.tolist(), strict=True)


def _recent(market: Market, query: Mapping[str, str]) -> Any:
    now_us = market.now_us
    trades = _trades_of(market, _symbol(market, query), now_us - HOUR_US, now_us, _limit(query), newest=True)
    return [
        {
            "id": us, "price": _price(price), "qty": _price(size), "quoteQty": _price(price * size),
            "time": us // _MS_US, "isBuyerMaker": us % 2 == 0, "isBestMatch": True,
        }
        for us, price, size in _rows_of(trades)
    ]  # fmt: skip


def _aggregated(market: Market, query: Mapping[str, str]) -> Any:
    symbol, limit = _symbol(market, query), _limit(query)
    first_id, start, end = (_number(query, name) for name in ("fromId", "startTime", "endTime"))
    if first_id is not None and (start is not None or end is not None):
        raise _ApiError(-1128, "Combination of optional parameters invalid.")
    now_us = market.now_us
    end_us = min(now_us, (end + 1) * _MS_US) if end is not None else now_us
    if first_id is not None:
        trades = _trades_of(market, symbol, first_id, end_us, limit, newest=False)
    elif start is not None:
        trades = _trades_of(market, symbol, start * _MS_US, end_us, limit, newest=False)
    else:
        trades = _trades_of(market, symbol, end_us - HOUR_US, end_us, limit, newest=True)
    return [
        {
            "a": us, "p": _price(price), "q": _price(size), "f": us, "l": us, "T": us // _MS_US, "m": us % 2 == 0,
            "M": True,
        }
        for us, price, size in _rows_of(trades)
    ]  # fmt: skip


def _ticker(market: Market, query: Mapping[str, str]) -> Any:
    if "symbol" in query:
        return _day_of(market, query["symbol"], _symbol(market, query))
    return [_day_of(market, name, symbol) for name, symbol in markets_of(market).items()]


def _day_of(market: Market, name: str, symbol: str) -> dict[str, Any]:
    now_us = market.now_us
    bars = market.bars(symbol, (now_us - DAY_US) // MINUTE_US * MINUTE_US, now_us, MINUTE_US)
    if not len(bars.open):
        raise _ApiError(-1121, "Invalid symbol.")
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


def _last(market: Market, query: Mapping[str, str]) -> Any:
    if "symbol" in query:
        return {"symbol": query["symbol"], "price": _price(market.price(_symbol(market, query)))}
    return [{"symbol": name, "price": _price(market.price(symbol))} for name, symbol in markets_of(market).items()]


_FUNCTIONS: Final = {
    "ping": _ping, "time": _time, "exchangeInfo": _exchange_info, "klines": _klines, "trades": _recent,
    "aggTrades": _aggregated, "ticker/24hr": _ticker, "ticker/price": _last,
}  # fmt: skip
