"""Yahoo's chart API as the sandbox answers it, with the cookie and crumb that its users fetch first. Pure.

Prices are rounded to float32, as Yahoo's are, and always adjusted for splits; days have an `adjclose` that takes the
dividends into account too. While the market is open the last row is live: of a day it is the day so far, stamped with
the time of the last price; of an intraday interval it comes after the bar that is forming.
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
from tickerplant.protocols.http_types import DOWN, PREMIUM, Refusal, Reply, Request, json_reply, text_reply, zone_of
from tickerplant.sandbox.corporate_actions import NEW_YORK, SPLITS, Tape, session_of
from tickerplant.sandbox.model import Bars

CHART: Final = "/v8/finance/chart/"
CRUMB: Final = "sandbox.crumb"
INTRADAY: Final = {
    "1m": MINUTE_US, "2m": 2 * MINUTE_US, "5m": 5 * MINUTE_US, "15m": 15 * MINUTE_US, "30m": 30 * MINUTE_US,
    "60m": HOUR_US, "1h": HOUR_US, "90m": 90 * MINUTE_US,
}  # fmt: skip
LONG: Final = ("1d", "1wk", "1mo", "3mo")
RANGES: Final = ("1d", "5d", "1mo", "3mo", "6mo", "1y", "2y", "5y", "10y", "ytd", "max")
_LOOKBACK_DAYS: Final = {"1m": 30, "1h": 730, "60m": 730}
_MINUTES_AT_ONCE_DAYS: Final = 8
_FIRST_US: Final = micros_of(dt.datetime(2006, 1, 2, tzinfo=dt.UTC))
_EXTENDED_HOURS: Final = (4, 20)
_SERIES: Final = "/ws/fundamentals-timeseries/v1/finance/timeseries/"
_FOLDERS: Final = (CHART, "/v1/test/getcrumb", "/v10/finance/", "/v7/finance/", "/consent", "/v2/collectConsent",
                   "/copyConsent", "/v1/finance/", "/ws/")  # fmt: skip


class _Refused(Exception):
    def __init__(self, status: int, code: str, description: str) -> None:
        super().__init__(description)
        self.reply = json_reply(
            {"chart": {"result": None, "error": {"code": code, "description": description}}}, status
        )


class Yahoo:
    """The vendor. It has no keys: quotas are the address's."""

    name = "yahoo"

    def speaks(self, request: Request) -> bool:
        """Whether the request is to this vendor: `/` is where the cookie comes from."""
        return request.path == "/" or request.path.startswith(_FOLDERS)

    def key(self, request: Request) -> str:
        """Return "": the vendor knows no keys."""
        return ""

    def cost(self, request: Request) -> int:
        """Return 1 for a chart; what comes before it is free."""
        return int(request.path.startswith(CHART))

    def bad_key(self, request: Request) -> Reply | None:
        """Return None."""
        return None

    def refuse(self, refusal: Refusal, request: Request) -> Reply:
        """Return a 429 of plain text, whichever quota it is; the vendor says no more."""
        if refusal.kind == DOWN:
            return text_reply("Will be right back...", refusal.status)
        if refusal.kind == PREMIUM:
            body = {"code": "Unauthorized", "description": "User is not subscribed to the requested feature"}
            return json_reply({"finance": {"result": None, "error": body}}, 401)
        return text_reply("Too Many Requests\r\n", 429)

    def credit_headers(self, used: int, limit: int) -> Mapping[str, str]:
        """Return nothing: the vendor tells no quota."""
        return {}

    def answer(self, request: Request, tape: Tape, now_us: int) -> Reply:
        """Return the answer. Errors are answers too."""
        path = request.path
        if path == "/":
            expires = datetime_of(now_us + 365 * DAY_US).strftime("%a, %d %b %Y %H:%M:%S GMT")
            cookie = {"Set-Cookie": f"A3=d=sandbox; Expires={expires}; Path=/; Max-Age=31557600"}
            return Reply(404, b"", "text/html", cookie)
        if path == "/v1/test/getcrumb":
            return text_reply(CRUMB)
        if path.startswith(_SERIES):
            meta = {"symbol": [path.removeprefix(_SERIES)], "type": []}
            return json_reply({"timeseries": {"result": [{"meta": meta}], "error": None}})
        if not path.startswith(CHART):
            error = {"code": "Not Found", "description": f"No fundamentals data found for {path}"}
            return json_reply({"finance": {"result": None, "error": error}}, 404)
        try:
            return json_reply({"chart": {"result": [_chart(path, request.query, tape, now_us)], "error": None}})
        except _Refused as refused:
            return refused.reply


def symbol_of(tape: Tape, name: str) -> str | None:
    """Return the sandbox's symbol of Yahoo's name: `EURUSD=X` is EUR/USD, `BTC-USD` BTC/USD; None if there is none."""
    name = name.upper()
    if name.endswith("=X") and len(name) == 8:
        name = f"{name[:3]}/{name[3:6]}"
    elif "-" in name:
        name = name.replace("-", "/")
    return name if tape.knows(name) else None


def name_of(tape: Tape, symbol: str) -> str:
    """Return Yahoo's name of a symbol."""
    base, slash, quote = symbol.partition("/")
    if not slash:
        return symbol
    return f"{base}{quote}=X" if tape.market.forex[tape.market.code[symbol]] else f"{base}-{quote}"


def _zone(tape: Tape, symbol: str) -> tuple[str, dt.tzinfo]:
    code = tape.market.code[symbol]
    if tape.market.stock[code]:
        return "America/New_York", NEW_YORK
    name = "Europe/London" if tape.market.forex[code] else "UTC"
    return name, zone_of(name) or dt.UTC


def _chart(path: str, query: Mapping[str, str], tape: Tape, now_us: int) -> dict[str, Any]:
    symbol = symbol_of(tape, path.removeprefix(CHART))
    if symbol is None:
        raise _Refused(404, "Not Found", "No data found, symbol may be delisted")
    interval = query.get("interval", "1d")
    if interval not in INTRADAY and interval not in LONG:
        valid = ", ".join([*INTRADAY, *LONG])
        text = f"Invalid input - interval={interval} is not supported. Valid intervals: [{valid}]"
        raise _Refused(400, "Bad Request", text)
    zone_name, zone = _zone(tape, symbol)
    from_us_, end_us = _stretch(query, tape, symbol, zone, now_us)
    intraday = interval in INTRADAY
    if intraday:
        _check_lookback(interval, from_us_, end_us, now_us)
        bars = tape.bars(symbol, from_us_, min(end_us, now_us), INTRADAY[interval], now_us, adjust=SPLITS)
    else:
        bars = _long_bars(tape, symbol, interval, from_us_, min(end_us, now_us), now_us)
    if not intraday and not len(bars.starts_us):
        text = f"Data doesn't exist for startDate = {from_us_ // SECOND_US}, endDate = {end_us // SECOND_US}"
        raise _Refused(400, "Bad Request", text)
    extended = query.get("includePrePost", "false").lower() == "true"
    meta = _meta(tape, symbol, interval, query, zone_name, zone, now_us)
    if intraday:
        meta["tradingPeriods"] = _periods(tape, symbol, bars, zone, extended=extended)
    result: dict[str, Any] = {"meta": meta, "indicators": {"quote": [{}]}}
    if len(bars.starts_us):
        result |= _columns(tape, symbol, interval, bars, zone, now_us)
    events = _events(query.get("events", ""), tape, symbol, from_us_, min(end_us, now_us), now_us)
    return result | ({"events": events} if events else {})


def _stretch(query: Mapping[str, str], tape: Tape, symbol: str, zone: dt.tzinfo, now_us: int) -> tuple[int, int]:
    """Return from when to when is asked for: epoch seconds, or a range that ends now."""
    if "period1" in query:
        try:
            first, end = float(query["period1"]), float(query.get("period2", now_us / SECOND_US))
        except ValueError:
            raise _Refused(400, "Bad Request", "Invalid input - period1 and period2 are seconds") from None
        if first >= end:
            text = "Invalid input - start date cannot be after end date. startDate = %d, endDate = %d"
            raise _Refused(400, "Bad Request", text % (first, end))
        return max(_FIRST_US, int(first * SECOND_US)), int(end * SECOND_US)
    name = query.get("range", "1d").lower()
    today = datetime_of(now_us).astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    found = re.fullmatch(r"(\d+)(d|wk|mo|y)", name)
    if name == "max":
        return _FIRST_US, now_us + 1
    if name == "ytd":
        return micros_of(today.replace(month=1, day=1)), now_us + 1
    if found is None:
        valid = ", ".join(RANGES)
        raise _Refused(422, "Unprocessable Entity", f"Invalid input - range={name} is not supported. [{valid}]")
    count, unit = int(found[1]), found[2]
    if unit == "d":
        while count > 1 or not _trades(tape, symbol, today, now_us):
            count -= _trades(tape, symbol, today, now_us)
            today = (today - dt.timedelta(days=1)).replace(hour=0)
        return micros_of(today), now_us + 1
    days = {"wk": 7, "mo": 30.4375, "y": 365.25}[unit] * count
    return max(_FIRST_US, micros_of(today) - int(days) * DAY_US), now_us + 1


def _trades(tape: Tape, symbol: str, day: dt.datetime, now_us: int) -> bool:
    if not tape.gaps(symbol):
        return True
    opens, _ = session_of(micros_of(dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)))
    return opens < now_us and bool(tape.market.is_open(np.array([opens], np.int64))[0])


def _check_lookback(interval: str, from_us_: int, end_us: int, now_us: int) -> None:
    stretch = f"startTime={from_us_ // SECOND_US} and endTime={end_us // SECOND_US}"
    days = _LOOKBACK_DAYS.get(interval, 60)
    # A minute's grace: who asks for all there is counts from a moment ago.
    if interval == "1m" and end_us - from_us_ > _MINUTES_AT_ONCE_DAYS * DAY_US + MINUTE_US:
        text = f"1m data not available for {stretch}. Only 8 days worth of 1m granularity data are allowed to be " \
               "fetched per request."  # fmt: skip
        raise _Refused(422, "Unprocessable Entity", text)
    if now_us - from_us_ > days * DAY_US + MINUTE_US:
        text = f"{interval} data not available for {stretch}. The requested range must be within the last {days} days."
        raise _Refused(422, "Unprocessable Entity", text)


def _long_bars(tape: Tape, symbol: str, interval: str, from_us_: int, end_us: int, now_us: int) -> Bars:
    """Return days, weeks or months; a day belongs to the stretch that its session's beginning lies in."""
    if interval.endswith("mo"):
        return tape.months(symbol, from_us_, end_us, 3 if interval == "3mo" else 1, now_us, adjust=SPLITS)
    if interval == "1wk":
        monday_us = from_us_ - (from_us_ - 4 * DAY_US) % WEEK_US
        return tape.bars(symbol, monday_us, end_us, WEEK_US, now_us, adjust=SPLITS)
    days = tape.bars(symbol, from_us_ // DAY_US * DAY_US, end_us, DAY_US, now_us, adjust=SPLITS)
    keep = np.array([from_us_ <= _day_stamp(tape, symbol, us) < end_us for us in days.starts_us.tolist()], np.bool_)
    return Bars(
        days.starts_us[keep], days.open[keep], days.high[keep], days.low[keep], days.close[keep], days.volume[keep]
    )


def _day_stamp(tape: Tape, symbol: str, day_us: int) -> int:
    """Return when Yahoo says that a day began: a stock's at the session, others at midnight of their zone."""
    if tape.market.stock[tape.market.code[symbol]]:
        return session_of(day_us)[0]
    return micros_of(datetime_of(day_us).replace(tzinfo=_zone(tape, symbol)[1]))


def _columns(tape: Tape, symbol: str, interval: str, bars: Bars, zone: dt.tzinfo, now_us: int) -> dict[str, Any]:
    """Return `timestamp` and `indicators`."""
    forex = bool(tape.market.forex[tape.market.code[symbol]])
    prices = [bars.open, bars.high, bars.low, bars.close]
    volume: list[int | None] = [0] * len(bars.volume) if forex else bars.volume.tolist()
    if interval in INTRADAY:
        length = INTRADAY[interval]
        stamps, columns, volume = _with_nulls(tape, symbol, bars.starts_us, prices, volume, length)
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
        stamps = [_day_stamp(tape, symbol, us) // SECOND_US for us in bars.starts_us.tolist()]
        if interval == "1d" and bars.starts_us[-1] + DAY_US > now_us:
            stamps[-1] = max(stamps[-1], min(now_us, _closes(tape, symbol, int(bars.starts_us[-1]))) // SECOND_US)
        factor = tape.dividend_factor(symbol, bars.starts_us, now_us)
        adjusted = {"adjclose": [{"adjclose": _float32(bars.close * factor)}]}
    quote = dict(zip(("open", "high", "low", "close"), columns, strict=True))
    return {"timestamp": stamps, "indicators": {"quote": [{**quote, "volume": volume}], **adjusted}}


def _closes(tape: Tape, symbol: str, day_us: int) -> int:
    return session_of(day_us)[1] if tape.gaps(symbol) else day_us + DAY_US


def _float32(prices: Float64Array) -> list[float | None]:
    found: list[float | None] = prices.astype(np.float32).astype(np.float64).tolist()
    return found


def _with_nulls(
    tape: Tape, symbol: str, starts_us: Int64Array, prices: list[Float64Array], volume: list[int | None], length_us: int
) -> tuple[list[int], list[list[float | None]], list[int | None]]:
    """Return a row for every interval of the session, those without a trade full of nulls."""
    grid = np.arange(starts_us[0], starts_us[-1] + 1, length_us)
    if tape.gaps(symbol):
        grid = grid[tape.market.is_open(grid)] if length_us <= 30 * MINUTE_US else starts_us
    at = {us: row for row, us in enumerate(grid.tolist())}
    rows = [at[us] for us in starts_us.tolist() if us in at]
    if len(rows) != len(starts_us) or len(grid) == len(starts_us):
        return (starts_us // SECOND_US).tolist(), [_float32(column) for column in prices], volume
    columns: list[list[float | None]] = []
    for column in prices:
        spread: list[float | None] = [None] * len(grid)
        for row, value in zip(rows, _float32(column), strict=True):
            spread[row] = value
        columns.append(spread)
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


def _day_periods(tape: Tape, symbol: str, day: dt.date, zone: dt.tzinfo) -> tuple[dict[str, Any], ...]:
    """Return pre, regular and post of a local date. Of what trades round the clock the regular one is all of it."""
    midnight = dt.datetime(day.year, day.month, day.day, tzinfo=zone)
    if tape.gaps(symbol):
        opens, closes = session_of(micros_of(midnight.replace(tzinfo=dt.UTC)))
        begin, end = (micros_of(midnight.replace(hour=hour)) for hour in _EXTENDED_HOURS)
    else:
        begin = opens = micros_of(midnight)
        end = closes = micros_of(midnight + dt.timedelta(days=1))
    return _period(begin, opens, zone), _period(opens, closes, zone), _period(closes, end, zone)


def _periods(tape: Tape, symbol: str, bars: Bars, zone: dt.tzinfo, *, extended: bool) -> Any:
    days = sorted(
        {datetime_of(us).astimezone(zone).date() for us in np.unique(bars.starts_us // HOUR_US * HOUR_US).tolist()}
    )
    found = [_day_periods(tape, symbol, day, zone) for day in days]
    if not extended:
        return [[regular] for _, regular, _ in found]
    return {name: [[period[at]] for period in found] for at, name in ((0, "pre"), (2, "post"), (1, "regular"))}


def _meta(
    tape: Tape, symbol: str, interval: str, query: Mapping[str, str], zone_name: str, zone: dt.tzinfo, now_us: int
) -> dict[str, Any]:
    code = tape.market.code[symbol]
    kind = "EQUITY" if tape.market.stock[code] else "CURRENCY" if tape.market.forex[code] else "CRYPTOCURRENCY"
    today = datetime_of(now_us).astimezone(zone).date()
    pre, regular, post = _day_periods(tape, symbol, today, zone)
    exchange = {"EQUITY": "NMS", "CURRENCY": "CCY", "CRYPTOCURRENCY": "CCC"}[kind]
    price = float(np.float32(tape.price(symbol, now_us)))
    return {
        "currency": "USD", "symbol": name_of(tape, symbol), "exchangeName": exchange, "fullExchangeName": exchange,
        "instrumentType": kind, "firstTradeDate": _FIRST_US // SECOND_US, "regularMarketTime": now_us // SECOND_US,
        "hasPrePostMarketData": tape.gaps(symbol), "gmtoffset": regular["gmtoffset"],
        "timezone": regular["timezone"], "exchangeTimezoneName": zone_name, "regularMarketPrice": price,
        "chartPreviousClose": price, "priceHint": 4 if kind == "CURRENCY" else 2,
        "longName": f"{symbol} of the sandbox", "shortName": symbol,
        "currentTradingPeriod": {"pre": pre, "regular": regular, "post": post},
        "dataGranularity": interval, "range": "" if "period1" in query else query.get("range", "1d"),
        "validRanges": list(RANGES),
    }  # fmt: skip


def _events(asked: str, tape: Tape, symbol: str, from_us_: int, end_us: int, now_us: int) -> dict[str, Any]:
    events: dict[str, Any] = {}
    names = asked.split(",")
    if "div" in names:
        found = {}
        for paid in tape.dividends(symbol, from_us_ // DAY_US * DAY_US, now_us):
            stamp = _day_stamp(tape, symbol, paid.us)
            if from_us_ <= stamp < end_us:
                rate = float(tape.split_factor(symbol, np.array([paid.us], np.int64), now_us)[0])
                found[str(stamp // SECOND_US)] = {"amount": round(paid.amount * rate, 6), "date": stamp // SECOND_US}
        if found:
            events["dividends"] = found
    if "split" in names or "splits" in names:
        split_found = {}
        for split in tape.splits(symbol, from_us_ // DAY_US * DAY_US, now_us):
            stamp = _day_stamp(tape, symbol, split.us)
            if from_us_ <= stamp < end_us:
                split_found[str(stamp // SECOND_US)] = {
                    "date": stamp // SECOND_US, "numerator": float(split.numerator),
                    "denominator": float(split.denominator), "splitRatio": f"{split.numerator}:{split.denominator}",
                }  # fmt: skip
        if split_found:
            events["splits"] = split_found
    return events
