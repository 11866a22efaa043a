"""A member that has lost its partitions puts no snapshot, so the newer snapshot of the next owner remains."""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress

from tests.log.test_processor import IN, STATE, _no_fault_stays, event_log, feed, processor, run_until_read
from tests.support.killed import Killed
from tickerplant.core import faults
from tickerplant.core.errors import Fenced
from tickerplant.core.streams import TopicPartition
from tickerplant.log.embedded import EmbeddedLog
from tickerplant.log.processor import ProcessorCounters
from tickerplant.log.snapshots import SNAPSHOT_KEY

__all__ = ["_no_fault_stays", "event_log"]


def take_over(log: EmbeddedLog, stack: ExitStack) -> set[int]:
    """Join as another member, put newer snapshots, and return the partitions that the member has taken."""
    other = stack.enter_context(log.reader([IN], group="summing", member="other"))
    other.poll(timeout_s=0)
    taken = {source.partition for source in other.assignment()}
    with log.writer("other") as writer, writer.transaction() as transaction:
        for partition in taken:
            transaction.put_state(STATE, partition, SNAPSHOT_KEY, b"newer")
    return taken


def test_a_member_that_lost_a_partition_during_its_replay_puts_no_snapshot(event_log: EmbeddedLog) -> None:
    feed(event_log, range(12))

    def kill(name: str) -> None:
        if name == "summing.commit.after" and not any(event_log.lag("summing", [IN]).values()):
            raise Killed

    first = processor(event_log)
    first.snapshot_interval_records = 100
    faults.install(kill)
    run_until_read(event_log, first)
    faults.install(None)
    assert event_log.committed("summing") == {TopicPartition(IN, 0): 6, TopicPartition(IN, 1): 6}
    stop, worker = threading.Event(), processor(event_log)
    worker.on_batch = lambda counts: stop.set() if counts.discarded_records == 12 else None
    with ExitStack() as stack:
        taken: set[int] = set()

        def take_once(name: str) -> None:
            if name == "summing.commit.before" and not taken:  # the first commit of the replay
                taken.update(take_over(event_log, stack))

        faults.install(take_once)
        with suppress(Fenced):
            worker.run(stop, poll_s=0.05)
        assert taken
        assert {event_log.get_state(STATE, partition, SNAPSHOT_KEY) for partition in taken} == {b"newer"}


def test_a_member_that_stops_after_it_lost_a_partition_puts_no_snapshot(event_log: EmbeddedLog) -> None:
    feed(event_log, range(8))
    stop, worker, taken = threading.Event(), processor(event_log), set[int]()
    worker.snapshot_interval_records = 100
    with ExitStack() as stack:

        def take_at_the_end(counts: ProcessorCounters) -> None:
            if counts.records == 8:
                taken.update(take_over(event_log, stack))
                stop.set()

        worker.on_batch = take_at_the_end
        worker.run(stop, poll_s=0.05)
        assert taken
        assert {event_log.get_state(STATE, partition, SNAPSHOT_KEY) for partition in taken} == {b"newer"}
