"""`/v1/realtime`: a symbol's newest state, or its ticks."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Depends, Request, Response

from tickerplant.api.http import formats
from tickerplant.api.http.lanes import LaneRoute
from tickerplant.api.http.openapi import EXAMPLE, Symbol
from tickerplant.api.http.queries import RealtimeQuery
from tickerplant.api.http.responses import (
    csv_response,
    positioned_response,
    require_symbol,
    without_internal,
)
from tickerplant.api.routers.ticks import ticks_response
from tickerplant.api.state import ApiState
from tickerplant.api.websockets.rows import NOT_LAST
from tickerplant.core.interval import D1, M1, M5

INTERVALS: Final = (M1, M5, D1)
LAST_TICK_ROWS: Final = 100
"""Count of newest ticks that are searched for the last tick that may set a price."""

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
        "description": "The newest state, or ticks in ascending order of time, and the log position at which they "
        "were read.",
        "headers": EXAMPLE[200]["headers"],
        "content": {
            "application/json": {
                "examples": {
                    "state": {
                        "summary": "Newest state: without `start`, `end`, `limit` and `skip`",
                        "value": _STATE
                        | {"tick": _TICK, "bars": {"1m": None, "5m": None, "1d": None}, "analytics": []},
                    },
                    "ticks": {
                        "summary": "Ticks: with `start`, `end`, `limit` or `skip`",
                        "value": _STATE | {"count": 1, "next": None, "ticks": [_TICK]},
                    },
                }
            },
            "text/csv": {"example": f"{','.join(_TICK)}\n2026-03-09T09:30:00.118000-04:00,257.4,100,sandbox,,0\n"},
        },
    },
}

router = APIRouter(prefix="/v1", tags=["market data"], route_class=LaneRoute)


@router.get("/realtime/{symbol:path}", responses=_STATE_EXAMPLE, summary="Newest state of a symbol, or its ticks")
async def realtime(request: Request, symbol: Symbol, query: Annotated[RealtimeQuery, Depends()]) -> Response:
    """Return the last tick that may set a price, the newest bars of `1m`, `5m` and `1d`, and values of forming bars.

    All rows are read at one log position. Forming bars in the store are up to a second old; `/v1/stream` sends them at
    once. CSV contains only the last tick. If `start`, `end`, `limit` or `skip` is given, the answer
    contains ticks, as `/v1/ticks` does. If `start` is missing, they are the newest ticks, in ascending order of time.
    """
    state: ApiState = request.app.state.api
    if query.wants_ticks:
        return await ticks_response(state, query.page(symbol))
    page = query.page(symbol)
    newest, position = await state.store.newest_state(page.symbol, INTERVALS, LAST_TICK_ROWS)
    bars = dict(zip(INTERVALS, newest.bars, strict=True))
    if not newest.ticks.num_rows and not any(table.num_rows for table in newest.bars):
        async with state.store.read() as transaction:
            await require_symbol(transaction, page.symbol)
    tick = _last_tick(newest.ticks)
    if page.format == "csv":
        plain = formats.format_columns(without_internal(tick), page.zone, page.times)
        return csv_response(formats.to_csv(plain), f"{page.symbol}-tick", position)

    def rows(table: pa.Table, *, sessions: bool = False) -> bytes:
        return formats.json_rows(table, page.zone, page.times, sessions=sessions)

    def first_row(table: pa.Table, *, sessions: bool = False) -> msgspec.Raw:
        return msgspec.Raw(rows(without_internal(table), sessions=sessions) or b"null")

    body = {
        "symbol": page.symbol,
        "tz": page.tz,
        "position": msgspec.Raw(position.raw()),
        "tick": first_row(tick),
        "bars": {step.name: first_row(table, sessions=not step.is_intraday) for step, table in bars.items()},
        "analytics": msgspec.Raw(b"[" + rows(formats.without(newest.values, ("symbol",))) + b"]"),
    }
    return positioned_response(formats.encode(body), position)


def _last_tick(ticks: pa.Table) -> pa.Table:
    """Return the last tick that may set a price, as in the stream's snapshot; an empty table if no tick may."""
    rows = np.flatnonzero((ticks.column("flags").to_numpy() & NOT_LAST) == 0)
    return ticks.slice(int(rows[-1]), 1) if len(rows) else ticks.slice(0, 0)
