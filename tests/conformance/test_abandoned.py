"""If a member of a Kafka group is killed inside a transaction, the next owner of its partition ends the transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.conformance.conftest import Bench, at, kill, line, read, values, write
from tests.support.waiting import until
from tickerplant.core.schemas import OHLCV, RAW
from tickerplant.log.port import EventLog, RebalanceListener, TopicPartition


class Owner(RebalanceListener):
    """A listener that ends transactions of former owners, as a stage does; it records the names of their writers."""

    def __init__(self, log: EventLog) -> None:
        self.log, self.aborted, self.committed = log, list[str](), dict[TopicPartition, int]()

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.aborted += self.log.abort_abandoned("g", partitions, [OHLCV], "own")
        self.committed = self.log.committed("g")
        return {}

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        pass


def test_the_next_owner_aborts_the_transaction_of_a_killed_member(kafka: Bench) -> None:
    write(kafka.writer(), b"a", b"b")
    child = kafka.child("abandoner", "g", "killed")
    assert line(child) == "open"
    kill(child)
    owner = Owner(kafka.log)
    with kafka.log.reader([RAW], group="g", member="next", listener=owner) as reader:
        assert values(read(reader, 1)) == [b"b"]
    assert owner.aborted == ["killed"]
    first = kafka.log.offsets(RAW)[at(0)][0]
    assert owner.committed == {at(0): first + 1}
    write(kafka.writer("next"), b"b", topic=OHLCV)
    assert values(read(kafka.reader(OHLCV), 2)) == [b"a", b"b"]


def test_nothing_is_aborted_while_the_former_owner_lives(kafka: Bench) -> None:
    write(kafka.writer(), b"a", b"b")
    former = kafka.log.reader([RAW], group="g", member="former")
    writer = kafka.writer("former")
    (taken,) = read(former, 1, max_records=1)
    with writer.transaction() as transaction:
        transaction.append(OHLCV, 0, b"a")
        transaction.send_positions(former, {taken.source: taken.offset + 1})
    former.close()
    owner = Owner(kafka.log)
    with kafka.log.reader([RAW], group="g", member="next", listener=owner) as reader:
        until(lambda: values(reader.poll(timeout_s=0.1)) == [b"b"], "the next record")
    assert owner.aborted == []
    with writer.transaction() as transaction:
        transaction.append(OHLCV, 1, b"c")
