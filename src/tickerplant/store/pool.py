"""Connections to the database: a pool, sessions for writing, and consistent read sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from tickerplant.core.errors import MigrationError, StoreError, StoreUnavailable
from tickerplant.store.migrations import TIMESCALEDB, flavour_of
from tickerplant.store.repositories import positions as position_rows
from tickerplant.store.repositories.actions import Actions
from tickerplant.store.repositories.alerts import AlertRules, Firings, Outbox
from tickerplant.store.repositories.analytics import Analytics, RealtimeAnalytics
from tickerplant.store.repositories.answers import VendorAnswers
from tickerplant.store.repositories.coverage import Coverage
from tickerplant.store.repositories.interval_status import CoverageStatuses
from tickerplant.store.repositories.ohlcv import Ohlcv
from tickerplant.store.repositories.prices import Prices
from tickerplant.store.repositories.symbols import Symbols

CONNECT_S: Final = 10.0
COMMAND_S: Final = 120.0
"""Statement timeout in seconds. The longest statement of the plant, the roll-up of a whole day, takes seconds."""

_PASSING: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,  # a column was added; the driver has dropped its cache
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the connection ended between two messages of one exchange
    OSError,
    TimeoutError,
)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate the driver's errors: StoreUnavailable where a retry may help, otherwise StoreError."""
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise MigrationError(f"{_text(error)}; run `tickerplant init-db` to create the tables") from error
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise StoreError(f"the database refuses the login: {_text(error)}; check --store") from error
    except _PASSING as error:
        raise StoreUnavailable(f"the database is unavailable: {_text(error)}") from error
    except asyncpg.PostgresError as error:
        raise StoreError(f"the database refused a statement: {_text(error)}") from error


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


@dataclass(slots=True)
class SchemaCache:
    """Cached facts about the schema of the database. A stale entry causes one failure, after which `clear` runs."""

    partitions: set[tuple[str, int]] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)

    def clear(self) -> None:
        """Drop the cache. Called when a write has failed."""
        self.partitions.clear()
        self.columns.clear()


class Session:
    """One connection for writing. Belongs to one task at a time."""

    def __init__(self, connection: Any, store: Store) -> None:
        self.connection = connection
        self.flavour = store.flavour
        self.copies = store.copies
        self.direct_compress = store.direct_compress
        self.known = store.known
        self.filled: set[str] = set()
        """Temporary tables with rows of the open transaction."""

    @property
    def timescale(self) -> bool:
        """Return whether the tables are hypertables."""
        return self.flavour == TIMESCALEDB

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Begin a transaction. Leaving the block commits; an exception rolls back."""
        with translate_errors():
            if not self.connection.is_in_transaction():
                self.filled.clear()
            async with self.connection.transaction():
                yield

    async def execute(self, sql: str, *arguments: Any) -> int:
        """Run one statement and return the number of changed rows."""
        with translate_errors():
            tag = await self.connection.execute(sql, *arguments)
        count = str(tag).rsplit(" ", 1)[-1]
        return int(count) if count.isdecimal() else 0

    async def script(self, sql: str) -> None:
        """Run several statements without arguments. A text with comments only is skipped."""
        if all(not line.strip() or line.startswith("--") for line in sql.splitlines()):
            return
        with translate_errors():
            await self.connection.execute(sql)

    async def value(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row, or None."""
        with translate_errors():
            return await self.connection.fetchval(sql, *arguments)

    async def rows(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Return all rows."""
        with translate_errors():
            rows: Sequence[Any] = await self.connection.fetch(sql, *arguments)
        return rows


class ReadSession:
    """One consistent read session: every read returns the store at the same positions."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.prices = Prices(session)
        self.ohlcv = Ohlcv(session)
        self.analytics = Analytics(session)
        self.realtime_analytics = RealtimeAnalytics(session)
        self.symbols = Symbols(session)
        self.actions = Actions(session)
        self.coverage = Coverage(session)
        self.statuses = CoverageStatuses(session)
        self.answers = VendorAnswers(session)
        self.alerts = AlertRules(session)
        self.firings = Firings(session)
        self.outbox = Outbox(session)

    async def positions(self) -> dict[tuple[str, int], int]:
        """Return the next offset to apply by (topic, partition)."""
        return {key: applied.position for key, applied in (await self.applied()).items()}

    async def bound_to(self) -> position_rows.Log | None:
        """Return the log that the store follows, or None for a new store."""
        return await position_rows.bound_to(self._session)

    async def applied(self) -> dict[tuple[str, int], position_rows.Applied]:
        """Return position, resume and cause by (topic, partition)."""
        return await position_rows.all_positions(self._session)


class Store:
    """A pool of connections to one database, created by `open`. Safe for all tasks of one event loop."""

    def __init__(self, pool: Any, *, copies: bool) -> None:
        self._pool = pool
        self.copies = copies
        self.flavour = ""
        self.direct_compress = False
        self.known = SchemaCache()

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 8,
        copies: bool = True,
        connect_args: Mapping[str, Any] | None = None,
    ) -> Store:
        """Connect. `copies` False writes without COPY; `connect_args` are passed to the driver.

        Raises StoreUnavailable if the database is unavailable, StoreError if it refuses the login.
        """
        options: dict[str, Any] = {
            "server_settings": {"application_name": "tickerplant", "timezone": "UTC"},
            "timeout": CONNECT_S,
            "command_timeout": COMMAND_S,
            **(connect_args or {}),
        }
        with translate_errors():
            pool = await asyncpg.create_pool(dsn, min_size=min_size, max_size=max_size, **options)
        store = cls(pool, copies=copies)
        try:
            await store.detect_flavour()
        except BaseException:
            await store.close()
            raise
        return store

    async def detect_flavour(self) -> None:
        """Detect whether the tables are hypertables. Repeated after a migration."""
        self.known.clear()
        async with self.session() as session:
            self.flavour = await flavour_of(session)
            # The extension's settings exist once the session has used it; flavour_of does not use it.
            if self.flavour == TIMESCALEDB:
                await session.value("SELECT count(*) FROM timescaledb_information.hypertables")
                name = "timescaledb.enable_direct_compress_copy"
                self.direct_compress = await session.value("SELECT current_setting($1, true)", name) is not None

    async def close(self) -> None:
        """Close all connections; wait at most 5 seconds for those in use. May be called twice."""
        with contextlib.suppress(*_PASSING):
            await asyncio.wait_for(self._pool.close(), 5.0)
            return
        self._pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Acquire a connection for the block. Waits if all are in use."""
        with translate_errors():
            connection = await self._pool.acquire(timeout=CONNECT_S)
        try:
            yield Session(connection, self)
        finally:
            with contextlib.suppress(asyncpg.PostgresError, *_PASSING):
                await self._pool.release(connection, timeout=CONNECT_S)

    async def check_log(self, log_id: str, generation: int, ends: position_rows.Ends) -> None:
        """Bind a new store to this log, or check that an existing one follows it and is not ahead.

        See `positions.check_log`.
        """
        async with self.session() as session:
            await position_rows.check_log(session, position_rows.Log(log_id, generation), ends)

    async def wal_positions(self) -> tuple[int, int]:
        """Return (written, flushed) positions of the write-ahead log; a power cut loses what was not flushed."""
        async with self.session() as session:
            [row] = await session.rows(
                "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS written,"
                " pg_current_wal_flush_lsn() - '0/0'::pg_lsn AS flushed"
            )
        return int(row["written"]), int(row["flushed"])

    async def flush_wal(self) -> None:
        """Commit one row and wait for the disk, so that all earlier commits survive a power cut."""
        async with self.session() as session, session.transaction():
            await session.execute("SET LOCAL synchronous_commit = on")
            await session.execute("UPDATE plant SET bound_at = bound_at")

    async def adopt(self, log_id: str, generation: int) -> None:
        """Rebind the store to the beginning of this log; see `positions.adopt`."""
        async with self.session() as session:
            await position_rows.adopt(session, position_rows.Log(log_id, generation))

    async def bound_to(self) -> position_rows.Log | None:
        """Return the log that the store follows, or None for a new store."""
        async with self.session() as session:
            return await position_rows.bound_to(session)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[ReadSession]:
        """Open one REPEATABLE READ READ ONLY transaction: its rows and positions are a consistent copy of the log."""
        async with self.session() as session:
            with translate_errors():
                transaction = session.connection.transaction(isolation="repeatable_read", readonly=True)
                await transaction.start()
            try:
                yield ReadSession(session)
            finally:
                with contextlib.suppress(asyncpg.PostgresError, *_PASSING):
                    await transaction.rollback()
