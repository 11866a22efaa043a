"""`/v1/analytics`: indicator values that the analytics service has computed and stored."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Depends, Query, Request, Response

from tickerplant.api.http import params
from tickerplant.api.http.errors import ApiError
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import EXAMPLE, Interval, Symbol
from tickerplant.api.http.queries import PageRequest, RowQuery
from tickerplant.api.http.responses import read_page
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import ReadTransaction
from tickerplant.core import interval as intervals
from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.interval import D1, M1, M5

router = APIRouter(prefix="/v1", tags=["market data"], route_class=LaneRoute)


@router.get("/analytics/{symbol:path}", responses=EXAMPLE, summary="Indicator values")
async def analytics(
    request: Request, symbol: Symbol, query: Annotated[RowQuery, Depends()], interval: Interval = "1d",
    indicators: Annotated[
        str | None, Query(description="Columns to return, comma-separated. A name such as `rsi` selects `rsi_14` too.")
    ] = None,
) -> Response:  # fmt: skip
    """Return stored indicator values; `time` is the bar's time. A value is null until its indicator is warm.

    `warmup_remaining` contains the computed columns that are null in the last row, with the number of bars that each
    still needs. `/v1/indicators` computes other indicators on request.
    """
    state: ApiState = request.app.state.api
    step = params.parse_interval(interval, (M1, M5, D1), "/v1/analytics", activity=True)
    page, wanted = query.page(symbol, step), params.parse_names(indicators)

    async def read(transaction: ReadTransaction, start_us: int | None, end_us: int | None, count: int) -> pa.Table:
        return _select(await transaction.values(page.symbol, step, start_us, end_us, count), wanted)

    async def read_extra(transaction: ReadTransaction, table: pa.Table) -> dict[str, Any]:
        return {"warmup_remaining": await _warmup_remaining(state, transaction, page, step, table)}

    return await read_page(state, page, "values", read, read_extra)


def _select(table: pa.Table, wanted: list[str] | None) -> pa.Table:
    """Return the key columns and the requested indicator columns, or all columns if `wanted` is None.

    Raises ApiError if no column matches.
    """
    if wanted is None:
        return table
    keys = [field.name for field in schemas.ANALYTICS_KEY]
    outputs = [name for name in table.schema.names if name not in keys]
    requested = {each.lower() for each in wanted}
    kept = [
        name
        for name in outputs
        if name.lower() in requested or any(name.lower().startswith(f"{a}_") for a in requested)
    ]
    if not kept and table.num_rows:
        raise ApiError(
            400, "unknown_indicator", f"no column matches {', '.join(wanted)}",
            f"the columns are {', '.join(outputs) or 'none'}",
        )  # fmt: skip
    return table.select([name for name in table.schema.names if name in keys or name in kept])


async def _warmup_remaining(
    state: ApiState, transaction: ReadTransaction, page: PageRequest, step: intervals.Interval, table: pa.Table
) -> dict[str, int]:
    """Return the count of bars that each computed column still needs, for columns that are null in the last row.

    Stored bars up to that row are counted, at most as many as the longest warm-up. A column that is null despite enough
    bars was added to the settings recently; the next bar has its value.
    """
    if state.indicators is None or not table.num_rows:
        return {}
    warmups = state.indicators.warmups(step)
    last = table.slice(table.num_rows - 1)
    cold = {name: warmups[name] for name in table.schema.names if name in warmups and last.column(name).null_count}
    if not cold:
        return {}
    end_us = int(times_of(last.column("time"))[0]) + 1
    bars = await transaction.bars(page.symbol, step, None, end_us, max(cold.values()), ("time", "close", "state"))
    counted = bars.num_rows - bars.column("close").null_count
    return {name: max(1, needed - counted) for name, needed in cold.items()}
