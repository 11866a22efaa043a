"""Times as files write them, to microseconds UTC, in whole columns. Pure.

Understood: seconds, milliseconds, microseconds or nanoseconds since 1970 (told apart by size), ISO 8601 with or without
offset, `20201215`, `20201215 093000`, `12/15/2020 9:30` (which of day and month comes first is found in the values, or
asked for), dates alone. A time without offset is local to the zone that the user names; where clocks are set back, an
hour happens twice: its times are taken in order, so the first run of them is summer time, and from where a symbol's
times go back it is winter time. A time that the clocks skip does not exist and is refused.
"""

from __future__ import annotations

import datetime as dt
import importlib.resources
import re
import zoneinfo
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import BadInput
from tickerplant.core.times import DAY_US, TIMESTAMP, BoolArray, Int64Array, times_of

Reasons = dict[int, str]

EPOCH, ZONED, NAIVE, DATES = "epoch", "zoned", "naive", "dates"
_ISO: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?\s*(Z|[+-]\d\d(?::?\d\d)?)?)?")
_SLASHED: Final = re.compile(r"(\d{1,2})[/.](\d{1,2})[/.]\d{4}\b.*")
_COMPACT: Final = re.compile(r"(?:19|20|21)\d\d[01]\d[0-3]\d(?:[ T]\d{2}:?\d{2}(?::?\d{2})?)?")
_UNITS: Final = ((1e11, 1_000_000, 1), (1e14, 1_000, 1), (1e17, 1, 1), (float("inf"), 1, 1_000))
"""Up to which size of number, and what makes microseconds of it (times, divided by).

1e11 s is the year 5138, 1e11 ms is 1973.
"""


def zone(name: str) -> str:
    """Return the zone's name if there is such a zone. Raises BadInput."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"no time zone {name!r}; use a name like UTC or America/New_York") from None
    return name


def same_zone(name: str) -> str:
    """Return one name for all that are links to one zone: `America/New_York` for `US/Eastern`, `UTC` for `Zulu`."""
    links = _links()
    while name in links:
        name = links[name]
    return "UTC" if name in ("Etc/UTC", "Etc/GMT") else name


@lru_cache(maxsize=1)
def _links() -> dict[str, str]:
    """Return the names that IANA keeps for zones of another name, each with that; none if the list is not there."""
    try:
        text = importlib.resources.files("tzdata.zoneinfo").joinpath("tzdata.zi").read_text(encoding="ascii")
    except (ModuleNotFoundError, OSError):
        return {}
    lines = (line.split() for line in text.splitlines() if line.startswith("L "))
    return {link: target for _, target, link in lines}


class TimeReader:
    """Reads a file's time column, block by block and in order: what was told once holds for the whole file.

    `line` names the place of the first value in errors. Keeps each symbol's last time of the hour that happens twice.
    `is_slashed`: dates are written with slashes or dots. `takes_zone` and `takes_order` say whether the zone and the
    order of day and month that were given change what is read.
    """

    def __init__(
        self,
        sample: pa.Array,
        *,
        tz: str | None = None,
        date_order: str | None = None,
        daily: bool = False,
        line: int | None = None,
    ) -> None:
        self._tz = zone(tz) if tz else None
        self._daily = daily
        self._order = date_order
        self._scale: tuple[int, int] = (1, 1)
        self.is_slashed = self.takes_order = False
        self.form = self._told_by(sample, line)
        if not self.is_slashed:
            self._order = None
        self.takes_zone = self._tz is not None and self.form == (ZONED if daily else NAIVE)
        if self.form == NAIVE and self._tz is None and not daily:
            example = next((str(v) for v in sample.slice(0, 50).to_pylist() if v is not None), "")
            raise BadInput(
                f"the time {example} has no zone; say which it is with --tz (as UTC, America/New_York)", line=line
            )
        self._last_local: dict[int, int] = {}
        self._folded: dict[int, bool] = {}

    def read(self, column: pa.Array, codes: npt.NDArray[np.int32]) -> tuple[Int64Array, Reasons]:
        """Return each row's microseconds and, for rows that cannot be read (value 0), why not.

        `codes`: a number for each row's symbol.
        """
        reasons: Reasons = {}
        if self.form == EPOCH:
            us = self._epochs(column, reasons)
        else:
            local, bad = self._moments(column)
            us = local
            for row in np.flatnonzero(bad).tolist():
                reasons[row] = f"{column[row].as_py()!r} is no time"
            if self.form == NAIVE and self._tz is not None and not self._daily:
                us = self._to_utc(local, ~bad, codes, reasons)
            elif self._daily and self.form == ZONED and self._tz is not None:
                us = self._local(us)
        if self._daily:
            us = us - us % DAY_US
        if reasons:
            us = us.copy()
            us[list(reasons)] = 0
        return us, reasons

    # Telling -----------------------------------------------------------------------------------------------------

    def _told_by(self, sample: pa.Array, line: int | None) -> str:
        kind = sample.type
        if pa.types.is_timestamp(kind):
            return ZONED if kind.tz else NAIVE
        if pa.types.is_date(kind):
            return DATES
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            values = [abs(float(v)) for v in sample.to_pylist() if v is not None]
            if not values:
                raise BadInput("the time column is empty", line=line)
            self._scale = _scale_of(values[0])
            return EPOCH
        texts = [str(v).strip() for v in sample.to_pylist() if v is not None and str(v).strip()]
        if not texts:
            raise BadInput("the time column is empty", line=line)
        first = texts[0]
        if _COMPACT.fullmatch(first):
            return NAIVE if len(first) > 8 else DATES
        if re.fullmatch(r"-?\d+(\.\d*)?", first):
            self._scale = _scale_of(abs(float(first)))
            return EPOCH
        if _SLASHED.fullmatch(first):
            found_order = _order_of(texts)
            self._order = self._order or found_order
            if self._order is None:
                raise BadInput(
                    f"whether {first} begins with the day or the month cannot be told; use --date-order", line=line
                )
            self.is_slashed, self.takes_order = True, self._order != found_order
            return NAIVE if ":" in first else DATES
        plain = _plain_text(first)
        found = _ISO.fullmatch(plain)
        if found is None:
            raise BadInput(
                f"{first!r} is no time that can be read; ISO 8601 or seconds since 1970 always can", line=line
            )
        return DATES if len(plain) == 10 else ZONED if found[4] else NAIVE

    # Reading -----------------------------------------------------------------------------------------------------

    def _epochs(self, column: pa.Array, reasons: Reasons) -> Int64Array:
        times, divided = self._scale
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column, bad = numbers(column, pa.int64())
            if bad.any():
                # Seconds with a fraction: as decimal text, so that microseconds survive.
                return self._epochs_by_row(column, bad, reasons)
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            values = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
            bad = ~np.isfinite(values)
            result: Int64Array = np.rint(np.where(bad, 0, values) * times / divided).astype(np.int64)
        else:
            bad = column.is_null().to_numpy(zero_copy_only=False)
            result = column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
            result = self._checked_scale(result, bad)
        for row in np.flatnonzero(bad).tolist():
            reasons[row] = "the time is missing or of another unit than the first one"
        return result

    def _checked_scale(self, values: Int64Array, bad: BoolArray) -> Int64Array:
        times, divided = self._scale
        limit = (1 << 62) // times
        bad |= (values > limit) | (values < -limit)
        return np.where(bad, 0, values) // divided * times

    def _epochs_by_row(self, column: pa.Array, bad: BoolArray, reasons: Reasons) -> Int64Array:
        times, divided = self._scale
        result = np.zeros(len(column), dtype=np.int64)
        for row, value in enumerate(column.to_pylist()):
            text = str(value).strip() if value is not None else ""
            if re.fullmatch(r"-?\d{1,19}(\.\d*)?", text):
                whole, _, fraction = text.partition(".")
                scaled = int(whole) * times // divided
                if fraction and times > 1:
                    digits = len(str(times)) - 1
                    scaled += int(fraction[:digits].ljust(digits, "0")) * (-1 if text[0] == "-" else 1)
                result[row] = scaled
            else:
                reasons[row] = f"{text!r} is no time"
        return result

    def _moments(self, column: pa.Array) -> tuple[Int64Array, BoolArray]:
        """Return microseconds (local ones for NAIVE) and which rows cannot be read."""
        kind = column.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            bad = column.is_null().to_numpy(zero_copy_only=False)
            naive = column.cast(pa.timestamp("us", tz=kind.tz if pa.types.is_timestamp(kind) else None), safe=False)
            values = naive.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            return values, bad
        texts = column.cast(pa.utf8())
        wanted = TIMESTAMP if self.form == ZONED else pa.timestamp("us")
        try:
            read = pc.cast(texts, wanted)
            if read.null_count == 0:
                return read.view(pa.int64()).to_numpy(zero_copy_only=False), np.zeros(len(texts), dtype=np.bool_)
        except pa.ArrowInvalid:
            pass
        texts = self._as_iso(texts)
        for unit, divided in (("us", 1), ("ns", 1_000)):
            try:
                read = pc.cast(texts, pa.timestamp(unit, tz=wanted.tz))
            except pa.ArrowInvalid:
                continue
            bad = read.is_null().to_numpy(zero_copy_only=False)
            return read.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) // divided, bad
        return self._by_row(texts)

    def _as_iso(self, texts: pa.Array) -> pa.Array:
        """Return the texts rewritten as ISO 8601, as far as they are of one of the other forms."""
        texts = pc.utf8_trim_whitespace(texts)
        if self._order:
            texts = pc.replace_substring_regex(texts, r"^(\d)([/.])", r"0\1\2")
            texts = pc.replace_substring_regex(texts, r"^(\d\d)[/.](\d)[/.]", r"\1/0\2/")
            ours = r"\3-\1-\2" if self._order == "mdy" else r"\3-\2-\1"
            texts = pc.replace_substring_regex(texts, r"^(\d\d)[/.](\d\d)[/.](\d{4})", ours)
            texts = pc.replace_substring_regex(texts, r" (\d):", r" 0\1:")
        texts = pc.replace_substring_regex(texts, r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3")
        texts = pc.replace_substring_regex(texts, r"^(\d{4})(\d\d)(\d\d)", r"\1-\2-\3")
        texts = pc.replace_substring_regex(texts, r"^(.{10})[ T](\d\d)(\d\d)(\d\d)?$", r"\1 \2:\3:\4")
        texts = pc.replace_substring_regex(texts, r":$", "")
        texts = pc.replace_substring_regex(texts, r"\s*(UTC|GMT)$", "Z")
        texts = pc.replace_substring_regex(texts, r"(:\d\d),(\d)", r"\1.\2")
        return texts

    def _by_row(self, texts: pa.Array) -> tuple[Int64Array, BoolArray]:
        """Read value by value: only for blocks in which some value cannot be read."""
        result = np.zeros(len(texts), dtype=np.int64)
        bad = np.zeros(len(texts), dtype=np.bool_)
        for row, text in enumerate(texts.to_pylist()):
            moment = _parse(text)
            if moment is None or (moment.tzinfo is not None) != (self.form == ZONED):
                bad[row] = True
                continue
            since = moment - (_EPOCH_UTC if moment.tzinfo else _EPOCH_NAIVE)
            result[row] = since // dt.timedelta(microseconds=1)
        return result, bad

    # Zones -------------------------------------------------------------------------------------------------------

    def _local(self, us: Int64Array) -> Int64Array:
        shown = pc.local_timestamp(pa.array(us).view(pa.timestamp("us", tz=self._tz)))
        result: Int64Array = shown.view(pa.int64()).to_numpy(zero_copy_only=False)
        return result

    def _to_utc(self, local: Int64Array, good: BoolArray, codes: npt.NDArray[np.int32], reasons: Reasons) -> Int64Array:
        naive = pa.array(local).view(pa.timestamp("us"))
        first = times_of(pc.assume_timezone(naive, self._tz, ambiguous="earliest", nonexistent="earliest"))
        second = times_of(pc.assume_timezone(naive, self._tz, ambiguous="latest", nonexistent="latest"))
        twice = (first != second) & good
        if not twice.any():
            return first
        result = first.copy()
        missing = twice & (self._local(first) != local)
        for row in np.flatnonzero(missing).tolist():
            reasons[row] = f"the clocks of {self._tz} skip this time"
        for row in np.flatnonzero(twice & ~missing).tolist():
            code, at = int(codes[row]), int(local[row])
            last = self._last_local.get(code)
            if last is None or abs(at - last) > DAY_US:
                self._folded[code] = False
            elif at < last:
                self._folded[code] = True
            self._last_local[code] = at
            if self._folded[code]:
                result[row] = second[row]
        return result


_EPOCH_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_EPOCH_NAIVE = _EPOCH_UTC.replace(tzinfo=None)


def numbers(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, BoolArray]:
    """Return (the texts as numbers, which are none). When some are none the texts come back instead."""
    try:
        return pc.cast(texts, kind), np.zeros(len(texts), dtype=np.bool_)
    except pa.ArrowInvalid:
        return texts, np.ones(len(texts), dtype=np.bool_)


def _scale_of(value: float) -> tuple[int, int]:
    return next((times, divided) for limit, times, divided in _UNITS if value < limit)


def _order_of(texts: list[str]) -> str | None:
    """Return `mdy` or `dmy`, as the values tell, or None when they do not."""
    pairs = [(int(m[1]), int(m[2])) for m in map(_SLASHED.fullmatch, texts) if m]
    if any(a > 12 for a, _ in pairs):
        return "dmy"
    if any(b > 12 for _, b in pairs):
        return "mdy"
    return None


def _plain_text(text: str) -> str:
    text = re.sub(r"\s*(UTC|GMT)$", "Z", text)
    return re.sub(r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3", text)


def _parse(text: Any) -> dt.datetime | None:
    if not text:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(dt.UTC) if moment.tzinfo else moment
