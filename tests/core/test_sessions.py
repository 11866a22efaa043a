"""Calendars against hours copied by hand from the exchanges' own pages."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from exchange_calendars.calendar_utils import global_calendar_dispatcher

from tickerplant.core import schedules, sessions
from tickerplant.core.errors import ConfigError
from tickerplant.core.rules import Rules
from tickerplant.core.sessions import NO_SESSION, Calendars, calendar, end_of
from tickerplant.core.times import DAY_US, FOREVER_US, HOUR_US, NEVER_US, iso, micros_of


def at(text: str) -> int:
    return micros_of(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))


def times(*texts: str) -> np.ndarray:
    return np.array([at(text) for text in texts], dtype=np.int64)


@pytest.mark.parametrize(
    ("name", "session", "opens", "closes"),
    [
        ("XNYS", "2025-11-26", "2025-11-26T14:30", "2025-11-26T21:00"),
        ("XNYS", "2025-11-28", "2025-11-28T14:30", "2025-11-28T18:00"),  # the day after Thanksgiving: 13:00 in New York
        ("XNYS", "2026-03-06", "2026-03-06T14:30", "2026-03-06T21:00"),  # the last session before US summer time
        ("XNYS", "2026-03-09", "2026-03-09T13:30", "2026-03-09T20:00"),  # the first session of US summer time
        ("XLON", "2026-03-09", "2026-03-09T08:00", "2026-03-09T16:30"),  # London changes three weeks later
        ("XLON", "2026-03-30", "2026-03-30T07:00", "2026-03-30T15:30"),
        ("XNYS", "2012-06-21", "2012-06-21T13:30", "2012-06-21T20:00"),
        ("XHKG", "2026-01-05", "2026-01-05T01:30", "2026-01-05T08:00"),
        ("24/7", "2026-01-03", "2026-01-03", "2026-01-04"),
    ],
)
def test_a_session_has_the_published_open_and_close(name: str, session: str, opens: str, closes: str) -> None:
    known = calendar(name)
    assert iso(int(known.open_of(times(session))[0])) == iso(at(opens))
    assert iso(int(known.close_of(times(session))[0])) == iso(at(closes))
    inside = times(opens, closes)
    assert known.is_regular(np.array([inside[0] - 1, inside[0], inside[1] - 1, inside[1]])).tolist()[1:3] == [
        True,
        True,
    ]
    assert known.session_of(np.array([inside[0], inside[1] - 1])).tolist() == [at(session)] * 2


def test_holidays_weekends_and_times_within_a_day_are_no_sessions() -> None:
    # Thanksgiving is 2025-11-27; no schedule includes 1700 or 2400.
    dates = times(
        "1700-01-03", "2025-11-26", "2025-11-27", "2025-11-28", "2025-11-28T14:30", "2025-11-29", "2400-01-03"
    )
    assert calendar("XNYS").is_session(dates).tolist() == [False, True, False, True, False, False, False]
    assert calendar("24/7").is_session(dates).tolist() == [True, True, True, True, False, True, True]


# New York (NYSE Group, Holidays & Trading Hours): 9:30 a.m. to 4:00 p.m. Eastern Time. The close is at 1:00 p.m. on the
# day after Thanksgiving, on Christmas Eve and on 2025-07-03. Electronic trading is from 4:00 a.m. to 8:00 p.m., and to
# 5:00 p.m. on days of an early close. Eastern Time is UTC-5; it is UTC-4 from the second Sunday of March (2025-03-09)
# to the first Sunday of November (2025-11-02).
# London: 08:00 to 16:30 London time. The close is at 12:30 on the last business days before Christmas and New Year.
# London is at UTC; it is at UTC+1 from the last Sunday of March (2025-03-30) to the last of October (2025-10-26).
# Hong Kong (HKEX): 09:30 to 12:00 and 13:00 to 16:00, UTC+8. The eves of Christmas, New Year and the Lunar New Year
# have no afternoon. Tokyo (JPX): 09:00 to 11:30 and 12:30 to 15:00, UTC+9. The close is at 15:30 from 2024-11-05 on.
# Australia (ASX): 10:00 to 16:00 Sydney time, UTC+10, in summer UTC+11. The close is at 14:10 on Christmas Eve.
@pytest.mark.parametrize(
    ("name", "session", "opens", "closes"),
    [
        ("XNYS", "2025-07-03", "2025-07-03T13:30", "2025-07-03T17:00"),
        ("XNYS", "2025-12-24", "2025-12-24T14:30", "2025-12-24T18:00"),
        ("XNYS", "2015-12-24", "2015-12-24T14:30", "2015-12-24T18:00"),
        ("XLON", "2025-12-24", "2025-12-24T08:00", "2025-12-24T12:30"),
        ("XLON", "2015-12-24", "2015-12-24T08:00", "2015-12-24T12:30"),
        ("XLON", "2025-12-31", "2025-12-31T08:00", "2025-12-31T12:30"),
        ("XHKG", "2025-12-24", "2025-12-24T01:30", "2025-12-24T04:00"),
        ("XASX", "2025-12-24", "2025-12-23T23:00", "2025-12-24T03:10"),
        ("XNYS", "2025-03-07", "2025-03-07T14:30", "2025-03-07T21:00"),  # both in winter: five hours apart
        ("XLON", "2025-03-07", "2025-03-07T08:00", "2025-03-07T16:30"),
        ("XNYS", "2025-03-10", "2025-03-10T13:30", "2025-03-10T20:00"),  # only New York in summer: four hours apart
        ("XLON", "2025-03-10", "2025-03-10T08:00", "2025-03-10T16:30"),
        ("XNYS", "2025-03-28", "2025-03-28T13:30", "2025-03-28T20:00"),
        ("XLON", "2025-03-28", "2025-03-28T08:00", "2025-03-28T16:30"),
        ("XNYS", "2025-03-31", "2025-03-31T13:30", "2025-03-31T20:00"),  # both in summer
        ("XLON", "2025-03-31", "2025-03-31T07:00", "2025-03-31T15:30"),
        ("XNYS", "2025-10-24", "2025-10-24T13:30", "2025-10-24T20:00"),
        ("XLON", "2025-10-24", "2025-10-24T07:00", "2025-10-24T15:30"),
        ("XNYS", "2025-10-27", "2025-10-27T13:30", "2025-10-27T20:00"),  # only New York in summer: four hours apart
        ("XLON", "2025-10-27", "2025-10-27T08:00", "2025-10-27T16:30"),
        ("XNYS", "2025-10-31", "2025-10-31T13:30", "2025-10-31T20:00"),
        ("XLON", "2025-10-31", "2025-10-31T08:00", "2025-10-31T16:30"),
        ("XNYS", "2025-11-03", "2025-11-03T14:30", "2025-11-03T21:00"),  # both in winter
        ("XLON", "2025-11-03", "2025-11-03T08:00", "2025-11-03T16:30"),
        ("XTKS", "2024-11-01", "2024-11-01T00:00", "2024-11-01T06:00"),  # the last day that closed at 15:00
        ("XTKS", "2024-11-05", "2024-11-05T00:00", "2024-11-05T06:30"),
        ("XHKG", "2025-03-10", "2025-03-10T01:30", "2025-03-10T08:00"),  # no summer time in Asia
        ("XTKS", "2025-11-04", "2025-11-04T00:00", "2025-11-04T06:30"),
        ("XASX", "2025-10-03", "2025-10-03T00:00", "2025-10-03T06:00"),
        ("XASX", "2025-10-06", "2025-10-05T23:00", "2025-10-06T05:00"),  # opens on the UTC day before its date
        ("24/7", "2025-03-09", "2025-03-09", "2025-03-10"),  # a UTC day has 24 hours in any season
        ("24/7", "2025-11-02", "2025-11-02", "2025-11-03"),
    ],
)
def test_half_days_and_summer_time_are_those_of_the_published_hours(
    name: str, session: str, opens: str, closes: str
) -> None:
    known = calendar(name)
    assert iso(int(known.open_of(times(session))[0])) == iso(at(opens))
    assert iso(int(known.close_of(times(session))[0])) == iso(at(closes))
    edges = np.array([at(opens) - 1, at(opens), at(closes) - 1, at(closes)])
    always = name == "24/7"
    assert known.is_regular(edges).tolist() == [always, True, True, always]
    assert known.session_of(edges[1:3]).tolist() == [at(session)] * 2


@pytest.mark.parametrize(
    ("name", "session", "begins", "ends"),
    [
        ("XNYS", "2025-03-07", "2025-03-07T09:00", "2025-03-08T01:00"),  # 4:00 a.m. to 8:00 p.m. in winter
        ("XNYS", "2025-03-10", "2025-03-10T08:00", "2025-03-11T00:00"),  # the same hours in summer
        ("XNYS", "2025-10-31", "2025-10-31T08:00", "2025-11-01T00:00"),
        ("XNYS", "2025-11-03", "2025-11-03T09:00", "2025-11-04T01:00"),
        ("XNYS", "2025-07-03", "2025-07-03T08:00", "2025-07-03T21:00"),  # an early closing: late trading to 5:00 p.m.
        ("XNYS", "2025-11-28", "2025-11-28T09:00", "2025-11-28T22:00"),
        ("XNYS", "2025-12-24", "2025-12-24T09:00", "2025-12-24T22:00"),
        ("XNYS", "2015-12-24", "2015-12-24T09:00", "2015-12-24T22:00"),
    ],
)
def test_extended_hours_end_earlier_on_half_days(name: str, session: str, begins: str, ends: str) -> None:
    known = calendar(name)
    assert [iso(int(bound[0])) for bound in known.bounds_of(times(session))] == [iso(at(begins)), iso(at(ends))]
    edges = np.array([at(begins) - 1, at(begins), at(ends) - 1, at(ends)])
    assert known.session_of(edges).tolist() == [NO_SESSION, at(session), at(session), NO_SESSION]
    assert not known.is_regular(edges).any()


@pytest.mark.parametrize(
    ("name", "day", "noon"),
    [
        ("XNYS", "2025-01-09", "2025-01-09T17:00"),  # closed to mourn President Carter, announced ten days before
        ("XNYS", "2025-04-18", "2025-04-18T17:00"),  # Good Friday
        ("XNYS", "2025-06-19", "2025-06-19T17:00"),  # Juneteenth
        ("XNYS", "2025-11-27", "2025-11-27T17:00"),  # Thanksgiving
        ("XNYS", "2025-12-25", "2025-12-25T17:00"),
        ("XNYS", "2012-10-29", "2012-10-29T17:00"),  # Hurricane Sandy
        ("XLON", "2025-05-26", "2025-05-26T11:00"),  # Spring bank holiday
        ("XLON", "2025-12-26", "2025-12-26T12:00"),  # Boxing Day
        ("XHKG", "2026-02-17", "2026-02-17T03:00"),  # Lunar New Year
        ("XTKS", "2024-11-04", "2024-11-04T03:00"),  # Culture Day, in lieu
        ("XTKS", "2025-12-31", "2025-12-31T03:00"),
    ],
)
def test_a_holiday_is_no_session(name: str, day: str, noon: str) -> None:
    known = calendar(name)
    hours = np.arange(at(noon) - 6 * HOUR_US, at(noon) + 6 * HOUR_US, HOUR_US)
    assert set(known.session_of(hours).tolist()) == {NO_SESSION}
    assert not known.is_regular(hours).any()
    for asked in (known.open_of, known.close_of, known.bounds_of):
        with pytest.raises(ValueError, match="not sessions"):
            asked(times(day))


def test_a_holiday_of_one_exchange_can_be_a_session_of_another() -> None:
    boxing_day = times("2025-12-26T15:00")  # New York trades, London and Hong Kong do not
    assert calendar("XNYS").session_of(boxing_day).tolist() == [at("2025-12-26")]
    assert calendar("XLON").session_of(boxing_day).tolist() == [NO_SESSION]
    assert calendar("XHKG").session_of(times("2025-12-26T03:00")).tolist() == [NO_SESSION]
    assert calendar("24/7").session_of(times("2025-12-25T03:00")).tolist() == [at("2025-12-25")]


def test_tokyo_has_a_lunch_break_and_hong_kong_has_none_on_a_half_day() -> None:
    asked = times(
        "2025-11-04T02:29:59.999999", "2025-11-04T02:30", "2025-11-04T03:29:59.999999", "2025-11-04T03:30",
    )  # fmt: skip
    assert calendar("XTKS").is_regular(asked).tolist() == [True, False, False, True]
    half = times("2025-12-24T03:59:59.999999", "2025-12-24T04:00", "2025-12-24T05:00", "2025-12-24T07:59:59.999999")
    assert calendar("XHKG").is_regular(half).tolist() == [True, False, False, False]


def test_regular_hours_are_half_open_and_exclude_the_lunch_break() -> None:
    known = calendar("XHKG")
    asked = times(
        "2026-01-05T01:29:59.999999", "2026-01-05T01:30", "2026-01-05T03:59:59.999999", "2026-01-05T04:00",
        "2026-01-05T04:59:59.999999", "2026-01-05T05:00", "2026-01-05T07:59:59.999999", "2026-01-05T08:00",
    )  # fmt: skip
    assert known.is_regular(asked).tolist() == [False, True, True, False, False, True, True, False]
    assert set(known.session_of(asked).tolist()) == {at("2026-01-05")}


def test_extended_hours_belong_to_a_session_and_nights_and_holidays_to_no_session() -> None:
    known = calendar("XNYS")
    asked = times(
        "2026-01-05T08:59", "2026-01-05T09:00", "2026-01-05T22:00", "2026-01-06T00:59", "2026-01-06T01:00",
        "2026-01-03T15:00", "2025-12-25T15:00",
    )  # fmt: skip
    day = at("2026-01-05")
    assert known.session_of(asked).tolist() == [NO_SESSION, day, day, day, NO_SESSION, NO_SESSION, NO_SESSION]
    assert not known.is_regular(asked).any()


def test_there_is_no_session_outside_the_calendars_bounds() -> None:
    known = calendar("XNYS")
    asked = np.array([NEVER_US, at("1900-01-02T15:00"), at("2100-01-04T15:00"), FOREVER_US])
    assert known.session_of(asked).tolist() == [NO_SESSION] * 4
    assert not known.is_regular(asked).any()
    begin, end = known.bounds()
    assert begin < at("1990-01-01") < at("2035-12-31") < end
    with pytest.raises(ValueError, match="not sessions"):
        known.open_of(times("2026-01-03"))


def test_start_of_last_sessions_counts_sessions_that_have_begun() -> None:
    known = calendar("XNYS")
    # Monday before and during the session, Tuesday before the session.
    asked = times("2026-01-05T08:00", "2026-01-05T15:00", "2026-01-06T08:59")
    found = known.start_of_last_sessions(asked, 1).tolist()
    assert found == times("2026-01-02", "2026-01-05", "2026-01-05").tolist()
    assert known.start_of_last_sessions(asked, 2).tolist() == times("2025-12-31", "2026-01-02", "2026-01-02").tolist()
    always = calendar("24/7").start_of_last_sessions(asked, 2).tolist()
    assert always == [at("2026-01-04"), at("2026-01-04"), at("2026-01-05")]


def test_sessions_do_not_overlap_even_if_trading_never_stops() -> None:
    known = calendar("CMES")
    hours = np.arange(at("2026-01-05"), at("2026-01-09"), DAY_US // 96)
    sessions = known.session_of(hours)
    assert (np.diff(sessions[sessions != NO_SESSION]) >= 0).all()


def test_a_symbols_calendar_is_that_of_the_first_matching_pattern() -> None:
    found = Calendars(Rules())
    assert [found.of(s).name for s in ("AAPL", "BTC-USD", "ETH/USD", "ETHUSDT")] == ["XNYS", "24/7", "24/7", "24/7"]
    assert Calendars(Rules(calendars={"*.L": "XLON"})).of("AAPL").name == "24/7"
    with pytest.raises(ConfigError, match="unknown calendar 'NOWHERE'"):
        Calendars(Rules(calendars={"*": "NOWHERE"})).check()


def test_a_calendar_that_the_library_cannot_create_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        bound_min = bound_max = staticmethod(lambda: None)

        def __init__(self, **_: str) -> None:
            raise NotImplementedError("implemented by subclasses")

    monkeypatch.setitem(global_calendar_dispatcher._calendar_factories, "XBRK", Broken)
    with pytest.raises(ConfigError, match=r"cannot create the calendar 'XBRK'.*implemented by subclasses"):
        Calendars(Rules(calendars={"*": "XBRK"})).check()


@pytest.mark.parametrize("name", ["XNYS", "XLON", "XHKG", "CMES", "XFRA", "HKEX"])
def test_a_packaged_schedule_equals_the_librarys(name: str) -> None:
    packaged, made = schedules.packaged_schedule(name), schedules.library_schedule(name)
    assert packaged is not None, "the file is from another version of exchange_calendars: run tools/calendars.py"
    assert packaged.keys() == made.keys()
    for part, values in made.items():
        assert packaged[part].dtype == values.dtype
        assert (packaged[part] == values).all()


@pytest.mark.parametrize(
    ("name", "session", "extended", "end"),
    [
        ("XNYS", "2025-11-28", False, "2025-11-28T18:00"),
        ("XNYS", "2025-11-28", True, "2025-11-28T22:00"),
        ("XNYS", "2025-11-29", True, "2025-11-30"),  # a Saturday
        ("24/7", "2025-11-29", False, "2025-11-30"),
    ],
)
def test_a_session_ends_at_its_close_or_with_its_extended_hours(
    name: str, session: str, extended: bool, end: str
) -> None:
    assert iso(end_of(calendar(name), at(session), extended=extended)) == iso(at(end))


def test_a_limited_number_of_symbols_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_KEPT", 10)
    calendars, names = Calendars(Rules(calendars={"NIKK": "XTKS"})), [f"S{number}" for number in range(1_000)]
    assert calendars.of("NIKK").name == "XTKS"
    assert {calendars.of(name).name for name in names} == {"24/7"}
    assert [name for name in ("NIKK", *names) if calendars.loaded(name)] == ["NIKK", *names[:8], names[-1]]
    assert calendars.of("NIKK").name == "XTKS"
