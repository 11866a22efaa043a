"""Migrations: in order, once, and never over something else."""

import asyncio

import pytest

from tickerplant.core.errors import MigrationError
from tickerplant.store import Store
from tickerplant.store.migrations import all_migrations, migrate, render, status

NAMES = [migration.name for migration in all_migrations()]


async def test_migrating_twice_is_harmless_and_status_says_what_is_there(empty_dsn: str) -> None:
    store = await Store.open(empty_dsn, max_size=2)
    assert (await status(store)).pending == tuple(NAMES)
    assert await migrate(store) == NAMES
    assert await migrate(store) == []
    found = await status(store)
    assert (found.applied, found.pending, found.flavour) == (tuple(NAMES), (), "postgresql")
    await store.close()


async def test_two_that_migrate_at_once_do_it_once(empty_dsn: str) -> None:
    stores = [await Store.open(empty_dsn, max_size=1) for _ in range(3)]
    done = await asyncio.gather(*(migrate(store) for store in stores))
    assert sorted(map(len, done)) == [0, 0, len(NAMES)]
    for store in stores:
        await store.close()


async def test_a_migration_of_another_text_or_a_newer_database_is_refused(store: Store) -> None:
    async with store.session() as session:
        await session.script("UPDATE schema_migrations SET checksum = 'x' WHERE number = 2")
    with pytest.raises(MigrationError, match="another text"):
        await migrate(store)
    async with store.session() as session:
        await session.script("UPDATE schema_migrations SET number = 900, name = '0900_later.sql' WHERE number = 2")
    with pytest.raises(MigrationError, match=r"0900_later\.sql.*upgrade"):
        await status(store)


def test_each_flavour_is_rendered_alone() -> None:
    text = "a\n-- only: postgresql\nb\n-- end\n-- only: timescaledb\nc\n-- end\nd"
    assert render(text, "postgresql").split() == ["a", "b", "d"]
    assert render(text, "timescaledb").split() == ["a", "c", "d"]
    with pytest.raises(MigrationError, match="no flavour"):
        render("-- only: mysql\n-- end", "postgresql")
    with pytest.raises(MigrationError, match="does not end"):
        render("-- only: postgresql\nx", "postgresql")
