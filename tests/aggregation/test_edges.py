"""Rare combinations of rules.

Examples are session hours off the 5m grid, an allowed lateness of hours, and rules that change within a session.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tests.aggregation.plant import at, bars, decoded, mark, run, settings, start, ticks
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import schemas
from tickerplant.core.sessions import calendar
from tickerplant.core.streams import Output
from tickerplant.core.times import HOUR_US, MINUTE_US, SECOND_US

M, S = MINUTE_US, SECOND_US
LATENESS = 2 * S


def days(steps: Iterable[Iterable[Output]]) -> list[dict[str, Any]]:
    return [row for row in bars(steps, "final") if row["interval"] == "1d"]


def test_the_daily_bar_of_a_session_that_opens_off_the_5m_grid_starts_at_the_open() -> None:
    # The Pakistan Stock Exchange trades from 09:32 to 15:30 on Monday to Thursday. Karachi is at UTC+5.
    opens, closes = at("2025-11-26T04:32"), at("2025-11-26T10:30")
    rows = [(opens - 1, "A", 99.0, 7), (opens, "A", 10.0, 1), (opens + 10 * M, "A", 11.0, 2)]
    raw = [settings(calendars={"*": "XKAR"}), start(start_us=opens - HOUR_US, symbols=["A"])]
    (day,) = days(run([*raw, ticks(rows, opens + 10 * M), mark(closes + LATENESS)]))
    assert (day["open"], day["high"], day["volume"]) == (10.0, 11.0, 3.0)


def test_the_daily_bar_of_a_session_that_closes_off_the_5m_grid_ends_at_the_close() -> None:
    # Euronext Dublin trades continuously until 16:28 local time.
    closes = at("2025-11-26T16:28")
    rows = [(closes - HOUR_US, "A", 10.0, 1), (closes - M, "A", 11.0, 2), (closes + M, "A", 50.0, 100)]
    raw = [settings(calendars={"*": "XDUB"}), start(start_us=closes - 10 * HOUR_US, symbols=["A"])]
    raw += [ticks(rows, closes + M), mark(closes + LATENESS), mark(closes + 2 * M + LATENESS)]
    assert [(row["close"], row["volume"]) for row in days(run(raw))] == [(11.0, 3.0)]


def test_a_daily_bar_has_all_ticks_with_an_allowed_lateness_of_hours() -> None:
    day = at("2025-11-29")
    raw = [settings(calendars={"*": "24/7"}, lateness_us=2 * HOUR_US), start(start_us=day, symbols=["A"])]
    raw += [ticks([(day + h * HOUR_US, "A", 10.0, 1)], day + h * HOUR_US) for h in range(30)]
    assert [row["volume"] for row in days(run(raw))] == [24.0]


def test_a_change_of_rules_between_the_last_trade_and_the_close_loses_no_daily_bar() -> None:
    opens, closes = at("2025-11-28T14:30"), at("2025-11-28T18:00")  # a half day in New York
    raw = [start(start_us=opens - HOUR_US, symbols=["A"]), ticks([(opens, "A", 10.0, 1)], opens + 30 * M)]
    raw += [settings(lateness_us=3 * S), mark(closes + 5 * S), ticks([], closes + HOUR_US)]
    assert [row["volume"] for row in days(run(raw))] == [1.0]


def test_a_daily_bar_closes_by_rules_that_changed_within_its_session() -> None:
    opens, closes = at("2025-11-28T14:30"), at("2025-11-28T18:00")
    raw = [start(start_us=opens - HOUR_US, symbols=["A"]), ticks([(opens, "A", 10.0, 1)], opens + 30 * M)]
    raw += [settings(extended_hours=True), ticks([(closes - M, "A", 10.0, 5)], closes), mark(closes + 5 * S)]
    assert days(run(raw)) == []
    assert [row["volume"] for row in days(run([*raw, mark(closes + 4 * HOUR_US + 5 * S)]))] == [6.0]


def test_settings_with_an_unusable_calendar_become_a_dead_letter() -> None:
    assert len(decoded(run([settings(calendars={"*": "ASEX"})]), schemas.DEADLETTER)) == 1


def test_a_session_that_opens_in_the_evening_has_the_date_of_the_next_day() -> None:
    # A CME Globex session lasts from 17:00 of the previous evening in Chicago to 16:00 or 17:00.
    known, session = calendar("CMES"), at("2025-11-25")
    opens, closes = int(known.open_of(np.array([session]))[0]), int(known.close_of(np.array([session]))[0])
    raw = [settings(calendars={"*": "CMES"}), start(start_us=opens - HOUR_US, symbols=["A"])]
    raw += [ticks([(opens, "A", 1.0, 1)], opens), ticks([(closes - 1, "A", 2.0, 2), (closes, "A", 2.0, 4)], closes)]
    steps = run([*raw, mark(closes + LATENESS), mark(closes + 3 * HOUR_US)])
    assert opens < session
    assert [(row["time"], row["volume"]) for row in days(steps)] == [(session, 3.0)]


def test_a_change_of_rules_does_not_prevent_eviction() -> None:
    day = at("2025-11-01")
    dead = ticks([(day, "A", 1.0, 1.0)], day, "killed file")
    raw = [settings(calendars={"*": "24/7"}), start("killed file", day, ["A"]), dead]
    raw += [start("a", day, ["A"])]
    for hour in range(12 * 24):
        time = day + hour * HOUR_US
        raw.append(ticks([(time, "A", 1.0, 1.0)], time, sent=time))
        if hour == 30:
            raw.append(settings(calendars={"*": "24/7"}, lateness_us=3 * S))
    stage = AggregationStage(1)
    run(raw, stage)
    assert len(stage._engine.state.candidates[0].blocks) < 60


def test_the_source_of_a_bar_is_that_of_its_first_tick_by_time_not_by_arrival() -> None:
    day = at("2026-01-05T15:00")
    first, second = [(day + S, "A", 1.0, 1.0)], [(day, "A", 2.0, 1.0)]
    raw = [start(start_us=day, symbols=["A"]), ticks(first, day, source="later"), ticks(second, day, source="opening")]
    minutes = [row for row in bars(run([*raw, mark(day + 2 * M)]), "final") if row["interval"] == "1m"]
    assert [(row["open"], row["source"]) for row in minutes] == [(2.0, "opening")]
