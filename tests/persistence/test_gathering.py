"""The records that persistence gathers, and the time for which they wait.

The reader is a list of polls, so no test waits for a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.store.rows import OPEN_US, bars, ticks
from tickerplant.core import records, schemas
from tickerplant.log.port import ConsumedRecord, TopicPartition
from tickerplant.persistence.gathering import FEW_RECORDS, MAX_GATHERED, Gathering, may_wait

LONG_S = 600.0
"""Seconds of a wait that no test reaches."""


class Polls:
    """A reader that returns one list per poll, and calls `at_end` in each poll after the last list."""

    def __init__(self, *polls: list[ConsumedRecord], at_end: Callable[[], None] = lambda: None) -> None:
        self._polls = list(polls)
        self._at_end = at_end
        self.timeouts: list[float] = []

    def poll(self, *, timeout_s: float) -> list[ConsumedRecord]:
        self.timeouts.append(timeout_s)
        if self._polls:
            return self._polls.pop(0)
        self._at_end()
        return []


def consumed(header: records.Header, offset: int = 0, topic: str = schemas.RAW) -> ConsumedRecord:
    table = {records.Ticks: ticks(1), records.Bars: bars({})}.get(type(header))
    batch = None if table is None else table.combine_chunks().to_batches()[0]
    return ConsumedRecord(topic, 0, offset, OPEN_US, records.encode(header, batch))


def tick(offset: int, feed: str = "twelvedata") -> ConsumedRecord:
    return consumed(records.Ticks(sent_at_us=OPEN_US, feed=feed, watermark_us=OPEN_US), offset)


def over(offset: int) -> ConsumedRecord:
    header = records.Over(sent_at_us=OPEN_US, feed="twelvedata", interval="1m", start_us=OPEN_US, expected=1, emitted=1)
    return consumed(header, offset, schemas.STATUS)


def offsets(found: list[ConsumedRecord]) -> list[int]:
    return [one.offset for one in found]


@pytest.mark.parametrize(
    ("record", "waits"),
    [
        (tick(0), True),
        (consumed(records.Mark(sent_at_us=0, feed="twelvedata", watermark_us=0)), True),
        (consumed(records.Bars(sent_at_us=0, feed="twelvedata")), True),
        (tick(0, "file:abc-1"), False),
        (tick(0, "backfill"), False),
        (tick(0, ""), False),
        (over(0), False),
        (consumed(records.End(sent_at_us=0, feed="twelvedata")), False),
        (ConsumedRecord(schemas.RAW, 0, 0, 0, b"broken"), False),
    ],
    ids=["ticks", "mark", "bars", "file", "backfill", "no feed", "end of an interval", "end of a feed", "unreadable"],
)
def test_only_rows_of_a_live_feed_wait_for_others(record: ConsumedRecord, waits: bool) -> None:
    assert may_wait(record) is waits


def test_ticks_wait_for_later_records_and_an_end_of_an_interval_does_not() -> None:
    reader = Polls([tick(0)], [tick(1)], [], [tick(2), over(3)], [tick(4)])
    gathering = Gathering(0.001, LONG_S)
    assert offsets(gathering.poll(reader, 7.0)) == [0, 1, 2, 3]
    assert reader.timeouts == [7.0, 0.0, 0.0, 0.0]


def test_many_records_do_not_wait() -> None:
    assert len(Gathering(0.001, LONG_S).poll(Polls([tick(n) for n in range(FEW_RECORDS)]), 1.0)) == FEW_RECORDS
    some = [[tick(n)] * (FEW_RECORDS - 1) for n in range(100)]
    gathered = Gathering(0.0001, LONG_S).poll(Polls(*some), 1.0)
    assert MAX_GATHERED <= len(gathered) < MAX_GATHERED + FEW_RECORDS


@pytest.mark.parametrize(("pause_s", "longest_s"), [(0.0, LONG_S), (0.001, 0.0)], ids=["no pause", "no wait"])
def test_without_a_time_nothing_is_gathered(pause_s: float, longest_s: float) -> None:
    reader = Polls([tick(0)], [tick(1)])
    gathering = Gathering(pause_s, longest_s)
    assert [offsets(gathering.poll(reader, 1.0)) for _ in range(2)] == [[0], [1]]


def test_the_longest_wait_ends_the_gathering() -> None:
    assert offsets(Gathering(0.001, 0.005).poll(Polls([tick(0)]), 1.0)) == [0]


def test_hurry_ends_a_wait_from_another_thread() -> None:
    gathering, waiting = Gathering(LONG_S, LONG_S), threading.Event()
    reader = Polls([tick(0)], [tick(1)])
    found: list[ConsumedRecord] = []

    def poll() -> None:
        waiting.set()
        found.extend(gathering.poll(reader, 1.0))

    thread = threading.Thread(target=poll)
    thread.start()
    waiting.wait()
    gathering.hurry()
    thread.join()
    assert offsets(found) in ([0], [0, 1])


def test_records_before_a_rebalance_are_discarded_because_they_are_read_again() -> None:
    # A rebalance within a poll calls the listener. The poll then returns records from the new position.
    gathering = Gathering(0.001, LONG_S)
    other = consumed(records.Mark(sent_at_us=0, feed="twelvedata", watermark_us=0), 9, schemas.OHLCV)

    class Rebalancing(Polls):
        def poll(self, *, timeout_s: float) -> list[ConsumedRecord]:
            if len(self.timeouts) == 1:
                gathering.restart([TopicPartition(schemas.RAW, 0)])
            return super().poll(timeout_s=timeout_s)

    reader = Rebalancing([tick(5), tick(6), other], [tick(4), tick(5)], [over(6)])
    assert [(one.topic, one.offset) for one in gathering.poll(reader, 1.0)] == [
        (schemas.OHLCV, 9), (schemas.RAW, 4), (schemas.RAW, 5), (schemas.STATUS, 6),
    ]  # fmt: skip


def test_records_of_the_poll_in_which_the_partitions_are_assigned_remain() -> None:
    gathering = Gathering(0.001, LONG_S)

    class Assigning(Polls):
        def poll(self, *, timeout_s: float) -> list[ConsumedRecord]:
            if not self.timeouts:
                gathering.restart([TopicPartition(schemas.RAW, 0)])
            return super().poll(timeout_s=timeout_s)

    assert offsets(gathering.poll(Assigning([tick(0)], [over(1)]), 1.0)) == [0, 1]
