"""Batches, logs and a clock for the tests of feeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.port import EventLog

OPEN_US = 1_340_285_400_000_000  # 2012-06-21T13:30:00Z
SECOND = 1_000_000


@contextmanager
def embedded(folder: Path, partitions: int = 3) -> Iterator[EventLog]:
    log = EmbeddedLog(folder / "market.log")
    try:
        log.create_topics(schemas.TOPICS, partitions)
        yield log
    finally:
        log.close()


def ticks(
    symbols: list[str],
    times_us: list[int] | None = None,
    prices: list[float] | None = None,
    trade_ids: list[str | None] | None = None,
    flags: list[int] | None = None,
) -> pa.RecordBatch:
    n = len(symbols)
    times = times_us if times_us is not None else [OPEN_US + i * SECOND for i in range(n)]
    return pa.RecordBatch.from_arrays(
        [
            timestamps(np.array(times, np.int64)),
            pa.array(symbols, pa.utf8()).dictionary_encode().cast(schemas.TEXT),
            pa.array(prices if prices is not None else [100.0 + i for i in range(n)], pa.float64()),
            pa.array([1.0] * n, pa.float64()),
            pa.array(["test"] * n).dictionary_encode().cast(schemas.TEXT),
            pa.array(trade_ids if trade_ids is not None else [None] * n, pa.utf8()),
            pa.array(flags if flags is not None else [0] * n, pa.uint16()),
            timestamps(np.array(times, np.int64)),
        ],
        schema=schemas.TICKS,
    )


def read_all(log: EventLog, topic: str = schemas.RAW) -> dict[int, list[records.Record]]:
    """Return every decoded record of the topic by partition, in log order."""
    result: dict[int, list[records.Record]] = defaultdict(list)
    with log.reader([topic]) as reader:
        while deliveries := reader.poll(timeout_s=0.02, max_records=10_000, max_bytes=1 << 30):
            for delivery in deliveries:
                result[delivery.partition].append(records.decode(delivery.value))
    return dict(result)


def headers(log: EventLog, partition: int = 0, topic: str = schemas.RAW) -> list[records.Header]:
    return [record.header for record in read_all(log, topic).get(partition, [])]


def rows(log: EventLog, kind: type[records.Header], topic: str = schemas.RAW) -> list[dict[str, Any]]:
    """Return the rows of all records with this header type, of all partitions."""
    return [
        row
        for part in read_all(log, topic).values()
        for record in part
        if isinstance(record.header, kind)
        for row in record.batch.to_pylist()
    ]


class Clock:
    """A clock in µs that a test sets."""

    def __init__(self, us: int = OPEN_US) -> None:
        self.us = us

    def __call__(self) -> int:
        return self.us
