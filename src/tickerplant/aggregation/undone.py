"""Cancels and corrections of a feed whose prints have not come, and since which raw offset the log tells of them."""

from __future__ import annotations

import numpy as np

from tickerplant.core.times import BoolArray, Int64Array


class Undone:
    """By minute (`rows.keys_of`), sorted, with the time of the print that is named. Bounded by what is remembered."""

    def __init__(
        self, keys: Int64Array | None = None, times: Int64Array | None = None, offsets: Int64Array | None = None
    ) -> None:
        nothing = np.empty(0, dtype=np.int64)
        self.keys = nothing if keys is None else keys
        self.times = nothing if times is None else times
        self.offsets = nothing if offsets is None else offsets

    def __len__(self) -> int:
        return len(self.keys)

    def awaits(self, keys: Int64Array, times: Int64Array) -> BoolArray:
        """Return which prints may be among those that are named: of such a minute and such a time."""
        hit: BoolArray = np.isin(times, self.times)
        if hit.any():
            hit[hit] = np.isin(keys[hit], self.keys)
        return hit

    def since(self, keys: Int64Array) -> Int64Array:
        """Return the first raw offset of each minute, -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.offsets[place], -1)

    def note(self, keys: Int64Array, times: Int64Array, offset: int) -> None:
        """Add prints that are named and have not come."""
        if len(keys):
            every = np.concatenate((self.keys, keys))
            order = np.argsort(every, kind="stable")  # the first of a minute stays the first
            self.keys, self.times = every[order], np.concatenate((self.times, times))[order]
            self.offsets = np.concatenate((self.offsets, np.full(len(keys), offset, dtype=np.int64)))[order]

    def keep(self, mask: BoolArray) -> None:
        """Forget all others."""
        self.keys, self.times, self.offsets = self.keys[mask], self.times[mask], self.offsets[mask]
