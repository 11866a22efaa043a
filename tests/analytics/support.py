"""Bars for the tests: real ones from the data folder, made ones, and records of both."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from tickerplant.core import records, schemas
from tickerplant.core.times import MINUTE_US, timestamps

DATA = Path(os.environ.get("TICKERPLANT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
T0 = 1_700_000_000 // 60 * MINUTE_US


class Delivery(NamedTuple):
    topic: str
    partition: int
    offset: int
    appended_at_us: int
    value: Any


def closes(name: str) -> np.ndarray:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8-sig") as file:
        return np.array([float(row["close"]) for row in csv.DictReader(file)])


class Bar(NamedTuple):
    time: int
    symbol: str
    close: float | None
    state: str = "final"
    interval: str = "1m"
    version: int = 1


def bars(rows: Sequence[Bar]) -> pa.RecordBatch:
    def text(values: list[str], kind: pa.DataType) -> pa.Array:
        return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)

    n = len(rows)
    price = pa.array([row.close for row in rows], pa.float64())
    arrays = [
        timestamps(np.array([row.time for row in rows], dtype=np.int64)),
        text([row.symbol for row in rows], schemas.TEXT),
        text([row.interval for row in rows], schemas.SMALL_TEXT),
        *[price] * 4,
        pa.array([1.0] * n),
        price,
        pa.array([1] * n, pa.int64()),
        text([row.state for row in rows], schemas.SMALL_TEXT),
        pa.array([True] * n),
        pa.array([False] * n),
        pa.array([0] * n, pa.int32()),
        pa.array([row.version for row in rows], pa.int64()),
        text([""] * n, schemas.SMALL_TEXT),
        text(["test"] * n, schemas.TEXT),
        timestamps(np.full(n, T0)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.BARS)


def delivery(header: records.Header, batch: pa.RecordBatch | None = None, offset: int = 0) -> Delivery:
    return Delivery(schemas.OHLCV, 0, offset, T0, records.encode(header, batch))


def bar_delivery(rows: Sequence[Bar], offset: int = 0) -> Delivery:
    return delivery(records.Bars(sent_at_us=T0, feed="f", cause=offset + 1), bars(rows), offset)


class Table:
    """What a store would hold after the outputs: the newest row of each (symbol, interval, time)."""

    def __init__(self) -> None:
        self.closed: dict[tuple[str, str, int], dict[str, float | None]] = {}
        self.forming: dict[tuple[str, str, int], dict[str, float | None]] = {}
        self.versions: dict[tuple[str, str, int], int] = {}

    def take(self, produced: Sequence[Any]) -> None:
        for output in produced:
            record = records.decode(output.value)
            if not isinstance(record.header, records.Values):
                continue
            for row in record.batch.to_pylist():
                key = (row.pop("symbol"), row.pop("interval"), int(row.pop("time").timestamp() * 1_000_000))
                state, version = row.pop("state"), row.pop("version")
                if state == "forming":
                    self.forming[key] = row
                    continue
                assert version >= self.versions.get(key, 0)
                self.versions[key] = version
                if state == "withdrawn":
                    assert not any(value is not None for value in row.values())
                    self.closed.pop(key, None)
                else:
                    self.closed[key] = row
