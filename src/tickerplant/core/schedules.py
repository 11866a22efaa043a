"""Schedules of exchanges: read from the package, or computed by exchange_calendars.

The package contains the schedules of one version of exchange_calendars (`tools/calendars.py` writes them). The library
itself is the extra `calendars`. If another version of the library is installed, the library computes the schedules
instead.

This is the only module of `core` that reads files. Schedules cover fixed years, `FIRST_DAY` to `LAST_DAY` or the bounds
of the exchange's calendar, so they do not depend on the clock.
"""

from __future__ import annotations

import datetime as dt
import json
import warnings
from collections.abc import Mapping
from functools import cache
from importlib import metadata, resources
from typing import Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import numpy as np

from tickerplant.core.errors import ConfigError, MissingExtra
from tickerplant.core.times import FOREVER_US, HOUR_US, Int64Array, micros_of

FIRST_DAY: Final = dt.date(1980, 1, 1)
LAST_DAY: Final = dt.date(2039, 12, 31)
INDEX: Final = "index.json"
"""File beside the packaged schedules: the library's version, the file of each calendar, and other names of calendars.
Calendars with equal schedules share a file."""
Schedule: TypeAlias = Mapping[str, Int64Array]
"""Arrays of a calendar by the name of the array, with one element per session."""
_EXTENDED_FROM: Final = dt.time(4)
_EXTENDED_TO: Final = dt.time(20)
_FX_CLOSE: Final = dt.time(17)
_EXTENDED_FOR_US: Final = 4 * HOUR_US
"""Maximum time from the close to the session's end. New York's late trading ends at 20:00, on half days at 17:00."""


def calendar_version() -> str:
    """Return the version of exchange_calendars whose schedules apply: the installed or else the packaged version."""
    return _library_version() or str(_index()["version"])


def packaged_calendars() -> tuple[str, ...]:
    """Return the names of the packaged calendars, sorted."""
    return tuple(_index()["calendars"])


def packaged_schedule(name: str) -> Schedule | None:
    """Return the packaged schedule, or None if there is none for the installed version of exchange_calendars.

    If the library is not installed, the packaged schedule applies.
    """
    index = _index()
    file = index["calendars"].get(index["aliases"].get(name, name))
    if file is None or _library_version() not in ("", index["version"]):
        return None
    with (
        resources.as_file(_folder() / file) as path,
        np.load(path) as stored,
    ):
        return {part: np.cumsum(stored[part]) for part in stored.files}  # stored as differences, a tenth of the size


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = json.loads((_folder() / INDEX).read_text(encoding="utf-8"))
    return index


def _folder() -> Any:
    return resources.files("tickerplant.core") / "calendars"


def _library_version() -> str:
    try:
        return metadata.version("exchange_calendars")
    except metadata.PackageNotFoundError:
        return ""


def library_schedule(name: str) -> Schedule:
    """Return the schedule of exchange_calendars.

    Raises ConfigError for an unknown name, or if the library fails. Raises MissingExtra if it is not installed.
    """
    try:
        import exchange_calendars
        from exchange_calendars.calendar_utils import global_calendar_dispatcher
    except ModuleNotFoundError as error:
        if error.name != "exchange_calendars":
            raise
        raise MissingExtra(f"the calendar {name!r} (which is not packaged)", "calendars") from None

    try:
        known = global_calendar_dispatcher.resolve_alias(name)
        factory = global_calendar_dispatcher._calendar_factories[known]
    except (exchange_calendars.errors.InvalidCalendarName, KeyError) as error:
        raise ConfigError(
            f"unknown calendar {name!r}; use 24/7 or a name of exchange_calendars: XNYS, XLON, XHKG"
        ) from error
    first, last = factory.bound_min(), factory.bound_max()
    with warnings.catch_warnings():
        # Deprecation warnings of pandas inside the library must not fail a process that turns warnings into errors.
        warnings.simplefilter("ignore")
        try:
            made = factory(
                start=FIRST_DAY.isoformat() if first is None else max(FIRST_DAY, first.date()).isoformat(),
                end=LAST_DAY.isoformat() if last is None else min(LAST_DAY, last.date()).isoformat(),
            )
        except Exception as error:
            # With pandas 3.1, exchange_calendars 4.13 fails for ASEX (NotImplementedError) and XTAE (ValueError).
            # ConfigError lets a reader of the rules reject the name and continue.
            why = f"{type(error).__name__}: {str(error)[:200]}"
            raise ConfigError(
                f"exchange_calendars cannot create the calendar {name!r}; use another calendar: {why}"
            ) from error
    schedule, zone = made.schedule, ZoneInfo(str(made.tz))
    days = [moment.date() for moment in schedule.index]
    hours = {part: _microseconds(schedule[part]) for part in ("open", "close", "break_start", "break_end")}
    return {
        "dates": _microseconds(schedule.index),
        **hours,
        "extended_from": _local(days, _EXTENDED_FROM, zone),
        "extended_to": np.minimum(_local(days, _EXTENDED_TO, zone), hours["close"] + _EXTENDED_FOR_US),
    }


def foreign_exchange_schedule() -> Schedule:
    """Return the schedule of currency pairs: each weekday is a session, from 17:00 to 17:00 New York.

    The week begins on Sunday at 17:00, in Monday's session, and ends on Friday at 17:00. There are no holidays: banks
    quote on most of them. A day without trades has no bars.
    """
    zone = ZoneInfo("America/New_York")
    count = (LAST_DAY - FIRST_DAY).days + 1
    days = [day for i in range(count) if (day := FIRST_DAY + dt.timedelta(i)).weekday() < 5]
    closes = _local(days, _FX_CLOSE, zone)
    opens = _local([day - dt.timedelta(1) for day in days], _FX_CLOSE, zone)
    never = np.full(len(days), FOREVER_US)
    dates = np.array([micros_of(dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)) for day in days], dtype=np.int64)
    return {
        "dates": dates, "open": opens, "close": closes, "break_start": never, "break_end": never,
        "extended_from": opens, "extended_to": closes,
    }  # fmt: skip


def _microseconds(values: Any) -> Int64Array:
    moments = np.asarray(values.to_numpy(dtype="datetime64[us]"))
    result: Int64Array = moments.astype(np.int64)
    # A missing break (NaT) becomes an empty break at FOREVER_US.
    result[np.isnat(moments)] = FOREVER_US
    return result


def _local(days: list[dt.date], at: dt.time, zone: ZoneInfo) -> Int64Array:
    return np.array([micros_of(dt.datetime.combine(day, at, tzinfo=zone)) for day in days], dtype=np.int64)
