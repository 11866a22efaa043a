"""A rebalance on Kafka: members commit before they give up partitions, so the next owners replay few records."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.conformance.conftest import PARTITIONS, Bench, at, read, values, write
from tests.support.waiting import until
from tickerplant.core.errors import LogUnavailable
from tickerplant.core.schemas import OHLCV, RAW, STATE_AGGREGATION
from tickerplant.core.streams import ConsumedRecord, History, Output, Stage
from tickerplant.log import processor
from tickerplant.log.kafka.reader import KafkaReader
from tickerplant.log.port import Reader, RebalanceListener, TopicPartition, Writer
from tickerplant.log.processor import HANDOVER_RECORDS, Processor, _Partition
from tickerplant.log.snapshots import SNAPSHOT_KEY


class Committer(RebalanceListener):
    """A listener that commits a position in a transaction before each rebalance."""

    reader: Reader

    def __init__(self, writer: Writer) -> None:
        self.writer, self.position, self.calls = writer, 0, 0

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {}

    def before_rebalance(self) -> None:
        self.calls += 1
        with self.writer.transaction() as transaction:
            transaction.append(OHLCV, 0, b"before the rebalance")
            transaction.send_positions(self.reader, {at(0): self.position})

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        pass


def test_a_member_commits_before_another_one_gets_its_partitions(kafka: Bench) -> None:
    write(kafka.writer(), b"a", b"b")
    committer = Committer(kafka.writer("first"))
    first = committer.reader = kafka.reader(group="g", member="first", listener=committer)
    committer.position = read(first, 2)[-1].offset
    second = kafka.reader(group="g", member="second")

    def is_shared() -> bool:
        first.poll(timeout_s=0.05)
        second.poll(timeout_s=0.05)
        return bool(second.assignment())

    until(is_shared, "the second member has partitions")
    assert kafka.log.committed("g") == {at(0): committer.position}
    assert committer.calls == 1
    first.close()
    assert committer.calls == 1
    assert values(read(kafka.reader(OHLCV), 1)) == [b"before the rebalance"]


def test_a_failure_before_a_rebalance_reaches_the_caller_of_poll(kafka: Bench) -> None:
    class Failing(Committer):
        def before_rebalance(self) -> None:
            raise LogUnavailable("no brokers")

    first = kafka.reader(group="g", member="first", listener=Failing(kafka.writer("first")))
    until(lambda: not first.poll(timeout_s=0.05) and bool(first.assignment()), "the first member has partitions")
    second = kafka.reader(group="g", member="second")

    def poll_both() -> bool:
        second.poll(timeout_s=0.05)
        first.poll(timeout_s=0.05)
        return False

    with pytest.raises(LogUnavailable, match="no brokers"):
        until(poll_both, "the failure")


class Recorder(RebalanceListener):
    """A listener that records the partitions that its reader has lost."""

    def __init__(self) -> None:
        self.lost: list[TopicPartition] = []

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {}

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.lost += partitions


def test_a_member_that_is_expelled_during_a_rebalance_drops_its_partitions(kafka: Bench) -> None:
    listener = Recorder()
    reader = kafka.log.reader([RAW], group="g", member="first", listener=listener)
    assert isinstance(reader, KafkaReader)
    with reader:
        until(lambda: not reader.poll(timeout_s=0.05) and bool(reader.assignment()), "the member has partitions")
        reader._on_revoke(reader._consumer, [])
        assert listener.lost == []  # it may keep them
        reader._on_lost(reader._consumer, [])
        assert listener.lost == [at(partition) for partition in range(PARTITIONS)]


class Summing(Stage):
    """Outputs the sum of all inputs, so a lost or repeated step changes all later outputs."""

    def __init__(self, snapshot: bytes | None) -> None:
        self.total = int(snapshot or b"0")

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        self.total += int(bytes(consumed.value))
        return [Output(OHLCV, str(self.total).encode())]

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def keep_label(self) -> str | None:
        return None


class Factory:
    format = 1

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return Summing(snapshot)


class Worker:
    """A processor in a thread, which takes no snapshot by number of records."""

    def __init__(self, bench: Bench, instance: str) -> None:
        self.stop = threading.Event()
        self.processor = Processor(
            bench.log, "summing", [RAW], STATE_AGGREGATION, Factory(), instance, snapshot_interval_records=100_000
        )
        self.thread = threading.Thread(target=self.processor.run, args=(self.stop,), kwargs={"poll_s": 0.1})
        self.thread.start()

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


def feed(writer: Writer, count: int) -> None:
    with writer.transaction() as transaction:
        for number in range(count):
            for partition in range(PARTITIONS):
                transaction.append(RAW, partition, str(number).encode())


@pytest.mark.parametrize("bound", [processor.HANDOVER_BYTES, -1])
def test_a_joining_member_replays_only_partitions_with_large_snapshots(
    kafka: Bench, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    monkeypatch.setattr(processor, "HANDOVER_BYTES", bound)
    writer, count = kafka.writer(), 2 * HANDOVER_RECORDS
    feed(writer, count)
    workers = [Worker(kafka, "a")]
    try:
        until(lambda: workers[0].processor.counts.outputs == count * PARTITIONS, "all records are processed")
        workers.append(Worker(kafka, "b"))
        until(lambda: bool(workers[1].processor._stages), "the second member has partitions")
        feed(writer, count)
        until(
            lambda: sum(one.processor.counts.outputs for one in workers) == 2 * count * PARTITIONS,
            "all records of both are processed",
        )
        replayed = workers[1].processor.counts.discarded_records
        assert (replayed == 0) == (bound > 0)
    finally:
        for one in workers:
            one.end()
    # The sums of 0, 1, ..., n - 1, then of the same numbers again: n (n - 1) in all.
    last = str(count * (count - 1)).encode()
    for partition in range(PARTITIONS):
        found = [record.value for record in kafka.log.read_range(at(partition, OHLCV), 0, 1 << 62)]
        assert len(found) == 2 * count
        assert bytes(found[-1]) == last
        blob = kafka.log.get_state(STATE_AGGREGATION, partition, SNAPSHOT_KEY)
        assert blob is not None
        assert last in blob


@pytest.mark.parametrize(("room", "snapshots"), [(9, []), (10, [0]), (19, [0]), (20, [0, 1])])
def test_snapshots_before_a_rebalance_have_a_maximum_size_in_all(
    monkeypatch: pytest.MonkeyPatch, room: int, snapshots: list[int]
) -> None:
    monkeypatch.setattr(processor, "HANDOVER_BYTES", room)
    worker: Any = Processor(None, "summing", [RAW], STATE_AGGREGATION, Factory())  # type: ignore[arg-type]
    asked: list[int] = []
    monkeypatch.setattr(Processor, "_commit", lambda *_, snapshots: asked.extend(snapshots))
    for number in range(2):
        worker._stages[number] = _Partition(
            Summing(None), {}, {}, "", records_since_snapshot=HANDOVER_RECORDS, snapshot_bytes=10
        )
    worker._hand_over(None, None)
    assert asked == snapshots
