"""The newest row by key, kept as columns: what a snapshot says and what a slow client is brought up to."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tickerplant.api.websockets.rows import Array, ascending
from tickerplant.core.times import NEVER_US, Int64Array

MAX_KEYS = 200_000
"""Keys beyond this are not kept (they are counted): 10,000 symbols at 7 intervals fit twice over."""
MAX_KEPT = 64


class Latest:
    """One row for each key, newest time first wins and, at equal times, the newest version (`tie`).

    Columns are NumPy arrays that double when full; a column that a batch does not have becomes null in its rows.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._slots: dict[Hashable, int] = {}
        self._kept: dict[int, tuple[Sequence[Hashable], npt.NDArray[np.int64]]] = {}
        self._times: Int64Array = np.full(16, NEVER_US, dtype=np.int64)
        self._ties: Int64Array = np.zeros(16, dtype=np.int64)
        self._columns: dict[str, Array] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._slots

    def __iter__(self) -> Iterator[Hashable]:
        """Return the keys, in the order in which they came."""
        return iter(self._slots)

    def put(
        self,
        keys: Sequence[Hashable],
        which: npt.NDArray[np.int64],
        times: Int64Array,
        ties: Int64Array | None,
        columns: Mapping[str, Array],
        *,
        in_place: bool = False,
    ) -> None:
        """Take rows: row i belongs to `keys[which[i]]`. Those older than what is kept change nothing.

        `in_place`: a row only replaces the one of its own time, so newer times change nothing either.
        """
        if in_place:
            slots = np.array([self._slots.get(key, -1) for key in keys], dtype=np.int64)[which]
            chosen = (slots >= 0) & (times == self._times[slots])
        else:
            slots = self._places(keys, which)
            chosen = slots >= 0
        if ties is None:
            ties = np.zeros(len(times), dtype=np.int64)
        chosen &= (times > self._times[slots]) | ((times == self._times[slots]) & (ties >= self._ties[slots]))
        order = np.flatnonzero(chosen)
        resort = ascending(times[order])
        if resort is not None:
            order = order[resort]
        if not len(order):
            return
        # Of repeated slots the last assignment stays, and rows are in ascending order of time.
        slots = slots[order]
        self._times[slots] = times[order]
        self._ties[slots] = ties[order]
        for name, column in columns.items():
            kept = self._column(name, column.dtype)
            kept[slots] = column[order]
        for name in self._columns.keys() - columns.keys():
            kept = self._columns[name]
            kept[slots] = np.nan if kept.dtype == np.float64 else None

    def _places(self, keys: Sequence[Hashable], which: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return each row's slot, -1 without one. Of a list of keys that comes again the slots are kept."""
        kept = self._kept.get(id(keys))
        if kept is None or kept[0] is not keys:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            kept = self._kept[id(keys)] = (keys, np.full(len(keys), -1, dtype=np.int64))
        slots = kept[1][which]
        if slots.min(initial=0) < 0:
            for number in np.unique(which[slots < 0]).tolist():  # only keys that have rows get a slot
                kept[1][number] = self._slot(keys[number])
            slots = kept[1][which]
        return slots

    def columns(self, keys: Iterable[Hashable] | None, names: Sequence[str]) -> dict[str, Array]:
        """Return these columns of the rows of those of `keys` that are known (None: of all)."""
        if keys is None:
            slots = np.arange(len(self._slots))
        else:
            slots = np.array([self._slots[key] for key in keys if key in self._slots], dtype=np.int64)
        return {name: self._columns[name][slots] for name in names if name in self._columns}

    def names(self) -> tuple[str, ...]:
        """Return the names of all columns seen."""
        return tuple(self._columns)

    def _slot(self, key: Hashable) -> int:
        slot = self._slots.get(key)
        if slot is None:
            slot = len(self._slots)
            if slot >= MAX_KEYS:
                self.refused += 1
                return -1
            self._slots[key] = slot
            if slot >= len(self._times):
                self._grow()
        return slot

    def _grow(self) -> None:
        more = len(self._times)
        self._times = np.concatenate([self._times, np.full(more, NEVER_US, dtype=np.int64)])
        self._ties = np.concatenate([self._ties, np.zeros(more, dtype=np.int64)])
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, _nulls(more, column.dtype)])

    def _column(self, name: str, dtype: np.dtype[Any]) -> Array:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _nulls(len(self._times), dtype)
        elif column.dtype != dtype and column.dtype.kind != "O":
            column = self._columns[name] = column.astype(np.result_type(column.dtype, dtype))
        return column


def _nulls(count: int, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        return np.full(count, None, dtype=object)
    if dtype == np.float64:
        return np.full(count, np.nan)
    return np.zeros(count, dtype=dtype)
