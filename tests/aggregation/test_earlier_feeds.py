"""If a file shares a session with a feed whose bars are no longer in memory, the session is recomputed from the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from tests.aggregation.plant import SENT, at, bars, continued, decoded, end, last, mark, run, start, ticks
from tickerplant.aggregation.snapshot import is_equal
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US

OPEN = at("2026-01-05T14:30")
DAY = at("2026-01-05")
M, S, H = MINUTE_US, SECOND_US, HOUR_US
Found = dict[tuple[str, int], tuple[float, float, bool, str]]


def file(name: str, *prints: tuple[float, float], days: float = 0.0, firm: bool = False) -> list[bytes]:
    """Return the records of a file of A, sent `days` days after `SENT`. Each print is (seconds after `OPEN`, price)."""
    rows, sent = [(OPEN + int(p[0] * S), "A", p[1], 1) for p in prints], SENT + int(days * DAY_US)
    times = [row[0] for row in rows]
    ended = records.encode(records.End(feed=name, sent_at_us=sent, whole=True, watermark_us=max(times))).to_pybytes()
    return [
        start(name, min(times), ["A"], whole=True, firm=firm, sent_at_us=sent),
        ticks(rows, max(times), name, "file", sent),
        ended,
    ]


def of_session(steps: Any, day: int = DAY) -> Found:
    """Return (close, volume, complete, reason) of each closed bar of a day, by interval and minutes after `OPEN`.

    The key of a daily bar has 0 minutes.
    """
    return {
        (interval, 0 if interval == "1d" else (time - OPEN) // M): (
            bar["close"], bar["volume"], bar["complete"], bar["reason"],
        )
        for (interval, _, time), bar in last(steps).items()
        if time - time % DAY_US == day
    }  # fmt: skip


MORNING = ((0, 10.0), (70, 11.0), (80, 12.0))
NOON = ((90, 20.0), (100, 21.0), (130, 22.0))
CUT_DAY = {("1m", 1): False, ("5m", 0): False, ("1d", 0): False, ("1m", 0): True, ("1m", 2): True}


@pytest.mark.parametrize("days", [0.0, 1.0, 4.5, 30.0])
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_the_time_between_two_replays_does_not_change_the_bars(days: float, reverse: bool) -> None:
    first, second = (NOON, MORNING) if reverse else (MORNING, NOON)
    raw = [*file("file:first", *first), *file("file:second", *second, days=days)]
    found = of_session(run(raw))
    assert {key: bar[2] for key, bar in found.items()} == CUT_DAY
    assert {bar[3] for bar in found.values() if not bar[2]} == {"cut"}
    assert found["1d", 0][:2] == (22.0, 4.0)  # each minute is from one file: 1 + 2 + 1 trades
    assert found["1m", 1][0] == (21.0 if reverse else 12.0)  # the minute is from the file that was sent first


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_files_that_continue_a_file_of_several_sessions_cut_its_first_and_last_minute(reverse: bool) -> None:
    week = [(day * 86_400 + second, price) for day in range(3) for second, price in NOON]
    tail = [(2 * 86_400 + second, price) for second, price in ((140, 30.0), (400, 31.0))]
    files = [("file:week", week, 0.0), ("file:before", MORNING, 0.1), ("file:after", tail, 0.2)]
    raw = [
        each for name, prints, days in (files[::-1] if reverse else files) for each in file(name, *prints, days=days)
    ]
    steps = run(raw)
    monday, tuesday, wednesday = (of_session(steps, DAY + day * DAY_US) for day in range(3))
    assert {key: bar[2] for key, bar in monday.items()} == CUT_DAY
    assert monday["1d", 0][:2] == (22.0, 4.0)
    assert all(bar[2] for bar in tuesday.values())
    assert not wednesday["1d", 0][2]
    assert wednesday["1d", 0][:2] == (31.0, 4.0)  # 2 + 1 + 1 trades


def sorted_by_symbol(name: str, *rows: tuple[float, str], days: float = 0.0) -> list[bytes]:
    """Return the records of a file sorted by symbol. Each row is (seconds after the open, symbol); the price is 10."""
    prints, sent = [(OPEN + int(row[0] * S), row[1], 10.0, 1) for row in rows], SENT + int(days * DAY_US)
    times = [row[0] for row in prints]
    ended = records.encode(records.End(feed=name, sent_at_us=sent, whole=True, watermark_us=max(times))).to_pybytes()
    head = start(name, min(times), sorted({row[1] for row in rows}), whole=True, sent_at_us=sent)
    return [head, ticks(prints, min(times), name, "file", sent), ended]


@pytest.mark.parametrize("descends", [False, True])
@pytest.mark.parametrize("days", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_a_cut_within_a_symbol_of_a_file_sorted_by_symbol_leaves_one_minute_incomplete(
    days: float, reverse: bool, descends: bool
) -> None:
    whole = [
        (0.0, "X"),
        (20_000.0, "X"),
        *((second, "Y") for second in (0, 70, 80, 90, 130, 20_000)),
        (0, "Z"),
        (9, "Z"),
    ]
    sign = -1 if descends else 1
    rows = sorted(whole, key=lambda row: (row[1], sign * row[0]))
    cut = 5  # within the minute of 70 to 90 seconds of Y
    parts = [("file:1", rows[:cut]), ("file:2", rows[cut:])][:: -1 if reverse else 1]
    raw = [each for at, (name, part) in enumerate(parts) for each in sorted_by_symbol(name, *part, days=at * days)]
    found = {(interval, symbol, (time - OPEN) // M): bar for (interval, symbol, time), bar in last(run(raw)).items()}
    incomplete = {key[:2] for key, bar in found.items() if not bar["complete"]}
    assert incomplete == {("1m", "Y"), ("5m", "Y"), ("1d", "Y")}
    assert [key[2] for key, bar in found.items() if key[:2] == ("1m", "Y") and not bar["complete"]] == [1]
    day = next(bar for key, bar in found.items() if key[:2] == ("1d", "Y"))
    minute = found["1m", "Y", 1]
    assert (minute["reason"], day["reason"]) == ("cut", "cut")
    assert day["volume"] == 3.0 + minute["volume"]  # the minutes 0, 2 and 333 have one trade each
    assert minute["volume"] in (1.0, 2.0)


def test_a_cut_file_sorted_by_symbol_leaves_the_minutes_of_other_symbols() -> None:
    first = sorted_by_symbol("file:1", (0, "X"), (70, "X"), (0, "Y"), (70, "Y"))
    second = sorted_by_symbol("file:2", (90, "Y"), (130, "Y"), (75, "Z"), (400, "Z"))
    found = last(run([*first, *second]))
    assert {key[1] for key, bar in found.items() if not bar["complete"]} == {"Y"}


def test_files_of_adjacent_hours_give_one_complete_day_weeks_later() -> None:
    # No minute is cut: the day has the trades of both files.
    raw = [*file("file:am", (0, 10.0), (3_500, 11.0)), *file("file:pm", (3_600, 12.0), (9_000, 13.0), days=20)]
    assert of_session(run(raw))["1d", 0] == (13.0, 4.0, True, "rebuild")


def test_without_the_records_of_the_earlier_file_the_shared_bars_are_incomplete() -> None:
    stage, earlier = AggregationStage(1), file("file:first", *MORNING)
    run(earlier, stage)
    later = file("file:second", *NOON, (4_000, 23.0), days=9)
    steps = continued(later, stage, len(earlier), len(earlier))
    found = of_session(steps)
    assert found["1m", 1] == (21.0, 2.0, False, "cut")
    assert (found["1m", 2][2], found["5m", 65][2]) == (True, True)
    assert (found["5m", 0][2:], found["1d", 0]) == ((False, "cut"), (23.0, 4.0, False, "cut"))
    (state,) = [
        record.header
        for record in decoded(steps, schemas.STATUS)
        if isinstance(record.header, records.FeedState) and record.header.state == "unsupported"
    ]
    assert "earlier feed" in state.reason


def test_the_user_decides_that_a_file_is_whole() -> None:
    stage, earlier = AggregationStage(1), file("file:first", *MORNING)
    run(earlier, stage)
    later = file("file:second", *NOON, days=9, firm=True)
    assert all(bar[2] for bar in of_session(continued(later, stage, len(earlier), len(earlier))).values())


def test_a_file_with_all_of_an_earlier_file_replaces_its_bars() -> None:
    raw = [*file("file:first", *NOON), *file("file:second", *MORNING, (200, 9.0), days=9)]
    steps = run(raw)
    assert of_session(steps)["1d", 0] == (9.0, 4.0, True, "parts")
    assert not [bar for bar in bars(steps) if bar["reason"] in ("rebuild", "cut")]


def live_day(day: int, *seconds: float) -> list[bytes]:
    """Return a live feed's ticks of A in the session `day` days after DAY, and its mark an hour later."""
    rows = [(OPEN + day * DAY_US + int(second * S), "A", 50.0 + second, 1) for second in seconds]
    sent = rows[-1][0]
    return [ticks(rows, sent, "live", "vendor", sent), mark(sent + H, "live", sent + H)]


def test_a_file_that_fills_a_gap_of_a_live_feed_days_later_leaves_the_rest_of_the_session() -> None:
    raw = [start("live", OPEN, ["A"], live=True, sent_at_us=OPEN), *live_day(0, 0, 60, 20_000)]
    raw += [each for day in (1, 2, 3) for each in live_day(day, 0, 60, 20_000)]
    gap = file("file:gap", (3_600, 9.0), (3_700, 9.5), days=3.5)
    found = of_session(run([*raw, *gap]))
    assert found["1d", 0][:2] == (20_050.0, 5.0)
    assert found["1m", 60][:2] == (9.0, 1.0)


def test_a_file_of_all_regular_hours_does_not_need_a_live_feed_of_the_morning() -> None:
    raw = [start("live", OPEN - 2 * H, ["A"], live=True, sent_at_us=OPEN - 2 * H)]
    raw += [*live_day(0, -7_000, -600), *(each for day in (1, 2) for each in live_day(day, 0, 60, 20_000))]
    whole = file("file:day", (0.5, 9.0), (23_399, 9.5), days=2.5)
    assert of_session(run([*raw, *whole]))["1d", 0] == (9.5, 2.0, True, "parts")


def test_a_restart_before_each_record_changes_nothing() -> None:
    raw = [*file("file:first", *MORNING), *file("file:second", *NOON, days=5), end("file:other")]
    steps = run(raw)
    for where in range(1, len(raw)):
        first = AggregationStage(1)
        run(raw[:where], first)
        second = AggregationStage(1, first.snapshot())
        assert [[bytes(o.value) for o in step] for step in continued(raw, second, where)] == [
            [bytes(o.value) for o in step] for step in steps[where:]
        ]


def test_a_snapshot_of_an_earlier_version_without_files_equals_the_recomputed_state() -> None:
    stage = AggregationStage(1)
    run([*file("file:first", *MORNING), *file("file:second", *NOON, days=5)], stage)
    state = msgspec.msgpack.decode(stage.snapshot())
    former = {name: value for name, value in state.items() if name != "files"}
    other = former | {"next_feed": 9}
    some = former | {"files": [file[:-2] for file in state["files"][:1]]}
    encoded = [msgspec.msgpack.encode(each) for each in (former, some, other, state | {"files": [["x"]]})]
    assert [is_equal(each, stage.snapshot()) for each in encoded] == [True, True, False, False]
    assert AggregationStage(1, encoded[0]).snapshot() == encoded[0]


def test_a_rebuild_finds_files_that_were_replayed_days_apart() -> None:
    files: Sequence[bytes] = [*file("file:first", *MORNING), *file("file:second", *NOON, days=30)]
    column = start("x", 0, ["A"])
    batch = records.decode(column).batch
    asked = records.encode(records.Rebuild(sent_at_us=SENT + 31 * DAY_US, from_us=OPEN, to_us=OPEN + M), batch)
    found = of_session(run([*files, asked.to_pybytes()]))
    assert {key: bar[2] for key, bar in found.items()} == CUT_DAY
