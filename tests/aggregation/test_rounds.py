"""Rounds of a backfill feed: each round covers its own range, and roll-ups have the right `complete` flag."""

from __future__ import annotations

from typing import Any

from tests.aggregation.plant import at, bars, continued, decoded, down, end, last, run, start, ticks, vendor
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.times import FOREVER_US, MINUTE_US

OPEN, DAY = at("2026-01-05T14:30"), at("2026-01-05")
OLD, OLD_DAY = at("2025-12-15T14:30"), at("2025-12-15")


def bar(time: int, interval: str = "1m", price: float = 2.0, volume: float = 1.0) -> tuple[Any, ...]:
    return (time, "A", interval, price, price, price, price, volume)


def minutes(begin: int, *offsets: int) -> list[tuple[Any, ...]]:
    return [bar(begin + offset * MINUTE_US) for offset in offsets]


def live() -> list[bytes]:
    """Return the records of a live feed that has been up since the open, except in minutes 2 and 3."""
    return [
        start("live", OPEN, ["A"], live=True),
        ticks([(OPEN + n * MINUTE_US, "A", 10.0, 1) for n in (0, 1)], OPEN + 2 * MINUTE_US, "live"),
        down(OPEN + 2 * MINUTE_US, "live"),
        start("live", OPEN + 4 * MINUTE_US, ["A"], hole=True, live=True),
        ticks([(OPEN + 4 * MINUTE_US, "A", 11.0, 1)], OPEN + 7 * MINUTE_US, "live"),
    ]


def old_round(*rows: tuple[Any, ...]) -> list[bytes]:
    return [start("b", FOREVER_US, ["A"], hole=True), vendor(rows, OLD, "b", reason="backfill"), end("b", whole=False)]


def present_round(begin: int, until: int, *rows: tuple[Any, ...]) -> list[bytes]:
    return [start("b", begin, ["A"], hole=True), vendor(rows, until, "b", reason="backfill"), end("b", whole=False)]


def nothing() -> list[bytes]:
    return [start("b", FOREVER_US, [], hole=True), end("b", whole=False)]


def test_single_minutes_of_an_old_day_are_not_rolled_up_and_the_vendors_daily_bar_remains() -> None:
    raw = [*live(), *old_round(bar(OLD_DAY, "1d", 5.0, 999.0)), *nothing()]
    raw += old_round(*minutes(OLD, 0, 1, 7))
    raw += [*nothing(), *old_round(*minutes(OLD, 3)), *nothing()]
    published = [row for row in bars(run(raw), "final") if row["history"]]
    assert [(row["interval"], row["volume"]) for row in published if row["interval"] != "1m"] == [("1d", 999.0)]
    assert [row["time"] for row in published if row["interval"] == "1m"] == [OLD + n * MINUTE_US for n in (0, 1, 7, 3)]
    assert all(row["complete"] for row in published), "the vendor set `complete` for these bars"


def test_single_minutes_of_the_newest_day_are_not_rolled_up_without_a_live_feed() -> None:
    other = at("2026-01-02")
    raw = [*old_round(bar(OLD_DAY, "1d", 5.0, 999.0), bar(other, "1d", 5.0, 999.0)), *nothing()]
    raw += [*old_round(*minutes(OLD, 0)), *nothing()]  # the retained range is now around OLD
    raw += [*old_round(*minutes(at("2026-01-02T14:30"), 0, 1, 7)), *nothing()]
    found = last(run(raw))
    assert (found["1d", "A", other]["volume"], found["1d", "A", other]["complete"]) == (999.0, True)
    assert not any(interval == "5m" for interval, _, _ in found)


def test_a_round_without_coverage_declares_no_day_as_covered() -> None:
    raw = [*live(), *old_round(bar(OLD, "5m")), *nothing()]
    statuses = [record.header for record in decoded(run(raw), schemas.STATUS)]
    days = [header for header in statuses if isinstance(header, records.Over) and header.interval == "1d"]
    assert days
    assert not any(header.whole for header in days)


def test_a_round_that_fills_a_gap_completes_the_5m_bar() -> None:
    raw = [*nothing(), *live()]
    before = last(run(raw))
    assert not before["5m", "A", OPEN]["complete"]
    raw += present_round(OPEN + 2 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 2, 3))
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"], five["revision"]) == (True, 5.0, 1)


def test_a_round_that_fills_a_part_of_a_gap_does_not_complete_the_5m_bar() -> None:
    raw = [*nothing(), *live(), *present_round(OPEN + 2 * MINUTE_US, OPEN + 3 * MINUTE_US, *minutes(OPEN, 2))]
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"]) == (False, 4.0)
    # The next round has the other minute. The ranges of the two rounds are adjacent.
    raw += present_round(OPEN + 3 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 3))
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"]) == (True, 5.0)


def test_a_round_of_older_bars_does_not_remove_the_coverage_of_earlier_rounds() -> None:
    raw = [*live(), *present_round(OPEN + 2 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 2, 3))]
    raw += [*old_round(*minutes(OLD, 0)), *nothing()]
    # A late tick revises a minute. The new roll-up of the 5m bar is still complete.
    raw += [ticks([(OPEN + 30_000_000, "A", 12.0, 1)], OPEN + 8 * MINUTE_US, "live")]
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["high"], five["volume"]) == (True, 12.0, 6.0)


def test_a_killed_round_covers_only_its_delivered_bars() -> None:
    raw = [*live(), start("b", FOREVER_US, ["A"], hole=True), vendor(minutes(OPEN, 2), OLD, "b")]
    raw += [end("b", whole=False), *nothing()]  # appended by the next process
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"]) == (False, 4.0)


def test_the_number_of_retained_bars_does_not_grow_with_rounds() -> None:
    stage = AggregationStage(1)
    raw, blocks = live(), []
    run(raw, stage)
    for day in (1, 2, 3, 4, 5, 8, 9, 10, 11):
        part = [*old_round(*minutes(at(f"2025-12-{day:02d}T14:30"), *range(30))), *nothing()]
        raw += part
        continued(raw, stage, len(raw) - len(part))
        blocks.append(sum(len(each.blocks) for each in stage._engine.state.candidates))
    assert max(blocks) == blocks[0], "bars of earlier rounds are still retained"
    assert len(stage._engine.state.feeds) == 2


def test_a_restore_between_rounds_changes_no_byte() -> None:
    raw = [*live(), *present_round(OPEN + 2 * MINUTE_US, OPEN + 3 * MINUTE_US, *minutes(OPEN, 2)), *nothing()]
    rest = [*old_round(*minutes(OLD, 0)), *present_round(OPEN + 3 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 3))]
    stage = AggregationStage(1)
    run(raw, stage)
    again = AggregationStage(1, stage.snapshot())
    one, other = (continued([*raw, *rest], each, len(raw)) for each in (stage, again))
    assert [[out.value for out in step] for step in one] == [[out.value for out in step] for step in other]
    assert last(one)["5m", "A", OPEN]["complete"]
