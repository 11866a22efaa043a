"""Alpha Vantage's `/query`. Pure.

Every failure except an outage has HTTP status 200; its body contains one key that names the kind of failure, and a
text. The API serves stocks only. Series contain no forming bars, as on the vendor's free plan.
"""

from __future__ import annotations

import calendar
import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of, micros_of
from tickerplant.protocols.http_types import BURST, DAY, DOWN, PREMIUM, Refusal, Request, Response, json_response
from tickerplant.protocols.market import AS_TRADED, FOR_ALL, NEW_YORK, STOCK, Bars, Instrument, Market

INTERVALS: Final = {f"{minutes}min": minutes * MINUTE_US for minutes in (1, 5, 15, 30, 60)}
COMPACT: Final = 100
_FULL_DAYS: Final = 30
_FULL_YEARS: Final = 20
_DOCS: Final = "https://www.alphavantage.co/documentation/"
_PREMIUM: Final = ("TIME_SERIES_DAILY_ADJUSTED", "REALTIME_BULK_QUOTES")
_COLUMNS: Final = ("1. open", "2. high", "3. low", "4. close", "5. volume")


class _ApiError(Exception):
    """An error response: one key and its text."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.body = {key: text}


class AlphaVantage:
    """The `RestProtocol` of Alpha Vantage."""

    name = "alphavantage"

    def matches(self, request: Request) -> bool:
        """Return True if the request's path belongs to this API."""
        return request.path.rstrip("/") == "/query"

    def api_key(self, request: Request) -> str:
        """Return the API key of the query; "" if there is none."""
        return request.query.get("apikey", "")

    def cost(self, request: Request) -> int:
        """Return 1 credit: every call counts, failed calls included."""
        return 1

    def key_error(self) -> Response:
        """Return the response to a missing or invalid key."""
        return json_response({
            "Error Message": "the parameter apikey is invalid or missing. Please claim your free API key on "
            "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
        })  # fmt: skip

    def refuse(self, refusal: Refusal, request: Request) -> Response:
        """Return `Note` for MINUTE, `Information` for DAY, BURST and PREMIUM, and the refusal's status for DOWN."""
        if refusal.kind == DOWN:
            page = f"<html><head><title>{refusal.status}</title></head><body>Service Unavailable</body></html>"
            return Response(refusal.status, page.encode(), "text/html")
        if refusal.kind == PREMIUM:
            return json_response(_premium().body)
        if refusal.kind == BURST:
            text = (
                "Burst pattern detected. Please consider spreading out your free API requests more sparingly "
                "(1 request per second). You may subscribe to any of the premium plans at "
                "https://www.alphavantage.co/premium/ to lift the free key rate limit"
            )
            return json_response({"Information": text})
        if refusal.kind == DAY:
            # The vendor repeats the key: a client that logs the text logs its key.
            text = (
                f"We have detected your API key as {self.api_key(request)} and our standard API rate limit is "
                f"{refusal.limit or 25} requests per day. Please subscribe to any of the premium plans at "
                "https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
            )
            return json_response({"Information": text})
        text = (
            f"Thank you for using Alpha Vantage! Our standard API call frequency is {refusal.limit or 5} calls per "
            "minute and 500 calls per day. Please visit https://www.alphavantage.co/premium/ if you would like to "
            "target a higher API call frequency."
        )
        return json_response({"Note": text})

    def quota_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return no headers: the vendor reports no quota."""
        return {}

    def respond(self, request: Request, market: Market) -> Response:
        """Return the API's response. An error response is JSON even if CSV was requested."""
        query = request.query
        name = query.get("function", "").upper()
        function = _FUNCTIONS.get(name)
        try:
            if name in _PREMIUM:
                raise _premium()
            if function is None:
                raise _ApiError("Error Message", f"This API function ({name}) does not exist.")
            if not query.get("symbol"):
                raise _invalid(name)
            body, table = function(market, query["symbol"].upper(), query)
        except _ApiError as error:
            return json_response(error.body)
        if query.get("datatype", "json") == "csv":
            return Response(200, _csv(table), "application/x-download")
        return json_response(body)


def _premium() -> _ApiError:
    return _ApiError(
        "Information",
        "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans "
        "at https://www.alphavantage.co/premium/ to instantly unlock all premium endpoints",
    )


def _invalid(function: str) -> _ApiError:
    return _ApiError(
        "Error Message", f"Invalid API call. Please retry or visit the documentation ({_DOCS}) for {function}."
    )


def _stock(market: Market, symbol: str) -> Instrument | None:
    """Return a symbol's instrument if it is a stock; None otherwise."""
    instrument = market.find(symbol)
    return instrument if instrument is not None and instrument.kind == STOCK else None


Answer = tuple[dict[str, Any], Sequence[Sequence[str]]]
"""A response as JSON, and the same data as a table whose first row is the header."""


def _intraday(market: Market, symbol: str, query: Mapping[str, str]) -> Answer:
    function = "TIME_SERIES_INTRADAY"
    stock = _stock(market, symbol)
    if stock is None:
        raise _invalid(function)
    now_us = market.now_us
    interval = query.get("interval", "")
    length = INTERVALS.get(interval)
    if length is None:
        raise _invalid(function)
    full = query.get("outputsize", "compact") == "full"
    start_us, end_us = (
        _month(query["month"], function) if query.get("month") else (now_us - _FULL_DAYS * DAY_US, now_us)
    )
    end_us = min(end_us, now_us // length * length)
    if not full:
        start_us = max(start_us, end_us - 8 * COMPACT * length - 4 * DAY_US * stock.has_sessions)
    adjustment = FOR_ALL if query.get("adjusted", "true").lower() == "true" else AS_TRADED
    bars = market.bars(symbol, start_us, max(start_us, end_us), length, adjustment)
    if query.get("extended_hours", "true").lower() == "false":
        bars = bars.take(market.in_session(symbol, bars.starts_us))
    closed = np.flatnonzero(bars.starts_us + length <= now_us)
    bars = bars.take(closed if full else closed[-COMPACT:])
    if not len(bars.starts_us):
        raise _invalid(function)
    times = [datetime_of(us).astimezone(NEW_YORK).strftime("%Y-%m-%d %H:%M:%S") for us in bars.starts_us.tolist()]
    meta = {
        "1. Information": f"Intraday ({interval}) open, high, low, close prices and volume",
        "2. Symbol": symbol, "3. Last Refreshed": times[-1], "4. Interval": interval,
        "5. Output Size": "Full size" if full else "Compact", "6. Time Zone": "US/Eastern",
    }  # fmt: skip
    return _series(meta, f"Time Series ({interval})", times, bars)


def _daily(market: Market, symbol: str, query: Mapping[str, str]) -> Answer:
    if _stock(market, symbol) is None:
        raise _invalid("TIME_SERIES_DAILY")
    full = query.get("outputsize", "compact") == "full"
    today = market.now_us // DAY_US * DAY_US
    lookback_days = 366 * _FULL_YEARS if full else 2 * COMPACT
    bars = market.bars(symbol, today - lookback_days * DAY_US, today, DAY_US)
    if not full:
        bars = bars.take(slice(-COMPACT, None))
    if not len(bars.starts_us):
        raise _invalid("TIME_SERIES_DAILY")
    times = [datetime_of(us).strftime("%Y-%m-%d") for us in bars.starts_us.tolist()]
    meta = {
        "1. Information": "Daily Prices (open, high, low, close) and Volumes", "2. Symbol": symbol,
        "3. Last Refreshed": times[-1], "4. Output Size": "Full size" if full else "Compact",
        "5. Time Zone": "US/Eastern",
    }  # fmt: skip
    return _series(meta, "Time Series (Daily)", times, bars)


def _quote(market: Market, symbol: str, query: Mapping[str, str]) -> Answer:
    if _stock(market, symbol) is None:
        return {"Global Quote": {}}, [["symbol"]]
    now_us = market.now_us
    bars = market.bars(symbol, now_us // DAY_US * DAY_US - 8 * DAY_US, now_us, DAY_US)
    open_, high, low, price = (float(column[-1]) for column in (bars.open, bars.high, bars.low, bars.close))
    previous = float(bars.close[-2])
    values = [
        symbol, *(f"{number:.4f}" for number in (open_, high, low, price)), str(int(bars.volume[-1])),
        datetime_of(int(bars.starts_us[-1])).strftime("%Y-%m-%d"), f"{previous:.4f}", f"{price - previous:.4f}",
        f"{(price / previous - 1) * 100:.4f}%",
    ]  # fmt: skip
    names = (
        "01. symbol", "02. open", "03. high", "04. low", "05. price", "06. volume", "07. latest trading day",
        "08. previous close", "09. change", "10. change percent",
    )  # fmt: skip
    header = [
        "symbol", "open", "high", "low", "price", "volume", "latestDay", "previousClose", "change", "changePercent",
    ]  # fmt: skip
    return {"Global Quote": dict(zip(names, values, strict=True))}, [header, values]


def _splits(market: Market, symbol: str, query: Mapping[str, str]) -> Answer:
    rows = []
    if market.find(symbol) is not None:
        for split in reversed(market.splits(symbol)):
            rows.append([_date(split.us), f"{split.numerator / split.denominator:.4f}"])
    return _actions(symbol, ["effective_date", "split_factor"], rows)


def _dividends(market: Market, symbol: str, query: Mapping[str, str]) -> Answer:
    rows = []
    if market.find(symbol) is not None:
        for paid in reversed(market.dividends(symbol)):
            declared, due = _date(paid.us - 14 * DAY_US), _date(paid.us + 28 * DAY_US)
            rows.append([_date(paid.us), declared, _date(paid.us), due, f"{paid.amount:g}"])
    header = ["ex_dividend_date", "declaration_date", "record_date", "payment_date", "amount"]
    return _actions(symbol, header, rows)


_FUNCTIONS: Final = {
    "TIME_SERIES_INTRADAY": _intraday, "TIME_SERIES_DAILY": _daily, "GLOBAL_QUOTE": _quote, "SPLITS": _splits,
    "DIVIDENDS": _dividends,
}  # fmt: skip


def _actions(symbol: str, header: list[str], rows: list[list[str]]) -> Answer:
    return {"symbol": symbol, "data": [dict(zip(header, row, strict=True)) for row in rows]}, [header, *rows]


def _date(us: int) -> str:
    return datetime_of(us).strftime("%Y-%m-%d")


def _month(text: str, function: str) -> tuple[int, int]:
    """Return start and exclusive end of a month (YYYY-MM) in New York, in microseconds UTC. Raises _ApiError."""
    try:
        first = dt.datetime.strptime(text if text.isascii() else "", "%Y-%m").replace(tzinfo=NEW_YORK)
    except ValueError:
        raise _invalid(function) from None
    days = calendar.monthrange(first.year, first.month)[1]
    return micros_of(first), micros_of(first + dt.timedelta(days=days))


def _series(meta: dict[str, str], name: str, times: list[str], bars: Bars) -> Answer:
    """Return the answer with the bars newest first and four decimals per price."""
    prices = [[f"{price:.4f}" for price in column.tolist()] for column in (bars.open, bars.high, bars.low, bars.close)]
    rows = list(zip(*prices, map(str, bars.volume.tolist()), strict=True))
    rows.reverse()
    times = times[::-1]
    body = {time: dict(zip(_COLUMNS, row, strict=True)) for time, row in zip(times, rows, strict=True)}
    table = [["timestamp", "open", "high", "low", "close", "volume"]]
    table += [[time, *row] for time, row in zip(times, rows, strict=True)]
    return {"Meta Data": meta, name: body}, table


def _csv(table: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(table)
    return text.getvalue().encode()
