"""The loop of the stateful services: after any interruption the outputs equal those of an uninterrupted run."""

from __future__ import annotations

import math
import threading
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.killed import Killed
from tickerplant.aggregation.stage import AggregationStageFactory
from tickerplant.analytics import stage as analytics
from tickerplant.core import faults, records
from tickerplant.core.errors import SnapshotRefused
from tickerplant.core.schemas import (
    ANALYTICS,
    DAY_US,
    DEADLETTER,
    OHLCV,
    RAW,
    STATE_AGGREGATION,
    STATE_ANALYTICS,
    TOPICS,
    TopicSpec,
)
from tickerplant.core.streams import (
    EMPTY_HISTORY,
    MAX_DEAD_PAYLOAD_BYTES,
    MAX_PASSED_ON_BYTES,
    QUEUED_KEY,
    ConsumedRecord,
    History,
    Output,
    Stage,
    TopicPartition,
    dead_letter,
)
from tickerplant.log import processor as processor_module
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.port import MAX_RECORD_BYTES
from tickerplant.log.processor import Bootstrap, Processor

IN, OUT, STATE = "in", "out", "state"
PARTITIONS = 2
POINTS = (
    "summing.commit.before",
    "summing.append.after",
    "summing.snapshot.before",
    "summing.snapshot.after",
    "summing.commit.after",
)


class Summing(Stage):
    """Sums its input and outputs each sum, so a lost or repeated step changes all later outputs."""

    def __init__(self, snapshot: bytes | None) -> None:
        self.total = int(snapshot or b"0")

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        self.total += int(bytes(consumed.value))
        return [Output(OUT, f"{consumed.offset}:{self.total}".encode())]

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def keep_label(self) -> str | None:
        return None


class Quiet(Summing):
    """Outputs only sums that are multiples of 10, and commits multiples of 7 at once.

    Its queued work is `large` if the sum is at least 1,000.
    """

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        outputs = super().step(consumed, history)
        return outputs if self.total % 10 == 0 else ()

    def commit_may_wait(self) -> bool:
        return self.total % 7 != 0

    def queued_work(self) -> bytes | None:
        return b"large" if self.total >= 1_000 else None


class QuietFactory:
    format = 1

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return Quiet(snapshot)


class Factory:
    def __init__(self, number: int = 1) -> None:
        self.format = number

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return Summing(snapshot)


@pytest.fixture
def event_log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log.sqlite")
    log.create_topics([TopicSpec(IN, DAY_US), TopicSpec(OUT, DAY_US), TopicSpec(STATE, None)], PARTITIONS)
    yield log
    log.close()


@pytest.fixture(autouse=True)
def _no_fault_stays() -> Iterator[None]:
    yield
    faults.install(None)


def feed(log: EmbeddedLog, numbers: range) -> None:
    with log.writer("feed") as writer, writer.transaction() as transaction:
        for number in numbers:
            transaction.append(IN, number % PARTITIONS, str(number).encode())


def processor(log: EmbeddedLog, factory: Factory | None = None) -> Processor:
    return Processor(log, "summing", [IN], STATE, factory or Factory(), snapshot_interval_records=3, poll_records=4)


def run_until_read(log: EmbeddedLog, worker: Processor) -> None:
    """Run until the whole log is processed, then stop cleanly. A simulated kill ends the run early."""
    stop = threading.Event()
    done = dict.fromkeys(range(PARTITIONS), False)

    def watch(_: object) -> None:
        lag = log.lag("summing", [IN])
        if len(lag) == PARTITIONS and not any(lag.values()):
            stop.set()

    worker.on_batch = watch
    watch(done)
    with suppress(Killed):
        worker.run(stop, poll_s=0.05)


def outputs(log: EmbeddedLog) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    with log.reader([OUT]) as reader:
        while batch := reader.poll(timeout_s=0.05):
            for record in batch:
                found[record.partition].append(bytes(record.value))
    return found


def expected(count: int) -> dict[int, list[bytes]]:
    wanted: dict[int, list[bytes]] = {partition: [] for partition in range(PARTITIONS)}
    for partition in range(PARTITIONS):
        numbers = list(range(partition, count, PARTITIONS))
        wanted[partition] = [f"{at}:{sum(numbers[: at + 1])}".encode() for at in range(len(numbers))]
    return wanted


def test_each_record_is_one_step_in_order(event_log: EmbeddedLog) -> None:
    feed(event_log, range(100))
    run_until_read(event_log, processor(event_log))
    assert outputs(event_log) == expected(100)


@pytest.mark.parametrize(
    ("replay_s", "share", "snapshots"),
    [
        (math.inf, math.inf, {PARTITIONS}),  # one at the stop
        (0.0, 1e-12, {PARTITIONS, 2 * PARTITIONS}),  # the first; afterwards they would exceed the share
        (0.0, math.inf, range(100 // 4, 101)),  # one or two per batch
    ],
)
def test_long_steps_make_a_snapshot_due(
    event_log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, replay_s: float, share: float, snapshots: Container[int]
) -> None:
    monkeypatch.setattr(processor_module, "REPLAY_S", replay_s)
    monkeypatch.setattr(processor_module, "SNAPSHOT_SHARE", share)
    feed(event_log, range(100))
    worker = processor(event_log)
    worker.snapshot_interval_records = 1_000
    run_until_read(event_log, worker)
    assert outputs(event_log) == expected(100)
    assert worker.counts.snapshots in snapshots


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_kill_at_any_failpoint_does_not_change_the_outputs(event_log: EmbeddedLog, point: str, times: int) -> None:
    killed = 0
    for round_ in range(6):
        feed(event_log, range(round_ * 20, round_ * 20 + 20))
        left = times

        def hook(name: str) -> None:
            nonlocal left, killed
            if name == point:
                left -= 1
                if left == 0:
                    killed += 1
                    raise Killed

        faults.install(hook if round_ < 5 else None)
        worker = processor(event_log)
        run_until_read(event_log, worker)
    faults.install(None)
    run_until_read(event_log, processor(event_log))
    assert outputs(event_log) == expected(120)
    assert killed


def run_until_stepped(worker: Processor, records_: int) -> None:
    """Run until the worker has processed this many records, then stop cleanly."""
    stop = threading.Event()

    def watch(_: object) -> None:
        if worker.counts.records >= records_:
            stop.set()

    worker.on_batch = watch
    with suppress(Killed):
        worker.run(stop, poll_s=0.05)


def test_steps_without_outputs_share_a_transaction(event_log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_module, "COMMIT_EVERY_S", 3_600.0)
    worker = Processor(event_log, "summing", [IN], STATE, QuietFactory(), poll_records=1)
    feed(event_log, range(1, 81, 2))  # partition 1: the sums are squares, and 4 of 40 are multiples of 10
    run_until_stepped(worker, 40)
    assert [bytes(one) for one in outputs(event_log)[1]] == [b"9:100", b"19:400", b"29:900", b"39:1600"]
    # The multiples of 7 do not wait (5 of 40). One commit each follows the first record, the change of the queue at
    # 1,024, and the stop.
    assert 4 + 5 <= worker.counts.commits <= 4 + 5 + 3


def test_a_commit_is_not_delayed_for_ever_without_further_records(
    event_log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor_module, "COMMIT_EVERY_S", 0.01)
    feed(event_log, range(1, 8, 2))
    worker = Processor(event_log, "summing", [IN], STATE, QuietFactory(), poll_records=1)
    run_until_read(event_log, worker)  # ends only when the positions of all records are committed
    assert worker.counts.records == 4


def test_changed_queued_work_is_committed_at_once(event_log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_module, "COMMIT_EVERY_S", 3_600.0)
    feed(event_log, range(2, 3))
    feed(event_log, range(1_004, 1_005))
    worker = Processor(event_log, "summing", [IN], STATE, QuietFactory(), poll_records=1)
    stop = threading.Event()

    def watch(_: object) -> None:
        if event_log.get_state(STATE, 0, QUEUED_KEY) == b"large":
            assert event_log.lag("summing", [IN])[TopicPartition(IN, 0)] == 0
            stop.set()

    worker.on_batch = watch
    worker.run(stop, poll_s=0.05)
    assert outputs(event_log)[0] == []


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_repeats_steps_without_outputs_and_changes_nothing(
    event_log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(processor_module, "COMMIT_EVERY_S", 0.01)

    def run() -> None:
        stages = QuietFactory()
        run_until_read(
            event_log, Processor(event_log, "summing", [IN], STATE, stages, snapshot_interval_records=7, poll_records=3)
        )

    for round_ in range(5):
        feed(event_log, range(80 * round_ + 1, 80 * round_ + 81, 2))
        left = round_ + 1

        def hook(name: str) -> None:
            nonlocal left
            left -= name == point
            if left == 0:
                raise Killed

        faults.install(hook)
        run()
    faults.install(None)
    run()
    sums = [f"{number - 1}:{number * number}".encode() for number in range(10, 201, 10)]
    assert outputs(event_log) == {0: [], 1: sums}


def test_the_history_of_a_step_contains_only_earlier_records(event_log: EmbeddedLog) -> None:
    class HistoryStage(Summing):
        def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
            super().step(consumed, history)
            before = [int(bytes(earlier.value)) for earlier in history(consumed.offset - 2, consumed.offset + 5)]
            return [Output(OUT, str(before).encode())]

    class HistoryStageFactory(Factory):
        def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
            return HistoryStage(snapshot)

    feed(event_log, range(8))
    run_until_read(event_log, processor(event_log, HistoryStageFactory()))
    assert outputs(event_log)[0] == [b"[]", b"[0]", b"[0, 2]", b"[2, 4]"]


def test_a_restart_replays_from_the_snapshot_and_discards_committed_outputs(event_log: EmbeddedLog) -> None:
    feed(event_log, range(60))
    run_until_read(event_log, processor(event_log))

    def hook(name: str) -> None:
        if name == "summing.commit.after":
            raise Killed

    for at in range(60, 72, 4):  # commits with too few records for a snapshot
        feed(event_log, range(at, at + 4))
        faults.install(hook)
        run_until_read(event_log, processor(event_log))
        faults.install(None)
    feed(event_log, range(72, 80))
    worker = processor(event_log)
    run_until_read(event_log, worker)
    assert worker.counts.discarded_records == worker.counts.discarded_outputs > 0
    assert worker.counts.records == worker.counts.discarded_records + 8
    assert outputs(event_log) == expected(80)


def test_the_error_for_an_unsupported_snapshot_contains_both_formats(event_log: EmbeddedLog) -> None:
    feed(event_log, range(60))
    run_until_read(event_log, processor(event_log))
    feed(event_log, range(60, 62))
    with pytest.raises(SnapshotRefused, match=r"format 1\.1; this code reads 1\.2"):
        run_until_read(event_log, processor(event_log, Factory(2)))


def test_a_clean_stop_leaves_a_snapshot_at_the_committed_positions(event_log: EmbeddedLog) -> None:
    feed(event_log, range(10))
    run_until_read(event_log, processor(event_log))
    committed = event_log.committed("summing")
    assert committed == {TopicPartition(IN, 0): 5, TopicPartition(IN, 1): 5}
    feed(event_log, range(10, 12))
    worker = processor(event_log)
    run_until_read(event_log, worker)
    assert worker.counts.discarded_records == 0
    assert worker.counts.records == 2


class Working(Summing):
    """Adds 1000 as background work, once, when the sum is at least 100."""

    def __init__(self, snapshot: bytes | None) -> None:
        total, _, own = (snapshot or b"0:0").partition(b":")
        super().__init__(total)
        self.own = int(own or b"0")

    def snapshot(self) -> bytes:
        return f"{self.total}:{self.own}".encode()

    def has_background_work(self) -> bool:
        return not self.own

    def run_background_work(self, position: int) -> Sequence[Output] | None:
        if self.own or self.total < 100:
            return None
        self.own = position
        self.total += 1000
        return [Output(OUT, f"own:{position}".encode())]


class WorkingFactory(Factory):
    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return Working(snapshot)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_background_work_and_its_snapshot_commit_once_despite_kills(
    event_log: EmbeddedLog, point: str, number: int
) -> None:
    left = number

    def kill(name: str) -> None:
        nonlocal left
        if name == point:
            left -= 1
            if left == 0:
                raise Killed

    feed(event_log, range(60))
    faults.install(kill)
    run_until_read(event_log, processor(event_log, WorkingFactory()))
    faults.install(None)
    run_until_read(event_log, processor(event_log, WorkingFactory()))
    feed(event_log, range(60, 80))
    run_until_read(event_log, processor(event_log, WorkingFactory()))
    for partition, made in outputs(event_log).items():
        [own] = [line for line in made if line.startswith(b"own:")]
        at = int(own.partition(b":")[2])
        assert made.index(own) == at
        numbers = list(range(partition, 80, PARTITIONS))
        sums = [sum(numbers[: i + 1]) + (1000 if i >= at else 0) for i in range(len(numbers))]
        assert [line for line in made if line != own] == [f"{i}:{total}".encode() for i, total in enumerate(sums)]


def test_a_bootstrapped_stage_is_snapshotted_first_and_reads_from_its_position(event_log: EmbeddedLog) -> None:
    feed(event_log, range(20))
    calls: list[tuple[int, int, int]] = []

    def bootstrap(source: TopicPartition, committed: int, earliest: int) -> Bootstrap | None:
        calls.append((source.partition, committed, earliest))
        return None if source.partition else Bootstrap(6, Summing(b"500"))

    for _ in range(2):
        worker = processor(event_log)
        worker.bootstrap = bootstrap
        run_until_read(event_log, worker)
    assert calls == [(0, 0, 0), (1, 0, 0)]
    made = outputs(event_log)
    assert made[1] == expected(20)[1]
    assert made[0] == [f"{at}:{500 + sum(range(12, 2 * at + 1, 2))}".encode() for at in range(6, 10)]


class PureAnalytics:
    """Creates stages of analytics without a store."""

    format = analytics.FORMAT

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return analytics.AnalyticsStage(snapshot)


GARBAGE_BYTES = (MAX_DEAD_PAYLOAD_BYTES, MAX_DEAD_PAYLOAD_BYTES + 1, MAX_RECORD_BYTES - 1, MAX_RECORD_BYTES)
SERVICES = {
    "aggregation": (RAW, STATE_AGGREGATION, lambda: AggregationStageFactory(1)),
    "analytics": (OHLCV, STATE_ANALYTICS, PureAnalytics),
}


def dead_letters_of(tmp_path: Path, name: str, bad: bytes) -> tuple[dict[str, Any], int]:
    """Return the dead letter that a service writes for `bad`, and the number of its outputs for the next mark."""
    topic, state, factory = SERVICES[name]
    log = EmbeddedLog(tmp_path / "log.sqlite")
    log.create_topics(TOPICS, 1)
    mark = records.encode(records.Mark(sent_at_us=1, feed="f", watermark_us=1))
    with log.writer("feed") as writer, writer.transaction() as transaction:
        for value in (bad, mark):
            transaction.append(topic, 0, value)
    worker = Processor(log, name, [topic], state, factory(), poll_records=1)
    stop = threading.Event()
    worker.on_batch = lambda _: None if log.lag(name, [topic])[TopicPartition(topic, 0)] else stop.set()
    worker.run(stop, poll_s=0.05)
    (dead,) = log.read_range(TopicPartition(DEADLETTER, 0), 0, 10)
    passed_on = log.offsets({RAW: OHLCV, OHLCV: ANALYTICS}[topic])
    (row,) = records.decode(dead.value).batch.to_pylist()
    log.close()
    return row, sum(end for _, end in passed_on.values())


def sized(kind: type[records.Header], size: int) -> bytes:
    """Return a record of at most `size` bytes, and nearly that size: the name of its feed is long."""
    more = {"watermark_us": 1} if kind is records.Mark else {}
    length = size - len(records.encode(kind(sent_at_us=1, feed="", **more)))
    while len(value := records.encode(kind(sent_at_us=1, feed="f" * length, **more))) > size:
        length -= 8
    return value.to_pybytes()


@pytest.mark.parametrize("kind", [records.Mark, records.End, records.Settings, records.Splits])
def test_a_record_that_would_outgrow_the_limit_when_it_is_passed_on_is_a_dead_letter(
    tmp_path: Path, kind: type[records.Header]
) -> None:
    row, passed_on = dead_letters_of(tmp_path, "aggregation", sized(kind, MAX_RECORD_BYTES))
    reason = f"a {kind.__name__} record of more than {MAX_PASSED_ON_BYTES} bytes cannot be passed on (the first "
    assert row["reason"].startswith(reason)
    assert len(row["payload"]) == MAX_DEAD_PAYLOAD_BYTES
    assert passed_on == 1, "the service must process the next record"


def test_a_record_just_below_the_limit_is_passed_on(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log.sqlite")
    log.create_topics(TOPICS, 1)
    with log.writer("feed") as writer, writer.transaction() as transaction:
        transaction.append(RAW, 0, sized(records.End, MAX_PASSED_ON_BYTES))
    worker = Processor(log, "aggregation", [RAW], STATE_AGGREGATION, AggregationStageFactory(1))
    stop = threading.Event()
    worker.on_batch = lambda _: stop.set()
    worker.run(stop, poll_s=0.05)
    (passed_on,) = log.read_range(TopicPartition(OHLCV, 0), 0, 10)
    assert MAX_PASSED_ON_BYTES - 100 < len(passed_on.value) <= MAX_RECORD_BYTES
    log.close()


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("size", GARBAGE_BYTES)
def test_the_dead_letter_of_an_unreadable_record_of_any_size_fits(tmp_path: Path, name: str, size: int) -> None:
    bad = b"garbage" + bytes(size - len(b"garbage"))
    row, passed_on = dead_letters_of(tmp_path, name, bad)
    assert (row["topic"], row["partition"], row["offset"]) == (SERVICES[name][0], 0, 0)
    assert row["payload"] == bad[: 8 << 20]
    assert (f"(the first {8 << 20} of {size} bytes are kept)" in row["reason"]) is (size > 8 << 20)
    assert passed_on == 1, "the service must process the next record"


@pytest.mark.parametrize("name", SERVICES)
def test_a_reason_that_quotes_a_huge_value_is_truncated(tmp_path: Path, name: str) -> None:
    bad = records.encode(records.Settings(sent_at_us=1, values={"nothing_" + "x" * (20 << 20): 1}))
    row, passed_on = dead_letters_of(tmp_path, name, bad)
    assert "nothing_xxx" in row["reason"]
    assert 4_000 < len(row["reason"]) < 4_200
    assert passed_on == 1


def test_a_short_reason_and_payload_are_not_truncated() -> None:
    (row,) = records.decode(
        dead_letter(ConsumedRecord(RAW, 3, 7, 0, b"abc"), "why", 5, cause=9).value
    ).batch.to_pylist()
    assert row == {"topic": RAW, "partition": 3, "offset": 7, "reason": "why", "payload": b"abc"}


class Queueing(Summing):
    """Queues one unit of background work for each record above 5, and runs one unit at a time."""

    def __init__(self, snapshot: bytes | None) -> None:
        super().__init__(snapshot)
        self.left = 0

    def step(self, consumed: ConsumedRecord, history: History = EMPTY_HISTORY) -> list[Output]:
        self.left += int(bytes(consumed.value)) > 5
        return super().step(consumed, history)

    def has_background_work(self) -> bool:
        return self.left > 0

    def run_background_work(self, position: int) -> list[Output] | None:
        if not self.left:
            return None
        self.left -= 1
        return []

    def queued_work(self) -> bytes:
        return str(self.left).encode()


def test_queued_work_is_stored_in_the_transaction_that_changes_it(event_log: EmbeddedLog) -> None:
    class Queues(Factory):
        def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
            return Queueing(snapshot)

    seen: list[str] = []
    stop = threading.Event()
    worker = processor(event_log, Queues())

    def watch(_: object) -> None:
        left = event_log.get_state(STATE, 0, QUEUED_KEY)
        seen.append("" if left is None else left.decode())
        if seen[-1] == "0" and len(seen) > 1:
            stop.set()

    worker.on_batch = watch
    with event_log.writer("feed") as writer, writer.transaction() as transaction:
        for number in (1, 9, 8, 7):
            transaction.append(IN, 0, str(number).encode())
    worker.run(stop, poll_s=0.05)
    assert seen[0] == "3"
    assert seen[1:] == ["2", "1", "0"]
