"""The newest row of each key, stored as columns: the content of snapshots and of `conflated` messages."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickerplant.api.websockets.rows import Array, ascending
from tickerplant.core.times import NEVER_US, Int64Array

MAX_KEYS = 200_000
"""Maximum keys. Further keys are refused and counted. 10,000 symbols with 7 intervals each need 70,000 keys."""
MAX_CACHED_KEYS: Final = 64
"""Maximum key lists whose slots are cached; the cache is cleared when full."""


class Latest:
    """One row for each key: the row with the newest time and, at equal times, with the greatest version (`ties`).

    The columns are NumPy arrays that double when full. A column that a batch does not contain becomes null in the rows
    of that batch.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._slots: dict[Hashable, int] = {}
        self._cached: dict[int, tuple[Sequence[Hashable], npt.NDArray[np.int64]]] = {}
        self._times: Int64Array = np.full(16, NEVER_US, dtype=np.int64)
        self._ties: Int64Array = np.zeros(16, dtype=np.int64)
        self._last: Int64Array = np.zeros(16, dtype=np.int64)
        """Working array of `_last_rows`; no value is read before it is written."""
        self._columns: dict[str, Array] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._slots

    def __iter__(self) -> Iterator[Hashable]:
        """Return an iterator over the keys in the order of arrival."""
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
        """Store rows; row i belongs to `keys[which[i]]`. A row older than the stored row changes nothing.

        `in_place`: a row replaces only a stored row of the same time, so a newer row changes nothing either.
        """
        if in_place:
            slots = np.array([self._slots.get(key, -1) for key in keys], dtype=np.int64)[which]
            chosen = (slots >= 0) & (times == self._times[slots])
        else:
            slots = self._slots_of(keys, which)
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
        slots, order = self._last_rows(slots[order], order)
        self._times[slots] = times[order]
        self._ties[slots] = ties[order]
        for name, column in columns.items():
            stored = self._column(name, column.dtype)
            stored[slots] = column[order]
        for name in self._columns.keys() - columns.keys():
            stored = self._columns[name]
            stored[slots] = np.nan if stored.dtype == np.float64 else None

    def _last_rows(
        self, slots: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the last row of each slot. Rows are in ascending order of time, so the last row is the newest."""
        numbers = np.arange(len(slots))
        self._last[slots] = numbers  # the last assignment to a repeated slot remains
        newest = self._last[slots] == numbers
        return slots[newest], order[newest]

    def _slots_of(self, keys: Sequence[Hashable], which: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return each row's slot, -1 for a refused key. The slots of a repeated list of keys are cached."""
        cached = self._cached.get(id(keys))
        if cached is None or cached[0] is not keys:
            if len(self._cached) >= MAX_CACHED_KEYS:
                self._cached.clear()
            cached = self._cached[id(keys)] = (keys, np.full(len(keys), -1, dtype=np.int64))
        slots = cached[1][which]
        if slots.min(initial=0) < 0:
            for index in np.unique(which[slots < 0]).tolist():  # only keys that have rows get a slot
                cached[1][index] = self._slot(keys[index])
            slots = cached[1][which]
        return slots

    def columns(self, keys: Iterable[Hashable] | None, names: Sequence[str]) -> dict[str, Array]:
        """Return the columns `names` for each key of `keys` that has a row, or for all keys if `keys` is None.

        Unknown columns are absent.
        """
        if keys is None:
            slots = np.arange(len(self._slots))
        else:
            slots = np.array([self._slots[key] for key in keys if key in self._slots], dtype=np.int64)
        return {name: self._columns[name][slots] for name in names if name in self._columns}

    def names(self) -> tuple[str, ...]:
        """Return the names of all columns that any stored row has had."""
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
        self._last = np.zeros(len(self._times), dtype=np.int64)
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
