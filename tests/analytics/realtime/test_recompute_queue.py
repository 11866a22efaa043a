"""The recompute queue: the time at which a series is due, and the feeds that delay it."""

from __future__ import annotations

from tickerplant.analytics.realtime.recompute_queue import HISTORY_WAIT_US, RecomputeQueue, RejectedBar
from tickerplant.analytics.realtime.series import Series

A, B = Series("1d", "A"), Series("1d", "B")


def test_a_mark_contains_the_first_rejected_bar_and_the_last_position() -> None:
    queue = RecomputeQueue()
    queue.add_rejected([RejectedBar(A, 50, False)], 7, "f", 0)
    queue.add_rejected([RejectedBar(A, 90, False), RejectedBar(B, 10, False)], 9, "f", 0)
    assert queue.due(0) == [A, B]
    mark = queue.remove(A)
    assert (mark.start_us, mark.position) == (50, 9)
    assert queue.due(0) == [B]


def test_a_series_is_due_when_every_feed_of_its_history_has_ended_or_is_inactive() -> None:
    queue = RecomputeQueue()
    queue.add_rejected([RejectedBar(A, 1, True)], 1, "one", 0)
    queue.add_rejected([RejectedBar(A, 1, True), RejectedBar(B, 1, True)], 2, "two", 10)
    queue.end_feed("unknown")
    assert queue.due(10) == []
    queue.end_feed("one")
    assert queue.due(10) == []
    assert queue.due(10 + HISTORY_WAIT_US) == []
    assert queue.due(11 + HISTORY_WAIT_US) == [A, B]
    queue.end_feed("two")
    assert queue.due(10) == [A, B]
    for series in (A, B):
        queue.remove(series)
    assert (queue.marks, queue.feeds) == ({}, {})


def test_a_feed_is_removed_with_the_last_series_that_refers_to_it() -> None:
    queue = RecomputeQueue()
    queue.add_rejected([RejectedBar(A, 1, True), RejectedBar(B, 1, True)], 1, "one", 0)
    queue.remove(A)
    assert queue.due(0) == []
    queue.remove(B)
    assert queue.feeds == {}
