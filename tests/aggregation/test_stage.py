"""The published records of aggregation equal values that were computed by hand."""

from __future__ import annotations

import pytest

from tests.aggregation.plant import (
    SENT,
    at,
    bars,
    consumed,
    decoded,
    end,
    last,
    mark,
    run,
    settings,
    start,
    ticks,
    vendor,
)  # fmt: skip
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import MINUTE_US, SECOND_US
from tickerplant.core.version import make_version

OPEN = at("2026-01-05T14:30")
DAY = at("2026-01-05")
M = MINUTE_US
S = SECOND_US


def test_a_window_closes_when_the_watermark_is_the_allowed_lateness_past_its_end() -> None:
    raw = [
        start(start_us=OPEN, symbols=["A"]),
        ticks([(OPEN + 1, "A", 10.0, 2), (OPEN + 2 * S, "A", 12.0, 1), (OPEN + 3 * S, "A", 9.0, 1)], OPEN + 4 * S),
        mark(OPEN + M + 2 * S - 1),
        mark(OPEN + M + 2 * S),
    ]
    steps = run(raw)
    assert {row["state"] for row in bars(steps[:3])} == {"forming"}
    (row,) = bars(steps[3:])
    assert (row["interval"], row["time"], row["state"], row["complete"]) == ("1m", OPEN, "final", True)
    assert [row[n] for n in ("open", "high", "low", "close", "volume", "trades")] == [10.0, 12.0, 9.0, 9.0, 4.0, 3]
    assert row["vwap"] == pytest.approx((20 + 12 + 9) / 4, rel=1e-12)
    assert (row["version"], row["revision"]) == (make_version(1, 3), 0)
    headers = [record.header for record in decoded(steps[3:])]
    assert [type(header) for header in headers] == [records.Bars, records.Mark]
    assert {header.cause for header in headers} == {make_version(1, 3)}
    assert {header.sent_at_us for header in headers} == {SENT}


def test_only_the_commit_of_ticks_may_wait() -> None:
    # A backfill waits until the positions of its records are committed, even if they have no outputs.
    stage = AggregationStage(1)
    minute = (OPEN, "A", "1m", 1.0, 2.0, 0.5, 1.5, 10.0)
    raw = [start(symbols=["A"]), ticks([(OPEN + 1, "A", 10.0, 2)], OPEN), mark(OPEN), vendor([minute], OPEN), b"broken"]
    waits = []
    for offset, value in enumerate(raw):
        stage.step(consumed(value, offset))
        waits.append(stage.commit_may_wait())
    assert waits == [False, True, False, False, False]


def test_ticks_without_ohlc_add_only_volume_and_ticks_without_volume_set_only_prices() -> None:
    odd, silent = int(TickFlag.NO_OHLC), int(TickFlag.NO_VOLUME)
    rows = [
        (OPEN, "A", 99.0, 5, odd),
        (OPEN + 1, "A", 10.0, 1),
        (OPEN + 2, "A", 11.0, 7, silent),
        (OPEN + 3, "B", 1.0, 4, odd),
    ]
    found = last(run([start(start_us=OPEN), ticks(rows, OPEN + S), end()]))
    a, b = found["1m", "A", OPEN], found["1m", "B", OPEN]
    assert [a[n] for n in ("open", "high", "low", "close", "volume", "trades")] == [10.0, 11.0, 10.0, 11.0, 6.0, 2]
    assert [b[n] for n in ("open", "high", "low", "close", "volume", "trades")] == [None] * 4 + [4.0, 1]


def test_forming_bars_are_published_at_marks_and_only_after_a_change() -> None:
    raw = [
        start(start_us=OPEN),
        ticks([(OPEN, "A", 10.0, 1), (OPEN, "B", 20.0, 1)], OPEN + S),
        mark(OPEN + S),
        ticks([(OPEN + 2 * S, "A", 11.0, 1)], OPEN + 2 * S),
        mark(OPEN + 2 * S),
        mark(OPEN + 3 * S),
    ]
    steps = run(raw)
    assert [len(bars([step])) for step in steps] == [0, 0, 6, 0, 3, 0]
    assert {(r["interval"], r["symbol"], r["open"], r["close"], r["volume"]) for r in bars(steps[4:5])} == {
        ("1m", "A", 10.0, 11.0, 2.0), ("5m", "A", 10.0, 11.0, 2.0), ("1d", "A", 10.0, 11.0, 2.0),
    }  # fmt: skip


def test_a_forming_daily_bar_includes_closed_and_forming_bars() -> None:
    raw = [start(start_us=OPEN)]
    for minute in range(12):
        time = OPEN + minute * M
        raw += [ticks([(time, "A", 10.0 + minute, 1)], time + 30 * S), mark(time + 30 * S)]
        (day,) = [row for row in bars(run(raw)[-1:]) if row["interval"] == "1d"]
        assert (day["open"], day["close"], day["volume"], day["trades"]) == (
            10.0,
            10.0 + minute,
            minute + 1,
            minute + 1,
        )


def test_the_day_closes_at_the_close_and_includes_the_auction() -> None:
    close = at("2026-01-05T21:00")
    auction = int(TickFlag.CLOSING_AUCTION)
    raw = [
        start(start_us=at("2026-01-05T09:00"), symbols=["A"]),
        ticks([(at("2026-01-05T13:00"), "A", 1.0, 1000)], at("2026-01-05T13:00")),  # before the open: no daily bar
        ticks([(OPEN, "A", 10.0, 1), (close - 1, "A", 11.0, 2)], close),
        ticks([(close + S, "A", 12.0, 50, auction), (close + S, "A", 5.0, 70)], close + S),
        mark(close + 2 * S),
    ]
    steps = run(raw)
    day = last(steps)["1d", "A", DAY]
    assert [day[n] for n in ("open", "high", "low", "close", "volume", "trades", "complete")] == [
        10.0, 12.0, 10.0, 12.0, 53.0, 3, True,
    ]  # fmt: skip
    assert not [row for row in bars(steps[:4], "final") if row["interval"] == "1d"]
    after = run([*raw, ticks([(close + 3 * S, "A", 13.0, 7, auction)], close + 4 * S)])
    revised = last(after)["1d", "A", DAY]
    assert (revised["close"], revised["volume"], revised["revision"]) == (13.0, 60.0, 1)


def test_a_late_tick_revises_the_1m_5m_and_daily_bar() -> None:
    close = at("2026-01-05T21:00")
    raw = [
        start(start_us=OPEN, symbols=["A"]),
        ticks([(OPEN + S, "A", 10.0, 1), (OPEN + 6 * M, "A", 11.0, 1)], close + M),
        ticks([(OPEN + 2 * S, "A", 30.0, 4)], close + M),
    ]
    steps = run(raw)
    revised = {row["interval"]: row for row in bars(steps[2:])}
    assert {k: (r["high"], r["volume"], r["revision"], r["reason"]) for k, r in revised.items()} == {
        "1m": (30.0, 5.0, 1, "late"), "5m": (30.0, 5.0, 1, "late"), "1d": (30.0, 6.0, 1, "late"),
    }  # fmt: skip
    assert revised["1d"]["close"] == 11.0


def test_ticks_of_evicted_bars_are_counted() -> None:
    later = at("2026-01-06T16:00")
    raw = [
        start(start_us=OPEN, symbols=["A"]),
        ticks([(OPEN, "A", 10.0, 1)], OPEN + M),
        ticks([(later, "A", 11.0, 1)], later),
        ticks([(OPEN + 1, "A", 10.0, 1), (OPEN + 2, "A", 10.0, 1)], later),
    ]
    steps = run(raw)
    assert not bars(steps[3:])
    (late,) = [r.header for r in decoded(steps[3:], schemas.STATUS)]
    assert isinstance(late, records.FeedState)
    assert (late.state, late.count) == ("late", 2)


def test_two_feeds_give_one_bar_and_the_better_source_revises_it() -> None:
    raw = [settings(sources=["good", "*"])]
    raw += [start(feed, OPEN, ["A"]) for feed in ("x", "y")]
    raw += [ticks([(OPEN, "A", 10.0, 1)], OPEN + 2 * M, "x", source="poor")]
    raw += [ticks([(OPEN, "A", 10.5, 3)], OPEN + 2 * M, "y", source="good")]
    raw += [end("x"), end("y")]
    steps = run(raw)
    ones = [
        (r["source"], r["close"], r["volume"], r["revision"], r["reason"]) for r in bars(steps) if r["interval"] == "1m"
    ]
    assert ones == [("poor", 10.0, 1.0, 0, "ticks"), ("good", 10.5, 3.0, 1, "source")]
    assert last(steps)["5m", "A", OPEN]["volume"] == 3.0


def test_a_complete_vendor_bar_wins_over_an_incomplete_one_from_ticks() -> None:
    raw = [
        settings(sources=["s", "vendor"]),
        start(start_us=OPEN + 1, symbols=["A"]),
        ticks([(OPEN + S, "A", 10.0, 1), (OPEN + M, "A", 11.0, 1)], OPEN + 3 * M),
        start("v", OPEN, ["A"]),
        vendor(
            [(OPEN, "A", "1m", 9.0, 12.0, 8.0, 10.0, 5.0, 10.0, 2), (OPEN + M, "A", "1m", 1, 1, 1, 1, 1)], OPEN + 2 * M
        ),
        end(),
    ]
    steps = run(raw)
    (revised,) = [r for r in bars(steps[4:5], "final") if r["interval"] == "1m"]
    assert (revised["time"], revised["close"], revised["reason"], revised["revision"]) == (OPEN, 10.0, "source", 1)
    five = last(steps)["5m", "A", OPEN]
    assert (five["open"], five["close"], five["volume"], five["trades"]) == (9.0, 11.0, 6.0, 3)


def test_vendor_minutes_are_rolled_up_unless_a_vendor_supplied_the_5m_bar() -> None:
    raw = [start("v", OPEN, ["A"], whole=True)]
    raw += [vendor([(OPEN + 5 * M, "A", "5m", 1.0, 1.0, 1.0, 1.0, 99.0)], OPEN, reason="file")]
    raw += [vendor([(OPEN + i * M, "A", "1m", 2.0, 2.0, 2.0, 2.0, 1.0) for i in range(10)], OPEN + 10 * M)]
    raw += [end("v")]
    steps = run(raw)
    found = last(steps)
    assert (found["5m", "A", OPEN]["volume"], found["5m", "A", OPEN + 5 * M]["volume"]) == (5.0, 99.0)
    assert found["1d", "A", DAY]["volume"] == 104.0
    assert found["5m", "A", OPEN + 5 * M]["reason"] == "file"
    assert found["5m", "A", OPEN]["trades"] is None


def test_a_backfill_beside_a_live_feed_is_published_as_history_with_its_roll_ups() -> None:
    old = at("2025-06-02T13:30")
    raw = [start(start_us=OPEN, symbols=["A"], live=True), ticks([(OPEN, "A", 10.0, 1)], OPEN + 3 * M)]
    raw += [start("b", old, ["A"], whole=True)]
    raw += [vendor([(old + i * M, "A", "1m", 2.0, 2.0, 2.0, 2.0, 1.0) for i in range(5)], old + 5 * M, "b"), end("b")]
    raw += [ticks([(OPEN + 4 * M, "A", 11.0, 1)], OPEN + 8 * M)]
    found = last(run(raw))
    history = {key for key, row in found.items() if row["history"]}
    assert history == {*(("1m", "A", old + i * M) for i in range(5)), ("5m", "A", old), ("1d", "A", at("2025-06-02"))}
    assert found["5m", "A", OPEN]["close"] == 11.0


def test_bars_are_evicted_by_the_time_of_their_own_feed() -> None:
    stage = AggregationStage(1)
    raw = [start("live", OPEN, ["A"]), ticks([(OPEN, "A", 10.0, 1)], OPEN + 3 * M, "live")]
    first = at("2012-06-18T13:30")
    raw += [start("old", first, ["A"])]
    raw += [
        ticks([(day + i * M, "A", 1.0, 1) for i in range(390)], day + 391 * M, "old")
        for day in (first + n * 24 * 60 * M for n in range(4))
    ]
    run(raw, stage)
    starts = sorted(stage._engine.state.candidates[0].blocks)
    assert starts[0] >= at("2012-06-21")
    assert len(starts) == 390 + 1
    steps = run([ticks([(OPEN + 1, "A", 12.0, 1)], OPEN + 3 * M, "live")], stage, first=100)
    assert last(steps)["1m", "A", OPEN]["revision"] == 1


def test_an_unreadable_record_becomes_a_dead_letter_and_the_stage_continues() -> None:
    stage = AggregationStage(1)
    steps = run(
        [start(start_us=OPEN), b"garbage", ticks([(OPEN, "A", 1.0, 1)], OPEN), settings(lateness_us="x"), end()], stage
    )
    dead = decoded(steps, schemas.DEADLETTER)
    assert dead[0].batch.to_pylist()[0]["offset"] == 1
    assert dead[0].batch.to_pylist()[0]["payload"] == b"garbage"
    assert "lateness_us" in dead[1].batch.column("reason")[0].as_py()
    assert last(steps)["1m", "A", OPEN]["close"] == 1.0
    bars_in_raw = records.encode(records.Bars(sent_at_us=SENT))
    assert [out.topic for out in stage.step(consumed(bars_in_raw, 9))] == [schemas.DEADLETTER]


def test_unmatched_cancels_and_prices_that_are_nan_are_counted() -> None:
    rows = [(OPEN, "A", 1.0, 1), (OPEN, "A", 1.0, 1, int(TickFlag.CANCEL)), (OPEN, "A", float("nan"), 1)]
    steps = run([start(start_us=OPEN), ticks(rows, OPEN + S), end()])
    statuses = [r.header for r in decoded(steps, schemas.STATUS)]
    counts = {s.reason: s.count for s in statuses if isinstance(s, records.FeedState) and s.state == "unsupported"}
    assert counts == {"cancel or correction of a print that has not come": 1, "price or size is no number": 1}
    assert last(steps)["1m", "A", OPEN]["trades"] == 1


def test_a_day_of_a_24_7_market_closes_at_midnight() -> None:
    night = at("2026-01-03T23:59")
    raw = [
        start(start_us=at("2026-01-03"), symbols=["BTC-USD"]),
        ticks([(night, "BTC-USD", 5.0, 1)], night + M + 2 * S),
    ]
    day = last(run(raw))["1d", "BTC-USD", at("2026-01-03")]
    assert (day["close"], day["complete"]) == (5.0, True)


def test_the_daily_bar_includes_extended_hours_only_if_the_rule_is_set() -> None:
    early = at("2026-01-05T13:00")
    rows = [(early, "A", 5.0, 7), (OPEN, "A", 10.0, 1)]
    raw = [start(start_us=early, symbols=["A"]), ticks(rows, OPEN), end()]
    assert last(run(raw))["1d", "A", DAY]["volume"] == 1.0
    day = last(run([settings(extended_hours=True), *raw]))["1d", "A", DAY]
    assert (day["open"], day["volume"]) == (5.0, 8.0)
