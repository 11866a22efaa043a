"""Bars after cancels and corrections equal those of the remaining and corrected trades.

Cancels and corrections that cannot be applied are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregation.plant import (
    at,
    bars,
    consumed,
    continued,
    decoded,
    down,
    end,
    last,
    mark,
    run,
    same_bars,
    start,
    ticks,
)  # fmt: skip
from tests.support.properties import examples
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.streams import ConsumedRecord
from tickerplant.core.times import MINUTE_US, SECOND_US

OPEN = at("2026-01-05T14:30")
CLOSE = at("2026-01-05T21:00")
DAY = at("2026-01-05")
M, S = MINUTE_US, SECOND_US
CANCEL, CORRECTION = int(TickFlag.CANCEL), int(TickFlag.CORRECTION)
AUCTION = int(TickFlag.CLOSING_AUCTION)
SYMBOLS = ["A", "B", "C"]


def trades(*rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return rows for `ticks`. Each argument is (seconds after the open, symbol, price, size, flags, trade id)."""
    return [(OPEN + int(row[0] * S), *row[1:]) for row in rows]


THREE = trades((1, "A", 10.0, 1, 0, "1"), (2, "A", 15.0, 2, 0, "2"), (3, "A", 11.0, 4, 0, "3"))


def test_a_cancel_before_the_close_removes_the_trade_from_the_bar() -> None:
    raw = [start(start_us=OPEN, symbols=["A"]), ticks(THREE, OPEN + 3 * S), mark(OPEN + 3 * S)]
    raw += [ticks(trades((2, "A", 15.0, 2, CANCEL, "2")), OPEN + 4 * S), mark(OPEN + 4 * S), end()]
    steps = run(raw)
    assert {row["high"] for row in bars(steps[4:5])} == {11.0}
    bar = last(steps)["1m", "A", OPEN]
    assert [bar[n] for n in ("open", "high", "low", "close", "volume", "trades")] == [10.0, 11.0, 10.0, 11.0, 5.0, 2]
    assert (bar["reason"], bar["revision"], bar["complete"]) == ("ticks", 0, True)


@pytest.mark.parametrize(
    ("undo", "reason", "expected"),
    [
        ((2, "A", 15.0, 2, CANCEL, "2"), "cancel", (10.0, 11.0, 10.0, 11.0, 5.0, 2)),
        ((3, "A", 12.5, 3, CORRECTION, "3"), "correction", (10.0, 15.0, 10.0, 12.5, 6.0, 3)),
    ],
)
def test_a_cancel_or_correction_after_the_close_revises_the_1m_5m_and_daily_bar(
    undo: Any, reason: str, expected: tuple[float, ...]
) -> None:
    raw = [start(start_us=at("2026-01-05T09:00"), symbols=["A"]), ticks(THREE, OPEN + 3 * S), mark(CLOSE + 2 * S)]
    raw.append(ticks(trades(undo), CLOSE + 3 * S))
    steps = run(raw)
    for interval, time in (("1m", OPEN), ("5m", OPEN), ("1d", DAY)):
        (bar,) = [row for row in bars(steps[3:]) if row["interval"] == interval]
        assert tuple(bar[n] for n in ("open", "high", "low", "close", "volume", "trades")) == expected
        assert (bar["time"], bar["state"], bar["reason"], bar["revision"]) == (time, "final", reason, 1)


def test_a_bar_without_a_trade_left_is_withdrawn_with_its_roll_ups() -> None:
    raw = [start(start_us=at("2026-01-05T09:00"), symbols=["A"]), ticks(THREE[:1], OPEN + 3 * S), mark(CLOSE + 2 * S)]
    raw.append(ticks(trades((1, "A", 10.0, 1, CANCEL, "1")), CLOSE + 3 * S))
    steps = run(raw)
    withdrawn = bars(steps[3:])
    assert {(row["interval"], row["time"], row["state"]) for row in withdrawn} == {
        ("1m", OPEN, "withdrawn"), ("5m", OPEN, "withdrawn"), ("1d", DAY, "withdrawn"),
    }  # fmt: skip
    assert all(row["open"] is None and row["vwap"] is None and row["volume"] == 0 for row in withdrawn)
    assert last(steps) == {}
    raw.append(ticks(trades((30, "A", 9.0, 5, 0, "9")), CLOSE + 3 * S))
    back = last(run(raw))
    assert {key[0]: (row["close"], row["volume"], row["revision"]) for key, row in back.items()} == {
        "1m": (9.0, 5.0, 2), "5m": (9.0, 5.0, 2), "1d": (9.0, 5.0, 2),
    }  # fmt: skip


def test_a_forming_bar_without_a_trade_left_is_withdrawn() -> None:
    raw = [start(start_us=OPEN, symbols=["A"]), ticks(THREE[:1], OPEN + S), mark(OPEN + S)]
    raw += [ticks(trades((1, "A", 10.0, 1, CANCEL, "1")), OPEN + 2 * S), mark(OPEN + 2 * S)]
    steps = run(raw)
    assert {row["state"] for row in bars(steps[2:3])} == {"forming"}
    assert {(row["interval"], row["state"]) for row in bars(steps[4:])} == {
        ("1m", "withdrawn"), ("5m", "withdrawn"), ("1d", "withdrawn"),
    }  # fmt: skip


def test_a_cancel_may_arrive_before_its_trade() -> None:
    raw = [start(start_us=OPEN, symbols=["A"]), ticks(trades((2, "A", 15.0, 2, CANCEL, "2")), OPEN)]
    raw += [ticks([row], OPEN + 3 * S) for row in THREE]
    steps = run([*raw, end()])
    assert last(steps)["1m", "A", OPEN]["high"] == 11.0
    states = [r.header for r in decoded(steps, schemas.STATUS) if isinstance(r.header, records.FeedState)]
    assert [(s.reason, s.count) for s in states if s.state == "unsupported"] == [
        ("cancel or correction of a print that has not come", 1)
    ]


def test_a_cancelled_auction_trade_is_removed_from_the_day() -> None:
    late = (CLOSE + 5 * S, "A", 20.0, 100, AUCTION, "x")
    raw = [start(start_us=at("2026-01-05T09:00"), symbols=["A"]), ticks(THREE, OPEN + 3 * S)]
    raw += [ticks([late, (CLOSE + 6 * S, "A", 19.0, 7, AUCTION, "y")], CLOSE + 6 * S), mark(CLOSE + 2 * M)]
    before = last(run(raw))["1d", "A", DAY]
    assert (before["high"], before["close"], before["volume"]) == (20.0, 19.0, 114.0)
    raw.append(ticks([(*late[:4], CANCEL, "x")], CLOSE + 3 * M))
    after = last(run(raw))["1d", "A", DAY]
    assert (after["high"], after["close"], after["volume"], after["revision"]) == (19.0, 19.0, 14.0, 1)
    raw.append(ticks([(CLOSE + 6 * S, "A", 19.0, 7, CANCEL, "y")], CLOSE + 3 * M))
    day = last(run(raw))["1d", "A", DAY]
    assert (day["close"], day["volume"]) == (11.0, 7.0)


def test_a_cancel_may_arrive_before_its_auction_trade() -> None:
    early = (CLOSE + 5 * S, "A", 20.0, 100, AUCTION | CANCEL, "x")
    raw = [start(start_us=at("2026-01-05T09:00"), symbols=["A"]), ticks(THREE, OPEN + 3 * S), ticks([early], CLOSE)]
    raw += [ticks([(CLOSE + 9 * S, "A", 9.0, 7, AUCTION, "y")], CLOSE), ticks([(*early[:4], AUCTION, "x")], CLOSE)]
    day = last(run([*raw, mark(CLOSE + 2 * M)]))["1d", "A", DAY]
    assert (day["high"], day["low"], day["close"], day["volume"]) == (15.0, 9.0, 9.0, 14.0)


def test_later_ticks_of_a_cancelled_minute_do_not_read_the_log_again() -> None:
    raw = [start(start_us=OPEN, symbols=["A"])]
    raw += [ticks([(OPEN + i, "A", 10.0, 1, 0, str(i))], OPEN + i) for i in range(10)]
    raw.append(ticks([(OPEN + 3, "A", 10.0, 1, CANCEL, "3")], OPEN + 10))
    raw.append(ticks([(OPEN + 3, "A", 10.0, 1, CANCEL, "unknown")], OPEN + 10))
    raw += [ticks([(OPEN + i, "A", 10.0, 1, 0, str(i))], OPEN + i) for i in range(20, 60)]
    read = []
    stage = AggregationStage(1)
    for index, value in enumerate(raw):

        def history(begin: int, end: int, index: int = index) -> Iterator[ConsumedRecord]:
            for offset in range(begin, min(end, index)):
                read.append(offset)
                yield consumed(raw[offset], offset)

        stage.step(consumed(value, index), history)
    assert len(read) < 30
    bar = last(run([*raw, end()]))["1m", "A", OPEN]
    assert (bar["trades"], bar["volume"]) == (49, 49.0)


def test_corrections_of_evicted_bars_or_deleted_ticks_are_counted_and_change_nothing() -> None:
    raw = [start(start_us=OPEN, symbols=["A"]), ticks(THREE, OPEN + 3 * S), mark(OPEN + 2 * M)]
    stage = AggregationStage(1)
    run(raw, stage)
    steps = run([ticks(trades((2, "A", 15.0, 2, CANCEL, "2")), OPEN + 2 * M)], stage, first=50)
    statuses = [r.header for r in decoded(steps, schemas.STATUS) if isinstance(r.header, records.FeedState)]
    assert [(s.state, s.reason, s.count) for s in statuses] == [
        ("unsupported", "cancel or correction of a print that has not come", 1),
        ("unsupported", "the log no longer has the prints of a bar to correct", 1),
    ]
    assert bars(steps) == []
    later = at("2026-01-07T15:00")
    raw += [ticks([(later, "A", 9.0, 1)], later), ticks(trades((2, "A", 15.0, 2, CANCEL, "2")), later)]
    steps = run(raw)
    statuses = [r.header for r in decoded(steps[-1:], schemas.STATUS) if isinstance(r.header, records.FeedState)]
    assert [(s.state, s.reason, s.count) for s in statuses] == [("late", "older than memory", 1)]


def test_hundreds_of_cancels_in_one_record_leave_the_bars_of_the_other_trades() -> None:
    rows = [(OPEN + i * S, SYMBOLS[i % 3], 10.0 + i % 7, 1.0, 0, str(i)) for i in range(900)]
    raw = [start(start_us=OPEN, symbols=SYMBOLS)]
    raw += [ticks(rows[i : i + 10], rows[i][0]) for i in range(0, 900, 10)]
    raw.append(mark(OPEN + 20 * M))
    raw.append(ticks([(*row[:4], CANCEL, row[5]) for row in rows[::2]], OPEN + 20 * M))
    expected = [start(start_us=OPEN, symbols=SYMBOLS), ticks(rows[1::2], OPEN + 20 * M), end()]
    same_bars(last(run(expected)), last(run([*raw, end()])))


def test_both_parts_of_the_minute_of_a_drop_are_recomputed_together() -> None:
    raw = [
        start(start_us=OPEN - M, symbols=["A"], live=True),
        ticks(THREE[:2], OPEN + 2 * S),
        down(OPEN + 10 * S),
        start(start_us=OPEN + 20 * S, symbols=["A"], live=True, hole=True),
        ticks(trades((30, "A", 20.0, 8, 0, "4")), OPEN + 30 * S),
        ticks(trades((2, "A", 15.0, 2, CANCEL, "2")), OPEN + 31 * S),
        ticks(trades((40, "A", 12.0, 16, 0, "5")), OPEN + 40 * S),
        mark(OPEN + 2 * M),
    ]
    bar = last(run(raw))["1m", "A", OPEN]
    assert [bar[n] for n in ("open", "high", "low", "close", "volume", "trades", "complete")] == [
        10.0, 20.0, 10.0, 12.0, 25.0, 3, False,
    ]  # fmt: skip


one = st.tuples(
    st.integers(0, 12 * 60).map(lambda second: OPEN + second * S),
    st.sampled_from(SYMBOLS),
    st.integers(990, 1010).map(lambda cents: cents / 100),
    st.integers(0, 9).map(float),
    st.sampled_from([0, 0, 0, int(TickFlag.NO_OHLC), int(TickFlag.NO_VOLUME)]),
)


@given(
    st.lists(one, min_size=1, max_size=40).map(lambda rows: sorted(rows, key=lambda row: row[0])),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 60), st.sampled_from(["cancel", "price"])), max_size=12),
    st.lists(st.integers(0, 60), max_size=8),
    st.integers(0, 70),
)
@examples(120)
def test_bars_equal_those_of_a_log_without_cancelled_and_with_corrected_trades(
    rows: list[Any], undo: list[Any], cuts: list[int], where: int
) -> None:
    named = [(*row, str(number)) for number, row in enumerate(rows)]
    order: list[tuple[Any, ...]] = list(named)
    cancelled, corrected = set(), {}
    for which, later, what in undo:
        row = named[which % len(named)]
        index = min(len(order), order.index(row) + 1 + later)
        if what == "cancel":
            cancelled.add(row[5])
            order.insert(index, (*row[:4], CANCEL, row[5]))
        elif row[5] not in corrected:
            corrected[row[5]] = (row[2] + 0.05, row[3] + 1)
            order.insert(index, (*row[:2], *corrected[row[5]], CORRECTION, row[5]))
    edges = sorted({0, len(order), *(cut % (len(order) + 1) for cut in cuts)})
    raw, watermark = [start(start_us=OPEN, symbols=SYMBOLS)], OPEN
    for begin, stop in pairwise(edges):
        watermark = max(watermark, *(row[0] for row in order[begin:stop]))
        raw.append(ticks(order[begin:stop], watermark))
        raw.append(mark(watermark))
    raw.append(end())
    whole = AggregationStage(1)
    steps = run(raw, whole)
    left = [(*row[:2], *corrected.get(row[5], row[2:4]), row[4]) for row in named if row[5] not in cancelled]
    expected = run([start(start_us=OPEN, symbols=SYMBOLS), *([ticks(left, watermark)] if left else []), end()])
    same_bars(last(expected), last(steps))
    where %= len(raw)
    first = AggregationStage(1)
    run(raw[:where], first)
    second = AggregationStage(1, first.snapshot())
    assert [[bytes(o.value) for o in step] for step in continued(raw, second, where)] == [
        [bytes(o.value) for o in step] for step in steps[where:]
    ]
    assert second.snapshot() == whole.snapshot()
