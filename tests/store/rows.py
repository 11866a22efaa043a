"""Rows for tests of the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.version import make_version
from tickerplant.store.repositories.prices import with_arrival

OPEN_US = 1_340_285_400_000_000  # 2012-06-21T13:30:00Z
MINUTE_US = 60_000_000


def _text(values: Sequence[str], kind: pa.DataType = schemas.TEXT) -> pa.Array:
    return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)


def ticks(count: int, *, symbols: int = 1, start_us: int = OPEN_US, step_us: int = 1000, seed: int = 1) -> pa.Table:
    random = np.random.default_rng(seed)
    names = [f"S{i:04d}" for i in range(symbols)]
    codes = np.sort(random.integers(0, symbols, count)) if symbols > 1 else np.zeros(count, dtype=np.int64)
    times = timestamps(start_us + np.arange(count, dtype=np.int64) * step_us)
    columns = [
        times,
        pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names)),
        pa.array(100 + random.normal(size=count)),
        pa.array(random.integers(1, 500, count).astype(np.float64)),
        _text(["test"] * count),
        pa.array([f"t{i}" if i % 3 else None for i in range(count)], pa.utf8()),
        pa.array(np.zeros(count, dtype=np.uint16)),
        times,
    ]
    return pa.Table.from_arrays(columns, schema=schemas.TICKS)


def arrived(table: pa.Table, offset: int) -> pa.Table:
    """Return ticks with the arrival of one raw record at this offset."""
    [batch] = table.combine_chunks().to_batches()
    return pa.Table.from_batches([with_arrival(batch, make_version(1, offset))])


def bars(*rows: dict[str, Any]) -> pa.Table:
    """Return bars with the given fields and defaults for the others. `minute` counts from OPEN_US."""
    full: list[dict[str, Any]] = []
    for row in rows:
        row = dict(row)
        time_us = row.pop("time_us", OPEN_US + row.pop("minute", 0) * MINUTE_US)
        price = None if row.get("state") == "withdrawn" else row.pop("price", 1.0)
        full.append(
            {
                "time": time_us,
                "symbol": "GOOG",
                "interval": "1m",
                "open": price,
                "high": price,
                "low": price,
                "close": price,
                "volume": 10.0,
                "vwap": price,
                "trades": 3,
                "state": "final",
                "complete": True,
                "history": False,
                "revision": 0,
                "version": 1,
                "reason": "",
                "source": "test",
                "published_at": OPEN_US,
                **row,
            }
        )
    columns = []
    for field in schemas.BARS:
        values = [row[field.name] for row in full]
        if field.type in (schemas.TEXT, schemas.SMALL_TEXT):
            columns.append(_text(values, field.type))
        elif pa.types.is_timestamp(field.type):
            columns.append(timestamps(np.array(values, dtype=np.int64)))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schemas.BARS)


def values(*rows: dict[str, Any], names: Sequence[str] = ("sma_20",)) -> pa.Table:
    """Return indicator values with the given fields and the defaults of `bars` for the others."""
    times = [row.get("time_us", OPEN_US + row.get("minute", 0) * MINUTE_US) for row in rows]
    columns = [
        timestamps(np.array(times, dtype=np.int64)),
        _text([row.get("symbol", "GOOG") for row in rows]),
        _text([row.get("interval", "1m") for row in rows], schemas.SMALL_TEXT),
        _text([row.get("state", "final") for row in rows], schemas.SMALL_TEXT),
        pa.array([row.get("version", 1) for row in rows], pa.int64()),
        *(pa.array([row.get(name) for row in rows], pa.float64()) for name in names),
    ]
    schema = pa.schema([*schemas.ANALYTICS_KEY, *(pa.field(name, pa.float64()) for name in names)])
    return pa.Table.from_arrays(columns, schema=schema)
