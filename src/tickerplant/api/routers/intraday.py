"""`/v1/intraday`: bars of minutes and hours, and activity bars."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from tickerplant.api.bars import bars_response
from tickerplant.api.http import params
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import EXAMPLE, Interval, Symbol
from tickerplant.api.http.queries import BarQuery
from tickerplant.core.interval import H1, M1, M5, M15, M30

router = APIRouter(prefix="/v1", tags=["market data"], route_class=LaneRoute)


@router.get("/intraday/{symbol:path}", responses=EXAMPLE, summary="Intraday bars")
async def intraday(
    request: Request, symbol: Symbol, query: Annotated[BarQuery, Depends()], interval: Interval = "1m"
) -> Response:
    """Return bars of `1m` and `5m` as stored. `15m`, `30m` and `1h` are built from 5m bars when read.

    Activity bars (`100t` trades, `10000v` volume, `1000000d` turnover) exist where the setting `rules.activity_bars`
    enables them. The `time` of an activity bar is the instant of its first trade; the `time` of every other bar is
    its start.
    """
    step = params.parse_interval(interval, (M1, M5, M15, M30, H1), "/v1/intraday", activity=True)
    return await bars_response(request.app.state.api, query.page(symbol, step), query.adjust)
