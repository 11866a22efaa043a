"""The meaning of times that users give: texts, numbers and typed values in, instants and dates out. Pure, column-wise.

This is the only parser of times in files, REST parameters, the command line and the library. It decides for each value:

- A number of 8 digits is a date (`20240328`). A number of 12, 14 or 17 digits is a date with a clock. Both have a year
  from 1800 to 2199.
- Any other number is the time since 1970 in seconds, milliseconds, microseconds or nanoseconds, by its size. A time
  before 1980, or after 2199, is invalid: row numbers, years and Excel's dates are not times.
- A text of digits is such a number. Another text is ISO 8601 or another spelling of `_normalised`, with an offset,
  without one, or a date alone.

The API of a vendor documents its units, so the clients of vendors do not use this module.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.arrow_values import TIMESTAMP, value_at
from tickerplant.core.digits import is_digits
from tickerplant.core.errors import BadInput
from tickerplant.core.shown import quoted
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, BoolArray, Int64Array

INVALID, NUMBER, UTC, OFFSET, LOCAL, DATE = range(6)
"""Kinds of values: not a time; time since 1970; time in UTC; time with another offset; time without a zone; date."""

Reasons = dict[int, str]

MDY, DMY = "mdy", "dmy"

_EARLIEST_S: Final = 315_532_800  # 1980-01-01
_LATEST_S: Final = 7_258_118_400  # 2200-01-01
_UNITS: Final = ((1, SECOND_US, 1), (1_000, 1_000, 1), (1_000_000, 1, 1), (1_000_000_000, 1, 1_000))
"""Values per second of each unit, with factor and divisor to microseconds. The ranges of the units do not overlap."""
_COMPACT: Final = ((1, 0), (10_000, 4), (1_000_000, 6), (1_000_000_000, 9))
"""Divisor that leaves the date `yyyymmdd`, and the number of digits of the clock after it."""
_EARLIEST_DATE, _LATEST_DATE = 18_000_101, 21_991_231
_EXCEL: Final = range(29_221, 109_575)
"""Excel's numbers of the days from 1980 to 2199."""

_NUMERIC: Final = r"^[-+]?\d{1,19}(\.\d*)?$"
_DATED: Final = r"^\d{4}-\d\d-\d\d"
_CLOCK: Final = r"[ T]\d\d(:\d\d(:\d\d(\.\d+)?)?)?"
_ZONE: Final = r"(Z|[+-]\d\d(:?\d\d)?)$"
_IS_UTC: Final = r"(Z|[+-]00(:?00)?)$"
_DAY_FIRST_OR_MONTH: Final = r"^(\d{1,2})([/.\-])(\d{1,2})[/.\-]\d{4}\b"
_MONTHS: Final = (
    "jan(?:uary)?", "feb(?:ruary)?", "mar(?:ch)?", "apr(?:il)?", "may", "june?", "july?", "aug(?:ust)?",
    "sept?(?:ember)?", "oct(?:ober)?", "nov(?:ember)?", "dec(?:ember)?",
)  # fmt: skip
_WEEKDAY: Final = r"^(?i:mon|tue|tues|wed|wednes|thu|thur|thurs|fri|sat|satur|sun)(?i:day)?\.?,? +"
_EXACT_FLOAT32: Final = 1 << 24
"""Integers above this are rounded in float32: a time in seconds by up to 64 s."""
_ADVICE: Final = (
    (r":60(?:\.|Z|[+-]|$)", "a minute has no second 60 here: write the last second as 59"),
    (r"^[-+]?[\d.,]+[eE][+-]?\d+$", "save the times as text with all digits"),
    (r"^\d{1,2}[/.\- ](?:\d{1,2}|[A-Za-z]{3,9})[/.\- ]\d{2}\b", "write the year with four digits"),
    (r"\d ?(?:[A-Z]{3,5}|[A-Z][A-Za-z]+/[A-Za-z_/]+)$", "write an offset such as -05:00 in place of the zone"),
)  # fmt: skip
"""Patterns of texts that are not times, with the remedy for each."""
_WRITE_ISO: Final = "write it like 2024-03-28T09:30:00Z, or like 2024-03-28"


@dataclass(frozen=True, slots=True)
class TimeValues:
    """Parsed values of a column.

    `kind`: uint8[n]. `us`: microseconds UTC for NUMBER, UTC and OFFSET; the clock as written for LOCAL and DATE; 0 for
    INVALID. `written`: returns the clock as written, int64[n], in the value's own offset. `reasons`: why a row is
    INVALID.
    """

    kind: npt.NDArray[np.uint8]
    us: Int64Array
    written: Callable[[], Int64Array]
    reasons: Reasons


def parse_times(column: pa.Array, order: str | None = None) -> TimeValues:
    """Return the meaning of each value. `order`: `mdy` or `dmy` for dates such as 3/4/2024; None makes them invalid.

    Raises BadInput if the column has a type that cannot contain times.
    """
    if pa.types.is_dictionary(column.type):
        return _taken(parse_times(column.dictionary, order), column.indices)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _typed(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numeric(column)
    try:
        texts = column.cast(pa.utf8())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"the column of times contains {kind}, not times; write them as text or timestamps") from error
    return _texts(texts, order)


def order_of(column: pa.Array, *, is_given: bool = False) -> tuple[str | None, str | None]:
    """Return the order of day and month of a column of texts, and an ambiguous date.

    The order is `mdy`, `dmy` or None. Both are None if there are no dates such as 3/4/2024. If no value shows the
    order, return an ambiguous date, with `dmy` if all dates have dots, otherwise with None. Raises BadInput for values
    of both orders. If the user has given the order (`is_given`), return None and the first date for such values.
    """
    if not is_text(column.type):
        return None, None
    texts = pc.utf8_trim_whitespace(column.cast(pa.utf8())).drop_null()
    texts = texts.filter(pc.match_substring_regex(texts, _DAY_FIRST_OR_MONTH))
    if not len(texts):
        return None, None
    parts = pc.extract_regex(texts, r"^(?P<a>\d{1,2})(?P<mark>[/.\-])(?P<b>\d{1,2})[/.\-]")
    first = parts.field("a").cast(pa.int64()).to_numpy(zero_copy_only=False)
    second = parts.field("b").cast(pa.int64()).to_numpy(zero_copy_only=False)
    day_first, month_first = (first > 12) & (second <= 12), (second > 12) & (first <= 12)
    if day_first.any() and month_first.any():
        if is_given:
            return None, texts[0].as_py()
        raise BadInput(
            f"the dates {texts[int(np.argmax(day_first))].as_py()} and {texts[int(np.argmax(month_first))].as_py()} "
            "have different orders of day and month; write the year first"
        )
    if day_first.any():
        return DMY, None
    if month_first.any():
        return MDY, None
    has_dots = pc.all(pc.equal(parts.field("mark"), ".")).as_py()
    return DMY if has_dots else None, texts[0].as_py()


# Typed values -------------------------------------------------------------------------------------------------------


def _typed(column: pa.Array) -> TimeValues:
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    values = column.cast(pa.timestamp("us", tz=zone), safe=False)
    missing = values.is_null().to_numpy(zero_copy_only=False)
    us = values.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    name = DATE if pa.types.is_date(column.type) else LOCAL if zone is None else UTC if is_utc(zone) else OFFSET
    kind = np.full(len(column), name, np.uint8)
    kind[missing] = INVALID

    def written() -> Int64Array:
        return local_times(us, zone) if name == OFFSET and zone is not None else us

    return TimeValues(kind, us, written, _missing(missing))


def is_text(kind: pa.DataType) -> bool:
    """Return True for each type of plain text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_utc(zone: str) -> bool:
    """Return True if a zone's name means UTC."""
    return zone.upper().removeprefix("ETC/") in ("UTC", "GMT", "Z", "ZULU", "UCT", "+00:00", "GREENWICH", "UNIVERSAL")


def local_times(us: Int64Array, zone: str) -> Int64Array:
    """Return the local time of a zone at each instant, as microseconds since 1970-01-01 in local time."""
    shown = pc.local_timestamp(pa.array(us).view(pa.timestamp("us", tz=zone)))
    result: Int64Array = shown.view(pa.int64()).to_numpy(zero_copy_only=False)
    return result


def _taken(values: TimeValues, indices: pa.Array) -> TimeValues:
    missing = indices.is_null().to_numpy(zero_copy_only=False)
    at = indices.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if not len(values.kind):
        return _nothing(len(at))
    kind = np.where(missing, INVALID, values.kind[at]).astype(np.uint8)
    invalid = np.flatnonzero(kind == INVALID).tolist()
    reasons = {row: "the time is missing" if missing[row] else values.reasons[int(at[row])] for row in invalid}
    return TimeValues(kind, np.where(missing, 0, values.us[at]), lambda: values.written()[at], reasons)


def _nothing(rows: int) -> TimeValues:
    us = np.zeros(rows, np.int64)
    return TimeValues(np.zeros(rows, np.uint8), us, lambda: us, _missing(np.ones(rows, np.bool_)))


def _missing(rows: BoolArray) -> Reasons:
    return dict.fromkeys(np.flatnonzero(rows).tolist(), "the time is missing")


# Numbers ------------------------------------------------------------------------------------------------------------


def _numeric(column: pa.Array) -> TimeValues:
    missing = column.is_null().to_numpy(zero_copy_only=False)
    try:
        whole = column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
        fraction_us = None
    except pa.ArrowInvalid:  # fractions, NaN, or numbers above 2^63
        floats = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        fit = np.isfinite(floats) & (np.abs(floats) < 2.0**62)
        missing = missing | np.isnan(floats)
        values = np.where(fit, floats, 0.0)
        whole = np.floor(values).astype(np.int64)
        fraction_us = np.rint((values - np.floor(values)) * 1e6).astype(np.int64)
    kind, us = _of_numbers(whole, fraction_us)
    kind[missing] = INVALID
    reasons = _missing(missing)
    if column.type in (pa.float32(), pa.float16()):
        rounded = ~missing & (np.abs(whole) > _EXACT_FLOAT32)
        kind[rounded] = INVALID
        for row in np.flatnonzero(rounded).tolist():
            reasons[row] = f"{whole[row]} is not a time: {column.type} has rounded it; save the times as integers"
    for row in np.flatnonzero((kind == INVALID) & ~missing).tolist():
        reasons.setdefault(row, _why_no_time(str(value_at(column, row))))
    us[kind == INVALID] = 0
    return TimeValues(kind, us, lambda: us, reasons)


def _of_numbers(whole: Int64Array, fraction_us: Int64Array | None) -> tuple[npt.NDArray[np.uint8], Int64Array]:
    """Return kind and time of numbers. `fraction_us`: millionths after the decimal point; None if there are none."""
    kind = np.zeros(len(whole), np.uint8)
    us = np.zeros(len(whole), np.int64)
    fraction = np.zeros(1, np.int64) if fraction_us is None else fraction_us
    for per_second, factor, divisor in _UNITS:
        fits = (whole >= _EARLIEST_S * per_second) & (whole < _LATEST_S * per_second)
        if fits.any():
            more = fraction // per_second if per_second <= SECOND_US else np.zeros(1, np.int64)
            us = np.where(fits, np.where(fits, whole, 0) // divisor * factor + more, us)
            kind[fits] = NUMBER
    for divisor, digits in _COMPACT:
        dates = whole // divisor
        fits = (dates >= _EARLIEST_DATE) & (dates <= _LATEST_DATE)
        if fits.any():
            at, valid = _compact(np.where(fits, whole, 0), divisor, digits)
            us = np.where(fits & valid, at + (fraction if digits else 0), us)
            kind[fits & valid] = LOCAL if digits else DATE
    return kind, us


def _compact(whole: Int64Array, divisor: int, digits: int) -> tuple[Int64Array, BoolArray]:
    """Return the times of numbers such as 20240328093000 in microseconds, and a mask of the valid numbers."""
    dates, clock = np.divmod(whole, divisor)
    year, month, day = dates // 10_000, dates // 100 % 100, dates % 100
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    first = months.astype("datetime64[D]").astype(np.int64)
    length = (months + 1).astype("datetime64[D]").astype(np.int64) - first
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    of_day, good = clock_us(clock, digits)
    return (first + day - 1) * DAY_US + of_day, valid & good


def clock_us(clock: Int64Array, digits: int) -> tuple[Int64Array, BoolArray]:
    """Return the microseconds since midnight of HHMM (4 digits), HHMMSS (6) or HHMMSSmmm (9), and a validity mask."""
    if not digits:
        return np.zeros_like(clock), np.ones(len(clock), np.bool_)
    clock, thousandths = np.divmod(clock, 1_000) if digits == 9 else (clock, np.zeros_like(clock))
    if digits == 4:
        clock = clock * 100
    hour, minute, second = clock // 10_000, clock // 100 % 100, clock % 100
    valid: BoolArray = (clock >= 0) & (hour < 24) & (minute < 60) & (second < 60)
    return (hour * 60 + minute) * MINUTE_US + second * SECOND_US + thousandths * 1_000, valid


def _why_no_time(text: str) -> str:
    number = float(text)
    if _EXCEL.start <= number < _EXCEL.stop:
        date = dt.date(1899, 12, 30) + dt.timedelta(int(number))
        return (
            f"{text} is not a time: as seconds since 1970 it is before 1980. It may be Excel's number of {date}: save "
            "the times as text"
        )
    return (
        f"{text} is not a time: no date as yyyymmdd, and not between 1980 and 2200 as seconds, milliseconds, "
        "microseconds or nanoseconds since 1970; write dates as text"
    )


def _why_no_text(text: str) -> str:
    advice = next((what for pattern, what in _ADVICE if re.search(pattern, text.strip())), _WRITE_ISO)
    return f"{quoted(text)} is not a time; {advice}"


# Texts --------------------------------------------------------------------------------------------------------------


def _texts(texts: pa.Array, order: str | None) -> TimeValues:
    """Parse texts. A column of integers, of ISO times with an offset, or of ISO times without one takes one cast.

    The first value selects the cast, because a cast that fails takes ten times as long as one that succeeds.
    """
    first = texts[0].as_py() if len(texts) else None
    if first and not texts.null_count:
        is_number = is_digits(first.removeprefix("-"))
        kind = pa.int64() if is_number else TIMESTAMP if re.search(_ZONE, first[10:]) else pa.timestamp("us")
        try:
            found = pc.cast(texts, kind)
            return _numeric(found) if is_number else _iso(texts, found)
        except pa.ArrowInvalid:
            pass
    return _mixed(texts, order)


def _iso(texts: pa.Array, times: pa.Array) -> TimeValues:
    us = times.view(pa.int64()).to_numpy(zero_copy_only=False)
    if times.type.tz is None:
        dates = pc.equal(pc.utf8_length(texts), 10).to_numpy(zero_copy_only=False)
        return TimeValues(np.where(dates, DATE, LOCAL).astype(np.uint8), us, lambda: us, {})
    # A search from the end takes a tenth of the time of a regular expression, and most files write Z.
    utc = pc.ends_with(texts, "Z").to_numpy(zero_copy_only=False)
    utc = utc if utc.all() else _matches(texts, _IS_UTC)
    kind = np.where(utc, UTC, OFFSET).astype(np.uint8)
    return TimeValues(kind, us, lambda: us if utc.all() else _without_offset(texts), {})


def _without_offset(texts: pa.Array) -> Int64Array:
    plain = pc.replace_substring_regex(texts, r"\s*" + _ZONE, "")
    result: Int64Array = pc.cast(plain, pa.timestamp("us")).view(pa.int64()).to_numpy(zero_copy_only=False)
    return result


def _mixed(texts: pa.Array, order: str | None) -> TimeValues:
    """Parse texts of any kind. One cast parses each kind; the values that it rejects are parsed one by one."""
    given = pc.utf8_trim_whitespace(texts).fill_null("")
    plain, afternoon, half_missing = _without_am_pm(_normalised(given, order))
    rows = len(plain)
    kind, us, written = np.zeros(rows, np.uint8), np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    numeric = _matches(plain, _NUMERIC)
    at = np.flatnonzero(numeric)
    if len(at):
        kind[at], us[at] = _of_texts_of_numbers(plain.take(pa.array(at)))
        written[at] = us[at]
    dates = _matches(plain, _DATED + "$")
    zoned = _matches(plain, _DATED + _CLOCK + _ZONE)
    local = _matches(plain, _DATED + _CLOCK + "$")
    for mask, name in ((dates, DATE), (local, LOCAL), (zoned, OFFSET)):
        at = np.flatnonzero(mask)
        if not len(at):
            continue
        part = plain.take(pa.array(at))
        us[at], good = _cast(part, TIMESTAMP if name == OFFSET else pa.timestamp("us"))
        kind[at] = np.where(good, name, INVALID)
        written[at] = us[at]
        if name == OFFSET:
            kind[at[good & _matches(part, _IS_UTC)]] = UTC
            written[at] = _cast(pc.replace_substring_regex(part, _ZONE, ""), pa.timestamp("us"))[0]
    kind[half_missing & (kind >= UTC)] = INVALID
    shift = np.where(kind >= UTC, afternoon, 0)
    us, written = us + shift, written + shift
    reasons: Reasons = {}
    for row in np.flatnonzero(kind == INVALID).tolist():
        text = given[row].as_py()
        if not text:
            reasons[row] = "the time is missing"
        elif numeric[row]:
            reasons[row] = _why_no_time(text)
        elif half_missing[row]:
            reasons[row] = f"{quoted(text)} is not a time: it has no AM or PM, but other times have; add it"
        else:
            reasons[row] = _why_no_text(texts[row].as_py())
    us[kind == INVALID] = 0
    return TimeValues(kind, us, lambda: written, reasons)


def _matches(texts: pa.Array, pattern: str) -> BoolArray:
    result: BoolArray = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return result


def _of_texts_of_numbers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], Int64Array]:
    parts = pc.extract_regex(texts, r"^(?P<whole>[-+]?\d+)(?:\.(?P<fraction>\d*))?$")
    digits = pc.utf8_slice_codeunits(pc.utf8_rpad(parts.field("fraction"), 6, "0"), 0, 6)
    fraction = digits.cast(pa.int64()).to_numpy(zero_copy_only=False)
    try:
        whole = pc.utf8_ltrim(parts.field("whole"), "+").cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # more than 2^63
        whole = np.array([int(text) if abs(int(text)) < 1 << 62 else 0 for text in parts.field("whole").to_pylist()])
    return _of_numbers(whole.astype(np.int64), fraction)


def _cast(texts: pa.Array, kind: pa.DataType) -> tuple[Int64Array, BoolArray]:
    """Return the texts as microseconds, 0 for an invalid text, and a mask of the valid texts."""
    try:
        whole: Int64Array = pc.cast(texts, kind).view(pa.int64()).to_numpy(zero_copy_only=False)
        return whole, np.ones(len(texts), np.bool_)
    except pa.ArrowInvalid:
        pass
    result, good = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.bool_)
    for row, text in enumerate(texts.to_pylist()):
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError:
            continue
        start = _EPOCH_UTC if moment.tzinfo is not None else _EPOCH_NAIVE
        result[row], good[row] = (moment - start) // dt.timedelta(microseconds=1), True
    return result, good


_EPOCH_UTC: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_NAIVE: Final = _EPOCH_UTC.replace(tzinfo=None)


def _normalised(texts: pa.Array, order: str | None) -> pa.Array:
    """Rewrite the supported spellings as ISO 8601; other texts stay unchanged.

    A group's number in a replacement has one digit, so a zero after group 1 needs no separator.
    """

    def sub(pattern: str, replacement: str) -> None:
        nonlocal texts
        texts = pc.replace_substring_regex(texts, pattern, replacement)

    if _matches(texts, r"[A-Za-z]{3}").any():
        sub(r"\s*\[[A-Za-z_/+\-0-9]+\]$", "")  # Java's [Europe/Berlin] after the offset
        sub(r"\s*(?:UTC|GMT)\s*([+-]\d\d)", r" \1")  # Dukascopy's GMT+0100
        sub(r"\s*(?:UTC|GMT)$", "Z")
        sub(_WEEKDAY, "")
        for number, name in enumerate(_MONTHS, 1):
            month = f"(?i:{name})\\.?"
            sub(rf"^(\d{{1,2}})[ \-/.]{month}[ \-/.,]+(\d{{4}})", rf"\2-{number:02d}-\1")
            sub(rf"^{month} (\d{{1,2}}),? (\d{{4}})", rf"\2-{number:02d}-\1")
        sub(r"^(\d{4}-\d\d)-(\d)\b", r"\1-0\2")
    sub(r"^(\d{4}-\d\d-\d\d)t(\d\d:.*)$", r"\1T\2")
    sub(r"^(\d{4}-\d\d-\d\d[T ][\d:.]+)z$", r"\1Z")
    if order is not None:
        ours = r"\3-\1-\2" if order == MDY else r"\3-\2-\1"
        sub(r"^(\d)([/.\-]\d{1,2}[/.\-]\d{4}\b)", r"0\1\2")
        sub(r"^(\d\d[/.\-])(\d)([/.\-]\d{4}\b)", r"\10\2\3")
        sub(r"^(\d\d)[/.\-](\d\d)[/.\-](\d{4})\b", ours)
    sub(r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})\b", r"\1-\2-\3")
    sub(r"^(\d{4})-(\d)-", r"\1-0\2-")
    sub(r"^(\d{4}-\d\d)-(\d)\b", r"\1-0\2")
    sub(r"^(\d{4})(\d\d)(\d\d)([ T])", r"\1-\2-\3\4")
    sub(r"^(.{10}),? +", r"\1 ")
    sub(r"^(.{10}[ T])(\d):", r"\10\2:")
    sub(r"^(.{10}[ T])(\d\d)(\d\d)(\d\d)(\d{3})([^\d:]|$)", r"\1\2:\3:\4.\5\6")
    sub(r"^(.{10}[ T])(\d\d)(\d\d)(\d\d)([^\d:]|$)", r"\1\2:\3:\4\5")
    sub(r"^(.{10}[ T])(\d\d)(\d\d)([^\d:]|$)", r"\1\2:\3\4")
    sub(r":$", "")
    sub(r"(:\d\d),(\d)", r"\1.\2")
    sub(r"(\.\d{6})\d+", r"\1")
    sub(r"(:\d\d(?:\.\d+)?)\s+([+-]\d\d|Z$)", r"\1\2")
    return texts


def _without_am_pm(texts: pa.Array) -> tuple[pa.Array, Int64Array, BoolArray]:
    """Return the texts without AM and PM, the microseconds to add to each time, and a mask of ambiguous texts.

    A text without AM and PM is ambiguous if its hour is 1 to 12 and other texts have them. If any text shows a clock of
    24 hours, none is ambiguous. An hour above 12 cannot have AM or PM, so the text stays unchanged.
    """
    shift, ambiguous = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.bool_)
    pattern = r"^.{10} (?P<hour>0\d|1[0-2])(?::[\d:.]*)?\s?(?P<half>[APap])\.?[Mm]\.?$"
    marked = _matches(texts, pattern)
    if not marked.any():
        return texts, shift, ambiguous
    parts = pc.extract_regex(texts, pattern)
    twelve = pc.equal(parts.field("hour"), "12").fill_null(False).to_numpy(zero_copy_only=False)
    after = pc.equal(pc.utf8_upper(parts.field("half")), "P").fill_null(False).to_numpy(zero_copy_only=False)
    shift[marked & after & ~twelve] = DAY_US // 2
    shift[marked & ~after & twelve] = -DAY_US // 2
    if not _matches(texts, r"^.{10} (00|1[3-9]|2[0-3]):[\d:.]+$").any():
        ambiguous = ~marked & _matches(texts, r"^.{10} (0[1-9]|1[0-2]):[\d:.]+$")
    plain = pc.if_else(pa.array(marked), pc.replace_substring_regex(texts, r"\s?[APap]\.?[Mm]\.?$", ""), texts)
    return plain, shift, ambiguous
