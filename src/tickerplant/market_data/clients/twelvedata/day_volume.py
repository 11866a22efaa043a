"""Sizes of ticks from volumes of the day, for feeds without sizes. Pure.

The size of a tick is the growth of its symbol's volume since the previous tick. The first tick of a symbol on a
connection, or after a gap, has an unknown size, NaN. Its volume contains all earlier trades of the day. A tick without
a volume has size 0.

A volume is *plausible* if it is between the former volume and its double. Other volumes have five causes:

- Messages in the wrong order within one batch: the messages of a symbol are sorted by time and volume.
- A late message, or a correction by less than half: its size is unknown, and the former volume stays in force. The
  growth of the total already contains that trade. Its place among the prints of its second is unknown too.
- A new day: a volume of less than half the former volume, after hours of silence. The whole volume is new.
- A new day without silence, or a large auction: the next volumes continue the new volume.
- An error: the next volumes continue the former volume.

The last two causes differ only in the volumes that follow, so the size of such a tick is unknown. A later volume that
is plausible after this volume, or after the former volume, ends the doubt. The size of its tick contains all growth
since the last known volume.

The sizes of a session never add up to more than its highest volume. After a fall on the same UTC date, the session is
in doubt for `NEW_DAY_US`: the lower volumes may be several errors in a row. A size is then unknown
if the sum of the sizes would exceed the highest volume. If later volumes continue the former volume again, their growth
is reduced by the sizes that were counted for the errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import DAY_US, HOUR_US, NEVER_US, Float64Array, Int64Array

Int32Array = npt.NDArray[np.int32]

NEW_DAY_US: Final = 4 * HOUR_US
"""Time without a tick after which a volume of less than half the former volume belongs to a new day. No market pauses
that long within a day. For the same time after a fall, a confirmed volume of at least half the former volume continues
the former volume."""


@dataclass(slots=True)
class _Former:
    """The volume in force before a fall at `at`; see `_SymbolVolume`. `same_day`: the date did not change."""

    level: float
    base: float
    debt: float
    at: int
    same_day: bool

    @property
    def counted(self) -> float:
        """Return the sum of the sizes before the fall."""
        return self.level - self.base + self.debt


@dataclass(slots=True)
class _SymbolVolume:
    """The volume of one symbol while it is in doubt. NaN means that a volume is unknown.

    `level`: the volume in force, of a tick at `at`. `base`: the part of `level` that no size contains. `debt`: growth
    that has been counted in advance. The sizes so far add up to `level - base + debt`. `pending`: a volume that neither
    continues `level` nor is confirmed; the last tick before it was at `pending_after`.
    `former`: the volume in force before the last fall; None if there was no fall within `NEW_DAY_US`.
    """

    level: float
    at: int
    base: float
    debt: float = 0.0
    pending: float = np.nan
    pending_after: int = NEVER_US
    former: _Former | None = None

    @property
    def counted(self) -> float:
        """Return the sum of the sizes."""
        return self.level - self.base + self.debt

    @property
    def is_in_doubt(self) -> bool:
        """Return True if the next size depends on more than the volume in force."""
        return bool(self.debt) or not np.isnan(self.pending) or (self.former is not None and self.former.same_day)

    def size(self, volume: float, now: int) -> float:
        """Return the size of a tick with this volume, NaN if it is unknown; update the state."""
        before, self.at = self.at, max(self.at, now)
        if self.former is not None and now - self.former.at >= NEW_DAY_US:
            self.former = None  # the fall has lasted: it was a new day
        if np.isnan(self.level):
            self.level = self.base = volume
            return np.nan
        if now - before >= NEW_DAY_US and volume < self.level:
            return self._begin_day(volume, before, now)
        if _continues(self.level, volume):
            self.pending = np.nan
            return self._grow(volume)
        if self.level / 2 <= volume < self.level:
            return np.nan
        if volume != self.pending and (_continues(self.pending, volume) or _is_late(self.pending, volume)):
            return self._confirm(volume, now)  # an equal volume may be a repeat of the message
        if np.isnan(self.pending):
            self.pending_after = before
        self.pending = volume
        return np.nan

    def _begin_day(self, volume: float, before: int, now: int) -> float:
        """Return the size of a tick with a lower volume after hours of silence; NaN if the size is unknown."""
        self.pending = np.nan
        if volume >= self.level / 2:  # perhaps a correction: no print has most of a day's volume
            self.level = self.base = volume
            self.debt, self.former = 0.0, None
            return np.nan
        self.former = self._as_former(before, now)
        self.level, self.base, self.debt = 0.0, 0.0, 0.0
        return self._grow(volume)

    def _as_former(self, before: int, now: int) -> _Former:
        return _Former(self.level, self.base, self.debt, now, before // DAY_US == now // DAY_US)

    def _confirm(self, volume: float, now: int) -> float:
        """Return the size of a tick that confirms the pending volume; NaN if the size is unknown."""
        self.pending = np.nan
        former = self.former
        if volume < self.level:
            if former is None or former.level <= self.level:
                self.former = self._as_former(self.pending_after, now)
                self.former.debt += former.counted if former is not None else 0.0
            else:  # a second fall within hours: the first one may be an error as well
                former.debt += self.counted
            self.level, self.base, self.debt = 0.0, 0.0, 0.0
        elif former is not None and former.level > self.level and volume >= former.level / 2:
            self.level, self.base, self.debt = former.level, former.base, former.debt + self.counted
            self.former = None
            if volume < self.level:
                return np.nan
        return self._grow(volume)

    def _grow(self, volume: float) -> float:
        growth = volume - self.level
        paid = min(self.debt, growth)
        size, former = growth - paid, self.former
        if former is not None and former.same_day and former.counted + self.counted + size > max(former.level, volume):
            self.level, self.base, self.debt = volume, self.base + size, self.debt - paid
            return np.nan
        self.level, self.debt = volume, self.debt - paid
        return size


def _continues(level: float, volume: float) -> bool:
    """Return True if a volume is plausible after a level. False for NaN."""
    return level <= volume <= 2 * level


def _is_late(level: float, volume: float) -> bool:
    """Return True if a volume is plausible just before a level. False for NaN."""
    return level / 2 <= volume < level


class DayVolumes:
    """The volumes of the day by symbol code; computes sizes from new volumes."""

    def __init__(self) -> None:
        self._level = np.empty(0)
        self._base = np.empty(0)
        self._at = np.empty(0, np.int64)
        self._in_doubt: dict[int, _SymbolVolume] = {}
        """Symbols with a pending volume, a debt or a former volume, by code."""
        self._apart = np.empty(0, np.bool_)  # a mask of the symbols in doubt: their ticks are not vectorised

    def grow(self, symbols: int) -> None:
        """Extend the state to this number of symbols."""
        new = symbols - len(self._level)
        if new > 0:
            self._level = np.concatenate([self._level, np.full(new, np.nan)])
            self._base = np.concatenate([self._base, np.full(new, np.nan)])
            self._at = np.concatenate([self._at, np.full(new, NEVER_US)])
            self._apart = np.concatenate([self._apart, np.zeros(new, np.bool_)])

    def forget(self) -> None:
        """Remove all volumes, for a new connection or after a gap."""
        self._level[:] = np.nan
        self._apart[:] = False
        self._in_doubt.clear()

    def sizes(self, codes: Int32Array, volumes: Float64Array, times: Int64Array) -> tuple[Float64Array, Int64Array]:
        """Return the size of each tick (NaN: unknown), and the right order of the rows; the sizes are in this order.

        `volumes` is NaN (or negative) for ticks without a volume. The order differs from the order of arrival only
        among ticks of one symbol. An empty order means that the rows keep their order.
        """
        sizes = np.zeros(len(codes))
        with_volume = np.flatnonzero(volumes >= 0)
        order = with_volume[np.argsort(codes[with_volume], kind="stable")]
        symbol, volume, at = codes[order], volumes[order], times[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = symbol[1:] != symbol[:-1]
        before = np.empty(len(order))
        before[1:] = volume[:-1]
        before[first] = self._level[symbol[first]]
        grown = volume - before
        odd = (grown < 0) | (grown > before)
        row_order = np.empty(0, np.int64)
        if odd.any() or self._apart.any():
            apart = self._apart.copy()
            apart[symbol[odd]] = True
            walked = apart[symbol]
            row_order = self._walk_symbols(order[walked], codes, volumes, times, sizes)
            plain = ~walked  # whole symbols: `first` does not change
            order, symbol, volume, at = order[plain], symbol[plain], volume[plain], at[plain]
            first, grown = first[plain], grown[plain]
        if len(order):
            sizes[order] = grown  # NaN for the first tick of a symbol
            begins = first & np.isnan(grown)
            self._base[symbol[begins]] = volume[begins]
            last = np.append(first[1:], True)
            self._level[symbol[last]] = volume[last]
            self._at[symbol[last]] = at[last]
        return (sizes[row_order], row_order) if len(row_order) else (sizes, row_order)

    def _walk_symbols(
        self, rows: Int64Array, codes: Int32Array, volumes: Float64Array, times: Int64Array, sizes: Float64Array
    ) -> Int64Array:
        """Set the sizes of these rows (by symbol, in order of arrival); return the order of all rows."""
        row_order = np.arange(len(codes))
        bounds = np.flatnonzero(np.diff(codes[rows])) + 1
        for group in np.split(rows, bounds) if len(rows) else ():
            found = _in_order(group.tolist(), volumes[group].tolist(), times[group].tolist())
            row_order[group] = [row for row, _, _ in found]
            self._walk(int(codes[group[0]]), found, sizes)
        return row_order

    def _walk(self, code: int, ticks: list[tuple[int, float, int]], sizes: Float64Array) -> None:
        known = self._in_doubt.pop(code, None) or _SymbolVolume(np.nan, NEVER_US, np.nan)
        # Vectorised ticks may have continued the volume.
        known.level, known.base, known.at = float(self._level[code]), float(self._base[code]), int(self._at[code])
        for row, volume, now in ticks:
            sizes[row] = known.size(volume, now)
        self._level[code], self._base[code], self._at[code] = known.level, known.base, known.at
        self._apart[code] = known.is_in_doubt
        if known.is_in_doubt or known.former is not None:
            self._in_doubt[code] = known


def _in_order(rows: list[int], volumes: list[float], times: list[int]) -> list[tuple[int, float, int]]:
    """Return (row, volume, time) of one symbol's ticks, sorted by time; ticks of one time are sorted by volume.

    Ticks are not moved across a fall by more than half: the volumes after it belong to another sequence.
    """
    result: list[tuple[int, float, int]] = []
    run: list[tuple[int, float, int]] = []
    highest = 0.0
    for row, volume, time in zip(rows, volumes, times, strict=True):
        if volume < highest / 2:
            result += sorted(run, key=lambda one: one[2:0:-1])
            run, highest = [], 0.0
        run.append((row, volume, time))
        highest = max(highest, volume)
    return result + sorted(run, key=lambda one: one[2:0:-1])
