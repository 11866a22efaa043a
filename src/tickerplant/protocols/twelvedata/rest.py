"""Twelve Data's REST API. Pure.

If the vendor's documentation does not specify the shape of a response, the response has the shape that the vendor's SDK
expects.
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

from tickerplant.core.digits import parse_int
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, WEEK_US, datetime_of, micros_of
from tickerplant.protocols.adjustment import split_factors
from tickerplant.protocols.http_types import DAY, DOWN, PREMIUM, Refusal, Request, Response, find_zone, json_response
from tickerplant.protocols.market import (
    AS_TRADED,
    FOR_ALL,
    FOR_DIVIDENDS,
    FOR_SPLITS,
    FOREX,
    NEW_YORK,
    STOCK,
    Bars,
    Instrument,
    Market,
)
from tickerplant.protocols.twelvedata.instruments import meta_of

_MONTH_US: Final = 31 * DAY_US
INTERVALS: Final = {
    "1min": MINUTE_US, "5min": 5 * MINUTE_US, "15min": 15 * MINUTE_US, "30min": 30 * MINUTE_US,
    "45min": 45 * MINUTE_US, "1h": 60 * MINUTE_US, "2h": 120 * MINUTE_US, "4h": 240 * MINUTE_US,
    "8h": 480 * MINUTE_US, "1day": DAY_US, "1week": WEEK_US, "1month": _MONTH_US,
}  # fmt: skip
MAX_OUTPUT: Final = 5_000
MAX_BATCH: Final = 120
_ACTION_CREDITS: Final = 20  # splits and dividends, from the vendor's price list
_FREE: Final = ("/technical_indicators", "/api_usage")
_NO_LIMIT: Final = 1_000_000
_LOOKBACK_FACTOR: Final = 8  # lookback time per requested time: sessions fill a fifth of a week, less with holidays


class ApiError(Exception):
    """An error of the API, with its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message, "status": "error"}
        self.code = code


class TwelveData:
    """The `RestProtocol` of Twelve Data. `plan`: the name of the plan in `/api_usage`."""

    name = "twelvedata"

    def __init__(self, plan: str = "") -> None:
        self._plan = plan

    def matches(self, request: Request) -> bool:
        """Return True if the request's path belongs to this API."""
        return _path(request) in (*_SINGLE, *_FREE, "/batch")

    def api_key(self, request: Request) -> str:
        """Return the key of the query, of `Authorization: apikey KEY` or of `X-TD-APIKEY`; "" if there is none."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        from_header = key if scheme.lower() == "apikey" else ""
        return request.query.get("apikey") or request.headers.get("x-td-apikey") or from_header

    def cost(self, request: Request) -> int:
        """Return the credits: 1 per symbol, 20 per symbol for corporate actions, 0 for free paths."""
        path = _path(request)
        if path in _FREE:
            return 0
        if path == "/batch":
            return sum(self.cost(part) for part in _parts(request).values())
        return max(1, len(_symbols(request.query))) * (_ACTION_CREDITS if path in ("/splits", "/dividends") else 1)

    def key_error(self) -> Response:
        """Return the response to a missing or invalid key."""
        return _error_response(ApiError(
            401,
            "**apikey** parameter is incorrect or not specified. You can get your free API key instantly following "
            "this link: https://twelvedata.com/pricing. If you believe that everything is correct, you can contact us",
        ))  # fmt: skip

    def refuse(self, refusal: Refusal, request: Request) -> Response:
        """Return 403 for PREMIUM, the refusal's status for DOWN, and otherwise 429 with the period in its text."""
        if refusal.kind == DOWN:
            return _error_response(ApiError(refusal.status, "Internal server error. Please contact us for details."))
        if refusal.kind == PREMIUM:
            subject = request.query.get("symbol", "This endpoint")
            return _error_response(ApiError(
                403,
                f"{subject} is available exclusively with grow or pro or ultra or enterprise plans. Consider upgrading "
                "your API Key now at https://twelvedata.com/pricing",
            ))  # fmt: skip
        period, wait = ("day", "day") if refusal.kind == DAY else ("current minute", "minute")
        used = f"{refusal.used} API credits were used, with the current limit being {refusal.limit}. "
        return _error_response(ApiError(
            429,
            f"You have run out of API credits for the {period}. {used if refusal.limit else ''}"
            f"Wait for the next {wait} or consider switching to a higher tier plan.",
        ))  # fmt: skip

    def respond(self, request: Request, market: Market) -> Response:
        """Return the API's response, which may be an error response."""
        try:
            return self._respond(request, market)
        except ApiError as error:
            return _error_response(error)

    def quota_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return the headers that report the minute's credits, used and left."""
        left = max(0, limit - used) if limit else _NO_LIMIT
        return {"api-credits-used": str(used), "api-credits-left": str(left)}

    def _respond(self, request: Request, market: Market) -> Response:
        path = _path(request)
        if path == "/technical_indicators":
            return json_response({"data": {}, "status": "ok"})
        if path == "/api_usage":
            return json_response({
                "timestamp": datetime_of(market.now_us).strftime("%Y-%m-%d %H:%M:%S"),
                "current_usage": request.credits_used,
                "plan_limit": request.credit_limit or _NO_LIMIT, "plan_category": self._plan,
            })  # fmt: skip
        if path == "/batch":
            bodies = {name: self._part(part, market) for name, part in _parts(request).items()}
            return json_response({"code": 200, "status": "success", "data": bodies})
        single, query = _SINGLE[path], request.query
        names = _symbols(query)
        if not names:
            raise ApiError(400, "**symbol** parameter is missing or invalid. Please provide a valid symbol.")
        if len(names) > MAX_BATCH:
            raise ApiError(414, f"The parameter is too long: at most {MAX_BATCH} symbols are allowed in one request.")
        if len(names) == 1:
            body = single(market, names[0], query)
            if query.get("format", "JSON").upper() == "CSV":
                return Response(200, _csv(body, query), "text/csv")
            return json_response(body)
        bodies = {}
        for name in names:
            try:
                bodies[name] = single(market, name, query)
            except ApiError as error:
                meta = {"symbol": query["symbol"], "interval": query.get("interval", ""), "exchange": ""}
                bodies[name] = {**error.body, "meta": meta}
        return json_response(bodies, headers={"Is_batch": "true"})

    def _part(self, request: Request, market: Market) -> Any:
        try:
            if _path(request) not in _SINGLE:
                raise ApiError(404, f"The requested resource {request.path} was not found.")
            return msgspec.json.decode(self._respond(request, market).body)
        except ApiError as error:
            return error.body


def _error_response(error: ApiError) -> Response:
    return json_response(error.body, error.code)


def _path(request: Request) -> str:
    return request.path.rstrip("/") or "/"


def _symbols(query: Mapping[str, str]) -> list[str]:
    names = (name.strip().upper() for name in query.get("symbol", "").split(","))
    return list(dict.fromkeys(name for name in names if name))


def _parts(request: Request) -> dict[str, Request]:
    """Parse the body of `POST /batch`; return the requests by name, {} if the body is malformed.

    The format is `{"req_1": {"url": "/price?symbol=AAPL"}}`.
    """
    try:
        given = msgspec.json.decode(request.body, type=dict[str, dict[str, str]])
    except msgspec.MsgspecError:
        return {}
    found = {}
    for name, item in given.items():
        parts = urlsplit(item.get("url", ""))
        found[name] = Request(parts.path, {**dict(parse_qsl(parts.query)), "format": "JSON"}, request.headers)
    return found


def _find(market: Market, name: str) -> Instrument:
    """Return the instrument of `SYMBOL` or `SYMBOL:EXCHANGE`; the exchange is ignored. Raises ApiError if unknown."""
    instrument = market.find(name.partition(":")[0])
    if instrument is None:
        raise ApiError(
            400, f"**symbol** not found: {name}. Please specify it correctly according to API Documentation."
        )
    return instrument


def _zone(query: Mapping[str, str], instrument: Instrument) -> dt.tzinfo:
    name = query.get("timezone", "Exchange")
    if name.lower() == "exchange":
        return NEW_YORK if instrument.kind == STOCK else dt.UTC
    zone = find_zone(name)
    if zone is None:
        raise ApiError(400, f"Invalid **timezone** provided: {name}. It is case-sensitive.")
    return zone


def _time_series(market: Market, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    instrument, now_us = _find(market, name), market.now_us
    symbol = instrument.symbol
    interval = query.get("interval", "")
    if interval not in INTERVALS:
        raise ApiError(400, f"Invalid **interval** provided: {interval}. Supported intervals: {', '.join(INTERVALS)}")
    length = INTERVALS[interval]
    adjustment = query.get("adjust", "splits").lower()
    if adjustment not in (FOR_ALL, FOR_SPLITS, FOR_DIVIDENDS, AS_TRADED):
        raise ApiError(
            400, f"Invalid **adjust** provided: {adjustment}. Supported values: all, splits, dividends, none"
        )
    zone = dt.UTC if length >= DAY_US else _zone(query, instrument)
    dated = "start_date" in query or "end_date" in query
    size = _integer(query, "outputsize", MAX_OUTPUT if dated else 30, 1, MAX_OUTPUT)
    digits = _integer(query, "dp", 5, 0, 11)
    spacing = _LOOKBACK_FACTOR if instrument.has_sessions and length < DAY_US else 2 if length == DAY_US else 1
    lookback_us = size * length * spacing + length
    end_us = min(_moment(query, "end_date", zone, now_us), now_us - 1) + 1
    start_us = max(_moment(query, "start_date", zone, end_us - lookback_us), end_us - lookback_us)
    if length == _MONTH_US:
        bars = market.month_bars(symbol, start_us, end_us, 1, adjustment)
    else:
        bars = market.bars(symbol, start_us, end_us, length, adjustment)
    count = len(bars.starts_us)
    if not count:
        raise ApiError(400, "No data is available on the specified dates. Try setting different start/end dates.")
    bars = bars.take(slice(max(0, count - size), None))
    values = _rows(bars, zone, daily=length >= DAY_US, digits=digits, volumes=instrument.kind != FOREX)
    if query.get("order", "desc").lower() != "asc":
        values.reverse()
    meta = meta_of(instrument)
    return {"meta": {"symbol": symbol, "interval": interval, **meta}, "values": values, "status": "ok"}


def _rows(bars: Bars, zone: dt.tzinfo, *, daily: bool, digits: int, volumes: bool) -> list[dict[str, str]]:
    """Return the bars in the vendor's format, oldest first. Every value is a string."""
    form = "%Y-%m-%d" if daily else "%Y-%m-%d %H:%M:%S"
    values = []
    columns = [column.tolist() for column in (bars.open, bars.high, bars.low, bars.close)]
    for start, volume, *prices in zip(bars.starts_us.tolist(), bars.volume.tolist(), *columns, strict=True):
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
        raise ApiError(400, f"Invalid **{name}** provided: {text}. Use 2006-01-02 or 2006-01-02T15:04:05.") from None
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _integer(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if not text:
        return default
    try:
        value = parse_int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ApiError(400, f"Invalid **{name}** provided: {text}. Supported values: {low} to {high}.")
    return value


def _price(market: Market, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    return {"price": f"{market.price(_find(market, name).symbol):.{_integer(query, 'dp', 5, 0, 11)}f}"}


def _quote(market: Market, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    instrument, now_us = _find(market, name), market.now_us
    symbol = instrument.symbol
    day = now_us // DAY_US * DAY_US
    bars = market.bars(symbol, day - 366 * DAY_US, day + DAY_US, DAY_US, FOR_SPLITS)
    if not len(bars.starts_us):
        raise ApiError(400, f"No data is available for {symbol}.")
    close = float(bars.close[-1])
    previous = float(bars.close[-2]) if len(bars.close) > 1 else close
    week = float(bars.close[-8]) if len(bars.close) > 7 else previous
    low, high = float(bars.low.min()), float(bars.high.max())
    meta = meta_of(instrument)
    is_open = not instrument.has_sessions or bool(market.in_session(symbol, np.array([now_us], np.int64))[0])
    numbers = {
        "open": float(bars.open[-1]), "high": float(bars.high[-1]), "low": float(bars.low[-1]), "close": close,
    }  # fmt: skip
    volumes = instrument.kind != FOREX
    return {
        "symbol": symbol, "name": instrument.name, "exchange": meta.get("exchange", ""),
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
    """Return the first and last day of the requested corporate actions, inclusive. The default is the whole history."""
    start = _moment(query, "start_date", dt.UTC, 0)
    return start, min(_moment(query, "end_date", dt.UTC, now_us), now_us)


def _action_meta(instrument: Instrument) -> dict[str, str]:
    meta = meta_of(instrument)
    return {"symbol": instrument.symbol, "name": instrument.name, **{k: meta[k] for k in meta if k != "type"}}


def _splits(market: Market, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    instrument = _find(market, name)
    start_us, end_us = _dates(query, market.now_us)
    found = [split for split in reversed(market.splits(instrument.symbol, start_us)) if split.us <= end_us]
    if _newest_only(query):
        found = found[:1]
    return {
        "meta": _action_meta(instrument),
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


def _dividends(market: Market, name: str, query: Mapping[str, str]) -> dict[str, Any]:
    instrument = _find(market, name)
    start_us, end_us = _dates(query, market.now_us)
    found = [paid for paid in reversed(market.dividends(instrument.symbol, start_us)) if paid.us <= end_us]
    if _newest_only(query):
        found = found[:1]
    rate = 1.0
    values = []
    for paid in found:
        if query.get("adjust", "true").lower() != "false":  # the vendor converts amounts to today's shares
            rate = float(split_factors(market.splits(instrument.symbol), np.array([paid.us], np.int64))[0])
        values.append({"ex_date": datetime_of(paid.us).strftime("%Y-%m-%d"), "amount": round(paid.amount * rate, 6)})
    return {"meta": _action_meta(instrument), "dividends": values}


def _newest_only(query: Mapping[str, str]) -> bool:
    return not ("start_date" in query or "end_date" in query) and query.get("range", "last").lower() == "last"


_SINGLE: Final = {
    "/time_series": _time_series, "/price": _price, "/quote": _quote, "/splits": _splits, "/dividends": _dividends,
}  # fmt: skip


def _csv(body: Mapping[str, Any], query: Mapping[str, str]) -> bytes:
    """Return the values of a body, or the flat body itself, in the vendor's CSV format: semicolons, no quotes."""
    values = body.get("values") or [{name: value for name, value in body.items() if not isinstance(value, dict)}]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(values[0]), delimiter=query.get("delimiter", ";"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(values)
    return text.getvalue().encode()
