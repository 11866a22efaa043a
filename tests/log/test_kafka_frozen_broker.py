"""A broker that is frozen while it commits: no record is written twice, and none is lost (KIP-890)."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.support.kafka import KafkaBroker
from tests.support.waiting import Guard, until
from tickerplant.core.errors import LogUnavailable
from tickerplant.core.schemas import RAW, STATE_AGGREGATION, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.kafka import writer as kafka_writer
from tickerplant.log.port import TopicPartition

pytestmark = pytest.mark.kafka

PARTITIONS = 3
THOROUGH = int(os.environ.get("CHAOS_KILLS", "0")) >= 25
FREEZES, FROZEN_S = (16, 7.0) if THOROUGH else (2, 3.0)
EVERY = 5
"""Number of commit requests after which the broker is frozen."""


@pytest.fixture
def log(kafka_broker: KafkaBroker) -> Iterator[KafkaLog]:
    with KafkaLog(kafka_broker.bootstrap, topic_prefix=f"frozen{os.getpid()}-{time.monotonic_ns()}.") as log:
        log.create_topics([TopicSpec(RAW, 5 * DAY_US), TopicSpec(STATE_AGGREGATION, None)], PARTITIONS)
        yield log


class Freezer:
    """Freezes the broker a few milliseconds after every `EVERY`th commit request, `FREEZES` times."""

    def __init__(self, broker: KafkaBroker, seed: int) -> None:
        self._broker, self._random = broker, random.Random(seed)
        self._commits = self.freezes = 0
        self._thread: threading.Thread | None = None

    def committing(self) -> None:
        self._commits += 1
        if self._commits % EVERY == 0 and self.freezes < FREEZES and not self.is_freezing():
            self.freezes += 1
            self._thread = threading.Thread(target=self._freeze, args=(self._random.uniform(0, 0.008),))
            self._thread.start()

    def is_freezing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _freeze(self, after_s: float) -> None:
        pid = self._broker.pid
        assert pid is not None
        time.sleep(after_s)
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(FROZEN_S)
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_caller_that_goes_on_with_its_writer_writes_no_record_twice(
    log: KafkaLog, kafka_broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezer = Freezer(kafka_broker, seed=7)

    class FrozenInCommits(Producer):
        def commit_transaction(self, *arguments: Any) -> None:
            freezer.committing()
            super().commit_transaction(*arguments)

    monkeypatch.setattr(kafka_writer, "Producer", FrozenInCommits)
    writer, failures = log.writer("w"), 0
    object.__setattr__(log.cluster, "patience_s", 1.0)
    guard = Guard(60 + FREEZES * FROZEN_S * 4)
    after = 0
    while after < EVERY:  # commits after the last freeze
        guard.check("commits after the last freeze")
        try:
            number = int(log.get_state(STATE_AGGREGATION, 0, "number") or b"0")
            with writer.transaction() as transaction:
                for partition in range(PARTITIONS):
                    transaction.append(RAW, partition, b"%d" % number)
                transaction.put_state(STATE_AGGREGATION, 0, "number", b"%d" % (number + 1))
            after += freezer.freezes == FREEZES and not freezer.is_freezing()
        except LogUnavailable:
            failures += 1
    object.__setattr__(log.cluster, "patience_s", 30.0)
    writer.close()
    count = int(log.get_state(STATE_AGGREGATION, 0, "number") or b"0")
    for partition in range(PARTITIONS):
        source = TopicPartition(RAW, partition)
        records = log.read_range(source, 0, log.offsets(RAW)[source][1])
        assert [int(record.value) for record in records] == list(range(count))
    assert failures >= FREEZES


def test_a_producer_is_replaced_after_each_transaction_whose_requests_may_be_late(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = log.writer("w")

    def append(value: bytes) -> None:
        with writer.transaction() as transaction:
            transaction.append(RAW, 0, value)

    def producer() -> Any:
        return writer._producer

    append(b"0")
    first = producer()
    append(b"1")
    assert producer() is first  # a healthy producer is kept
    with pytest.raises(ZeroDivisionError), writer.transaction():
        raise ZeroDivisionError
    assert producer() is first
    monkeypatch.setattr(kafka_writer, "SUSPECT_S", -1.0)
    append(b"2")
    assert producer() is None
    monkeypatch.undo()
    append(b"3")
    second = producer()
    assert second not in (None, first)
    object.__setattr__(log.cluster, "patience_s", 1e-9)
    with pytest.raises(LogUnavailable):
        append(b"4")  # the commit has no time for an answer
    object.__setattr__(log.cluster, "patience_s", 30.0)
    assert producer() is not second
    with pytest.raises(LogUnavailable, match="resume from the last commit"):
        append(b"not written")
    append(b"5")
    until(lambda: b"5" in values(log), "the last record")
    assert values(log) in ([b"0", b"1", b"2", b"3", b"4", b"5"], [b"0", b"1", b"2", b"3", b"5"])


def values(log: KafkaLog) -> list[bytes]:
    source = TopicPartition(RAW, 0)
    return [bytes(record.value) for record in log.read_range(source, 0, log.offsets(RAW)[source][1])]
