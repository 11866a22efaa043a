"""Refresh of the check roll-ups: tables of 5m bars built from stored ticks, and of UTC days built from 1m bars.

Both tables serve to check published bars, and `comparison` uses the table of 5m bars. They are continuous aggregates on
TimescaleDB, and ordinary tables on plain PostgreSQL. `arrivals` records the earliest time of the new rows in each
partition. A refresh recomputes a partition from that time on. A check roll-up therefore keeps its bars when retention
drops their ticks or 1m bars. If rows arrive later in a partition whose rows were dropped, the recomputed bars are built
only from the later rows.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from tickerplant.core.times import DAY_US, MINUTE_US, datetime_of, micros_of
from tickerplant.store.partitions import end

if TYPE_CHECKING:
    from tickerplant.store.session import Session

ROLLUP_5M: Final = "ohlcv_5m_rollup"
ROLLUP_1D: Final = "ohlcv_1d_rollup"
COMPRESS_AFTER: Final = {ROLLUP_5M: dt.timedelta(days=10), ROLLUP_1D: dt.timedelta(days=100)}
"""Minimum age of a chunk before compression, by check roll-up. Ticks and 1m bars of that age rarely change."""
_COLUMNS: Final = "time, symbol, source, open, high, low, close, volume, trades"
_FROM_TICKS: Final = """
    SELECT to_timestamp(floor(date_part('epoch', time) / 300) * 300), symbol, source,
        (array_agg(price ORDER BY time, version, "row") FILTER (WHERE flags & 13 = 0))[1],
        max(price) FILTER (WHERE flags & 13 = 0),
        min(price) FILTER (WHERE flags & 13 = 0),
        (array_agg(price ORDER BY time DESC, version DESC, "row" DESC) FILTER (WHERE flags & 13 = 0))[1],
        coalesce(sum(size) FILTER (WHERE flags & 14 = 0), 0),
        count(*) FILTER (WHERE flags & 14 = 0),
        count(*) FILTER (WHERE flags & 12 <> 0),
        bool_and(version > 0)
    FROM realtime_prices WHERE time >= $1 AND time < $2 GROUP BY 1, 2, 3
    HAVING count(*) FILTER (WHERE flags & 12 = 0) > 0
"""
"""Bits of `flags`: 13 = no price, cancel or correction; 14 = no volume, cancel or correction; 12 = cancel or
correction."""
_FROM_BARS: Final = """
    SELECT date_trunc('day', time, 'UTC'), symbol, source,
        (array_agg(open ORDER BY time) FILTER (WHERE open IS NOT NULL))[1],
        max(high), min(low),
        (array_agg(close ORDER BY time DESC) FILTER (WHERE close IS NOT NULL))[1],
        sum(volume), sum(trades)::bigint
    FROM intraday_ohlcv WHERE interval = '1m' AND state = 'final' AND time >= $1 AND time < $2 GROUP BY 1, 2, 3
"""


async def rollup_5m(session: Session, now: dt.datetime) -> str:
    """Refresh the check roll-up of ticks where ticks arrived since the last run; return the counts as text."""
    insert = f"INSERT INTO {ROLLUP_5M} ({_COLUMNS}, corrections, ordered) {_FROM_TICKS}"
    return await _roll_up(session, "realtime_prices", ROLLUP_5M, 5 * MINUTE_US, insert)


async def rollup_1d(session: Session, now: dt.datetime) -> str:
    """Refresh the check roll-up of 1m bars where 1m bars arrived since the last run; return the counts as text.

    On TimescaleDB, it also compresses old chunks of both check roll-ups.
    """
    insert = f"INSERT INTO {ROLLUP_1D} ({_COLUMNS}) {_FROM_BARS}"
    result = await _roll_up(session, "intraday_ohlcv", ROLLUP_1D, DAY_US, insert)
    if session.timescale:
        await _compress(session, now)
    return result


async def _roll_up(session: Session, relation: str, rollup: str, bucket_us: int, insert: str) -> str:
    """Recompute outdated buckets, per partition, from the first bucket with new rows to the end of the partition.

    1. Claim: dirty ranges become claimed. Writers mark ranges as dirty in their own transactions, so all marks visible
       now belong to committed rows. Later rows set a new mark.
    2. Recompute and replace the rows, then remove the claim. After a failure the claim remains for the next run.
    """
    await session.execute(
        """UPDATE arrivals SET claimed_from = least(claimed_from, dirty_from), dirty_from = NULL
           WHERE relation = $1 AND dirty_from IS NOT NULL""",
        relation,
    )
    claims = await session.rows(
        """SELECT starts_at, min(claimed_from) AS claimed_from FROM arrivals WHERE relation = $1 AND claimed_from IS
        NOT NULL
           GROUP BY starts_at ORDER BY starts_at""",
        relation,
    )
    rows = 0
    for claim in claims:
        from_time = datetime_of(micros_of(claim["claimed_from"]) // bucket_us * bucket_us)
        to_time = datetime_of(end(relation, micros_of(claim["starts_at"])))
        release = (
            """UPDATE arrivals SET claimed_from = NULL
               WHERE relation = $1 AND starts_at = $2 AND claimed_from >= $3""",
            relation, claim["starts_at"], claim["claimed_from"],
        )  # fmt: skip
        if session.timescale:
            # TimescaleDB commits within this statement, so a transaction must not enclose it.
            await session.script(f"CALL refresh_continuous_aggregate('{rollup}', '{from_time}', '{to_time}')")
            await _record_rollup(session, rollup, claim["starts_at"], to_time)
            await session.execute(*release)
            continue
        async with session.transaction():
            await session.execute(f'DELETE FROM {rollup} WHERE "time" >= $1 AND "time" < $2', from_time, to_time)
            rows += await session.execute(insert, from_time, to_time)
            await session.execute(*release)
    return f"{len(claims)} partitions" if session.timescale else f"{rows} rows in {len(claims)} partitions"


async def _record_rollup(session: Session, rollup: str, starts_at: dt.datetime, ends_at: dt.datetime) -> None:
    """Record that bars of a check roll-up changed now. Retention of the 5m check roll-up counts from this arrival."""
    await session.execute(
        """INSERT INTO arrivals (relation, starts_at, ends_at, partition) VALUES ($1, $2, $3, 0)
           ON CONFLICT (relation, starts_at, partition) DO UPDATE SET arrived_at = now()""",
        rollup, starts_at, ends_at,
    )  # fmt: skip


async def _compress(session: Session, now: dt.datetime) -> None:
    """Compress old chunks of both continuous aggregates. Refreshed bars of compressed chunks are compressed again."""
    for rollup, after in COMPRESS_AFTER.items():
        old = f"show_chunks('{rollup}', older_than => $1::timestamptz)"
        await session.rows(f"SELECT compress_chunk(c, true) FROM {old} AS c", now - after)


async def drop_expired_rollups(session: Session, before: dt.datetime) -> None:
    """Delete bars of the 5m check roll-up whose time and arrival are before a time.

    TimescaleDB drops a chunk when this is true for all its bars.
    """
    if not session.timescale:
        await session.execute(f'DELETE FROM {ROLLUP_5M} WHERE greatest("time", arrived_at) < $1', before)
        return
    await session.rows(
        """SELECT drop_chunks(v.view_name::text::regclass, older_than => c.range_end, newer_than => c.range_start)
           FROM timescaledb_information.continuous_aggregates AS v
           JOIN timescaledb_information.chunks AS c ON c.hypertable_schema = v.materialization_hypertable_schema
               AND c.hypertable_name = v.materialization_hypertable_name
           WHERE v.view_schema = current_schema() AND v.view_name = $1 AND c.range_end < $2
               AND NOT EXISTS (SELECT FROM arrivals AS a WHERE a.relation = $1 AND a.starts_at < c.range_end
                   AND a.ends_at > c.range_start AND a.arrived_at >= $2)""",
        ROLLUP_5M, before,
    )  # fmt: skip
    await session.execute(
        "DELETE FROM arrivals WHERE relation = $1 AND greatest(ends_at, arrived_at) < $2", ROLLUP_5M, before
    )
