"""Twelve Data's REST API as the sandbox answers it. Pure.

Where the vendor's documentation is silent the shapes are those that its own SDK needs.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
import numpy as np

from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, WEEK_US, datetime_of, micros_of
from tickerplant.protocols.http_types import DAY, DOWN, PREMIUM, Refusal, Reply, Request, json_reply, zone_of
from tickerplant.sandbox.corporate_actions import ALL, DIVIDENDS, NEW_YORK, NONE, SPLITS, Tape
from tickerplant.sandbox.model import Bars

_MONTH_US: Final = 31 * DAY_US
INTERVALS: Final = {
    "1min": MINUTE_US, "5min": 5 * MINUTE_US, "15min": 15 * MINUTE_US, "30min": 30 * MINUTE_US,
    "45min": 45 * MINUTE_US, "1h": 60 * MINUTE_US, "2h": 120 * MINUTE_US, "4h": 240 * MINUTE_US,
    "8h": 480 * MINUTE_US, "1day": DAY_US, "1week": WEEK_US, "1month": _MONTH_US,
}  # fmt: skip
MAX_OUTPUT: Final = 5_000
MAX_BATCH: Final = 120
_ACTION_CREDITS: Final = 20  # splits and dividends, by the vendor's price list
_FREE: Final = ("/technical_indicators", "/api_usage")
_NO_LIMIT: Final = 1_000_000
_SESSION_SHARE: Final = 8  # at most an eighth of a week's minutes are in session: how far to look for what was asked


class Refused(Exception):
    """A request that the vendor refuses, with its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message, "status": "error"}
        self.code = code


class TwelveData:
    """The vendor. `errors_200`: errors come with HTTP 200, as the vendor's sometimes do."""

    name = "twelvedata"

    def __init__(self, *, errors_200: bool = False) -> None:
        self._errors_200 = errors_200

    def speaks(self, request: Request) -> bool:
        """Whether the request is to this vendor."""
        return _path(request) in (*_SINGLE, *_FREE, "/batch")

    def key(self, request: Request) -> str:
        """Return the key: of the query, of `Authorization: apikey KEY`, or of `X-TD-APIKEY`."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        shown = key if scheme.lower() == "apikey" else ""
        return request.query.get("apikey") or request.headers.get("x-td-apikey") or shown

    def cost(self, request: Request) -> int:
        """Return a credit a symbol; more for corporate actions."""
        path = _path(request)
        if path in _FREE:
            return 0
        if path == "/batch":
            return sum(self.cost(part) for part in _parts(request).values())
        return max(1, len(_names(request.query))) * (_ACTION_CREDITS if path in ("/splits", "/dividends") else 1)

    def bad_key(self, request: Request) -> Reply | None:
        """Return the answer to no key, or to one that begins with `bad`; every other is a good one here."""
        key = self.key(request)
        if key and not key.startswith("bad"):
            return None
        return self._error(Refused(
            401,
            "**apikey** parameter is incorrect or not specified. You can get your free API key instantly following "
            "this link: https://twelvedata.com/pricing. If you believe that everything is correct, you can contact us",
        ))  # fmt: skip

    def refuse(self, refusal: Refusal, request: Request) -> Reply:
        """Return the vendor's 429 (which tells the minute from the day), 403 or 5xx."""
        if refusal.kind == DOWN:
            return self._error(Refused(refusal.status, "Internal server error. Please contact us for details."))
        if refusal.kind == PREMIUM:
            what = request.query.get("symbol", "This endpoint")
            return self._error(Refused(
                403,
                f"{what} is available exclusively with grow or pro or ultra or enterprise plans. Consider upgrading "
                "your API Key now at https://twelvedata.com/pricing",
            ))  # fmt: skip
        period, wait = ("day", "day") if refusal.kind == DAY else ("current minute", "minute")
        used = f"{refusal.used} API credits were used, with the current limit being {refusal.limit}. "
        return self._error(Refused(
            429,
            f"You have run out of API credits for the {period}. {used if refusal.limit else ''}"
            f"Wait for the next {wait} or consider switching to a higher tier plan.",
        ))  # fmt: skip

    def answer(self, request: Request, tape: Tape, now_us: int) -> Reply:
        """Return the answer. Errors are answers too."""
        try:
            return self._answer(request, tape, now_us)
        except Refused as refused:
            return self._error(refused)

    def credit_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return the vendor's two headers."""
        left = max(0, limit - used) if limit else _NO_LIMIT
        return {"api-credits-used": str(used), "api-credits-left": str(left)}

    def _error(self, refused: Refused) -> Reply:
        return json_reply(refused.body, 200 if self._errors_200 else refused.code)

    def _answer(self, request: Request, tape: Tape, now_us: int) -> Reply:
        path = _path(request)
        if path == "/technical_indicators":
            return json_reply({"data": {}, "status": "ok"})
        if path == "/api_usage":
            return json_reply({
                "timestamp": datetime_of(now_us).strftime("%Y-%m-%d %H:%M:%S"), "current_usage": request.used,
                "plan_limit": request.limit or _NO_LIMIT, "plan_category": "sandbox",
            })  # fmt: skip
        if path == "/batch":
            bodies = {name: self._part(part, tape, now_us) for name, part in _parts(request).items()}
            return json_reply({"code": 200, "status": "success", "data": bodies})
        single, query = _SINGLE[path], request.query
        names = _names(query)
        if not names:
            raise Refused(400, "**symbol** parameter is missing or invalid. Please provide a valid symbol.")
        if len(names) > MAX_BATCH:
            raise Refused(414, f"The parameter is too long: at most {MAX_BATCH} symbols are allowed in one request.")
        if len(names) == 1:
            body = single(tape, names[0], query, now_us)
            if query.get("format", "JSON").upper() == "CSV":
                return Reply(200, _csv(body, query), "text/csv")
            return json_reply(body)
        bodies = {}
        for name in names:
            try:
                bodies[name] = single(tape, name, query, now_us)
            except Refused as refused:
                meta = {"symbol": query["symbol"], "interval": query.get("interval", ""), "exchange": ""}
                bodies[name] = {**refused.body, "meta": meta}
        return json_reply(bodies, headers={"Is_batch": "true"})

    def _part(self, request: Request, tape: Tape, now_us: int) -> Any:
        try:
            if _path(request) not in _SINGLE:
                raise Refused(404, f"The requested resource {request.path} was not found.")
            return msgspec.json.decode(self._answer(request, tape, now_us).body)
        except Refused as refused:
            return refused.body


def _path(request: Request) -> str:
    return request.path.rstrip("/") or "/"


def _names(query: Mapping[str, str]) -> list[str]:
    names = (name.strip().upper() for name in query.get("symbol", "").split(","))
    return list(dict.fromkeys(name for name in names if name))


def _parts(request: Request) -> dict[str, Request]:
    """Return the requests of a `POST /batch`: `{"req_1": {"url": "/price?symbol=AAPL"}}`."""
    try:
        given = msgspec.json.decode(request.body, type=dict[str, dict[str, str]])
    except msgspec.MsgspecError:
        return {}
    found = {}
    for name, what in given.items():
        parts = urlsplit(what.get("url", ""))
        found[name] = Request(parts.path, {**dict(parse_qsl(parts.query)), "format": "JSON"}, request.headers)
    return found


def known(tape: Tape, name: str) -> str:
    """Return the symbol without its exchange (`RY:TSX`, which the sandbox does not look at); refuse unknown ones."""
    symbol = name.partition(":")[0]
    if not tape.knows(symbol):
        raise Refused(400, f"**symbol** not found: {name}. Please specify it correctly according to API Documentation.")
    return symbol


def meta_of(symbol: str) -> dict[str, str]:
    """Return what the vendor says of an instrument, the symbol first."""
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
        return dt.UTC if "/" in symbol else NEW_YORK
    zone = zone_of(name)
    if zone is None:
        raise Refused(400, f"Invalid **timezone** provided: {name}. It is case-sensitive.")
    return zone


def _time_series(tape: Tape, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    symbol = known(tape, name)
    interval = query.get("interval", "")
    if interval not in INTERVALS:
        raise Refused(400, f"Invalid **interval** provided: {interval}. Supported intervals: {', '.join(INTERVALS)}")
    length = INTERVALS[interval]
    adjust = query.get("adjust", "splits").lower()
    if adjust not in (ALL, SPLITS, DIVIDENDS, NONE):
        raise Refused(400, f"Invalid **adjust** provided: {adjust}. Supported values: all, splits, dividends, none")
    zone = dt.UTC if length >= DAY_US else _zone(query, symbol)
    dated = "start_date" in query or "end_date" in query
    size = _integer(query, "outputsize", MAX_OUTPUT if dated else 30, 1, MAX_OUTPUT)
    digits = _integer(query, "dp", 5, 0, 11)
    stretch = (
        size * length * (_SESSION_SHARE if tape.gaps(symbol) and length < DAY_US else 2 if length == DAY_US else 1)
    )
    end_us = min(_moment(query, "end_date", zone, now_us), now_us - 1) + 1
    start_us = max(_moment(query, "start_date", zone, end_us - stretch - length), end_us - stretch - length)
    if length == _MONTH_US:
        bars = tape.months(symbol, start_us, end_us, 1, now_us, adjust=adjust)
    else:
        bars = tape.bars(symbol, start_us, end_us, length, now_us, adjust=adjust)
    count = len(bars.starts_us)
    if not count:
        raise Refused(400, "No data is available on the specified dates. Try setting different start/end dates.")
    volumes = not tape.market.forex[tape.market.code[symbol]]
    values = rows(bars, max(0, count - size), zone, daily=length >= DAY_US, digits=digits, volumes=bool(volumes))
    if query.get("order", "desc").lower() != "asc":
        values.reverse()
    meta = meta_of(symbol)
    return {"meta": {"symbol": symbol, "interval": interval, **meta}, "values": values, "status": "ok"}


def rows(bars: Bars, first: int, zone: dt.tzinfo, *, daily: bool, digits: int, volumes: bool) -> list[dict[str, str]]:
    """Return bars from the `first` on as the vendor writes them, oldest first: all is text."""
    form = "%Y-%m-%d" if daily else "%Y-%m-%d %H:%M:%S"
    values = []
    columns = [column[first:].tolist() for column in (bars.open, bars.high, bars.low, bars.close)]
    for start, volume, *prices in zip(
        bars.starts_us[first:].tolist(), bars.volume[first:].tolist(), *columns, strict=True
    ):
        value = {"datetime": datetime_of(start).astimezone(zone).strftime(form)}
        for name, price in zip(("open", "high", "low", "close"), prices, strict=True):
            value[name] = f"{price:.{digits}f}"
        if volumes:
            value["volume"] = str(volume)
        values.append(value)
    return values


def _moment(query: Mapping[str, str], name: str, zone: dt.tzinfo, default_us: int) -> int:
    text = query.get(name)
    if not text:
        return default_us
    try:
        moment = dt.datetime.fromisoformat(text.replace(" ", "T", 1))
    except ValueError:
        raise Refused(400, f"Invalid **{name}** provided: {text}. Use 2006-01-02 or 2006-01-02T15:04:05.") from None
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=zone))


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


def _price(tape: Tape, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    return {"price": f"{tape.price(known(tape, name), now_us):.{_integer(query, 'dp', 5, 0, 11)}f}"}


def _quote(tape: Tape, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    symbol = known(tape, name)
    day = now_us // DAY_US * DAY_US
    bars = tape.bars(symbol, day - 366 * DAY_US, day + DAY_US, DAY_US, now_us, adjust=SPLITS)
    if not len(bars.starts_us):
        raise Refused(400, f"No data is available for {symbol}.")
    close = float(bars.close[-1])
    previous = float(bars.close[-2]) if len(bars.close) > 1 else close
    week = float(bars.close[-8]) if len(bars.close) > 7 else previous
    low, high = float(bars.low.min()), float(bars.high.max())
    meta = meta_of(symbol)
    is_open = not tape.gaps(symbol) or bool(tape.market.is_open(np.array([now_us], np.int64))[0])
    numbers = {
        "open": float(bars.open[-1]), "high": float(bars.high[-1]), "low": float(bars.low[-1]), "close": close,
    }  # fmt: skip
    volumes = not tape.market.forex[tape.market.code[symbol]]
    return {
        "symbol": symbol, "name": f"{symbol} of the sandbox", "exchange": meta.get("exchange", ""),
        "mic_code": meta.get("mic_code", ""), "currency": meta.get("currency", meta.get("currency_quote", "")),
        "datetime": datetime_of(int(bars.starts_us[-1])).strftime("%Y-%m-%d"),
        "timestamp": int(bars.starts_us[-1]) // SECOND_US, "last_quote_at": now_us // MINUTE_US * 60,
        **{key: f"{value:.5f}" for key, value in numbers.items()},
        **({"volume": str(int(bars.volume[-1]))} if volumes else {}),
        "previous_close": f"{previous:.5f}", "change": f"{close - previous:.5f}",
        "percent_change": f"{(close / previous - 1) * 100:.5f}",
        **({"average_volume": str(int(bars.volume.mean()))} if volumes else {}),
        "rolling_1d_change": f"{(close / previous - 1) * 100:.5f}",
        "rolling_7d_change": f"{(close / week - 1) * 100:.5f}",
        "rolling_change": f"{(close / previous - 1) * 100:.5f}",
        "is_market_open": is_open,
        "fifty_two_week": {
            "low": f"{low:.5f}", "high": f"{high:.5f}", "low_change": f"{close - low:.5f}",
            "high_change": f"{close - high:.5f}", "low_change_percent": f"{(close / low - 1) * 100:.5f}",
            "high_change_percent": f"{(close / high - 1) * 100:.5f}", "range": f"{low:.6f} - {high:.6f}",
        },
    }  # fmt: skip


def _dates(query: Mapping[str, str], now_us: int) -> tuple[int, int]:
    """Return from when to when corporate actions are asked for: dates, or all for `range=full`, or the last."""
    start = _moment(query, "start_date", dt.UTC, 0)
    return start, min(_moment(query, "end_date", dt.UTC, now_us), now_us)


def _action_meta(symbol: str) -> dict[str, str]:
    meta = meta_of(symbol)
    return {"symbol": symbol, "name": f"{symbol} of the sandbox", **{k: meta[k] for k in meta if k != "type"}}


def _splits(tape: Tape, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    symbol = known(tape, name)
    start_us, end_us = _dates(query, now_us)
    found = [split for split in reversed(tape.splits(symbol, start_us, now_us)) if split.us <= end_us]
    if _newest_only(query):
        found = found[:1]
    return {
        "meta": _action_meta(symbol),
        "splits": [
            {
                "date": datetime_of(split.us).strftime("%Y-%m-%d"),
                "description": f"{split.numerator}-for-{split.denominator} split",
                "ratio": round(split.denominator / split.numerator, 5),
                "from_factor": split.numerator, "to_factor": split.denominator,
            }
            for split in found
        ],
    }  # fmt: skip


def _paid(tape: Tape, name: str, query: Mapping[str, str], now_us: int) -> dict[str, Any]:
    symbol = known(tape, name)
    start_us, end_us = _dates(query, now_us)
    found = [paid for paid in reversed(tape.dividends(symbol, start_us, now_us)) if paid.us <= end_us]
    if _newest_only(query):
        found = found[:1]
    rate = 1.0
    values = []
    for paid in found:
        if query.get("adjust", "true").lower() != "false":  # the vendor tells amounts in the shares of now
            rate = float(tape.split_factor(symbol, np.array([paid.us], np.int64), now_us)[0])
        values.append({"ex_date": datetime_of(paid.us).strftime("%Y-%m-%d"), "amount": round(paid.amount * rate, 6)})
    return {"meta": _action_meta(symbol), "dividends": values}


def _newest_only(query: Mapping[str, str]) -> bool:
    return not ("start_date" in query or "end_date" in query) and query.get("range", "last").lower() == "last"


_SINGLE: Final = {
    "/time_series": _time_series, "/price": _price, "/quote": _quote, "/splits": _splits, "/dividends": _paid,
}  # fmt: skip


def _csv(body: Mapping[str, Any], query: Mapping[str, str]) -> bytes:
    """Return the values of a body, or the flat body itself, as the vendor's CSV: semicolons, no quotes."""
    values = body.get("values") or [{name: value for name, value in body.items() if not isinstance(value, dict)}]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(values[0]), delimiter=query.get("delimiter", ";"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    return text.getvalue().encode()
