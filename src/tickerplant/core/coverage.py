"""Coverage: which bars a symbol should have, and why those that it has not are missing. Pure, and in whole columns.

Expected are the bars of regular hours by the symbol's calendar. Each has one status:

    have         stored, and complete
    partial      stored, but its feed was not up for all of it
    no_trade     nobody traded: a live feed that was up was silent, or a vendor that was asked brought no bar
    outage       no feed was up, and no vendor could be reached to ask
    quota        it is to be asked for when a vendor's quota allows it again
    unavailable  no vendor offers it, or its bars were refused; the note says why
    missing      it is not there, and nobody has been asked yet
    pending      its interval is not over, or only just

Between them lies `closed`: times at which the market is not in session.
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
"""Of bars; what a code of `classify` stands for. CLOSED is of the time between them."""
GAPS: Final = (PARTIAL, OUTAGE, QUOTA, UNAVAILABLE, MISSING)
"""Those that say that something is not as it should be."""

RECENT_SESSIONS: Final = 5

STATUS_OF_VERDICT: Final = {
    schemas.ANSWERED: NO_TRADE,
    schemas.NO_DATA: NO_TRADE,
    schemas.QUOTA: QUOTA,
    schemas.OUTAGE: OUTAGE,
    schemas.NOT_OFFERED: UNAVAILABLE,
    schemas.DIFFERS: UNAVAILABLE,
}
"""What a missing bar is by the newest answer that covers it."""


def expected(calendar: Calendar, interval: str, from_us: int, to_us: int) -> Int64Array:
    """Return the starts, in `[from_us, to_us)` and ascending, of the bars that a symbol of this calendar should have.

    1d: the date of each session. Shorter ones: every interval that begins in regular hours, lunch breaks left out.
    Raises BadInput for an interval that is unknown or has no length, ValueError for one longer than a day.

    >>> from tickerplant.core.sessions import calendar
    >>> len(expected(calendar("24/7"), "5m", 0, DAY_US)), len(expected(calendar("24/7"), "1d", 0, 7 * DAY_US))
    (288, 7)
    """
    length = intervals.parse(interval)
    if length.us > DAY_US or length.is_activity:
        raise ValueError(f"no bars of {interval} are expected: they go by weeks or by activity")
    low, high = calendar.bounds()
    from_us, to_us = max(from_us, low), min(to_us, high)
    if to_us <= from_us:
        return np.empty(0, np.int64)
    if length.us == DAY_US:
        return _sessions(calendar, from_us, to_us)
    dates = _sessions(calendar, from_us - 2 * DAY_US, to_us + 2 * DAY_US)
    if not len(dates):
        return np.empty(0, np.int64)
    first = calendar.open_of(dates)
    counts = (calendar.close_of(dates) - first + length.us - 1) // length.us
    ends = np.cumsum(counts)
    begin = np.asarray(length.floor(first))
    starts = np.repeat(begin, counts) + (np.arange(ends[-1]) - np.repeat(ends - counts, counts)) * length.us
    # An open off the grid leaves its first interval with a start before it: that counts by where trading begins.
    probe = np.maximum(starts, np.repeat(first, counts))
    starts = starts[calendar.is_regular(probe) & (starts >= from_us) & (starts < to_us)]
    result: Int64Array = starts
    return result


def default_range(calendar: Calendar, interval: str, now_us: int) -> tuple[int, int]:
    """Return the stretch that is looked at unless another is asked for: to now, within the day from the beginning of
    the last `RECENT_SESSIONS` sessions on, else of the last year.
    """
    if not intervals.parse(interval).is_intraday:
        today = now_us - now_us % DAY_US
        return today - 365 * DAY_US, today + DAY_US
    begin = int(calendar.remembered_from(np.array([now_us], np.int64), RECENT_SESSIONS)[0])
    end = now_us - now_us % MINUTE_US + MINUTE_US
    return (begin if begin > NEVER_US else end - RECENT_SESSIONS * DAY_US), end


def _sessions(calendar: Calendar, from_us: int, to_us: int) -> Int64Array:
    """Return the dates of the calendar's sessions in `[from_us, to_us)`."""
    low, high = calendar.bounds()
    days = np.arange(max(from_us, low) // DAY_US, min(to_us, high) // DAY_US + 1, dtype=np.int64) * DAY_US
    if not len(days):
        return days
    # Any session of a date holds the noon of some zone: three looks at a day find it wherever its exchange lies.
    found = [calendar.session_of(days + hour * DAY_US // 24) for hour in range(-14, 38, 2)]
    dates = np.unique(np.concatenate(found))
    result: Int64Array = dates[(dates >= from_us) & (dates < to_us)]
    return result


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers about one symbol and interval, in the order in which they count: later ones replace earlier ones.

    `from_us`, `to_us`: int64[n]; `verdict`, `source`, `note`: n texts; `again_us`: int64[n], 0 where there is none.
    """

    from_us: Int64Array
    to_us: Int64Array
    verdict: list[str]
    source: list[str]
    note: list[str]
    again_us: Int64Array

    @staticmethod
    def none() -> Answers:
        """Return no answers."""
        nothing = np.empty(0, np.int64)
        return Answers(nothing, nothing, [], [], [], nothing)


@dataclass(frozen=True, slots=True)
class Statuses:
    """Of each expected bar `code`: int8[n] into STATUSES, and `answer`: int32[n], the answer that says so, or -1."""

    starts: Int64Array
    code: npt.NDArray[np.int8]
    answer: npt.NDArray[np.int32]
    answers: Answers = field(default_factory=Answers.none)

    def counts(self) -> dict[str, int]:
        """Return how many bars there are of each status."""
        found = np.bincount(self.code, minlength=len(STATUSES))
        return {status: int(found[at]) for at, status in enumerate(STATUSES)}


def share(counts: Mapping[str, int]) -> float | None:
    """Return of the bars that should be there by now the part that is, or was not traded; None where there are none."""
    over = sum(counts.values()) - counts[PENDING]
    return round((counts[HAVE] + counts[NO_TRADE]) / over, 6) if over else None


def newest_answer(starts: Int64Array, answers: Answers) -> npt.NDArray[np.int32]:
    """Return for each start the last answer that covers it, or -1: int32[n]. `starts` ascend."""
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

    `starts`: ascending. `have`, `complete`: the stored bars, any order. `silent`: starts of intervals in which a live
    feed that was up brought nothing of the symbol; `down`: those in which live feeds were expected and down. `over_us`:
    bars that start at or after it are not expected to be there yet.
    """
    code = np.full(len(starts), STATUSES.index(MISSING), np.int8)
    code[np.isin(starts, down)] = STATUSES.index(OUTAGE)
    code[np.isin(starts, silent)] = STATUSES.index(NO_TRADE)
    answer = newest_answer(starts, answers)
    if len(answers.verdict):
        of = np.array([STATUSES.index(STATUS_OF_VERDICT[verdict]) for verdict in answers.verdict], np.int8)
        told = answer >= 0
        code[told] = of[answer[told]]
    code[starts >= over_us] = STATUSES.index(PENDING)
    code[np.isin(starts, have[~complete])] = STATUSES.index(PARTIAL)
    there = np.isin(starts, have[complete])
    code[there] = STATUSES.index(HAVE)
    answer[there] = -1
    return Statuses(starts, code, answer, answers)


@dataclass(frozen=True, slots=True)
class StatusRange:
    """Expected bars that follow each other and have one status, or the time between sessions (`closed`, no bars)."""

    from_us: int
    to_us: int
    status: str
    bars: int
    source: str = ""
    note: str = ""
    again_us: int = 0


def status_ranges(found: Statuses, interval: str, from_us: int, to_us: int) -> list[StatusRange]:
    """Return the stretches of `[from_us, to_us)` in order, without a hole between them.

    Bars of one status but of two answers that say different things are two stretches.
    """
    length = intervals.parse(interval)
    result: list[StatusRange] = []
    starts, code, answer = found.starts, found.code, found.answer
    at_us = from_us
    if len(starts):
        words = np.array(
            [hash((s, n)) for s, n in zip(found.answers.source, found.answers.note, strict=True)] + [0], np.int64
        )[answer]
        away = starts[1:] != starts[:-1] + length.us
        if length.us == DAY_US:
            away &= False  # between two sessions nothing is missing, be it a night or a weekend
        cut = (code[1:] != code[:-1]) | (words[1:] != words[:-1]) | away
        begins = np.concatenate(([0], np.flatnonzero(cut) + 1))
        ends = np.append(begins[1:], len(starts))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            first, last = int(starts[begin]), int(starts[end - 1]) + length.us
            if first > at_us and (length.us < DAY_US or not result):
                result.append(StatusRange(at_us, first, CLOSED, 0))
            number = int(answer[begin])
            told = number >= 0
            result.append(
                StatusRange(
                    first,
                    min(last, to_us) if length.us < DAY_US else last,
                    STATUSES[code[begin]],
                    end - begin,
                    found.answers.source[number] if told else "",
                    found.answers.note[number] if told else "",
                    int(found.answers.again_us[number]) if told else 0,
                )
            )
            at_us = last
    if at_us < to_us:
        result.append(StatusRange(at_us, to_us, CLOSED, 0))
    return result
