"""Checks of the store on a real TimescaleDB. They need COPY, a scheduler, or two sessions.

    python tools/timescale/check_real.py postgresql://postgres@127.0.0.1:5432/postgres [CASE...]

Each case creates a database of its own and drops it at the end. `check_plants.py` compares the rows of two plants, one
with this server and one with the embedded store. The tests of the repository run the other statements on a TimescaleDB
in WebAssembly.
"""

# ruff: noqa: S608 (all parts of the statements are constants of this file)

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pyarrow as pa

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the rows of the tests

from tests.persistence.feeding import Feed, has, running  # noqa: E402
from tests.store.rows import MINUTE_US, OPEN_US, bars, ticks, values  # noqa: E402
from tests.support.waiting import eventually  # noqa: E402

from tickerplant.app import health  # noqa: E402
from tickerplant.core import schemas  # noqa: E402
from tickerplant.core.errors import StoreError  # noqa: E402
from tickerplant.log.embedded import EmbeddedLog  # noqa: E402
from tickerplant.store import Store, maintenance  # noqa: E402
from tickerplant.store.migrations import migrate  # noqa: E402
from tickerplant.store.repositories.analytics import Analytics  # noqa: E402
from tickerplant.store.repositories.ohlcv import Ohlcv  # noqa: E402
from tickerplant.store.repositories.prices import Prices  # noqa: E402

Case = Callable[[Store, str], Awaitable[str]]
HYPERTABLES: Final = ("intraday_ohlcv", "historical_ohlcv", "intraday_analytics", "daily_analytics")
DAY_US: Final = 86_400_000_000


async def put_bars(store: Store, table: pa.Table) -> None:
    """Write bars as persistence does."""
    async with store.session() as session:
        await Ohlcv(session).prepare(table)
        async with session.transaction():
            await Ohlcv(session).upsert(table, 0)


async def put_ticks(store: Store, table: pa.Table) -> None:
    """Write ticks as persistence does."""
    async with store.session() as session:
        await Prices(session).prepare(table)
        async with session.transaction():
            await Prices(session).append(table, 0)


async def compress_all(store: Store) -> int:
    """Compress every chunk of bars and values; return the number of compressed chunks."""
    async with store.session() as session:
        for name in HYPERTABLES:
            await session.execute(
                f"SELECT compress_chunk(c, if_not_compressed => true) FROM show_chunks('{name}') AS c"
            )
        return int(await session.value("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"))


async def until(store: Store, sql: str, timeout_s: float = 60.0) -> None:
    """Wait until the query returns true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s), store.session() as session:
        while not await session.value(sql):  # noqa: ASYNC110 (the event is in the database)
            await asyncio.sleep(0.2)


async def run_by_scheduler(store: Store, condition: str) -> None:
    """Run one job with TimescaleDB's scheduler, and wait for its end."""
    async with store.session() as session:
        number = await session.value(f"SELECT job_id FROM timescaledb_information.jobs WHERE {condition}")
        runs = await session.value(f"SELECT total_runs FROM timescaledb_information.job_stats WHERE job_id = {number}")
        await session.execute(f"SELECT alter_job({number}, scheduled => true, next_start => now())")
    done = f"SELECT total_runs > {runs or 0} AND job_status <> 'Running'"
    await until(store, f"{done} FROM timescaledb_information.job_stats WHERE job_id = {number}")


async def case_decompression(store: Store, _: str) -> str:
    """Replace bars in compressed chunks by 300 official bars of one minute, which decompresses 300,000 rows."""
    symbols = [f"S{number:03d}" for number in range(300)]
    async with store.session() as session:
        await session.execute(
            """INSERT INTO intraday_ohlcv SELECT 'S' || to_char(s, 'FM000'), '1m',
                   '2012-06-21 13:30Z'::timestamptz + m * INTERVAL '1 minute', 1, 1, 1, 1, 1, 1, 1,
                   'final', true, false, 0, 1, '', 'test', now()
               FROM generate_series(0, 299) AS s, generate_series(0, 1949) AS m"""
        )
    chunks = await compress_all(store)
    official = bars(*({"symbol": name, "minute": 500, "price": 2.0, "version": 2} for name in symbols))
    began = time.monotonic()
    await put_bars(store, official)
    took_s = time.monotonic() - began
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM intraday_ohlcv WHERE close = 2") == 300
        assert await session.value("SELECT count(*) FROM intraday_ohlcv") == 300 * 1950
    return f"300 bars in {chunks} compressed chunks replaced in {took_s:.2f} s"


async def case_default_limit(_: Store, dsn: str) -> str:
    """Check that a session without the plant's setting has the limit; otherwise `case_decompression` proves nothing."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT count(*) FROM timescaledb_information.hypertables")
        limit = await connection.fetchval("SHOW timescaledb.max_tuples_decompressed_per_dml_transaction")
    finally:
        await connection.close()
    assert limit == "100000", limit
    return f"limit of other sessions: {limit}"


async def case_retention(store: Store, _: str) -> str:
    """Check that the scheduler drops rows by the later of their time and their arrival."""
    now_us = time.time_ns() // 1000
    await put_ticks(store, ticks(100))
    await put_ticks(store, ticks(50, start_us=OPEN_US + 40 * DAY_US))
    forming = {"interval": "1d", "time_us": now_us - now_us % DAY_US - DAY_US, "state": "forming", "sma_20": 1.0}
    table = values(forming)
    async with store.session() as session:
        await Analytics(session).prepare(table)
        async with session.transaction():
            await Analytics(session).upsert(table, 0)
        await session.execute("UPDATE arrivals SET arrived_at = now() - INTERVAL '6 days'")
    await put_ticks(store, ticks(7, start_us=OPEN_US + 3600 * 1_000_000))
    await run_by_scheduler(store, "proc_name = 'tickerplant_retention'")
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 107
        assert await session.value("SELECT count(*) FROM realtime_analytics") == 1
    return "an expired chunk was dropped; a chunk with late ticks and a fresh forming value were kept"


async def case_retention_waits_for_writers(store: Store, dsn: str) -> str:
    """Check that a chunk which receives rows while retention runs is kept."""
    await put_ticks(store, ticks(100))
    async with store.session() as session:
        await session.execute("UPDATE arrivals SET arrived_at = now() - INTERVAL '6 days'")
    other = await Store.open(dsn, max_size=1)
    try:
        async with other.session() as writer:
            async with writer.transaction():
                await Prices(writer).append(ticks(7, start_us=OPEN_US + MINUTE_US), 0)
                retention = asyncio.create_task(run_by_scheduler(store, "proc_name = 'tickerplant_retention'"))
                await asyncio.sleep(1.0)
            await retention
    finally:
        await other.close()
    async with store.session() as session:
        found = await session.value("SELECT count(*) FROM realtime_prices")
    assert found == 107, found
    return "107 ticks kept"


async def case_jobs(store: Store, _: str) -> str:
    """Check the jobs: all but retention retry after a minute, none is overdue, no policy compresses realtime_prices."""
    await maintenance.run_due(store, dt.datetime.now(dt.UTC))
    async with store.session() as session:
        slow = await session.rows(
            """SELECT job_id, proc_name FROM timescaledb_information.jobs
               WHERE job_id >= 1000 AND retry_period > INTERVAL '1 minute' AND proc_name <> 'tickerplant_retention'"""
        )
        assert not slow, slow
        policies = await session.rows(
            """SELECT hypertable_name FROM timescaledb_information.jobs
               WHERE proc_name IN ('policy_compression', 'policy_columnstore')"""
        )
    assert "realtime_prices" not in {row["hypertable_name"] for row in policies}
    found = await maintenance.jobs_status(store)
    assert not [job.name for job in found if job.overdue], found
    later = await maintenance.jobs_status(store, dt.datetime.now(dt.UTC) + dt.timedelta(days=3))
    assert all(job.overdue for job in later), later
    return f"{len(found)} jobs"


async def case_deadlocks(store: Store, dsn: str) -> str:
    """Run the refresh of a check roll-up, compressions and writers at once. The refresh never fails."""
    stop, failures = asyncio.Event(), 0

    async def write() -> None:
        minute = 0
        while not stop.is_set():
            await put_bars(
                other, bars(*({"symbol": f"S{n}", "minute": minute, "version": minute + 2} for n in range(50)))
            )
            minute += 1

    async def compress(job: int) -> None:
        nonlocal failures
        connection = await asyncpg.connect(dsn)
        try:
            while not stop.is_set():
                try:
                    await connection.execute(f"CALL run_job({job})")
                except asyncpg.DeadlockDetectedError:
                    failures += 1
        finally:
            await connection.close()

    async def roll_up() -> None:
        async with store.session() as session:
            while not stop.is_set():
                assert await maintenance.run_job(session, "rollup_1d", dt.datetime.now(dt.UTC)), "the job runs again"

    other = await Store.open(dsn, max_size=1)
    policy = "proc_name LIKE 'policy_co%' AND hypertable_name = 'intraday_ohlcv'"
    async with store.session() as session:
        job = int(await session.value(f"SELECT job_id FROM timescaledb_information.jobs WHERE {policy}"))
    tasks = [asyncio.create_task(one) for one in (write(), compress(job), roll_up())]
    await asyncio.sleep(15.0)
    stop.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    await other.close()
    errors = [one for one in done if isinstance(one, Exception)]
    assert not [one for one in errors if isinstance(one, StoreError)], errors
    async with store.session() as session:
        assert await maintenance.run_job(session, "rollup_1d", dt.datetime.now(dt.UTC))
    return f"{failures} deadlocks of the policy in 15 s, {len(errors)} other errors {errors}"


async def case_policy_retry(store: Store, dsn: str) -> str:
    """Check that a policy that gets no lock is due again within three minutes, and is not overdue until then."""
    policy = "proc_name LIKE 'policy_co%' AND hypertable_name = 'intraday_ohlcv'"
    async with store.session() as session:  # otherwise the policy may compress the chunk before it is locked
        await session.execute(
            f"SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE {policy}"
        )
    await put_bars(store, bars({"minute": 0}))
    await maintenance.run_due(store, dt.datetime.now(dt.UTC))
    own = f"job_id = (SELECT job_id FROM timescaledb_information.jobs WHERE {policy})"
    failed = f"SELECT last_run_status = 'Failed' FROM timescaledb_information.job_stats WHERE {own}"
    async with store.session() as holder:
        await holder.script("ALTER DATABASE tickerplant_check_policy_retry SET lock_timeout = '200ms'")
    async with store.session() as holder, holder.transaction():
        chunk = await holder.value("SELECT c::text FROM show_chunks('intraday_ohlcv') AS c")
        await holder.script(f"LOCK TABLE {chunk} IN ACCESS EXCLUSIVE MODE")
        await run_by_scheduler(store, policy)
        await until(store, failed)
    found = [job for job in await maintenance.jobs_status(store) if job.error]
    assert [(job.retried, job.overdue) for job in found] == [(True, False)], found
    async with store.session() as session:
        pause = await session.value(f"SELECT next_start - now() FROM timescaledb_information.job_stats WHERE {own}")
        assert pause < dt.timedelta(minutes=3), pause
    await run_by_scheduler(store, policy)
    assert not [job for job in await maintenance.jobs_status(store) if job.error]
    async with store.session() as session:
        assert await session.value("SELECT bool_and(is_compressed) FROM timescaledb_information.chunks")
    return f"{found[0].error}; the next run was due in {pause.total_seconds():.0f} s, and succeeded"


async def case_refusal(store: Store, dsn: str) -> str:
    """Check that a refused record stops only its partition; `health` is ok when the cause is removed."""

    def state(log: EmbeddedLog, applied: dict[tuple[str, int], int]) -> tuple[str, str]:
        [part] = health.persistence_health(log, lambda: applied, time.time_ns() // 1000)
        return part.state, part.sentence

    with tempfile.TemporaryDirectory() as folder:
        log = EmbeddedLog(Path(folder) / "market.log")
        log.create_topics(schemas.TOPICS, 3)
        feed = Feed(log)
        async with store.session() as session:
            await session.script("ALTER TABLE realtime_prices ADD CONSTRAINT few CHECK (symbol <> 'S0001')")
        feed.ticks(10, 1)
        refused = feed.ticks(40, 1, symbols=2)
        feed.ticks(10, 0)
        async with running(log, dsn) as persistence:
            await eventually(lambda: persistence.counts.refused_partitions == 1)
            feed.ticks(10, 0)
            await eventually(has(store, "realtime_prices", 30))
            async with store.read() as reading:
                applied = await reading.positions()
            failed, sentence = state(log, applied)
            assert (failed, applied[schemas.RAW, 1]) == ("failed", refused), (failed, applied)
            assert "few" in sentence, sentence
        async with store.session() as session:
            await session.script("ALTER TABLE realtime_prices DROP CONSTRAINT few")
        async with running(log, dsn):
            await eventually(has(store, "realtime_prices", 70))
            await eventually(lambda: state(log, applied)[0] == "ok")
        log.close()
    return f"70 ticks are stored after the cause was removed; {sentence}"


CASES: Final[dict[str, Case]] = {
    name.removeprefix("case_"): function for name, function in list(globals().items()) if name.startswith("case_")
}


@asynccontextmanager
async def database(server: str, name: str) -> AsyncIterator[str]:
    """Create a database for the block and yield its address."""
    connection = await asyncpg.connect(server)
    await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()


async def run(server: str, names: Sequence[str]) -> int:
    """Run the cases and print one line for each; return the number of failures."""
    failed = 0
    for name in names:
        async with database(server, f"tickerplant_check_{name}") as dsn:
            store = await Store.open(dsn)
            try:
                await migrate(store)
                assert store.flavour == "timescaledb", "the server has no TimescaleDB"
                print(f"ok      {name}: {await CASES[name](store, dsn)}", flush=True)
            except Exception as error:  # the other cases still run
                failed += 1
                print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
            finally:
                await store.close()
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    raise SystemExit(min(1, asyncio.run(run(sys.argv[1], sys.argv[2:] or list(CASES)))))
