"""Retention of kept snapshots and of the records that they need."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.killed import Killed
from tickerplant.core import faults
from tickerplant.core.schemas import DAY_US, TopicSpec
from tickerplant.core.streams import ConsumedRecord, History, Output, Stage, TopicPartition
from tickerplant.log import snapshots
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.processor import Processor
from tickerplant.log.snapshot_retention import MAX_HOLD_RETENTIONS, SnapshotRetention

IN, OUT, STATE = "in", "out", "state"
SOURCE = TopicPartition(IN, 0)
RETENTION_US = 5 * DAY_US
PER_SESSION = 4


class Sessions(Stage):
    """Sums numbers. The hundreds of a number are its session. `back` records before the session's first may be read."""

    def __init__(self, snapshot: bytes | None, back: int | None) -> None:
        self.total, self.session, self.first = (int(part) for part in (snapshot or b"0 -1 0").split())
        self.back = back

    def step(self, consumed: ConsumedRecord, history: History) -> Sequence[Output]:
        number = int(bytes(consumed.value))
        self.total += number
        if number // 100 > self.session:
            self.session, self.first = number // 100, consumed.offset
        return [Output(OUT, f"{consumed.offset}:{self.total}".encode())]

    def snapshot(self) -> bytes:
        return f"{self.total} {self.session} {self.first}".encode()

    def keep_label(self) -> str | None:
        return f"{self.session:03}"

    def oldest_offset(self) -> int | None:
        return None if self.back is None else max(0, self.first - self.back)


class Factory:
    format = 1

    def __init__(self, back: int | None = None) -> None:
        self.back = back

    def __call__(self, partition: int, snapshot: bytes | None) -> Stage:
        return Sessions(snapshot, self.back)


@pytest.fixture
def event_log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log.sqlite")
    log.create_topics([TopicSpec(IN, RETENTION_US), TopicSpec(OUT, RETENTION_US), TopicSpec(STATE, None)], 1)
    yield log
    faults.install(None)
    log.close()


def feed(log: EmbeddedLog, *numbers: int) -> None:
    time.sleep(0.002)  # each call appends at a different time
    with log.writer("feed") as writer, writer.transaction() as transaction:
        for number in numbers:
            transaction.append(IN, 0, str(number).encode())


def process(log: EmbeddedLog, factory: Factory | None = None, *, records: int = 1) -> None:
    """Process the whole log in polls of `records` records, and stop cleanly. A simulated kill ends the run early."""
    stop = threading.Event()
    worker = Processor(
        log, "summing", [IN], STATE, factory or Factory(), snapshot_interval_records=1000, poll_records=records,
        on_batch=lambda _: stop.set() if not any(log.lag("summing", [IN]).values()) else None,
    )  # fmt: skip
    with suppress(Killed):
        worker.run(stop, poll_s=0.05)


def sessions(log: EmbeddedLog, count: int, factory: Factory | None = None) -> None:
    for session in range(count):
        feed(log, *(session * 100 + i for i in range(PER_SESSION)))
    process(log, factory)


def retention_of(log: EmbeddedLog) -> SnapshotRetention:
    return SnapshotRetention(log, "summing", IN, STATE, RETENTION_US)


def appended_us(log: EmbeddedLog, offset: int) -> int:
    (found,) = log.read_range(SOURCE, offset, offset + 1)
    return found.appended_at_us


def kept(log: EmbeddedLog) -> list[tuple[str, int]]:
    return [(one.label, one.position) for one in snapshots.kept_snapshots(log, STATE, IN, 0)]


def first(log: EmbeddedLog) -> int:
    return log.offsets(IN)[SOURCE][0]


def test_one_snapshot_is_kept_for_each_session(event_log: EmbeddedLog) -> None:
    sessions(event_log, 3)
    assert kept(event_log) == [("000", 1), ("001", 5), ("002", 9)]


def test_a_kept_snapshot_is_dropped_with_the_last_record_of_its_session(
    event_log: EmbeddedLog,
) -> None:
    sessions(event_log, 6)
    run = retention_of(event_log).run
    # The third session, in which the second snapshot's session ends, is as old as retention allows.
    now_us = appended_us(event_log, 2 * PER_SESSION) + RETENTION_US
    assert run(now_us) == 1
    event_log.trim(now_us)
    assert first(event_log) == PER_SESSION + 1, "the oldest kept snapshot holds the log beyond its retention"
    now_us += 1
    assert run(now_us) == 1
    event_log.trim(now_us)
    assert [label for label, _ in kept(event_log)] == ["002", "003", "004", "005"]
    assert first(event_log) == 2 * PER_SESSION + 1
    assert run(now_us) == 0
    assert retention_of(event_log).run(now_us) == 0, "another process drops nothing"


def test_records_that_a_stage_may_still_read_are_held_for_the_oldest_snapshot(event_log: EmbeddedLog) -> None:
    sessions(event_log, 6, Factory(back=3))
    now_us = appended_us(event_log, 2 * PER_SESSION) + RETENTION_US + 1
    assert retention_of(event_log).run(now_us) == 2
    event_log.trim(now_us)
    assert first(event_log) == 2 * PER_SESSION - 3


def test_the_log_is_held_for_a_bounded_time_if_a_stage_reads_far_back(event_log: EmbeddedLog) -> None:
    sessions(event_log, 6, Factory(back=1_000))
    run = retention_of(event_log).run
    now_us = appended_us(event_log, 0) + MAX_HOLD_RETENTIONS * RETENTION_US
    feed(event_log, 501)
    run(now_us)
    event_log.trim(now_us)
    assert first(event_log) == 0
    run(now_us + 1)
    event_log.trim(now_us + 1)
    position = 5 * PER_SESSION + 1
    assert first(event_log) == position, "retention leaves only the snapshot of the last session"


def test_the_log_is_held_for_a_bounded_time_if_a_session_never_ends(event_log: EmbeddedLog) -> None:
    feed(event_log, 900)  # as if a clock were far ahead: no later session follows
    process(event_log)
    for number in range(20):
        feed(event_log, number)
    process(event_log)
    run = retention_of(event_log).run
    began_us = appended_us(event_log, 1)
    run(began_us + MAX_HOLD_RETENTIONS * RETENTION_US)
    event_log.trim(began_us + MAX_HOLD_RETENTIONS * RETENTION_US)
    assert (kept(event_log), first(event_log)) == ([("009", 1)], 1)
    assert run(began_us + MAX_HOLD_RETENTIONS * RETENTION_US + 1) == 1
    event_log.trim(began_us + MAX_HOLD_RETENTIONS * RETENTION_US + 1)
    assert kept(event_log) == []
    assert first(event_log) == 21, "only the newest snapshot is left, and it needs no record"


def test_a_restart_resumes_from_the_newest_snapshot_of_any_age(event_log: EmbeddedLog) -> None:
    sessions(event_log, 2)
    feed(event_log, *range(150, 170))

    def kill(name: str) -> None:
        if name == "summing.commit.after":
            raise Killed

    faults.install(kill)
    process(event_log, records=10)  # killed after its first commit, which has no snapshot
    faults.install(None)
    committed = event_log.committed("summing")[SOURCE]
    assert committed == 2 * PER_SESSION + 10
    for _ in range(2):
        later_us = time.time_ns() // 1000 + 100 * DAY_US
        retention_of(event_log).run(later_us)
        event_log.trim(later_us)
    assert kept(event_log) == []
    assert first(event_log) == 2 * PER_SESSION, (
        "the log starts at the position of the newest snapshot, not of the group"
    )
    process(event_log)
    numbers = [*range(4), *range(100, 104), *range(150, 170)]
    found = {}
    with event_log.reader([OUT]) as reader:
        while batch := reader.poll(timeout_s=0.05):
            found |= dict(bytes(delivery.value).split(b":") for delivery in batch)
    for offset in range(committed, len(numbers)):
        assert int(found[str(offset).encode()]) == sum(numbers[: offset + 1])


def test_a_snapshot_without_an_oldest_offset_is_read(event_log: EmbeddedLog) -> None:
    sessions(event_log, 1)
    written = snapshots.read(event_log, STATE, 0, snapshots.SNAPSHOT_KEY)
    assert written is not None
    import msgspec

    former = msgspec.msgpack.encode(msgspec.msgpack.decode(snapshots.encode(written))[:5])
    with event_log.writer("former") as writer, writer.transaction() as transaction:
        transaction.put_state(STATE, 0, snapshots.SNAPSHOT_KEY, former)
    found = snapshots.read(event_log, STATE, 0, snapshots.SNAPSHOT_KEY)
    assert found is not None
    assert (found.state, found.oldest) == (written.state, None)
