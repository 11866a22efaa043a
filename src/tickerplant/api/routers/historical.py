"""`/v1/historical`: daily and weekly bars."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from tickerplant.api.bars import bars_response
from tickerplant.api.http import params
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import EXAMPLE, Interval, Symbol
from tickerplant.api.http.queries import BarQuery
from tickerplant.core.interval import D1, W1

router = APIRouter(prefix="/v1", tags=["market data"], route_class=LaneRoute)


@router.get("/historical/{symbol:path}", responses=EXAMPLE, summary="Daily and weekly bars")
async def historical(
    request: Request, symbol: Symbol, query: Annotated[BarQuery, Depends()], interval: Interval = "1d"
) -> Response:
    """Return daily bars of trading sessions (`1d`) or weekly bars (`1w`).

    `time` is the date of the session, or of the week's Monday.
    """
    step = params.parse_interval(interval, (D1, W1), "/v1/historical")
    return await bars_response(request.app.state.api, query.page(symbol, step), query.adjust)
