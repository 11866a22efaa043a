"""Alpha Vantage's `/query` as the sandbox answers it: failures come as HTTP 200, told apart by key and text. Pure.

Only stocks are known. Bars that are forming are not shown, as on the vendor's free plan.
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
from tickerplant.protocols.http_types import BURST, DAY, DOWN, PREMIUM, Refusal, Reply, Request, json_reply
from tickerplant.sandbox.corporate_actions import ALL, NEW_YORK, NONE, Tape, in_session
from tickerplant.sandbox.model import Bars

INTERVALS: Final = {f"{minutes}min": minutes * MINUTE_US for minutes in (1, 5, 15, 30, 60)}
COMPACT: Final = 100
_FULL_DAYS: Final = 30
_FULL_YEARS: Final = 20
_DOCS: Final = "https://www.alphavantage.co/documentation/"
_PREMIUM: Final = ("TIME_SERIES_DAILY_ADJUSTED", "REALTIME_BULK_QUOTES")
_COLUMNS: Final = ("1. open", "2. high", "3. low", "4. close", "5. volume")


class _Failed(Exception):
    """What is answered instead of data: a key and a text."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.body = {key: text}


class AlphaVantage:
    """The vendor."""

    name = "alphavantage"

    def speaks(self, request: Request) -> bool:
        """Whether the request is to this vendor."""
        return request.path.rstrip("/") == "/query"

    def key(self, request: Request) -> str:
        """Return the key."""
        return request.query.get("apikey", "")

    def cost(self, request: Request) -> int:
        """Return 1: every call counts, whatever its answer."""
        return 1

    def bad_key(self, request: Request) -> Reply | None:
        """Return the answer to no key, or to one that begins with `bad`."""
        if self.key(request) and not self.key(request).startswith("bad"):
            return None
        return json_reply({
            "Error Message": "the parameter apikey is invalid or missing. Please claim your free API key on "
            "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
        })  # fmt: skip

    def refuse(self, refusal: Refusal, request: Request) -> Reply:
        """Return `Note` for the minute; `Information` for the day (with the key in it), a burst and what costs."""
        if refusal.kind == DOWN:
            page = f"<html><head><title>{refusal.status}</title></head><body>Service Unavailable</body></html>"
            return Reply(refusal.status, page.encode(), "text/html")
        if refusal.kind == PREMIUM:
            return json_reply(_premium().body)
        if refusal.kind == BURST:
            text = (
                "Burst pattern detected. Please consider spreading out your free API requests more sparingly "
                "(1 request per second). You may subscribe to any of the premium plans at "
                "https://www.alphavantage.co/premium/ to lift the free key rate limit"
            )
            return json_reply({"Information": text})
        if refusal.kind == DAY:
            # The vendor does repeat the key: whoever logs the text has logged the key.
            text = (
                f"We have detected your API key as {self.key(request)} and our standard API rate limit is "
                f"{refusal.limit or 25} requests per day. Please subscribe to any of the premium plans at "
                "https://www.alphavantage.co/premium/ to instantly remove all daily rate limits."
            )
            return json_reply({"Information": text})
        text = (
            f"Thank you for using Alpha Vantage! Our standard API call frequency is {refusal.limit or 5} calls per "
            "minute and 500 calls per day. Please visit https://www.alphavantage.co/premium/ if you would like to "
            "target a higher API call frequency."
        )
        return json_reply({"Note": text})

    def credit_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return nothing: the vendor tells no quota."""
        return {}

    def answer(self, request: Request, tape: Tape, now_us: int) -> Reply:
        """Return the answer. Errors are answers too, of JSON even where CSV was asked for."""
        query = request.query
        name = query.get("function", "").upper()
        function = _FUNCTIONS.get(name)
        try:
            if name in _PREMIUM:
                raise _premium()
            if function is None:
                raise _Failed("Error Message", f"This API function ({name}) does not exist.")
            if not query.get("symbol"):
                raise _invalid(name)
            body, table = function(tape, query["symbol"].upper(), query, now_us)
        except _Failed as failed:
            return json_reply(failed.body)
        if query.get("datatype", "json") == "csv":
            return Reply(200, _csv(table), "application/x-download")
        return json_reply(body)


def _premium() -> _Failed:
    return _Failed(
        "Information",
        "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans "
        "at https://www.alphavantage.co/premium/ to instantly unlock all premium endpoints",
    )


def _invalid(function: str) -> _Failed:
    return _Failed(
        "Error Message", f"Invalid API call. Please retry or visit the documentation ({_DOCS}) for {function}."
    )


def _stock(tape: Tape, symbol: str, function: str) -> str:
    if not tape.knows(symbol) or not tape.market.stock[tape.market.code[symbol]]:
        raise _invalid(function)
    return symbol


Answer = tuple[dict[str, Any], Sequence[Sequence[str]]]
"""The JSON body, and the same as a table with its header first."""


def _intraday(tape: Tape, symbol: str, query: Mapping[str, str], now_us: int) -> Answer:
    function = "TIME_SERIES_INTRADAY"
    _stock(tape, symbol, function)
    interval = query.get("interval", "")
    length = INTERVALS.get(interval)
    if length is None:
        raise _invalid(function)
    full = query.get("outputsize", "compact") == "full"
    from_us_, end_us = (
        _month(query["month"], function) if query.get("month") else (now_us - _FULL_DAYS * DAY_US, now_us)
    )
    end_us = min(end_us, now_us // length * length)
    if not full:
        from_us_ = max(from_us_, end_us - 8 * COMPACT * length - 4 * DAY_US * tape.gaps(symbol))
    adjust = ALL if query.get("adjusted", "true").lower() == "true" else NONE
    bars = tape.bars(symbol, from_us_, max(from_us_, end_us), length, now_us, adjust=adjust)
    if query.get("extended_hours", "true").lower() == "false":
        bars = _only(bars, in_session(bars.starts_us))
    whole = np.flatnonzero(bars.starts_us + length <= now_us)
    bars = _only(bars, whole if full else whole[-COMPACT:])
    if not len(bars.starts_us):
        raise _invalid(function)
    times = [datetime_of(us).astimezone(NEW_YORK).strftime("%Y-%m-%d %H:%M:%S") for us in bars.starts_us.tolist()]
    meta = {
        "1. Information": f"Intraday ({interval}) open, high, low, close prices and volume",
        "2. Symbol": symbol, "3. Last Refreshed": times[-1], "4. Interval": interval,
        "5. Output Size": "Full size" if full else "Compact", "6. Time Zone": "US/Eastern",
    }  # fmt: skip
    return _series(meta, f"Time Series ({interval})", times, bars)


def _daily(tape: Tape, symbol: str, query: Mapping[str, str], now_us: int) -> Answer:
    _stock(tape, symbol, "TIME_SERIES_DAILY")
    full = query.get("outputsize", "compact") == "full"
    today = now_us // DAY_US * DAY_US
    back = 366 * _FULL_YEARS if full else 2 * COMPACT
    bars = tape.bars(symbol, today - back * DAY_US, today, DAY_US, now_us)
    if not full:
        bars = _only(bars, np.arange(len(bars.starts_us))[-COMPACT:])
    if not len(bars.starts_us):
        raise _invalid("TIME_SERIES_DAILY")
    times = [datetime_of(us).strftime("%Y-%m-%d") for us in bars.starts_us.tolist()]
    meta = {
        "1. Information": "Daily Prices (open, high, low, close) and Volumes", "2. Symbol": symbol,
        "3. Last Refreshed": times[-1], "4. Output Size": "Full size" if full else "Compact",
        "5. Time Zone": "US/Eastern",
    }  # fmt: skip
    return _series(meta, "Time Series (Daily)", times, bars)


def _quote(tape: Tape, symbol: str, query: Mapping[str, str], now_us: int) -> Answer:
    if not tape.knows(symbol) or not tape.market.stock[tape.market.code[symbol]]:
        return {"Global Quote": {}}, [["symbol"]]
    bars = tape.bars(symbol, now_us // DAY_US * DAY_US - 8 * DAY_US, now_us, DAY_US, now_us)
    open_, high, low, price = (float(column[-1]) for column in (bars.open, bars.high, bars.low, bars.close))
    before = float(bars.close[-2])
    values = [
        symbol, *(f"{number:.4f}" for number in (open_, high, low, price)), str(int(bars.volume[-1])),
        datetime_of(int(bars.starts_us[-1])).strftime("%Y-%m-%d"), f"{before:.4f}", f"{price - before:.4f}",
        f"{(price / before - 1) * 100:.4f}%",
    ]  # fmt: skip
    names = (
        "01. symbol", "02. open", "03. high", "04. low", "05. price", "06. volume", "07. latest trading day",
        "08. previous close", "09. change", "10. change percent",
    )  # fmt: skip
    header = [
        "symbol",
        "open",
        "high",
        "low",
        "price",
        "volume",
        "latestDay",
        "previousClose",
        "change",
        "changePercent",
    ]
    return {"Global Quote": dict(zip(names, values, strict=True))}, [header, values]


def _splits(tape: Tape, symbol: str, query: Mapping[str, str], now_us: int) -> Answer:
    rows = []
    if tape.knows(symbol):
        for split in reversed(tape.splits(symbol, 0, now_us)):
            rows.append([_date(split.us), f"{split.numerator / split.denominator:.4f}"])
    return _actions(symbol, ["effective_date", "split_factor"], rows)


def _dividends(tape: Tape, symbol: str, query: Mapping[str, str], now_us: int) -> Answer:
    rows = []
    if tape.knows(symbol):
        for paid in reversed(tape.dividends(symbol, 0, now_us)):
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
    """Return the first and the end of a month of New York."""
    try:
        first = dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=NEW_YORK)
    except ValueError:
        raise _invalid(function) from None
    days = calendar.monthrange(first.year, first.month)[1]
    return micros_of(first), micros_of(first + dt.timedelta(days=days))


def _only(bars: Bars, rows: Any) -> Bars:
    return Bars(
        bars.starts_us[rows], bars.open[rows], bars.high[rows], bars.low[rows], bars.close[rows], bars.volume[rows]
    )


def _series(meta: dict[str, str], name: str, times: list[str], bars: Bars) -> Answer:
    """Return bars newest first, prices with four digits."""
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
