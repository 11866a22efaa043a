"""Connections to the database: a pool, sessions for writing, and one consistent look for reading."""

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
"""A statement that takes longer is cancelled; the longest of the plant, a roll-up of a whole day, takes seconds."""

_PASSING: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,  # a column was added; the cache is new now
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the connection ended between two messages that the driver expects together
    OSError,
    TimeoutError,
)


@contextmanager
def mapped() -> Iterator[None]:
    """Turn the driver's errors into the plant's: StoreUnavailable where trying again may help, else StoreError."""
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise MigrationError(f"{_text(error)}; `tickerplant init-db` makes the tables") from error
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise StoreError(f"the database refuses us: {_text(error)}; check --store") from error
    except _PASSING as error:
        raise StoreUnavailable(f"the database is out of reach: {_text(error)}") from error
    except asyncpg.PostgresError as error:
        raise StoreError(f"the database refused: {_text(error)}") from error


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


@dataclass(slots=True)
class Known:
    """What the process knows of the database and need not ask again. Wrong only until the next failure: see
    `forget`.
    """

    partitions: set[tuple[str, int]] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)

    def forget(self) -> None:
        """Ask again. To be called when a write has failed."""
        self.partitions.clear()
        self.columns.clear()


class Session:
    """One connection, to write with. Belongs to one task at a time."""

    def __init__(self, connection: Any, store: Store) -> None:
        self.connection = connection
        self.flavour = store.flavour
        self.copies = store.copies
        self.direct_compress = store.direct_compress
        self.known = store.known
        self.filled: set[str] = set()
        """Temporary tables that have rows of the open transaction."""

    @property
    def timescale(self) -> bool:
        """Whether the tables are hypertables."""
        return self.flavour == TIMESCALEDB

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Begin; leaving the block commits, an exception rolls back."""
        with mapped():
            if not self.connection.is_in_transaction():
                self.filled.clear()
            async with self.connection.transaction():
                yield

    async def execute(self, sql: str, *arguments: Any) -> int:
        """Run one statement and return how many rows it changed."""
        with mapped():
            tag = await self.connection.execute(sql, *arguments)
        count = str(tag).rsplit(" ", 1)[-1]
        return int(count) if count.isdecimal() else 0

    async def script(self, sql: str) -> None:
        """Run several statements without arguments; a text of comments alone is none."""
        if all(not line.strip() or line.startswith("--") for line in sql.splitlines()):
            return
        with mapped():
            await self.connection.execute(sql)

    async def value(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row, or None."""
        with mapped():
            return await self.connection.fetchval(sql, *arguments)

    async def rows(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Return all rows."""
        with mapped():
            rows: Sequence[Any] = await self.connection.fetch(sql, *arguments)
        return rows


class Look:
    """One consistent look: every read sees the store at the same positions."""

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
    """A pool of connections to one database; made by `open`. Safe for all tasks of one event loop."""

    def __init__(self, pool: Any, *, copies: bool) -> None:
        self._pool = pool
        self.copies = copies
        self.flavour = ""
        self.direct_compress = False
        self.known = Known()

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
        """Connect. `copies` False: write without COPY; `connect_args` go to the driver (both for servers that need it).

        Raises StoreUnavailable when the database is out of reach, StoreError when it refuses us.
        """
        options: dict[str, Any] = {
            "server_settings": {"application_name": "tickerplant", "timezone": "UTC"},
            "timeout": CONNECT_S,
            "command_timeout": COMMAND_S,
            **(connect_args or {}),
        }
        with mapped():
            pool = await asyncpg.create_pool(dsn, min_size=min_size, max_size=max_size, **options)
        store = cls(pool, copies=copies)
        try:
            await store.look()
        except BaseException:
            await store.close()
            raise
        return store

    async def look(self) -> None:
        """Find out what kind of database it is (after a migration: again)."""
        self.known.forget()
        async with self.session() as session:
            self.flavour = await flavour_of(session)
            # The extension's settings are there once the session has touched it, which flavour_of does not do.
            if self.flavour == TIMESCALEDB:
                await session.value("SELECT count(*) FROM timescaledb_information.hypertables")
                name = "timescaledb.enable_direct_compress_copy"
                self.direct_compress = await session.value("SELECT current_setting($1, true)", name) is not None

    async def close(self) -> None:
        """Close all connections, waiting for those in use at most a few seconds. Harmless twice."""
        with contextlib.suppress(*_PASSING):
            await asyncio.wait_for(self._pool.close(), 5.0)
            return
        self._pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Take a connection out of the pool for the block; waits when all are in use."""
        with mapped():
            connection = await self._pool.acquire(timeout=CONNECT_S)
        try:
            yield Session(connection, self)
        finally:
            with contextlib.suppress(asyncpg.PostgresError, *_PASSING):
                await self._pool.release(connection, timeout=CONNECT_S)

    async def check_log(self, log_id: str, generation: int, ends: position_rows.Ends) -> None:
        """Bind a new store to this log, or see that an old one follows it and is not ahead: `positions.check_log`."""
        async with self.session() as session:
            await position_rows.check_log(session, position_rows.Log(log_id, generation), ends)

    async def wal_positions(self) -> tuple[int, int]:
        """Return (written, flushed): where the database's own log stands, and how much of it a power cut leaves."""
        async with self.session() as session:
            [row] = await session.rows(
                "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS written,"
                " pg_current_wal_flush_lsn() - '0/0'::pg_lsn AS flushed"
            )
        return int(row["written"]), int(row["flushed"])

    async def flush_wal(self) -> None:
        """Return when all that is committed would survive a power cut: commits one row and waits for the disk."""
        async with self.session() as session, session.transaction():
            await session.execute("SET LOCAL synchronous_commit = on")
            await session.execute("UPDATE plant SET bound_at = bound_at")

    async def adopt(self, log_id: str, generation: int) -> None:
        """Let the store follow this log from its beginning: `positions.adopt`."""
        async with self.session() as session:
            await position_rows.adopt(session, position_rows.Log(log_id, generation))

    async def bound_to(self) -> position_rows.Log | None:
        """Return the log that the store follows, or None for a new store."""
        async with self.session() as session:
            return await position_rows.bound_to(session)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Look]:
        """Begin one REPEATABLE READ READ ONLY transaction: rows and positions in it are one copy of the log up to
        there.
        """
        async with self.session() as session:
            with mapped():
                transaction = session.connection.transaction(isolation="repeatable_read", readonly=True)
                await transaction.start()
            try:
                yield Look(session)
            finally:
                with contextlib.suppress(asyncpg.PostgresError, *_PASSING):
                    await transaction.rollback()
