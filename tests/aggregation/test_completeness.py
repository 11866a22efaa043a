"""The `complete` flag of bars, and status records about intervals that are over and feeds that are down."""

from __future__ import annotations

from tests.aggregation.plant import (
    SENT,
    at,
    bars,
    decoded,
    down,
    last,
    mark,
    run,
    settings,
    start,
    ticks,
)  # fmt: skip
from tickerplant.core import records, schemas
from tickerplant.core.times import MINUTE_US, SECOND_US

OPEN = at("2026-01-05T14:30")
DAY = at("2026-01-05")
M = MINUTE_US
S = SECOND_US


def test_bars_are_incomplete_from_the_drop_to_the_minute_of_the_reconnect() -> None:
    raw = [start(start_us=OPEN, symbols=["A"], live=True)]
    raw += [ticks([(OPEN + i * M + S, "A", 10.0 + i, 1) for i in range(3)], OPEN + 2 * M + 30 * S)]
    raw += [down(OPEN + M + 30 * S), start(start_us=OPEN + 3 * M + S, symbols=["A"], live=True, hole=True)]
    raw += [ticks([(OPEN + i * M + 2 * S, "A", 20.0, 1) for i in range(3, 12)], OPEN + 12 * M)]
    found = last(run(raw))
    assert [found["1m", "A", OPEN + i * M]["complete"] for i in range(11)] == [True, *[False] * 3, *[True] * 7]
    assert [found["5m", "A", OPEN + i * 5 * M]["complete"] for i in range(2)] == [False, True]


def test_a_silent_live_feed_is_down_since_its_watermark() -> None:
    raw = [
        start("a", OPEN, ["A"], live=True, sent_at_us=SENT),
        ticks([(OPEN + S, "A", 1.0, 1)], OPEN + 10 * S, "a", sent=SENT),
        mark(OPEN, "b", sent=SENT + schemas.STALE_FEED_US),
        mark(OPEN, "b", sent=SENT + schemas.STALE_FEED_US + 2 * S),
    ]
    steps = run(raw)
    assert not bars(steps[:3], "final")
    row = last(steps)["1m", "A", OPEN]
    assert (row["close"], row["complete"]) == (1.0, False)
    statuses = [r.header for r in decoded(steps[3:], schemas.STATUS)]
    assert [(s.feed, s.state, s.since_us) for s in statuses if isinstance(s, records.FeedState)] == [
        ("a", "down", OPEN + 10 * S)
    ]


def test_a_live_feed_declares_each_minute_over_with_its_silent_symbols() -> None:
    raw = [start(start_us=OPEN, symbols=["A", "B"], live=True), ticks([(OPEN, "A", 1.0, 1)], OPEN + 2 * M + 2 * S)]
    over = [r for r in decoded(run(raw), schemas.STATUS) if isinstance(r.header, records.Over)]
    assert [(r.header.interval, r.header.start_us, r.header.expected, r.header.emitted) for r in over] == [
        ("1m", OPEN, 2, 1), ("1m", OPEN + M, 2, 0),
    ]  # fmt: skip
    assert over[0].batch.to_pylist() == [{"symbol": "A", "emitted": True}, {"symbol": "B", "emitted": False}]


def test_symbols_of_open_exchanges_are_expected_in_each_interval() -> None:
    rules = settings(calendars={"L": "XLON", "C": "24/7", "*": "XNYS"})
    close = at("2026-01-05T21:00")  # New York's close. London's extended hours ended at 20:00.
    raw = [rules, start(start_us=close - 6 * M, symbols=["A", "C", "L"], live=True)]
    raw += [ticks([(close - 3 * M, "A", 1.0, 1)], close + 2 * S), mark(close + 2 * S)]
    over = [r for r in decoded(run(raw), schemas.STATUS) if isinstance(r.header, records.Over)]
    statuses = {
        (r.header.interval, (r.header.start_us - close) // M): [
            (row["symbol"], row["emitted"]) for row in r.batch.to_pylist()
        ]
        for r in over
    }
    silent = [("A", False), ("C", False)]
    assert {key: value for key, value in statuses.items() if key[0] == "1m"} == {
        ("1m", -minute): [("A", True), ("C", False)] if minute == 3 else silent for minute in range(1, 7)
    }
    assert statuses["5m", -5] == [("A", True), ("C", False)]
    assert statuses["1d", (DAY - close) // M] == [("A", True)]


def test_a_feed_that_resumes_without_a_gap_was_up_throughout() -> None:
    raw = [
        start(start_us=OPEN, symbols=["A"]),
        ticks([(OPEN + S, "A", 10.0, 1)], OPEN + 30 * S),
        down(OPEN + 30 * S),
        start(start_us=OPEN + 30 * S, symbols=["A"]),
        ticks([(OPEN + 40 * S, "A", 11.0, 1)], OPEN + 2 * M),
    ]
    steps = run(raw)
    assert not last(steps[:3])["1m", "A", OPEN]["complete"]
    row = last(steps)["1m", "A", OPEN]
    assert (row["open"], row["close"], row["volume"], row["complete"]) == (10.0, 11.0, 2.0, True)
