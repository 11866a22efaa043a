"""Scheduled jobs: retention, check roll-ups, the comparison, failures and overdue jobs.

`test_timescale` tests the jobs that TimescaleDB runs.
"""

import asyncio
import dataclasses
import datetime as dt

import pytest
from structlog.testing import capture_logs

from tests.store.conftest import PLAIN, SEVERAL_SESSIONS
from tests.store.rows import MINUTE_US, OPEN_US, bars, ticks
from tests.store.test_bars import put as put_bars
from tests.store.test_prices import put as put_ticks
from tests.support.waiting import eventually
from tickerplant.app import health
from tickerplant.app.component import DEGRADED, OK
from tickerplant.app.wiring.rows import plain
from tickerplant.core.times import datetime_of
from tickerplant.store import Store, job_status
from tickerplant.store.maintenance import JobStatus, jobs_status, run_due, run_job
from tickerplant.store.session import LOCK, LOCK_JOBS, advisory_lock

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_retention_counts_from_the_later_of_time_and_arrival(store: Store) -> None:
    await put_ticks(store, ticks(100))  # ticks of 2012 that arrive now
    async with store.session() as session:
        for days, left in ((4, 100), (6, 0)):
            assert await run_job(session, "retention", NOW + days * DAY)
            assert await session.value("SELECT count(*) FROM realtime_prices") == left
        assert await session.value("SELECT count(*) FROM arrivals") == 0
    await put_ticks(store, ticks(100))  # its partition is created again
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM realtime_prices") == 100


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_daily_bars_have_no_retention(store: Store) -> None:
    await put_bars(store, bars({"interval": "1d", "time_us": 0}, {"minute": 0}))
    async with store.session() as session:
        assert await run_job(session, "retention", NOW + 800 * DAY)
        assert await session.value("SELECT count(*) FROM historical_ohlcv") == 1
        assert await session.value("SELECT count(*) FROM intraday_ohlcv") == 0


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_a_partition_in_use_is_left_for_the_next_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickerplant.store.maintenance.LOCK_WAIT", "50ms")
    await put_ticks(store, ticks(10))
    async with store.read() as reading, store.session() as session:
        await reading.prices.read("S0000")
        assert await run_job(session, "retention", NOW + 6 * DAY)
        assert "the next run will try again" in await session.value("SELECT detail FROM jobs WHERE name = 'retention'")
    async with store.session() as session:
        assert await run_job(session, "retention", NOW + 6 * DAY)
        assert await session.value("SELECT count(*) FROM arrivals") == 0


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_a_partition_that_cannot_be_dropped_fails_the_job_and_others_are_dropped(store: Store) -> None:
    await put_ticks(store, ticks(10))
    await put_bars(store, bars({"minute": 0}))
    async with store.session() as session:
        await session.script("CREATE VIEW of_a_user AS SELECT * FROM realtime_prices_p20120621")
        assert not await run_job(session, "retention", NOW + 800 * DAY)
        assert "of_a_user" in await session.value("SELECT detail FROM jobs WHERE name = 'retention'")
        assert await session.value("SELECT count(*) FROM realtime_prices") == 10
        assert await session.value("SELECT count(*) FROM intraday_ohlcv") == 0
        await session.script("DROP VIEW of_a_user")
        assert await run_job(session, "retention", NOW + 800 * DAY)
        assert await session.value("SELECT count(*) FROM arrivals") == 0


async def test_roll_ups_recompute_only_buckets_with_new_rows(store: Store) -> None:
    await put_ticks(store, ticks(1200, step_us=1_000_000))  # 1,200 s: twenty minutes
    async with store.session() as session:
        assert await run_job(session, "rollup_5m", NOW)
        rows = await session.rows("SELECT * FROM ohlcv_5m_rollup ORDER BY time")
        assert [row["trades"] for row in rows] == [300] * 4
        assert await run_job(session, "rollup_5m", NOW)
        detail = "SELECT detail FROM jobs WHERE name = 'rollup_5m'"
        assert (await session.value(detail)).endswith("0 partitions")
    await put_ticks(store, ticks(10, start_us=OPEN_US + 11 * MINUTE_US), 1)
    async with store.session() as session:
        assert await run_job(session, "rollup_5m", NOW)
        assert await session.value(detail) == ("1 partitions" if session.timescale else "2 rows in 1 partitions")
        counts = await session.rows("SELECT trades FROM ohlcv_5m_rollup ORDER BY time")
        assert [row["trades"] for row in counts] == [300, 300, 310, 300]
        prices = ticks(1200, step_us=1_000_000).column("price").to_pylist()[:300]
        first = rows[0]
        assert (first["open"], first["close"]) == (prices[0], prices[-1])
        assert (first["high"], first["low"]) == (max(prices), min(prices))


async def test_daily_check_roll_ups_contain_final_minutes(store: Store) -> None:
    rows = [{"minute": i, "price": float(i)} for i in (3, 1, 2)]
    by_trades = {"interval": "100t", "time_us": OPEN_US + 17, "price": 99.0}
    await put_bars(store, bars(*rows, {"minute": 4, "price": 99.0, "state": "forming"}, by_trades))
    async with store.session() as session:
        assert await run_job(session, "rollup_1d", NOW)
        [day] = await session.rows("SELECT * FROM ohlcv_1d_rollup")
    assert (day["open"], day["high"], day["low"], day["close"], day["volume"], day["trades"]) == (1, 3, 1, 3, 30, 9)
    assert day["time"] == dt.datetime(2012, 6, 21, tzinfo=dt.UTC)
    await put_bars(store, bars({"minute": 3, "state": "withdrawn", "version": 2}))
    async with store.session() as session:
        assert await run_job(session, "rollup_1d", NOW)
        [day] = await session.rows("SELECT * FROM ohlcv_1d_rollup")
    assert (day["high"], day["close"], day["trades"]) == (2, 2, 6), "the day does not contain a withdrawn minute"


async def test_the_comparison_counts_differences_and_names_one(store: Store) -> None:
    start_us = OPEN_US
    table = ticks(300, start_us=start_us, step_us=1_000_000)
    prices, sizes = table.column("price").to_pylist(), table.column("size").to_pylist()
    good = {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1], "volume": sum(sizes)}
    good |= {"trades": 300, "reason": "ticks"}
    await put_ticks(store, table)
    await put_bars(store, bars({"symbol": "S0000", "interval": "5m", **good}))
    soon = datetime_of(OPEN_US) + dt.timedelta(hours=1)
    async with store.session() as session:
        await run_job(session, "rollup_5m", soon)
        await run_job(session, "compare", soon)
        assert (await session.value("SELECT detail FROM jobs WHERE name = 'compare'")).startswith("0 of 1 5m bars")
    await put_bars(store, bars({"symbol": "S0000", "interval": "5m", **good, "high": 1e6, "version": 2}))
    async with store.session() as session:
        await run_job(session, "compare", soon)
        assert "1 of 1 5m bars" in (detail := await session.value("SELECT detail FROM jobs WHERE name = 'compare'"))
        assert "S0000 2012-06-21" in detail


@pytest.mark.parametrize("database", PLAIN, indirect=True)
async def test_jobs_run_when_due_and_failures_are_recorded(store: Store) -> None:
    names = ["rollup_5m", "rollup_1d", "retention", "compare"]
    assert await run_due(store, NOW) == names
    assert await run_due(store, NOW) == []
    assert await run_due(store, NOW + dt.timedelta(minutes=6)) == ["rollup_5m"]
    async with store.session() as session:
        await session.script("DROP TABLE ohlcv_1d_rollup")
    await put_bars(store, bars({}))
    with capture_logs() as lines:
        assert await run_due(store, NOW + DAY) == names
        assert await run_due(store, NOW + 2 * DAY) == names
    assert [line["job"] for line in lines if line["event"] == "job failed"] == ["rollup_1d"], "one line per outage"
    failed = {job.name: job for job in await jobs_status(store)}
    assert "ohlcv_1d_rollup" in failed["rollup_1d"].error
    assert failed["rollup_1d"].failures == 2
    assert failed["rollup_5m"].error == ""
    async with store.session() as session:
        assert await session.value("SELECT count(*) FROM arrivals WHERE claimed_from IS NOT NULL") == 1


async def test_jobs_whose_last_run_is_older_than_twice_their_interval_are_overdue(store: Store) -> None:
    now, minute = dt.datetime.now(dt.UTC), dt.timedelta(minutes=1)  # the jobs are due as soon as the tables exist
    assert not any(job.overdue for job in await jobs_status(store, now)), "the tables are new"

    async def overdue_after(minutes: int) -> set[str]:
        found = {job.name for job in await jobs_status(store, now + minutes * minute) if job.overdue}
        # TimescaleDB's own jobs have not run; those of the plant have the same names on every store.
        return found & {"rollup_5m", "rollup_1d", "retention", "compare"}

    assert await overdue_after(45) == {"rollup_5m", "retention"}, "due every 5 and 15 minutes since the tables exist"
    await run_due(store, now)
    for after, overdue in ((9, set()), (11, {"rollup_5m"}), (31, {"rollup_5m", "retention"})):
        assert await overdue_after(after) == overdue, after
    [late] = [job for job in await jobs_status(store, now + 11 * minute) if job.name == "rollup_5m"]
    [part] = health.job_health([plain(late)])
    assert part.state == DEGRADED
    assert part.sentence.startswith("overdue: due every 0:05:00, last ran 2")


def test_an_error_that_is_repeated_soon_does_not_degrade_a_job() -> None:
    job = JobStatus("refresh", NOW, NOW, "deadlock detected", "", 9, 1, dt.timedelta(minutes=5), retried=True)
    [part] = health.job_health([plain(job)])
    assert (part.state, part.sentence.startswith("failed and is retried: deadlock detected")) == (OK, True)
    [part] = health.job_health([plain(dataclasses.replace(job, retried=False))])
    assert (part.state, part.sentence.startswith("failed: deadlock detected (last success 2")) == (DEGRADED, True)


@pytest.mark.parametrize("database", SEVERAL_SESSIONS, indirect=True)
async def test_a_job_that_the_server_ends_because_of_a_deadlock_runs_again(store: Store) -> None:
    await put_ticks(store, ticks(10))
    with capture_logs() as lines:
        async with store.session() as job, store.session() as other, advisory_lock(job, LOCK_JOBS):
            await other.script("SET deadlock_timeout = '1h'")  # the server ends the session that detects the deadlock
            await job.script("SET deadlock_timeout = '10ms'")

            async def wait_for_the_job() -> None:
                async with other.transaction():
                    await other.execute("UPDATE arrivals SET arrived_at = arrived_at")
                    held.set()
                    await other.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_JOBS)

            async def is_waiting() -> bool:
                async with store.session() as session:
                    return bool(
                        await session.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                    )

            held = asyncio.Event()
            waiting = asyncio.create_task(wait_for_the_job())
            await held.wait()
            await eventually(is_waiting)
            running = asyncio.create_task(run_job(job, "rollup_5m", NOW))
            await eventually(lambda: [line for line in lines if line["event"] == "job runs again"])
            waiting.cancel()
            assert await running
            await job.script("RESET deadlock_timeout")
    assert "deadlock detected" in lines[0]["error"]
    assert not [line for line in lines if line["event"] == "job failed"]
    [rolled] = [job for job in await jobs_status(store) if job.name == "rollup_5m"]
    assert (rolled.error, rolled.runs, rolled.failures) == ("", 1, 0)
    async with store.session() as session:
        assert await session.value("SELECT sum(trades) FROM ohlcv_5m_rollup") == 10


@pytest.mark.parametrize(
    ("proc", "code", "retried"),
    [
        ("policy_compression", "40P01", True),
        ("policy_compression", "22000", True),  # "columnstore policy failure": the error of the chunk is not reported
        ("policy_columnstore", "22000", True),
        ("tickerplant_retention", "55P03", True),
        ("tickerplant_retention", "22000", False),
        ("policy_compression", "42501", False),
    ],
)
def test_a_policy_that_lost_a_lock_degrades_the_plant_only_if_it_has_not_succeeded_for_long(
    proc: str, code: str, retried: bool
) -> None:
    row = {
        "proc_name": proc, "target": None, "last_run_started_at": NOW, "last_successful_finish": NOW - DAY / 48,
        "last_run_status": "Failed", "total_runs": 3, "total_failures": 1, "err_message": "no", "sqlerrcode": code,
        "schedule_interval": DAY / 24, "scheduled": True, "job_status": "Scheduled",
    }  # fmt: skip
    assert job_status._of_timescale(row, NOW - DAY, NOW).retried is retried
    assert not job_status._of_timescale(row, NOW - DAY, NOW + DAY / 12).retried
