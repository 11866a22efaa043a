"""Tables, compression, retention and jobs on a real TimescaleDB (by default: one session, no COPY, no scheduler)."""

import datetime as dt

import pytest

from tests.store.rows import OPEN_US, bars, ticks, values
from tests.store.test_bars import closes, put, put_values
from tests.store.test_compression import MAX_AGE_DAYS
from tests.store.test_prices import put as put_ticks
from tickerplant.store import Store
from tickerplant.store.maintenance import jobs_status, run_due
from tickerplant.store.migrations import migrate, status
from tickerplant.store.repositories.analytics import Analytics

pytestmark = [pytest.mark.timescale]
NOW = dt.datetime.now(dt.UTC)


async def job(store: Store, condition: str) -> int:
    async with store.session() as session:
        found = await session.rows(f"SELECT job_id FROM timescaledb_information.jobs WHERE {condition}")
    assert len(found) == 1, condition
    return int(found[0]["job_id"])


async def run(store: Store, condition: str) -> None:
    number = await job(store, condition)
    async with store.session() as session:
        await session.script(f"CALL run_job({number})")


async def test_tables_are_hypertables_with_compression_and_policies(timescale: Store) -> None:
    assert await migrate(timescale) == []
    assert (await status(timescale)).flavour == timescale.flavour == "timescaledb"
    async with timescale.session() as session:
        tables = await session.rows(
            """SELECT hypertable_name AS name, compression_enabled AS compressed
               FROM timescaledb_information.hypertables WHERE hypertable_schema = current_schema()"""
        )
        assert {row["name"]: row["compressed"] for row in tables} == {
            "realtime_prices": True,
            "intraday_ohlcv": True,
            "historical_ohlcv": True,
            "intraday_analytics": True,
            "daily_analytics": True,
            "realtime_analytics": False,
            "coverage": True,
        }
        policies = await session.rows(
            """SELECT hypertable_name AS name, config->>'compress_after' AS after FROM timescaledb_information.jobs
               WHERE proc_name IN ('policy_compression', 'policy_columnstore')"""
        )
        tables_only = {row["name"]: row["after"] for row in policies if row["name"] in MAX_AGE_DAYS}
        assert tables_only == {
            "intraday_ohlcv": "3 days",
            "historical_ohlcv": "7 days",
            "intraday_analytics": "7 days",
            "daily_analytics": "30 days",
            "coverage": "7 days",
        }
        indexes = await session.rows("SELECT indexdef FROM pg_indexes WHERE tablename = 'realtime_prices'")
        assert ["(symbol, " in row["indexdef"] for row in indexes] == [True]


async def test_plain_tables_are_created_on_request_beside_the_extension(empty_timescale: Store) -> None:
    store = empty_timescale
    await migrate(store, plain=True)
    assert store.flavour == "postgresql"
    await put_ticks(store, ticks(10))
    async with store.session() as session:
        partitions_of = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'realtime_prices'::regclass"
        assert await session.value(partitions_of) == 1


async def test_compressed_chunks_accept_newer_versions_withdrawals_and_columns(timescale: Store) -> None:
    await put(timescale, bars(*({"minute": i, "price": float(i)} for i in range(5))))
    await put_values(timescale, values(*({"minute": i, "sma_20": float(i)} for i in range(5))))
    await run(timescale, "hypertable_name = 'intraday_ohlcv' AND proc_name LIKE 'policy_co%'")
    await run(timescale, "hypertable_name = 'intraday_analytics' AND proc_name LIKE 'policy_co%'")
    async with timescale.session() as session:
        compressed = await session.value("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed")
        assert compressed == 2
    await put(timescale, bars({"minute": 1, "price": 10.0, "version": 2}, {"minute": 2, "price": 9.0, "version": 0}))
    await put(timescale, bars({"minute": 3, "state": "withdrawn", "version": 2}))
    assert [close for _, close, _ in await closes(timescale)] == [0.0, 10.0, 2.0, 4.0]
    async with timescale.read() as session:
        [known] = (await session.symbols.list()).to_pylist()
    assert known["last_price"] == 4.0
    async with timescale.session() as session:
        await Analytics(session).ensure_columns(["macd_12_26_9"])
    await put_values(timescale, values({"minute": 0, "version": 2, "macd_12_26_9": 5.0}, names=["macd_12_26_9"]))
    async with timescale.read() as session:
        table = await session.analytics.read("GOOG", "1m", names=["sma_20", "macd_12_26_9"])
    # A newer version replaces the whole row. No value of the older version stays.
    assert table.column("sma_20").to_pylist() == [None, 1.0, 2.0, 4.0]
    assert table.column("macd_12_26_9").to_pylist() == [5.0, None, None, None]


async def test_retention_counts_from_the_later_of_time_and_arrival(timescale: Store) -> None:
    await put_ticks(timescale, ticks(100))  # ticks of 2012 that arrive now
    await put(timescale, bars({"interval": "1d", "time_us": 0}))
    await run(timescale, "proc_name = 'tickerplant_retention'")
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 100
        await session.script("UPDATE retention SET keep = '0' WHERE relation = 'realtime_prices'")
    now = dt.datetime.now(dt.UTC)
    await put_ticks(timescale, ticks(7, start_us=int(now.timestamp() * 1e6)))  # its chunk has not ended
    await run(timescale, "proc_name = 'tickerplant_retention'")
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 7
        assert await session.value("SELECT count(*) FROM historical_ohlcv") == 1


async def test_ticks_that_arrive_late_in_an_old_chunk_are_kept_for_the_retention(timescale: Store) -> None:
    await put_ticks(timescale, ticks(100))  # ticks of 2012
    async with timescale.session() as session:  # they arrived six days ago, when their chunk was created
        await session.execute("UPDATE arrivals SET arrived_at = now() - INTERVAL '6 days'")
    await put_ticks(timescale, ticks(7, start_us=OPEN_US + 3600_000_000))
    await put_ticks(timescale, ticks(9, start_us=OPEN_US + 40 * 86_400_000_000))  # another chunk
    async with timescale.session() as session:
        await session.execute(
            "UPDATE arrivals SET arrived_at = now() - INTERVAL '6 days' WHERE starts_at > '2012-07-01'"
        )
    await run(timescale, "proc_name = 'tickerplant_retention'")
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 107
        assert await session.value("SELECT count(*) FROM arrivals") == 1
        await session.execute("UPDATE arrivals SET arrived_at = now() - INTERVAL '6 days'")
    await run(timescale, "proc_name = 'tickerplant_retention'")
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 0
        assert await session.value("SELECT count(*) FROM arrivals") == 0


async def test_a_forming_value_is_kept_for_an_hour_after_its_last_change(timescale: Store) -> None:
    now = dt.datetime.now(dt.UTC)
    midnight_us = int(now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1e6)
    day = {"interval": "1d", "time_us": midnight_us - 86_400_000_000, "state": "forming"}  # the session of a day ago
    await put_values(timescale, values(day | {"symbol": "OLD", "sma_20": 1.0}, day | {"symbol": "NEW", "sma_20": 2.0}))
    async with timescale.session() as session:
        await session.execute(
            "UPDATE realtime_analytics SET updated_at = now() - INTERVAL '2 hours' WHERE symbol = 'OLD'"
        )
    await run(timescale, "proc_name = 'tickerplant_retention'")
    async with timescale.session() as session:
        assert [row["symbol"] for row in await session.rows("SELECT symbol FROM realtime_analytics")] == ["NEW"]
        await session.execute("UPDATE realtime_analytics SET updated_at = now() - INTERVAL '2 hours'")
    await run(timescale, "proc_name = 'tickerplant_retention'")
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_analytics") == 0
        chunks = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'realtime_analytics'"
        assert await session.value(f"{chunks} AND hypertable_schema = current_schema()") == 0


async def test_a_minute_of_many_symbols_in_a_compressed_chunk_is_replaced(timescale: Store) -> None:
    # Each bar decompresses the 1,000 rows of its symbol; the limit of a session is 100,000 rows by default.
    symbols = [f"S{number:03d}" for number in range(101)]
    async with timescale.session() as session:
        await session.script(
            """INSERT INTO intraday_ohlcv SELECT 'S' || to_char(s, 'FM000'), '1m',
                   '2012-06-21 13:30Z'::timestamptz + m * INTERVAL '1 minute', 1, 1, 1, 1, 1, 1, 1,
                   'final', true, false, 0, 1, '', 'test', now()
               FROM generate_series(0, 100) AS s, generate_series(0, 999) AS m"""
        )
    await run(timescale, "hypertable_name = 'intraday_ohlcv' AND proc_name LIKE 'policy_co%'")
    official = [{"symbol": symbol, "minute": 500, "price": 2.0, "version": 2} for symbol in symbols]
    await put(timescale, bars(*official))
    async with timescale.session() as session:
        assert await session.value("SELECT count(*) FROM intraday_ohlcv WHERE close = 2") == 101
        limit = "timescaledb.max_tuples_decompressed_per_dml_transaction"
        assert await session.value(f"SHOW {limit}") == "0"


async def test_the_status_of_all_jobs_is_reported(timescale: Store) -> None:
    assert await run_due(timescale, dt.datetime.now(dt.UTC)) == ["rollup_5m", "rollup_1d", "retention", "compare"]
    await run(timescale, "proc_name = 'tickerplant_retention'")
    found = {job.name: job for job in await jobs_status(timescale)}
    assert {"compare", "retention", "tickerplant_retention"} <= set(found)
    assert {"rollup_5m", "rollup_1d"} <= set(found)
    assert [job.error for job in found.values() if job.error] == []
    assert found["compare"].last_run_at is not None
