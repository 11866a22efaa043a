"""The closed bars that revisions need: one ring of bars per symbol, for one interval.

The *position* of a bar is the count of usable bars of its symbol before it. A ring contains the positions
`[count - retained, count)`; the bar at position p is in slot p mod depth. Rings of symbols without bars use address
space, not memory.

Writing one slot in each of many rings touches one cache line per symbol. Several bars are therefore buffered and
written at once if symbols advance together (`FLUSH_BARS`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from tickerplant.analytics.indicator.declaration import Count, RowIndex
from tickerplant.core.times import NEVER_US, BoolArray, Float64Array, Int64Array

Columns = Mapping[str, Float64Array]
_T = TypeVar("_T", bound=np.generic)

FLUSH_BARS: Final = 16
"""Maximum bars that are buffered before they are written: two cache lines of each ring."""


class BarHistory:
    """The retained bars of all symbols in one interval: their times, and the columns that the indicators read."""

    def __init__(self, inputs: Sequence[str], depth: int, capacity: int = 0) -> None:
        self.depth = depth
        self.count = np.zeros(capacity, dtype=np.int64)
        self.retained = np.zeros(capacity, dtype=np.int64)
        self.last_us = np.full(capacity, NEVER_US, dtype=np.int64)
        self.times = np.zeros((capacity, depth), dtype=np.int64)
        self.columns: dict[str, Float64Array] = {name: np.zeros((capacity, depth)) for name in inputs}
        self._buffer: list[tuple[int, Columns]] = []
        self._rows, self._slot = slice(0, 0), 0  # symbols of the buffered bars, and the slot of the first one

    def grow(self, capacity: int) -> None:
        """Allocate rings for rows up to `capacity`, exclusive."""
        self._flush()
        more = capacity - len(self.count)
        self.count = np.concatenate([self.count, np.zeros(more, dtype=np.int64)])
        self.retained = np.concatenate([self.retained, np.zeros(more, dtype=np.int64)])
        self.last_us = np.concatenate([self.last_us, np.full(more, NEVER_US, dtype=np.int64)])
        self.times = grow_array(self.times, capacity)
        self.columns = {name: grow_array(former, capacity) for name, former in self.columns.items()}

    def reset(self, row: int) -> None:
        """Remove a symbol's bars and set their count to 0."""
        self._flush()
        self.count[row] = self.retained[row] = 0
        self.last_us[row] = NEVER_US

    def append(self, rows: RowIndex, count: Count, time_us: int, inputs: Columns) -> None:
        """Append one bar with one time to each of these symbols. `count` is each symbol's count of earlier bars.

        The time must be later than the times of all earlier bars of these symbols.
        """
        slot = count % self.depth
        if isinstance(rows, slice):
            if len(self._buffer) == FLUSH_BARS or (rows, slot) != (self._rows, self._slot + len(self._buffer)):
                self._flush()
                self._rows, self._slot = rows, int(slot)
            self._buffer.append((time_us, inputs))
        else:
            self._flush()
            self.times[rows, slot] = time_us
            for name, ring in self.columns.items():
                ring[rows, slot] = inputs[name]
        self.count[rows] += 1
        self.retained[rows] = np.minimum(self.retained[rows] + 1, self.depth)
        self.last_us[rows] = time_us

    def _flush(self) -> None:
        """Write the buffered bars into the rings."""
        if not self._buffer:
            return
        slots = slice(self._slot, self._slot + len(self._buffer))
        self.times[self._rows, slots] = [time_us for time_us, _ in self._buffer]
        for name, ring in self.columns.items():
            ring[self._rows, slots] = np.stack([inputs[name] for _, inputs in self._buffer], axis=1)
        self._buffer = []
        self._rows, self._slot = slice(0, 0), 0

    def oldest(self, row: int) -> int:
        """Return the position of the oldest retained bar."""
        return int(self.count[row] - self.retained[row])

    def read_times(self, row: int) -> Int64Array:
        """Return the times of the retained bars in microseconds, oldest first."""
        self._flush()
        times: Int64Array = self.times[row, self._slots(self.oldest(row), int(self.count[row]))]
        return times

    def read(self, row: int, start: int, stop: int) -> dict[str, Float64Array]:
        """Return the columns of the bars at positions `[start, stop)`. These bars must all be retained."""
        self._flush()
        slots = self._slots(start, stop)
        return {name: ring[row, slots] for name, ring in self.columns.items()}

    def replace(self, row: int, start: int, times: Int64Array, inputs: Columns) -> None:
        """Replace all bars from position `start` on with these bars."""
        self._flush()
        count = start + len(times)
        oldest = max(min(self.oldest(row), start), count - self.depth)
        skip = max(oldest - start, 0)
        slots = self._slots(start + skip, count)
        self.times[row, slots] = times[skip:]
        for name, ring in self.columns.items():
            ring[row, slots] = inputs[name][skip:]
        self.count[row] = count
        self.retained[row] = count - oldest
        if len(times):
            self.last_us[row] = times[-1]
        else:
            self.last_us[row] = self.times[row, (count - 1) % self.depth] if count > oldest else NEVER_US

    def valid_slots(self, symbols: int) -> BoolArray:
        """Return a mask of the slots that contain a bar, for the first `symbols` rings: bool[symbols, depth]."""
        self._flush()
        oldest = (self.count - self.retained)[:symbols, None]
        valid: BoolArray = (np.arange(self.depth) - oldest) % self.depth < self.retained[:symbols, None]
        return valid

    def resized(self, inputs: Sequence[str], depth: int) -> BarHistory:
        """Return this history with a different depth or different columns. New columns contain zeros.

        The result shares `count` and `last_us` with this history, which must not be used afterwards.
        """
        self._flush()
        capacity = len(self.count)
        other = BarHistory(inputs, depth, capacity)
        other.count, other.last_us = self.count, self.last_us
        other.retained = np.minimum(self.retained, depth)
        for row in np.flatnonzero(other.retained):
            stop = int(other.count[row])
            start = stop - int(other.retained[row])
            source, target = self._slots(start, stop), other._slots(start, stop)
            other.times[row, target] = self.times[row, source]
            for name in set(other.columns) & set(self.columns):
                other.columns[name][row, target] = self.columns[name][row, source]
        return other

    def _slots(self, start: int, stop: int) -> Int64Array:
        return np.arange(start, stop) % self.depth


def grow_array(array: npt.NDArray[_T], capacity: int) -> npt.NDArray[_T]:
    """Return the array with its first axis extended to `capacity` by zeros. Untouched pages use no memory."""
    larger: npt.NDArray[_T] = np.zeros((capacity, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
