"""Groups: members that join, leave and die, and positions that only the owner may commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tests.conformance.conftest import MARKER, PARTITIONS, Bench, at, is_exhausted, kill, line, read, values, write
from tests.support.waiting import until
from tickerplant.core.errors import Fenced
from tickerplant.core.schemas import OHLCV, RAW
from tickerplant.log.port import LATEST, ConsumedRecord, Reader, RebalanceListener, TopicPartition


class Recorder(RebalanceListener):
    """A listener that records its calls."""

    def __init__(self, positions: Mapping[TopicPartition, int] | None = None) -> None:
        self.positions = positions or {}
        self.owned: set[TopicPartition] = set()
        self.calls: list[str] = []

    def on_assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        assert self.owned.isdisjoint(partitions)
        self.owned |= set(partitions)
        self.calls.append("assigned")
        return {p: position for p, position in self.positions.items() if p in partitions}

    def on_revoked(self, partitions: Sequence[TopicPartition]) -> None:
        assert self.owned.issuperset(partitions)
        self.owned -= set(partitions)
        self.calls.append("revoked")


def settle(*readers: Reader) -> None:
    """Poll all members until the partitions are distributed evenly."""

    def is_distributed() -> bool:
        for reader in readers:
            reader.poll(timeout_s=0.05)
        owned = [len({p.partition for p in reader.assignment()}) for reader in readers]
        return sum(owned) == PARTITIONS and max(owned) - min(owned) <= 1

    until(is_distributed, "the partitions are distributed")


def test_a_group_resumes_at_its_committed_positions(bench: Bench) -> None:
    writer = bench.writer()
    write(writer, b"a", b"b", b"c")
    with bench.log.reader([RAW], group="g") as reader:
        taken = read(reader, 3)
        reader.commit({at(0): taken[1].offset})
    assert bench.log.committed("g") == {at(0): taken[1].offset}
    assert bench.log.groups() == ["g"]
    with bench.log.reader([RAW], group="g", start=LATEST) as reader:
        assert values(read(reader, 2)) == [b"b", b"c"]
    assert values(read(bench.reader(group="other"), 3)) == [b"a", b"b", b"c"]


def test_a_commit_of_no_positions_does_nothing(bench: Bench) -> None:
    write(bench.writer(), b"a")
    with bench.log.reader([RAW], group="g") as reader:
        (taken,) = read(reader, 1)
        reader.commit({})
        assert bench.log.committed("g") == {}
        reader.commit({at(0): taken.offset + 1})
        reader.commit({})
    assert bench.log.committed("g") == {at(0): taken.offset + 1}


def test_positions_commit_with_the_transaction(bench: Bench) -> None:
    writer = bench.writer()
    write(writer, b"a", b"b")
    with bench.log.reader([RAW], group="g") as reader:
        taken = read(reader, 2)
        with writer.transaction() as transaction:
            transaction.append(OHLCV, 0, b"from a")
            transaction.send_positions(reader, {at(0): taken[0].offset + 1})
    with bench.log.reader([RAW], group="g") as reader:
        assert values(read(reader, 1)) == [b"b"]


def test_lag_is_zero_after_everything_was_read(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader(group="g")
    for i in range(5):
        write(writer, b"a", b"b", partition=i % 2)
    with pytest.raises(ZeroDivisionError), writer.transaction() as transaction:  # noqa: PT012
        transaction.append(RAW, 0, b"aborted")
        raise ZeroDivisionError
    assert bench.log.lag("g", [RAW]) == {at(0): 6, at(1): 4, at(2): 0}
    taken = read(reader, 10)
    reader.commit({record.source: record.offset + 1 for record in taken[:-1]})
    assert sum(bench.log.lag("g", [RAW]).values()) == 1
    reader.commit({record.source: record.offset + 1 for record in taken})
    assert bench.log.lag("g", [RAW]) == {at(p): 0 for p in range(PARTITIONS)}


def test_the_listener_returns_the_start_positions(bench: Bench) -> None:
    write(bench.writer(), b"a", b"b", b"c")
    last = read(bench.reader(), 3)[-1]
    for group in (None, "g"):
        recorder = Recorder({at(0): last.offset})
        reader = bench.reader(group=group, listener=recorder)
        assert values(read(reader, 1)) == [b"c"]
        assert recorder.owned == reader.assignment() == {at(p) for p in range(PARTITIONS)}


def test_a_partition_number_of_all_topics_is_assigned_to_one_member(bench: Bench) -> None:
    recorders = [Recorder(), Recorder()]
    readers = [bench.reader(RAW, OHLCV, group="g", listener=recorder) for recorder in recorders]
    settle(*readers)
    for reader, recorder in zip(readers, recorders, strict=True):
        owned = reader.assignment()
        assert owned == recorder.owned
        assert {p.partition for p in owned if p.topic == RAW} == {p.partition for p in owned if p.topic == OHLCV}
    writer = bench.writer()
    with writer.transaction() as transaction:
        for partition in range(PARTITIONS):
            transaction.append(RAW, partition, b"%d" % partition)
    for reader in readers:
        own = [p for p in reader.assignment() if p.topic == RAW]
        assert {d.source for d in read(reader, len(own))} == set(own)
    readers[0].close()
    settle(readers[1])
    assert recorders[1].owned == {at(p, topic) for p in range(PARTITIONS) for topic in (RAW, OHLCV)}


def test_a_member_keeps_its_partitions_while_another_joins_and_leaves(bench: Bench) -> None:
    writer, recorders = bench.writer(), [Recorder(), Recorder()]
    with writer.transaction() as transaction:
        for partition in range(PARTITIONS):
            transaction.append(RAW, partition, b"%d" % partition)
    first = bench.reader(group="g", member="a", listener=recorders[0])
    assert sorted(values(read(first, PARTITIONS))) == [b"0", b"1", b"2"]  # not committed
    second = bench.reader(group="g", member="b", listener=recorders[1])
    again: list[ConsumedRecord] = []

    def shared() -> bool:
        again.extend(first.poll(timeout_s=0.05))
        second.poll(timeout_s=0.05)
        return {len(first.assignment()), len(second.assignment())} == {1, 2}

    until(shared, "shared partitions")
    kept, moved = ({p.partition for p in reader.assignment()} for reader in (first, second))
    assert recorders[0].calls == ["assigned", "revoked"]
    with writer.transaction() as transaction:
        for partition in range(PARTITIONS):
            transaction.append(RAW, partition, b"new")
    again += read(first, len(kept))
    assert values(again) == [b"new"] * len(kept)
    second.seek({at(p): 0 for p in moved})
    assert sorted(values(read(second, 2 * len(moved)))) == sorted([*(b"%d" % p for p in moved), *[b"new"] * len(moved)])
    second.close()
    settle(first)
    assert recorders[0].calls == ["assigned", "revoked", "assigned"]
    first.seek({at(p): 0 for p in moved})
    assert {record.partition for record in read(first, 2 * len(moved))} == moved


def test_a_member_cannot_commit_for_a_partition_of_another_member(bench: Bench) -> None:
    writer = bench.writer()
    with writer.transaction() as transaction:
        for partition in range(PARTITIONS):
            transaction.append(RAW, partition, b"%d" % partition)
    first = bench.reader(group="g")
    taken = read(first, PARTITIONS)
    second = bench.reader(group="g")
    # Kafka waits for the first member's poll before it rebalances. The old positions are then invalid.
    settle(first, second)
    lost = {d.source: d.offset + 1 for d in taken if d.source not in first.assignment()}
    assert lost
    with pytest.raises(Fenced):
        first.commit(lost)
    with pytest.raises(Fenced), writer.transaction() as transaction:  # noqa: PT012
        transaction.append(OHLCV, 0, b"zombie's")
        transaction.send_positions(first, lost)
    assert is_exhausted(bench, bench.reader(OHLCV), OHLCV)
    assert bench.log.committed("g") == {}
    with writer.transaction() as transaction:
        transaction.append(OHLCV, 0, b"owner's")
        transaction.send_positions(second, dict.fromkeys(second.assignment(), 1))
    assert sorted(values(read(bench.reader(OHLCV), PARTITIONS + 1))) == [MARKER] * PARTITIONS + [b"owner's"]


def test_the_partitions_of_a_killed_member_are_assigned_to_live_ones(bench: Bench) -> None:
    child = bench.child("member", "g")
    assert line(child) == "owns 0 1 2"
    reader = bench.reader(group="g")

    def shared() -> bool:
        reader.poll(timeout_s=0.1)
        return len(reader.assignment()) in (1, 2)

    until(shared, "the live members to share the partitions")
    kill(child)
    until(
        lambda: not reader.poll(timeout_s=0.1) and len(reader.assignment()) == PARTITIONS,
        "the partitions of the killed member",
    )


def test_only_live_members_are_counted(bench: Bench) -> None:
    assert bench.log.members("g") == 0
    child = bench.child("member", "g")
    assert line(child) == "owns 0 1 2"
    assert bench.log.members("g") == 1
    kill(child)
    until(lambda: bench.log.members("g") == 0, "the dead member is not counted")


def test_a_named_member_gets_its_partitions_back_after_a_restart(bench: Bench) -> None:
    writer = bench.writer()
    write(writer, *[b"%d" % i for i in range(20)])
    first = bench.child("copier", "c")
    assert line(first).startswith("copied")
    kill(first)
    write(writer, *[b"%d" % i for i in range(20, 40)])
    second = bench.child("copier", "c")
    assert line(second).startswith("copied")
    copies = bench.reader(OHLCV)
    assert values(read(copies, 40)) == [b"%d" % i for i in range(40)]
    assert is_exhausted(bench, copies, OHLCV)
