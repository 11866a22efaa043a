"""A TimescaleDB for tests of the store: in WebAssembly, or the server that `TIMESCALE_DSN` names.

`TIMESCALE_DSN=postgresql://user@host:port/postgres .venv/bin/pytest tests/store -m timescale` runs the tests on a real
TimescaleDB. Each test then has a database of its own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.timescale import TimescaleServer
from tickerplant.store import Store
from tickerplant.store.migrations import migrate

REAL_DSN: Final = os.environ.get("TIMESCALE_DSN", "")
_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def timescale_server() -> Iterator[TimescaleServer | None]:
    """Yield the server in WebAssembly; None if `TIMESCALE_DSN` names a real one."""
    if REAL_DSN:
        yield None
        return
    with TimescaleServer() as server:
        yield server


@pytest.fixture
async def empty_timescale(timescale_server: TimescaleServer | None) -> AsyncIterator[Store]:
    """Yield a store without tables."""
    opened = _in_schema(timescale_server) if timescale_server is not None else _in_database()
    async with opened as store:
        yield store


@pytest.fixture
async def timescale(empty_timescale: Store) -> Store:
    """Return a store with tables."""
    await migrate(empty_timescale)
    return empty_timescale


@asynccontextmanager
async def _in_schema(server: TimescaleServer) -> AsyncIterator[Store]:
    """Open a store in a schema of its own, because the server has only one database."""
    name = f"t{next(_NUMBERS)}"

    async def enter(connection: asyncpg.Connection) -> None:
        await connection.execute(f"SET search_path = {name}, public")

    connection = await asyncpg.connect(server.dsn, **server.connect_args)
    await connection.execute(f"CREATE EXTENSION IF NOT EXISTS timescaledb; CREATE SCHEMA {name}")
    await connection.close()
    options = server.connect_args | {"setup": enter}
    store = await Store.open(server.dsn, max_size=1, copies=False, connect_args=options)
    yield store
    async with store.session() as session:
        await session.execute(f"DROP SCHEMA {name} CASCADE")
    await store.close()


@asynccontextmanager
async def _in_database() -> AsyncIterator[Store]:
    name = f"t{os.getpid()}_{next(_NUMBERS)}"
    connection = await asyncpg.connect(REAL_DSN)
    await connection.execute(f"CREATE DATABASE {name}")
    dsn = urlsplit(REAL_DSN)._replace(path=f"/{name}").geturl()
    own = await asyncpg.connect(dsn)
    # Tests run jobs by hand. The scheduler would run the same jobs beside them.
    await own.execute("CREATE EXTENSION timescaledb")
    await own.execute("SELECT _timescaledb_functions.stop_background_workers()")
    await own.close()
    store = await Store.open(dsn)
    yield store
    await store.close()
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()
