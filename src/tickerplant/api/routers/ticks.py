"""`/v1/ticks`: a symbol's ticks."""

from __future__ import annotations

from typing import Annotated

import pyarrow as pa
from fastapi import APIRouter, Depends, Request, Response

from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import EXAMPLE, Symbol
from tickerplant.api.http.queries import PageRequest, TickQuery
from tickerplant.api.http.responses import read_page
from tickerplant.api.state import ApiState
from tickerplant.api.store_reader import ReadTransaction

router = APIRouter(prefix="/v1", tags=["market data"], route_class=LaneRoute)


@router.get("/ticks/{symbol:path}", responses=EXAMPLE, summary="Ticks")
async def ticks(request: Request, symbol: Symbol, query: Annotated[TickQuery, Depends()]) -> Response:
    """Return all ticks as the feed sent them, including cancels and corrections (`flags`).

    Ticks of one instant are in the order of arrival. If a page ends among them, `next` contains `skip`.
    """
    return await ticks_response(request.app.state.api, query.page(symbol))


async def ticks_response(state: ApiState, page: PageRequest) -> Response:
    """Return a page of ticks as JSON or CSV."""

    async def read(transaction: ReadTransaction, start_us: int | None, end_us: int | None, count: int) -> pa.Table:
        return await transaction.ticks(page.symbol, start_us, end_us, count)

    return await read_page(state, page, "ticks", read)
