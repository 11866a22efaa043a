"""Connections to the database: a pool, sessions, and consistent read sessions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tickerplant.store import tls
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
from tickerplant.store.session import (
    DRIVER_ERRORS,
    TIMESCALEDB,
    Database,
    Session,
    connected,
    flavour_of,
    translate_errors,
)

CONNECT_S: Final = 10.0
"""Timeout in seconds for a new connection, and for a free connection of the pool."""
COMMAND_S: Final = 120.0
"""Statement timeout in seconds. The longest statement, the refresh of a check roll-up for a day, takes some seconds."""
DECOMPRESSION: Final = "SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0"
"""Statement that removes TimescaleDB's limit of 100,000 rows that a transaction may decompress. One minute of 100
symbols in a compressed chunk exceeds it. PostgreSQL without TimescaleDB stores the setting and ignores it."""


class ReadSession:
    """One consistent read session: every read returns rows at the same positions."""

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
        """Return the next offset to apply, by (topic, partition)."""
        return {key: applied.position for key, applied in (await self.applied()).items()}

    async def bound_to(self) -> position_rows.Log | None:
        """Return the log that the store follows, or None for a new store."""
        return await position_rows.bound_to(self._session)

    async def applied(self) -> dict[tuple[str, int], position_rows.Applied]:
        """Return the applied positions by (topic, partition)."""
        return await position_rows.all_positions(self._session)


class Store:
    """A pool of connections to one database, created by `open`. Safe for all tasks of one event loop."""

    def __init__(
        self, pool: Any, *, copies: bool, direct_compress: bool = True, unchanged: set[int] | None = None
    ) -> None:
        self._pool = pool
        self._unchanged = set() if unchanged is None else unchanged
        self.database = Database(copies=copies, may_compress=direct_compress)

    @property
    def flavour(self) -> str:
        """Return `TIMESCALEDB` or `POSTGRESQL`."""
        return self.database.flavour

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 8,
        copies: bool = True,
        direct_compress: bool = True,
        connect_args: Mapping[str, Any] | None = None,
    ) -> Store:
        """Connect and return the store. `copies` allows COPY; `connect_args` are passed to the driver.

        `direct_compress` allows COPY to write compressed chunks of TimescaleDB.

        Raises StoreUnavailable if the database is unavailable, and StoreRefused if the database refuses the login or
        TLS fails. Raises MigrationError if the server does not load the TimescaleDB that the tables need.
        """
        tls.check_files(dsn)
        unchanged: set[int] = set()

        async def reset(connection: Any) -> None:
            """Reset a connection that returns to the pool, in one round trip, unless it has only run `read_once`."""
            if connection.get_server_pid() in unchanged:
                unchanged.remove(connection.get_server_pid())
            else:
                await connection.execute(f"{connection.get_reset_query()}\n{DECOMPRESSION}")

        options: dict[str, Any] = {
            "init": _set_session,
            "reset": reset,
            "server_settings": {"application_name": "tickerplant", "timezone": "UTC"},
            "timeout": CONNECT_S,
            "command_timeout": COMMAND_S,
            **(connect_args or {}),
        }
        pool = await connected(asyncpg.create_pool(dsn, min_size=min_size, max_size=max_size, **options))
        store = cls(pool, copies=copies, direct_compress=direct_compress, unchanged=unchanged)
        try:
            await store.detect_flavour()
        except BaseException:
            await store.close()
            raise
        return store

    async def detect_flavour(self) -> None:
        """Detect whether the tables are hypertables, and clear the schema cache. Call it again after a migration."""
        self.database.known.clear()
        async with self.session() as session:
            self.database.flavour = await flavour_of(session)
            # The extension's settings exist only after the session has used the extension. flavour_of does not use it.
            if self.database.flavour == TIMESCALEDB:
                # A call of a function loads the library. It raises MigrationError on a server that does not preload it.
                await session.value("SELECT time_bucket(INTERVAL '1 day', now())")
                name = "timescaledb.enable_direct_compress_copy"
                exists = await session.value("SELECT current_setting($1, true)", name) is not None
                self.database.direct_compress = exists and self.database.may_compress and self.database.copies

    async def close(self) -> None:
        """Close all connections; terminate those that are still in use after 5 seconds. May be called twice."""
        with contextlib.suppress(*DRIVER_ERRORS):
            await asyncio.wait_for(self._pool.close(), 5.0)
            return
        self._pool.terminate()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Acquire a connection for the block.

        Waits at most `CONNECT_S` seconds while all connections are in use, then raises StoreUnavailable.
        """
        connection = await connected(self._pool.acquire(timeout=CONNECT_S))
        try:
            yield Session(connection, self.database)
        finally:
            with contextlib.suppress(*DRIVER_ERRORS):
                await self._pool.release(connection, timeout=CONNECT_S)

    async def read_once(self, sql: str, *arguments: Any) -> Any:
        """Return the only row of the result of a statement that only reads, in one round trip.

        The statement is its own transaction, so it reads one consistent state.
        """
        connection = await connected(self._pool.acquire(timeout=CONNECT_S))
        with translate_errors():
            try:
                row = await connection.fetchrow(sql, *arguments)
                self._unchanged.add(connection.get_server_pid())
            finally:
                with contextlib.suppress(*DRIVER_ERRORS):
                    await self._pool.release(connection, timeout=CONNECT_S)
        return row

    async def check_log(self, log_id: str, generation: int, ends: position_rows.Ends) -> None:
        """Bind a new store to this log, or check that an existing store follows this log and is not ahead.

        See `positions.check_log`.
        """
        async with self.session() as session:
            await position_rows.check_log(session, position_rows.Log(log_id, generation), ends)

    async def applied(self) -> dict[tuple[str, int], position_rows.Applied]:
        """Return the applied positions by (topic, partition), without a transaction: two round trips."""
        async with self.session() as session:
            return await position_rows.all_positions(session)

    async def wal_positions(self) -> tuple[int, int]:
        """Return (written, flushed) positions of the write-ahead log in bytes.

        A power cut loses the commits between both positions.
        """
        async with self.session() as session:
            [row] = await session.rows(
                "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS written,"
                " pg_current_wal_flush_lsn() - '0/0'::pg_lsn AS flushed"
            )
        return int(row["written"]), int(row["flushed"])

    async def flush_wal(self) -> None:
        """Commit a write of one row and wait for the disk, so that all earlier commits survive a power cut."""
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
        """Open one REPEATABLE READ READ ONLY transaction: all reads return rows and positions of one moment."""
        async with self.session() as session:
            with translate_errors():
                transaction = session.connection.transaction(isolation="repeatable_read", readonly=True)
                await transaction.start()
            try:
                yield ReadSession(session)
            finally:
                with contextlib.suppress(*DRIVER_ERRORS):
                    await transaction.rollback()


async def _set_session(connection: Any) -> None:
    """Set the parameters of every session of the pool. Some connection poolers refuse startup parameters."""
    await connection.execute(DECOMPRESSION)
