"""Cut minutes: each of two files contains only a part of the minute's prints.

A cut minute and its roll-ups are incomplete, with the reason `cut`. A file has a *claim* on the minute in which it
begins and on the minute in which it ends: these minutes count as complete. The claim is void for a symbol if another
file of the source has prints of the minute outside this file's range. The claims of a `firm` file are never void.

A file begins in its first minute and ends in its last minute. A file sorted by symbol may be cut inside the prints of
one symbol. It therefore also begins in the minute of its first row, for the symbol of that row. It also ends in the
minute of its last row, for the symbol of that row.

The row of a file in a minute contains the times of the first and the last print that set a price. If the file begins
in the minute, prints of another file before the first time count as outside. If the file ends in the minute, prints
after the last time count as outside. In the minutes of the first and the last row, both count, because the times of a
symbol may descend. There are two special cases:

- Two files may be cut between prints of equal time. If one file ends in the minute and the other begins in it, prints
  at the first or last time also count as outside. This does not apply to files of equal range: one file may
  be a corrected copy of the other.
- A row without a price has no times. Then the prints of the other file count as outside if each of the two files begins
  or ends in the minute. Prints that set neither a price nor a volume do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tickerplant.aggregation.candidates import DOWN
from tickerplant.aggregation.feed_state import FeedState
from tickerplant.aggregation.rows import CUT, FROM_TICKS, MINUTES, Rows, take
from tickerplant.aggregation.state import State
from tickerplant.core.times import MINUTE_US, BoolArray, Int64Array


def mark_cut_minutes(state: State, starts: Iterable[int]) -> None:
    """Mark the cut minutes among the closed minutes with these starts; see the docstring of the module."""
    minutes, claims = state.candidates[MINUTES], state.file_claims()
    for start in starts:
        block = minutes.blocks.get(start)
        if block is None or start not in claims:
            continue
        cut = _cut_rows(state, start, block, claims[start])
        if cut.any():
            block["flaws"][cut] |= CUT
            minutes.reselect(start, state.ranking, DOWN, complete=block["complete"] & ~cut)


def _cut_rows(state: State, start: int, block: Rows, claiming: list[int]) -> BoolArray:
    """Return a mask of the complete rows of the files `claiming` (by number) that another file cuts."""
    result = np.zeros(len(block), dtype=np.bool_)
    of_ticks = (block["kind"] == FROM_TICKS) & ~block["withdrawn"]
    has_effect = np.isfinite(block["open"]) | (block["trades"] > 0)
    files = [number for number in np.unique(block["feed"][of_ticks]).tolist() if _is_file(state, number)]
    if len(files) < 2:
        return result
    rows = {number: np.flatnonzero(of_ticks & (block["feed"] == number)) for number in files}
    for number in claiming:
        for other in files if number in rows else ():
            if other != number:
                others = rows[other][has_effect[rows[other]]]
                result[_cut_by(state, start, block, (number, rows[number]), (other, others))] = True
    result &= block["complete"]
    return result


def _is_file(state: State, number: int) -> bool:
    feed = state.feeds.get(number)
    return feed is not None and feed.is_file


def _cut_by(
    state: State, start: int, block: Rows, one: tuple[int, Int64Array], other: tuple[int, Int64Array]
) -> Int64Array:
    """Return the positions of the rows of `one` file that the `other` file cuts.

    Each file is given by its number and the positions of its rows in the block.
    """
    _, mine, theirs = np.intersect1d(block["symbol"][one[1]], block["symbol"][other[1]], return_indices=True)
    at, others = one[1][mine], other[1][theirs]
    same = block["source"][at] == block["source"][others]
    at, others = at[same], others[same]
    ours, its = take(block, at), take(block, others)
    feed, second = state.feeds[one[0]], state.feeds[other[0]]
    edges, their_edges = _Edges.of(state, feed, start, ours), _Edges.of(state, second, start, its)
    outside = (edges.begins | edges.by_row) & (its["open_time"] < ours["open_time"])
    outside |= (edges.ends | edges.by_row) & (its["close_time"] > ours["close_time"])
    if _range(state, feed) != _range(state, second):  # with equal ranges, one file may be a corrected copy
        adjacent = (edges.last & their_edges.first) | (edges.first & their_edges.last)
        apart = (its["open_time"] >= ours["close_time"]) | (its["close_time"] <= ours["open_time"])
        outside |= adjacent & apart
    have_times = np.isfinite(ours["open"]) & np.isfinite(its["open"])
    outside = np.where(have_times, outside, edges.any & their_edges.any)
    result: Int64Array = at[outside]
    return result


def _range(state: State, feed: FeedState) -> tuple[object, ...]:
    """Return the first and the last time of a file, and its first and last row (None if unknown).

    Return () if the file's span is unknown.
    """
    span = state.file_spans.get(feed.name)
    return () if span is None else (span.first_us, feed.newest_us, span.first_row, span.last_row)


@dataclass(frozen=True, slots=True)
class _Edges:
    """Masks of a file's rows in one minute: the file begins or ends in this minute, by time or by row order.

    The row order concerns only the symbol of the first or last row.
    """

    begins: BoolArray
    ends: BoolArray
    first_row: BoolArray
    last_row: BoolArray

    @classmethod
    def of(cls, state: State, feed: FeedState, start: int, rows: Rows) -> _Edges:
        """Return the edges of a file in the minute `start`, for these rows of the file."""
        count = len(rows)
        first, last = state.file_rows(feed)
        return cls(
            np.full(count, start == feed.first_minute_us), np.full(count, start in feed.last_minutes_us),
            *(_has_row(start, row, rows) for row in (first, last)),
        )  # fmt: skip

    @property
    def by_row(self) -> BoolArray:
        """Return a mask of the rows where the file begins or ends by row order.

        Beginning and end are not distinguished, because the times of a symbol may descend.
        """
        return self.first_row | self.last_row

    @property
    def first(self) -> BoolArray:
        """Return a mask of the rows where the file begins, by time or by row order."""
        return self.begins | self.first_row

    @property
    def last(self) -> BoolArray:
        """Return a mask of the rows where the file ends, by time or by row order."""
        return self.ends | self.last_row

    @property
    def any(self) -> BoolArray:
        """Return a mask of the rows where the file begins or ends, by time or by row order."""
        return self.first | self.last


def _has_row(start: int, row: tuple[int, int] | None, rows: Rows) -> BoolArray:
    if row is None or row[1] - row[1] % MINUTE_US != start:
        return np.zeros(len(rows), dtype=np.bool_)
    result: BoolArray = rows["symbol"] == row[0]
    return result
