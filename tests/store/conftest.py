"""The stores of the tests: the embedded server, PostgreSQL over TCP, and TimescaleDB.

A test with the fixture `store` runs on all three. `PLAIN` and `SEVERAL_SESSIONS` select stores for a test that needs
tables without TimescaleDB, or more than one session at a time:

    @pytest.mark.parametrize("database", PLAIN, indirect=True)

TimescaleDB runs in WebAssembly, or is the server that `TIMESCALE_DSN` names.
`TIMESCALE_DSN=postgresql://user@host:port/postgres .venv/bin/pytest tests/store -m timescale` runs the tests on a real
TimescaleDB. Each test then has a database of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.timescale import TimescaleServer
from tickerplant.store import Store
from tickerplant.store.migrations import migrate

REAL_DSN: Final = os.environ.get("TIMESCALE_DSN", "")
PLAIN: Final = ("embedded", "tcp")
TIMESCALE: Final = pytest.param("timescale", marks=pytest.mark.timescale)
SEVERAL_SESSIONS: Final = (*PLAIN, TIMESCALE) if REAL_DSN else PLAIN
"""Stores that serve several sessions at a time. TimescaleDB in WebAssembly serves one."""
_TABLES: Final = "tables"
_NUMBERS = itertools.count()


@pytest.fixture(params=[*PLAIN, TIMESCALE])
def database(request: pytest.FixtureRequest) -> str | TimescaleServer | None:
    """Return the address of a database with tables. For TimescaleDB, return the fixture `timescale_server`."""
    if request.param == "timescale":
        server: TimescaleServer | None = request.getfixturevalue("timescale_server")
        return server
    dsn: str = request.getfixturevalue("dsn")
    return request.getfixturevalue("postgres").over_tcp(dsn) if request.param == "tcp" else dsn


@pytest.fixture
async def store(database: str | TimescaleServer | None) -> AsyncIterator[Store]:
    """Yield a store with tables: embedded, over TCP, or on TimescaleDB."""
    opening = _at(database) if isinstance(database, str) else _with_tables(database)
    async with opening as opened:
        yield opened


@pytest.fixture(scope="session")
def timescale_server() -> Iterator[TimescaleServer | None]:
    """Yield the server in WebAssembly, with tables in one schema; None if `TIMESCALE_DSN` names a real server."""
    if REAL_DSN:
        yield None
        return
    with TimescaleServer() as server:
        asyncio.run(_create_tables(server))
        yield server


@pytest.fixture
async def empty_timescale(timescale_server: TimescaleServer | None) -> AsyncIterator[Store]:
    """Yield a store on TimescaleDB without tables."""
    async with _without_tables(timescale_server) as opened:
        yield opened


@pytest.fixture
async def timescale(timescale_server: TimescaleServer | None) -> AsyncIterator[Store]:
    """Yield a store on TimescaleDB with tables."""
    async with _with_tables(timescale_server) as opened:
        yield opened


@pytest.fixture
async def timescale_dsn(timescale_server: TimescaleServer | None) -> AsyncIterator[str]:
    """Yield the address of a TimescaleDB, for code that opens connections itself."""
    if timescale_server is not None:
        yield timescale_server.dsn
        return
    async with _database() as dsn:
        yield dsn


@asynccontextmanager
async def _at(dsn: str) -> AsyncIterator[Store]:
    store = await Store.open(dsn)
    yield store
    await store.close()


def _without_tables(server: TimescaleServer | None) -> AbstractAsyncContextManager[Store]:
    return _in_database() if server is None else _in_new_schema(server)


@asynccontextmanager
async def _with_tables(server: TimescaleServer | None) -> AsyncIterator[Store]:
    if server is None:
        async with _in_database() as store:
            await migrate(store)
            yield store
        return
    store = await _open(server, _TABLES)
    try:
        yield store
        async with store.session() as session:
            await session.script("SELECT tests_restore()")
    finally:
        await store.close()


# The server in WebAssembly has one database, so a store is a schema.


async def _open(server: TimescaleServer, schema: str) -> Store:
    async def enter(connection: asyncpg.Connection) -> None:
        await connection.execute(f"SET search_path = {schema}, public")

    options: dict[str, Any] = server.connect_args | {"setup": enter}
    return await Store.open(server.dsn, max_size=1, copies=False, connect_args=options)


@asynccontextmanager
async def _in_new_schema(server: TimescaleServer) -> AsyncIterator[Store]:
    name = f"t{next(_NUMBERS)}"
    await _run(server, f"CREATE SCHEMA {name}")
    store = await _open(server, name)
    yield store
    async with store.session() as session:
        await session.execute(f"DROP SCHEMA {name} CASCADE")
    await store.close()


# Restores the rows and columns that the migrations create. New migrations take a second, this takes 0.1 s.
_RESTORE: Final = f"""
    CREATE SCHEMA {_TABLES}_rows;
    DO $$
    DECLARE
        name text;
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{_TABLES}' LOOP
            EXECUTE format('CREATE TABLE {_TABLES}_rows.%I AS TABLE {_TABLES}.%I', name, name);
        END LOOP;
    END
    $$;
    CREATE FUNCTION {_TABLES}.tests_restore() RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        item record;
        filled boolean;
    BEGIN
        FOR item IN SELECT tablename AS name FROM pg_tables WHERE schemaname = '{_TABLES}_rows' LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM {_TABLES}.%1$I) OR EXISTS (SELECT FROM {_TABLES}_rows.%1$I)',
                item.name) INTO filled;
            IF filled THEN
                EXECUTE format('TRUNCATE {_TABLES}.%I CASCADE', item.name);
                EXECUTE format('INSERT INTO {_TABLES}.%1$I SELECT * FROM {_TABLES}_rows.%1$I', item.name);
            END IF;
        END LOOP;
        -- TimescaleDB modifies the statement, so that it must not be a prepared one.
        EXECUTE 'TRUNCATE {_TABLES}.ohlcv_5m_rollup';
        EXECUTE 'TRUNCATE {_TABLES}.ohlcv_1d_rollup';
        FOR item IN SELECT c.table_name, c.column_name FROM information_schema.columns AS c
                WHERE c.table_schema = '{_TABLES}' AND c.table_name LIKE '%\\_analytics' AND NOT EXISTS (
                    SELECT FROM information_schema.columns AS k WHERE k.table_schema = '{_TABLES}_rows'
                        AND k.table_name = c.table_name AND k.column_name = c.column_name) LOOP
            EXECUTE format('ALTER TABLE {_TABLES}.%I DROP COLUMN %I', item.table_name, item.column_name);
        END LOOP;
    END
    $$;
"""


async def _create_tables(server: TimescaleServer) -> None:
    await _run(server, f"CREATE EXTENSION IF NOT EXISTS timescaledb; CREATE SCHEMA {_TABLES}")
    store = await _open(server, _TABLES)
    await migrate(store)
    async with store.session() as session:
        await session.script(_RESTORE)
    await store.close()


async def _run(server: TimescaleServer, sql: str) -> None:
    connection = await asyncpg.connect(server.dsn, **server.connect_args)
    await connection.execute(sql)
    await connection.close()


@asynccontextmanager
async def _database() -> AsyncIterator[str]:
    """Create a database with the extension on the real server, and yield its address."""
    name = f"t{os.getpid()}_{next(_NUMBERS)}"
    connection = await asyncpg.connect(REAL_DSN)
    await connection.execute(f"CREATE DATABASE {name}")
    dsn = urlsplit(REAL_DSN)._replace(path=f"/{name}").geturl()
    own = await asyncpg.connect(dsn)
    # Tests run jobs by hand. The scheduler would run the same jobs beside them.
    await own.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    await own.execute("SELECT _timescaledb_functions.stop_background_workers()")
    await own.close()
    yield dsn
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@asynccontextmanager
async def _in_database() -> AsyncIterator[Store]:
    async with _database() as dsn:
        store = await Store.open(dsn)
        yield store
        await store.close()
