"""Rate of ticks into PostgreSQL: the repository's COPY with the positions in the same transaction.

    python -m benchmarks.store [--ticks 1000000] [--symbols 500] [--dsn postgresql://…]

The default server is an embedded PostgreSQL in a temporary folder. The output is rows per second for batches of 1,000,
10,000 and 50,000 rows, with one connection and with two that write different symbols. Upserts of bars and reads follow.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from benchmarks.support.figures import record

from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.pool import ReadSession
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.repositories.positions import Advance, Log, advance_all, begin
from tickerplant.store.repositories.prices import Prices, sorted_ticks
from tickerplant.store.server.embedded import EmbeddedPostgres

OPEN_US = 1_340_285_400_000_000
LOG = Log("benchmark", 1)


def ticks(count: int, symbols: int, start_us: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    names = pa.array([f"S{seed}{i:05d}" for i in range(symbols)])
    times = timestamps(start_us + np.arange(count, dtype=np.int64) * 10)
    source = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int32)), pa.array(["benchmark"]))
    columns = [
        times,
        pa.DictionaryArray.from_arrays(pa.array(random.integers(0, symbols, count).astype(np.int32)), names),
        pa.array(100 + random.normal(size=count)),
        pa.array(random.integers(1, 500, count).astype(np.float64)),
        source,
        pa.nulls(count, pa.utf8()),
        pa.array(np.zeros(count, dtype=np.uint16)),
        times,
    ]
    return pa.Table.from_arrays(columns, schema=schemas.TICKS)


async def copy(store: Store, partition: int, total: int, batch: int, symbols: int) -> None:
    topic = f"{schemas.RAW}.{batch}"
    async with store.session() as session:
        await session.script("SET synchronous_commit = off")
        await begin(session, LOG, [(topic, partition)])
        position = await session.value(
            "SELECT position FROM positions WHERE topic = $1 AND partition = $2", topic, partition
        )
        prices = Prices(session)
        for _ in range(total // batch):
            table = sorted_ticks(ticks(batch, symbols, OPEN_US + position * 10, partition))
            await prices.prepare(table)
            async with session.transaction():
                step = Advance(topic, partition, position, position + batch, 0, position + batch)
                await advance_all(session, LOG, [step])
                await prices.append(table, partition)
            position += batch


async def upsert(store: Store, symbols: int, minutes: int) -> None:
    count = symbols
    text = pa.DictionaryArray.from_arrays
    async with store.session() as session:
        ohlcv = Ohlcv(session)
        for minute in range(minutes):
            times = timestamps(np.full(count, OPEN_US + minute * 60_000_000))
            zero8, zero32 = pa.array(np.zeros(count, np.int8)), pa.array(np.zeros(count, np.int32))
            price = pa.array(np.full(count, 100.0))
            columns: dict[str, Any] = {
                "time": times, "symbol": pa.array([f"S{i:05d}" for i in range(count)]).dictionary_encode(),
                "interval": text(zero8, pa.array(["1m"])), "state": text(zero8, pa.array(["final"])),
                "reason": text(zero8, pa.array([""])), "source": text(zero32, pa.array(["benchmark"])),
                "trades": pa.array(np.ones(count, np.int64)), "complete": pa.array([True] * count),
                "history": pa.array([False] * count), "revision": zero32, "published_at": times,
                "version": pa.array(np.full(count, minute, np.int64)),
            }  # fmt: skip
            table = pa.Table.from_arrays([columns.get(n, price) for n in schemas.BARS.names], schema=schemas.BARS)
            await ohlcv.prepare(table)
            async with session.transaction():
                await ohlcv.upsert(table, 0)


async def newest(session: ReadSession) -> None:
    found = await session.ohlcv.newest_of_each([f"S{i:05d}" for i in range(1000)], "1m", limit=20)
    assert found.num_rows == 20_000


async def timed(what: str, rows: int, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    began = time.perf_counter()
    await work()
    seconds = time.perf_counter() - began
    print(f"{what:52} {rows / seconds:12,.0f} rows/s   {1000 * seconds:10,.1f} ms", flush=True)
    record(what, rows / seconds, "rows/s")


async def run(dsn: str, total: int, symbols: int) -> None:
    store = await Store.open(dsn)
    await migrate(store)
    for batch in (1_000, 10_000, 50_000):
        for connections in (1, 2):
            async with store.session() as session:
                await session.script("TRUNCATE realtime_prices")

            async def all_at_once(connections: int = connections, batch: int = batch) -> None:
                each = total // connections
                await asyncio.gather(
                    *(copy(store, 10 * connections + i, each, batch, symbols) for i in range(connections))
                )

            await timed(f"COPY of {batch:6,} ticks, {connections} connection(s)", total, all_at_once)
    await timed("upsert of 10,000 bars per transaction", 200_000, lambda: upsert(store, 10_000, 20))
    async with store.read() as session:
        await session.prices.read("S2000000", limit=500)
        await timed("read of a symbol's newest 500 ticks", 500, lambda: session.prices.read("S2000001", limit=500))
        await timed("the newest 20 bars of 1,000 symbols in one read", 20_000, lambda: newest(session))
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--dsn")
    options = parser.parse_args()
    with ExitStack() as stack:
        dsn = options.dsn
        if dsn is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            dsn = stack.enter_context(EmbeddedPostgres(Path(folder))).dsn
        asyncio.run(run(dsn, options.ticks, options.symbols))


if __name__ == "__main__":
    main()
