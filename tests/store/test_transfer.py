"""`transfer` copies the rows of a store into an empty store of each kind, and then binds this store to the new log."""

from __future__ import annotations

import asyncpg
import pytest

from tests.upgrade.fixture import load_store
from tickerplant.core.errors import StoreMismatch
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.repositories.positions import Log
from tickerplant.store.transfer import NOT_COPIED, claim, transfer

NEW = Log("new", 1)
TABLES = (
    "alert_firings", "alert_webhooks", "alerts", "answers", "coverage", "daily_analytics", "dead_letters", "dividends",
    "feeds", "historical_ohlcv", "intraday_analytics", "intraday_ohlcv", "realtime_analytics", "realtime_prices",
    "retention", "source_order", "splits", "symbols",
)  # fmt: skip
FILLED = {"alert_firings", "alerts", "coverage", "historical_ohlcv", "intraday_analytics", "intraday_ohlcv", "symbols"}


@pytest.fixture
async def former(empty_dsn: str) -> str:
    """Return the address of a store with the rows of an older version's plant, and one table of a user."""
    load_store(empty_dsn, "embedded")
    store = await Store.open(empty_dsn, max_size=1)
    await migrate(store)
    async with store.session() as session:
        await session.script("CREATE TABLE mine (number integer); UPDATE retention SET keep = '9 days' "
                             "WHERE relation = 'realtime_prices'")  # fmt: skip
    await store.close()
    return empty_dsn


async def bound(store: Store) -> Log | None:
    async with store.read() as session:
        return await session.bound_to()


@pytest.mark.slow
async def test_every_row_is_copied_once(former: str, store: Store) -> None:
    source = await asyncpg.connect(former, statement_cache_size=0)
    try:
        log = Log(*await source.fetchrow("SELECT log_id, generation FROM plant"))
        positions = await source.fetch("SELECT topic, partition, position, resume, cause FROM positions ORDER BY 1, 2")
        assert not await claim(store, log)
        assert await bound(store) == log
        assert await claim(store, log), "an interrupted transfer is repeated"
        done = await transfer(former, store, NEW, lambda table, count: None)
        assert await bound(store) == NEW
        assert done.skipped == ("mine",)
        assert set(done.rows) - set(TABLES) <= {"positions", "ohlcv_5m_rollup", "ohlcv_1d_rollup"}
        async with store.session() as session:
            found = await session.rows("SELECT topic, partition, position, resume, cause FROM positions ORDER BY 1, 2")
            assert [tuple(row) for row in found] == [tuple(row) for row in positions]
            assert await session.value("SELECT count(*) FROM positions WHERE log_id <> 'new'") == 0
            for table in TABLES:
                columns = await source.fetchval(
                    "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
                    "WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped", table)  # fmt: skip
                sql = f"SELECT row({columns})::text FROM {table}"
                wanted = sorted(row[0] for row in await source.fetch(sql))
                assert sorted(row[0] for row in await session.rows(sql)) == wanted, table
                assert done.rows[table] == len(wanted)
                assert wanted or table not in FILLED, table
            assert await session.value("SELECT count(*) FROM arrivals") > 0
        with pytest.raises(StoreMismatch, match="follows log new"):
            await claim(store, log)
    finally:
        await source.close()


async def test_a_store_with_rows_is_refused(store: Store) -> None:
    async with store.session() as session:
        await session.execute("INSERT INTO positions VALUES ('a', 0, 'x', 1, 0, 0, 0)")
    with pytest.raises(StoreMismatch, match="the table positions of the database has rows"):
        await claim(store, NEW)
    assert await bound(store) is None


async def test_all_tables_are_copied_or_excluded_on_purpose(store: Store) -> None:
    """Fail if a migration has added a table that is neither copied nor excluded."""
    async with store.session() as session:
        rows = await session.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace "
            "AND relkind IN ('r', 'p') AND NOT relispartition"
        )
    known = {*TABLES, *NOT_COPIED, "positions", "ohlcv_5m_rollup", "ohlcv_1d_rollup"}
    assert {row[0] for row in rows} <= known
