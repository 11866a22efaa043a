"""A minute that two files cut is published incomplete. A file alone claims its first and last minute."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aggregation.plant import at, bars, continued, down, end, last, mark, rebuild, run, start, ticks, vendor
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import MINUTE_US, SECOND_US

OPEN = at("2026-01-05T14:30")
CLOSE = at("2026-01-05T21:00")
DAY = at("2026-01-05")
M, S = MINUTE_US, SECOND_US
FIRST, SECOND = "file:first", "file:second"


def file(
    name: str, *prints: tuple[Any, ...], source: str = "file", firm: bool = False, whole: bool = True
) -> list[bytes]:
    """Return the records of a file. Each print is (seconds after the open, symbol, price[, flags])."""
    rows = [(OPEN + int(p[0] * S), p[1], p[2], 1, *p[3:]) for p in prints]
    times = [row[0] for row in rows]
    symbols = sorted({row[1] for row in rows})
    head = start(name, min(times), symbols, whole=whole, firm=firm)
    return [head, ticks(rows, max(times), name, source), end(name, whole=whole)]


def complete(raw: list[bytes], symbol: str = "A") -> dict[tuple[str, int], tuple[bool, str]]:
    """Return (complete, reason) of each closed 1m and 5m bar of a symbol, by interval and minutes after the open."""
    return {
        (interval, (time - OPEN) // M): (row["complete"], row["reason"])
        for (interval, of, time), row in last(run(raw)).items()
        if of == symbol and interval != "1d"
    }


ONE = file(FIRST, (0, "A", 10.0), (70, "A", 11.0), (80, "A", 12.0))
OTHER = file(SECOND, (90, "A", 20.0), (100, "A", 21.0), (130, "A", 22.0))


def test_a_file_alone_claims_its_first_and_last_minute() -> None:
    assert complete(ONE) == {("1m", 0): (True, "ticks"), ("1m", 1): (True, "ticks"), ("5m", 0): (True, "parts")}


@pytest.mark.parametrize("raw", [ONE + OTHER, OTHER + ONE], ids=["in order", "reversed"])
def test_a_minute_that_two_files_cut_is_incomplete_with_its_roll_ups(raw: list[bytes]) -> None:
    found = complete(raw)
    assert found["1m", 0] == (True, "ticks")
    assert found["1m", 1] == (False, "cut")
    assert found["1m", 2] == (True, "ticks")
    assert found["5m", 0] == (False, "cut")
    day = last(run([*raw, *file("file:third", (6 * 3600 + 25 * 60, "A", 9.0))]))["1d", "A", DAY]
    assert (day["complete"], day["reason"]) == (False, "cut")
    bar = last(run(raw))["1m", "A", OPEN + M]
    assert bar["volume"] == 2.0  # prints of different feeds are never summed


def test_a_published_complete_minute_is_revised_when_its_claim_becomes_void() -> None:
    steps = run(ONE + OTHER)
    (before,) = [b for b in bars(steps[:3], "final") if (b["interval"], b["time"]) == ("1m", OPEN + M)]
    (after,) = [b for b in bars(steps[3:], "final") if (b["interval"], b["time"]) == ("1m", OPEN + M)]
    assert (before["complete"], before["revision"]) == (True, 0)
    assert (after["complete"], after["revision"], after["close"], after["reason"]) == (False, 1, 12.0, "cut")


@pytest.mark.parametrize(
    "other",
    [
        file(SECOND, (90, "B", 20.0), (130, "A", 22.0)),  # another symbol in the minute
        file(SECOND, (120, "A", 20.0)),  # the next minute
        file(SECOND, (90, "A", 20.0), source="another"),  # another source
        file(SECOND, (72, "A", 20.0), (78, "A", 20.0)),  # inside the range of the first file
        [start("feed", OPEN, ["A"]), ticks([(OPEN + 90 * S, "A", 9.0, 1)], OPEN + 90 * S, "feed", "file")],
        [start(SECOND, OPEN, ["A"]), vendor([(OPEN + M, "A", "1m", 1.0, 1.0, 1.0, 1.0, 1.0)], OPEN, SECOND, "file")],
    ],
    ids=["symbol", "minute", "source", "inside", "no file", "bars"],
)  # fmt: skip
def test_other_data_leaves_the_claim_valid(other: list[bytes]) -> None:
    assert complete(ONE + other)["1m", 1][0]


def test_a_minute_inside_both_files_is_not_cut() -> None:
    longer = file(SECOND, (-100, "A", 1.0), (10, "A", 2.0), (75, "A", 3.0), (110, "A", 3.0), (300, "A", 4.0))
    shorter = file(FIRST, (-200, "A", 1.0), (70, "A", 11.0), (105, "A", 12.0), (400, "A", 13.0))
    assert all(flag for flag, _ in complete([*shorter, *longer]).values())


def test_the_claims_of_the_symbols_of_a_file_become_void_separately() -> None:
    raw = file(FIRST, (0, "A", 1.0), (10, "B", 1.0)) + file(SECOND, (20, "B", 2.0), (30, "B", 3.0))
    assert complete(raw, "A")["1m", 0] == (True, "ticks")
    assert complete(raw, "B")["1m", 0] == (False, "cut")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("flags", "is_complete"), [(TickFlag.NO_OHLC, False), (TickFlag.NO_OHLC | TickFlag.NO_VOLUME, True)]
)
def test_prints_with_a_volume_and_without_a_price_cut_a_minute(
    reverse: bool, flags: TickFlag, is_complete: bool
) -> None:
    odd_lots = file(SECOND, (90, "A", 20.0, int(flags)), (130, "A", 22.0))
    assert complete(odd_lots + ONE if reverse else ONE + odd_lots)["1m", 1][0] is is_complete


def test_prints_without_a_price_in_the_middle_of_another_file_cut_no_minute() -> None:
    odd_lots = file(SECOND, (10, "A", 1.0), (75, "A", 20.0, int(TickFlag.NO_OHLC)), (130, "A", 22.0))
    assert complete(ONE + odd_lots)["1m", 1][0]


def test_the_user_decides_with_whole_and_partial() -> None:
    firm = file(FIRST, (0, "A", 10.0), (70, "A", 11.0), (80, "A", 12.0), firm=True)
    assert complete(firm + OTHER)["1m", 1] == (True, "ticks")
    assert last(run(firm + OTHER))["1m", "A", OPEN + M]["close"] == 12.0
    partial = file(FIRST, (0, "A", 10.0), (70, "A", 11.0), (80, "A", 12.0), whole=False)
    assert not complete(partial)["1m", 1][0]


def test_a_stopped_file_that_resumes_keeps_the_claim_of_its_first_minute() -> None:
    raw = [
        start(SECOND, OPEN + 90 * S, ["A"], whole=True),
        ticks([(OPEN + 90 * S, "A", 20.0, 1)], OPEN + 90 * S, SECOND, "file"),
        ticks([(OPEN + 130 * S, "A", 21.0, 1)], OPEN + 130 * S, SECOND, "file"),
        down(OPEN + 130 * S, SECOND),
        start(SECOND, OPEN + 130 * S, ["A"], whole=True),
        ticks([(OPEN + 140 * S, "A", 22.0, 1)], OPEN + 140 * S, SECOND, "file"),
        end(SECOND),
    ]
    assert complete(raw)["1m", 1][0]
    found = complete(raw + ONE)
    assert found["1m", 1] == (False, "cut")
    assert found["1m", 2][0]


def test_a_late_print_or_a_cancel_leaves_a_cut_minute_incomplete() -> None:
    named = [start(FIRST, OPEN, ["A"], whole=True)]
    named += [
        ticks([(OPEN + 70 * S, "A", 11.0, 1, 0, "1"), (OPEN + 80 * S, "A", 12.0, 1, 0, "2")], OPEN, FIRST, "file")
    ]
    named += [end(FIRST), *OTHER]
    for flags, trade_id in ((0, "3"), (int(TickFlag.CANCEL), "1")):
        more = ticks([(OPEN + 70 * S, "A", 11.0, 1, flags, trade_id)], OPEN, FIRST, "file")
        assert complete([*named, more])["1m", 1] == (False, "cut")


def test_a_snapshot_between_two_files_changes_nothing() -> None:
    raw = [*ONE, *OTHER, *file("file:third", (140, "A", 1.0), (150, "A", 2.0), firm=True), mark(OPEN + 9 * M)]
    steps = run(raw)
    for where in range(1, len(raw)):
        first = AggregationStage(1)
        run(raw[:where], first)
        second = AggregationStage(1, first.snapshot())
        assert [[bytes(o.value) for o in step] for step in continued(raw, second, where)] == [
            [bytes(o.value) for o in step] for step in steps[where:]
        ]


def test_a_rebuild_of_a_cut_minute_leaves_it_cut() -> None:
    raw = [*ONE, *OTHER]
    before = last(run(raw))
    after = last(run([*raw, rebuild(["A"], OPEN, OPEN + 5 * M)]))
    assert {key: (bar["complete"], bar["reason"] == "cut") for key, bar in after.items()} == {
        key: (bar["complete"], bar["reason"] == "cut") for key, bar in before.items()
    }
    assert after["1m", "A", OPEN + M]["revision"] > before["1m", "A", OPEN + M]["revision"]


def test_a_late_print_with_a_size_leaves_a_minute_with_an_unknown_size_incomplete() -> None:
    raw = [
        start(start_us=OPEN, symbols=["A"]),
        ticks([(OPEN + S, "A", 1.0, 0, int(TickFlag.SIZE_UNKNOWN))], OPEN + 2 * M),
    ]
    raw += [ticks([(OPEN + 2 * S, "A", 2.0, 5)], OPEN + 2 * M), end()]
    bar = last(run(raw))["1m", "A", OPEN]
    assert (bar["close"], bar["complete"]) == (2.0, False)
