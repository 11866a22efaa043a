"""Copy of the rows of a store into the empty tables of another store. Each store may have either flavour.

Rows, positions and the binding to the new log commit in one transaction. Until then, the new store is bound to the log
of the former store, so that no service starts on it. Partitions and chunks are created before the transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import numpy as np

from tickerplant.core.errors import StoreError, StoreMismatch
from tickerplant.store.migrations import MIGRATION_S
from tickerplant.store.partitions import LENGTHS, ensure_partitions, record_arrivals
from tickerplant.store.pool import Store
from tickerplant.store.repositories.analytics import DAILY, Analytics
from tickerplant.store.repositories.positions import Log
from tickerplant.store.session import Session, translate_errors

QUEUE_CHUNKS: Final = 16
INSERT_ROWS: Final = 1_000
NOT_COPIED: Final = frozenset(("schema_migrations", "plant", "jobs", "arrivals", "compression"))
"""Tables whose rows describe a database and are not copied. Arrivals are recorded again."""

_TABLES: Final = """
    SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    GROUP BY c.relname ORDER BY c.relname"""

Progress = Callable[[str, int], None]
"""A function that receives the name of a table and the count of bytes that were copied from it so far."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """Counts of copied rows by table, and the tables of the former store that do not belong to the plant."""

    rows: dict[str, int]
    skipped: tuple[str, ...]


async def claim(target: Store, former: Log, *, check_only: bool = False) -> bool:
    """Bind an empty store to the former log. Return True if an interrupted transfer has bound it already.

    Raises StoreMismatch for a store of another log, and for a store with rows. `check_only` changes nothing.
    """
    async with target.session() as session, session.transaction():
        bound = await session.rows("SELECT log_id, generation FROM plant FOR UPDATE")
        if bound and tuple(bound[0]) != (former.log_id, former.generation):
            raise StoreMismatch(
                f"the database follows log {bound[0]['log_id']} (generation {bound[0]['generation']}) already; if the "
                "plant was moved to it, start the services, else name an empty database in the setting store"
            )
        for table in ("positions", "realtime_prices", "intraday_ohlcv", "historical_ohlcv", "alerts"):
            if await session.value(f"SELECT EXISTS (SELECT FROM {table})"):
                raise StoreMismatch(f"the table {table} of the database has rows; name an empty database in the "
                                    "setting store")  # fmt: skip
        if not bound and not check_only:
            await session.execute(
                "INSERT INTO plant (log_id, generation) VALUES ($1, $2)", former.log_id, former.generation
            )
        return bool(bound)


async def transfer(source_dsn: str, target: Store, new: Log, progress: Progress) -> Transferred:
    """Copy the rows into a store that `claim` has bound, and bind it to the new log.

    No process may write to either store during the transfer.
    """
    with translate_errors():
        source = await asyncpg.connect(source_dsn, statement_cache_size=0, server_settings={"timezone": "UTC"})
    try:
        async with target.session() as session:
            return await _transfer(source, session, new, progress)
    finally:
        source.terminate()


async def _transfer(source: Any, session: Session, new: Log, progress: Progress) -> Transferred:
    with translate_errors():
        given = {row[0]: list(row[1]) for row in await source.fetch(_TABLES)}
    present = {row[0]: list(row[1]) for row in await session.rows(_TABLES)}
    await Analytics(session).ensure_columns(set(given[DAILY]) - set(present[DAILY]))
    days: dict[str, Any] = {}
    for relation in LENGTHS:
        days[relation] = await _days(source, relation)
        await ensure_partitions(session, relation, days[relation])
    tables = [name for name in given if name in present and name not in NOT_COPIED]
    rows: dict[str, int] = {}
    async with session.transaction():
        await session.execute("DELETE FROM retention")  # the defaults; the former store has its own rows
        for table in tables:
            rows[table] = await _copy(source, session, table, given[table], progress)
        for relation, times in days.items():
            await record_arrivals(session, relation, 0, times)
        await session.execute("UPDATE positions SET log_id = $1, generation = $2", new.log_id, new.generation)
        await session.execute("UPDATE plant SET log_id = $1, generation = $2, bound_at = now()", *_pair(new))
    return Transferred(rows, tuple(sorted(given.keys() - present.keys() - {"ohlcv_5m_rollup", "ohlcv_1d_rollup"})))


def _pair(log: Log) -> tuple[str, int]:
    return log.log_id, log.generation


async def _days(source: Any, relation: str) -> Any:
    """Return the start of each UTC day with rows, in µs since 1970, as an array."""
    with translate_errors():
        rows = await source.fetch(
            f"SELECT DISTINCT floor(extract(epoch FROM time) / 86400)::bigint FROM {relation} ORDER BY 1",
            timeout=MIGRATION_S,
        )
    return np.array([row[0] for row in rows], dtype=np.int64) * 86_400_000_000


async def _copy(source: Any, session: Session, table: str, columns: Sequence[str], progress: Progress) -> int:
    """Copy a table through a bounded queue; return its count of rows."""
    names = ", ".join(f'"{name}"' for name in columns)
    if not session.copies:
        return await _insert(source, session, f"SELECT {names} FROM {table}", f"INSERT INTO {table} ({names})")
    queue: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue(QUEUE_CHUNKS)

    async def read() -> None:
        try:
            await source.copy_from_query(
                f"SELECT {names} FROM {table}",
                output=queue.put,
                format="binary",
                timeout=MIGRATION_S,
            )
            await queue.put(None)
        except Exception as error:  # raised by `chunks`, in the task that writes
            await queue.put(error)

    async def chunks() -> AsyncIterator[bytes]:
        done = 0
        while (chunk := await queue.get()) is not None:
            if isinstance(chunk, BaseException):
                raise chunk
            done += len(chunk)
            progress(table, done)
            yield chunk

    reading = asyncio.create_task(read())
    try:
        with translate_errors():
            tag = await session.connection.copy_to_table(
                table, source=chunks(), columns=columns, format="binary", timeout=MIGRATION_S
            )
    finally:
        reading.cancel()
    words = str(tag).split()
    if words[:1] != ["COPY"]:
        raise StoreError(f"the database answered {tag!r} to the copy of {table}")
    return int(words[-1])


async def _insert(source: Any, session: Session, query: str, insert: str) -> int:
    """Copy a table by statements, for a database without COPY; return its count of rows."""
    for connection in (source, session.connection):  # the driver would convert years to days
        await connection.set_type_codec("interval", schema="pg_catalog", encoder=str, decoder=str, format="text")
    with translate_errors():
        rows = await source.fetch(query, timeout=MIGRATION_S)
        for start in range(0, len(rows), INSERT_ROWS):
            part = rows[start : start + INSERT_ROWS]
            values = ", ".join(f"${number}" for number in range(1, len(part[0]) + 1))
            await session.connection.executemany(f"{insert} VALUES ({values})", [tuple(row) for row in part])
    return len(rows)
