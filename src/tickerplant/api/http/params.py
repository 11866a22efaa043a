"""Parsing of request parameters: times, zones, ranges, intervals, symbols. Pure; errors describe valid input."""

from __future__ import annotations

import datetime as dt
import difflib
import re
import zoneinfo
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tickerplant.core import interval as intervals
from tickerplant.core.errors import BadInput
from tickerplant.core.interval import Interval
from tickerplant.core.shown import cut
from tickerplant.core.symbols import check_symbol
from tickerplant.core.time_column import parse_instant
from tickerplant.core.times import DAY_US, clamp_range, datetime_of, micros_of

DEFAULT_LIMIT: Final = 1_000
MAX_LIMIT: Final = 50_000
MAX_TIME_CHARS: Final = 100
MAX_SKIP: Final = 200_000
"""Maximum rows of one instant that pages can skip; each page reads the skipped rows again."""
ACTIVITY_NAMES: Final = "activity bars (100t trades, 10000v volume, 1000000d turnover)"


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows to read: at most `limit` rows of `[start_us, end_us)`. A bound of None is open.

    If `start_us` is None, the newest rows are read. `skip` is the count of rows that the previous page contained and
    that this page leaves out, at the side where reading starts.
    """

    start_us: int | None
    end_us: int | None
    limit: int
    skip: int = 0


def parse_zone(name: str) -> zoneinfo.ZoneInfo:
    """Return the time zone with this IANA name. Raises BadInput."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"unknown time zone {cut(name)!r}; use an IANA name such as UTC or America/New_York") from None


def parse_time(text: str, zone: dt.tzinfo, name: str) -> int:
    """Return a time in µs UTC. `name` is the parameter's name in errors. Raises BadInput.

    Accepts all times of `core.time_values`: ISO 8601, a date (also `20260309`), or a number since 1970 (seconds,
    milliseconds, microseconds or nanoseconds, by its size). A time without an offset is in `zone`. A local time that a
    clock change skips or repeats has the offset from before the change.

    >>> parse_time("2026-03-09", dt.UTC, "start") == parse_time("1773014400", dt.UTC, "start")
    True
    """
    text = text.strip()
    if len(text) > MAX_TIME_CHARS:
        raise BadInput(f"`{name}` has {len(text):,} characters; send at most {MAX_TIME_CHARS}")
    # A blank before an offset was a plus sign, which the client has not encoded in the URL.
    plain = re.sub(r"([0-9]{2}:[0-9]{2}\S*) ([0-9]{2}:?[0-9]{2})\Z", r"\1+\2", text)
    try:
        return parse_instant(plain, zone)
    except BadInput as error:
        raise BadInput(
            f"`{name}` {error}; use ISO 8601 (2026-03-09T09:30:00, 2026-03-09T14:30:00Z), a "
            "date (2026-03-09), or seconds, milliseconds or microseconds since 1970"
        ) from None
    except OverflowError:
        raise BadInput(f"`{name}` {text!r} is outside the years 1 to 9999; send a time within them") from None


def parse_range(
    start: str | None, end: str | None, limit: int, zone: dt.tzinfo, *, sessions: bool = False, skip: int = 0,
    names: tuple[str, str] = ("start", "end"),
) -> RowRange:  # fmt: skip
    """Return the range that the parameters describe. `names` are the parameters' names in errors. Raises BadInput.

    `sessions`: the times mean dates of trading sessions (daily and weekly bars) in the zone. An `end` within a day
    includes that day's session.
    """
    first, last = names
    start_us = None if not start else parse_time(start, zone, first)
    end_us = None if not end else parse_time(end, zone, last)
    if start_us is not None and end_us is not None and start_us >= end_us and not sessions:
        raise _not_before(names, start, end)
    start_us, end_us = clamp_range(start_us, end_us)
    if sessions:
        start_us, end_us = _session_range(start_us, end_us, zone)
        if start_us is not None and end_us is not None and start_us >= end_us:
            raise _not_before(names, start, end)
    if not 1 <= limit <= MAX_LIMIT:
        raise BadInput(f"`limit` must be 1 to {MAX_LIMIT}, not {cut(str(limit))}; use `next` to read more pages")
    if not 0 <= skip <= MAX_SKIP:
        raise BadInput(f"`skip` must be 0 to {MAX_SKIP}, not {cut(str(skip))}; send the value of `next`")
    return RowRange(start_us, end_us, limit, skip)


def _not_before(names: tuple[str, str], start: str | None, end: str | None) -> BadInput:
    first, last = names
    return BadInput(
        f"`{first}` {cut(start or '')!r} is not before `{last}` {cut(end or '')!r}; send a later `{last}` "
        f"(`{last}` is exclusive)"
    )


def _session_range(start_us: int | None, end_us: int | None, zone: dt.tzinfo) -> tuple[int | None, int | None]:
    start_us = None if start_us is None else _date_us(start_us, zone)
    if end_us is not None:
        midnight = datetime_of(end_us).astimezone(zone).time() == dt.time(0)
        end_us = _date_us(end_us, zone) + (0 if midnight else DAY_US)
    return start_us, end_us


def _date_us(us: int, zone: dt.tzinfo) -> int:
    date = datetime_of(us).astimezone(zone).date()
    return micros_of(dt.datetime.combine(date, dt.time(0), dt.UTC))


def parse_interval(name: str, allowed: tuple[Interval, ...], path: str, *, activity: bool = False) -> Interval:
    """Return the interval with this name: one of `allowed`, or any activity interval if `activity` is true.

    Raises BadInput, whose message names the allowed intervals and the path of other intervals.
    """
    found = intervals.parse(name)
    if found not in allowed and not (activity and found.is_activity):
        names = ", ".join(each.name for each in allowed) + (f" and {ACTIVITY_NAMES}" if activity else "")
        other = "/v1/historical" if not found.is_intraday else "/v1/intraday"
        raise BadInput(
            f"`interval` {found.name} is not at {path}, which has {names}; read {found.name} bars at {other}"
        )
    return found


def parse_symbol(text: str) -> str:
    """Return the symbol in canonical form. Raises BadInput."""
    return check_symbol(text)


def parse_names(text: str | None) -> list[str] | None:
    """Return the names of a comma-separated list, or None, which means all, if the text contains no name."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return names or None


def check_names(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise BadInput for an unknown parameter name. The error contains the nearest name and all known names."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), known, n=1)
            guess = f"; did you mean `{near[0]}`?" if near else "."
            raise BadInput(f"unknown parameter `{name[:64]}`{guess} The parameters are: {', '.join(known)}")
