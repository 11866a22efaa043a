"""A chart of coverage: time increases to the right, and each column of characters is a bucket of bars. Pure.

A bucket shows the worst status of its bars. If no bar has a gap, it shows the most frequent status. Each status has its
own character, so that the chart is readable without colours. Closed hours have no columns, except for a blank between
sessions if the chart is wide enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.core.coverage import (
    CLOSED,
    HAVE,
    MISSING,
    NO_TRADE,
    OUTAGE,
    PARTIAL,
    PENDING,
    QUOTA,
    STATUSES,
    UNAVAILABLE,
    Statuses,
)
from tickerplant.core.interval import Interval
from tickerplant.core.sessions import Calendar
from tickerplant.core.times import DAY_US, Int64Array, datetime_of

MARKS: Final[Mapping[str, tuple[str, str]]] = {
    HAVE: ("█", "green"),
    NO_TRADE: ("░", "cyan"),
    PARTIAL: ("▒", "yellow"),
    OUTAGE: ("x", "red"),
    QUOTA: ("q", "magenta"),
    UNAVAILABLE: ("u", "blue"),
    MISSING: ("?", "bright_red"),
    PENDING: (":", "bright_black"),
    CLOSED: (" ", ""),
}
"""The character and the colour of each status."""
_WORST_FIRST: Final = (MISSING, OUTAGE, QUOTA, UNAVAILABLE, PARTIAL)
_FINE: Final = (HAVE, NO_TRADE, PENDING)
MAX_DAYS: Final = 31
"""Maximum days (years for daily bars) with a line each in the chart of one symbol. A longer range is one line."""
MIN_WIDTH: Final = 24


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its label, and the status of each column."""

    label: str
    columns: list[str]

    @property
    def text(self) -> str:
        """Return the characters without label and colours."""
        return "".join(MARKS[status][0] for status in self.columns)


@dataclass(frozen=True, slots=True)
class CoverageChart:
    """Lines, and the axis labels below them: left, middle and right; no labels if no bar is expected."""

    lines: list[Line]
    times: tuple[str, ...]

    @property
    def legend(self) -> list[str]:
        """Return the statuses that occur, ordered as in `MARKS`."""
        there = {status for line in self.lines for status in line.columns}
        return [status for status in MARKS if status in there and status != CLOSED]


def draw(found: Mapping[str, Statuses], calendars: Mapping[str, Calendar], step: Interval, width: int) -> CoverageChart:
    """Return a chart with a line per symbol, or for a single symbol with a line per day or year (see `MAX_DAYS`).

    `width` is the width of the chart in characters, including the labels.
    """
    if len(found) == 1:
        [(symbol, statuses)] = found.items()
        of_days = _of_days(statuses, calendars[symbol], step, width)
        if of_days is not None:
            return of_days
    room = max(width - max((len(symbol) for symbol in found), default=0) - 1, MIN_WIDTH)
    starts = _all_starts([statuses.starts for statuses in found.values()])
    buckets = _axis(starts, step, room)
    lines = [Line(symbol, _columns(statuses, buckets)) for symbol, statuses in found.items()]
    if not len(starts):
        return CoverageChart(lines, ())
    middle = starts[len(starts) // 2]
    return CoverageChart(lines, tuple(_moment(int(at), step) for at in (starts[0], middle, starts[-1])))


def _moment(us: int, step: Interval) -> str:
    return f"{datetime_of(us):%Y-%m-%d %H:%M}" if step.is_intraday else f"{datetime_of(us):%Y-%m-%d}"


def _all_starts(starts: Sequence[Int64Array]) -> Int64Array:
    if not starts:
        return np.empty(0, np.int64)
    different = {(len(each), int(each[0]), int(each[-1])): each for each in starts if len(each)}
    return np.unique(np.concatenate([*different.values(), np.empty(0, np.int64)]))


def _axis(starts: Int64Array, step: Interval, room: int) -> Int64Array:
    """Return `[start, end)` of each column, int64[columns, 2]; an empty range is the blank between two sessions."""
    if not len(starts):
        return np.empty((0, 2), np.int64)
    ends = starts + step.us
    cuts = np.flatnonzero(starts[1:] > ends[:-1]) + 1 if step.is_intraday else np.empty(0, np.int64)
    pieces = np.split(np.arange(len(starts)), cuts)
    room -= len(pieces) - 1
    if room < 2 * len(pieces):  # no room for blanks
        pieces, room = [np.arange(len(starts))], room + len(pieces) - 1
    columns: list[tuple[int, int]] = []
    for number, piece in enumerate(pieces):
        if number:
            columns.append((0, 0))
        count = min(len(piece), max(1, round(room * len(piece) / len(starts))))
        edges = piece[0] + (np.arange(count + 1) * len(piece)) // count
        columns += [(int(starts[a]), int(ends[b - 1])) for a, b in itertools.pairwise(edges)]
    return np.array(columns, np.int64)


def _columns(found: Statuses, buckets: Int64Array) -> list[str]:
    """Return the status of each bucket, from the bars that start in it."""
    counts = np.zeros((len(buckets), len(STATUSES)), np.int64)
    for code in range(len(STATUSES)):
        starts = found.starts[found.code == code]
        counts[:, code] = np.searchsorted(starts, buckets[:, 1]) - np.searchsorted(starts, buckets[:, 0])
    result = np.full(len(buckets), len(STATUSES))
    fine = [STATUSES.index(status) for status in _FINE]
    of_fine = counts[:, fine]
    result[of_fine.any(1)] = np.array(fine)[of_fine.argmax(1)][of_fine.any(1)]
    for status in reversed(_WORST_FIRST):
        result[counts[:, STATUSES.index(status)] > 0] = STATUSES.index(status)
    names = (*STATUSES, CLOSED)
    return [names[code] for code in result.tolist()]


def _of_days(found: Statuses, calendar: Calendar, step: Interval, width: int) -> CoverageChart | None:
    """Return a chart with a line per session, or per year for daily bars.

    None if the chart would have fewer than two lines or more than `MAX_DAYS`.
    """
    if not len(found.starts):
        return None
    if step.is_intraday:
        days = calendar.session_of(found.starts)
    else:
        days = found.starts.astype("datetime64[us]").astype("datetime64[Y]").astype("datetime64[us]").astype(np.int64)
    lines = np.unique(days)
    if not 1 < len(lines) <= MAX_DAYS:
        return None
    labels = [
        f"{datetime_of(int(day)):%a %Y-%m-%d}" if step.is_intraday else f"{datetime_of(int(day)):%Y}" for day in lines
    ]
    room = max(width - max(map(len, labels)) - 1, MIN_WIDTH)
    since = found.starts - days
    low, high = int(since.min()), int(since.max()) + step.us
    if not step.is_intraday:
        low, high = 0, 366 * DAY_US
    count = min(room, (high - low) // step.us)
    edges = low + np.arange(count + 1) * (high - low) // count
    edges -= edges % step.us  # bucket sizes differ by at most one bar
    buckets = np.stack([edges[:-1], edges[1:]], 1)
    drawn = [Line(label, _columns(found, buckets + day)) for label, day in zip(labels, lines.tolist(), strict=True)]
    if not step.is_intraday:
        return CoverageChart(drawn, ("January", "July", "December"))
    return CoverageChart(drawn, tuple(f"{datetime_of(at):%H:%M}" for at in (low, (low + high) // 2, high)))
