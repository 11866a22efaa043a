"""A log with three partitions, a writer of its records, and a running persistence: for the tests of this package."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pyarrow as pa

from tests.store.rows import OPEN_US, bars, ticks, values
from tests.support.waiting import PATIENCE
from tickerplant.core import records, schemas
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.persistence.service import Persistence
from tickerplant.store import Store

PARTITIONS = 3


class Feed:
    """Writer of records that replaces the upstream services."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log
        self._writer = log.writer("test")

    def put(self, topic: str, partition: int, header: records.Header, table: pa.Table | None = None) -> int:
        batch = None if table is None else table.combine_chunks().to_batches()[0]
        with self._writer.transaction() as transaction:
            transaction.append(topic, partition, records.encode(header, batch))
        return next(iter(self._writer.committed().values()))

    def ticks(self, count: int, partition: int = 0, **options: Any) -> int:
        header = records.Ticks(sent_at_us=OPEN_US, watermark_us=OPEN_US)
        return self.put(schemas.RAW, partition, header, ticks(count, **options))

    def bars(self, *rows: dict[str, Any], partition: int = 0) -> int:
        cause = max(row.get("version", 1) for row in rows)
        return self.put(schemas.OHLCV, partition, records.Bars(sent_at_us=OPEN_US, cause=cause), bars(*rows))

    def values(self, *rows: dict[str, Any], partition: int = 0) -> int:
        return self.put(schemas.ANALYTICS, partition, records.Values(sent_at_us=OPEN_US), values(*rows))


@asynccontextmanager
async def running(log: EmbeddedLog, dsn: str, instance: str = "0") -> AsyncIterator[Persistence]:
    stop = asyncio.Event()
    persistence = Persistence(log, dsn, instance=instance)
    task = asyncio.create_task(persistence.run(stop))
    try:
        yield persistence
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE.seconds(30))


async def count(store: Store, table: str) -> int:
    async with store.session() as session:
        return int(await session.value(f"SELECT count(*) FROM {table}"))


def has(store: Store, table: str, number: int) -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        found = await count(store, table)
        assert found <= number, f"{found} rows in {table}: some are stored twice"
        return found == number

    return condition
