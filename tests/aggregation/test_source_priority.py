"""Two feeds of one symbol give one bar per minute by source priority, after a bounded wait."""

from __future__ import annotations

from typing import Any

from tests.aggregation.plant import at, bars, continued, decoded, down, end, last, mark, run, settings, start, vendor
from tests.aggregation.plant import ticks as tick_record
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.streams import Output
from tickerplant.core.times import MINUTE_US, SECOND_US

OPEN = at("2026-01-05T14:30")
M, S = MINUTE_US, SECOND_US


def ticks(second: float, price: float, feed: str, watermark: float | None = None, symbol: str = "A") -> bytes:
    """Return a record with one tick. Times are seconds after the open; the default watermark is the tick's time.

    The name of the source is the name of the feed.
    """
    mark_us = OPEN + int((second if watermark is None else watermark) * S)
    return tick_record([(OPEN + int(second * S), symbol, price, 1.0)], mark_us, feed, source=feed, sent=mark_us)


def marked(second: float, feed: str, sent: float | None = None) -> bytes:
    at_us = OPEN + int(second * S)
    return mark(at_us, feed, sent=OPEN + int((second if sent is None else sent) * S))


def minutes(steps: list[list[Output]], state: str = "final") -> list[tuple[int, float, str, str, int]]:
    """Return (minutes after `OPEN`, close, source, reason, revision) of each published 1m bar of `state`, in order."""
    return [
        ((row["time"] - OPEN) // M, row["close"], row["source"], row["reason"], row["revision"])
        for row in bars(steps, state)
        if row["interval"] == "1m"
    ]


def two(**rules: Any) -> list[bytes]:
    """Return a log of two live feeds with one tick each. The source of `good` has a better rank than that of `poor`."""
    both = [start(feed, OPEN - M, ["A"], live=True, sent_at_us=OPEN - M) for feed in ("good", "poor")]
    return [
        settings(sources=["good", "*"], **rules), *both, ticks(1, 10.0, "good"), ticks(1, 20.0, "poor"),
    ]  # fmt: skip


def test_a_worse_source_waits_for_a_better_one_and_one_bar_is_published() -> None:
    raw = [*two(), ticks(62, 21.0, "poor"), ticks(62.5, 11.0, "good")]
    steps = run(raw)
    assert minutes(steps) == [(0, 10.0, "good", "ticks", 0)]
    assert minutes(steps[:-1]) == []


def test_the_wait_ends_after_the_set_log_time_and_the_better_bar_becomes_a_revision() -> None:
    raw = [*two(source_wait_us=2 * S), ticks(62, 21.0, "poor"), marked(63.9, "poor")]
    assert minutes(run(raw)) == []
    raw.append(marked(64.1, "poor"))
    assert minutes(run(raw)) == [(0, 20.0, "poor", "ticks", 0)]
    raw.append(marked(70, "good"))
    assert minutes(run(raw)) == [(0, 20.0, "poor", "ticks", 0), (0, 10.0, "good", "source", 1)]


def test_the_wait_ends_when_the_better_feed_is_past_the_minute_or_down_or_ended() -> None:
    raw = [settings(sources=["good", "*"])]
    raw += [start(feed, OPEN - M, ["A", "B"], live=True, sent_at_us=OPEN - M) for feed in ("good", "poor")]
    raw += [ticks(1, 10.0, "good", symbol="B"), ticks(1, 20.0, "poor"), ticks(62, 21.0, "poor")]
    assert minutes(run(raw)) == []
    silent = minutes(run([*raw, marked(62, "good")]))
    assert (0, 20.0, "poor", "ticks", 0) in silent
    down_feed = minutes(run([*raw, down(OPEN + 5 * S, "good", sent=OPEN + 62 * S)]))
    assert (0, 20.0, "poor", "ticks", 0) in down_feed
    assert (0, 20.0, "poor", "ticks", 0) in minutes(run([*raw, end("good")]))


def test_feeds_of_equal_rank_do_not_wait_and_by_default_all_ranks_are_equal() -> None:
    raw = two()
    raw[0] = settings()
    assert minutes(run([*raw, ticks(62, 21.0, "poor")])) == [(0, 20.0, "poor", "ticks", 0)]


def test_a_coarser_bar_waits_for_a_pending_minute() -> None:
    raw = [*two(), marked(299, "good"), ticks(299, 29.0, "poor"), ticks(302, 30.0, "poor")]
    steps = run(raw)
    assert [row for row in bars(steps, "final") if row["interval"] == "5m"] == []
    steps = run([*raw, marked(302, "good", sent=302.5)])
    (five,) = [row for row in bars(steps, "final") if row["interval"] == "5m"]
    assert (five["open"], five["close"], five["revision"], five["volume"]) == (10.0, 29.0, 0, 2.0)


def test_a_complete_bar_of_a_worse_source_wins_over_an_incomplete_one() -> None:
    raw = [*two(), down(OPEN + 20 * S, "good", sent=OPEN + 21 * S)]
    raw += [start("good", OPEN + 40 * S, ["A"], live=True, hole=True, sent_at_us=OPEN + 40 * S)]
    raw += [ticks(50, 12.0, "good"), ticks(62, 21.0, "poor"), marked(63, "good")]
    bar = last(run(raw))["1m", "A", OPEN]
    assert (bar["source"], bar["close"], bar["complete"]) == ("poor", 20.0, True)


def test_forming_bars_are_those_of_one_feed() -> None:
    raw = [*two(), ticks(2, 21.0, "poor"), marked(3, "poor"), marked(3, "good")]
    assert [(close, source) for _, close, source, _, _ in minutes(run(raw), "forming")] == [(10.0, "good")]
    raw += [down(OPEN + 4 * S, "good", sent=OPEN + 4 * S), ticks(65, 22.0, "poor"), marked(66, "poor")]
    assert "poor" in {source for _, _, source, _, _ in minutes(run(raw)[-1:], "forming")}
    equal = [settings(), *raw[1:7], ticks(3, 23.0, "poor"), marked(4, "poor")]
    assert minutes(run(equal), "forming") == []


def test_the_source_order_ranks_a_vendor_bar_before_or_after_a_bar_of_ticks() -> None:
    bar = vendor([(OPEN, "A", "1m", 9.0, 12.0, 8.0, 11.0, 500.0)], OPEN + M, feed="v", source="x", reason="official")
    raw = [start("x", OPEN - M, ["A"], live=True), ticks(1, 10.0, "x"), marked(62, "x"), bar]
    assert minutes(run([settings(sources=["*:bars", "*"]), *raw])) == [
        (0, 10.0, "x", "ticks", 0), (0, 11.0, "x", "source", 1),
    ]  # fmt: skip
    assert minutes(run([settings(sources=["*:ticks", "*"]), *raw])) == [(0, 10.0, "x", "ticks", 0)]
    only = settings(sources=["*:bars@B", "*:ticks", "*"])
    assert minutes(run([only, *raw])) == [(0, 10.0, "x", "ticks", 0)]


def test_differences_between_two_sources_are_reported() -> None:
    bar = vendor([(OPEN, "A", "1m", 10.0, 10.0, 10.0, 10.5, 1.0)], OPEN + M, feed="v", source="x")
    raw = [start("good", OPEN - M, ["A"], live=True), ticks(1, 10.0, "good"), marked(62, "good"), bar]
    differences = [r for r in decoded(run(raw), schemas.STATUS) if isinstance(r.header, records.Differences)]
    (row,) = [row for record in differences for row in record.batch.to_pylist()]
    assert (row["symbol"], row["interval"], row["source"], row["other_source"]) == ("A", "1m", "good", "x")
    assert (row["close"], row["other_close"], row["volume"], row["other_volume"]) == (10.0, 10.5, 1.0, 1.0)
    same = vendor([(OPEN, "A", "1m", 10.0, 10.0, 10.0, 10.0, 1.0)], OPEN + M, feed="v", source="x")
    differences = [
        r for r in decoded(run([*raw[:3], same]), schemas.STATUS) if isinstance(r.header, records.Differences)
    ]
    assert differences == []


def test_a_restore_with_a_pending_minute_changes_no_byte() -> None:
    raw = [
        *two(),
        ticks(62, 21.0, "poor"),
        ticks(63, 22.0, "poor"),
        marked(70, "good"),
        marked(130, "poor"),
        end("poor"),
    ]
    expected = run(raw)
    for where in range(len(raw)):
        first = AggregationStage(1)
        run(raw[:where], first)
        after = continued(raw, AggregationStage(1, first.snapshot()), where)
        assert [[bytes(o.value) for o in step] for step in after] == [
            [bytes(o.value) for o in step] for step in expected[where:]
        ]


def test_roll_ups_of_two_feeds_that_waited_for_a_third_feed_are_published() -> None:
    raw = [settings(sources=["good", "*"], source_wait_us=2 * S)]
    raw += [start(f, OPEN - M, ["A", "B"], live=True, sent_at_us=OPEN - M) for f in ("good", "b", "c")]
    raw += [ticks(1, 10.0, "good", symbol="B"), ticks(299, 20.0, "b"), ticks(299, 30.0, "c", symbol="B")]
    raw += [marked(302, "b"), marked(302, "c"), marked(310, "b", sent=310), marked(310, "c", sent=310)]
    assert {(r["symbol"], r["close"]) for r in bars(run(raw), "final") if r["interval"] == "5m"} >= {("A", 20.0)}
    raw.append(marked(320, "good", sent=320))
    fives = {(r["symbol"], r["close"]) for r in bars(run(raw), "final") if r["interval"] == "5m"}
    assert fives >= {("A", 20.0), ("B", 30.0)}


def test_a_successor_feed_closes_the_bars_of_its_predecessor_when_it_ends() -> None:
    bar = vendor([(OPEN, "B", "1m", 9.0, 12.0, 8.0, 11.0, 500.0)], OPEN + M, feed="back")
    raw = [start("live", OPEN - M, ["A", "B"], live=True), marked(30, "live")]
    raw += [start("back", OPEN - M, ["B"], whole=True), bar, end("back"), ticks(40, 1.0, "live"), end("live")]
    assert {key[0] for key in last(run(raw)) if key[1] == "B"} == {"1m", "5m", "1d"}
