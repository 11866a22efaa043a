"""Killed processes, fenced writers, and an unavailable log."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient

from tests.conformance.conftest import (
    PARTITIONS,
    SPECS,
    Bench,
    at,
    is_exhausted,
    kill,
    line,
    read,
    values,
    write,
)
from tests.support.kafka import unread_connections
from tests.support.waiting import PATIENCE, Guard, until
from tickerplant.core.errors import Fenced, LogError, LogUnavailable
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.kafka import KafkaLog, consumer_pool
from tickerplant.log.kafka import writer as kafka_writer
from tickerplant.log.port import at_positions


def test_a_later_writer_of_a_name_fences_the_earlier(bench: Bench) -> None:
    earlier = bench.log.writer("name")
    write(earlier, b"a")
    later = bench.writer("name")
    with pytest.raises(Fenced):
        write(earlier, b"zombie's")
    with pytest.raises(Fenced):
        write(earlier, b"zombie's again")
    earlier.close()
    write(later, b"b")
    write(bench.writer("another name"), b"c")
    reader = bench.reader()
    assert values(read(reader, 3)) == [b"a", b"b", b"c"]
    assert is_exhausted(bench, reader)


def test_a_fenced_writer_that_keeps_appending_gets_fenced(bench: Bench) -> None:
    earlier = bench.writer("w")
    write(earlier, b"before")
    with pytest.raises(Fenced), earlier.transaction() as transaction:  # noqa: PT012
        later = bench.writer("w")
        for _ in range(100):  # on Kafka a later append raises the error of the first one
            transaction.append(RAW, 0, b"zombie's")
            time.sleep(0.01)
    with pytest.raises(Fenced):
        write(earlier, b"zombie's again")
    write(later, b"after")
    assert values(read(bench.reader(), 2)) == [b"before", b"after"]


def test_a_writer_fenced_inside_its_transaction_writes_nothing(bench: Bench) -> None:
    earlier = bench.writer("name")
    with pytest.raises(Fenced), earlier.transaction() as transaction:  # noqa: PT012
        transaction.append(RAW, 0, b"zombie's")
        transaction.put_state(STATE_AGGREGATION, 0, "key", b"zombie's")
        later = bench.writer("name")
    write(later, b"later's")
    assert values(read(bench.reader(), 1)) == [b"later's"]
    assert bench.log.get_state(STATE_AGGREGATION, 0, "key") is None


def test_a_writer_killed_inside_its_transaction_blocks_readers_only_briefly(bench: Bench) -> None:
    child = bench.child("stuck", "name")
    assert line(child) == "open"
    kill(child)
    write(bench.writer("name"), b"again")
    reader = bench.reader()
    assert values(read(reader, 1)) == [b"again"]  # the broker's timeout of this transaction is ten minutes
    assert bench.log.get_state(STATE_AGGREGATION, 0, "key") is None


def test_a_copy_under_kills_is_exactly_once(bench: Bench) -> None:
    each, kills = 60, 3
    count = each * kills
    writer = bench.writer("source")
    chance = random.Random(7)
    for start in range(0, count, each):
        with writer.transaction() as transaction:
            for i in range(start, start + each):
                transaction.append(RAW, i % PARTITIONS, b"%d" % i)
        child = bench.child("copier", "copier")
        for _ in range(chance.randrange(1, 4)):
            assert line(child).startswith("copied")
        kill(child)
    child = bench.child("copier", "copier")
    copies = read(bench.reader(OHLCV), count)
    until(lambda: not any(bench.log.lag("copier", [RAW]).values()), "everything is committed")
    for partition in range(PARTITIONS):
        expected = list(range(partition, count, PARTITIONS))
        assert [int(d.value) for d in copies if d.partition == partition] == expected
        assert bench.log.get_state(STATE_AGGREGATION, partition, "last") == b"%d" % expected[-1]
    behind = bench.reader(OHLCV, start=at_positions({d.source: d.offset + 1 for d in copies}))
    assert is_exhausted(bench, behind, OHLCV)


class TestEmbedded:
    def test_a_writer_waits_for_the_lock_of_another_process(self, embedded: Bench) -> None:
        writer = embedded.writer()
        impatient = embedded.open(patience_s=0.2).writer("impatient")
        child = embedded.child("holder", f"{embedded.path}.d/writer.lock", "2")
        assert line(child) == "held"
        with pytest.raises(LogUnavailable, match="held"):
            write(impatient, b"never")
        write(writer, b"a")
        write(impatient, b"b")
        impatient.close()
        assert values(read(embedded.reader(), 2)) == [b"a", b"b"]

    def test_a_writer_waits_for_another_program_in_the_database(self, embedded: Bench) -> None:
        other = sqlite3.connect(embedded.path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        impatient = embedded.open(patience_s=0.2)
        with pytest.raises(LogUnavailable, match="locked"):
            impatient.writer("impatient")
        timer = threading.Timer(0.5, lambda: other.execute("ROLLBACK"))
        timer.start()
        write(embedded.writer(), b"a")
        timer.join()
        other.close()

    def test_retention_stops_at_positions_of_groups_and_at_holds(self, embedded: Bench) -> None:
        log, writer = embedded.log, embedded.writer()
        write(writer, *[b"%d" % i for i in range(100)])
        write(writer, b"x", partition=1)
        now_us = time.time_ns() // 1000
        later_us = now_us + 6 * DAY_US
        log.hold_retention("snapshot", {at(0): 40})
        reader = embedded.reader(group="g")
        read(reader, 101)
        reader.commit({at(0): 30})
        assert log.trim(now_us) == {}
        assert log.trim(later_us) == {RAW: 31}
        assert log.offsets(RAW)[at(0)] == (30, 100)
        reader.commit({at(0): 60})
        assert log.trim(later_us) == {RAW: 10}
        log.hold_retention("snapshot", None)
        assert log.trim(later_us) == {RAW: 20}
        reader.commit({at(0): 100})
        assert log.trim(later_us) == {RAW: 40}
        write(writer, b"after")
        assert [(d.offset, d.value) for d in read(embedded.reader(), 1)] == [(100, b"after")]
        late = embedded.reader(start=at_positions({at(0): 5}))
        with pytest.raises(LogError, match="retention"):
            late.poll(timeout_s=1)

    def test_dropped_space_is_reused(self, embedded: Bench) -> None:
        writer = embedded.writer()
        for round_ in range(6):
            for _ in range(10):
                write(writer, os.urandom(1 << 20))
            embedded.log.trim(time.time_ns() // 1000 + (6 + round_) * DAY_US)
        embedded.log.close()
        writer.close()
        EmbeddedLog(embedded.path).close()
        assert embedded.path.stat().st_size < 25 << 20

    def test_another_kind_of_file_is_rejected_unchanged(self, embedded: Bench) -> None:
        text = embedded.folder / "letter.txt"
        text.write_text("Dear Sir or Madam, " * 1000)
        with pytest.raises(LogError, match="not an event log"):
            EmbeddedLog(text)
        assert text.read_text() == "Dear Sir or Madam, " * 1000
        other = embedded.folder / "other.db"
        connection = sqlite3.connect(other)
        connection.execute("CREATE TABLE t (x)")
        connection.close()
        with pytest.raises(LogError, match="another program"):
            EmbeddedLog(other)

    def test_a_damaged_file_raises_log_error(self, embedded: Bench) -> None:
        writer = embedded.writer()
        write(writer, *[os.urandom(1 << 16)] * 50)
        embedded.close()
        with embedded.path.open("r+b") as file:
            file.seek(3 * 16_384)
            file.write(b"\xff" * (40 * 16_384))

        def read_all() -> None:
            with EmbeddedLog(embedded.path) as log, log.reader([RAW]) as reader:
                for _ in range(50):
                    reader.poll(timeout_s=0)

        with pytest.raises(LogError, match=r"damaged|failed"):
            read_all()

    def test_many_writers_lose_nothing(self, embedded: Bench) -> None:
        def work(name: str) -> None:
            with embedded.open() as log, log.writer(name) as writer:
                for i in range(100):
                    write(writer, b"%s %d" % (name.encode(), i), partition=i % PARTITIONS)

        threads = [threading.Thread(target=work, args=(f"writer {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        taken = read(embedded.reader(), 400)
        for thread in threads:
            thread.join()
        assert len(set(values(taken))) == 400

    def test_a_path_may_be_longer_than_a_socket_address(self, embedded: Bench) -> None:
        folder = embedded.folder / ("a" * 100) / ("b" * 100)
        with EmbeddedLog(folder / "market.log") as log:
            log.create_topics([], 1)
            assert log._context.sockets.is_dir()
            log._context.sockets.rmdir()


@pytest.mark.kafka
class TestKafka:
    def test_a_position_that_retention_dropped_raises_and_is_counted(self, kafka: Bench) -> None:
        assert isinstance(kafka.log, KafkaLog)
        write(kafka.writer(), *[b"%d" % i for i in range(10)])
        with kafka.log.reader([RAW], group="g") as reader:
            read(reader, 10)
            reader.commit({at(0): 2})
        kafka.log.hold_retention("snapshot", {at(0): 4})
        assert kafka.log.trim(0) == {}
        assert not kafka.log.retention_passed
        assert kafka.broker is not None
        admin = AdminClient({"bootstrap.servers": kafka.broker.bootstrap})
        for future in admin.delete_records([KafkaPartition(kafka.prefix + RAW, 0, 5)]).values():
            future.result(PATIENCE.seconds(30))
        assert kafka.log.trim(0) == {}
        assert kafka.log.retention_passed[RAW] == 2
        reader = kafka.reader(group="g")

        def poll_for_long() -> None:
            for _ in range(60):
                assert reader.poll(timeout_s=0.5) == []

        with pytest.raises(LogError, match="retention"):
            poll_for_long()
        reader.seek({at(0): 5})
        assert values(read(reader, 5)) == [b"5", b"6", b"7", b"8", b"9"]

    def test_recreated_topics_are_another_log(self, kafka: Bench) -> None:
        identity = kafka.log.identity()
        assert kafka.broker is not None
        admin = AdminClient({"bootstrap.servers": kafka.broker.bootstrap})
        for future in admin.delete_topics([kafka.prefix + RAW]).values():
            future.result(PATIENCE.seconds(30))
        until(lambda: kafka.prefix + RAW not in admin.list_topics(timeout=PATIENCE.seconds(30)).topics, "the deletion")
        again = kafka.open()
        again.create_topics(SPECS, PARTITIONS)
        assert again.identity() != identity

    def test_state_is_read_as_soon_as_a_restarted_broker_leads_its_partitions(
        self, kafka: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        codes = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE]

        class RestartedBroker(Consumer):
            def get_watermark_offsets(self, *arguments: object, **more: object) -> object:
                if codes:
                    raise KafkaException(KafkaError(codes.pop()))
                return super().get_watermark_offsets(*arguments, **more)  # type: ignore[arg-type]

        with kafka.writer().transaction() as transaction:
            transaction.put_state(STATE_AGGREGATION, 0, "key", b"value")
        monkeypatch.setattr(consumer_pool, "Consumer", RestartedBroker)
        assert kafka.open().get_state(STATE_AGGREGATION, 0, "key") == b"value"
        assert not codes

    def test_a_writer_reads_its_own_claim_if_a_restarted_broker_returns_an_old_end(
        self, kafka: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ends = [0, 0]

        class RestartedBroker(Consumer):
            def get_watermark_offsets(self, *arguments: object, **more: object) -> object:
                if ends:
                    return 0, ends.pop()
                return super().get_watermark_offsets(*arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(kafka_writer, "SUSPECT_S", 0.0)  # a new producer, and a check of the claim, each time
        log = kafka.open()
        with log.writer("writer") as writer:
            write(writer, b"before")
            monkeypatch.setattr(consumer_pool, "Consumer", RestartedBroker)
            write(writer, b"after")
        assert not ends
        assert values(read(kafka.reader(), 2)) == [b"before", b"after"]

    def test_readers_and_writers_work_after_a_broker_outage(self, kafka: Bench) -> None:
        assert kafka.broker is not None
        writer, reader = kafka.writer(), kafka.reader(group="g")
        write(writer, b"before")
        (before,) = read(reader, 1)
        reader.commit({at(0): before.offset + 1})
        kafka.broker.kill()
        starter = threading.Timer(60 if os.environ.get("TICKERPLANT_LONG") else 8, kafka.broker.start)
        starter.start()
        written = False
        guard = Guard(150)
        while not written and not guard.is_over():
            try:
                write(writer, b"after")
                written = True
            except LogUnavailable:
                with_reader = reader.poll(timeout_s=0.1)
                assert values(with_reader) in ([], [b"after"])
        starter.join()
        assert written
        taken = read(reader, 1)
        assert set(values(taken)) == {b"after"}

        def commit() -> bool:
            try:
                reader.commit({at(0): taken[-1].offset + 1})
            except (Fenced, LogUnavailable):
                reader.poll(timeout_s=0.2)
                return False
            return True

        until(commit, "positions are committed again")

    def test_calls_during_a_broker_outage_raise_log_unavailable_in_time(
        self, kafka: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(kafka_writer, "TRANSACTION_TIMEOUT_MS", 3_000)
        assert kafka.broker is not None
        write(kafka.writer(), b"a", b"b")
        log = kafka.open()
        assert isinstance(log, KafkaLog)
        with log.reader([RAW], group="g") as reader:
            taken = read(reader, 2)
            reader.commit({at(0): 1})
            writer = log.writer("impatient")
            copier = log.writer("copier")
            write(writer, b"first")
            poller = kafka.child("poller", "g")
            assert line(poller) == "0:1"

            def copy() -> None:
                with copier.transaction() as transaction:
                    transaction.append(OHLCV, 0, b"from a")
                    transaction.send_positions(reader, {at(0): taken[1].offset})

            def expect_no_log(*calls: Callable[[], object]) -> None:
                for call in calls:
                    with pytest.raises(LogUnavailable):
                        call()

            object.__setattr__(log.cluster, "patience_s", 1.0)
            # The suspended broker does not answer, so requests are in flight when it is killed.
            assert kafka.broker.pid is not None
            os.kill(kafka.broker.pid, signal.SIGSTOP)
            with ThreadPoolExecutor(2) as pool:
                under_way = [
                    pool.submit(expect_no_log, copy),
                    pool.submit(expect_no_log, lambda: log.committed("g")),
                ]
                port = int(kafka.broker.bootstrap.rpartition(":")[2])
                until(lambda: unread_connections(port) >= 3, "requests of both calls and of the child")
                kafka.broker.kill()
                for future in under_way:
                    future.result(PATIENCE.seconds(60))
            assert line(poller) == "unavailable"
            expect_no_log(lambda: log.committed("g"), log.groups, log.identity, lambda: write(writer, b"perhaps"), copy)
            kafka.broker.start()
            assert line(poller) == "0:1"
            assert poller.poll() is None

        def again() -> bool:
            try:
                write(writer, b"again")
            except LogUnavailable:
                return False
            return True

        object.__setattr__(log.cluster, "patience_s", 30.0)
        until(again, "the writer works again")
        written = values(read(kafka.reader(), 4))
        assert written[:3] == [b"a", b"b", b"first"]
        assert is_exhausted(kafka, kafka.reader(OHLCV), OHLCV)
