"""Market data: ticks, bars, indicator values and the newest state of a symbol."""

from __future__ import annotations

import asyncio
import datetime as dt
import difflib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Path, Query, Request, Response

from tickerplant.api.http import formats, params
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.params import DEFAULT_LIMIT, MAX_LIMIT, Span
from tickerplant.api.positions import HEADER, Position
from tickerplant.api.resample import BASE, ratio, resample
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import Reading, without
from tickerplant.api.websockets.rows import NOT_LAST
from tickerplant.core import schemas
from tickerplant.core.adjustment import AS_TRADED, Adjustment
from tickerplant.core.interval import D1, H1, M1, M5, M15, M30, W1, Interval
from tickerplant.core.times import times_of

MAX_BASE_ROWS: Final = 200_000
"""The most stored rows that coarser bars are built from in one answer."""
LAST_AMONG: Final = 100
"""How many of the newest ticks are looked through for the last one that may set a price."""
THREAD_ROWS: Final = 5_000
"""Above this an answer is encoded in a thread, so that the stream goes on meanwhile."""

Symbol = Annotated[
    str, Path(description="The symbol, upper or lower case; `EUR/USD` with its slash.", examples=["AAPL"])
]
Start = Annotated[
    str | None,
    Query(
        description="First instant, inclusive: ISO 8601, a date, or seconds, milliseconds or microseconds since 1970. "
        "Without an offset it is in `tz`. Without `start` the newest `limit` rows come.",
        examples=["2026-03-09T09:30:00"],
    ),
]
End = Annotated[str | None, Query(description="First instant that is not wanted any more.", examples=["2026-03-10"])]
Limit = Annotated[int, Query(description=f"At most this many rows, up to {MAX_LIMIT:,}; `next` says how to go on.")]
Skip = Annotated[
    int, Query(description="Ticks of the page's first instant that the page before had; `next` says how many.")
]
Zone = Annotated[
    str, Query(description="IANA zone of the times given and taken. Daily and weekly bars have dates.",
               examples=["America/New_York"]),
]  # fmt: skip
Format = Annotated[Literal["json", "csv"], Query(description="JSON, or CSV with a header line.")]
Times = Annotated[
    Literal["iso", "s", "ms", "us"], Query(description="Times as ISO 8601 with offset, or as numbers since 1970 UTC.")
]
Adjust = Annotated[
    Literal["none", "splits", "all"],
    Query(description="What bars are adjusted for: `none` as traded, `splits`, or `all`: splits and dividends."),
]
Step = Annotated[str, Query(description="The interval of the bars.", examples=["5m", "100t"])]

router = APIRouter(prefix="/v1", tags=["market data"])

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"description": "A parameter cannot be understood; the message says what to send instead."},
    401: {"description": "The plant wants a key, and this is none of its."},
    503: {"description": "The database or the log is out of reach; try again."},
}
"""What every path under `/v1` may answer instead."""
EXAMPLE: Final[dict[int | str, dict[str, Any]]] = REFUSALS | {
    200: {
        "description": "Rows in ascending order of time, and the log position that they were read at.",
        "headers": {HEADER: {"description": "The position, as JSON.", "schema": {"type": "string"}}},
        "content": {
            "application/json": {
                "example": {
                    "symbol": "AAPL",
                    "interval": "5m",
                    "tz": "America/New_York",
                    "adjust": "none",
                    "position": {
                        "log_id": "3f0c",
                        "generation": 1,
                        "offsets": {"market.prices.raw": {"0": 812}, "market.prices.ohlcv": {"0": 344}},
                    },
                    "count": 1,
                    "next": None,
                    "bars": [
                        {
                            "time": "2026-03-09T09:30:00-04:00", "open": 257.1, "high": 257.9, "low": 256.8,
                            "close": 257.4, "volume": 1204511.0, "vwap": 257.35, "trades": 9123, "state": "final",
                            "complete": True, "revision": 0, "version": 1099511628588, "source": "sandbox",
                        }
                    ],
                }
            },
            "text/csv": {"example": "time,open,high,low,close\n2026-03-09T09:30:00-04:00,257.1,257.9,256.8,257.4\n"},
        },
    },
    404: {"description": "The symbol is not known."},
}  # fmt: skip

_TICK: Final = {
    "time": "2026-03-09T09:30:00.118000-04:00", "price": 257.4, "size": 100.0, "source": "sandbox", "trade_id": None,
    "flags": 0,
}  # fmt: skip
_STATE: Final = {
    "symbol": "AAPL",
    "tz": "America/New_York",
    "position": {"log_id": "3f0c", "generation": 1, "offsets": {"market.prices.raw": {"0": 812}}},
}
_STATE_EXAMPLE: Final[dict[int | str, dict[str, Any]]] = EXAMPLE | {
    200: {
        "description": "The state, or ticks in ascending order of time, and the log position that they were read at.",
        "headers": EXAMPLE[200]["headers"],
        "content": {
            "application/json": {
                "examples": {
                    "state": {
                        "summary": "without `start`, `end` and `limit`",
                        "value": _STATE
                        | {"tick": _TICK, "bars": {"1m": None, "5m": None, "1d": None}, "analytics": []},
                    },
                    "ticks": {
                        "summary": "with one of them",
                        "value": _STATE | {"count": 1, "next": None, "ticks": [_TICK]},
                    },
                }
            },
            "text/csv": {"example": f"{','.join(_TICK)}\n2026-03-09T09:30:00.118000-04:00,257.4,100,sandbox,,0\n"},
        },
    },
}


@router.get("/historical/{symbol:path}", responses=EXAMPLE, summary="Daily and weekly bars")
async def historical(
    request: Request, symbol: Symbol, interval: Step = "1d", start: Start = None, end: End = None,
    limit: Limit = DEFAULT_LIMIT, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
    adjust: Adjust = "none",
) -> Response:  # fmt: skip
    """Daily bars of trading sessions (`1d`), or weeks of them (`1w`). `time` is the session's date, in any zone."""
    step = params.parse_interval(interval, (D1, W1), "/v1/historical")
    return await _bars(request, symbol, step, start, end, limit, tz, format, times, adjust)


@router.get("/intraday/{symbol:path}", responses=EXAMPLE, summary="Bars within the day")
async def intraday(
    request: Request, symbol: Symbol, interval: Step = "1m", start: Start = None, end: End = None,
    limit: Limit = DEFAULT_LIMIT, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
    adjust: Adjust = "none",
) -> Response:  # fmt: skip
    """Bars of `1m` and `5m` as stored; `15m`, `30m` and `1h` are built from 5m ones when read. `time` is the start.

    Bars by activity (`100t` trades, `10000v` volume, `1000000d` turnover) are there as stored where the setting
    `rules.activity_bars` makes them; their `time` is the instant of their first trade.
    """
    step = params.parse_interval(interval, (M1, M5, M15, M30, H1), "/v1/intraday", activity=True)
    return await _bars(request, symbol, step, start, end, limit, tz, format, times, adjust)


@router.get("/ticks/{symbol:path}", responses=EXAMPLE, summary="Ticks")
async def ticks(
    request: Request, symbol: Symbol, start: Start = None, end: End = None, limit: Limit = DEFAULT_LIMIT,
    skip: Skip = 0, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """Every print as the feed sent it, cancels and corrections included (`flags`).

    Those of one instant come in the order in which they came in; where a page ends amid them, `next` has a `skip`.
    """
    return await _ticks(request, symbol, start, end, limit, skip, tz, format, times)


@router.get("/analytics/{symbol:path}", responses=EXAMPLE, summary="Indicator values")
async def analytics(
    request: Request, symbol: Symbol, interval: Step = "1d",
    indicators: Annotated[
        str | None, Query(description="Columns to return, comma-separated; a name such as `rsi` takes `rsi_14` too.")
    ] = None,
    start: Start = None, end: End = None,
    limit: Limit = DEFAULT_LIMIT, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """Values of the indicators on stored bars; `time` is the bar's. Null until an indicator is warm.

    `warmup_remaining` has the columns that are null in the last row here and will not be: how many bars more each
    needs. `/v1/indicators` computes indicators that the plant does not keep.
    """
    name, zone = params.parse_symbol(symbol), params.parse_zone(tz)
    step = params.parse_interval(interval, (M1, M5, D1), "/v1/analytics", activity=True)
    span = params.parse_span(start, end, limit, zone, sessions=not step.is_intraday)
    wanted = params.parse_names(indicators)

    async def read(reading: Reading, first: int | None, last: int | None, count: int) -> pa.Table:
        return _indicators(await reading.values(name, step, first, last, count), wanted)

    async def note(reading: Reading, table: pa.Table) -> dict[str, Any]:
        return {"warmup_remaining": await _warmup_remaining(request.app.state.api, reading, name, step, table)}

    head = {"symbol": name, "interval": step.name, "tz": tz}
    return await _answer(
        request, name, head, "values", span, read, zone, format, times, sessions=not step.is_intraday, note=note
    )


@router.get("/realtime/{symbol:path}", responses=_STATE_EXAMPLE, summary="The newest state of a symbol, or its ticks")
async def realtime(
    request: Request, symbol: Symbol, start: Start = None, end: End = None,
    limit: Annotated[
        int | None,
        Query(description=f"Ticks instead of the state, at most this many, up to {MAX_LIMIT:,}; with `start` or `end` "
              f"alone {DEFAULT_LIMIT:,}. `next` says how to go on."),
    ] = None,
    skip: Skip = 0, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """The last tick that may set a price, the newest bar of each interval, and values on forming bars.

    All of one instant of the log. The store has forming bars at most a second old; `/v1/stream` has them at once. As
    CSV it is the last tick alone, one line. With any of `start`, `end` and `limit` the answer is ticks instead, as from
    `/v1/ticks`: the newest ones without `start`, in ascending order of time.
    """
    if start or end or limit is not None or skip:
        most = DEFAULT_LIMIT if limit is None else limit
        return await _ticks(request, symbol, start, end, most, skip, tz, format, times)
    state: ApiState = request.app.state.api
    name, zone = params.parse_symbol(symbol), params.parse_zone(tz)
    async with state.source.read() as reading:
        newest_ticks = await reading.ticks(name, None, None, LAST_AMONG)
        bars = {step: await reading.bars(name, step, None, None, 1) for step in (M1, M5, D1)}
        values = await reading.forming_values(name)
        if not newest_ticks.num_rows and not any(table.num_rows for table in bars.values()):
            await require(reading, name)
        position = reading.position
    tick = _last(newest_ticks)
    if format == "csv":
        return csv_response(formats.to_csv(formats.for_users(_columns(tick), zone, times)), f"{name}-tick", position)

    def newest(table: pa.Table, *, sessions: bool = False) -> Any:
        rows = formats.to_rows(formats.for_users(_columns(table), zone, times, sessions=sessions))
        return next(iter(rows), None)

    body = {
        "symbol": name,
        "tz": tz,
        "position": position,
        "tick": newest(tick),
        "bars": {step.name: newest(table, sessions=not step.is_intraday) for step, table in bars.items()},
        "analytics": formats.to_rows(formats.for_users(without(values, ("symbol",)), zone, times)),
    }
    return Response(formats.encode(body), media_type="application/json", headers={HEADER: position.json()})


def csv_response(
    body: bytes, name: str, position: Position, following: dict[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Response:  # fmt: skip
    """Return CSV that a browser would save as `name`; what the body of JSON says beside the rows is in headers."""
    headers = {HEADER: position.json(), "Content-Disposition": f'inline; filename="{name.replace("/", "-")}.csv"'}
    for key, value in {"next": following, **(extra or {})}.items():
        if value is not None and value != {}:
            headers[f"X-{key.replace('_', '-').title()}"] = formats.encode(value).decode()
    return Response(body, media_type="text/csv; charset=utf-8", headers=headers)


async def _ticks(
    request: Request, symbol: str, start: str | None, end: str | None,
    limit: int, skip: int, tz: str, format: str, times: str,
) -> Response:  # fmt: skip
    name, zone = params.parse_symbol(symbol), params.parse_zone(tz)
    span = params.parse_span(start, end, limit, zone, skip=skip)

    async def read(reading: Reading, first: int | None, last: int | None, count: int) -> pa.Table:
        return await reading.ticks(name, first, last, count)

    head = {"symbol": name, "tz": tz}
    return await _answer(request, name, head, "ticks", span, read, zone, format, times, ties=True)


async def _bars(
    request: Request, symbol: str, step: Interval, start: str | None, end: str | None,
    limit: int, tz: str, format: str, times: str, adjust: str,
) -> Response:  # fmt: skip
    name, zone = params.parse_symbol(symbol), params.parse_zone(tz)
    sessions = not step.is_intraday
    span = params.parse_span(start, end, limit, zone, sessions=sessions)
    state: ApiState = request.app.state.api
    # An exchange's schedule takes a while to make when it is first asked for: not on the loop that streams.
    calendar = None if adjust == AS_TRADED else await asyncio.to_thread(state.calendars.of, name)

    async def read(reading: Reading, first: int | None, last: int | None, count: int) -> pa.Table:
        made = Adjustment()
        if calendar is not None:
            made = await reading.adjustment(name, adjust, calendar, time.time_ns() // 1000)
        if step in BASE:
            return await coarser(reading, name, step, first, last, count, made)
        return made.bars(await reading.bars(name, step, first, last, count), daily=sessions)

    async def note(reading: Reading, table: pa.Table) -> dict[str, Any]:
        return {"adjust": adjust}

    head = {"symbol": name, "interval": step.name, "tz": tz}
    return await _answer(request, name, head, "bars", span, read, zone, format, times, sessions=sessions, note=note)


async def coarser(
    reading: Reading, name: str, step: Interval, start_us: int | None, end_us: int | None, count: int,
    adjustment: Adjustment | None = None,
) -> pa.Table:  # fmt: skip
    """Return up to `count` bars built from stored ones; a bucket that was read in part is left out.

    With an adjustment the stored ones are adjusted first, so that a bar across a split is right too.
    """
    base = BASE[step]
    if start_us is not None:
        start_us = step.floor(start_us)
    if end_us is not None:
        end_us = step.end(step.floor(end_us - 1))
    rows = min((count + 1) * ratio(step), MAX_BASE_ROWS)
    table = await reading.bars(name, base, start_us, end_us, rows)
    if adjustment is not None:
        table = adjustment.bars(table, daily=not base.is_intraday)
    made = resample(table, step)
    if table.num_rows >= rows and made.num_rows > 1:
        made = made.slice(1) if start_us is None else made.slice(0, made.num_rows - 1)
    return made.slice(max(0, made.num_rows - count)) if start_us is None else made.slice(0, count)


async def _answer(
    request: Request, symbol: str, head: dict[str, Any], key: str, span: Span,
    read: Callable[[Reading, int | None, int | None, int], Awaitable[pa.Table]],
    zone: dt.tzinfo, style: str, times: str, *, sessions: bool = False, ties: bool = False,
    note: Callable[[Reading, pa.Table], Awaitable[dict[str, Any]]] | None = None,
) -> Response:  # fmt: skip
    """Read one row more than asked, to know whether there is more, and return the page.

    `note` reads, in the same look at the store, what is said beside the rows.
    """
    state: ApiState = request.app.state.api
    async with state.source.read() as reading:
        table = await read(reading, span.start_us, span.end_us, span.skip + span.limit + 1)
        if not table.num_rows:
            await require(reading, symbol)
        extra = {} if note is None else await note(reading, _page(table, span, ties=ties)[0])
        position = reading.position
    return await respond(
        table, span, head, key, position, zone, style, times, sessions=sessions, ties=ties, extra=extra
    )


async def respond(
    table: pa.Table, span: Span, head: dict[str, Any], key: str, position: Position,
    zone: dt.tzinfo, style: str, times: str, *, sessions: bool = False, ties: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Response:  # fmt: skip
    """Return the page of a table that has a row more than asked where there is more.

    `head` says what the rows are of; `extra` is said beside them, in CSV by headers: `X-Computed-From`.
    """
    extra = extra or {}
    table, following = _page(table, span, ties=ties)
    if following is not None:
        side = "start" if span.start_us is not None else "end"
        following[side] = formats.exact_time(following[side], zone, times, sessions=sessions)

    def encode() -> bytes:
        plain = formats.for_users(_columns(table), zone, times, sessions=sessions)
        if style == "csv":
            return formats.to_csv(plain)
        whole = {**head, **extra, "position": position, "count": plain.num_rows, "next": following}
        return formats.to_json(whole, key, plain)

    body = await asyncio.to_thread(encode) if table.num_rows > THREAD_ROWS else encode()
    if style == "csv":
        return csv_response(body, f"{head['symbol']}-{key}", position, following, extra)
    return Response(body, media_type="application/json", headers={HEADER: position.json()})


def _page(table: pa.Table, span: Span, *, ties: bool) -> tuple[pa.Table, dict[str, Any] | None]:
    """Return the page and what to ask with for the one after it (times in µs); None when there is no more.

    With `ties` several rows may have one time. Where the page ends amid them, the next one begins at that time and
    skips those that this one had: at the side of `start` the first ones, else the last ones.
    """
    rows = table.num_rows - span.skip
    if rows <= span.limit:
        return table.slice(0 if span.start_us is None else span.skip, max(0, rows)), None
    instants = times_of(table.column("time"))
    if span.start_us is not None:
        cut = span.skip + span.limit
        following = {"start": int(instants[cut])}
        if ties:
            following["skip"] = int((instants[:cut] == instants[cut]).sum())
        return table.slice(span.skip, span.limit), following
    cut = rows - span.limit
    following = {"end": int(instants[cut])}
    if ties:
        had = following["skip"] = int((instants[cut:] == instants[cut - 1]).sum())
        following["end"] += 1 if had else 0
    return table.slice(cut, span.limit), following


def _last(ticks: pa.Table) -> pa.Table:
    """Return the last tick that may set a price, as the stream's snapshot does; no row when none may."""
    rows = np.flatnonzero((ticks.column("flags").to_numpy() & NOT_LAST) == 0)
    return ticks.slice(int(rows[-1]), 1) if len(rows) else ticks.slice(0, 0)


def _columns(table: pa.Table) -> pa.Table:
    """Leave out what the answer's head says already, and what is of use inside the plant alone."""
    return without(table, ("symbol", "interval", "history", "published_at", "received_at"))


def _indicators(table: pa.Table, wanted: list[str] | None) -> pa.Table:
    if wanted is None:
        return table
    keys = [field.name for field in schemas.ANALYTICS_KEY]
    outputs = [name for name in table.schema.names if name not in keys]
    asked = {each.lower() for each in wanted}
    kept = [name for name in outputs if name.lower() in asked or any(name.lower().startswith(f"{a}_") for a in asked)]
    if not kept and table.num_rows:
        raise ApiError(
            400, "unknown_indicator", f"no column fits {', '.join(wanted)}", f"there are {', '.join(outputs) or 'none'}"
        )
    return table.select([name for name in table.schema.names if name in keys or name in kept])


async def _warmup_remaining(
    state: ApiState, reading: Reading, symbol: str, step: Interval, table: pa.Table
) -> dict[str, int]:
    """Return how many bars more each column needs that the stream computes and that is null in the last row.

    Counts the stored bars up to that row, no more of them than the longest warm-up. A column that is null though there
    are enough came into the set lately: the next bar has it.
    """
    if state.indicators is None or not table.num_rows:
        return {}
    warmups = state.indicators.warmups(step)
    last = table.slice(table.num_rows - 1)
    cold = {name: warmups[name] for name in table.schema.names if name in warmups and last.column(name).null_count}
    if not cold:
        return {}
    until = int(times_of(last.column("time"))[0]) + 1
    bars = await reading.bars(symbol, step, None, until, max(cold.values()), ("time", "close", "state"))
    counted = bars.num_rows - bars.column("close").null_count
    return {name: max(1, needed - counted) for name, needed in cold.items()}


async def require(reading: Reading, symbol: str) -> None:
    """Raise a 404 for a symbol that the store has never seen; one without rows in the span is no error."""
    known = (await reading.symbols()).column("symbol").to_pylist()
    if symbol not in known:
        raise unknown(symbol, known)


def unknown(symbol: str, known: list[str]) -> ApiError:
    """Return the 404 for a symbol that is none of the known ones, naming the nearest."""
    near = difflib.get_close_matches(symbol, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see /v1/symbols for all that are known"
    return ApiError(404, "unknown_symbol", f"{symbol} has never been seen", hint)
