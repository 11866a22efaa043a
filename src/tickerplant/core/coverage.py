"""Coverage: which bars of a symbol are expected, and the reason for each missing bar. Pure, over whole columns.

Expected bars are those of regular hours by the symbol's calendar. Each has one status:

- `have`: stored and complete.
- `partial`: stored, but not complete. For example, its feed was not up for the entire interval.
- `no_trade`: a live feed that was up had no trades, or a vendor returned no bar.
- `outage`: the expected feeds were down, or the vendor was unavailable.
- `quota`: the vendor's quota is used up; the bar will be requested later.
- `unavailable`: no vendor offers the bar, or the vendor's bars were rejected; the note contains the reason.
- `missing`: not stored, and not requested yet.
- `pending`: not stored; its interval has not ended, or ended a moment ago.

The time between expected bars is `closed`: the market is not in session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core import interval as intervals
from tickerplant.core import schemas
from tickerplant.core.sessions import Calendar
from tickerplant.core.times import DAY_US, MINUTE_US, NEVER_US, BoolArray, Int64Array

HAVE, PARTIAL, NO_TRADE, OUTAGE, QUOTA, UNAVAILABLE, MISSING, PENDING, CLOSED = (
    "have", "partial", "no_trade", "outage", "quota", "unavailable", "missing", "pending", "closed",
)  # fmt: skip
STATUSES: Final = (HAVE, PARTIAL, NO_TRADE, OUTAGE, QUOTA, UNAVAILABLE, MISSING, PENDING)
"""Statuses of bars; the codes of `classify` are indices into this tuple. CLOSED applies to the time between bars."""
GAPS: Final = (PARTIAL, OUTAGE, QUOTA, UNAVAILABLE, MISSING)
"""Statuses of bars that are missing or incomplete."""

RECENT_SESSIONS: Final = 5
"""Sessions in the default range of intraday bars."""

STATUS_BY_VERDICT: Final = {
    schemas.ANSWERED: NO_TRADE,
    schemas.NO_DATA: NO_TRADE,
    schemas.QUOTA: QUOTA,
    schemas.OUTAGE: OUTAGE,
    schemas.NOT_OFFERED: UNAVAILABLE,
    schemas.DIFFERS: UNAVAILABLE,
}
"""Status of a missing bar by the verdict of the newest answer that covers it."""


def expected(calendar: Calendar, interval: str, start_us: int, end_us: int) -> Int64Array:
    """Return the starts of the bars in `[start_us, end_us)` that a calendar's symbols should have, ascending: int64[n].

    A daily bar is expected for each session. A shorter bar is expected for each interval that starts in regular hours
    or contains an open. Lunch breaks are excluded. Raises BadInput for an unknown interval, and ValueError for an
    activity interval, or for an interval longer than a day.

    >>> from tickerplant.core.sessions import calendar
    >>> len(expected(calendar("24/7"), "5m", 0, DAY_US)), len(expected(calendar("24/7"), "1d", 0, 7 * DAY_US))
    (288, 7)
    """
    length = intervals.parse(interval)
    if length.us > DAY_US or length.is_activity:
        raise ValueError(f"{interval} has no expected bars: it is longer than a day, or an activity interval")
    low, high = calendar.bounds()
    start_us, end_us = max(start_us, low), min(end_us, high)
    if end_us <= start_us:
        return np.empty(0, np.int64)
    if length.us == DAY_US:
        return _sessions(calendar, start_us, end_us)
    dates = _sessions(calendar, start_us - 2 * DAY_US, end_us + 2 * DAY_US)
    if not len(dates):
        return np.empty(0, np.int64)
    first = calendar.open_of(dates)
    counts = (calendar.close_of(dates) - first + length.us - 1) // length.us
    ends = np.cumsum(counts)
    begin = np.asarray(length.floor(first))
    starts = np.repeat(begin, counts) + (np.arange(ends[-1]) - np.repeat(ends - counts, counts)) * length.us
    # If the open is not on the grid, the first interval starts before it and is tested at the open.
    probe = np.maximum(starts, np.repeat(first, counts))
    starts = starts[calendar.is_regular(probe) & (starts >= start_us) & (starts < end_us)]
    result: Int64Array = starts
    return result


def default_range(calendar: Calendar, interval: str, now_us: int) -> tuple[int, int]:
    """Return the default range `[start, end)` of coverage, in microseconds UTC.

    It contains the last `RECENT_SESSIONS` sessions for intraday intervals, and one year for other intervals. It ends
    with the current minute or day. If the calendar has fewer past sessions, it contains `RECENT_SESSIONS` days.
    """
    if not intervals.parse(interval).is_intraday:
        today = now_us - now_us % DAY_US
        return today - 365 * DAY_US, today + DAY_US
    begin = int(calendar.start_of_last_sessions(np.array([now_us], np.int64), RECENT_SESSIONS)[0])
    end = now_us - now_us % MINUTE_US + MINUTE_US
    return (begin if begin > NEVER_US else end - RECENT_SESSIONS * DAY_US), end


def _sessions(calendar: Calendar, start_us: int, end_us: int) -> Int64Array:
    """Return the dates of the calendar's sessions in `[start_us, end_us)`."""
    low, high = calendar.bounds()
    days = np.arange(max(start_us, low) // DAY_US, min(end_us, high) // DAY_US + 1, dtype=np.int64) * DAY_US
    if not len(days):
        return days
    # A session contains noon of its time zone. Probes every 2 hours find it in every zone.
    found = [calendar.session_of(days + hour * DAY_US // 24) for hour in range(-14, 38, 2)]
    dates = np.unique(np.concatenate(found))
    result: Int64Array = dates[(dates >= start_us) & (dates < end_us)]
    return result


@dataclass(frozen=True, slots=True)
class Answers:
    """Vendors' answers for one symbol and interval. A later answer replaces earlier answers in their common range.

    `from_us`, `to_us`: int64[n]. `verdict`, `source`, `note`: n strings. `again_us`: int64[n], the time from which a
    new request may succeed, 0 if there is none.
    """

    from_us: Int64Array
    to_us: Int64Array
    verdict: list[str]
    source: list[str]
    note: list[str]
    again_us: Int64Array

    @staticmethod
    def none() -> Answers:
        """Return an empty `Answers`."""
        nothing = np.empty(0, np.int64)
        return Answers(nothing, nothing, [], [], [], nothing)


@dataclass(frozen=True, slots=True)
class Statuses:
    """Statuses of expected bars. `code`: index into STATUSES.

    `answer`: index of the newest answer that covers the bar. It is -1 if there is none, or if the bar is complete.
    """

    starts: Int64Array
    code: npt.NDArray[np.int8]
    answer: npt.NDArray[np.int32]
    answers: Answers = field(default_factory=Answers.none)

    def counts(self) -> dict[str, int]:
        """Return the count of bars by status."""
        found = np.bincount(self.code, minlength=len(STATUSES))
        return {status: int(found[at]) for at, status in enumerate(STATUSES)}


def share(counts: Mapping[str, int]) -> float | None:
    """Return the fraction of due bars that are stored and complete, or had no trades; None if no bar is due yet."""
    due = sum(counts.values()) - counts[PENDING]
    return round((counts[HAVE] + counts[NO_TRADE]) / due, 6) if due else None


def newest_answer(starts: Int64Array, answers: Answers) -> npt.NDArray[np.int32]:
    """Return for each start the index of the last answer that covers it, or -1: int32[n]. `starts` must ascend."""
    found = np.full(len(starts), -1, np.int32)
    low = np.searchsorted(starts, answers.from_us).tolist()
    high = np.searchsorted(starts, answers.to_us).tolist()
    for number, (begin, end) in enumerate(zip(low, high, strict=True)):
        found[begin:end] = number
    return found


def classify(
    starts: Int64Array,
    have: Int64Array,
    complete: BoolArray,
    answers: Answers,
    *,
    silent: Int64Array,
    down: Int64Array,
    over_us: int,
) -> Statuses:
    """Return the status of each expected bar.

    `starts` must ascend. `have`, `complete`: starts and completeness of the stored bars, in any order. `silent`: starts
    of intervals in which a live feed was up and had no data of the symbol. `down`: starts of intervals in which
    expected live feeds were down. Bars that are not stored and start at or after `over_us` are pending.
    """
    code = np.full(len(starts), STATUSES.index(MISSING), np.int8)
    code[np.isin(starts, down)] = STATUSES.index(OUTAGE)
    code[np.isin(starts, silent)] = STATUSES.index(NO_TRADE)
    answer = newest_answer(starts, answers)
    if len(answers.verdict):
        of = np.array([STATUSES.index(STATUS_BY_VERDICT[verdict]) for verdict in answers.verdict], np.int8)
        answered = answer >= 0
        code[answered] = of[answer[answered]]
    code[starts >= over_us] = STATUSES.index(PENDING)
    code[np.isin(starts, have[~complete])] = STATUSES.index(PARTIAL)
    stored = np.isin(starts, have[complete])
    code[stored] = STATUSES.index(HAVE)
    answer[stored] = -1
    return Statuses(starts, code, answer, answers)


@dataclass(frozen=True, slots=True)
class StatusRange:
    """Consecutive expected bars of one status, or the time between sessions (`closed`, no bars)."""

    from_us: int
    to_us: int
    status: str
    bars: int
    source: str = ""
    note: str = ""
    again_us: int = 0


def status_ranges(found: Statuses, interval: str, start_us: int, end_us: int) -> list[StatusRange]:
    """Return the ranges of equal status in `[start_us, end_us)`, in order.

    Bars whose answers have different sources or notes are in separate ranges, even if their status is equal.
    """
    length = intervals.parse(interval)
    result: list[StatusRange] = []
    starts, code, answer = found.starts, found.code, found.answer
    at_us = start_us
    if len(starts):
        texts = np.array(
            [hash((s, n)) for s, n in zip(found.answers.source, found.answers.note, strict=True)] + [0], np.int64
        )[answer]
        apart = starts[1:] != starts[:-1] + length.us
        if length.us == DAY_US:
            apart &= False  # no daily bar is expected between two sessions, over nights and weekends
        cut = (code[1:] != code[:-1]) | (texts[1:] != texts[:-1]) | apart
        begins = np.concatenate(([0], np.flatnonzero(cut) + 1))
        ends = np.append(begins[1:], len(starts))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            first, last = int(starts[begin]), int(starts[end - 1]) + length.us
            if first > at_us and (length.us < DAY_US or not result):
                result.append(StatusRange(at_us, first, CLOSED, 0))
            number = int(answer[begin])
            answered = number >= 0
            result.append(
                StatusRange(
                    first,
                    min(last, end_us) if length.us < DAY_US else last,
                    STATUSES[code[begin]],
                    end - begin,
                    found.answers.source[number] if answered else "",
                    found.answers.note[number] if answered else "",
                    int(found.answers.again_us[number]) if answered else 0,
                )
            )
            at_us = last
    if at_us < end_us:
        result.append(StatusRange(at_us, end_us, CLOSED, 0))
    return result
