"""Numbered SQL files, applied in order under an advisory lock and recorded with a checksum. A file is applied once.

One file serves two flavours: lines between `-- only: timescaledb` (or `-- only: postgresql`) and `-- end` belong to
that flavour only. The flavour is chosen and recorded when the first migration runs. A TimescaleDB that is installed
later does not change existing tables.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from tickerplant.core.errors import MigrationError, StoreError
from tickerplant.store.session import LOCK_MIGRATIONS, POSTGRESQL, TIMESCALEDB, Session, advisory_lock, flavour_of

if TYPE_CHECKING:
    from tickerplant.store.pool import Store

MIGRATION_S: Final = 86_400.0
"""Timeout of a migration in seconds. Some migrations copy the rows of a table."""
_NAME = re.compile(r"([0-9]{4})_[a-z0-9_]+\.sql\Z")


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file. `checksum` covers both flavours."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Return the SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """Applied and pending migrations of a database; `pending` is empty if the database matches this code."""

    flavour: str
    applied: tuple[str, ...]
    pending: tuple[str, ...]


def all_migrations() -> list[Migration]:
    """Return the migrations of this code, in order."""
    found = []
    for entry in resources.files(__name__).iterdir():
        match = _NAME.match(entry.name)
        if match is not None:
            found.append(Migration(int(match[1]), entry.name, entry.read_text()))
    return sorted(found, key=lambda migration: migration.number)


def render(text: str, flavour: str) -> str:
    """Return the SQL for one flavour. Raises MigrationError for a section without an end or flavour.

    >>> render('a' + chr(10) + '-- only: postgresql' + chr(10) + 'b' + chr(10) + '-- end', 'timescaledb')
    'a'
    """
    kept: list[str] = []
    only: str | None = None
    for line in text.splitlines():
        if line.startswith("-- only: "):
            only = line.removeprefix("-- only: ").strip()
            if only not in (TIMESCALEDB, POSTGRESQL):
                raise MigrationError(f"a migration has a section for the unknown flavour {only!r}")
        elif line == "-- end":
            only = None
        elif only is None or only == flavour:
            kept.append(line)
    if only is not None:
        raise MigrationError(f"a migration's section for {only} does not end")
    return "\n".join(kept)


async def migrate(store: Store, *, plain: bool = False) -> list[str]:
    """Apply the pending migrations and return their names.

    `plain` creates a new database's tables without TimescaleDB, even where the extension is installed. Each migration
    is one transaction, so an interrupted run can be resumed. Raises MigrationError for a database that is newer than
    this code or was created with different migrations. Also raises MigrationError if the server does not load the
    extension that it has, or if `plain` is set for tables of TimescaleDB. A table or view of the user with the name of
    a new table also causes MigrationError.
    """
    async with store.session() as session, advisory_lock(session, LOCK_MIGRATIONS):
        done = await _migrate(session, plain=plain)
    await store.detect_flavour()
    return done


async def status(store: Store) -> MigrationStatus:
    """Return the applied and pending migrations.

    Raises MigrationError for a database that is newer than this code or was created with different migrations.
    """
    async with store.session() as session:
        applied = await _applied(session)
    migrations = all_migrations()
    _check(migrations, applied)
    return MigrationStatus(
        store.flavour,
        tuple(m.name for m in migrations if m.number in applied),
        tuple(m.name for m in migrations if m.number not in applied),
    )


async def _migrate(session: Session, *, plain: bool) -> list[str]:
    applied = await _applied(session)
    migrations = all_migrations()
    _check(migrations, applied)
    if not applied:
        await _create_migrations_table(session, plain=plain)
    flavour = POSTGRESQL if plain else await flavour_of(session)
    if applied and plain and await flavour_of(session) != POSTGRESQL:
        raise MigrationError(
            "the tables of this database are TimescaleDB's, and --plain is for a database without tables; omit --plain"
        )
    done = []
    for migration in migrations:
        if migration.number in applied:
            continue
        await _run(session, migration, flavour)
        done.append(migration.name)
    return done


async def _run(session: Session, migration: Migration, flavour: str) -> None:
    try:
        async with session.transaction():
            await session.script(render(migration.text, flavour), MIGRATION_S)
            await session.execute(
                "INSERT INTO schema_migrations (number, name, checksum, flavour) VALUES ($1, $2, $3, $4)",
                migration.number,
                migration.name,
                migration.checksum,
                flavour,
            )
    except StoreError as error:
        if isinstance(error.__cause__, asyncpg.DuplicateTableError):
            raise MigrationError(
                f"migration {migration.name} cannot be applied: {error.__cause__}. Rename your own table or view of "
                "that name, and run `tickerplant migrate` again"
            ) from error
        raise


async def _create_migrations_table(session: Session, *, plain: bool) -> None:
    await session.script(
        """CREATE TABLE IF NOT EXISTS schema_migrations (
            number integer PRIMARY KEY,
            name text NOT NULL,
            checksum text NOT NULL,
            flavour text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        )"""
    )
    if not plain and await session.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'"):
        await session.script("CREATE EXTENSION IF NOT EXISTS timescaledb")


async def _applied(session: Session) -> Mapping[int, Any]:
    if not await session.value("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        return {}
    rows = await session.rows("SELECT number, name, checksum FROM schema_migrations")
    return {row["number"]: row for row in rows}


def _check(migrations: list[Migration], applied: Mapping[int, Any]) -> None:
    known = {migration.number: migration for migration in migrations}
    for number, row in sorted(applied.items()):
        if number not in known:
            raise MigrationError(
                f"the database has migration {row['name']}, which this version does not contain: "
                "it belongs to a newer Tickerplant; upgrade this installation"
            )
        if row["checksum"] != known[number].checksum:
            raise MigrationError(
                f"migration {row['name']} differs from the migration that created this database: run the "
                "version that created it, or create a new database and replay into it"
            )
