"""Any indicator over stored bars, computed when asked."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

import pyarrow as pa
from fastapi import APIRouter, Path, Request, Response

from tickerplant.api.http import formats, params
from tickerplant.api.http.auth import KEY_PARAMETER
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.params import DEFAULT_LIMIT
from tickerplant.api.on_demand import Indicators, ReadBars
from tickerplant.api.resample import BASE
from tickerplant.api.routers.market import (
    EXAMPLE,
    REFUSALS,
    End,
    Format,
    Limit,
    Start,
    Step,
    Symbol,
    Times,
    Zone,
    coarser,
    require,
    respond,
)
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import Reading
from tickerplant.core.adjustment import Adjustment, adjustment_for
from tickerplant.core.bar_request import BarRequest
from tickerplant.core.errors import BadInput, UnknownIndicator
from tickerplant.core.interval import D1, H1, M1, M5, M15, M30, W1, Interval

router = APIRouter(prefix="/v1", tags=["indicators"])

INTERVALS: Final = (M1, M5, M15, M30, H1, D1, W1)
OWN: Final = ("interval", "start", "end", "limit", "tz", "format", "times", KEY_PARAMETER)
"""The parameters of the request itself; all others are the indicator's."""
COMPUTE: Final = "/v1/indicators/{name}/{symbol:path}"
_READ: Final = ("time", "open", "high", "low", "close", "volume", "vwap", "state")

_Name = Annotated[
    str,
    Path(
        description="An indicator of `/v1/indicators`, in any case. `TA_` before it means TA-Lib's function where both "
        "have the name.",
        examples=["RSI"],
    ),
]
_FREE: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "parameters",
            "in": "query",
            "required": False,
            "description": "The indicator's own parameters by their names, each a query parameter: `period=14`, "
            "`fastperiod=12&slowperiod=26`, `matype=ema`. Case, underscores and the words `time` and `period` do not "
            "matter: `time_period=14`. `series_type=open` reads another column than the close, `dialect=tradingview` "
            "chooses a dialect. Those left out have their defaults.",
            "style": "form",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "example": {"period": "14"},
        }
    ]
}
_VALUES: Final[dict[int | str, dict[str, Any]]] = EXAMPLE | {
    200: {
        "description": "Values in ascending order of time, and the log position that the bars were read at.",
        "headers": EXAMPLE[200]["headers"],
        "content": {
            "application/json": {
                "example": {
                    "symbol": "AAPL",
                    "interval": "1d",
                    "tz": "UTC",
                    "indicator": "RSI(14)",
                    "computed_from": "2016-03-09",
                    "limited": False,
                    "warmup_remaining": {},
                    "position": {"log_id": "3f0c", "generation": 1, "offsets": {"market.prices.ohlcv": {"0": 344}}},
                    "count": 1,
                    "next": None,
                    "values": [{"time": "2026-03-09", "state": "final", "rsi_14": 61.2}],
                }
            },
            "text/csv": {"example": "time,state,rsi_14\n2026-03-09,final,61.2\n"},
        },
    },
    400: {"description": "A parameter cannot be understood; the message says which there are."},
    404: {"description": "There is no such indicator, or the symbol is not known."},
    503: {"description": "The database is out of reach, or too many requests wait to be computed; try again."},
}
_LIST: Final[dict[int | str, dict[str, Any]]] = REFUSALS | {
    200: {
        "description": "The declared indicators, then the functions of TA-Lib.",
        "content": {
            "application/json": {
                "example": {
                    "count": 1,
                    "indicators": [
                        {
                            "name": "RSI", "kind": "declared", "title": "Relative strength index: …",
                            "parameters": [
                                {"name": "period", "default": 14, "least": 2, "most": 1000, "whole": True}
                            ],
                            "inputs": ["close"], "columns": ["rsi_14"], "warmup": 15, "recursive": True,
                            "dialects": ["talib"], "source": "TA-Lib RSI",
                        }
                    ],
                }
            }
        },
    }
}  # fmt: skip


@router.get("/indicators", responses=_LIST, summary="All indicators that can be computed")
async def listing(request: Request) -> Response:
    """Every declared indicator, and every function of TA-Lib: parameters, defaults, bounds, inputs, columns, warm-up.

    `columns` and `warmup` are those of the defaults: `warmup` is the bar, counted from 1, that has the first value.
    `recursive` ones count from the first stored bar, the others look back only so far. Bounds are null for TA-Lib's.
    """
    found = await asyncio.to_thread(_indicators(request).listing)
    return _json({"count": len(found), "indicators": found})


@router.get(
    "/indicators/{name}",
    responses=REFUSALS | {404: _VALUES[404]},
    summary="One indicator: parameters, columns, warm-up",
)
async def one(request: Request, name: _Name) -> Response:
    """One entry of `/v1/indicators`."""
    try:
        return _json(await asyncio.to_thread(_indicators(request).describe, name))
    except UnknownIndicator as error:
        raise _unknown(error) from None


@router.get("/indicators/{name}/{symbol:path}", responses=_VALUES, summary="Any indicator over stored bars",
            openapi_extra=_FREE)  # fmt: skip
async def compute(
    request: Request, name: _Name, symbol: Symbol, interval: Step = "1d", start: Start = None, end: End = None,
    limit: Limit = DEFAULT_LIMIT, tz: Zone = "UTC", format: Format = "json", times: Times = "iso",
) -> Response:  # fmt: skip
    """Values of any indicator on stored bars of any interval, the forming bar as if it closed now.

    The bars that decide the first value asked for are read too: those of its window, or for a recursive indicator all
    from the first stored one on, up to 200,000. `computed_from` says from where, and `limited` that there were more;
    `warmup_remaining` how many bars more there must be where the last row has no value yet.
    """
    state: ApiState = request.app.state.api
    known = _indicators(request)
    asked, zone = params.parse_symbol(symbol), params.parse_zone(tz)
    step = params.parse_interval(interval, INTERVALS, "/v1/indicators", activity=True)
    sessions = not step.is_intraday
    span = params.parse_span(start, end, limit, zone, sessions=sessions)
    given = _parameters(request)
    try:
        chosen = await asyncio.to_thread(known.choose, name, given)
    except UnknownIndicator as error:
        raise _unknown(error) from None
    calendar = await asyncio.to_thread(state.calendars.of, asked)
    async with state.turns.take():
        async with state.source.read() as reading:
            splits, now_us = await reading.splits(asked), time.time_ns() // 1000
            adjustment = None
            if step in BASE:  # adjusted before they are built: a week across a split is wrong afterwards
                adjustment, splits = adjustment_for(splits, calendar, now_us), splits.slice(0, 0)
            bars = _bars(reading, asked, step, adjustment)
            wanted = BarRequest(asked, step, span.start_us, span.end_us, span.limit + 1, splits, now_us)
            stretch = await known.gather(bars, chosen, wanted)
            if stretch.computed_from_us is None:
                await require(reading, asked)
            position = reading.position
        table = await asyncio.to_thread(known.values, stretch, chosen)
    first = stretch.computed_from_us
    beyond = int(span.start_us is not None and table.num_rows > span.limit)  # the row that tells that there is more
    head = {"symbol": asked, "interval": step.name, "tz": tz, "indicator": str(chosen)}
    extra = {
        "computed_from": None if first is None else formats.exact_time(first, zone, times, sessions=sessions),
        "limited": stretch.limited,
        "warmup_remaining": known.remaining(stretch, chosen, beyond),
    }
    return await respond(
        table, span, head, "values", position, zone, format, times, sessions=sessions, extra=extra
    )  # fmt: skip


def _bars(reading: Reading, symbol: str, step: Interval, adjustment: Adjustment | None) -> ReadBars:
    """Return how the bars are read: as traded where they are stored, adjusted where they are built."""

    async def read(first: int | None, last: int | None, count: int) -> pa.Table:
        if step in BASE:
            return await coarser(reading, symbol, step, first, last, count, adjustment)
        return await reading.bars(symbol, step, first, last, count, _READ)

    return read


def _parameters(request: Request) -> dict[str, str]:
    """Return the indicator's own parameters. Raises BadInput for one that is said twice."""
    found: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key in OWN:
            continue
        if key in found:
            raise BadInput(f"the parameter `{key[:64]}` is given twice")
        found[key] = value.strip()
    return found


def _indicators(request: Request) -> Indicators:
    state: ApiState = request.app.state.api
    if state.indicators is None:
        raise ApiError(
            404, "no_indicators", "this server computes no indicators", "see /v1/analytics for stored values"
        )
    return state.indicators


def _unknown(error: UnknownIndicator) -> ApiError:
    return ApiError(404, "unknown_indicator", str(error), "see /v1/indicators for all that there are")


def _json(body: Any) -> Response:
    return Response(formats.encode(body), media_type="application/json")
