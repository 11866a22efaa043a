"""A column of a user's times, converted to microseconds UTC block by block. Pure.

`time_values` parses each value. This module adds the zone of times without a zone, and the order of day and month. It
also decides whether a bar's time is an instant or the date of a session.

**Instants.** A time without offset is local to the given zone. An hour occurs twice when clocks are set back. If a
symbol's times ascend, those of such an hour are in summer time up to the first time that is before its predecessor.
Later times are in winter time. Descending times have the reverse order. A time that the clocks skip is invalid. A date
alone is midnight, if other values of the column have a clock.

**Dates of sessions** (bars of a day or longer). The date is the written date, in the value's own offset or zone. A time
in UTC, or a number since 1970, at midnight UTC has the date of that midnight. The given zone decides the date of
another time of day. If no zone is given, a time in UTC before 11:00 has its UTC date; other times are invalid, because
their date depends on the exchange.
"""

from __future__ import annotations

import datetime as dt
import zoneinfo
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.arrow_values import times_of, value_at
from tickerplant.core.errors import BadInput
from tickerplant.core.shown import quoted
from tickerplant.core.time_values import (
    DATE,
    INVALID,
    LOCAL,
    NUMBER,
    OFFSET,
    UTC,
    Reasons,
    TimeValues,
    is_text,
    local_times,
    order_of,
    parse_times,
)
from tickerplant.core.times import DAY_US, HOUR_US, BoolArray, Int64Array, datetime_of, micros_of

_SAME_DATE_US: Final = 11 * HOUR_US
"""Time of day in UTC from which a daily bar may have the next date. Midnight in New Zealand is 11:00 UTC."""


class TimeColumn:
    """The conversion of one column, block by block in order.

    `tz`: the user's zone. `implied_tz`: the zone in the column's name, which takes precedence over `tz`. `line`: line
    of the first value, for errors. `late_us`: maximum time by which a time of the first of two equal hours may be
    before its predecessor. The state is the last time of each symbol in an hour that occurs twice.

    Attributes after the first block: `is_ordered`: some dates depend on the order of day and month. `takes_zone`,
    `takes_order`: the user's zone and order have an effect. `differs`: the first release read the values as
    different times, for example because numbers are dates. `choice`: a note about an order that no value shows; None if
    there is no such order.
    """

    def __init__(
        self,
        *,
        tz: str | None = None,
        date_order: str | None = None,
        implied_tz: str | None = None,
        line: int | None = None,
        late_us: int = 0,
    ) -> None:
        self._late_us = late_us
        self._given = tz
        self._tz = implied_tz or tz
        self._is_implied = implied_tz is not None
        self._order = date_order
        self._line = line
        self._first = True
        self._has_clock = False
        self.is_ordered = self.takes_order = self.takes_zone = self.differs = False
        self.choice: str | None = None
        self.written: Int64Array = np.empty(0, np.int64)
        """The clock as written in each row of the last block. The times of daily bars do not contain it."""
        self._last_local: dict[int, int] = {}
        self._folded: dict[int, bool] = {}
        self._sign = 0
        self._once: dict[tuple[int, int], str] = {}

    @property
    def late_choices(self) -> list[str]:
        """Return a note about hours that occur twice in the zone but once in the rows so far; [] if there are none."""
        if not self._once:
            return []
        first = next(iter(self._once.values()))
        return [
            f"{first} and the times of its hour occur twice in {self._tz}, but once in the file: they are read "
            f"as the {'earlier' if self._sign >= 0 else 'later'} ones"
        ]

    def read(self, column: pa.Array, codes: npt.NDArray[np.int32], daily: BoolArray) -> tuple[Int64Array, Reasons]:
        """Return the time of each row in microseconds UTC, and the reasons of the invalid rows, whose times are 0.

        `codes`: the symbol code of each row. `daily`: a mask of the rows whose times are dates of sessions.
        """
        values = self.parse(column)
        self.written = values.written()
        reasons = dict(values.reasons)
        valid = values.kind != INVALID
        us = values.us if valid.all() else np.where(valid, values.us, 0)
        instants = valid & ~daily
        if instants.any():
            self._check_instants(values, instants, column, reasons, codes)
            local = instants & ((values.kind == LOCAL) | (values.kind == DATE))
            if local.any() and self._tz is not None:
                self.takes_zone |= not self._is_implied
                us = np.where(local, self._to_utc(values.us, local, codes, column, reasons), us)
        if (valid & daily).any():
            us = np.where(daily, self._dates(values, valid & daily, column, reasons), us)
        self.differs |= not _is_text(column) and bool((values.kind == DATE).any()) and not _is_date(column)
        self._first = False
        if reasons:
            us = us.copy()
            us[list(reasons)] = 0
        return us, reasons

    def parse(self, column: pa.Array) -> TimeValues:
        """Return the parsed values of a block. Raises BadInput for dates whose order of day and month is unknown."""
        if self._first:
            try:
                shown, ambiguous = order_of(column, is_given=self._order is not None)
            except BadInput as error:
                reason = f"{error}, or set --date-order to reject the dates of one order"
                raise BadInput(reason, line=self._line) from None
            self.is_ordered = shown is not None or ambiguous is not None
            if ambiguous is not None and shown is not None and self._order is None:
                self.choice = f"the day is first in {ambiguous}, because it has dots"
            if ambiguous is not None and (self._order or shown) is None:
                raise BadInput(
                    f"the order of day and month in {ambiguous} is ambiguous; set it with --date-order",
                    line=self._line,
                )
            needed = ambiguous is not None or self._order != shown
            self.takes_order = self.is_ordered and self._order is not None and needed
            self._order = (self._order or shown) if self.is_ordered else None
        return parse_times(column, self._order)

    # Instants ----------------------------------------------------------------------------------------------------

    def _check_instants(
        self,
        values: TimeValues,
        instants: BoolArray,
        column: pa.Array,
        reasons: Reasons,
        codes: npt.NDArray[np.int32],
    ) -> None:
        """Reject dates without a clock, and clocks without a zone: by row if another row of the column has a zone.

        Local midnights are dates too, if the rows have no other time and there are several rows per symbol.
        """
        dates = instants & (values.kind == DATE)
        local = dates | (instants & (values.kind == LOCAL))
        if not local.any():
            self._has_clock = True
            return
        midnights = dates | (local & (values.us % DAY_US == 0))
        undated = midnights if _rows_per_symbol(codes, instants) > 1 else dates
        self._has_clock |= bool((instants & ~undated).any())
        if not self._has_clock:
            example = value_at(column, int(np.argmax(instants)))
            raise BadInput(
                f"all times are dates without a time of day, such as {example}: ticks and intraday bars need one. If "
                "another column has it, set --column clock=NAME; daily bars need --interval 1d",
                line=self._line,
            )
        if self._tz is not None:
            return
        example = value_at(column, int(np.argmax(local)))
        if self._first and not (instants & ~local).any():
            raise BadInput(
                f"the time {example} has no zone; set it with --tz, to America/New_York for example", line=self._line
            )
        for row in np.flatnonzero(local).tolist():
            reasons[row] = f"the time {value_at(column, row)} has no zone; set it with --tz"

    def _to_utc(
        self, us: Int64Array, wanted: BoolArray, codes: npt.NDArray[np.int32], column: pa.Array, reasons: Reasons
    ) -> Int64Array:
        assert self._tz is not None
        local = np.where(wanted, us, 0)
        naive = pa.array(local).view(pa.timestamp("us"))
        first = times_of(pc.assume_timezone(naive, self._tz, ambiguous="earliest", nonexistent="earliest"))
        second = times_of(pc.assume_timezone(naive, self._tz, ambiguous="latest", nonexistent="latest"))
        twice = (first != second) & wanted
        if not twice.any():
            return first
        result = first.copy()
        skipped = twice & (local_times(first, self._tz) != local)
        for row in np.flatnonzero(skipped).tolist():
            reasons[row] = (
                f"the local time {value_at(column, row)} does not exist in {self._tz}: the clocks skip it; correct it, "
                "or set another --tz"
            )
        twice &= ~skipped
        if twice.any():
            self._sign = self._sign or _direction(local, codes, twice, wanted)
            self.differs |= self._sign < 0
            folded = self._is_second(local, codes, twice, column)
            result[folded] = second[folded]
        return result

    def _is_second(
        self, local: Int64Array, codes: npt.NDArray[np.int32], twice: BoolArray, column: pa.Array
    ) -> BoolArray:
        """Return a mask of the rows that are in the second of two equal hours. `twice`: the rows in such hours."""
        descends = self._sign < 0
        result = np.zeros(len(local), np.bool_)
        for row in np.flatnonzero(twice).tolist():
            code, at = int(codes[row]), int(local[row])
            last = self._last_local.get(code)
            key = (code, at // DAY_US)
            if last is None or abs(at - last) > DAY_US:
                self._folded[code] = descends
                self._once[key] = str(value_at(column, row))
                self._last_local[code] = at
            elif (last - at if not descends else at - last) > self._late_us and self._folded[code] == descends:
                self._folded[code] = not descends
                self._once.pop(key, None)
                self._last_local[code] = at
            else:
                self._last_local[code] = max(at, last) if not descends else min(at, last)
            result[row] = self._folded[code]
        return result

    # Dates of sessions -------------------------------------------------------------------------------------------

    def _dates(self, values: TimeValues, daily: BoolArray, column: pa.Array, reasons: Reasons) -> Int64Array:
        """Return the date of each row's session, at 00:00 UTC."""
        written = values.us
        if (values.kind == OFFSET).any():
            written = np.where(values.kind == OFFSET, values.written(), values.us)
        dates = written - written % DAY_US
        undated = daily & ((values.kind == NUMBER) | (values.kind == UTC)) & (values.us != dates)
        if undated.any() and self._given is not None:
            self.takes_zone = True
            shown = local_times(np.where(undated, values.us, 0), self._given)
            dates = np.where(undated, shown - shown % DAY_US, dates)
        elif undated.any():
            # Before `_SAME_DATE_US`, a time in UTC has the same date at every exchange. A number has no zone.
            open_ = undated & ((values.kind == NUMBER) | (values.us - dates >= _SAME_DATE_US))
            for row in np.flatnonzero(open_).tolist():
                reasons[row] = (
                    f"the time {value_at(column, row)} is not midnight UTC ({_shown(int(values.us[row]))}), so the "
                    "date of its session depends on the exchange; set the exchange's zone with --tz"
                )
        self.differs |= bool((daily & (dates != values.us - values.us % DAY_US)).any())
        return dates


def _direction(local: Int64Array, codes: npt.NDArray[np.int32], twice: BoolArray, wanted: BoolArray) -> int:
    """Return 1 if the local times of the symbols ascend, -1 if they descend, 0 if neither is certain.

    Differences inside an hour that occurs twice count only if the other differences show no direction.
    """
    order = np.argsort(codes, kind="stable")
    order = order[wanted[order]]
    before, after = order[:-1], order[1:]
    same = codes[before] == codes[after]
    steps = (local[after] - local[before])[same]
    inside = (twice[before] & twice[after])[same]
    outside = steps[~inside]
    if len(outside) and (total := int(np.sign(outside).sum())):
        return 1 if total > 0 else -1
    falls, rises = int((steps < 0).sum()), int((steps > 0).sum())
    return -1 if falls > 1 and falls > rises else 0


def _rows_per_symbol(codes: npt.NDArray[np.int32], rows: BoolArray) -> float:
    return int(rows.sum()) / max(1, len(np.unique(codes[rows])))


def _is_text(column: pa.Array) -> bool:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return is_text(kind)


def _is_date(column: pa.Array) -> bool:
    return bool(pa.types.is_date(column.type))


def _shown(us: int) -> str:
    return datetime_of(us).strftime("%Y-%m-%d %H:%M:%SZ")


def check_zone(name: str) -> str:
    """Return the name of an existing time zone. Raises BadInput for other names."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"unknown time zone {name!r}; use a name like UTC or America/New_York") from None
    return name


def parse_instant(text: str, zone: dt.tzinfo) -> int:
    """Return one time in microseconds UTC. A date means its midnight, and a time without an offset is in `zone`.

    A local time that a clock change skips or repeats has the offset from before the change. Raises BadInput, whose
    message begins with the text, and OverflowError outside the years 1 to 9999.

    >>> parse_instant("20120621", dt.UTC) == parse_instant("1340236800", dt.UTC) == 1_340_236_800_000_000
    True
    """
    column = pa.array([text])
    order, ambiguous = order_of(column)
    if ambiguous is not None and order is None:
        raise BadInput(f"{quoted(text)} is not a time: the order of day and month is ambiguous; write the year first")
    values = parse_times(column, order)
    if values.reasons:
        _, reason, detail = values.reasons[0].partition(" is not a time")
        raise BadInput(f"{quoted(text)} is not a time{detail if reason else ''}")
    us = int(values.us[0])
    if values.kind[0] in (LOCAL, DATE):
        return micros_of(datetime_of(us).replace(tzinfo=zone))
    return us
