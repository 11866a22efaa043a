"""Yahoo's chart API, with the cookie and the crumb that its clients fetch first. Pure.

Prices are float32 and always adjusted for splits. Bars of a day and longer have an `adjclose`, adjusted for dividends
too. The row of the current day is the day so far. Its stamp is the current time, or the session's close after the
session. A forming intraday bar is followed by a row with the last price.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from tickerplant.core.times import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    WEEK_US,
    Float64Array,
    Int64Array,
    datetime_of,
    micros_of,
)
from tickerplant.protocols.adjustment import dividend_factors, split_factors
from tickerplant.protocols.http_types import (
    DOWN,
    PREMIUM,
    Refusal,
    Request,
    Response,
    find_zone,
    json_response,
    text_response,
)
from tickerplant.protocols.market import CRYPTO, FOR_SPLITS, FOREX, NEW_YORK, STOCK, Bars, Instrument, Market
from tickerplant.protocols.yahoo.symbols import name_of, symbol_of

CHART: Final = "/v8/finance/chart/"
INTRADAY: Final = {
    "1m": MINUTE_US, "2m": 2 * MINUTE_US, "5m": 5 * MINUTE_US, "15m": 15 * MINUTE_US, "30m": 30 * MINUTE_US,
    "60m": HOUR_US, "1h": HOUR_US, "90m": 90 * MINUTE_US,
}  # fmt: skip
LONG: Final = ("1d", "1wk", "1mo", "3mo")
RANGES: Final = ("1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max")
_LOOKBACK_DAYS: Final = {"1m": 30, "1h": 730, "60m": 730}
_MAX_1M_RANGE_DAYS: Final = 8
_FIRST_US: Final = micros_of(dt.datetime(2006, 1, 2, tzinfo=dt.UTC))
_EXTENDED_HOURS: Final = (4, 20)
_TYPES: Final = {STOCK: ("EQUITY", "NMS"), FOREX: ("CURRENCY", "CCY"), CRYPTO: ("CRYPTOCURRENCY", "CCC")}
_SERIES: Final = "/ws/fundamentals-timeseries/v1/finance/timeseries/"
_PREFIXES: Final = (CHART, "/v1/test/getcrumb", "/v10/finance/", "/v7/finance/", "/consent", "/v2/collectConsent",
                   "/copyConsent", "/v1/finance/", "/ws/")  # fmt: skip


class _ApiError(Exception):
    def __init__(self, status: int, code: str, description: str) -> None:
        super().__init__(description)
        self.response = json_response(
            {"chart": {"result": None, "error": {"code": code, "description": description}}}, status
        )


class Yahoo:
    """The `RestProtocol` of Yahoo. Requests are counted per IP address. `cookie` and `crumb`: the values to issue."""

    name = "yahoo"

    def __init__(self, cookie: str = "", crumb: str = "") -> None:
        self._cookie = cookie
        self._crumb = crumb

    def matches(self, request: Request) -> bool:
        """Return True if the request's path belongs to this API; `/` issues the cookie."""
        return request.path == "/" or request.path.startswith(_PREFIXES)

    def api_key(self, request: Request) -> None:
        """Return None: the API has no keys."""

    def cost(self, request: Request) -> int:
        """Return 1 credit for a chart, 0 for every other path."""
        return int(request.path.startswith(CHART))

    def key_error(self) -> Response:
        """Return the response to an invalid crumb. Charts do not check the crumb."""
        body = {"code": "Unauthorized", "description": "Invalid Crumb"}
        return json_response({"finance": {"result": None, "error": body}}, 401)

    def refuse(self, refusal: Refusal, request: Request) -> Response:
        """Return a plain text 429 for every quota, 401 for PREMIUM, and the refusal's status for DOWN."""
        if refusal.kind == DOWN:
            return text_response("Will be right back...", refusal.status)
        if refusal.kind == PREMIUM:
            body = {"code": "Unauthorized", "description": "User is not subscribed to the requested feature"}
            return json_response({"finance": {"result": None, "error": body}}, 401)
        return text_response("Too Many Requests\r\n", 429)

    def quota_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return no headers: the vendor reports no quota."""
        return {}

    def respond(self, request: Request, market: Market) -> Response:
        """Return the API's response, which may be an error response."""
        path = request.path
        if path == "/":
            expires = datetime_of(market.now_us + 365 * DAY_US).strftime("%a, %d %b %Y %H:%M:%S GMT")
            cookie = {"Set-Cookie": f"{self._cookie}; Expires={expires}; Path=/; Max-Age=31557600"}
            return Response(404, b"", "text/html", cookie)
        if path == "/v1/test/getcrumb":
            return text_response(self._crumb)
        if path.startswith(_SERIES):
            meta = {"symbol": [path.removeprefix(_SERIES)], "type": []}
            return json_response({"timeseries": {"result": [{"meta": meta}], "error": None}})
        if not path.startswith(CHART):
            error = {"code": "Not Found", "description": f"No fundamentals data found for {path}"}
            return json_response({"finance": {"result": None, "error": error}}, 404)
        try:
            return json_response({"chart": {"result": [_chart(path, request.query, market)], "error": None}})
        except _ApiError as error:
            return error.response


def _zone(instrument: Instrument) -> tuple[str, dt.tzinfo]:
    if instrument.kind == STOCK:
        return "America/New_York", NEW_YORK
    name = "Europe/London" if instrument.kind == FOREX else "UTC"
    return name, find_zone(name) or dt.UTC


def _chart(path: str, query: Mapping[str, str], market: Market) -> dict[str, Any]:
    instrument = market.find(symbol_of(path.removeprefix(CHART)))
    if instrument is None:
        raise _ApiError(404, "Not Found", "No data found, symbol may be delisted")
    interval = query.get("interval", "1d")
    if interval not in INTRADAY and interval not in LONG:
        valid = ", ".join([*INTRADAY, *LONG])
        text = f"Invalid input - interval={interval} is not supported. Valid intervals: [{valid}]"
        raise _ApiError(400, "Bad Request", text)
    symbol, now_us = instrument.symbol, market.now_us
    start_us, end_us = _range(query, market, instrument)
    intraday = interval in INTRADAY
    if intraday:
        _check_lookback(interval, start_us, end_us, now_us)
        bars = market.bars(symbol, start_us, min(end_us, now_us), INTRADAY[interval], FOR_SPLITS)
    else:
        bars = _long_bars(market, instrument, interval, start_us, min(end_us, now_us))
    if not intraday and not len(bars.starts_us):
        text = f"Data doesn't exist for startDate = {start_us // SECOND_US}, endDate = {end_us // SECOND_US}"
        raise _ApiError(400, "Bad Request", text)
    extended = query.get("includePrePost", "false").lower() == "true"
    meta = _meta(market, instrument, interval, query)
    if intraday:
        meta["tradingPeriods"] = _periods(market, instrument, bars, extended=extended)
    result: dict[str, Any] = {"meta": meta, "indicators": {"quote": [{}]}}
    if len(bars.starts_us):
        result |= _columns(market, instrument, interval, bars)
    events = _events(query.get("events", ""), market, instrument, start_us, min(end_us, now_us))
    return result | ({"events": events} if events else {})


def _range(query: Mapping[str, str], market: Market, instrument: Instrument) -> tuple[int, int]:
    """Return start and end (µs) of the request: `period1` to `period2` in epoch seconds, or a `range` that ends now."""
    now_us = market.now_us
    if "period1" in query:
        try:
            first, end = float(query["period1"]), float(query.get("period2", now_us / SECOND_US))
        except ValueError:
            raise _ApiError(400, "Bad Request", "Invalid input - period1 and period2 are seconds") from None
        if first >= end:
            text = "Invalid input - start date cannot be after end date. startDate = %d, endDate = %d"
            raise _ApiError(400, "Bad Request", text % (first, end))
        return max(_FIRST_US, int(first * SECOND_US)), int(end * SECOND_US)
    name = query.get("range", "1d").lower()
    today = datetime_of(now_us).astimezone(_zone(instrument)[1]).replace(hour=0, minute=0, second=0, microsecond=0)
    found = re.fullmatch(r"([0-9]{1,9})(d|wk|mo|y)", name)
    if name == "max":
        return _FIRST_US, now_us + 1
    if name == "ytd":
        return micros_of(today.replace(month=1, day=1)), now_us + 1
    if found is None:
        valid = ", ".join(RANGES)
        raise _ApiError(422, "Unprocessable Entity", f"Invalid input - range={name} is not supported. [{valid}]")
    count, unit = int(found[1]), found[2]
    if unit == "d":
        while count > 1 or not _has_session(market, instrument, today):
            count -= _has_session(market, instrument, today)
            today = (today - dt.timedelta(days=1)).replace(hour=0)
        return micros_of(today), now_us + 1
    days = {"wk": 7, "mo": 30.4375, "y": 365.25}[unit] * count
    return max(_FIRST_US, micros_of(today) - int(days) * DAY_US), now_us + 1


def _has_session(market: Market, instrument: Instrument, day: dt.datetime) -> bool:
    """Return True if a session of the instrument has begun on a local date.

    A stock without sessions has a daily bar from the open of the exchange on. A pair without sessions has
    a daily bar on every date.
    """
    if instrument.kind != STOCK and not instrument.has_sessions:
        return True
    opens, _ = market.session_of(instrument.symbol, micros_of(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)))
    if opens >= market.now_us:
        return False
    return not instrument.has_sessions or bool(market.in_session(instrument.symbol, np.array([opens], np.int64))[0])


def _check_lookback(interval: str, start_us: int, end_us: int, now_us: int) -> None:
    requested = f"startTime={start_us // SECOND_US} and endTime={end_us // SECOND_US}"
    days = _LOOKBACK_DAYS.get(interval, 60)
    # One minute of tolerance: a client that requests the longest range computes it before the request arrives.
    if interval == "1m" and end_us - start_us > _MAX_1M_RANGE_DAYS * DAY_US + MINUTE_US:
        text = f"1m data not available for {requested}. Only 8 days worth of 1m granularity data are allowed to be " \
               "fetched per request."  # fmt: skip
        raise _ApiError(422, "Unprocessable Entity", text)
    if now_us - start_us > days * DAY_US + MINUTE_US:
        text = f"{interval} data not available for {requested}. " \
               f"The requested range must be within the last {days} days."  # fmt: skip
        raise _ApiError(422, "Unprocessable Entity", text)


def _long_bars(market: Market, instrument: Instrument, interval: str, start_us: int, end_us: int) -> Bars:
    """Return bars of a day, week, month or three months. A day is included if its session starts in the range."""
    symbol = instrument.symbol
    if interval.endswith("mo"):
        return market.month_bars(symbol, start_us, end_us, 3 if interval == "3mo" else 1, FOR_SPLITS)
    if interval == "1wk":
        monday_us = start_us - (start_us - 4 * DAY_US) % WEEK_US
        return market.bars(symbol, monday_us, end_us, WEEK_US, FOR_SPLITS)
    days = market.bars(symbol, start_us // DAY_US * DAY_US, end_us, DAY_US, FOR_SPLITS)
    stamps = [_day_stamp(market, instrument, us) for us in days.starts_us.tolist()]
    return days.take(np.array([start_us <= stamp < end_us for stamp in stamps], np.bool_))


def _day_stamp(market: Market, instrument: Instrument, day_us: int) -> int:
    """Return the time stamp of a day: a stock's open; for other kinds, midnight in the instrument's zone."""
    if instrument.kind == STOCK:
        return market.session_of(instrument.symbol, day_us)[0]
    return micros_of(datetime_of(day_us).replace(tzinfo=_zone(instrument)[1]))


def _columns(market: Market, instrument: Instrument, interval: str, bars: Bars) -> dict[str, Any]:
    """Return the fields `timestamp` and `indicators` of a chart."""
    now_us = market.now_us
    prices = [bars.open, bars.high, bars.low, bars.close]
    volume: list[int | None] = [0] * len(bars.volume) if instrument.kind == FOREX else bars.volume.tolist()
    if interval in INTRADAY:
        length = INTRADAY[interval]
        stamps, columns, volume = _with_nulls(market, instrument, bars.starts_us, prices, volume, length)
        if bars.starts_us[-1] + length > now_us:
            live = float(np.float32(bars.close[-1]))
            last = now_us // SECOND_US
            if last != stamps[-1]:
                stamps.append(last)
                volume.append(0)
                for column in columns:
                    column.append(live)
        adjusted = {}
    else:
        columns = [_float32(column) for column in prices]
        stamps = [_day_stamp(market, instrument, us) // SECOND_US for us in bars.starts_us.tolist()]
        if interval == "1d" and bars.starts_us[-1] + DAY_US > now_us:
            stamps[-1] = max(stamps[-1], min(now_us, _closes(market, instrument, int(bars.starts_us[-1]))) // SECOND_US)
        adjusted = {"adjclose": [{"adjclose": _float32(bars.close * _dividend_factors(market, instrument, bars))}]}
    quote = dict(zip(("open", "high", "low", "close"), columns, strict=True))
    return {"timestamp": stamps, "indicators": {"quote": [{**quote, "volume": volume}], **adjusted}}


def _dividend_factors(market: Market, instrument: Instrument, bars: Bars) -> Float64Array:
    """Return the factor that adjusts each bar for the dividends after its start: float64[bars]."""
    symbol = instrument.symbol

    def close_before(ex_date_us: int) -> float | None:
        days = market.bars(symbol, ex_date_us - 5 * DAY_US, ex_date_us, DAY_US)
        return float(days.close[-1]) if len(days.close) else None

    dividends = market.dividends(symbol, int(bars.starts_us[0]) + 1) if len(bars.starts_us) else ()
    return dividend_factors(dividends, close_before, bars.starts_us)


def _closes(market: Market, instrument: Instrument, day_us: int) -> int:
    return market.session_of(instrument.symbol, day_us)[1] if instrument.has_sessions else day_us + DAY_US


def _float32(prices: Float64Array) -> list[float | None]:
    found: list[float | None] = prices.astype(np.float32).astype(np.float64).tolist()
    return found


def _with_nulls(
    market: Market,
    instrument: Instrument,
    starts_us: Int64Array,
    prices: list[Float64Array],
    volume: list[int | None],
    length_us: int,
) -> tuple[list[int], list[list[float | None]], list[int | None]]:
    """Return stamps, price columns and volumes, with a row of nulls for each trading interval without a trade.

    Bars longer than 30 minutes of an instrument with sessions have no such rows.
    """
    grid = np.arange(starts_us[0], starts_us[-1] + 1, length_us)
    if instrument.has_sessions:
        grid = grid[market.in_session(instrument.symbol, grid)] if length_us <= 30 * MINUTE_US else starts_us
    at = {us: row for row, us in enumerate(grid.tolist())}
    rows = [at[us] for us in starts_us.tolist() if us in at]
    if len(rows) != len(starts_us) or len(grid) == len(starts_us):
        return (starts_us // SECOND_US).tolist(), [_float32(column) for column in prices], volume
    columns: list[list[float | None]] = []
    for column in prices:
        filled: list[float | None] = [None] * len(grid)
        for row, value in zip(rows, _float32(column), strict=True):
            filled[row] = value
        columns.append(filled)
    traded: list[int | None] = [None] * len(grid)
    for row, count in zip(rows, volume, strict=True):
        traded[row] = count
    return (grid // SECOND_US).tolist(), columns, traded


def _period(start_us: int, end_us: int, zone: dt.tzinfo) -> dict[str, Any]:
    local = datetime_of(start_us).astimezone(zone)
    offset = local.utcoffset() or dt.timedelta()
    return {
        "timezone": local.tzname(), "start": start_us // SECOND_US, "end": end_us // SECOND_US,
        "gmtoffset": int(offset.total_seconds()),
    }  # fmt: skip


def _day_periods(market: Market, instrument: Instrument, day: dt.date) -> tuple[dict[str, Any], ...]:
    """Return the pre-market, regular and post-market period of a local date.

    The regular period of an instrument without sessions is the whole day.
    """
    zone = _zone(instrument)[1]
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=zone)
    if instrument.has_sessions:
        opens, closes = market.session_of(instrument.symbol, micros_of(midnight.replace(tzinfo=dt.UTC)))
        begin, end = (micros_of(midnight.replace(hour=hour)) for hour in _EXTENDED_HOURS)
    else:
        begin = opens = micros_of(midnight)
        end = closes = micros_of(midnight + dt.timedelta(days=1))
    return _period(begin, opens, zone), _period(opens, closes, zone), _period(closes, end, zone)


def _periods(market: Market, instrument: Instrument, bars: Bars, *, extended: bool) -> Any:
    """Return the trading periods of the dates that have bars, in the shape that `includePrePost` selects."""
    zone = _zone(instrument)[1]
    days = sorted(
        {datetime_of(us).astimezone(zone).date() for us in np.unique(bars.starts_us // HOUR_US * HOUR_US).tolist()}
    )
    found = [_day_periods(market, instrument, day) for day in days]
    if not extended:
        return [[regular] for _, regular, _ in found]
    return {name: [[period[at]] for period in found] for at, name in ((0, "pre"), (2, "post"), (1, "regular"))}


def _meta(market: Market, instrument: Instrument, interval: str, query: Mapping[str, str]) -> dict[str, Any]:
    now_us = market.now_us
    zone_name, zone = _zone(instrument)
    kind, exchange = _TYPES[instrument.kind]
    pre, regular, post = _day_periods(market, instrument, datetime_of(now_us).astimezone(zone).date())
    price = float(np.float32(market.price(instrument.symbol)))
    return {
        "currency": "USD", "symbol": name_of(instrument), "exchangeName": exchange, "fullExchangeName": exchange,
        "instrumentType": kind, "firstTradeDate": _FIRST_US // SECOND_US, "regularMarketTime": now_us // SECOND_US,
        "hasPrePostMarketData": instrument.has_sessions, "gmtoffset": regular["gmtoffset"],
        "timezone": regular["timezone"], "exchangeTimezoneName": zone_name, "regularMarketPrice": price,
        "chartPreviousClose": price, "priceHint": 4 if kind == "CURRENCY" else 2,
        "longName": instrument.name, "shortName": instrument.symbol,
        "currentTradingPeriod": {"pre": pre, "regular": regular, "post": post},
        "dataGranularity": interval, "range": "" if "period1" in query else query.get("range", "1d"),
        "validRanges": list(RANGES),
    }  # fmt: skip


def _events(names: str, market: Market, instrument: Instrument, start_us: int, end_us: int) -> dict[str, Any]:
    """Return the range's dividends (per today's share) and splits; {} if there are none.

    `names` must contain `div` for dividends, `split` or `splits` for splits.
    """
    events: dict[str, Any] = {}
    wanted, symbol, first_us = names.split(","), instrument.symbol, start_us // DAY_US * DAY_US
    if "div" in wanted:
        dividends = {}
        for paid in market.dividends(symbol, first_us):
            stamp = _day_stamp(market, instrument, paid.us)
            if start_us <= stamp < end_us:
                rate = float(split_factors(market.splits(symbol), np.array([paid.us], np.int64))[0])
                dividends[str(stamp // SECOND_US)] = {
                    "amount": round(paid.amount * rate, 6), "date": stamp // SECOND_US,
                }  # fmt: skip
        if dividends:
            events["dividends"] = dividends
    if "split" in wanted or "splits" in wanted:
        splits = {}
        for split in market.splits(symbol, first_us):
            stamp = _day_stamp(market, instrument, split.us)
            if start_us <= stamp < end_us:
                splits[str(stamp // SECOND_US)] = {
                    "date": stamp // SECOND_US, "numerator": float(split.numerator),
                    "denominator": float(split.denominator), "splitRatio": f"{split.numerator}:{split.denominator}",
                }  # fmt: skip
        if splits:
            events["splits"] = splits
    return events
