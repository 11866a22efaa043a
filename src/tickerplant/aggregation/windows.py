"""Open windows of one feed: one row for each (minute, symbol) that has ticks and is not closed yet.

All rows are in one pool. Each open minute has an array over all symbols with the positions of its rows in the pool.
Merging a batch thus costs a few array operations, and one look-up for each of its minutes. The rows of a minute are
returned in the order of symbols.
"""

from __future__ import annotations

import numpy as np

from tickerplant.aggregation.grouping import merge_ticks
from tickerplant.aggregation.rows import ROW, Codes, Rows, join, put, take
from tickerplant.core.times import FOREVER_US, MINUTE_US, BoolArray, Int64Array

_NO_SLOT = -1


class Windows:
    """The open windows of one feed, at most one per symbol and minute between its horizon and its newest tick."""

    def __init__(self) -> None:
        self._pool: Rows = np.zeros(1024, dtype=ROW)
        self._dirty = np.zeros(1024, dtype=np.bool_)
        self._free: Int64Array = np.arange(1024)
        self._slots: dict[int, Codes] = {}
        self.first_start = FOREVER_US
        """Start of the earliest open minute; FOREVER_US if no minute is open."""
        self.any_dirty = False
        """True if a row has changed since the last `drain_dirty`."""

    def __len__(self) -> int:
        return len(self._pool) - len(self._free)

    def merge(self, rows: Rows, symbols: int) -> None:
        """Merge groups of ticks, sorted by (minute, symbol). `symbols` is the count of known symbols."""
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

    def _index(self, start: int, symbols: int) -> Codes:
        index = self._slots.get(start)
        if index is None:
            index = self._slots[start] = np.full(symbols, _NO_SLOT, dtype=np.int32)
            self.first_start = min(self.first_start, start)
        elif len(index) < symbols:
            more = np.full(symbols - len(index), _NO_SLOT, dtype=np.int32)
            index = self._slots[start] = np.concatenate((index, more))
        return index

    def _insert(self, rows: Rows, slots: Int64Array, fresh: BoolArray, edges: Int64Array) -> None:
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

    def close_before(self, end_us: int) -> Rows:
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

    def drop(self, start: int, symbols: Codes) -> None:
        """Discard the rows of these symbols in one minute."""
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
        """Return the starts of the open minutes in microseconds, ascending."""
        return sorted(self._slots)

    def rows_of(self, starts: list[int]) -> Rows:
        """Return copies of the rows of these minutes, sorted by (minute, symbol)."""
        return self._gather(starts)[0]

    def minute_rows(self, start: int, symbols: Codes) -> Rows:
        """Return copies of the rows of these symbols in one minute, sorted by symbol."""
        rows = self.rows_of([start])
        return take(rows, np.isin(rows["symbol"], symbols))

    def drain_dirty(self) -> Rows:
        """Return copies of the rows that changed since the last call, sorted by (minute, symbol)."""
        rows, slots = self._gather(self.starts())
        rows = take(rows, self._dirty[slots])
        self._dirty[:] = False
        self.any_dirty = False
        return rows

    def _gather(self, starts: list[int]) -> tuple[Rows, Int64Array]:
        found = [index[index != _NO_SLOT] for start in starts if (index := self._slots.get(start)) is not None]
        slots = np.concatenate(found).astype(np.int64) if found else np.empty(0, dtype=np.int64)
        return take(self._pool, slots), slots

    def dump(self) -> tuple[Rows, BoolArray]:
        """Return all rows, sorted by (minute, symbol), and a mask of rows changed since the last `drain_dirty`."""
        rows, slots = self._gather(self.starts())
        return rows, self._dirty[slots]

    def load(self, rows: Rows, dirty: BoolArray, symbols: int) -> None:
        """Restore the rows and the mask from `dump` into new windows."""
        if len(rows):
            self.merge(rows, symbols)
            slots = self._gather(self.starts())[1]
            self._dirty[slots] = dirty
            self.any_dirty = bool(dirty.any())
