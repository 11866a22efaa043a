"""A plain FastAPI application with asyncpg on the plant's tables, as a first version of such an API is usually written.

It has a pool of connections, one query per request, and returns rows as dictionaries, which FastAPI encodes. It has no
cache, pages, units, errors or limits. `BENCH_DSN` names the database. The routes under `/typed` declare the type of
their answer, so that FastAPI encodes it with pydantic's serializer.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI

_COLUMNS = "time, open, high, low, close, volume, vwap, trades, complete, source"


@asynccontextmanager
async def _pool(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=4, max_size=10) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=_pool)


async def _bars(table: str, symbol: str, interval: str, limit: int) -> list[dict[str, Any]]:
    rows = await app.state.pool.fetch(
        f'SELECT {_COLUMNS} FROM {table} WHERE symbol = $1 AND "interval" = $2 ORDER BY time DESC LIMIT $3',
        symbol, interval, limit,
    )  # fmt: skip
    return [dict(row) for row in reversed(rows)]


@app.get("/v1/historical/{symbol}", response_model=None)
@app.get("/typed/v1/historical/{symbol}")
async def historical(symbol: str, interval: str = "1d", limit: int = 100) -> list[dict[str, Any]]:
    """Return the newest daily bars in order of time."""
    return await _bars("historical_ohlcv", symbol, interval, limit)


@app.get("/v1/intraday/{symbol}", response_model=None)
@app.get("/typed/v1/intraday/{symbol}")
async def intraday(symbol: str, interval: str = "1m", limit: int = 100) -> list[dict[str, Any]]:
    """Return the newest intraday bars in order of time."""
    return await _bars("intraday_ohlcv", symbol, interval, limit)
