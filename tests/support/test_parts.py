"""The shared test servers behave like real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.kafka import KafkaBroker, get_archive, get_jars
from tests.support.timescale import TimescaleServer
from tests.support.waiting import PATIENCE, Guard, until

ROOT = Path(__file__).resolve().parents[2]


def append(bootstrap: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "parts", "log_level": 0})
    producer.init_transactions(PATIENCE.seconds(30))
    producer.begin_transaction()
    for value in values:
        producer.produce("parts", value)
    producer.commit_transaction(PATIENCE.seconds(30))


def read(bootstrap: str, group: str, count: int) -> list[bytes]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "log_level": 0}
    )
    consumer.subscribe(["parts"])
    values: list[bytes] = []
    guard = Guard()
    while len(values) < count and not guard.is_over():
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values


@pytest.mark.kafka
def test_a_killed_broker_restarts_at_its_port_with_committed_records(tmp_path: Path) -> None:
    with KafkaBroker(tmp_path) as broker:
        before = broker.bootstrap
        archive = get_archive(get_jars())
        assert (str(archive) in Path(f"/proc/{broker.pid}/maps").read_text()) == archive.exists()
        admin = AdminClient({"bootstrap.servers": before, "log_level": 0})
        admin.create_topics([NewTopic("parts", num_partitions=1)])["parts"].result()
        append(before, [b"a", b"b"])

        broker.kill()
        assert broker.pid is None
        assert broker.start() == before
        append(before, [b"c"])

        assert read(before, "group", 3) == [b"a", b"b", b"c"]


@pytest.mark.kafka
def test_a_broker_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from tests.support.kafka import KafkaBroker
        KafkaBroker(sys.argv[1]).start()
        print("started", flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        broker = KafkaBroker(tmp_path)
        assert broker.pid is not None
        os.kill(parent.pid, signal.SIGKILL)
    until(lambda: broker.pid is None, "the broker to die")


@pytest.fixture(scope="module")
def timescale() -> Iterator[TimescaleServer]:
    with TimescaleServer() as server:
        yield server


@pytest.mark.timescale
async def test_timescaledb_compresses_aggregates_and_runs_jobs(timescale: TimescaleServer) -> None:
    db = await asyncpg.connect(timescale.dsn, **timescale.connect_args)
    try:
        await db.execute("create extension if not exists timescaledb")
        await db.execute("create table t (time timestamptz not null, symbol text not null, price float8)")
        await db.execute("select create_hypertable('t', by_range('time', interval '1 day'))")
        await db.execute(
            "alter table t set (timescaledb.enable_columnstore, timescaledb.segmentby = 'symbol',"
            " timescaledb.orderby = 'time')"
        )
        await db.executemany(
            "insert into t select timestamptz '2024-01-02 14:30Z' + $1 * interval '1 minute', $2, $3",
            [(float(i), "AAPL", 100.0 + i) for i in range(10)],
        )
        await db.execute("call add_columnstore_policy('t', after => interval '7 days')")
        await db.execute(
            "create materialized view t5 with (timescaledb.continuous) as"
            " select time_bucket('5 minutes', time) as time, symbol, first(price, time) as open, last(price, time)"
            " as close from t group by 1, 2 with no data"
        )
        await db.execute(
            "select add_continuous_aggregate_policy('t5', start_offset => null, end_offset => interval '1 hour',"
            " schedule_interval => interval '5 minutes')"
        )
        jobs = await db.fetch("select job_id from timescaledb_information.jobs where job_id >= 1000 order by job_id")
        assert len(jobs) == 2
        for job in jobs:
            await db.execute(f"call run_job({job['job_id']})")

        bars = await db.fetch("select open, close from t5 where symbol = $1 order by time", "AAPL")
        assert [tuple(bar) for bar in bars] == [(100.0, 104.0), (105.0, 109.0)]
        assert await db.fetchval("select is_compressed from timescaledb_information.chunks") is True
        assert await db.fetchval("select count(*) from t") == 10
    finally:
        await db.close()


@pytest.mark.timescale
async def test_a_session_inherits_no_state_of_the_previous_one(timescale: TimescaleServer) -> None:
    first = await asyncpg.connect(timescale.dsn, **timescale.connect_args)
    await first.execute("create table kept (x int)")
    await first.execute("set application_name = 'first'")
    statement = await first.prepare("select 1")
    assert await statement.fetchval() == 1
    await first.execute("begin")
    await first.execute("insert into kept values (1)")
    first.terminate()  # like a kill: no rollback, no close message

    second = await asyncpg.connect(timescale.dsn, **timescale.connect_args)
    try:
        assert await second.fetchval("show application_name") != "first"
        assert await (await second.prepare("select 2")).fetchval() == 2
        assert await second.fetchval("select count(*) from kept") == 0
        with pytest.raises(asyncpg.UndefinedTableError):
            await second.fetch("select * from missing")
        assert await second.fetchval("select 3") == 3
    finally:
        await second.close()
