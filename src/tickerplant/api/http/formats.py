"""Arrow tables as JSON and CSV, with times in a zone. Works on whole columns.

A missing value is null in JSON and empty in CSV. NaN and infinity become missing values.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from tickerplant.core.arrow_values import times_of
from tickerplant.core.csv_text import FORMULA, NUMBER
from tickerplant.core.times import DAY_US, MINUTE_US, SECOND_US, Int64Array, datetime_of

EPOCHS: Final = {"s": SECOND_US, "ms": 1_000, "us": 1}
TIME_STYLES: Final = ("iso", *EPOCHS)
STEP_ROWS: Final = 1_000
"""Maximum rows of one conversion and encoding. One call for 50,000 rows would block other threads."""
MAX_TEXTS: Final = 4_096
"""Maximum number of kept texts of dates, of kept texts of times of day, and of kept offsets from UTC."""
_QUARTER_US = 15 * MINUTE_US


def offsets_us(times_us: Int64Array, zone: dt.tzinfo) -> Int64Array:
    """Return the zone's offset from UTC at each time, in µs.

    Looks up the zone for each distinct day. If the offset changes in a day, it looks up each distinct quarter of an
    hour. The few clock changes that are not at a full quarter of an hour UTC take effect at the next quarter.
    """
    if not len(times_us) or zone is dt.UTC or getattr(zone, "key", "") == "UTC":
        return np.zeros_like(times_us)
    days, which = np.unique(times_us // DAY_US, return_inverse=True)
    by_day = np.empty(len(days), dtype=np.int64)
    changing = np.zeros(len(days), dtype=bool)
    for index, day in enumerate(days.tolist()):
        by_day[index] = _offset_us(day * DAY_US, zone)
        changing[index] = by_day[index] != _offset_us((day + 1) * DAY_US, zone)
    result = by_day[which]
    rows = np.flatnonzero(changing[which])
    if len(rows):
        quarters, at = np.unique(times_us[rows] // _QUARTER_US, return_inverse=True)
        exact = np.array([_offset_us(quarter * _QUARTER_US, zone) for quarter in quarters.tolist()], dtype=np.int64)
        result[rows] = exact[at]
    return result


@lru_cache(MAX_TEXTS)
def _offset_us(us: int, zone: dt.tzinfo) -> int:
    try:
        offset = datetime_of(us).astimezone(zone).utcoffset()
    except OverflowError:
        return 0
    return 0 if offset is None else offset // dt.timedelta(microseconds=1)


class _Dates(dict[int, str]):
    """The text of each day since 1970 that was formatted recently."""

    def __missing__(self, day: int) -> str:
        if len(self) >= MAX_TEXTS:
            self.clear()
        self[day] = text = str(np.datetime64(day, "D"))
        return text


class _Clocks(dict[int, str]):
    """The text of each second of a day that was formatted recently: `T09:30:00`."""

    def __missing__(self, second: int) -> str:
        if len(self) >= MAX_TEXTS:
            self.clear()
        self[second] = text = f"T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
        return text


_dates, _clocks = _Dates(), _Clocks()


def iso_texts(times_us: Int64Array, zone: dt.tzinfo) -> list[str]:
    """Return ISO 8601 texts with the zone's offset, such as `2026-03-09T09:30:00-04:00`.

    All texts contain microseconds if any time has a fraction of a second.
    """
    offsets = offsets_us(times_us, zone)
    days, rest = np.divmod(times_us + offsets, DAY_US)
    seconds, fractions = np.divmod(rest, SECOND_US)
    texts = [_dates[day] + _clocks[second] for day, second in zip(days.tolist(), seconds.tolist(), strict=True)]
    if fractions.any():
        texts = [f"{text}.{fraction:06d}" for text, fraction in zip(texts, fractions.tolist(), strict=True)]
    suffixes = {offset: _suffix(offset) for offset in set(offsets.tolist())}
    return [text + suffixes[offset] for text, offset in zip(texts, offsets.tolist(), strict=True)]


def _suffix(offset_us: int) -> str:
    sign = "-" if offset_us < 0 else "+"
    minutes, seconds = divmod(abs(offset_us) // SECOND_US, 60)
    text = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{text}:{seconds:02d}" if seconds else text


def time_column(times_us: Int64Array, zone: dt.tzinfo, style: str, *, sessions: bool) -> pa.Array:
    """Return times in the requested style (`TIME_STYLES`). ISO times of `sessions` (daily, weekly) are dates."""
    values = time_values(times_us, zone, style, sessions=sessions)
    return pa.array(values, pa.utf8() if style == "iso" else pa.int64())


def time_values(times_us: Int64Array, zone: dt.tzinfo, style: str, *, sessions: bool) -> list[Any]:
    """Return the values of `time_column` as texts or numbers."""
    if style != "iso":
        numbers: list[Any] = (times_us // EPOCHS[style]).tolist()
        return numbers
    if sessions:
        return [_dates[day] for day in (times_us // DAY_US).tolist()]
    return iso_texts(times_us, zone)


def exact_time(us: int, zone: dt.tzinfo, style: str, *, sessions: bool) -> str | int:
    """Return one time in the requested style, or in µs if the style would round the time."""
    if style != "iso" and us % EPOCHS[style]:
        style = "us"
    found: str | int = time_values(np.array([us], dtype=np.int64), zone, style, sessions=sessions)[0]
    return found


def format_columns(table: pa.Table, zone: dt.tzinfo, style: str = "iso", *, sessions: bool = False) -> pa.Table:
    """Return the table with columns ready to encode: times in the style, no dictionaries, null instead of NaN."""
    columns: dict[str, Any] = {}
    for name in table.schema.names:
        column = table.column(name)
        kind = column.type
        if pa.types.is_timestamp(kind) and column.null_count == 0:
            # Only the bar's time is a session's date; the time of publication is an instant.
            column = time_column(times_of(column), zone, style, sessions=sessions and name == "time")
        elif pa.types.is_timestamp(kind):
            present = times_of(column.drop_null())
            texts = iter(time_column(present, zone, style, sessions=False).to_pylist())
            column = pa.array([next(texts) if valid else None for valid in column.is_valid().to_pylist()])
        elif pa.types.is_dictionary(kind):
            column = column.cast(pa.utf8())
        elif pa.types.is_floating(kind):
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, kind))
        columns[name] = column
    return pa.table(columns)


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> Any:
    fields = [f"c{number}" for number in range(len(names))]
    return msgspec.defstruct(
        "Row", [(field, Any) for field in fields], rename=dict(zip(fields, names, strict=True)), gc=False
    )


def to_json(head: Mapping[str, Any], key: str, table: pa.Table) -> bytes:
    """Return `head` with the rows of a table from `format_columns` under `key`, as JSON."""
    return with_rows(head, key, _encoded(tuple(table.schema.names), [column.to_pylist() for column in table.columns]))


def with_rows(head: Mapping[str, Any], key: str, rows: bytes) -> bytes:
    """Return `head` with the encoded rows under `key`, as JSON. `rows` has no brackets."""
    begin = msgspec.json.encode({**head, key: ()})
    return b"".join((begin[:-2], rows, begin[-2:]))


def json_rows(table: pa.Table, zone: dt.tzinfo, style: str = "iso", *, sessions: bool = False) -> bytes:
    """Return a table's rows as JSON without the brackets, with values as in the columns of `format_columns`."""
    columns = [
        _json_values(column, zone, style, sessions=sessions and name == "time")
        for name, column in zip(table.schema.names, table.columns, strict=True)
    ]
    return _encoded(tuple(table.schema.names), columns)


def _json_values(column: Any, zone: dt.tzinfo, style: str, *, sessions: bool) -> list[Any]:
    """Return a column's values as objects that msgspec encodes. msgspec encodes NaN and infinity as null."""
    kind, nulls = column.type, column.null_count
    if pa.types.is_timestamp(kind):
        texts = time_values(times_of(column.drop_null() if nulls else column), zone, style, sessions=sessions)
        if not nulls:
            return texts
        present = iter(texts)
        return [next(present) if valid else None for valid in column.is_valid().to_pylist()]
    if pa.types.is_floating(kind) or (not nulls and (pa.types.is_integer(kind) or pa.types.is_boolean(kind))):
        values: list[Any] = column.to_numpy().tolist()
        return values
    if pa.types.is_dictionary(kind) and not nulls:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):  # no rows
            return []
        texts = array.dictionary.to_pylist()
        return [texts[code] for code in array.indices.to_numpy().tolist()]
    return column.to_pylist()  # type: ignore[no-any-return]


def _encoded(names: tuple[str, ...], columns: Sequence[list[Any]]) -> bytes:
    """Return rows as JSON without the brackets.

    They are built and encoded in steps of `STEP_ROWS`, because each step keeps the GIL.
    """
    if not columns or not columns[0]:
        return b""
    row = _row_type(names)
    steps = (slice(first, first + STEP_ROWS) for first in range(0, len(columns[0]), STEP_ROWS))
    return b",".join(msgspec.json.encode(list(map(row, *(column[step] for column in columns))))[1:-1] for step in steps)


def to_csv(table: pa.Table) -> bytes:
    """Return a table from `format_columns` as CSV with a header line. A list becomes words separated by spaces.

    Text is quoted only if at least one text of the answer needs quotes. A text that a spreadsheet would compute as a
    formula gets a leading `'`.
    """
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_list(field.type):
            column = pc.binary_join(column, " ")
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            table = table.set_column(index, field.name, _without_formulas(column))
    head = (",".join(table.schema.names) + "\n").encode()
    if not table.num_rows:
        return head
    try:
        return head + _csv_rows(table, "none")
    except pa.ArrowInvalid:  # a text has a comma, a quote or a line end; Arrow's "needed" quotes every text
        return head + _csv_rows(table, "needed")


def _without_formulas(column: Any) -> Any:
    """Return a text column whose formulas begin with `'`. A text that is a plain number is unchanged."""
    formulas = pc.and_not(pc.match_substring_regex(column, FORMULA), pc.match_substring_regex(column, NUMBER))
    if not pc.any(formulas).as_py():
        return column
    return pc.if_else(formulas, pc.binary_join_element_wise("'", column, ""), column)


def _csv_rows(table: pa.Table, quoting: str) -> bytes:
    sink = io.BytesIO()
    arrow_csv.write_csv(table, sink, arrow_csv.WriteOptions(include_header=False, quoting_style=quoting))
    return sink.getvalue()


def encode(message: Any) -> bytes:
    """Return a small message as JSON; NaN becomes null."""
    return msgspec.json.encode(message)


def without(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """Return the table without these columns. Names of missing columns are ignored."""
    return table.drop_columns([name for name in names if name in table.schema.names])
