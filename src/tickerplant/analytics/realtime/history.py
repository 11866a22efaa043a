"""The closed bars that are remembered, so that a revision finds what it revises: rings of one interval, by symbol.

A bar's *position* is the number of usable bars of its symbol before it. A ring holds those at `[count - kept, count)`;
the bar at position p lies in slot p mod depth. Rings of symbols without bars cost address space, not memory. To write
one slot of each of many rings is a cache line a symbol; so where symbols go together, some bars of theirs are put away
at once (`SETTLE_BARS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from tickerplant.analytics.indicator.declaration import Count, Place
from tickerplant.core.times import NEVER_US, BoolArray, Float64Array, Int64Array

Columns = Mapping[str, Float64Array]
_T = TypeVar("_T", bound=np.generic)

SETTLE_BARS: Final = 16
"""Bars that wait to be put into the rings together: two cache lines of each, and as many records of bars in memory."""


class History:
    """The remembered bars of all symbols in one interval: times and the columns that the indicators read."""

    def __init__(self, inputs: Sequence[str], depth: int, capacity: int = 0) -> None:
        self.depth = depth
        self.count = np.zeros(capacity, dtype=np.int64)
        self.kept = np.zeros(capacity, dtype=np.int64)
        self.last = np.full(capacity, NEVER_US, dtype=np.int64)
        self.times = np.zeros((capacity, depth), dtype=np.int64)
        self.columns: dict[str, Float64Array] = {name: np.zeros((capacity, depth)) for name in inputs}
        self._waiting: list[tuple[int, Columns]] = []
        self._rows, self._slot = slice(0, 0), 0  # of those that wait: whose they are, and where the first goes

    def grow(self, capacity: int) -> None:
        """Make room for symbols up to row `capacity`, exclusive."""
        self._settle()
        more = capacity - len(self.count)
        self.count = np.concatenate([self.count, np.zeros(more, dtype=np.int64)])
        self.kept = np.concatenate([self.kept, np.zeros(more, dtype=np.int64)])
        self.last = np.concatenate([self.last, np.full(more, NEVER_US, dtype=np.int64)])
        self.times = grown(self.times, capacity)
        self.columns = {name: grown(former, capacity) for name, former in self.columns.items()}

    def forget(self, row: int) -> None:
        """Forget a symbol's bars, and how many there were."""
        self._settle()
        self.count[row] = self.kept[row] = 0
        self.last[row] = NEVER_US

    def push(self, rows: Place, count: Count, time_us: int, inputs: Columns) -> None:
        """Add one bar of one time to each of these symbols, which have `count` and none as late."""
        slot = count % self.depth
        if isinstance(rows, slice):
            if len(self._waiting) == SETTLE_BARS or (rows, slot) != (self._rows, self._slot + len(self._waiting)):
                self._settle()
                self._rows, self._slot = rows, int(slot)
            self._waiting.append((time_us, inputs))
        else:
            self._settle()
            self.times[rows, slot] = time_us
            for name, ring in self.columns.items():
                ring[rows, slot] = inputs[name]
        self.count[rows] += 1
        self.kept[rows] = np.minimum(self.kept[rows] + 1, self.depth)
        self.last[rows] = time_us

    def _settle(self) -> None:
        """Put into the rings what waits for it."""
        if not self._waiting:
            return
        slots = slice(self._slot, self._slot + len(self._waiting))
        self.times[self._rows, slots] = [time_us for time_us, _ in self._waiting]
        for name, ring in self.columns.items():
            ring[self._rows, slots] = np.stack([inputs[name] for _, inputs in self._waiting], axis=1)
        self._waiting = []
        self._rows, self._slot = slice(0, 0), 0

    def oldest(self, row: int) -> int:
        """Return the position of the oldest bar that is remembered."""
        return int(self.count[row] - self.kept[row])

    def read_times(self, row: int) -> Int64Array:
        """Return the times of the remembered bars, oldest first."""
        self._settle()
        times: Int64Array = self.times[row, self._slots(self.oldest(row), int(self.count[row]))]
        return times

    def read(self, row: int, start: int, stop: int) -> dict[str, Float64Array]:
        """Return the columns of the bars at positions `[start, stop)`, which must be remembered."""
        self._settle()
        slots = self._slots(start, stop)
        return {name: ring[row, slots] for name, ring in self.columns.items()}

    def replace(self, row: int, start: int, times: Int64Array, inputs: Columns) -> None:
        """Put these bars at position `start` and behind it, in place of all that were there."""
        self._settle()
        count = start + len(times)
        oldest = max(min(self.oldest(row), start), count - self.depth)
        skip = max(oldest - start, 0)
        slots = self._slots(start + skip, count)
        self.times[row, slots] = times[skip:]
        for name, ring in self.columns.items():
            ring[row, slots] = inputs[name][skip:]
        self.count[row] = count
        self.kept[row] = count - oldest
        if len(times):
            self.last[row] = times[-1]
        else:
            self.last[row] = self.times[row, (count - 1) % self.depth] if count > oldest else NEVER_US

    def valid(self, symbols: int) -> BoolArray:
        """Return which slots of the first `symbols` rings hold a bar: bool[symbols, depth]."""
        self._settle()
        oldest = (self.count - self.kept)[:symbols, None]
        valid: BoolArray = (np.arange(self.depth) - oldest) % self.depth < self.kept[:symbols, None]
        return valid

    def resized(self, inputs: Sequence[str], depth: int) -> History:
        """Return a history of another depth or other columns; a column that is new holds zeros."""
        self._settle()
        capacity = len(self.count)
        other = History(inputs, depth, capacity)
        other.count, other.last = self.count, self.last
        other.kept = np.minimum(self.kept, depth)
        for row in np.flatnonzero(other.kept):
            stop = int(other.count[row])
            start = stop - int(other.kept[row])
            source, target = self._slots(start, stop), other._slots(start, stop)
            other.times[row, target] = self.times[row, source]
            for name in set(other.columns) & set(self.columns):
                other.columns[name][row, target] = self.columns[name][row, source]
        return other

    def _slots(self, start: int, stop: int) -> Int64Array:
        return np.arange(start, stop) % self.depth


def grown(array: npt.NDArray[_T], capacity: int) -> npt.NDArray[_T]:
    """Return the array with its first axis lengthened to `capacity` by zeros (pages that nobody has touched)."""
    larger: npt.NDArray[_T] = np.zeros((capacity, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
