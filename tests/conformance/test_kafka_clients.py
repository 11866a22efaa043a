"""Requests to Kafka that use the same consumers again: the answers, and the number of consumers."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer

from tests.conformance.conftest import Bench, at, read, write
from tests.support.waiting import until
from tickerplant.core.schemas import RAW
from tickerplant.log.kafka import consumer_pool
from tickerplant.log.port import TopicPartition

pytestmark = pytest.mark.kafka


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the groups of the consumers that the pools of the process create from now on."""
    groups: list[str] = []

    class Counted(Consumer):
        def __init__(self, settings: dict[str, object]) -> None:
            groups.append(str(settings["group.id"]))
            super().__init__(settings)

    monkeypatch.setattr(consumer_pool, "Consumer", Counted)
    return groups


def _fill(kafka: Bench) -> dict[TopicPartition, dict[int, bytes]]:
    """Write transactions of 1 to 40 records. Return the values by partition and offset; markers have offsets too."""
    draw, offset = random.Random(5), {0: 0, 1: 0}
    written: dict[TopicPartition, dict[int, bytes]] = {at(0): {}, at(1): {}}
    writer = kafka.writer()
    for number in range(40):
        partition = number % 2
        values = [b"%d-%d" % (number, i) * draw.choice((1, 500)) for i in range(draw.randrange(1, 41))]
        write(writer, *values, partition=partition)
        for value in values:
            written[at(partition)][offset[partition]] = value
            offset[partition] += 1
        offset[partition] += 1  # the marker of the transaction
    return written


def test_ranges_that_are_read_with_one_consumer_are_complete(kafka: Bench, made: list[str]) -> None:
    written = _fill(kafka)
    draw = random.Random(7)
    for _ in range(150):
        source = draw.choice((at(0), at(1)))
        begin = draw.randrange(max(written[source]) + 1)
        end = begin + draw.choice((1, 2, 10, 2_000))
        found = kafka.log.read_range(source, begin, end)
        expected = [(offset, value) for offset, value in written[source].items() if begin <= offset < end]
        taken = draw.choice((1, 1_000_000))  # mostly the whole range, at times only its first record
        assert [(one.offset, bytes(one.value)) for one, _ in zip(found, range(taken), strict=False)] == expected[:taken]
        del found
    assert len(made) <= 2


def test_concurrent_ranges_have_their_own_records(kafka: Bench) -> None:
    written = _fill(kafka)

    def check(seed: int) -> int:
        draw = random.Random(seed)
        for _ in range(20):
            source = draw.choice((at(0), at(1)))
            begin = draw.randrange(max(written[source]) + 1)
            found = {one.offset: bytes(one.value) for one in kafka.log.read_range(source, begin, begin + 50)}
            assert found == {o: value for o, value in written[source].items() if begin <= o < begin + 50}
        return 20

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(check, range(4))) == 80


def test_questions_about_groups_create_no_more_consumers(kafka: Bench, made: list[str]) -> None:
    """Check the lag after each change of a position and each record, and count the consumers."""
    writer = kafka.writer()
    write(writer, *[b"%d" % i for i in range(30)])
    reader = kafka.reader(group="g")
    records = read(reader, 30)
    for position in (1, 5, 20):
        reader.commit({at(0): records[position].offset})
        assert kafka.log.committed("g") == {at(0): records[position].offset}
        assert kafka.log.lag("g", [RAW]) == {at(0): 30 - position, at(1): 0, at(2): 0}
    write(writer, b"more", partition=2)
    assert kafka.log.lag("g", [RAW]) == {at(0): 10, at(1): 0, at(2): 1}
    until(lambda: kafka.log.groups() == ["g"], "the group")
    before = len(made)
    for _ in range(10):
        assert kafka.log.groups() == ["g"]
        assert sum(kafka.log.lag("g", [RAW]).values()) == 11
    assert len(made) == before <= 4


def test_kept_consumers_answer_after_a_restart_of_the_broker(kafka: Bench) -> None:
    assert kafka.broker is not None
    writer = kafka.writer()
    write(writer, b"a", b"b")
    reader = kafka.reader(group="g")
    (first, _) = read(reader, 2)
    reader.commit({at(0): first.offset + 1})
    for _ in range(2):
        assert [bytes(one.value) for one in kafka.log.read_range(at(0), 0, 10)] == [b"a", b"b"]
        assert kafka.log.lag("g", [RAW])[at(0)] == 1
        kafka.broker.kill()
        kafka.broker.start()
    until(lambda: kafka.log.lag("g", [RAW])[at(0)] == 1 and kafka.log.outage() == "", "the lag")
    assert [bytes(one.value) for one in kafka.log.read_range(at(0), 0, 10)] == [b"a", b"b"]
