"""Migrations: they run once and in order, and a changed or newer schema is refused."""

import asyncio

import asyncpg
import pytest

from tests.store.conftest import SEVERAL_SESSIONS
from tickerplant.core.errors import MigrationError, StoreUnavailable
from tickerplant.store import Store, migrations
from tickerplant.store.migrations import all_migrations, migrate, render, status
from tickerplant.store.session import advisory_lock, translate_errors

NAMES = [migration.name for migration in all_migrations()]


async def test_migrating_twice_is_harmless_and_status_lists_applied_migrations(empty_dsn: str) -> None:
    store = await Store.open(empty_dsn, max_size=2)
    assert (await status(store)).pending == tuple(NAMES)
    assert await migrate(store) == NAMES
    assert await migrate(store) == []
    found = await status(store)
    assert (found.applied, found.pending, found.flavour) == (tuple(NAMES), (), "postgresql")
    await store.close()


async def test_concurrent_migrations_run_once(empty_dsn: str) -> None:
    stores = [await Store.open(empty_dsn, max_size=1) for _ in range(3)]
    done = await asyncio.gather(*(migrate(store) for store in stores))
    assert sorted(map(len, done)) == [0, 0, len(NAMES)]
    for store in stores:
        await store.close()


async def test_a_changed_migration_or_a_newer_database_is_refused(store: Store) -> None:
    async with store.session() as session:
        await session.script("UPDATE schema_migrations SET checksum = 'x' WHERE number = 2")
    with pytest.raises(MigrationError, match="differs from the migration"):
        await migrate(store)
    async with store.session() as session:
        await session.script("UPDATE schema_migrations SET number = 900, name = '0900_later.sql' WHERE number = 2")
    with pytest.raises(MigrationError, match=r"0900_later\.sql.*upgrade"):
        await status(store)


async def test_a_table_of_the_user_with_the_name_of_a_view_is_named_and_kept(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(empty_dsn, max_size=1)
    every = all_migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "all_migrations", lambda: every[:13])
        await migrate(store)
    async with store.session() as session:
        await session.script("CREATE TABLE bars AS SELECT 7 AS mine")
    with pytest.raises(MigrationError, match=r'0014_sql_interface.*"bars" already exists.*Rename'):
        await migrate(store)
    async with store.session() as session:
        assert await session.value("SELECT mine FROM bars") == 7
        await session.script("ALTER TABLE bars RENAME TO my_bars")
    assert await migrate(store) == NAMES[13:]
    await store.close()


async def test_former_answers_are_migrated_to_the_newest_of_each_instant(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await Store.open(empty_dsn, max_size=1)
    every = all_migrations()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "all_migrations", lambda: every[:6])
        await migrate(store)
    rows = [
        # from, to, source, verdict, version. The pairs: adjacent answers, an answer cut in two, a hidden answer.
        ("00:00", "00:05", "a", "answered", 1), ("00:05", "00:09", "a", "answered", 2),
        ("00:20", "00:40", "a", "quota", 3), ("00:25", "00:30", "b", "answered", 4),
        ("00:50", "00:55", "a", "outage", 5), ("00:45", "00:59", "b", "answered", 6),
    ]  # fmt: skip
    async with store.session() as session:
        for begin, end, source, verdict, version in rows:
            await session.script(
                f"""INSERT INTO answers VALUES ('GOOG', '1m', '2012-06-21 {begin}Z', '2012-06-21 {end}Z', '{source}',
                    '{verdict}', NULL, NULL, {version})"""
            )
        await session.script("INSERT INTO answers SELECT symbol, '5m', from_time, to_time, source, verdict, note,"
                             " again_at, version FROM answers WHERE version = 1")  # fmt: skip
    assert await migrate(store) == NAMES[6:]
    async with store.session() as session:
        found = await session.rows(
            """SELECT to_char(from_time AT TIME ZONE 'UTC', 'HH24:MI'), to_char(to_time AT TIME ZONE 'UTC', 'HH24:MI'),
                   source, verdict, version FROM answers WHERE interval = '1m' ORDER BY from_time"""
        )
        assert [tuple(row) for row in found] == [
            ("00:00", "00:09", "a", "answered", 2), ("00:20", "00:25", "a", "quota", 3),
            ("00:25", "00:30", "b", "answered", 4), ("00:30", "00:40", "a", "quota", 3),
            ("00:45", "00:59", "b", "answered", 6),
        ]  # fmt: skip
        assert await session.value("SELECT count(*) FROM answers") == 6
    await store.close()


def test_each_flavour_is_rendered_separately() -> None:
    text = "a\n-- only: postgresql\nb\n-- end\n-- only: timescaledb\nc\n-- end\nd"
    assert render(text, "postgresql").split() == ["a", "b", "d"]
    assert render(text, "timescaledb").split() == ["a", "c", "d"]
    with pytest.raises(MigrationError, match="unknown flavour"):
        render("-- only: mysql\n-- end", "postgresql")
    with pytest.raises(MigrationError, match="does not end"):
        render("-- only: postgresql\nx", "postgresql")


async def test_an_extension_that_the_server_does_not_load_is_reported_with_what_to_edit() -> None:
    with pytest.raises(MigrationError) as raised, translate_errors():
        raise asyncpg.InternalServerError('extension "timescaledb" must be preloaded')
    text = str(raised.value)
    for words in (
        "shared_preload_libraries",
        "SHOW config_file",
        "restart the server",
        "`tickerplant init-db --plain`",
    ):
        assert words in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("database", SEVERAL_SESSIONS, indirect=True)
async def test_an_error_that_ends_the_connection_is_not_hidden_by_the_release_of_the_lock(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        async with store.session() as session, advisory_lock(session, 99):
            await session.execute("SELECT pg_terminate_backend(pg_backend_pid())")


async def test_plain_tables_are_created_on_request_and_only_in_a_new_database(empty_dsn: str) -> None:
    store = await Store.open(empty_dsn, max_size=2)
    assert await migrate(store, plain=True) == NAMES
    assert store.flavour == "postgresql"
    assert await migrate(store, plain=True) == []
    async with store.session() as session:
        await session.script("UPDATE schema_migrations SET flavour = 'timescaledb'")
        with pytest.raises(MigrationError, match="for a database without tables"):
            await migrate(store, plain=True)
    await store.close()
