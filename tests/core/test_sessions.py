"""Calendars against hours written down by hand from the exchanges' own pages."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from tickerplant.core import sessions
from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import NO_SESSION, Calendars, calendar
from tickerplant.core.times import DAY_US, FOREVER_US, NEVER_US, iso, to_us


def at(text: str) -> int:
    return to_us(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def times(*texts: str) -> np.ndarray:
    return np.array([at(text) for text in texts], dtype=np.int64)


@pytest.mark.parametrize(
    ("name", "session", "opens", "closes"),
    [
        ("XNYS", "2025-11-26", "2025-11-26T14:30", "2025-11-26T21:00"),
        ("XNYS", "2025-11-28", "2025-11-28T14:30", "2025-11-28T18:00"),  # the day after Thanksgiving: 13:00 in New York
        ("XNYS", "2026-03-06", "2026-03-06T14:30", "2026-03-06T21:00"),  # the week before US summer time …
        ("XNYS", "2026-03-09", "2026-03-09T13:30", "2026-03-09T20:00"),  # … and after
        ("XLON", "2026-03-09", "2026-03-09T08:00", "2026-03-09T16:30"),  # London changes three weeks later
        ("XLON", "2026-03-30", "2026-03-30T07:00", "2026-03-30T15:30"),
        ("XNYS", "2012-06-21", "2012-06-21T13:30", "2012-06-21T20:00"),
        ("XHKG", "2026-01-05", "2026-01-05T01:30", "2026-01-05T08:00"),
        ("24/7", "2026-01-03", "2026-01-03", "2026-01-04"),
    ],
)
def test_a_session_opens_and_closes_when_the_exchange_says(name: str, session: str, opens: str, closes: str) -> None:
    known = calendar(name)
    assert iso(int(known.open_of(times(session))[0])) == iso(at(opens))
    assert iso(int(known.close_of(times(session))[0])) == iso(at(closes))
    inside = times(opens, closes)
    assert known.is_regular(np.array([inside[0] - 1, inside[0], inside[1] - 1, inside[1]])).tolist()[1:3] == [
        True,
        True,
    ]
    assert known.session_of(np.array([inside[0], inside[1] - 1])).tolist() == [at(session)] * 2


def test_regular_hours_are_half_open_and_leave_out_the_lunch_break() -> None:
    known = calendar("XHKG")
    asked = times(
        "2026-01-05T01:29:59.999999", "2026-01-05T01:30", "2026-01-05T03:59:59.999999", "2026-01-05T04:00",
        "2026-01-05T04:59:59.999999", "2026-01-05T05:00", "2026-01-05T07:59:59.999999", "2026-01-05T08:00",
    )  # fmt: skip
    assert known.is_regular(asked).tolist() == [False, True, True, False, False, True, True, False]
    assert set(known.session_of(asked).tolist()) == {at("2026-01-05")}


def test_extended_hours_belong_to_the_sessions_date_and_nights_and_holidays_to_none() -> None:
    known = calendar("XNYS")
    asked = times(
        "2026-01-05T08:59", "2026-01-05T09:00", "2026-01-05T22:00", "2026-01-06T00:59", "2026-01-06T01:00",
        "2026-01-03T15:00", "2025-12-25T15:00",
    )  # fmt: skip
    day = at("2026-01-05")
    assert known.session_of(asked).tolist() == [NO_SESSION, day, day, day, NO_SESSION, NO_SESSION, NO_SESSION]
    assert not known.is_regular(asked).any()


def test_outside_of_what_is_known_there_is_no_session() -> None:
    known = calendar("XNYS")
    asked = np.array([NEVER_US, at("1900-01-02T15:00"), at("2100-01-04T15:00"), FOREVER_US])
    assert known.session_of(asked).tolist() == [NO_SESSION] * 4
    assert not known.is_regular(asked).any()
    begin, end = known.bounds()
    assert begin < at("1990-01-01") < at("2035-12-31") < end
    with pytest.raises(ValueError, match="not sessions"):
        known.open_of(times("2026-01-03"))


def test_the_last_sessions_that_have_begun_are_remembered() -> None:
    known = calendar("XNYS")
    asked = times("2026-01-05T08:00", "2026-01-05T15:00", "2026-01-06T08:59")  # Monday before and in session, Tuesday
    found = known.remembered_from(asked, 1).tolist()
    assert found == times("2026-01-02", "2026-01-05", "2026-01-05").tolist()
    assert known.remembered_from(asked, 2).tolist() == times("2025-12-31", "2026-01-02", "2026-01-02").tolist()
    always = calendar("24/7").remembered_from(asked, 2).tolist()
    assert always == [at("2026-01-04"), at("2026-01-04"), at("2026-01-05")]


def test_sessions_do_not_overlap_even_where_trading_goes_on_all_day() -> None:
    known = calendar("CMES")
    hours = np.arange(at("2026-01-05"), at("2026-01-09"), DAY_US // 96)
    sessions = known.session_of(hours)
    assert (np.diff(sessions[sessions != NO_SESSION]) >= 0).all()


def test_a_symbols_calendar_is_the_first_pattern_that_fits() -> None:
    found = Calendars(Rules())
    assert [found.of(s).name for s in ("AAPL", "BTC-USD", "ETH/USD", "ETHUSDT")] == ["XNYS", "24/7", "24/7", "24/7"]
    assert Calendars(Rules(calendars={"*.L": "XLON"})).of("AAPL").name == "24/7"
    with pytest.raises(ConfigError, match="unknown calendar 'NOWHERE'"):
        Calendars(Rules(calendars={"*": "NOWHERE"})).check()


def test_the_kept_schedules_are_the_library_s() -> None:
    for name in sessions.KEPT_CALENDARS:
        kept, made = sessions.kept_schedule(name), sessions.made_schedule(name)
        assert kept is not None, "written under another version of exchange_calendars: run tools/calendars.py"
        assert kept.keys() == made.keys()
        for part, values in made.items():
            assert kept[part].dtype == values.dtype
            assert (kept[part] == values).all()
