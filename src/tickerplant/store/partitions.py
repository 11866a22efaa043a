"""Table partitions of plain PostgreSQL, and chunks of TimescaleDB: created on demand before rows are written.

Retention drops entire partitions and chunks. On TimescaleDB, the function `tickerplant_make_chunks` decides which
chunks are created.

There is no default partition: its rows would have to move when their partition is created. A partition is created as a
separate table and attached. Attaching does not block readers and writers of other partitions; CREATE … PARTITION OF
blocks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tickerplant.core.times import DAY_US, WEEK_US, Int64Array, datetime_of, iso, micros_of
from tickerplant.store.session import LOCK, LOCK_PARTITIONS

if TYPE_CHECKING:
    from tickerplant.store.session import Session

DECADE_US: Final = 0
"""Marker instead of a length: calendar decades have no fixed length."""

LENGTHS: Final = {
    "realtime_prices": DAY_US,
    "intraday_ohlcv": WEEK_US,
    "intraday_analytics": WEEK_US,
    "coverage": WEEK_US,
    "historical_ohlcv": DECADE_US,
    "daily_analytics": DECADE_US,
}
"""Length of a partition in microseconds, or `DECADE_US`, by table. Retention drops entire days of ticks. A partition of
daily bars contains ten years, so that a read of many years uses few indexes."""


def starts(relation: str, times: Int64Array) -> Int64Array:
    """Return the start of each time's partition, in microseconds since 1970."""
    length = LENGTHS[relation]
    if length == DECADE_US:
        years = times.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
        return _year_us(years // 10 * 10)
    return times - times % length


def end(relation: str, start_us: int) -> int:
    """Return the end, exclusive, of the partition that begins at `start_us`."""
    length = LENGTHS[relation]
    if length == DECADE_US:
        return int(_year_us(np.array([datetime_of(start_us).year + 10]))[0])
    return start_us + length


def name_of(relation: str, start_us: int) -> str:
    """Return the name of a partition: `realtime_prices_p20120621`."""
    return f"{relation}_p{datetime_of(start_us):%Y%m%d}"


def _year_us(years: Int64Array) -> Int64Array:
    return (years - 1970).astype("datetime64[Y]").astype("datetime64[us]").astype(np.int64)


async def ensure_partitions(session: Session, relation: str, times: Int64Array) -> None:
    """Create the missing partitions for these times. Call it outside a transaction.

    Other connections can then use the partitions at once. The store caches the existing partitions, and the days of
    the existing chunks. If retention drops a chunk, TimescaleDB creates a short chunk for a later row of that range.
    """
    if not len(times):
        return
    known = session.known.partitions
    if session.timescale:
        days = {(relation, int(day)) for day in np.unique(times - times % DAY_US)} - known
        if days:
            chunks = await session.rows(
                "SELECT starts_at, ends_at FROM tickerplant_make_chunks($1, $2)",
                relation,
                [datetime_of(day) for _, day in sorted(days)],
            )
            known |= days
            for row in chunks:  # later rows of the same chunks need no query
                known |= {(relation, day) for day in range(micros_of(row[0]), micros_of(row[1]), DAY_US)}
        return
    needed = {(relation, int(start)) for start in np.unique(starts(relation, times))} - known
    for key in sorted(needed):
        await _make(session, relation, key[1])
        known.add(key)


# Reads the catalogue's tables: to_regclass uses a cache that waiting for a lock does not refresh.
_ATTACHED: Final = """
    SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = $1::text::regclass AND c.relname = $2
"""


async def _make(session: Session, relation: str, start_us: int) -> None:
    name = name_of(relation, start_us)
    if await session.value(_ATTACHED, relation, name):
        return
    async with session.transaction():
        await session.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_PARTITIONS)
        if await session.value(_ATTACHED, relation, name):
            return  # another process created it
        bounds = f"FROM ('{iso(start_us)}') TO ('{iso(end(relation, start_us))}')"
        await session.script(f'CREATE TABLE "{name}" (LIKE "{relation}" INCLUDING ALL)')
        await session.script(f'ALTER TABLE "{relation}" ATTACH PARTITION "{name}" FOR VALUES {bounds}')


async def record_arrivals(session: Session, relation: str, partition: int, times: Int64Array) -> None:
    """Record in the open transaction that rows of these times arrived now, from this partition of the log.

    Retention counts from this arrival or from the end of the range, whichever is later. The arrival also marks the
    range as outdated in the check roll-ups, and as changed since the last comparison. Each log partition has its own
    row, so that two connections never wait for each other.
    """
    if not len(times):
        return
    begins = starts(relation, times)
    unique, which = np.unique(begins, return_inverse=True)
    earliest = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(earliest, which.reshape(-1), times)
    ends = [datetime_of(end(relation, int(us))) for us in unique]
    column, given = (", ends_at", ", s.ends_at") if session.timescale else ("", "")
    await session.execute(
        f"""INSERT INTO arrivals AS a (relation, starts_at, partition, dirty_from, changed_from{column})
           SELECT $1, s.starts_at, $2, s.dirty_from, s.dirty_from{given}
           FROM unnest($3::timestamptz[], $4::timestamptz[], $5::timestamptz[]) AS s (starts_at, dirty_from, ends_at)
           ON CONFLICT (relation, starts_at, partition)
           DO UPDATE SET arrived_at = now(), dirty_from = least(a.dirty_from, excluded.dirty_from),
               changed_from = least(a.changed_from, excluded.changed_from)""",
        relation,
        partition,
        [datetime_of(int(us)) for us in unique],
        [datetime_of(int(us)) for us in earliest],
        ends,
    )
