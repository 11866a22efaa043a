"""Which minutes of a feed had a print taken back or corrected, and since which raw offset the log tells of it."""

from __future__ import annotations

import numpy as np

from tickerplant.core.times import BoolArray, Int64Array


class Undone:
    """Minutes by key (`rows.keys_of`), sorted. Bounded by the cancels and corrections of what is remembered."""

    def __init__(self, keys: Int64Array | None = None, offsets: Int64Array | None = None) -> None:
        self.keys = np.empty(0, dtype=np.int64) if keys is None else keys
        self.offsets = np.empty(0, dtype=np.int64) if offsets is None else offsets

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, keys: Int64Array) -> BoolArray:
        """Return whether each minute is undone."""
        return np.isin(keys, self.keys)

    def since(self, keys: Int64Array) -> Int64Array:
        """Return the raw offset of the first cancel or correction of each minute, -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.offsets[place], -1)

    def note(self, keys: Int64Array, offset: int) -> None:
        """Add minutes (each once) that are not noted yet."""
        fresh = keys[~self.has(keys)]
        if len(fresh):
            every = np.concatenate((self.keys, fresh))
            offsets = np.concatenate((self.offsets, np.full(len(fresh), offset, dtype=np.int64)))
            order = np.argsort(every, kind="stable")
            self.keys, self.offsets = every[order], offsets[order]

    def keep(self, mask: BoolArray) -> None:
        """Forget all others."""
        self.keys, self.offsets = self.keys[mask], self.offsets[mask]
