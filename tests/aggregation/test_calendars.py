"""Published bars follow the sessions of the exchanges.

Every time is from the exchanges' published hours, converted to UTC by hand:

| exchange | regular hours, local time | half day | UTC offset (winter, summer) |
|---|---|---|---|
| New York (NYSE) | 09:30 to 16:00 | to 13:00 | -5, -4 |
| London (LSE) | 08:00 to 16:30, closing auction to 16:35 | to 12:30 | 0, +1 |
| Hong Kong (HKEX) | 09:30 to 12:00, 13:00 to 16:00, closing auction to 16:10 | to 12:00 | +8 |
| Tokyo (JPX) | 09:00 to 11:30, 12:30 to 15:00 (15:30 since 2024-11-05) | none | +9 |
| Sydney (ASX) | 10:00 to 16:00 | to 14:10 | +10, +11 |

Christmas Eve is a half day except in Tokyo. In New York, the day after Thanksgiving is a half day too. New York's
extended hours are 04:00 to 20:00, and to 17:00 on a half day. In 2025, summer time lasted from 9 March to 2 November in
the United States. It lasted from 30 March to 26 October in the United Kingdom, and began on 5 October in Sydney.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.aggregation.plant import at, bars, decoded, end, last, mark, run, settings, start, ticks
from tickerplant.aggregation.stage import AggregationStage
from tickerplant.core import records, schemas
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import HOUR_US, MINUTE_US, SECOND_US, iso

M = MINUTE_US
S = SECOND_US
LATE = 2 * S  # default allowed lateness
AUCTION = int(TickFlag.CLOSING_AUCTION)
EXTENDED = int(TickFlag.EXTENDED)
CALENDARS = {"*.L": "XLON", "*.HK": "XHKG", "*.T": "XTKS", "*.AX": "XASX", "BTC*": "24/7", "*": "XNYS"}
NUMBERS = ("open", "high", "low", "close", "volume", "trades", "complete")


def rules(**more: Any) -> bytes:
    return settings(calendars=CALENDARS, **more)


def days(steps: list[Any], state: str | None = "final") -> list[dict[str, Any]]:
    return [row for row in bars(steps, state) if row["interval"] == "1d"]


def of(interval: str, symbol: str, steps: list[Any]) -> list[str]:
    """Return the UTC start times of the symbol's closed bars of this interval, in order."""
    return [iso(time) for known, name, time in sorted(last(steps)) if (known, name) == (interval, symbol)]


SESSIONS = [
    ("IBM", "2025-11-28", "2025-11-28T14:30", "2025-11-28T18:00"),  # this row and the next five: half days
    ("IBM", "2025-12-24", "2025-12-24T14:30", "2025-12-24T18:00"),
    ("IBM", "2015-12-24", "2015-12-24T14:30", "2015-12-24T18:00"),
    ("VOD.L", "2025-12-24", "2025-12-24T08:00", "2025-12-24T12:30"),
    ("VOD.L", "2015-12-24", "2015-12-24T08:00", "2015-12-24T12:30"),
    ("0700.HK", "2025-12-24", "2025-12-24T01:30", "2025-12-24T04:00"),
    ("IBM", "2025-03-07", "2025-03-07T14:30", "2025-03-07T21:00"),  # the last session before New York's summer time
    ("IBM", "2025-03-10", "2025-03-10T13:30", "2025-03-10T20:00"),  # the first session in New York's summer time
    ("VOD.L", "2025-03-10", "2025-03-10T08:00", "2025-03-10T16:30"),  # London is still on winter time
    ("VOD.L", "2025-03-28", "2025-03-28T08:00", "2025-03-28T16:30"),
    ("VOD.L", "2025-03-31", "2025-03-31T07:00", "2025-03-31T15:30"),
    ("VOD.L", "2025-10-24", "2025-10-24T07:00", "2025-10-24T15:30"),
    ("VOD.L", "2025-10-27", "2025-10-27T08:00", "2025-10-27T16:30"),  # the first session after London's summer time
    ("IBM", "2025-10-31", "2025-10-31T13:30", "2025-10-31T20:00"),  # the last session of New York's summer time
    ("IBM", "2025-11-03", "2025-11-03T14:30", "2025-11-03T21:00"),
    ("0700.HK", "2025-11-28", "2025-11-28T01:30", "2025-11-28T08:00"),  # has a lunch break
    ("7203.T", "2024-11-01", "2024-11-01T00:00", "2024-11-01T06:00"),
    ("7203.T", "2024-11-05", "2024-11-05T00:00", "2024-11-05T06:30"),  # the first session that closes at 15:30
    ("BHP.AX", "2025-10-03", "2025-10-03T00:00", "2025-10-03T06:00"),
    ("BHP.AX", "2025-10-06", "2025-10-05T23:00", "2025-10-06T05:00"),  # opens on the UTC day before its date
]


@pytest.mark.parametrize(("symbol", "session", "opens", "closes"), SESSIONS)
def test_the_last_intraday_bars_and_the_daily_bar_close_at_the_session_close(
    symbol: str, session: str, opens: str, closes: str
) -> None:
    first, over = at(opens), at(closes)
    raw = [
        rules(),
        start(start_us=first - HOUR_US, symbols=[symbol]),
        ticks([(first - 1, symbol, 1.0, 1000, EXTENDED)], first),
        ticks([(first, symbol, 10.0, 1), (first + 7 * M, symbol, 14.0, 2), (over - 1, symbol, 11.0, 4)], over),
        # From the close on, the day includes only ticks with the closing-auction flag.
        ticks([(over, symbol, 99.0, 70), (over, symbol, 12.0, 50, AUCTION), (over + S, symbol, 98.0, 9)], over + S),
        mark(over + LATE - 1),
        mark(over + LATE),
    ]
    steps = run(raw)
    assert not days(steps[:-1])
    closed = {(row["interval"], row["time"]) for row in bars(steps[-1:], "final")}
    assert closed == {("1m", over - M), ("5m", over - 5 * M), ("1d", at(session))}
    (day,) = days(steps)
    assert [day[name] for name in NUMBERS] == [10.0, 14.0, 10.0, 12.0, 57.0, 4, True]
    assert day["vwap"] == pytest.approx((10 + 2 * 14 + 4 * 11 + 50 * 12) / 57, rel=1e-12)
    assert (day["revision"], day["history"]) == (0, False)
    statuses = [record.header for record in decoded(steps, schemas.STATUS)]
    assert [
        (status.start_us, status.expected, status.emitted)
        for status in statuses
        if isinstance(status, records.Over) and status.interval == "1d"
    ] == [(at(session), 1, 1)]


@pytest.mark.parametrize(("symbol", "session", "opens", "closes"), SESSIONS)
def test_a_forming_daily_bar_includes_only_ticks_of_the_session(
    symbol: str, session: str, opens: str, closes: str
) -> None:
    first, over = at(opens), at(closes)
    raw = [
        rules(),
        start(start_us=first - HOUR_US, symbols=[symbol]),
        ticks([(first - 1, symbol, 1.0, 1000, EXTENDED)], first - 1),
        mark(first - 1),  # before the session
        ticks([(first, symbol, 10.0, 1)], first),
        mark(first),
        ticks([(over - 1, symbol, 11.0, 4)], over - 1),
        mark(over - 1),
        ticks([(over + LATE, symbol, 99.0, 70)], over + LATE),
        mark(over + LATE),  # after the session: a later tick belongs to no day
    ]
    steps = run(raw)
    forming = [[(row["time"], row["close"], row["volume"]) for row in days([step], "forming")] for step in steps]
    assert [found for index, found in enumerate(forming) if index in (3, 5, 7, 9)] == [
        [], [(at(session), 10.0, 1.0)], [(at(session), 11.0, 5.0)], [],
    ]  # fmt: skip
    (day,) = days(steps)
    assert (day["time"], day["volume"]) == (at(session), 5.0)


@pytest.mark.parametrize(
    ("session", "begins", "opens", "closes", "ends"),
    [
        ("2025-11-28", "2025-11-28T09:00", "2025-11-28T14:30", "2025-11-28T18:00", "2025-11-28T22:00"),
        ("2025-12-24", "2025-12-24T09:00", "2025-12-24T14:30", "2025-12-24T18:00", "2025-12-24T22:00"),
        ("2015-12-24", "2015-12-24T09:00", "2015-12-24T14:30", "2015-12-24T18:00", "2015-12-24T22:00"),
        ("2025-03-07", "2025-03-07T09:00", "2025-03-07T14:30", "2025-03-07T21:00", "2025-03-08T01:00"),
        ("2025-03-10", "2025-03-10T08:00", "2025-03-10T13:30", "2025-03-10T20:00", "2025-03-11T00:00"),
        ("2025-10-31", "2025-10-31T08:00", "2025-10-31T13:30", "2025-10-31T20:00", "2025-11-01T00:00"),
        ("2025-11-03", "2025-11-03T09:00", "2025-11-03T14:30", "2025-11-03T21:00", "2025-11-04T01:00"),
    ],
)
def test_with_extended_hours_the_day_includes_them_and_closes_at_their_end(
    session: str, begins: str, opens: str, closes: str, ends: str
) -> None:
    raw = [
        start(start_us=at(begins) - HOUR_US, symbols=["IBM"]),
        ticks([(at(begins) - 1, "IBM", 1.0, 1000, EXTENDED), (at(begins), "IBM", 9.0, 3, EXTENDED)], at(begins)),
        ticks([(at(opens), "IBM", 10.0, 1), (at(closes) - 1, "IBM", 11.0, 4)], at(closes)),
        ticks([(at(closes) + S, "IBM", 12.0, 50, AUCTION)], at(closes) + S),
        mark(at(closes) + LATE),
        ticks([(at(ends) - 1, "IBM", 8.0, 5, EXTENDED), (at(ends), "IBM", 2.0, 1000, EXTENDED)], at(ends)),
        mark(at(ends) + LATE - 1),
        mark(at(ends) + LATE),
    ]
    extended = run([rules(extended_hours=True), *raw])
    assert not days(extended[:-1])
    (day,) = days(extended[-1:])
    # The auction trade is within the extended hours. The day includes it once.
    assert [day[name] for name in ("time", *NUMBERS)] == [at(session), 9.0, 12.0, 8.0, 8.0, 63.0, 5, True]
    regular = run([rules(), *raw])
    (day,) = days(regular)
    assert [day[name] for name in ("time", *NUMBERS)] == [at(session), 10.0, 12.0, 10.0, 12.0, 55.0, 3, True]
    assert days(regular[5:6]) == [day]


def test_londons_auction_after_the_close_revises_the_day() -> None:
    close = at("2025-03-31T15:30")  # 16:30 in London; the trades of the auction arrive at 16:35
    raw = [
        rules(),
        start(start_us=at("2025-03-31T06:00"), symbols=["VOD.L"]),
        ticks([(at("2025-03-31T07:00"), "VOD.L", 70.0, 10), (close - 1, "VOD.L", 71.0, 20)], close),
        mark(close + LATE),
        ticks([(close + 5 * M, "VOD.L", 72.0, 500, AUCTION), (close + 5 * M, "VOD.L", 60.0, 3)], close + 5 * M),
        mark(close + 10 * M + LATE),
    ]
    steps = run(raw)
    assert [(row["close"], row["volume"], row["revision"]) for row in days(steps)] == [
        (71.0, 30.0, 0), (72.0, 530.0, 1),
    ]  # fmt: skip
    assert of("5m", "VOD.L", steps) == ["2025-03-31T07:00:00Z", "2025-03-31T15:25:00Z", "2025-03-31T15:35:00Z"]
    assert last(steps)["5m", "VOD.L", close + 5 * M]["volume"] == 503.0


def test_the_closing_auction_of_a_half_day_in_hong_kong_is_in_the_daily_bar() -> None:
    noon = at("2025-12-24T04:00")
    raw = [
        rules(),
        start(start_us=at("2025-12-24T01:00"), symbols=["0700.HK"]),
        ticks([(noon - 1, "0700.HK", 600.0, 10)], noon),
        mark(noon + LATE),
        ticks([(noon + 8 * M, "0700.HK", 601.0, 90, AUCTION)], noon + 9 * M),  # 12:08 in Hong Kong
    ]
    assert [(row["close"], row["volume"]) for row in days(run(raw))] == [(600.0, 10.0), (601.0, 100.0)]


@pytest.mark.parametrize(
    ("symbol", "session", "morning", "noon", "afternoon", "close"),
    [
        ("0700.HK", "2025-11-28", "2025-11-28T01:30", "2025-11-28T04:00", "2025-11-28T05:00", "2025-11-28T08:00"),
        ("7203.T", "2024-11-05", "2024-11-05T00:00", "2024-11-05T02:30", "2024-11-05T03:30", "2024-11-05T06:30"),
    ],
)
def test_the_last_morning_bars_close_at_lunch_and_the_daily_bar_includes_the_afternoon(
    symbol: str, session: str, morning: str, noon: str, afternoon: str, close: str
) -> None:
    lunch, again, over = at(noon), at(afternoon), at(close)
    raw = [
        start(start_us=at(morning) - HOUR_US, symbols=[symbol]),
        ticks([(at(morning), symbol, 10.0, 1), (lunch - 1, symbol, 11.0, 2)], lunch),
        mark(lunch + LATE - 1),
        mark(lunch + LATE),
        ticks([(lunch + 3 * S, symbol, 99.0, 100), (again - 1, symbol, 1.0, 100)], again - 1),  # reported at lunch
        ticks([(again, symbol, 12.0, 4), (over - 1, symbol, 13.0, 8)], over),
        mark(over + LATE),
    ]
    steps = run([rules(), *raw])
    assert {(row["interval"], row["time"]) for row in bars(steps[4:5])} == {("1m", lunch - M), ("5m", lunch - 5 * M)}
    assert not days(steps[:-1])
    (day,) = days(steps)
    assert [day[name] for name in ("time", *NUMBERS)] == [at(session), 10.0, 13.0, 10.0, 13.0, 15.0, 4, True]
    # Intraday bars do not depend on the session, so the lunch break has two bars.
    starts = [at(morning), lunch - M, lunch, again - M, again, over - M]
    assert of("1m", symbol, steps) == [iso(start) for start in starts]
    assert of("5m", symbol, steps) == [iso(start - start % (5 * M)) for start in starts]
    extended = run([rules(extended_hours=True), *raw, end()])
    (day,) = days(extended)
    assert [day[name] for name in ("open", "high", "low", "close", "volume")] == [10.0, 99.0, 1.0, 13.0, 215.0]


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize(
    ("symbol", "tick_time", "following"),
    [
        ("IBM", "2025-11-27T17:00", "2025-11-28T18:00"),  # Thanksgiving: noon in New York
        ("IBM", "2025-12-25T17:00", "2025-12-26T21:00"),
        ("VOD.L", "2025-12-26T12:00", "2025-12-29T16:30"),  # Boxing Day
        ("0700.HK", "2025-12-26T02:00", "2025-12-29T08:00"),
        ("7203.T", "2024-11-04T02:00", "2024-11-05T06:30"),  # substitute holiday for Culture Day
        ("IBM", "2025-03-09T17:00", "2025-03-10T20:00"),  # a Sunday
    ],
)
def test_a_holiday_has_intraday_bars_and_no_daily_bar(
    symbol: str, tick_time: str, following: str, extended: bool
) -> None:
    time, close = at(tick_time), at(following)
    raw = [
        rules(extended_hours=extended),
        start(start_us=time - HOUR_US, symbols=[symbol, "BTC-USD"]),
        ticks([(time, symbol, 10.0, 1), (time, symbol, 11.0, 5, AUCTION), (time, "BTC-USD", 9.0, 1)], time),
        mark(time + S),
        mark(time + 24 * HOUR_US),
        ticks([(close - M, symbol, 20.0, 2)], close - S),
        mark(close + 12 * HOUR_US),  # after the extended hours of the session
    ]
    steps = run(raw)
    holiday = time - time % (24 * HOUR_US)
    assert [(row["symbol"], row["time"]) for row in days(steps[:5], None)] == [("BTC-USD", holiday)] * 2
    assert last(steps)["1m", symbol, time]["volume"] == last(steps)["5m", symbol, time]["volume"] == 6.0
    session = close - close % (24 * HOUR_US)
    assert [(row["time"], row["volume"]) for row in days(steps) if row["symbol"] == symbol] == [(session, 2.0)]


@pytest.mark.parametrize("day", ["2025-03-09", "2025-03-30", "2025-11-02", "2025-12-25", "2025-11-29"])
def test_a_day_of_a_24_7_market_is_the_utc_day_in_every_season(day: str) -> None:
    midnight = at(day)
    following = midnight + 24 * HOUR_US
    raw = [
        rules(),
        start(start_us=midnight - HOUR_US, symbols=["BTC-USD"]),
        ticks([(midnight - 1, "BTC-USD", 1.0, 1), (midnight, "BTC-USD", 5.0, 2)], midnight),
        ticks([(following - 1, "BTC-USD", 6.0, 4), (following, "BTC-USD", 7.0, 8)], following),
        mark(following + LATE - 1),
        mark(following + LATE),
    ]
    steps = run(raw)
    assert [row["time"] for row in days(steps[:-1])] == [midnight - 24 * HOUR_US]
    (row,) = days(steps[-1:])
    assert [row[name] for name in ("time", "open", "close", "volume", "complete")] == [midnight, 5.0, 6.0, 6.0, True]


CHRISTMAS_EVE = [
    ("BHP.AX", "2025-12-24T03:10"),
    ("0700.HK", "2025-12-24T04:00"),
    ("7203.T", "2025-12-24T06:30"),
    ("VOD.L", "2025-12-24T12:30"),
    ("IBM", "2025-12-24T18:00"),
    ("BTC-USD", "2025-12-25T00:00"),
]
"""Symbols and UTC closes of the session of 2025-12-24, earliest first. Only the exchange in Tokyo has a full day."""


def christmas_eve(live: bool = False) -> list[bytes]:
    """Return a log with a tick of each symbol half an hour before its close, and two marks after its close."""
    raw = [rules(), start(start_us=at("2025-12-23T20:00"), symbols=[symbol for symbol, _ in CHRISTMAS_EVE], live=live)]
    for symbol, closes in CHRISTMAS_EVE:
        close = at(closes)
        raw += [ticks([(close - 30 * M, symbol, 10.0, 3)], close - 30 * M), mark(close + LATE - 1), mark(close + LATE)]
    return raw


@pytest.mark.parametrize("live", [False, True])
def test_each_symbol_of_a_partition_closes_at_the_close_of_its_exchange(live: bool) -> None:
    steps = run(christmas_eve(live))
    found = [[(row["symbol"], row["time"]) for row in days([step])] for step in steps]
    assert found == [[], [], *(part for symbol, _ in CHRISTMAS_EVE for part in ([], [], [(symbol, at("2025-12-24"))]))]
    assert {(row["volume"], row["complete"]) for row in days(steps)} == {(3.0, True)}


def test_a_snapshot_between_two_closes_changes_nothing() -> None:
    raw = christmas_eve()
    whole = run(raw)
    for cut in (5, 10, 13, 17):
        before = AggregationStage(1)
        steps = run(raw[:cut], before)
        after = AggregationStage(1, before.snapshot())
        steps += run(raw[cut:], after, first=cut)
        assert steps == whole


@pytest.mark.parametrize(
    ("symbol", "weeks"),
    [
        (
            "IBM",
            [
                ("2025-03-06", "2025-03-06T14:30", "2025-03-06T21:00"),
                ("2025-03-07", "2025-03-07T14:30", "2025-03-07T21:00"),
                ("2025-03-10", "2025-03-10T13:30", "2025-03-10T20:00"),
                ("2025-03-11", "2025-03-11T13:30", "2025-03-11T20:00"),
            ],
        ),
        (
            "IBM",
            [
                ("2025-10-30", "2025-10-30T13:30", "2025-10-30T20:00"),
                ("2025-10-31", "2025-10-31T13:30", "2025-10-31T20:00"),
                ("2025-11-03", "2025-11-03T14:30", "2025-11-03T21:00"),
                ("2025-11-04", "2025-11-04T14:30", "2025-11-04T21:00"),
            ],
        ),
        (
            "VOD.L",
            [
                ("2025-03-27", "2025-03-27T08:00", "2025-03-27T16:30"),
                ("2025-03-28", "2025-03-28T08:00", "2025-03-28T16:30"),
                ("2025-03-31", "2025-03-31T07:00", "2025-03-31T15:30"),
                ("2025-04-01", "2025-04-01T07:00", "2025-04-01T15:30"),
            ],
        ),
        (
            "VOD.L",
            [
                ("2025-10-23", "2025-10-23T07:00", "2025-10-23T15:30"),
                ("2025-10-24", "2025-10-24T07:00", "2025-10-24T15:30"),
                ("2025-10-27", "2025-10-27T08:00", "2025-10-27T16:30"),
                ("2025-10-28", "2025-10-28T08:00", "2025-10-28T16:30"),
            ],
        ),
    ],
)
def test_across_a_clock_change_intraday_bars_follow_utc_and_daily_bars_follow_the_session(
    symbol: str, weeks: list[tuple[str, str, str]]
) -> None:
    """Check that the day excludes ticks 1 µs before the open and at the close, before and after the clock change."""
    raw = [rules(), start(start_us=at(weeks[0][1]) - HOUR_US, symbols=[symbol])]
    closed = {}
    for session, opens, closes in weeks:
        first, over = at(opens), at(closes)
        rows = [(first - 1, symbol, 1.0, 100), (first, symbol, 10.0, 1)]
        raw += [ticks([*rows, (over - 1, symbol, 11.0, 2), (over, symbol, 1.0, 100)], over)]
        raw += [mark(over + LATE - 1), mark(over + LATE)]
        closed[len(raw) - 1] = at(session)
    steps = run(raw)
    found = {index: row["time"] for index, step in enumerate(steps) for row in days([step])}
    assert found == closed
    assert {(row["open"], row["close"], row["volume"], row["complete"]) for row in days(steps)} == {
        (10.0, 11.0, 3.0, True)
    }
    bounds = [(at(opens), at(closes)) for _, opens, closes in weeks]
    minutes = [iso(time) for first, over in bounds for time in (first - M, first, over - M, over)]
    fives = [iso(time) for first, over in bounds for time in (first - 5 * M, first, over - 5 * M, over)]
    # The minute after the last close has not ended yet.
    assert of("1m", symbol, steps) == minutes[:-1]
    assert of("5m", symbol, steps) == fives[:-1]


def test_in_the_weeks_between_two_changes_london_and_new_york_overlap_an_hour_longer() -> None:
    """Check which of the ticks at 13:45Z, 15:45Z and 16:15Z are in session by the local clock of each exchange."""
    weeks = {
        "2025-03-07": ({"15:45", "16:15"}, {"13:45", "15:45", "16:15"}),  # winter: 14:30-21:00 and 08:00-16:30
        "2025-03-14": ({"13:45", "15:45", "16:15"}, {"13:45", "15:45", "16:15"}),  # 13:30-20:00 and 08:00-16:30
        "2025-04-04": ({"13:45", "15:45", "16:15"}, {"13:45"}),  # summer: 13:30-20:00 and 07:00-15:30
        "2025-10-29": ({"13:45", "15:45", "16:15"}, {"13:45", "15:45", "16:15"}),
        "2025-11-05": ({"15:45", "16:15"}, {"13:45", "15:45", "16:15"}),
    }
    sizes = {"13:45": 1, "15:45": 2, "16:15": 4}
    for day, (new_york, london) in weeks.items():
        rows = [(at(f"{day}T{time}"), symbol, 1.0, size) for time, size in sizes.items() for symbol in ("IBM", "VOD.L")]
        found = last(run([rules(), start(start_us=at(day), symbols=["IBM", "VOD.L"]), ticks(rows, at(f"{day}T22:00"))]))
        assert found["1d", "IBM", at(day)]["volume"] == sum(sizes[time] for time in new_york), day
        assert found["1d", "VOD.L", at(day)]["volume"] == sum(sizes[time] for time in london), day
        assert {time for interval, _, time in found if interval == "1m"} == {row[0] for row in rows}


def test_a_daily_bar_closes_at_the_session_close_without_a_tick_near_the_close() -> None:
    open_, close = at("2025-11-28T14:30"), at("2025-11-28T18:00")
    raw = [
        rules(),
        start(start_us=open_, symbols=["IBM", "QUIET", "SILENT"], live=True),
        ticks([(open_ + 30 * M, "QUIET", 10.0, 1)], open_ + 31 * M),
        mark(close + LATE - 1),
        mark(close + LATE),
        ticks([(at("2025-12-01T14:30"), "QUIET", 12.0, 1)], at("2025-12-01T14:30")),  # first tick of the next session
    ]
    steps = run(raw)
    assert [[row["symbol"] for row in days([step])] for step in steps] == [[], [], [], [], ["QUIET"], []]


def test_a_late_tick_before_the_close_of_a_half_day_revises_it_and_a_tick_after_the_close_does_not() -> None:
    close = at("2025-11-28T18:00")
    raw = [
        rules(),
        start(start_us=at("2025-11-28T14:00"), symbols=["IBM"]),
        ticks([(close - M, "IBM", 10.0, 1)], close + M),
        ticks([(close - 2 * M, "IBM", 12.0, 2)], close + 2 * M),
        ticks([(close + M, "IBM", 50.0, 100)], close + 4 * M),  # within the hours of a full day
    ]
    assert [(row["high"], row["volume"], row["revision"], row["reason"]) for row in days(run(raw))] == [
        (10.0, 1.0, 0, "parts"), (12.0, 3.0, 1, "late"),
    ]  # fmt: skip


def test_a_week_of_hourly_ticks_makes_the_days_of_each_exchange() -> None:
    """Check the daily bars of Thanksgiving week 2025, with the holidays, hours and lunch breaks of each exchange."""
    symbols = ["BHP.AX", "7203.T", "0700.HK", "VOD.L", "IBM", "BTC-USD"]
    first, over = at("2025-11-23T22:00"), at("2025-11-29T02:00")
    raw = [rules(), start(start_us=first, symbols=symbols)]
    for time in range(first, over, HOUR_US):
        raw.append(ticks([(time, symbol, 1.0, 1) for symbol in symbols], time))
    week = ["2025-11-24", "2025-11-25", "2025-11-26", "2025-11-27", "2025-11-28"]
    expected = {
        "BHP.AX": dict.fromkeys(week, 6.0),  # ticks at 23Z of the previous day, 0Z, 1Z, 2Z, 3Z, 4Z
        "7203.T": dict.fromkeys(week[1:], 6.0),  # ticks at 0Z to 2Z and 4Z to 6Z; the 24th is a holiday
        "0700.HK": dict.fromkeys(week, 5.0),  # ticks at 2Z, 3Z and 5Z, 6Z, 7Z
        "VOD.L": dict.fromkeys(week, 9.0),  # ticks at 8Z to 16Z
        "IBM": {**dict.fromkeys(week[:3], 6.0), "2025-11-28": 3.0},  # ticks at 15Z to 20Z; 15Z to 17Z on the 28th
        "BTC-USD": {"2025-11-23": 2.0, **dict.fromkeys(week, 24.0)},
    }
    found = days(run(raw))
    assert {row["revision"] for row in found} == {0}
    volumes = {(row["symbol"], row["time"]): row["volume"] for row in found}
    assert volumes == {(name, at(day)): size for name, sizes in expected.items() for day, size in sizes.items()}
