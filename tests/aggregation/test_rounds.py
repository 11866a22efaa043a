"""A feed that comes in rounds, as a backfill does: each claims its own stretch, and coarser bars say what is true."""

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
    """A stream that is up from the open on, and down in minutes 2 to 4."""
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


def test_a_part_of_an_old_day_makes_no_coarser_bar_and_leaves_the_vendors_own_alone() -> None:
    raw = [*live(), *old_round(bar(OLD_DAY, "1d", 5.0, 999.0)), *nothing()]
    raw += old_round(*minutes(OLD, 0, 1, 7))
    raw += [*nothing(), *old_round(*minutes(OLD, 3)), *nothing()]
    published = [row for row in bars(run(raw), "final") if row["history"]]
    assert [(row["interval"], row["volume"]) for row in published if row["interval"] != "1m"] == [("1d", 999.0)]
    assert [row["time"] for row in published if row["interval"] == "1m"] == [OLD + n * MINUTE_US for n in (0, 1, 7, 3)]
    assert all(row["complete"] for row in published), "a vendor's bar is as complete as the vendor says"


def test_nor_does_a_part_of_the_newest_day_where_no_stream_has_been() -> None:
    other = at("2026-01-02")
    raw = [*old_round(bar(OLD_DAY, "1d", 5.0, 999.0), bar(other, "1d", 5.0, 999.0)), *nothing()]
    raw += [*old_round(*minutes(OLD, 0)), *nothing()]  # memory goes elsewhere
    raw += [*old_round(*minutes(at("2026-01-02T14:30"), 0, 1, 7)), *nothing()]
    found = last(run(raw))
    assert (found["1d", "A", other]["volume"], found["1d", "A", other]["complete"]) == (999.0, True)
    assert not any(interval == "5m" for interval, _, _ in found)


def test_a_round_that_claims_nothing_says_of_no_day_that_it_was_silent() -> None:
    raw = [*live(), *old_round(bar(OLD, "5m")), *nothing()]
    said = [record.header for record in decoded(run(raw), schemas.STATUS)]
    days = [header for header in said if isinstance(header, records.Over) and header.interval == "1d"]
    assert days
    assert not any(header.whole for header in days)


def test_a_round_that_fills_a_hole_makes_the_five_minutes_whole() -> None:
    raw = [*nothing(), *live()]
    before = last(run(raw))
    assert not before["5m", "A", OPEN]["complete"]
    raw += present_round(OPEN + 2 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 2, 3))
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"], five["revision"]) == (True, 5.0, 1)


def test_a_round_that_fills_a_part_of_a_hole_does_not() -> None:
    raw = [*nothing(), *live(), *present_round(OPEN + 2 * MINUTE_US, OPEN + 3 * MINUTE_US, *minutes(OPEN, 2))]
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"]) == (False, 4.0)
    # The rest comes in a round of its own: what both claim touches.
    raw += present_round(OPEN + 3 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 3))
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"]) == (True, 5.0)


def test_rounds_may_go_back_in_time_and_leave_what_was_claimed_before() -> None:
    raw = [*live(), *present_round(OPEN + 2 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 2, 3))]
    raw += [*old_round(*minutes(OLD, 0)), *nothing()]
    # A late print revises a minute of the healed five: it is rolled up again, and is whole still.
    raw += [ticks([(OPEN + 30_000_000, "A", 12.0, 1)], OPEN + 8 * MINUTE_US, "live")]
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["high"], five["volume"]) == (True, 12.0, 6.0)


def test_a_round_that_was_killed_claims_nothing_of_what_it_did_not_bring() -> None:
    raw = [*live(), start("b", FOREVER_US, ["A"], hole=True), vendor(minutes(OPEN, 2), OLD, "b")]
    raw += [end("b", whole=False), *nothing()]  # as the next process says, first of all
    five = last(run(raw))["5m", "A", OPEN]
    assert (five["complete"], five["volume"]) == (False, 4.0)


def test_memory_does_not_grow_with_rounds() -> None:
    stage = AggregationStage(1)
    raw, blocks = live(), []
    run(raw, stage)
    for day in (1, 2, 3, 4, 5, 8, 9, 10, 11):
        part = [*old_round(*minutes(at(f"2025-12-{day:02d}T14:30"), *range(30))), *nothing()]
        raw += part
        continued(raw, stage, len(raw) - len(part))
        blocks.append(sum(len(each.blocks) for each in stage._engine.state.candidates))
    assert max(blocks) == blocks[0], "what earlier rounds brought is forgotten"
    assert len(stage._engine.state.feeds) == 2


def test_rounds_go_on_after_a_snapshot_as_if_nothing_had_happened() -> None:
    raw = [*live(), *present_round(OPEN + 2 * MINUTE_US, OPEN + 3 * MINUTE_US, *minutes(OPEN, 2)), *nothing()]
    rest = [*old_round(*minutes(OLD, 0)), *present_round(OPEN + 3 * MINUTE_US, OPEN + 5 * MINUTE_US, *minutes(OPEN, 3))]
    stage = AggregationStage(1)
    run(raw, stage)
    again = AggregationStage(1, stage.snapshot())
    one, other = (continued([*raw, *rest], each, len(raw)) for each in (stage, again))
    assert [[out.value for out in step] for step in one] == [[out.value for out in step] for step in other]
    assert last(one)["5m", "A", OPEN]["complete"]
