"""The store: the embedded server, migrations, scheduled jobs, and the queries of commands.

Each function opens the store itself, because calls are rare: commands, health checks and maintenance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tickerplant.app.component import FAILED, OK, ComponentHealth
from tickerplant.app.wiring.rows import plain
from tickerplant.core.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog, Identity
    from tickerplant.store import Store
    from tickerplant.store.migrations import MigrationStatus
    from tickerplant.store.reader_role import ReaderState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BarSelection:
    """The newest `limit` stored bars of a symbol and interval in `[start_us, end_us)`; a bound of None is open."""

    symbol: str
    interval: str
    start_us: int | None
    end_us: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Migrated:
    """Names of the applied migrations, and the state of the read-only role; None if it was not checked."""

    names: list[str]
    reader: ReaderState | None


class PostgresServer(Protocol):
    """The embedded server as `app` uses it. It restarts itself after a crash."""

    @property
    def dsn(self) -> str:
        """Return the address of the server, also if it does not run."""
        ...

    def start(self) -> str:
        """Start the server, or take over a running server, and return its address."""
        ...

    def stop(self) -> None:
        """Stop the server. Has no effect if it is not running."""
        ...


def embedded_postgres(settings: Settings) -> PostgresServer:
    """Return the embedded PostgreSQL of the data folder, not started.

    Raises ConfigError for a `store.socket` in that folder.
    """
    from tickerplant.app.config.store_access import listen_address
    from tickerplant.store.server.access import Access
    from tickerplant.store.server.embedded import EmbeddedPostgres

    wanted = settings.store_access
    if wanted.socket is not None and wanted.socket.resolve().is_relative_to(settings.data.resolve()):
        raise ConfigError(
            f"store.socket: {wanted.socket} is in the data folder, which other users cannot enter; use a folder such "
            "as /run/tickerplant"
        )
    address = listen_address(wanted.listen)
    access = Access(folder=wanted.socket) if address is None else Access(address.host, address.port or 0, wanted.socket)
    return EmbeddedPostgres(settings.data / "postgres", access=access, binaries=wanted.binaries)


def has_store(data: Path) -> bool:
    """Return True if the data folder has an embedded PostgreSQL, running or not."""
    return (data / "postgres").exists()


def with_store(dsn: str, work: Callable[[Store], Awaitable[T]], patience_s: float | None = None) -> T:
    """Return the result of `work` for the opened store. Runs an event loop, so the thread must not have one.

    Raises StoreUnavailable if opening and work take longer than `patience_s`. If it is None, there is no limit.
    """

    async def run() -> T:
        from tickerplant.store import Store

        async with asyncio.timeout(patience_s):
            store = await Store.open(dsn, min_size=1, max_size=2)
            try:
                return await work(store)
            finally:
                await store.close()

    try:
        return asyncio.run(run())
    except TimeoutError:
        raise StoreUnavailable(
            f"the database did not answer within {patience_s:g} s; check the setting store (--store)"
        ) from None


def migrate(dsn: str, settings: Settings, *, plain: bool = False, create_reader: bool = False) -> Migrated:
    """Apply the pending migrations, and grant the read-only role its rights.

    No rights are granted if no migration was pending, unless `create_reader` is true or the database is embedded.
    `plain`: see `store.migrations.migrate`. `create_reader`: create the role also in a database that is not embedded;
    the embedded database always has it.
    """
    from tickerplant.app.wiring.reader import ensure_reader
    from tickerplant.store import migrations

    async def work(store: Store) -> Migrated:
        names = await migrations.migrate(store, plain=plain)
        if not (names or create_reader or settings.embedded_store):
            return Migrated(names, None)
        return Migrated(names, await ensure_reader(settings, store, create=create_reader))

    return with_store(dsn, work)


def migration_status(dsn: str, patience_s: float | None = None) -> MigrationStatus:
    """Return the applied and the pending migrations."""
    from tickerplant.store import migrations

    return with_store(dsn, migrations.status, patience_s)


def check_log(dsn: str, log: EventLog) -> None:
    """Raise StoreMismatch if the store follows another log, or is ahead of this log."""
    from tickerplant.app.wiring.log import ends

    identity = log.identity()

    async def log_ends() -> dict[tuple[str, int], int]:
        return ends(log)

    with_store(dsn, lambda store: store.check_log(identity.log_id, identity.generation, log_ends))


def run_due(dsn: str, now_us: int) -> list[str]:
    """Run the scheduled jobs that are due and return their names."""
    from tickerplant.core.times import datetime_of
    from tickerplant.store import maintenance

    now = datetime_of(now_us)
    return [str(name) for name in with_store(dsn, lambda store: maintenance.run_due(store, now)) or []]


def jobs_status(dsn: str, patience_s: float | None = None) -> list[dict[str, Any]]:
    """Return the status of every scheduled job: the fields of `store.maintenance.jobs_status`."""
    from tickerplant.core.times import datetime_of
    from tickerplant.store import maintenance

    now = datetime_of(time.time_ns() // 1_000)  # the clock that starts the jobs
    return [plain(row) for row in with_store(dsn, lambda store: maintenance.jobs_status(store, now), patience_s)]


def positions(dsn: str, patience_s: float | None = None) -> dict[tuple[str, int], int]:
    """Return the next offset to apply, by topic and partition."""

    async def read(store: Store) -> dict[tuple[str, int], int]:
        async with store.read() as session:
            return await session.positions()

    return with_store(dsn, read, patience_s)


def skip_positions(dsn: str, identity: Identity, starts: Sequence[tuple[str, int, int]]) -> None:
    """Move the store's positions forward to these (topic, partition, offset), in one transaction."""
    from tickerplant.store.repositories.positions import Advance, Log, advance_all, all_positions

    async def advance(store: Store) -> None:
        async with store.session() as session, session.transaction():
            await session.script("SET LOCAL synchronous_commit = on")
            known = await all_positions(session)
            steps = [
                Advance(topic, partition, known[topic, partition].position, first, 0, first)
                for topic, partition, first in starts
                if (topic, partition) in known and known[topic, partition].position < first
            ]
            await advance_all(session, Log(identity.log_id, identity.generation), steps)

    with_store(dsn, advance)


def store_health(dsn: str, log: EventLog | None, patience_s: float | None = None) -> Iterable[ComponentHealth]:
    """Yield the health of the store: it answers, has this version's tables, and follows `log` unless `log` is None."""
    status = migration_status(dsn, patience_s)
    if status.pending:
        yield ComponentHealth(
            "store", FAILED, f"{len(status.pending)} migrations are not applied; run `tickerplant migrate`"
        )
        return
    if log is not None:
        check_log(dsn, log)
    follows = ", and follows this log" if log is not None else ""
    yield ComponentHealth("store", OK, f"{status.flavour} answers{follows}", {"flavour": status.flavour})


def left_out(dsn: str, patience_s: float | None = None) -> list[dict[str, Any]]:
    """Return the counts `late_ticks`, `unsupported` and `differences` by feed.

    They count ticks too late for any bar, ticks and bars that bars cannot use, and bars that differ between sources.
    """

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.read() as session:
            return [plain(row) for row in (await session.coverage.exclusion_counts()).to_pylist()]

    return with_store(dsn, read, patience_s)
