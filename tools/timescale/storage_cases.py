"""Checks of chunks, compression and check roll-ups on a real TimescaleDB.

The checks need COPY, a scheduler or several sessions, which the tests' TimescaleDB in WebAssembly does not have.

    python tools/timescale/storage_cases.py postgresql://postgres@127.0.0.1:5432/postgres [CASE...]

Each case creates a database of its own and drops it at the end. It prints its figures, and raises AssertionError if the
store behaves differently than documented.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import numpy as np
import pyarrow as pa

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rows of the tests

from tests.store.rows import OPEN_US, bars, ticks  # noqa: E402
from tests.store.test_arrival import check_order, nothing  # noqa: E402
from tests.store.test_bars import put as put_bars  # noqa: E402
from tests.store.test_compression import TODAY_US, check_ages, write  # noqa: E402
from tests.store.test_prices import put as put_ticks  # noqa: E402
from tests.store.test_rollups import run as run_plant_job  # noqa: E402

from tickerplant.core.times import DAY_US  # noqa: E402
from tickerplant.core.version import make_version  # noqa: E402
from tickerplant.store import Store  # noqa: E402
from tickerplant.store.migrations import migrate  # noqa: E402
from tickerplant.store.repositories import prices  # noqa: E402
from tickerplant.store.repositories.ohlcv import Ohlcv  # noqa: E402
from tickerplant.store.repositories.prices import with_arrival  # noqa: E402

Case = Callable[[Store], Awaitable[str]]
PATIENCE_S: Final = 120.0
"""Maximum wait for the server's scheduler, in seconds."""


@asynccontextmanager
async def database(dsn: str, number: int, **options: Any) -> AsyncIterator[Store]:
    """Create a database with the tables of the plant for the block."""
    name = f"check_real_{number}"
    server = await asyncpg.connect(dsn)
    await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await server.execute(f"CREATE DATABASE {name}")
    store = await Store.open(urlsplit(dsn)._replace(path=f"/{name}").geturl(), **options)
    try:
        await migrate(store)
        assert store.flavour == "timescaledb", "the server has no TimescaleDB"
        yield store
    finally:
        await store.close()
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await server.close()


def records(count: int, per_symbol: int, symbols: int) -> list[pa.Table]:
    """Return the ticks of `count` commits, each with `per_symbol` ticks of every symbol, with their arrival."""
    tables = []
    for number in range(count):
        table = ticks(per_symbol * symbols, start_us=OPEN_US + number * 1_000_000, step_us=0, seed=number)
        codes = np.repeat(np.arange(symbols, dtype=np.int32), per_symbol)
        names = pa.array([f"S{i:04d}" for i in range(symbols)])
        column = pa.DictionaryArray.from_arrays(pa.array(codes), names)
        [batch] = table.set_column(1, table.schema.field("symbol"), column).combine_chunks().to_batches()
        tables.append(pa.Table.from_batches([with_arrival(batch, make_version(1, number))]))
    return tables


async def direct_compress(store: Store) -> str:
    """Compare bytes per tick, and the time of reading newest ticks, for sparse and dense commits with each rule."""
    normal = prices.DENSE_TICKS
    sizes: dict[tuple[str, str], float] = {}
    figures: list[str] = []
    for kind, made in (("sparse", records(150, 1, 500)), ("dense", records(15, 1_000, 5))):
        rows = sum(table.num_rows for table in made)
        for rule, minimum in (("never", 1 << 60), ("always", 1), ("where it pays", normal)):
            prices.DENSE_TICKS = minimum  # type: ignore[misc]
            try:
                for table in made:
                    await put_ticks(store, table)
            finally:
                prices.DENSE_TICKS = normal  # type: ignore[misc]
            await run_plant_job(store, "rollup_5m")
            async with store.session() as session:
                size = await session.value("SELECT hypertable_size('realtime_prices')")
                rolled = await session.value("SELECT sum(trades) FROM ohlcv_5m_rollup")
            assert rolled == rows, "the check roll-up contains every tick"
            names = [f"S{i:04d}" for i in range(500 if kind == "sparse" else 5)]
            began = time.monotonic()
            async with store.read() as reading:
                newest = await reading.prices.newest_of_each(names, limit=1)
            took = time.monotonic() - began
            assert newest.num_rows == len(names)
            assert newest.column("price").to_pylist() == [
                next(row["price"] for row in reversed(made[-1].to_pylist()) if row["symbol"] == name) for name in names
            ], "the newest tick of each symbol is the last to arrive"
            sizes[kind, rule] = size / rows
            figures.append(f"{kind}, {rule}: {size / rows:.0f} bytes a tick, newest ticks in {took:.3f} s")
            async with store.session() as session:
                await session.execute("TRUNCATE realtime_prices")
                await session.execute("DELETE FROM arrivals")
                await session.script("CALL refresh_continuous_aggregate('ohlcv_5m_rollup', NULL, NULL)")
    assert sizes["sparse", "where it pays"] < 1.1 * sizes["sparse", "never"]
    assert sizes["dense", "where it pays"] < 0.5 * sizes["dense", "never"]
    return "\n  ".join(["", *figures])


async def direct_compress_off(store: Store) -> str:
    """Check that no tick is compressed if the setting is off."""
    store.database.direct_compress = False
    await put_ticks(store, records(1, 1_000, 5)[0])
    async with store.session() as session:
        sql = "SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"
        assert await session.value(sql) == 0
    return "no chunk is compressed"


async def order_of_compressed_ticks(store: Store) -> str:
    """Check the order of ticks of one instant that COPY wrote as compressed rows, and their check roll-up."""
    normal = prices.DENSE_TICKS
    prices.DENSE_TICKS = 1  # type: ignore[misc]
    try:
        await check_order(store, nothing)
    finally:
        prices.DENSE_TICKS = normal  # type: ignore[misc]
    await run_plant_job(store, "rollup_5m")
    async with store.session() as session:
        compressed = "SELECT bool_and(is_compressed) FROM timescaledb_information.chunks WHERE hypertable_name = $1"
        assert await session.value(compressed, "realtime_prices")
        rows = await session.rows("SELECT symbol, open, close, ordered FROM ohlcv_5m_rollup ORDER BY symbol")
        for row in rows:
            async with store.read() as reading:
                wanted = (await reading.prices.read(row["symbol"])).column("price").to_pylist()
            assert (row["open"], row["close"], row["ordered"]) == (wanted[0], wanted[-1], True)
    return f"{len(rows)} symbols"


async def two_sessions(store: Store) -> str:
    """Check that six sessions can create the same chunks at the same time, in ascending and descending order."""

    async def write_days(number: int) -> None:
        days = range(0, 400, 7)
        for day in days if number % 2 else reversed(days):
            row = {"time_us": TODAY_US - day * DAY_US, "symbol": f"S{number}"}
            await put_bars(store, bars(row | {"interval": "5m"}, row | {"interval": "1d"}))

    await asyncio.gather(*(write_days(number) for number in range(6)))
    async with store.session() as session:
        found = await session.value("SELECT count(*) FROM intraday_ohlcv")
        daily = await session.value("SELECT count(*) FROM historical_ohlcv")
    assert (found, daily) == (6 * 58, 6 * 58)
    count = found + daily
    return f"{count} rows"


async def another_writer(store: Store) -> str:
    """Check that a chunk that one writer's INSERT creates delays another writer only until the commit."""
    recent = {"time_us": TODAY_US - DAY_US, "interval": "1d"}
    async with store.session() as session:
        async with session.transaction():
            await Ohlcv(session).upsert(bars(recent), 0)  # TimescaleDB creates a chunk of 30 days
            older = bars({"time_us": TODAY_US - 10 * DAY_US, "interval": "1d"})
            waiting = asyncio.create_task(put_bars(store, older))
            await asyncio.sleep(1.0)
            assert not waiting.done(), "the creation of the other chunk waits for this transaction"
        await waiting
        assert await session.value("SELECT count(*) FROM historical_ohlcv") == 2
    return "both rows are stored"


async def scheduler(store: Store) -> str:
    """Check that the server's scheduler compresses chunks, and that uncompressed rows have the documented ages."""
    await write(store, range(120))
    began = time.monotonic()
    async with store.session() as session:
        jobs = "FROM timescaledb_information.jobs WHERE proc_name LIKE 'policy_co%' AND hypertable_schema = 'public'"
        await session.rows(f"SELECT alter_job(job_id, next_start => now()) {jobs}")
    while True:
        try:
            await check_ages(store)
            break
        except AssertionError:
            if time.monotonic() - began > PATIENCE_S:
                raise
            await asyncio.sleep(1)
    async with store.session() as session:
        chunks = await session.value("SELECT count(*) FROM timescaledb_information.chunks")
        failed = await session.value(
            "SELECT count(*) FROM timescaledb_information.job_stats WHERE last_run_status = 'Failed'"
        )
    assert failed == 0
    return f"compressed by the scheduler after {time.monotonic() - began:.0f} s; {chunks} chunks"


CASES: Final[dict[str, Case]] = {
    "direct_compress": direct_compress,
    "direct_compress_off": direct_compress_off,
    "order_of_compressed_ticks": order_of_compressed_ticks,
    "two_sessions": two_sessions,
    "another_writer": another_writer,
    "scheduler": scheduler,
}


async def main(dsn: str, names: list[str]) -> None:
    """Run these cases one after the other."""
    for number, name in enumerate(names):
        async with database(dsn, number) as store:
            print(f"{name}: {await CASES[name](store)}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:] or list(CASES)))
