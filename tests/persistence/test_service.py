"""Persistence with a real log and a real PostgreSQL: each record is stored exactly once, despite outages."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.core.samples import samples
from tests.persistence.feeding import PARTITIONS, Feed, count, has, running
from tests.store.rows import OPEN_US
from tests.support.killed import Killed
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, eventually
from tickerplant.core import faults, records, schemas
from tickerplant.core.errors import PositionConflict, StoreMismatch
from tickerplant.core.version import make_version
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.port import TopicPartition
from tickerplant.persistence import service
from tickerplant.persistence.service import GROUP, Persistence
from tickerplant.store import Store


async def test_all_records_of_the_log_arrive_in_their_tables(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str
) -> None:
    last = 0
    for partition in range(PARTITIONS):
        last = feed.ticks(100, partition)
    feed.bars({"symbol": "A"}, {"symbol": "A", "interval": "1d"}, partition=1)
    feed.values({"sma_20": 1.0}, {"minute": 1, "state": "forming", "sma_20": 2.0})
    at = pa.table({"time": pa.array([OPEN_US], pa.int64()).cast(schemas.SPLITS.field("time").type)})
    name = pa.array(["A"]).dictionary_encode()
    split = pa.Table.from_arrays([at.column(0), name, pa.array([4.0]), pa.array([1.0]), name], schema=schemas.SPLITS)
    feed.put(schemas.RAW, 1, records.Splits(sent_at_us=1), split)
    dividend = pa.Table.from_arrays([at.column(0), name, pa.array([0.5]), name, name], schema=schemas.DIVIDENDS)
    feed.put(schemas.RAW, 1, records.Dividends(sent_at_us=1), dividend)
    symbols = pa.Table.from_arrays(
        [pa.array(["A", "B"]).dictionary_encode(), pa.array([True, False])], schema=schemas.COVERAGE
    )
    over = records.Over(sent_at_us=1, feed="f", cause=1, interval="1m", start_us=OPEN_US, expected=2, emitted=1)
    feed.put(schemas.STATUS, 2, over, symbols)
    feed.put(schemas.STATUS, 2, records.FeedState(sent_at_us=1, feed="f", state="up", since_us=OPEN_US))
    feed.put(schemas.STATUS, 2, records.FeedState(sent_at_us=2, feed="f", state="late", since_us=OPEN_US, count=3))
    feed.put(
        schemas.STATUS, 1, records.FeedState(sent_at_us=2, feed="f", state="unsupported", since_us=OPEN_US, count=5)
    )
    differing = pa.Table.from_batches([samples()["differences"].batch.replace_schema_metadata(None)])
    for partition in (1, 2):
        feed.put(schemas.STATUS, partition, records.Differences(sent_at_us=3, feed="f"), differing)
    dead = pa.Table.from_arrays(
        [pa.array(["raw"]), pa.array([0], pa.int32()), pa.array([7]), pa.array(["no\0nsense"]), pa.array([b"\0x"])],
        schema=schemas.DEAD,
    )
    feed.put(schemas.DEADLETTER, 2, records.Dead(sent_at_us=1), dead)
    async with running(log, dsn) as persistence:
        await eventually(has(store, "realtime_prices", 100 * PARTITIONS))
        await eventually(has(store, "dead_letters", 1))
        await eventually(has(store, "realtime_analytics", 1))
    assert [await count(store, t) for t in ("intraday_ohlcv", "historical_ohlcv", "intraday_analytics")] == [1, 1, 1]
    assert persistence.counts.ticks == 100 * PARTITIONS
    assert persistence.counts.differences == 4
    async with store.read() as session:
        assert (await session.actions.splits("A")).equals(split)
        assert (await session.actions.dividends("A")).equals(dividend)
        assert (await session.coverage.read("f", "1m")).column("silent").to_pylist() == [["B"]]
        names = ("partition", "state", "late_ticks", "unsupported", "differences")
        feeds = (await session.coverage.feeds()).select(names).to_pylist()
        assert [tuple(row.values()) for row in feeds] == [(1, "unknown", 0, 5, 2), (2, "up", 3, 0, 2)]
        assert (await session.coverage.exclusion_counts()).to_pylist() == [
            {"feed": "f", "late_ticks": 3, "unsupported": 5, "differences": 4}
        ]
        applied = await session.applied()
    assert applied[schemas.RAW, 2].cause == make_version(log.identity().generation, last)
    ends = {tp: end for topic in service.TOPICS for tp, (_, end) in log.offsets(topic).items()}
    assert {tp: found.position for tp, found in applied.items()} == ends
    # After a clean stop, the committed positions of the group equal the end offsets of the log.
    assert {tp: at for tp, at in log.committed(GROUP).items() if at} == {tp: at for tp, at in ends.items() if at}


async def test_a_restart_resumes_at_the_position_of_the_store_not_of_the_group(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        return None

    monkeypatch.setattr(service._StoreSession, "_commit_on_stop", never)
    feed.ticks(100)
    async with running(log, dsn):
        await eventually(has(store, "realtime_prices", 100))
    assert not any(log.committed(GROUP).values()), "the group stays at the beginning"
    feed.ticks(50)
    async with running(log, dsn):
        await eventually(has(store, "realtime_prices", 150))
    assert await count(store, "realtime_prices") == 150


async def test_the_group_commits_positions_that_the_database_has_flushed(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str
) -> None:
    offset = feed.ticks(10)
    async with running(log, dsn):

        async def followed() -> bool:
            return any(at == offset + 1 for at in log.committed(GROUP).values())

        await eventually(followed)


@pytest.mark.parametrize("point", ["before", "within", "after"])
async def test_a_kill_around_a_commit_loses_and_duplicates_nothing(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, point: str
) -> None:
    left = 3

    def kill(name: str) -> None:
        nonlocal left
        if name == f"persistence.commit.{point}":
            left -= 1
            if left == 0:
                raise Killed

    feed.bars({"minute": 1, "state": "forming", "version": 5})
    for number in range(20):
        feed.ticks(10, number % PARTITIONS)
        feed.bars({"minute": 1, "state": "forming", "version": 6 + number})
    faults.install(kill)
    try:
        task = asyncio.create_task(Persistence(log, dsn).run(asyncio.Event()))
        for number in range(1000):
            await asyncio.sleep(0.02)
            if task.done():
                break
            feed.ticks(10, number % PARTITIONS)
            feed.bars({"minute": 1, "state": "forming", "version": 100 + number})
        with pytest.raises(Killed):
            await task
    finally:
        faults.install(None)
    total = 10 * sum(end for _, end in log.offsets(schemas.RAW).values())
    newest = log.offsets(schemas.OHLCV)
    async with running(log, dsn):
        await eventually(has(store, "realtime_prices", total))

        async def formed() -> bool:
            async with store.session() as session:
                version = await session.value("SELECT version FROM intraday_ohlcv")
            return version == 100 + max(end for _, end in newest.values()) - 22

        await eventually(formed)


async def test_forming_rows_are_conflated_and_the_last_one_arrives(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str
) -> None:
    async with running(log, dsn) as persistence:
        began_s = time.monotonic()
        for version in range(1, 40):
            feed.bars({"state": "forming", "version": version, "price": float(version)})
            await asyncio.sleep(0.01)

        async def last() -> bool:
            async with store.session() as session:
                return bool(await session.value("SELECT version = 39 FROM intraday_ohlcv"))

        await eventually(last, idle_s=5)
    assert persistence.counts.rows <= 3 + (time.monotonic() - began_s), "more than one row per second"


async def test_an_unreadable_record_is_skipped(log: EmbeddedLog, feed: Feed, store: Store, dsn: str) -> None:
    feed.ticks(10)
    with log.writer("vandal") as writer, writer.transaction() as transaction:
        transaction.append(schemas.RAW, 0, b"nonsense")
    feed.ticks(10)
    async with running(log, dsn) as persistence:
        await eventually(has(store, "realtime_prices", 20))
    assert persistence.counts.unreadable == 1


async def test_history_competes_by_the_source_order_in_the_log_also_after_a_restart(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str
) -> None:
    async def sources(symbol: str) -> list[str]:
        async with store.read() as session:
            return (await session.ohlcv.read(symbol, "1m")).column("source").to_pylist()

    def history(version: int, source: str) -> None:
        feed.bars(
            *({"symbol": s, "source": source, "history": True, "version": version, "price": version} for s in "AB")
        )

    order = ["first:bars@A 1m", "second", "first"]
    feed.put(schemas.OHLCV, 0, records.Settings(sent_at_us=1, values={"sources": order}))
    feed.put(schemas.OHLCV, 0, records.Settings(sent_at_us=1, values={"sources": ["first:candles"]}))
    history(1, "second")
    async with running(log, dsn) as persistence:
        await eventually(has(store, "intraday_ohlcv", 2))
        assert persistence.counts.unreadable == 1
        async with store.read() as session:
            assert await session.coverage.source_orders() == {0: tuple(order)}
    history(2, "first")
    async with running(log, dsn):

        async def competed() -> bool:
            return await sources("A") == ["first"]

        await eventually(competed)
    assert await sources("B") == ["second"]
    async with store.session() as session:  # as if another version, which could parse this order, had stored it
        await session.execute("UPDATE source_order SET sources = '{first:candles}'")
    history(3, "third")
    async with running(log, dsn) as persistence:

        async def by_default() -> bool:
            return await sources("A") == await sources("B") == ["third"]

        await eventually(by_default)
        assert persistence.counts.unreadable == 1


async def test_a_zombie_changes_nothing_and_stops(log: EmbeddedLog, feed: Feed, store: Store, dsn: str) -> None:
    feed.ticks(10)
    async with running(log, dsn):
        await eventually(has(store, "realtime_prices", 10))
    zombie = Persistence(log, dsn)
    task = asyncio.create_task(zombie.run(asyncio.Event()))
    await eventually(lambda: log.members(GROUP) == 1, "the zombie to join its group")
    async with store.session() as session:
        while not task.done():
            # Another process moves all positions repeatedly, as an owner in another group does.
            await session.execute("UPDATE positions SET position = position + 1, resume = resume + 1")
            for partition in range(PARTITIONS):
                for topic in service.TOPICS:
                    feed.put(topic, partition, records.Mark(sent_at_us=1, watermark_us=1))
            await asyncio.sleep(0.05)
        with pytest.raises(PositionConflict, match="another process"):
            await task
        assert await session.value("SELECT count(*) FROM realtime_prices") == 10


async def test_reading_restarts_at_a_position_that_a_former_owner_moved_late(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str
) -> None:
    async with running(log, dsn) as persistence:
        feed.ticks(10)
        await eventually(has(store, "realtime_prices", 10))
        async with store.session() as session:  # the former owner applied the next record
            await session.execute(
                "UPDATE positions SET position = 2, resume = 2 WHERE topic = $1 AND partition = 0", schemas.RAW
            )
        feed.ticks(7)
        feed.ticks(5)
        await eventually(has(store, "realtime_prices", 15))
    assert persistence.counts.conflicts == 1


async def test_a_store_of_another_log_is_refused(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, tmp_path: Path
) -> None:
    async with running(log, dsn):

        async def bound() -> bool:
            return await store.bound_to() is not None

        await eventually(bound)
    other = EmbeddedLog(tmp_path / "other.log")
    other.create_topics(schemas.TOPICS, PARTITIONS)
    with pytest.raises(StoreMismatch, match="adopt"):
        await Persistence(other, dsn).run(asyncio.Event())
    other.close()


async def test_terminated_connections_are_reopened(log: EmbeddedLog, feed: Feed, store: Store, dsn: str) -> None:
    async with running(log, dsn) as persistence:
        for number in range(30):
            feed.ticks(20, number % PARTITIONS)
            if number % 10 == 5:
                async with store.session() as session:
                    await session.execute(
                        """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                           WHERE datname = current_database() AND pid <> pg_backend_pid()"""
                    )
            await asyncio.sleep(0.05)
        await eventually(has(store, "realtime_prices", 600))
    assert persistence.counts.restarts >= 1


async def test_rows_that_a_killed_server_lost_are_applied_again(
    log: EmbeddedLog, feed: Feed, postgres: Postgres, dsn: str
) -> None:
    server = postgres.server
    restarts = server.restarts
    async with running(log, dsn):
        for number in range(60):
            feed.ticks(20, number % PARTITIONS)
            feed.bars({"minute": number, "version": number + 1})
            if number in (20, 40):
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
            await asyncio.sleep(0.03)

        async def all_there() -> bool:
            try:
                store = await Store.open(dsn, max_size=1)
            except Exception:
                return False
            try:
                found = [await count(store, t) for t in ("realtime_prices", "intraday_ohlcv")]
            finally:
                await store.close()
            assert found[0] <= 1200
            return found == [1200, 60]

        await eventually(all_there, idle_s=60)
    assert server.restarts > restarts


async def test_two_members_share_the_partitions_and_one_takes_over_from_the_other(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str
) -> None:
    async with running(log, dsn, "a"):
        for number in range(10):
            feed.ticks(10, number % PARTITIONS)
        await eventually(has(store, "realtime_prices", 100))
        async with running(log, dsn, "b"):
            for number in range(50):
                feed.ticks(10, number % PARTITIONS)
                await asyncio.sleep(0.02)
            await eventually(has(store, "realtime_prices", 600))
        for number in range(10):
            feed.ticks(10, number % PARTITIONS)
        await eventually(has(store, "realtime_prices", 700))
    assert await count(store, "realtime_prices") == 700


class Stale:
    """Persistence in a thread that the test can pause inside a commit."""

    def __init__(self, log: EmbeddedLog, dsn: str, point: str) -> None:
        self.persistence = Persistence(log, dsn)
        self.held = threading.Event()
        self._point, self._armed, self._resume = f"persistence.commit.{point}", False, threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stale:
        faults.install(self._pause)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE.seconds(30))
        faults.install(None)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._loop.run_until_complete(self.persistence.run(self._stop))
        self._loop.close()

    def _pause(self, name: str) -> None:
        if self._armed and name == self._point and threading.current_thread() is self._thread:
            self._armed = False
            self.held.set()
            assert self._resume.wait(PATIENCE.seconds(30))

    def hold(self) -> None:
        self._armed = True

    def resume(self) -> None:
        self._resume.set()


def applied_all(log: EmbeddedLog, store: Store) -> Callable[[], Awaitable[bool]]:
    """Return a condition: the tables contain each tick once, ten per raw record, and the newest bar."""

    async def condition() -> bool:
        ends = {tp: end for topic in (schemas.RAW, schemas.OHLCV) for tp, (_, end) in log.offsets(topic).items()}
        async with store.session() as session:
            rows = await session.rows("SELECT topic, partition, position FROM positions")
            version = await session.value("SELECT version FROM intraday_ohlcv")
            found = await session.value("SELECT count(*) FROM realtime_prices")
        ticks_there = 10 * sum(end for (topic, _), end in ends.items() if topic == schemas.RAW)
        assert found <= ticks_there, "some ticks are stored twice"
        positions = {(row["topic"], row["partition"]): row["position"] for row in rows}
        return found == ticks_there and version == ends[schemas.OHLCV, 0] and ends.items() <= positions.items()

    return condition


async def test_an_overtaken_member_rolls_back_and_resumes_behind_the_other(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(records_: int) -> None:
        for _ in range(records_):
            feed.ticks(10)
            feed.bars({"version": 1 + log.offsets(schemas.OHLCV)[TopicPartition(schemas.OHLCV, 0)][1]})

    put(1)
    with Stale(log, dsn, "before") as stale:
        await eventually(applied_all(log, store))
        stale.hold()
        put(1)
        assert await asyncio.to_thread(stale.held.wait, PATIENCE.seconds(30))
        monkeypatch.setattr(service, "GROUP", "another")  # a second owner while the first is paused
        async with running(log, dsn) as other:
            put(5)
            await eventually(applied_all(log, store))
        stale.resume()

        async def noticed() -> bool:
            return stale.persistence.counts.conflicts > 0

        await eventually(noticed)
        assert await applied_all(log, store)()
        put(5)
        await eventually(applied_all(log, store))
    assert other.counts.conflicts == 0
    assert stale.persistence.counts.ticks == 10 + 50, (
        "the member counts the first record, and five after the other member stopped"
    )
    assert stale.persistence.counts.restarts == 0


async def test_a_new_owner_waits_for_a_running_commit_and_starts_behind_it(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.bars({"version": 1})
    with Stale(log, dsn, "within") as stale:
        await eventually(applied_all(log, store))
        stale.hold()
        feed.ticks(10)
        assert await asyncio.to_thread(stale.held.wait, PATIENCE.seconds(30))
        monkeypatch.setattr(service, "GROUP", "another")
        async with running(log, dsn) as other:
            await eventually(lambda: log.members("another") == 1, "the other to join its group")
            assert await count(store, "realtime_prices") == 0
            stale.resume()
            await eventually(applied_all(log, store))

            async def counted() -> bool:  # counters change a moment after the rows become visible
                return bool(stale.persistence.counts.ticks + other.counts.ticks)

            await eventually(counted)
            assert (stale.persistence.counts.ticks, other.counts.ticks, other.counts.conflicts) == (10, 0, 0)


async def test_two_owners_of_all_partitions_lose_and_duplicate_nothing(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A partition has one owner per group, so two groups are two independent owners.
    stop = asyncio.Event()
    owners, tasks = [], []
    for name in (GROUP, "another"):
        monkeypatch.setattr(service, "GROUP", name)
        owners.append(Persistence(log, dsn))
        tasks.append(asyncio.create_task(owners[-1].run(stop)))
        await eventually(lambda name=name: log.members(name) == 1, "the owner to join its group")
    for version in range(1, 61):
        feed.ticks(10, version % PARTITIONS)
        feed.bars({"version": version, "state": "final" if version % 2 else "forming"})
        await asyncio.sleep(0.01)
    await eventually(applied_all(log, store))
    stop.set()
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE.seconds(30))
    # An owner that loses every race stops with an error.
    assert [error for error in ended if error is not None and not isinstance(error, PositionConflict)] == []
    assert None in ended
    assert sum(owner.counts.conflicts for owner in owners) > 0
    assert sum(owner.counts.ticks for owner in owners) == 600


async def test_a_record_is_committed_on_arrival_not_at_the_end_of_a_poll(
    log: EmbeddedLog, feed: Feed, store: Store, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "POLL_S", 3_600.0)
    async with running(log, dsn):
        feed.ticks(1)
        await eventually(has(store, "realtime_prices", 1))
        for number in range(30):
            feed.ticks(1)
            await eventually(has(store, "realtime_prices", number + 2), "the record's row")
