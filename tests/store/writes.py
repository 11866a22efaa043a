"""Write bars and completed intervals of feeds, for tests of the store."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tests.store.rows import MINUTE_US, OPEN_US
from tickerplant.core import records, schemas
from tickerplant.core.symbols import partition_of
from tickerplant.store import Store
from tickerplant.store.repositories.coverage import Coverage
from tickerplant.store.repositories.ohlcv import Ohlcv

MANY = 8  # partitions


async def write_bars(store: Store, table: pa.Table) -> None:
    async with store.session() as session:
        ohlcv = Ohlcv(session)
        await ohlcv.prepare(table)
        async with session.transaction():
            await ohlcv.upsert(table, 0)


async def write_intervals(
    store: Store,
    minutes: Sequence[int],
    silent: Sequence[str] = (),
    *,
    whole: bool = True,
    feed: str = "live",
    interval: str = "1m",
    step_us: int = MINUTE_US,
    begin_us: int = OPEN_US,
) -> None:
    """Store completed intervals of a feed in the partition of GOOG: BUSY as traded, and silent symbols."""
    names = ["BUSY", *silent]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(names).dictionary_encode(), pa.array([name == "BUSY" for name in names])], schema=schemas.COVERAGE
    )
    overs = [
        records.Record(
            records.Over(
                sent_at_us=1, cause=1, feed=feed, interval=interval, start_us=begin_us + minute * step_us,
                expected=len(names), emitted=1, whole=whole,
            ),
            batch,
        )
        for minute in minutes
    ]  # fmt: skip
    async with store.session() as session:
        coverage = Coverage(session)
        await coverage.prepare(overs)
        async with session.transaction():
            await coverage.put_overs(overs, partition_of("GOOG", MANY))
