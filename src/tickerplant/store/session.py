"""A session: one connection to the database, with the driver's errors translated."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import asyncpg

from tickerplant.core.digits import is_digits
from tickerplant.core.errors import MigrationError, StoreError, StoreRefused, StoreUnavailable
from tickerplant.store import tls
from tickerplant.store.row_spans import RowSpans

TIMESCALEDB, POSTGRESQL = "timescaledb", "postgresql"
"""Names of the schema's flavours: with hypertables, or with table partitions."""

LOCK: Final = 0x7469636B  # "tick": the plant's advisory locks are (LOCK, n)
LOCK_MIGRATIONS, LOCK_PARTITIONS, LOCK_COLUMNS, LOCK_JOBS, LOCK_ALERTS, LOCK_ROLES = 1, 2, 3, 4, 5, 6

TRANSIENT: Final = (
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.ConnectionFailureError,
    asyncpg.ClientCannotConnectError,
    asyncpg.ConnectionRejectionError,
    asyncpg.TransactionResolutionUnknownError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleSessionTimeoutError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.QueryCanceledError,  # the server's statement_timeout; a later attempt may succeed under less load
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
    asyncpg.TooManyConnectionsError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.StatementCompletionUnknownError,
    asyncpg.LockNotAvailableError,
    asyncpg.ObjectInUseError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby before its promotion
    asyncpg.InvalidCachedStatementError,  # a column was added; the driver has dropped its cache
    asyncpg.InternalClientError,  # the connection ended between two messages of one exchange
    OSError,
    TimeoutError,
)
"""Errors that may pass while the caller waits. Classes of SQLSTATEs are listed by their members. Class 53, for example,
also contains a limit of the server's configuration (53400), which waiting does not change."""

DRIVER_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""All errors of the driver. Suppress them only where a connection is closed."""

_T = TypeVar("_T")

CLOSING_S: Final = 0.25
"""Seconds to wait for the close of a refused connection."""
MAX_ERROR_CHARS: Final = 1_000
"""Maximum characters of the database's text in an error message. PostgreSQL quotes the rows of a failed statement."""

_PERMANENT: Final = (ssl.SSLCertVerificationError, PermissionError)
"""OSErrors that waiting does not remove."""
_ENDED: Final = ("closed", "closing", "released back", "another operation is in progress")
"""Words of the driver's InterfaceErrors about a connection that has ended. Its other InterfaceErrors are about
arguments."""


NOT_LOADED: Final = 'extension "timescaledb" must be preloaded'
"""Text of the error with which TimescaleDB ends a connection to a server that does not load its library."""
LOAD_IT: Final = (
    "TimescaleDB is installed on this server, but not loaded. Add timescaledb to shared_preload_libraries in the "
    "server's postgresql.conf (SHOW config_file prints its path) and restart the server. Or create plain tables in a "
    "database without the extension: `tickerplant init-db --plain`"
)


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed later without a change of its arguments or of the configuration."""
    if type(error) is asyncpg.InterfaceError:
        return any(word in str(error) for word in _ENDED)
    return isinstance(error, TRANSIENT) and not isinstance(error, _PERMANENT) and not tls.refusal(error)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate the driver's errors.

    Raises StoreUnavailable for a transient error, and StoreRefused for a refused connection. Raises MigrationError for
    a missing table, or for an extension that is not loaded. Raises StoreError for any other error.
    """
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise MigrationError(f"{_text(error)}; run `tickerplant init-db` to create the tables") from error
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise StoreRefused(f"the database refuses the login: {_text(error)}; check --store") from error
    except asyncpg.ClientConfigurationError as error:
        raise StoreRefused(f"the address of the database cannot be used: {_text(error)}; correct --store") from error
    except DRIVER_ERRORS as error:
        if NOT_LOADED in str(error):
            raise MigrationError(LOAD_IT) from error
        if refusal := tls.refusal(error):
            raise StoreRefused(refusal) from error
        if is_transient(error):
            raise StoreUnavailable(f"the database is unavailable: {_text(error)}") from error
        raise StoreError(f"the database refused a statement: {_text(error)}") from error


async def connected(opening: Awaitable[_T]) -> _T:
    """Return the connection or the pool that `opening` opens, with the driver's errors translated.

    The driver begins to close a refused connection, and raises at once. An event loop that ended then would leave the
    socket open. This function therefore waits `CLOSING_S` for the server's close.
    """
    try:
        with translate_errors():
            return await opening
    except StoreRefused:
        await asyncio.sleep(CLOSING_S)
        raise


def _text(error: BaseException) -> str:
    """Return the error's text on one line of at most `MAX_ERROR_CHARS`, with its SQLSTATE."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + "…"
    state = getattr(error, "sqlstate", None)
    return f"{text} (SQLSTATE {state})" if state else text


@dataclass(slots=True)
class SchemaCache:
    """Cached facts about the database. A stale partition or column makes writes fail until the store is reopened."""

    partitions: set[tuple[str, int]] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    spans: RowSpans = field(default_factory=RowSpans)
    """Lengths of ranges of rows. A stale length costs a second query."""
    outputs: tuple[str, ...] = ()
    """Columns of indicator values at the last read of the newest state."""

    def clear(self) -> None:
        """Empty the cache. Called when a store is opened, and after a migration."""
        self.partitions.clear()
        self.columns.clear()
        self.spans.clear()
        self.outputs = ()


@dataclass(slots=True)
class Database:
    """Properties of a database that all its sessions share."""

    copies: bool = True
    """True if the store may use COPY."""
    flavour: str = ""
    """`TIMESCALEDB` or `POSTGRESQL`; "" before detection."""
    may_compress: bool = True
    """False if COPY must not write compressed chunks."""
    direct_compress: bool = False
    """True if the server supports COPY into compressed chunks, and `copies` and `may_compress` are true."""
    known: SchemaCache = field(default_factory=SchemaCache)


class Session:
    """One connection to the database. Belongs to one task at a time."""

    def __init__(self, connection: Any, database: Database) -> None:
        self.connection = connection
        self.flavour = database.flavour
        self.copies = database.copies
        self.direct_compress = database.direct_compress
        self.known = database.known
        self.filled: set[str] = set()
        """Temporary tables with rows of the open transaction."""

    @property
    def timescale(self) -> bool:
        """Return whether the tables are hypertables."""
        return self.flavour == TIMESCALEDB

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Begin a transaction, or a savepoint in an open one. Leaving the block commits; an exception rolls back."""
        with translate_errors():
            if not self.connection.is_in_transaction():
                self.filled.clear()
            async with self.connection.transaction():
                yield

    async def execute(self, sql: str, *arguments: Any) -> int:
        """Run one statement and return the count of changed rows; 0 for a statement that has no count."""
        with translate_errors():
            tag = await self.connection.execute(sql, *arguments)
        count = str(tag).rsplit(" ", 1)[-1]
        return int(count) if is_digits(count) else 0

    async def script(self, sql: str, timeout_s: float | None = None) -> None:
        """Run several statements without arguments. A text with comments only is skipped.

        `timeout_s` replaces the timeout of statements; None keeps it.
        """
        if all(not line.strip() or line.startswith("--") for line in sql.splitlines()):
            return
        with translate_errors():
            await self.connection.execute(sql, timeout=timeout_s)

    async def value(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row; None if there is no row, or if the value is NULL."""
        with translate_errors():
            return await self.connection.fetchval(sql, *arguments)

    async def rows(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Return all rows of the statement's result; [] if there are none."""
        with translate_errors():
            rows: Sequence[Any] = await self.connection.fetch(sql, *arguments)
        return rows


@asynccontextmanager
async def advisory_lock(session: Session, number: int) -> AsyncIterator[None]:
    """Hold one of the plant's advisory locks for the block; wait while another session holds it.

    A connection that has ended holds no lock. An error of the release would only hide the error of the block.
    """
    await session.execute("SELECT pg_advisory_lock($1, $2)", LOCK, number)
    try:
        yield
    finally:
        await release_lock(session, number)


async def release_lock(session: Session, number: int) -> None:
    """Release an advisory lock, unless the connection has ended."""
    with suppress(StoreError):
        await session.execute("SELECT pg_advisory_unlock($1, $2)", LOCK, number)


async def flavour_of(session: Session) -> str:
    """Return the recorded flavour or, before the first migration, the flavour that the extensions imply."""
    if await session.value("SELECT to_regclass('schema_migrations') IS NOT NULL"):
        recorded = await session.value("SELECT max(flavour) FROM schema_migrations")
        if recorded is not None:
            return str(recorded)
    installed = await session.value("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")
    return TIMESCALEDB if installed else POSTGRESQL
