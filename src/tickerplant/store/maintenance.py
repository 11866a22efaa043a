"""Scheduled jobs: retention, refresh of the check roll-ups, and comparison of published bars with a check roll-up.

The plant runs all jobs on plain PostgreSQL. On TimescaleDB, the extension's scheduler runs the compression and the
retention of hypertables, and the plant runs the other jobs. Every job is safe to repeat and to interrupt. Only one
process at a time runs jobs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from tickerplant.core.errors import StoreError, StoreUnavailable
from tickerplant.core.times import datetime_of, micros_of
from tickerplant.store.comparison import compare
from tickerplant.store.job_status import RETRIED, JobStatus, jobs_status
from tickerplant.store.partitions import end, name_of
from tickerplant.store.repositories.ohlcv import HISTORICAL, INTRADAY
from tickerplant.store.rollups import ROLLUP_5M, drop_expired_rollups, rollup_1d, rollup_5m
from tickerplant.store.row_selection import DAILY
from tickerplant.store.session import LOCK, LOCK_JOBS, release_lock

if TYPE_CHECKING:
    from tickerplant.store.pool import Store
    from tickerplant.store.session import Session

__all__ = ["JobStatus", "compare", "jobs_status", "retention", "run_due", "run_job"]

log = structlog.get_logger(__name__)

RETRY_SOON: Final = """
    SELECT alter_job(job_id, retry_period => INTERVAL '1 minute') FROM timescaledb_information.jobs
    WHERE hypertable_schema IN (current_schema(), '_timescaledb_internal') AND retry_period <> INTERVAL '1 minute'
"""
"""Statement that sets the pause before a retry of TimescaleDB's jobs to a minute. A refresh and a compression that run
at the same time can deadlock, and one of them then fails. The default pause is up to an hour."""

LOCK_WAIT: Final = "2s"
"""Maximum wait for a partition's readers before the partition is dropped. New readers queue behind the drop. After this
wait, the partition remains until the next run."""


RETRY_AFTER_S: Final = (0.2, 1.0, 5.0)
"""Pauses in seconds before a job of the plant runs again after an error of `RETRIED`. On TimescaleDB, the refresh of a
check roll-up, a compression and a writer can deadlock, and the server ends one of them."""


async def run_due(store: Store, now: dt.datetime) -> list[str]:
    """Run the plant's due jobs and return their names; [] if no job is due, or while another process runs jobs.

    A job that fails is recorded as failed, and the other due jobs still run.
    """
    done: list[str] = []
    async with store.session() as session:
        if not await session.value("SELECT pg_try_advisory_lock($1, $2)", LOCK, LOCK_JOBS):
            return done
        try:
            due = await session.rows(
                """SELECT name FROM jobs WHERE started_at IS NULL OR started_at > $1 OR started_at + every <= $1
                   ORDER BY name DESC""",
                now,
            )  # a start in the future results from a wrong clock
            for row in due:
                await run_job(session, row["name"], now)
                done.append(row["name"])
        finally:
            await release_lock(session, LOCK_JOBS)
    return done


async def run_job(session: Session, name: str, now: dt.datetime) -> bool:
    """Run one job, record the result, and return whether it succeeded. A repeated failure
    is logged again only if its text changes.

    A job that fails because of other sessions (`RETRIED`) runs again up to three times, after the pauses
    `RETRY_AFTER_S`.

    Raises StoreError only if the result cannot be recorded.
    """
    before = await session.value(
        """UPDATE jobs SET started_at = $2, runs = runs + 1 WHERE name = $1
           RETURNING CASE WHEN ok THEN '' ELSE detail END""",
        name,
        now,
    )
    try:
        detail = await _run_again(name, session, now)
    except StoreError as error:
        if str(error) != before:
            log.error("job failed", job=name, error=str(error))
        await session.execute(
            """UPDATE jobs SET finished_at = clock_timestamp(), ok = false, failures = failures + 1, detail = $2
               WHERE name = $1""",
            name,
            str(error),
        )
        return False
    await session.execute(
        "UPDATE jobs SET finished_at = clock_timestamp(), succeeded_at = $3, ok = true, detail = $2 WHERE name = $1",
        name,
        detail,
        now,
    )
    return True


async def _run_again(name: str, session: Session, now: dt.datetime) -> str:
    for pause_s in RETRY_AFTER_S:
        try:
            return await _JOBS[name](session, now)
        except StoreUnavailable as error:
            if getattr(error.__cause__, "sqlstate", None) not in RETRIED:
                raise
            log.info("job runs again", job=name, error=str(error), pause_s=pause_s)
            await asyncio.sleep(pause_s)
    return await _JOBS[name](session, now)


# Retention


async def retention(session: Session, now: dt.datetime) -> str:
    """Drop expired rows, and return a text that lists the dropped partitions and the count of those that could not be
    dropped.

    Rows expire by the later of their time and their arrival. Rows of `dead_letters`, `alert_firings` and
    `alert_webhooks` expire by a single time: when they were sent, fired or finished.
    """
    if session.timescale:
        await session.execute(RETRY_SOON)
    rules = await session.rows("SELECT relation, keep FROM retention WHERE keep IS NOT NULL ORDER BY relation")
    dropped: list[str] = []
    busy, failed = 0, list[StoreError]()
    for rule in rules:
        relation, before = rule["relation"], now - rule["keep"]
        if relation == "dead_letters":
            await session.execute("DELETE FROM dead_letters WHERE sent_at < $1", before)
        elif relation == "answers":
            await _delete_answers(session, rule["keep"], now)
        elif relation == "alert_firings":
            await session.execute("DELETE FROM alert_firings WHERE fired_at < $1", before)
        elif relation == "alert_webhooks":
            await session.execute("DELETE FROM alert_webhooks WHERE finished_at < $1", before)
        elif relation == ROLLUP_5M:
            await drop_expired_rollups(session, before)
        elif session.timescale:
            continue  # TimescaleDB's own job drops these rows
        elif relation == "realtime_analytics":
            await session.execute('DELETE FROM realtime_analytics WHERE greatest("time", updated_at) < $1', before)
        else:
            names, held = await _drop_partitions(session, relation, before, failed)
            dropped += names
            busy += held
    if failed:
        raise failed[0]
    left = f"; partitions not dropped: {busy}; the next run will try again" if busy else ""
    return f"dropped {', '.join(dropped) if dropped else 'nothing'}{left}"


async def _delete_answers(session: Session, keep: dt.timedelta, now: dt.datetime) -> None:
    """Delete answers about bars past retention, by the later of the end of their range and their arrival.

    An answer remains while bars of its range exist. If it were deleted before them, bars without trades would be
    requested again.
    """
    for relation in (INTRADAY, HISTORICAL):
        await session.execute(
            f"""DELETE FROM answers AS t USING retention AS r
                WHERE r.relation = $1 AND r.keep IS NOT NULL AND (t.interval = ANY ($2::text[])) = $3
                    AND greatest(t.to_time, t.arrived_at) < $4::timestamptz - greatest(r.keep, $5::interval)
                    AND NOT EXISTS (SELECT FROM "{relation}" AS b WHERE b.symbol = t.symbol
                        AND b."interval" = t.interval AND b."time" >= t.from_time AND b."time" < t.to_time)""",
            relation, DAILY.to_pylist(), relation == HISTORICAL, now, keep,
        )  # fmt: skip


async def _drop_partitions(
    session: Session, relation: str, before: dt.datetime, failed: list[StoreError]
) -> tuple[list[str], int]:
    """Return the names of the dropped partitions, and the count of those in use. Add other errors to `failed`."""
    rows = await session.rows(
        "SELECT starts_at, max(arrived_at) AS arrived_at FROM arrivals WHERE relation = $1 GROUP BY starts_at", relation
    )
    dropped, busy = [], 0
    for row in rows:
        start_us = micros_of(row["starts_at"])
        if max(datetime_of(end(relation, start_us)), row["arrived_at"]) >= before:
            continue
        name = name_of(relation, start_us)
        try:
            async with session.transaction():
                await session.script(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                await session.script(f'DROP TABLE IF EXISTS "{name}"')
                await session.execute(
                    "DELETE FROM arrivals WHERE relation = $1 AND starts_at = $2", relation, row["starts_at"]
                )
        except StoreUnavailable as error:
            log.warning("partition not dropped; a later run will try again", partition=name, error=str(error))
            busy += 1
        except StoreError as error:  # such as a missing permission, or a view of the partition
            failed.append(error)
        else:
            dropped.append(name)
            session.known.partitions.discard((relation, start_us))
    return dropped, busy


_JOBS: Final[dict[str, Callable[[Session, dt.datetime], Awaitable[str]]]] = {
    "retention": retention,
    "rollup_5m": rollup_5m,
    "rollup_1d": rollup_1d,
    "compare": compare,
}
