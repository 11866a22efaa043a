"""Open windows of one feed: a row for each (minute, symbol) that has had a print and is not closed yet.

Rows lie in one pool; for each open minute an array over all symbols says where. So merging a batch costs a few array
operations however many minutes it touches, and closing a minute gives its rows sorted by symbol.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.grouping import merge_ticks
from tickerplant.aggregation.rows import ROW, Rows, join, put, take
from tickerplant.core.times import FOREVER_US, MINUTE_US, Int64Array

_NO_SLOT = -1


class Windows:
    """The open windows of one feed. Bounded by the minutes between its watermark and its newest tick."""

    def __init__(self) -> None:
        self._pool: Rows = np.zeros(1024, dtype=ROW)
        self._dirty = np.zeros(1024, dtype=np.bool_)
        self._free: npt.NDArray[np.int64] = np.arange(1024)
        self._slots: dict[int, npt.NDArray[np.int32]] = {}
        self.first_start = FOREVER_US
        """The earliest minute that is open."""
        self.any_dirty = False

    def __len__(self) -> int:
        return len(self._pool) - len(self._free)

    def merge(self, rows: Rows, symbols: int) -> None:
        """Merge groups (sorted by minute, symbol); `symbols` is how many symbols there are."""
        starts = rows["start"]
        edges = np.concatenate(([0], np.flatnonzero(starts[1:] != starts[:-1]) + 1, [len(rows)]))
        slots = np.empty(len(rows), dtype=np.int64)
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            slots[begin:end] = self._index(int(starts[begin]), symbols)[rows["symbol"][begin:end]]
        fresh = slots == _NO_SLOT
        if fresh.any():
            self._insert(rows, slots, fresh, edges)
            known = ~fresh
            if known.any():
                self._update(slots[known], take(rows, known))
        else:
            self._update(slots, rows)
        self._dirty[slots] = True
        self.any_dirty = True

    def _index(self, start: int, symbols: int) -> npt.NDArray[np.int32]:
        index = self._slots.get(start)
        if index is None:
            index = self._slots[start] = np.full(symbols, _NO_SLOT, dtype=np.int32)
            self.first_start = min(self.first_start, start)
        elif len(index) < symbols:
            more = np.full(symbols - len(index), _NO_SLOT, dtype=np.int32)
            index = self._slots[start] = np.concatenate((index, more))
        return index

    def _insert(self, rows: Rows, slots: Int64Array, fresh: npt.NDArray[np.bool_], edges: Int64Array) -> None:
        count = int(np.count_nonzero(fresh))
        if count > len(self._free):
            self._grow(count)
        slots[fresh] = self._free[len(self._free) - count :]
        self._free = self._free[: len(self._free) - count]
        put(self._pool, slots[fresh], take(rows, fresh))
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            self._slots[int(rows["start"][begin])][rows["symbol"][begin:end]] = slots[begin:end]

    def _grow(self, count: int) -> None:
        size = len(self._pool)
        more = max(size, count)
        self._pool = join((self._pool, np.zeros(more, dtype=ROW)))
        self._dirty = np.concatenate((self._dirty, np.zeros(more, dtype=np.bool_)))
        self._free = np.concatenate((self._free, np.arange(size, size + more)))

    def _update(self, slots: Int64Array, rows: Rows) -> None:
        present = take(self._pool, slots)
        merge_ticks(present, rows)
        put(self._pool, slots, present)

    def take_before(self, end_us: int) -> Rows:
        """Close the minutes that end at or before `end_us`; return their rows, sorted by (minute, symbol)."""
        closing = sorted(start for start in self._slots if start + MINUTE_US <= end_us)
        if not closing:
            return self._pool[:0]
        found = [index[index != _NO_SLOT] for index in (self._slots.pop(start) for start in closing)]
        slots = np.concatenate(found).astype(np.int64)
        rows = take(self._pool, slots)
        self._dirty[slots] = False
        self._free = np.concatenate((self._free, slots))
        self.first_start = min(self._slots, default=FOREVER_US)
        return rows

    def of(self, start: int, symbols: npt.NDArray[np.int32]) -> Rows:
        """Return copies of the rows of these symbols in one minute, sorted by symbol."""
        rows = self.rows_of([start])
        return take(rows, np.isin(rows["symbol"], symbols))

    def drop(self, start: int, symbols: npt.NDArray[np.int32]) -> None:
        """Forget the rows of these symbols in one minute."""
        index = self._slots.get(start)
        if index is None:
            return
        symbols = symbols[symbols < len(index)]
        slots = index[symbols][index[symbols] != _NO_SLOT].astype(np.int64)
        index[symbols] = _NO_SLOT
        self._dirty[slots] = False
        self._free = np.concatenate((self._free, slots))
        if (index == _NO_SLOT).all():
            del self._slots[start]
            self.first_start = min(self._slots, default=FOREVER_US)

    def starts(self) -> list[int]:
        """Return the open minutes in order."""
        return sorted(self._slots)

    def rows_of(self, starts: list[int]) -> Rows:
        """Return copies of the rows of these minutes, sorted by (minute, symbol)."""
        return self._gather(starts)[0]

    def dirty_rows(self) -> Rows:
        """Return copies of the rows touched since this was last asked, sorted by (minute, symbol)."""
        rows, slots = self._gather(self.starts())
        rows = take(rows, self._dirty[slots])
        self._dirty[:] = False
        self.any_dirty = False
        return rows

    def _gather(self, starts: list[int]) -> tuple[Rows, Int64Array]:
        found = [index[index != _NO_SLOT] for start in starts if (index := self._slots.get(start)) is not None]
        slots = np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)
        return take(self._pool, slots), slots

    def dump(self) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return all rows in order and which are dirty: what `load` takes."""
        rows, slots = self._gather(self.starts())
        return rows, self._dirty[slots]

    def load(self, rows: Rows, dirty: npt.NDArray[np.bool_], symbols: int) -> None:
        """Take what `dump` gave, into windows that are new."""
        if len(rows):
            self.merge(rows, symbols)
            slots = self._gather(self.starts())[1]
            self._dirty[slots] = dirty
            self.any_dirty = bool(dirty.any())
