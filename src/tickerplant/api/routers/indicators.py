"""`/v1/indicators`: the list of indicators, and indicators computed over stored bars on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import pyarrow as pa
from fastapi import APIRouter, Depends, Path, Request, Response

from tickerplant.api.bars import CoarseBars
from tickerplant.api.blocking import in_thread
from tickerplant.api.http import params
from tickerplant.api.http.auth import KEY_PARAMETER
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import EXAMPLE, REFUSALS, Interval, Symbol
from tickerplant.api.http.queries import RowQuery
from tickerplant.api.http.responses import json_response, page_response, require_symbol
from tickerplant.api.on_demand import IndicatorCalculator, ReadBars
from tickerplant.api.resample import BASE
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import ReadTransaction
from tickerplant.core import interval as intervals
from tickerplant.core.adjustment import adjustment_for
from tickerplant.core.bar_request import BarRequest
from tickerplant.core.errors import BadInput, UnknownIndicator
from tickerplant.core.interval import D1, H1, M1, M5, M15, M30, W1
from tickerplant.core.sessions import AlwaysOpen, Calendar

T = TypeVar("T")

router = APIRouter(prefix="/v1", tags=["indicators"], route_class=LaneRoute)

INTERVALS: Final = (M1, M5, M15, M30, H1, D1, W1)
OWN: Final = ("interval", "start", "end", "limit", "tz", "format", "times", KEY_PARAMETER)
"""Parameters of the request itself. All other parameters belong to the indicator."""
COMPUTE: Final = "/v1/indicators/{name}/{symbol:path}"
_BAR_COLUMNS: Final = ("time", "open", "high", "low", "close", "volume", "vwap", "state")

_Name = Annotated[
    str,
    Path(
        description="Name of an indicator in `/v1/indicators`, in upper or lower case. The prefix `TA_` selects the "
        "function of TA-Lib if a declared indicator has the same name.",
        examples=["RSI"],
        json_schema_extra={"pattern": "^[A-Za-z][A-Za-z0-9_]*$"},
    ),
]
_FREE: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "parameters",
            "in": "query",
            "required": False,
            "description": "The indicator's parameters, each as a query parameter: `period=14`, "
            "`fastperiod=12&slowperiod=26`, `matype=ema`. Case, underscores and the words `time` and `period` are "
            "ignored: `time_period=14`. `series_type=open` computes from the open, not from the close. "
            "`dialect=tradingview` selects a dialect. A missing parameter has its default.",
            "style": "form",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "example": {"period": "14"},
        }
    ]
}
_VALUES: Final[dict[int | str, dict[str, Any]]] = EXAMPLE | {
    200: {
        "description": "Values in ascending order of time, and the log position at which the bars were read.",
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
    400: {"description": "A parameter is invalid. The message explains what to send instead."},
    404: {"description": "Unknown indicator or symbol. The error contains similar names, or the path of the list."},
    503: {"description": "The database is unavailable, or too many requests are waiting. Try again."},
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


@router.get("/indicators", responses=_LIST, summary="List of indicators")
async def listing(request: Request) -> Response:
    """Return every declared indicator and TA-Lib function: parameters, defaults, bounds, inputs, columns, warm-up.

    `columns` and `warmup` are for the default parameters. `warmup` is the ordinal of the first bar with a value,
    counted from 1. A `recursive` indicator depends on all bars since the first stored bar; other indicators depend on a
    window. The bounds of TA-Lib functions are null.
    """
    found = await _compute(request, _calculator(request).listing)
    return json_response({"count": len(found), "indicators": found})


@router.get(
    "/indicators/{name}",
    responses=REFUSALS | {404: _VALUES[404]},
    summary="One indicator: parameters, columns, warm-up",
)
async def one(request: Request, name: _Name) -> Response:
    """Return the entry of one indicator in `/v1/indicators`."""
    try:
        calculator = _calculator(request)
        return json_response(await _compute(request, lambda: calculator.describe(name)))
    except UnknownIndicator as error:
        raise _unknown(error) from None


@router.get("/indicators/{name}/{symbol:path}", responses=_VALUES, summary="Compute an indicator over stored bars",
            openapi_extra=_FREE)  # fmt: skip
async def compute(
    request: Request, name: _Name, symbol: Symbol, query: Annotated[RowQuery, Depends()], interval: Interval = "1d"
) -> Response:
    """Return values of any indicator over stored bars of any interval. A forming bar is treated as if it closed now.

    The computation also reads earlier bars: those of the indicator's window, or for a recursive indicator all stored
    bars, up to 200,000. `computed_from` is the time of the first bar that was read. `limited` is true if older bars
    that influence the values may exist but were not read. `warmup_remaining` contains the columns without a value in
    the last row, with the number of bars that each still needs.
    """
    state: ApiState = request.app.state.api
    calculator = _calculator(request)
    step = params.parse_interval(interval, INTERVALS, "/v1/indicators", activity=True)
    page = query.page(symbol, step)
    given = _own_parameters(request)
    try:
        chosen = await _compute(request, lambda: calculator.choose(name, given))
    except UnknownIndicator as error:
        raise _unknown(error) from None
    calendar: Calendar = await state.calendar_of(page.symbol) if step in BASE else AlwaysOpen()
    market_us = await state.market_now() if step in BASE else 0
    requested = page.range
    async with state.store.read() as transaction:
        splits, now_us = await transaction.splits(page.symbol), time.time_ns() // 1000
        coarse = None
        if step in BASE:  # stored bars are adjusted first: a week built across a split would be wrong
            adjustment, splits = adjustment_for(splits, calendar, now_us), splits.slice(0, 0)
            coarse = CoarseBars(page.symbol, step, calendar, market_us, adjustment)
        read_bars = _bar_reader(transaction, page.symbol, step, coarse)
        bar_request = BarRequest(
            page.symbol, step, requested.start_us, requested.end_us, requested.limit + 1, splits, now_us
        )
        bars = await calculator.gather(read_bars, chosen, bar_request)
        if bars.computed_from_us is None:
            await require_symbol(transaction, page.symbol)
        position = transaction.position
    table = await _compute(request, lambda: calculator.values(bars, chosen))
    first_us = bars.computed_from_us
    beyond = int(requested.start_us is not None and table.num_rows > requested.limit)  # the row that shows a next page
    extra = {
        "computed_from": None if first_us is None else page.time(first_us),
        "limited": bars.limited,
        "warmup_remaining": calculator.remaining(bars, chosen, beyond),
    }
    head = page.head() | {"indicator": str(chosen)}
    return page_response(table, page, head, "values", position, extra)


def _bar_reader(
    transaction: ReadTransaction, symbol: str, step: intervals.Interval, coarse: CoarseBars | None
) -> ReadBars:
    """Return a reader of bars. Stored intervals are read as traded; built intervals are built from adjusted bars."""

    async def read(start_us: int | None, end_us: int | None, count: int) -> pa.Table:
        if coarse is not None:
            return await coarse.read(transaction, start_us, end_us, count)
        return await transaction.bars(symbol, step, start_us, end_us, count, _BAR_COLUMNS)

    return read


def _own_parameters(request: Request) -> dict[str, str]:
    """Return the indicator's parameters by name. Raises BadInput for a parameter that is given twice."""
    found: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key in OWN:
            continue
        if key in found:
            raise BadInput(f"the parameter `{key[:64]}` is given twice; send it once")
        found[key] = value.strip()
    return found


async def _compute(request: Request, call: Callable[[], T]) -> T:
    """Return the result of a long computation, run in a thread."""
    state: ApiState = request.app.state.api
    return await in_thread(state.pools.compute, call)


def _calculator(request: Request) -> IndicatorCalculator:
    state: ApiState = request.app.state.api
    if state.indicators is None:
        raise ApiError(
            404, "no_indicators", "this server computes no indicators", "see /v1/analytics for stored values"
        )
    return state.indicators


def _unknown(error: UnknownIndicator) -> ApiError:
    return ApiError(404, "unknown_indicator", str(error), "see /v1/indicators for all indicators")
