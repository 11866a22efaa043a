"""Rebuilds of a range from raw records.

A rebuild publishes the same bars, or those of changed rules, with the version of the rebuild.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.aggregation.plant import (
    PRICES,
    at,
    bars,
    continued,
    decoded,
    down,
    end,
    last,
    mark,
    rebuild,
    run,
    same_bars,
    settings,
    start,
    ticks,
    vendor,
)  # fmt: skip
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.streams import Output
from tickerplant.core.times import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from tickerplant.core.version import make_version

OPEN = at("2026-01-05T14:30")
CLOSE = at("2026-01-05T21:00")
DAY = at("2026-01-05")
M, S = MINUTE_US, SECOND_US


def session(day: int, *, symbols: tuple[str, ...] = ("A", "B"), feed: str = "a") -> list[bytes]:
    """Return a live feed's records of the session `day` days after the first, with ticks and marks every 20 minutes."""
    raw = []
    for number in range(20):
        time = OPEN + day * DAY_US + number * 20 * M
        rows = [
            (time + i, symbol, 10.0 + day + number / 8 + i, 1.0 + i, 0, f"{day}-{number}")
            for i, symbol in enumerate(symbols)
        ]
        raw += [ticks(rows, time, feed, sent=time + S), mark(time + S, feed, sent=time + S)]
    over = CLOSE + day * DAY_US + 10 * S
    return [*raw, mark(over, feed, sent=over)]


LIVE = start("a", OPEN - HOUR_US, ["A", "B"], live=True, sent_at_us=OPEN - HOUR_US)


def final(steps: list[list[Output]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    return {(row["interval"], row["symbol"], row["time"]): row for row in bars(steps) if row["state"] != "forming"}


def test_a_rebuild_publishes_the_same_bars_of_its_symbols_with_its_version() -> None:
    raw = [LIVE, *session(0)]
    before = last(run(raw))
    raw.append(rebuild(["A"], OPEN, CLOSE, sent=CLOSE + M))
    again = final(run(raw)[-1:])
    assert again.keys() == {key for key in before if key[1] == "A"}
    for key, row in again.items():
        assert {name: row[name] for name in (*PRICES, "volume", "vwap")} == {
            name: before[key][name] for name in (*PRICES, "volume", "vwap")
        }
        assert (row["version"], row["reason"], row["revision"]) == (make_version(1, len(raw) - 1), "rebuild", 1)


def test_a_range_is_widened_to_whole_sessions() -> None:
    raw = [LIVE, *session(0), *session(1), rebuild(["A"], OPEN + 41 * M, OPEN + 41 * M + 1, sent=CLOSE + DAY_US + M)]
    before = {key for key in last(run(raw[:-1])) if key[1] == "A" and key[2] < DAY + DAY_US}
    assert final(run(raw)[-1:]).keys() == before
    night = CLOSE + 6 * HOUR_US  # outside any session, so only the 5m interval around it is rebuilt
    assert final(run([*raw[:-1], rebuild(["A"], night, night + 1, sent=CLOSE + DAY_US + M)])[-1:]) == {}


def minutes_of(count: int, feed: str = "a", symbol: str = "A") -> list[bytes]:
    return [
        ticks([(OPEN + i * M, symbol, 10.0 + i, 1.0)], OPEN + i * M, feed, source=feed, sent=OPEN + i * M)
        for i in range(count)
    ]


def test_a_rebuild_with_another_allowed_lateness_closes_no_forming_bar_and_reopens_no_closed_bar() -> None:
    for was, now in ((2 * S, 10 * M), (10 * M, 2 * S)):
        raw = [settings(lateness_us=was), LIVE, *minutes_of(12)]
        asked = [settings(lateness_us=now), rebuild(["A"], OPEN, CLOSE, sent=OPEN + 11 * M + S)]
        after = [mark(OPEN + i * M, sent=OPEN + i * M) for i in range(12, 30)]
        after += [mark(CLOSE + 20 * M, sent=CLOSE + 20 * M)]
        expected = last(run([*raw, settings(lateness_us=now), *after]))
        steps = run([*raw, *asked, *after])
        assert [row for row in bars(steps) if row["state"] == "withdrawn"] == []
        same_bars(expected, last(steps))


def test_the_bars_of_a_feed_that_is_silent_now_are_rebuilt() -> None:
    raw = [LIVE, start("b", OPEN - HOUR_US, ["B"], live=True, sent_at_us=OPEN - HOUR_US), *minutes_of(7)]
    raw += [mark(OPEN + i * M, "b", sent=OPEN + i * M) for i in range(7, 420)]
    before = {key: row for key, row in last(run(raw)).items() if key[1] == "A"}
    assert {key[0] for key in before} == {"1m", "5m", "1d"}
    same_bars(before, final(run([*raw, rebuild(["A"], OPEN, CLOSE, sent=OPEN + 420 * M)])[-1:]))


def test_after_a_partial_rebuild_coarser_bars_equal_the_roll_up_of_finer_ones() -> None:
    both = [start(f, OPEN - M, ["A"], live=True, sent_at_us=OPEN - M) for f in ("a", "b")]
    raw = [*both]
    for i in range(20):
        for feed, size in (("a", 1.0), ("b", 100.0)):
            time = OPEN + i * M
            raw.append(ticks([(time, "A", 10.0, size)], time, feed, source=feed, sent=time))
    raw += [mark(CLOSE + 5 * S, feed, sent=CLOSE + 5 * S) for feed in ("a", "b")]
    raw += [settings(sources=["b", "*"]), rebuild(["A"], OPEN, OPEN + 5 * M, sent=CLOSE + M)]
    found = last(run(raw))
    fives = [row["volume"] for key, row in found.items() if key[0] == "5m"]
    minutes = [row["volume"] for key, row in found.items() if key[0] == "1m"]
    assert found["1d", "A", DAY]["volume"] == sum(fives) == sum(minutes) > 1900.0


def test_a_rebuild_of_all_times_changes_no_other_symbol() -> None:
    raw = [LIVE, *session(0)]
    far = at("2029-01-01")
    steps = run([*raw, rebuild(["A", "C"], at("1900-01-01"), far, sent=CLOSE + M)])
    assert {key[1] for key in final(steps[-1:])} == {"A"}
    assert ("1d", "A", DAY) in final(steps[-1:])
    assert run([*raw, rebuild(["A"], -(1 << 63), (1 << 63) - 1, sent=CLOSE + M)])[-1] != []


def test_a_rebuild_applies_the_current_rules() -> None:
    early = (OPEN - 30 * M, "A", 5.0, 100.0)
    raw = [LIVE, ticks([early], OPEN - 30 * M), *session(0)]
    assert last(run(raw))["1d", "A", DAY]["low"] == 10.0
    raw += [settings(extended_hours=True), rebuild(["A"], OPEN, CLOSE, sent=CLOSE + M)]
    late = CLOSE + 4 * HOUR_US + 10 * S
    raw += [mark(late, sent=late), rebuild(["A"], OPEN, CLOSE, sent=late + M)]
    day = final(run(raw)[-1:])["1d", "A", DAY]
    assert (day["low"], day["open"], day["state"], day["complete"]) == (5.0, 5.0, "final", False)


def test_a_rebuild_of_evicted_bars_publishes_the_recomputed_bars() -> None:
    raw = [LIVE, *session(0), *session(1), *session(2)]
    before = last(run(raw))
    raw.append(rebuild(["B"], DAY, DAY + DAY_US, sent=CLOSE + 2 * DAY_US + M))
    again = final(run(raw)[-1:])
    want = {key: row for key, row in before.items() if key[1] == "B" and key[2] < DAY + DAY_US}
    same_bars(want, again)
    assert {row["version"] for row in again.values()} == {make_version(1, len(raw) - 1)}
    assert {row["reason"] for row in again.values()} == {"rebuild"}


def test_a_rebuild_includes_drops_older_than_the_first_record_that_it_reads() -> None:
    raw = [LIVE, *session(0)]
    raw.insert(5, down(OPEN + 30 * M, sent=OPEN + 31 * M))
    raw.insert(6, start("a", OPEN + 33 * M, ["A", "B"], live=True, hole=True, sent_at_us=OPEN + 33 * M))
    raw += [*session(1), *session(2)]
    before = {key: row for key, row in last(run(raw)).items() if key[1] == "A" and key[2] < DAY + DAY_US}
    assert not before["1d", "A", DAY]["complete"]
    raw.append(rebuild(["A"], DAY, DAY + DAY_US, sent=CLOSE + 2 * DAY_US + M))
    same_bars(before, final(run(raw)[-1:]))


def test_a_rebuild_applies_cancels_late_ticks_and_vendor_bars() -> None:
    raw = [LIVE, *session(0)]
    raw += [ticks([(OPEN, "A", 10.0, 1.0, int(TickFlag.CANCEL), "0-0")], CLOSE + M, sent=CLOSE + M)]
    raw += [ticks([(OPEN + 70 * S, "A", 3.0, 1.0)], CLOSE + M, sent=CLOSE + M)]
    raw += [vendor([(OPEN + 20 * M, "A", "1m", 1.0, 2.0, 0.5, 1.5, 9.0)], CLOSE, source="v")]
    before = {key: row for key, row in last(run(raw)).items() if key[1] == "A"}
    raw.append(rebuild(["A"], OPEN, CLOSE, sent=CLOSE + 2 * M))
    after = final(run(raw)[-1:])
    same_bars(before, {key: row for key, row in after.items() if row["state"] == "final"})
    assert {key for key, row in after.items() if row["state"] == "withdrawn"} == {("1m", "A", OPEN)}


def test_a_bar_that_the_rebuild_does_not_produce_is_withdrawn() -> None:
    for time in (at("2026-01-05T22:00"), at("2026-01-04T15:00")):  # after the New York close, and on a Sunday
        day, midnight = time - time % DAY_US, time - time % DAY_US + DAY_US + 10 * S
        raw = [settings(calendars={"*": "24/7"}), start("a", time - M, ["A"], live=True, sent_at_us=time - M)]
        raw += [ticks([(time, "A", 9.0, 1.0)], time, sent=time), mark(midnight, sent=midnight)]
        assert last(run(raw))["1d", "A", day]["close"] == 9.0
        raw += [settings(calendars={"*": "XNYS"}), rebuild(["A"], time - M, time + M, sent=midnight + M)]
        after = final(run(raw)[-1:])
        assert {key for key, row in after.items() if row["state"] == "withdrawn"} == {("1d", "A", day)}
        assert after["5m", "A", time]["close"] == 9.0


def test_a_rebuild_without_the_raw_records_before_its_range_changes_nothing_and_is_reported() -> None:
    raw = [LIVE, *session(0)]
    stage = AggregationStage(1)
    run(raw, stage)
    before = stage.snapshot()
    steps = continued([*raw, rebuild(["A"], OPEN, CLOSE, sent=CLOSE + M)][10:], stage, len(raw), raw_first=10)
    assert bars(steps) == []
    (status,) = [r.header for r in decoded(steps, schemas.STATUS) if isinstance(r.header, records.FeedState)]
    assert (status.feed, status.state, status.count) == ("rebuild", "unsupported", 1)
    assert "raw does not reach back" in status.reason
    assert len(stage.snapshot()) == len(before)


@pytest.mark.parametrize(
    ("symbols", "start_us", "end_us"), [(["ZZZ"], OPEN, CLOSE), ([], OPEN, CLOSE), (["A"], CLOSE, OPEN)]
)
def test_a_rebuild_without_known_symbols_or_times_does_nothing(symbols: list[str], start_us: int, end_us: int) -> None:
    raw = [LIVE, *session(0), rebuild(symbols, start_us, end_us, sent=CLOSE + M)]
    assert run(raw)[-1] == []


def test_a_snapshot_before_or_after_a_rebuild_changes_no_byte() -> None:
    raw = [LIVE, *session(0), *session(1), rebuild(["A", "B"], DAY, DAY + DAY_US, sent=CLOSE + DAY_US + M)]
    raw += [ticks([(OPEN + DAY_US + 70 * S, "A", 3.0, 1.0)], CLOSE + DAY_US + M, sent=CLOSE + DAY_US + M)]
    raw += [rebuild(["A"], DAY, DAY + 2 * DAY_US, sent=CLOSE + DAY_US + M), end("a")]
    whole = AggregationStage(1)
    expected = run(raw, whole)
    for where in (1, 30, 70, len(raw) - 4, len(raw) - 3, len(raw) - 1):
        first = AggregationStage(1)
        run(raw[:where], first)
        second = AggregationStage(1, first.snapshot())
        after = continued(raw, second, where)
        assert [[bytes(o.value) for o in step] for step in after] == [
            [bytes(o.value) for o in step] for step in expected[where:]
        ]
        assert second.snapshot() == whole.snapshot()
