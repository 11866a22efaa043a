"""Times that users give: each value has the instant, the clock or the date that was worked out by hand.

1711584000 is 2024-03-28 00:00 UTC, 1711618200 is 09:30 UTC, and 1711611000 is 07:30 UTC of the same day.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from tickerplant.core.errors import BadInput
from tickerplant.core.time_column import TimeColumn, parse_instant
from tickerplant.core.time_values import DATE, INVALID, LOCAL, NUMBER, OFFSET, UTC, order_of, parse_times

NOON = 1711627200_000_000  # 2024-03-28 12:00 UTC

INSTANTS = {
    "1711627200": NUMBER,
    "1711627200000": NUMBER,
    "1711627200000000": NUMBER,
    "1711627200000000000": NUMBER,
    "1711627200.000000": NUMBER,
    "2024-03-28T12:00Z": UTC,
    "2024-03-28 12:00:00+00:00": UTC,
    "2024-03-28 12:00:00 UTC": UTC,
    "20240328T120000Z": UTC,
    "2024-03-28T12:00:00.000000000Z": UTC,
    "2024-03-28 13:00:00+01:00": OFFSET,
    "2024-03-28T08:00:00-0400": OFFSET,
    "28.03.2024 13:00:00.000 GMT+0100": OFFSET,
    "2024-03-28T21:00+09:00[Asia/Tokyo]": OFFSET,
    "2024.03.28 12:00": LOCAL,
    "2024-3-28 12:00": LOCAL,
    "2024/03/28, 12:00": LOCAL,
    "202403281200": LOCAL,
    "20240328120000": LOCAL,
    "20240328120000000": LOCAL,
    "20240328 1200": LOCAL,
    "20240328 120000000": LOCAL,
    "28.03.2024 12:00": LOCAL,
    "28/3/2024 12:00 PM": LOCAL,
    "28-03-2024 12:00:00": LOCAL,
    "28 Mar 2024 12:00": LOCAL,
    "Mar 28, 2024 12:00 pm": LOCAL,
}


def test_each_spelling_of_an_instant_has_its_time() -> None:
    texts = [*INSTANTS, "2024-03-28 13:00"]  # an hour above 12 shows that the times without AM and PM have 24 hours
    values = parse_times(pa.array(texts), "dmy")
    assert dict(zip(INSTANTS, values.us[:-1].tolist(), strict=True)) == dict.fromkeys(INSTANTS, NOON)
    assert dict(zip(INSTANTS, values.kind[:-1].tolist(), strict=True)) == INSTANTS
    assert not values.reasons


@pytest.mark.parametrize("text", INSTANTS)
def test_a_column_of_one_spelling_equals_the_mixed_column(text: str) -> None:
    values = parse_times(pa.array([text] * 3), "dmy")
    assert (values.kind.tolist(), values.us.tolist()) == ([INSTANTS[text]] * 3, [NOON] * 3)


@pytest.mark.parametrize(
    "value",
    ["2024-03-28", "20240328", "2024.03.28", "2024/3/28", "28.03.2024", "28-Mar-2024", "March 28, 2024", "20240328.0"],
)
def test_a_date_is_a_date(value: str) -> None:
    values = parse_times(pa.array([value]), "dmy")
    assert (values.kind.tolist(), values.us.tolist()) == ([DATE], [1711584000_000_000])


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(20, 0)])
def test_numbers_of_each_type_are_dates_and_times(kind: pa.DataType) -> None:
    numbers = [20240328, None] if kind == pa.int32() else [20240328, None, 1711627200, 1711627200000]
    values = parse_times(pa.array(numbers).cast(kind))
    assert values.kind.tolist() == [DATE, INVALID, NUMBER, NUMBER][: len(numbers)]
    assert values.us.tolist() == [1711584000_000_000, 0, NOON, NOON][: len(numbers)]
    assert values.reasons == {1: "the time is missing"}


@pytest.mark.parametrize(
    ("first", "then"), [(1711627200, 1711627260_000), (1711627200_000_000, 1711627260), (1711627200_000, 20240328)]
)
def test_the_unit_belongs_to_each_number(first: int, then: int) -> None:
    expected = [NOON, 1711584000_000_000 if then == 20240328 else NOON + 60_000_000]
    for column in (pa.array([first, then]), pa.array([str(first), str(then)])):
        assert parse_times(column).us.tolist() == expected


@pytest.mark.parametrize(
    "number", [45379, 45379.396, 0, -1, 19, 2024, 99999999, 20240230, 202403282460, 315532799, 1e12]
)
def test_a_number_that_is_no_time_since_1980_is_refused_with_the_number(number: float) -> None:
    if number == 1e12:
        assert parse_times(pa.array([number])).kind.tolist() == [NUMBER]  # 2001-09-09 in milliseconds
        return
    values = parse_times(pa.array([number]))
    assert values.kind.tolist() == [INVALID]
    assert values.reasons[0].startswith(f"{number} is not a time")
    assert ("Excel's number of 2024-03-28" in values.reasons[0]) == (int(number) == 45379)


def test_a_fraction_of_a_second_is_exact() -> None:
    texts = ["1711627200.000001", "1711627200.5", "1711627200123.456", "2024-03-28T12:00:00,25Z"]
    assert parse_times(pa.array(texts)).us.tolist() == [NOON + 1, NOON + 500_000, NOON + 123_456, NOON + 250_000]
    assert parse_times(pa.array([1711627200.5])).us.tolist() == [NOON + 500_000]


def test_times_before_noon_and_after_midnight_keep_their_half_of_the_day() -> None:
    texts = ["3/28/2024 12:30 AM", "3/28/2024 9:30:00 AM", "3/28/2024 12:30 PM", "3/28/2024 4:00 p.m."]
    clocks = [
        np.datetime64(us, "us").item().strftime("%H:%M") for us in parse_times(pa.array(texts), "mdy").us.tolist()
    ]
    assert clocks == ["00:30", "09:30", "12:30", "16:00"]


def test_an_invalid_text_is_named_and_the_others_are_read() -> None:
    values = parse_times(pa.array(["2024-02-30", "yesterday", "", None, "2024-03-28T12:00Z"]))
    advice = "write it like 2024-03-28T09:30:00Z, or like 2024-03-28"
    assert values.reasons == {
        0: f"'2024-02-30' is not a time; {advice}",
        1: f"'yesterday' is not a time; {advice}",
        2: "the time is missing",
        3: "the time is missing",
    }
    assert values.us.tolist() == [0, 0, 0, 0, NOON]


def test_a_date_without_a_valid_month_shows_no_order() -> None:
    assert order_of(pa.array(["13/13/2024", "04/14/2024"])) == ("mdy", None)


def test_the_order_of_day_and_month_follows_from_one_value_or_from_dots() -> None:
    assert order_of(pa.array(["3/4/2024", "3/13/2024"])) == ("mdy", None)
    assert order_of(pa.array(["3/4/2024", "13/3/2024"])) == ("dmy", None)
    assert order_of(pa.array(["03.04.2024 00:01"])) == ("dmy", "03.04.2024 00:01")
    assert order_of(pa.array(["03.04.2024", "13.04.2024"])) == ("dmy", None)
    assert order_of(pa.array(["3/4/2024"])) == (None, "3/4/2024")
    assert order_of(pa.array(["2024-03-04", "20240304"])) == (None, None)


def test_a_dictionary_equals_its_values() -> None:
    texts = ["2024-03-28T12:00Z", None, "never", "2024-03-28T12:00Z"]
    values = parse_times(pa.array(texts).dictionary_encode())
    plain = parse_times(pa.array(texts))
    assert (values.kind.tolist(), values.us.tolist(), values.reasons) == (
        plain.kind.tolist(),
        plain.us.tolist(),
        plain.reasons,
    )


# Columns ------------------------------------------------------------------------------------------------------------


def dates_of(column: pa.Array, tz: str | None = None) -> tuple[list[str], dict[int, str]]:
    """Return the sessions' dates of a column of daily bars, and the reasons of invalid rows."""
    rows = len(column)
    us, reasons = TimeColumn(tz=tz).read(column, np.zeros(rows, np.int32), np.ones(rows, np.bool_))
    return [str(np.datetime64(at, "us"))[:10] for at in us.tolist()], reasons


MIDNIGHTS = [dt.datetime(2024, 3, 28), dt.datetime(2024, 4, 2)]
"""Berlin has +01:00 on the first day and +02:00 on the second."""


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Tokyo", "America/New_York", "Pacific/Auckland", "UTC"])
def test_the_date_of_a_session_is_the_date_that_is_written(zone: str) -> None:
    local = [moment.replace(tzinfo=ZoneInfo(zone)) for moment in MIDNIGHTS]
    for column in (pa.array([str(moment) for moment in local]), pa.array(local, pa.timestamp("us", tz=zone))):
        assert dates_of(column) == (["2024-03-28", "2024-04-02"], {})
        assert dates_of(column, "America/New_York") == (["2024-03-28", "2024-04-02"], {})
    numbers = pa.array([int(moment.timestamp()) for moment in local])
    assert dates_of(numbers, zone) == (["2024-03-28", "2024-04-02"], {})
    if zone == "UTC":
        assert dates_of(numbers) == (["2024-03-28", "2024-04-02"], {})
        assert dates_of(numbers, "America/New_York") == (["2024-03-28", "2024-04-02"], {})
    else:
        assert list(dates_of(numbers)[1]) == [0, 1]


def test_an_instant_in_utc_shows_the_date_only_where_all_exchanges_agree() -> None:
    # 04:00 UTC is midnight in New York. 15:00 and 23:00 UTC are midnight of the next day in Tokyo and Berlin.
    texts = ["2024-03-28T04:00:00Z", "2024-03-27T15:00:00.000Z", "2024-03-27 23:00:00+00:00"]
    column = pa.array([dt.datetime.fromisoformat(text) for text in texts], pa.timestamp("us", tz="UTC"))
    for values in (pa.array(texts), column):
        dates, reasons = dates_of(values)
        assert (dates[0], list(reasons)) == ("2024-03-28", [1, 2])
        assert "--tz" in reasons[1]
        assert "2024-03-27 15:00:00Z" in reasons[1]
    assert dates_of(pa.array(texts[1:]), "Asia/Tokyo") == (["2024-03-28", "2024-03-28"], {})
    assert dates_of(pa.array(texts[2:]), "Europe/Berlin") == (["2024-03-28"], {})


def test_dates_before_1980_are_dates() -> None:
    column = pa.array(["1962-01-02", "1800-01-02", "19620102", "2/1/1962"])
    us, reasons = TimeColumn(date_order="dmy").read(column, np.zeros(4, np.int32), np.ones(4, np.bool_))
    assert not reasons
    assert [str(np.datetime64(at, "us"))[:10] for at in us.tolist()] == [
        "1962-01-02", "1800-01-02", "1962-01-02", "1962-01-02",
    ]  # fmt: skip


@pytest.mark.parametrize("values", [["2024-03-28", "2024-03-29"], [20240328, 20240329], [dt.date(2024, 3, 28)]])
def test_instants_that_are_all_dates_are_refused(values: list[object]) -> None:
    column = pa.array(values)
    with pytest.raises(BadInput, match=r"dates without a time of day, such as 2024-?03-?28: .*--column clock=NAME"):
        TimeColumn(tz="UTC").read(column, np.zeros(len(values), np.int32), np.zeros(len(values), np.bool_))


def test_midnights_of_one_symbol_only_are_dates_without_a_clock() -> None:
    column = pa.array(["2024-03-28 00:00:00"] * 2)
    intraday = np.zeros(2, np.bool_)
    with pytest.raises(BadInput, match="dates without a time of day, such as 2024-03-28 00:00:00"):
        TimeColumn(tz="UTC").read(column, np.zeros(2, np.int32), intraday)
    us, _ = TimeColumn(tz="UTC").read(column, np.arange(2, dtype=np.int32), intraday)  # one minute of two symbols
    assert us.tolist() == [1711584000_000_000] * 2


def test_the_zone_in_a_columns_name_precedes_the_option() -> None:
    times = TimeColumn(tz="America/New_York", implied_tz="UTC")
    us, _ = times.read(pa.array(["2024-03-28 12:00"]), np.zeros(1, np.int32), np.zeros(1, np.bool_))
    assert (us.tolist(), times.takes_zone) == ([NOON], False)


def test_a_date_among_clocks_is_midnight() -> None:
    # R writes the midnight of a column of times as a date.
    column = pa.array(["2024-03-27 23:59:00", "2024-03-28", "2024-03-28 00:01:00"])
    us, reasons = TimeColumn(tz="America/New_York").read(column, np.zeros(3, np.int32), np.zeros(3, np.bool_))
    assert not reasons
    assert np.diff(us).tolist() == [60_000_000, 60_000_000]
    assert us[1] == (1711584000 + 4 * 3600) * 1_000_000


def test_a_later_clock_without_a_zone_is_an_invalid_row() -> None:
    times = TimeColumn()
    codes, intraday = np.zeros(1, np.int32), np.zeros(1, np.bool_)
    assert times.read(pa.array(["2024-03-28T12:00Z"]), codes, intraday)[0].tolist() == [NOON]
    assert "no zone" in times.read(pa.array(["2024-03-28 12:00"]), codes, intraday)[1][0]
    with pytest.raises(BadInput, match="no zone"):
        TimeColumn().read(pa.array(["2024-03-28 12:00"]), codes, intraday)


@pytest.mark.parametrize("text", ["20240328", "2024-03-28", "28.03.2024", "1711584000", "1711584000000"])
def test_one_time_has_the_meaning_of_a_column(text: str) -> None:
    assert parse_instant(text, dt.UTC) == 1711584000_000_000


def test_one_local_time_is_in_the_zone_before_a_clock_change() -> None:
    # Clocks in New York go back at 02:00 on 2021-11-07 and forward at 02:00 on 2021-03-14.
    zone = ZoneInfo("America/New_York")
    assert parse_instant("2021-11-07 01:30", zone) == 1636263000_000_000  # 05:30 UTC
    assert parse_instant("2021-03-14 02:30", zone) == 1615707000_000_000  # 07:30 UTC


@pytest.mark.parametrize("text", ["45379", "0", "-1", "yesterday", "", "3/4/2024", "2024"])
def test_one_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        parse_instant(text, dt.UTC)
