"""The status of the scheduled jobs: the plant's jobs, and TimescaleDB's own jobs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tickerplant.store.pool import Store

OVERDUE_FACTOR: Final = 2
"""Number of intervals without a run after which a job is overdue."""
RETRIED: Final = ("40P01", "40001", "55P03")
"""SQLSTATEs of failures after which a job soon runs again: deadlock, serialization failure, lock not available.
TimescaleDB repeats its jobs after a minute, and the plant repeats its jobs after seconds."""

COMPRESSION: Final = ("policy_compression", "policy_columnstore")
"""Names of TimescaleDB's compression policy, by version."""
NOT_COMPRESSED: Final = "22000"
"""SQLSTATE of a compression policy that compressed no chunk. It replaces the error of the chunk, such as a deadlock,
which only the server's log contains."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """Status of a scheduled job.

    `error` is the reason if the last run failed, else empty. `detail` describes a successful last run of the plant's
    own jobs, else empty. `retried` is true if a job of TimescaleDB failed with an error that will probably not occur in
    the next run, a minute later.
    """

    name: str
    last_run_at: dt.datetime | None
    last_success_at: dt.datetime | None
    error: str
    detail: str
    runs: int
    failures: int
    every: dt.timedelta | None = None
    """Interval of the job; None if it is not scheduled."""
    overdue: bool = False
    retried: bool = False


async def jobs_status(store: Store, now: dt.datetime | None = None) -> list[JobStatus]:
    """Return the status of every job, with TimescaleDB's own, sorted by name. None as `now` is the current time."""
    now = now or dt.datetime.now(dt.UTC)
    async with store.session() as session:
        created = await session.value("SELECT max(applied_at) FROM schema_migrations")
        found = [_of_plant(row, created, now) for row in await session.rows("SELECT * FROM jobs")]
        if session.timescale:
            found += [_of_timescale(row, created, now) for row in await session.rows(_TIMESCALE_JOBS)]
    return sorted(found, key=lambda status: status.name)


_TIMESCALE_JOBS: Final = """
    SELECT j.job_id, j.proc_name, coalesce(v.view_name, j.hypertable_name) AS target, s.last_run_started_at,
        s.last_successful_finish, s.last_run_status, s.total_runs, s.total_failures, e.err_message, e.sqlerrcode,
        j.schedule_interval, j.scheduled, s.job_status
    FROM timescaledb_information.jobs j
    LEFT JOIN timescaledb_information.job_stats s ON s.job_id = j.job_id
    LEFT JOIN timescaledb_information.continuous_aggregates v
        ON v.materialization_hypertable_name = j.hypertable_name
    LEFT JOIN LATERAL (SELECT e.err_message, e.sqlerrcode FROM timescaledb_information.job_errors e
        WHERE e.job_id = j.job_id ORDER BY e.finish_time DESC LIMIT 1) AS e ON true
    WHERE j.job_id >= 1000
"""


def _of_plant(row: Any, created: dt.datetime, now: dt.datetime) -> JobStatus:
    failed = row["ok"] is False
    return JobStatus(
        row["name"],
        row["started_at"],
        row["succeeded_at"],
        row["detail"] if failed else "",
        row["detail"] if row["ok"] else "",
        row["runs"],
        row["failures"],
        row["every"],
        _is_overdue(row["started_at"] or created, row["every"], now),
    )


def _of_timescale(row: Any, created: dt.datetime, now: dt.datetime) -> JobStatus:
    failed = row["last_run_status"] == "Failed"
    name = row["proc_name"] if row["target"] is None else f"{row['proc_name']} {row['target']}"
    started, succeeded = _time_or_none(row["last_run_started_at"]), _time_or_none(row["last_successful_finish"])
    every = row["schedule_interval"] if row["scheduled"] else None
    # A run that takes longer than the interval is not overdue.
    overdue = row["job_status"] != "Running" and _is_overdue(started or created, every, now)
    passing = RETRIED if row["proc_name"] not in COMPRESSION else (*RETRIED, NOT_COMPRESSED)
    retried = failed and row["sqlerrcode"] in passing and not _is_overdue(succeeded or created, every, now)
    return JobStatus(
        name,
        started,
        succeeded,
        (row["err_message"] or "failed; see the log of the database for the reason") if failed else "",
        "",
        row["total_runs"] or 0,
        row["total_failures"] or 0,
        every,
        overdue,
        retried,
    )


def _is_overdue(last: dt.datetime, every: dt.timedelta | None, now: dt.datetime) -> bool:
    return every is not None and now - last > OVERDUE_FACTOR * every


def _time_or_none(value: Any) -> dt.datetime | None:
    # −infinity means never; the driver returns it as the smallest datetime.
    return None if value is None or value.year < 1970 else value
