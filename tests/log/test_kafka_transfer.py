"""A log in a file is copied to a real broker: every record keeps its offset, also after a trim and an interruption."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.kafka import KafkaBroker
from tests.support.waiting import PATIENCE
from tickerplant.core.errors import LogError
from tickerplant.core.schemas import OHLCV, RAW, TopicSpec
from tickerplant.core.times import DAY_US
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.kafka import KafkaLog
from tickerplant.log.kafka.transfer import RecordCopier, commit_positions
from tickerplant.log.port import ConsumedRecord, TopicPartition

pytestmark = pytest.mark.kafka

SPECS = [TopicSpec(RAW, 5 * DAY_US), TopicSpec(OHLCV, 5 * DAY_US)]
FAR_US = 1 << 53
_numbers = itertools.count()


@pytest.fixture
def former(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """Yield a log whose partition raw/0 begins at offset 3, and whose partition raw/1 has lost all its records."""
    with EmbeddedLog(tmp_path / "market.log") as log:
        log.create_topics(SPECS, 2)
        append(log, RAW, 0, 3)
        append(log, RAW, 1, 2)
        log.trim(FAR_US)
        append(log, RAW, 0, 4)
        append(log, OHLCV, 0, 5)
        yield log


@pytest.fixture
def new(kafka_broker: KafkaBroker) -> Iterator[KafkaLog]:
    prefix = f"move{os.getpid()}-{next(_numbers)}."
    with KafkaLog(kafka_broker.bootstrap, topic_prefix=prefix, patience_s=PATIENCE.seconds(30)) as log:
        log.create_topics(SPECS, 2)
        yield log


def append(log: EmbeddedLog | KafkaLog, topic: str, partition: int, count: int) -> None:
    with log.writer("test") as writer, writer.transaction() as transaction:
        for number in range(count):
            transaction.append(topic, partition, b"%d of %d" % (number, count))


def copy(former: EmbeddedLog, new: KafkaLog, source: TopicPartition, end: int | None = None) -> None:
    first, last = former.offsets(source.topic)[source]
    last = last if end is None else end

    def read(offset: int) -> Iterable[ConsumedRecord]:
        return former.read_range(source, offset, last)

    RecordCopier(new).copy(source, (first, last), read, lambda offset: None)


def records(log: EmbeddedLog | KafkaLog, source: TopicPartition) -> list[tuple[int, bytes]]:
    return [(one.offset, one.value) for one in log.read_range(source, *log.offsets(source.topic)[source])]


def test_records_keep_their_offsets(former: EmbeddedLog, new: KafkaLog) -> None:
    parts = [TopicPartition(topic, partition) for topic in (RAW, OHLCV) for partition in (0, 1)]
    copy(former, new, parts[0], end=5)  # as after an interruption
    assert new.offsets(RAW)[parts[0]] == (3, 5)
    for source in parts:
        copy(former, new, source)
        copy(former, new, source)  # changes nothing
    assert {**new.offsets(RAW), **new.offsets(OHLCV)} == {
        parts[0]: (3, 7), parts[1]: (2, 2), parts[2]: (0, 5), parts[3]: (0, 0),
    }  # fmt: skip
    for source in parts:
        assert records(new, source) == records(former, source)
    with new.reader([RAW, OHLCV]) as reader:  # as services read, from the first retained offset on
        found = []
        while len(found) < 9:
            found += reader.poll(timeout_s=PATIENCE.seconds(30))
    assert sorted((one.topic, one.offset) for one in found) == [
        *((OHLCV, offset) for offset in range(5)), *((RAW, offset) for offset in range(3, 7)),
    ]  # fmt: skip


def test_positions_of_groups_are_committed(former: EmbeddedLog, new: KafkaLog) -> None:
    positions = {TopicPartition(RAW, 0): 5, TopicPartition(RAW, 1): 2}
    commit_positions(new, "aggregation", positions)
    commit_positions(new, "empty", {})
    assert new.committed("aggregation") == positions
    assert new.committed("empty") == {}


def test_a_topic_with_other_records_is_refused(former: EmbeddedLog, new: KafkaLog) -> None:
    source = TopicPartition(OHLCV, 0)
    append(new, OHLCV, 0, 9)
    with pytest.raises(LogError, match=r"has \d records that the other log lacks"):
        copy(former, new, source)


def test_an_interrupted_copy_with_a_wrong_record_is_refused(former: EmbeddedLog, new: KafkaLog) -> None:
    """Check records that a late request of a killed process has appended again."""
    source = TopicPartition(OHLCV, 0)
    wrong = [ConsumedRecord(OHLCV, 0, offset, 0, b"%d of 5" % min(offset, 1)) for offset in range(3)]
    RecordCopier(new).copy(source, (0, 3), lambda offset: wrong[offset:], lambda offset: None)
    with pytest.raises(LogError, match=r"record 2 of market\.prices\.ohlcv/0 differs from the other log's; delete"):
        copy(former, new, source)
