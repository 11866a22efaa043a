"""Guarantees for records and state: order, completeness, atomicity, size, positions, and errors of missing topics."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tests.conformance.conftest import PARTITIONS, SPECS, Bench, at, is_exhausted, read, values, write
from tickerplant.core.errors import LogError, RecordTooLarge, UnknownTopic
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.port import LATEST, MAX_RECORD_BYTES, at_positions, at_time


def test_a_partition_is_read_in_the_order_it_was_written(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    for batch in range(5):
        with writer.transaction() as transaction:
            for i in range(60):
                transaction.append(RAW, i % PARTITIONS, b"%d" % (batch * 60 + i))
    taken = read(reader, 300)
    for partition in range(PARTITIONS):
        of_partition = [record for record in taken if record.partition == partition]
        assert [int(record.value) for record in of_partition] == list(range(partition, 300, PARTITIONS))
        assert [d.offset for d in of_partition] == sorted({d.offset for d in of_partition})
        assert [d.appended_at_us for d in of_partition] == sorted(d.appended_at_us for d in of_partition)
    assert is_exhausted(bench, reader)


def test_the_writer_returns_the_offsets_of_its_last_records(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    write(writer, b"a", b"b")
    write(writer, b"c", partition=2)
    assert set(writer.committed()) == {at(2)}
    write(writer, b"d", b"e")
    last = {record.source: record.offset for record in read(reader, 5)}
    assert writer.committed() == {at(0): last[at(0)]}


def test_a_record_has_the_time_of_its_append(bench: Bench) -> None:
    before_us = time.time_ns() // 1000
    write(bench.writer(), b"a")
    (record,) = read(bench.reader(), 1)
    assert before_us - 5_000 <= record.appended_at_us <= time.time_ns() // 1000 + 5_000


def test_an_aborted_transaction_leaves_nothing(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader(group="g")
    write(writer, b"before")
    (first,) = read(reader, 1)

    def fail() -> None:
        with writer.transaction() as transaction:
            transaction.append(RAW, 0, b"aborted")
            transaction.put_state(STATE_AGGREGATION, 0, "key", b"aborted")
            transaction.send_positions(reader, {at(0): first.offset + 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    write(writer, b"after")
    assert values(read(reader, 1)) == [b"after"]
    assert bench.log.get_state(STATE_AGGREGATION, 0, "key") is None
    assert bench.log.committed("g") == {}


def test_transactions_after_aborted_transactions_are_committed(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()

    def fail() -> None:
        with writer.transaction() as transaction:
            transaction.append(RAW, 0, b"aborted")
            transaction.append(RAW, 1, b"aborted")  # a client may have sent the first record, and not this one
            raise ZeroDivisionError

    expected = [b"%d" % number for number in range(20)]
    for value in expected:
        with pytest.raises(ZeroDivisionError):
            fail()
        write(writer, value)
    assert values(read(reader, len(expected))) == expected


def test_a_transaction_is_invisible_before_its_commit(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    with writer.transaction() as transaction:
        transaction.append(RAW, 0, b"a")
        transaction.put_state(STATE_AGGREGATION, 0, "key", b"value")
        assert reader.poll(timeout_s=0.3) == []
        assert bench.log.get_state(STATE_AGGREGATION, 0, "key") is None
    assert values(read(reader, 1)) == [b"a"]
    assert bench.log.get_state(STATE_AGGREGATION, 0, "key") == b"value"


def test_a_reader_without_a_group_reads_everything_and_commits_nothing(bench: Bench) -> None:
    write(bench.writer(), b"a")
    first, second = bench.reader(), bench.reader()
    assert values(read(first, 1)) == values(read(second, 1)) == [b"a"]
    assert first.assignment() == {at(p) for p in range(PARTITIONS)}
    assert bench.log.groups() == []
    with pytest.raises(LogError):
        first.commit({at(0): 1})


def test_a_reader_starts_at_the_given_start(bench: Bench) -> None:
    writer = bench.writer()
    write(writer, b"a")
    time.sleep(0.05)
    write(writer, b"b", b"c")
    a, b, c = read(bench.reader(), 3)
    assert values(read(bench.reader(start=at_positions({at(0): c.offset})), 1)) == [b"c"]
    assert values(read(bench.reader(start=at_time(a.appended_at_us + 2_000)), 2)) == [b"b", b"c"]
    assert bench.reader(start=at_time(c.appended_at_us + 3_600_000_000)).poll(timeout_s=0.3) == []
    latest = bench.reader(start=LATEST)
    write(writer, b"d")
    assert values(read(latest, 1)) == [b"d"]
    latest.seek({at(0): b.offset})
    assert values(read(latest, 3)) == [b"b", b"c", b"d"]


def test_a_range_of_a_partition_can_be_read_again(bench: Bench) -> None:
    writer = bench.writer()
    for batch in range(3):
        write(writer, *(b"%d" % (batch * 400 + i) for i in range(400)))
        write(writer, b"other", partition=1)
    with pytest.raises(ZeroDivisionError), writer.transaction() as transaction:  # noqa: PT012
        transaction.append(RAW, 0, b"aborted")
        raise ZeroDivisionError
    taken = [record for record in read(bench.reader(), 1203) if record.partition == 0]
    again = list(bench.log.read_range(at(0), taken[5].offset, taken[900].offset))
    assert again == taken[5:900]
    assert list(bench.log.read_range(at(0), 0, 1 << 40)) == taken
    assert list(bench.log.read_range(at(0), taken[-1].offset + 1, 1 << 40)) == []
    assert list(bench.log.read_range(at(0), 5, 5)) == []
    with pytest.raises(UnknownTopic):
        list(bench.log.read_range(at(PARTITIONS), 0, 1))


def test_a_position_outside_the_log_is_an_error_until_a_seek(bench: Bench) -> None:
    write(bench.writer(), b"a")
    reader = bench.reader(start=at_positions({at(0): 1000}))

    def poll_for_long() -> None:
        for _ in range(40):
            reader.poll(timeout_s=0.5)

    with pytest.raises(LogError, match="position"):
        poll_for_long()
    reader.seek({at(0): 0})
    assert values(read(reader, 1)) == [b"a"]


def test_a_poll_is_bounded_in_records_and_bytes_but_returns_at_least_one(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    with writer.transaction() as transaction:
        for i in range(30):
            transaction.append(RAW, i % PARTITIONS, b"%02d" % i + bytes(1000))
    sizes: list[int] = []
    while sum(sizes) < 30:
        found = reader.poll(timeout_s=5, max_bytes=4008)
        assert sum(len(d.value) for d in found) <= 4008
        sizes.append(len(found))
    assert max(sizes) > 1
    reader.seek({at(p): 0 for p in range(PARTITIONS)})
    taken = []
    while len(taken) < 30:
        found = reader.poll(timeout_s=5, max_records=4)
        assert len(found) <= 4
        taken += found
    reader.seek({at(0): 0})
    assert len(reader.poll(timeout_s=10, max_bytes=1)) == 1


def test_no_partition_starves_another(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    write(writer, *[bytes(10_000)] * 500)
    write(writer, b"small", partition=1)
    seen = 0
    while True:
        found = read(reader, 1, max_bytes=100_000)
        if any(d.partition == 1 for d in found):
            break
        seen += len(found)
    assert seen <= 500


def test_the_largest_record_is_accepted_and_a_larger_one_is_not(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    large = os.urandom(MAX_RECORD_BYTES)
    write(writer, large)
    write(writer, memoryview(large)[: 5 << 20], partition=1)
    by_partition = {d.partition: d.value for d in read(reader, 2)}
    assert by_partition[0] == large
    assert by_partition[1] == large[: 5 << 20]
    with pytest.raises(RecordTooLarge), writer.transaction() as transaction:
        transaction.append(RAW, 0, large + b"x")
    write(writer, b"after")
    assert values(read(reader, 1)) == [b"after"]


def test_waking_ends_a_poll(bench: Bench) -> None:
    reader = bench.reader()
    reader.poll(timeout_s=0)
    timer = threading.Timer(0.3, reader.wake)
    timer.start()
    assert reader.poll(timeout_s=3_600) == []
    timer.join()
    write(bench.writer(), b"a")
    assert values(read(reader, 1)) == [b"a"]


def test_topics_are_created_once_with_a_fixed_number_of_partitions(bench: Bench) -> None:
    assert bench.log.create_topics(SPECS, PARTITIONS) == []
    assert bench.log.create_topics([*SPECS, TopicSpec("market.status", DAY_US)], PARTITIONS) == ["market.status"]
    assert bench.log.partitions("market.status") == PARTITIONS
    with pytest.raises(LogError, match="partitions"):
        bench.log.create_topics(SPECS, PARTITIONS + 1)


def test_a_log_has_one_identity(bench: Bench) -> None:
    identity = bench.log.identity()
    assert identity.generation == 1
    bench.log.create_topics(SPECS, PARTITIONS)
    assert bench.open().identity() == identity


def test_missing_topics_raise_unknown_topic(bench: Bench) -> None:
    with pytest.raises(UnknownTopic):
        bench.log.partitions("market.nothing")
    with pytest.raises(UnknownTopic):
        bench.log.reader(["market.nothing"])
    with pytest.raises(UnknownTopic), bench.writer().transaction() as transaction:
        transaction.append("market.nothing", 0, b"")
    with pytest.raises(UnknownTopic), bench.writer().transaction() as transaction:
        transaction.append(RAW, PARTITIONS, b"")


def test_offsets_begin_and_end_around_the_records(bench: Bench) -> None:
    assert bench.log.offsets(OHLCV) == {at(p, OHLCV): (0, 0) for p in range(PARTITIONS)}
    write(bench.writer(), b"a", b"b")
    last = read(bench.reader(), 2)[-1]
    first, end = bench.log.offsets(RAW)[at(0)]
    assert first == 0
    assert end > last.offset
    bench.log.make_durable()


class TestState:
    def test_a_key_has_its_newest_value(self, bench: Bench) -> None:
        writer, log = bench.writer(), bench.log
        for value in (b"1", b"2", b""):
            with writer.transaction() as transaction:
                transaction.put_state(STATE_AGGREGATION, 1, "key", value)
                transaction.put_state(STATE_AGGREGATION, 1, "other", b"o")
            assert log.get_state(STATE_AGGREGATION, 1, "key") == value
        assert log.state_keys(STATE_AGGREGATION, 1) == ["key", "other"]
        assert log.get_state(STATE_AGGREGATION, 0, "key") is None
        with writer.transaction() as transaction:
            transaction.put_state(STATE_AGGREGATION, 1, "key", None)
        assert log.get_state(STATE_AGGREGATION, 1, "key") is None
        assert log.state_keys(STATE_AGGREGATION, 1) == bench.open().state_keys(STATE_AGGREGATION, 1) == ["other"]

    def test_a_snapshot_may_be_larger_than_a_record(self, bench: Bench) -> None:
        writer = bench.writer()
        sizes = (40 << 20, 20 << 20, 9 << 20, 100)
        for size in sizes:
            value = os.urandom(size)
            with writer.transaction() as transaction:
                transaction.put_state(STATE_AGGREGATION, 0, "snapshot", value)
                transaction.append(RAW, 0, b"%d" % size)
            assert bench.log.get_state(STATE_AGGREGATION, 0, "snapshot") == value
            assert bench.open().get_state(STATE_AGGREGATION, 0, "snapshot") == value

    def test_a_topic_has_either_records_or_state(self, bench: Bench) -> None:
        writer = bench.writer()
        with pytest.raises(LogError), writer.transaction() as transaction:
            transaction.put_state(RAW, 0, "key", b"")
        with pytest.raises(LogError), writer.transaction() as transaction:
            transaction.append(STATE_AGGREGATION, 0, b"")
