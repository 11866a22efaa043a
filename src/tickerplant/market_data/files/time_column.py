"""The time column of a file, converted to microseconds UTC. Pure, column-wise.

Supported forms: seconds, milliseconds, microseconds or nanoseconds since 1970 (detected by magnitude), ISO 8601 with or
without offset, `20201215`, `20201215 093000`, `12/15/2020 9:30`, and dates. The order of day and month follows from the
values or from the options. A time without offset is local to the zone of the options. An hour occurs twice when clocks
are set back: a symbol's times are in summer time until they decrease, then in winter time. A time that the clocks skip
is invalid.
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
"""Limits of the absolute number, with factor and divisor to microseconds. 1e11 s is the year 5138, 1e11 ms is the
year 1973."""


def check_zone(name: str) -> str:
    """Return the name of an existing time zone. Raises BadInput for other names."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"unknown time zone {name!r}; use a name like UTC or America/New_York") from None
    return name


def canonical_zone(name: str) -> str:
    """Return the canonical name of a zone: `America/New_York` for `US/Eastern`, `UTC` for `Zulu`."""
    links = _links()
    while name in links:
        name = links[name]
    return "UTC" if name in ("Etc/UTC", "Etc/GMT") else name


@lru_cache(maxsize=1)
def _links() -> dict[str, str]:
    """Return IANA's aliases with the zone of each; {} if the list is not installed."""
    try:
        text = importlib.resources.files("tzdata.zoneinfo").joinpath("tzdata.zi").read_text(encoding="ascii")
    except (ModuleNotFoundError, OSError):
        return {}
    lines = (line.split() for line in text.splitlines() if line.startswith("L "))
    return {link: target for _, target, link in lines}


class TimeColumn:
    """Converts a file's time column block by block, in order. The form of the first values applies to the whole file.

    `line`: the line of the first value, for errors. `is_slashed`: dates have slashes or dots. `takes_zone`: the given
    zone has an effect. `takes_order`: the given order of day and month has an effect. The state is the last time of
    each symbol in an hour that occurs twice.
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
        self._tz = check_zone(tz) if tz else None
        self._daily = daily
        self._order = date_order
        self._scale: tuple[int, int] = (1, 1)
        self.is_slashed = self.takes_order = False
        self.form = self._detect_form(sample, line)
        if not self.is_slashed:
            self._order = None
        self.takes_zone = self._tz is not None and self.form == (ZONED if daily else NAIVE)
        if self.form == NAIVE and self._tz is None and not daily:
            example = next((str(v) for v in sample.slice(0, 50).to_pylist() if v is not None), "")
            raise BadInput(
                f"the time {example} has no zone; set it with --tz, to America/New_York for example", line=line
            )
        self._last_local: dict[int, int] = {}
        self._folded: dict[int, bool] = {}

    def read(self, column: pa.Array, codes: npt.NDArray[np.int32]) -> tuple[Int64Array, Reasons]:
        """Return the time of each row in microseconds UTC, and the reasons of the invalid rows, whose times are 0.

        `codes`: the symbol code of each row.
        """
        reasons: Reasons = {}
        if self.form == EPOCH:
            us = self._epochs(column, reasons)
        else:
            local, bad = self._moments(column)
            us = local
            for row in np.flatnonzero(bad).tolist():
                reasons[row] = f"{column[row].as_py()!r} is not a time"
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

    # Detection ---------------------------------------------------------------------------------------------------

    def _detect_form(self, sample: pa.Array, line: int | None) -> str:
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
                    f"the order of day and month in {first} is ambiguous; set it with --date-order", line=line
                )
            self.is_slashed, self.takes_order = True, self._order != found_order
            return NAIVE if ":" in first else DATES
        text = _normalised(first)
        found = _ISO.fullmatch(text)
        if found is None:
            raise BadInput(f"{first!r} is not a time in a supported form; use ISO 8601 or Unix seconds", line=line)
        return DATES if len(text) == 10 else ZONED if found[4] else NAIVE

    # Conversion --------------------------------------------------------------------------------------------------

    def _epochs(self, column: pa.Array, reasons: Reasons) -> Int64Array:
        factor, divisor = self._scale
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column, bad = _numbers(column, pa.int64())
            if bad.any():
                # Seconds with a fraction are parsed as decimal text, which keeps the microseconds.
                return self._epochs_by_row(column, bad, reasons)
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            values = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
            bad = ~np.isfinite(values)
            result: Int64Array = np.rint(np.where(bad, 0, values) * factor / divisor).astype(np.int64)
        else:
            bad = column.is_null().to_numpy(zero_copy_only=False)
            result = column.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
            result = self._checked_scale(result, bad)
        for row in np.flatnonzero(bad).tolist():
            reasons[row] = "the time is missing, or has another unit than the first one"
        return result

    def _checked_scale(self, values: Int64Array, bad: BoolArray) -> Int64Array:
        factor, divisor = self._scale
        limit = (1 << 62) // factor
        bad |= (values > limit) | (values < -limit)
        return np.where(bad, 0, values) // divisor * factor

    def _epochs_by_row(self, column: pa.Array, bad: BoolArray, reasons: Reasons) -> Int64Array:
        factor, divisor = self._scale
        result = np.zeros(len(column), dtype=np.int64)
        for row, value in enumerate(column.to_pylist()):
            text = str(value).strip() if value is not None else ""
            if re.fullmatch(r"-?\d{1,19}(\.\d*)?", text):
                whole, _, fraction = text.partition(".")
                scaled = int(whole) * factor // divisor
                if fraction and factor > 1:
                    digits = len(str(factor)) - 1
                    scaled += int(fraction[:digits].ljust(digits, "0")) * (-1 if text[0] == "-" else 1)
                result[row] = scaled
            else:
                reasons[row] = f"{text!r} is not a time"
        return result

    def _moments(self, column: pa.Array) -> tuple[Int64Array, BoolArray]:
        """Return the times in microseconds (local for NAIVE), and a mask of the invalid rows."""
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
        for unit, divisor in (("us", 1), ("ns", 1_000)):
            try:
                read = pc.cast(texts, pa.timestamp(unit, tz=wanted.tz))
            except pa.ArrowInvalid:
                continue
            bad = read.is_null().to_numpy(zero_copy_only=False)
            return read.view(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) // divisor, bad
        return self._by_row(texts)

    def _as_iso(self, texts: pa.Array) -> pa.Array:
        """Rewrite the other supported forms as ISO 8601."""
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
        """Parse value by value; used only for blocks with an invalid value."""
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
        skipped = twice & (self._local(first) != local)
        for row in np.flatnonzero(skipped).tolist():
            reasons[row] = f"this local time does not exist in {self._tz}: the clocks skip it"
        for row in np.flatnonzero(twice & ~skipped).tolist():
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


def _numbers(texts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, BoolArray]:
    """Return the texts as numbers and an all-False mask; if a text is not a number, the texts and an all-True mask."""
    try:
        return pc.cast(texts, kind), np.zeros(len(texts), dtype=np.bool_)
    except pa.ArrowInvalid:
        return texts, np.ones(len(texts), dtype=np.bool_)


def _scale_of(value: float) -> tuple[int, int]:
    return next((factor, divisor) for limit, factor, divisor in _UNITS if value < limit)


def _order_of(texts: list[str]) -> str | None:
    """Return `mdy` or `dmy` if a value determines the order, otherwise None."""
    pairs = [(int(m[1]), int(m[2])) for m in map(_SLASHED.fullmatch, texts) if m]
    if any(a > 12 for a, _ in pairs):
        return "dmy"
    if any(b > 12 for _, b in pairs):
        return "mdy"
    return None


def _normalised(text: str) -> str:
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
