"""Errors of the database: those that pass are retried and reported, the others stop one partition only."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path

import asyncpg
import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from tests.persistence.feeding import Feed, has, running
from tests.store.rows import OPEN_US, ticks
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, eventually
from tickerplant.app import health
from tickerplant.app.component import DEGRADED, FAILED, OK
from tickerplant.core import records, schemas
from tickerplant.core.errors import StoreError, StoreUnavailable
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.port import TopicPartition
from tickerplant.persistence import status
from tickerplant.persistence.reporter import PersistenceCounters, StatusReporter
from tickerplant.persistence.service import Persistence
from tickerplant.store import Store
from tickerplant.store.session import MAX_ERROR_CHARS, is_transient, translate_errors

LIMIT = "ALTER TABLE realtime_prices ADD CONSTRAINT small CHECK (size < 1000)"
NO_LIMIT = "ALTER TABLE realtime_prices DROP CONSTRAINT small"


@pytest.fixture(params=["embedded", "tcp"])
def dsn(dsn: str, postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """Return the address of a database with tables, on the server's socket or over TCP."""
    return postgres.over_tcp(dsn) if request.param == "tcp" else dsn


def large(count: int) -> pa.Table:
    """Return ticks that the constraint `small` forbids."""
    table = ticks(count, start_us=OPEN_US + 60_000_000)
    return table.set_column(3, schemas.TICKS.field("size"), pa.array([5000.0] * count))


async def positions(store: Store) -> dict[tuple[str, int], int]:
    async with store.read() as session:
        return await session.positions()


def health_of(event_log: EmbeddedLog, applied: dict[tuple[str, int], int]) -> tuple[str, str]:
    [part] = health.persistence_health(event_log, lambda: applied, time.time_ns() // 1000)
    return part.state, part.sentence


async def test_a_refused_record_stops_only_its_partition_and_is_applied_when_the_cause_is_removed(
    log: EmbeddedLog,
    feed: Feed,
    store: Store,
    dsn: str,
) -> None:
    header = records.Ticks(sent_at_us=OPEN_US, watermark_us=OPEN_US)
    async with store.session() as session:
        await session.script(LIMIT)
    feed.ticks(10, 1)
    feed.ticks(10, 1)
    refused = feed.put(schemas.RAW, 1, header, large(3))
    feed.ticks(10, 1)
    feed.ticks(10, 0)
    source = TopicPartition(schemas.RAW, 1)
    async with running(log, dsn) as persistence:
        await eventually(lambda: persistence.counts.refused_partitions == 1)
        feed.ticks(10, 0)
        feed.bars({"minute": 1}, partition=1)  # the same number in another topic is another partition
        await eventually(has(store, "realtime_prices", 40))
        await eventually(has(store, "intraday_ohlcv", 1))
        applied = await positions(store)
        assert applied[source] == refused
        state, sentence = health_of(log, applied)
        assert state == FAILED
        assert sentence.startswith(
            f"market.prices.raw/1 stopped at offset {refused}: the database refused a statement:"
        )
        assert "small" in sentence
        assert "23514" in sentence
        assert "then restart persistence" in sentence
        assert persistence.counts.restarts == 0
    # A second process gets the same refusal. The reported time is that of the first.
    [first] = status.read_refusals(log)
    async with running(log, dsn) as persistence:
        await eventually(lambda: persistence.counts.refused_partitions == 1)
    assert status.read_refusals(log) == [first]
    async with store.session() as session:
        await session.script(NO_LIMIT)
    async with running(log, dsn):
        await eventually(has(store, "realtime_prices", 53))
        await eventually(lambda: not status.read_refusals(log))
    assert health_of(log, await positions(store)) == (OK, "writes every partition")


async def test_a_refused_record_remains_in_the_log_after_its_retention(
    log: EmbeddedLog,
    feed: Feed,
    store: Store,
    dsn: str,
) -> None:
    async with store.session() as session:
        await session.script(LIMIT)
    feed.ticks(10, 0)
    # The first record of the partition is refused, so the group has never applied a record there.
    refused = feed.put(schemas.RAW, 1, records.Ticks(sent_at_us=OPEN_US, watermark_us=OPEN_US), large(3))
    async with running(log, dsn) as persistence:
        await eventually(lambda: persistence.counts.refused_partitions == 1)
        await eventually(lambda: log.committed("persistence").get(TopicPartition(schemas.RAW, 0)) == 1)
        log.trim(time.time_ns() // 1000 + 100 * DAY_US)
        offsets = log.offsets(schemas.RAW)
        assert offsets[TopicPartition(schemas.RAW, 0)] == (1, 1), "applied records are dropped"
        assert offsets[TopicPartition(schemas.RAW, 1)] == (refused, refused + 1)


async def test_rows_that_only_fail_together_are_applied_one_by_one(
    log: EmbeddedLog,
    feed: Feed,
    store: Store,
    dsn: str,
) -> None:
    # The trigger refuses statements with more than 20 rows, as a limit per statement does (53400 on TimescaleDB).
    async with store.session() as session:
        await session.script(
            """CREATE FUNCTION few() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   IF (SELECT count(*) FROM added) > 20 THEN
                       RAISE EXCEPTION 'too many' USING ERRCODE = 'configuration_limit_exceeded';
                   END IF;
                   RETURN NULL;
               END $$;
               CREATE TRIGGER few AFTER INSERT ON realtime_prices REFERENCING NEW TABLE AS added
               FOR EACH STATEMENT EXECUTE FUNCTION few()"""
        )
    for _ in range(5):
        feed.ticks(15)
    async with running(log, dsn) as persistence:
        await eventually(has(store, "realtime_prices", 75))
        feed.ticks(15)
        await eventually(has(store, "realtime_prices", 90))
    assert persistence.counts.refused_partitions == persistence.counts.restarts == 0
    assert status.read_refusals(log) == []


async def test_two_refused_partitions_are_both_reported(
    log: EmbeddedLog,
    feed: Feed,
    store: Store,
    dsn: str,
) -> None:
    async with store.session() as session:
        await session.script("ALTER TABLE intraday_ohlcv ADD CONSTRAINT cheap CHECK (close < 100)")
    for partition in (0, 2):
        feed.bars({"symbol": f"A{partition}", "price": 5.0}, partition=partition)
        feed.bars({"symbol": f"B{partition}", "price": 500.0}, partition=partition)
    feed.bars({"symbol": "C", "price": 5.0}, partition=1)
    async with running(log, dsn) as persistence:
        await eventually(lambda: persistence.counts.refused_partitions == 2)
        await eventually(has(store, "intraday_ohlcv", 3))
    assert [(one.topic, one.partition, one.offset) for one in status.read_refusals(log)] == [
        (schemas.OHLCV, 0, 1),
        (schemas.OHLCV, 2, 1),
    ]


async def test_an_outage_is_logged_once_and_reported_with_its_text_and_start(tmp_path: Path) -> None:
    event_log = EmbeddedLog(tmp_path / "market.log")
    event_log.create_topics(schemas.TOPICS, 1)
    stop, began_s = asyncio.Event(), time.time()
    with capture_logs() as lines:
        task = asyncio.create_task(Persistence(event_log, f"postgresql:///x?host={tmp_path}").run(stop))
        await eventually(lambda: bool(status.read_outages(event_log, time.time_ns() // 1000)))
        state, sentence = health_of(event_log, {})
        assert state == DEGRADED
        assert sentence.startswith("persistence-0 has failed ")
        assert "the database is unavailable: " in sentence
        [report] = status.read_outages(event_log, time.time_ns() // 1000).values()
        assert began_s <= report.since_s <= time.time()
        await eventually(lambda: status.read_outages(event_log, time.time_ns() // 1000)["persistence-0"].failures > 3)
        stop.set()
        await asyncio.wait_for(task, PATIENCE.seconds(10))
    assert len([line for line in lines if line["log_level"] == "warning"]) == 1
    later_us = time.time_ns() // 1000 + int(1e6 * (status.STALE_S + 1))
    assert status.read_outages(event_log, later_us) == {}, "the process of an old report has ended"
    event_log.close()


async def test_a_recovery_ends_the_reported_outage(log: EmbeddedLog) -> None:
    counts = PersistenceCounters()
    reporter = StatusReporter(log, "persistence-0", counts, lambda: None)
    await reporter.fail(StoreUnavailable("unavailable"))
    assert status.read_outages(log, time.time_ns() // 1000) == {}, "a single failure is not a repeating error"
    assert counts.error_since_s > 0
    await reporter.fail(StoreUnavailable("still unavailable"))
    [report] = status.read_outages(log, time.time_ns() // 1000).values()
    assert (report.error, report.failures) == ("still unavailable", 2)
    await reporter.recover()
    assert status.read_outages(log, time.time_ns() // 1000) == {}
    assert (counts.error_since_s, counts.restarts) == (0.0, 2)


def test_a_refusal_counts_until_the_position_of_the_store_is_after_it(log: EmbeddedLog) -> None:
    refusal = status.Refusal(schemas.RAW, 1, 7, "no", 1.0)
    status.write(log, "other", dict([status.refusal_change(refusal)]))
    assert health_of(log, {(schemas.RAW, 1): 7})[0] == FAILED
    assert health_of(log, {(schemas.RAW, 1): 8})[0] == OK

    def unavailable() -> dict[tuple[str, int], int]:
        raise StoreUnavailable("unavailable")

    [part] = health.persistence_health(log, unavailable, 0)
    assert part.state == FAILED


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DeadlockDetectedError("x"),
        asyncpg.SerializationError("x"),
        asyncpg.TooManyConnectionsError("x"),
        asyncpg.DiskFullError("x"),
        asyncpg.CannotConnectNowError("x"),
        asyncpg.AdminShutdownError("x"),
        asyncpg.LockNotAvailableError("x"),
        asyncpg.ReadOnlySQLTransactionError("x"),
        asyncpg.ConnectionDoesNotExistError("x"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("cannot call Connection.execute(): connection has been released back to the pool"),
        ConnectionRefusedError("x"),
        TimeoutError(),
    ],
    ids=repr,
)
def test_errors_that_pass_by_waiting_are_transient(error: Exception) -> None:
    assert is_transient(error)
    with pytest.raises(StoreUnavailable), translate_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.ConfigurationLimitExceededError("tuple decompression limit exceeded by operation"),  # 53400
        asyncpg.ProtocolViolationError("x"),
        asyncpg.DatabaseDroppedError("x"),
        asyncpg.CheckViolationError("x"),
        asyncpg.InsufficientPrivilegeError("x"),
        asyncpg.NumericValueOutOfRangeError("x"),
        asyncpg.UndefinedColumnError("x"),
        asyncpg.TooManyColumnsError("x"),
        asyncpg.DataError("invalid input for query argument $1: 2147483648 (value out of int32 range)"),
        asyncpg.InterfaceError("the server expects 2 arguments for this query, 3 were passed"),
        asyncpg.InvalidPasswordError("x"),
        ssl.SSLCertVerificationError("x"),
        PermissionError("x"),
    ],
    ids=repr,
)
def test_errors_that_no_wait_changes_are_not_retried(error: Exception) -> None:
    assert not is_transient(error)
    with pytest.raises(StoreError) as raised, translate_errors():
        raise error
    assert not isinstance(raised.value, StoreUnavailable)


def test_the_text_of_an_error_is_one_line_and_bounded() -> None:
    with pytest.raises(StoreError) as raised, translate_errors():
        raise asyncpg.CheckViolationError("row\n" + "x" * 10 * MAX_ERROR_CHARS)
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < MAX_ERROR_CHARS + 100
    assert "23514" in text
    assert json.dumps(text)
