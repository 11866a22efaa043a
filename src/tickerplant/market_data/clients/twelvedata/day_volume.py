"""Sizes of ticks from volumes of the day, for feeds without sizes. Pure.

The size of a tick is the growth of its symbol's volume since the previous tick. The first tick of a symbol after a
connection has an unknown size, NaN: earlier trades do not belong to it. A tick without a volume has size 0.

A volume is *plausible* if it is between the former volume and its double. Other volumes have five causes:

- Messages in the wrong order within one batch: messages of one symbol and second are sorted by their volumes.
- A late message, or a correction by less than half: its size is unknown, and the former volume stays in force. The
  growth of the total already contains that trade. Its place among the prints of its second is unknown too.
- A new day: a lower volume after hours of silence. The whole volume is new.
- A new day without silence, or a large auction: the next volumes continue the new one.
- An error: the next volumes continue the former one.

The last two differ only in what follows. The size of such a tick is therefore unknown, until a later volume is
plausible after it or after the former one. The size of that tick contains all growth since the last known volume. The
sizes of a session thus never add up to more than its volume, except that a session of errors (two of them that continue
each other) counts until the former volume is back; the growth after that is reduced by what the errors have counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import HOUR_US, NEVER_US, Float64Array, Int64Array

Int32Array = npt.NDArray[np.int32]

NEW_DAY_US: Final = 4 * HOUR_US
"""Time without a tick after which a lower volume belongs to a new day: no market pauses that long within a day. For the
same time after a fall, a volume that jumps to the former one or above continues the former one."""


@dataclass(slots=True)
class _SymbolVolume:
    """The volume of one symbol while it is in doubt. NaN: none.

    `level`: the volume in force, of a tick at `at`. `debt`: growth that has been counted in advance. `pending`: a
    volume that neither continues `level` nor is confirmed. `former`: the volume in force before a fall at `former_at`,
    with its debt.
    """

    level: float
    at: int
    debt: float
    pending: float
    former: float
    former_at: int
    former_debt: float

    def size(self, volume: float, now: int) -> float:
        """Return the size of a tick with this volume, NaN if it is unknown; update the state."""
        silent = now - self.at >= NEW_DAY_US
        self.at = max(self.at, now)
        if np.isnan(self.level):
            self.level = volume
            return np.nan
        if silent and volume < (self.level if np.isnan(self.pending) else max(self.level, self.pending)):
            self.level, self.debt, self.pending, self.former = volume, 0.0, np.nan, np.nan
            return volume
        if _continues(self.level, volume):
            self.pending = np.nan
            return self._grow(volume)
        if self.level / 2 <= volume < self.level:
            return np.nan
        if volume != self.pending and (_continues(self.pending, volume) or _is_late(self.pending, volume)):
            return self._confirm(volume, now)  # an equal volume may be a repeat of the message
        self.pending = volume
        return np.nan

    def _confirm(self, volume: float, now: int) -> float:
        """Return the size of a tick that confirms the pending volume."""
        self.pending = np.nan
        if volume < self.level:
            if self._has_former(now):  # a second fall within hours: the first one may be an error as well
                self.former_debt += self.level + self.debt
            else:
                self.former, self.former_at, self.former_debt = self.level, now, self.debt
            self.level, self.debt = volume, 0.0
            return volume
        if self._has_former(now) and volume >= self.former / 2:
            self.debt += self.level + self.former_debt
            self.level, self.former = self.former, np.nan
            if volume < self.level:
                return np.nan
        return self._grow(volume)

    def _has_former(self, now: int) -> bool:
        return self.former > self.level and now - self.former_at < NEW_DAY_US

    def _grow(self, volume: float) -> float:
        growth = volume - self.level
        paid = min(self.debt, growth)
        self.level, self.debt = volume, self.debt - paid
        return growth - paid


def _continues(level: float, volume: float) -> bool:
    """Return whether a volume is plausible after a level. False for NaN."""
    return level <= volume <= 2 * level


def _is_late(level: float, volume: float) -> bool:
    """Return whether a volume is plausible just before a level. False for NaN."""
    return level / 2 <= volume < level


class DayVolumes:
    """The volumes of the day by symbol code; computes sizes from new volumes."""

    def __init__(self) -> None:
        self._level = np.empty(0)
        self._at = np.empty(0, np.int64)
        self._in_doubt: dict[int, _SymbolVolume] = {}
        """Symbols with a pending volume, a debt or a former volume, by code."""
        self._apart = np.empty(0, np.bool_)  # those with a pending volume or a debt: their ticks are not vectorised

    def grow(self, symbols: int) -> None:
        """Extend the state to this number of symbols."""
        new = symbols - len(self._level)
        if new > 0:
            self._level = np.concatenate([self._level, np.full(new, np.nan)])
            self._at = np.concatenate([self._at, np.full(new, NEVER_US)])
            self._apart = np.concatenate([self._apart, np.zeros(new, np.bool_)])

    def forget(self) -> None:
        """Drop all volumes, for a new connection."""
        self._level[:] = np.nan
        self._apart[:] = False
        self._in_doubt.clear()

    def sizes(self, codes: Int32Array, volumes: Float64Array, times: Int64Array) -> tuple[Float64Array, Int64Array]:
        """Return the size of each tick (NaN: unknown), and the right order of the rows; sizes are in that order.

        `volumes` is NaN (or negative) for ticks without a volume. The order differs from the order of arrival only
        among ticks of one symbol. It is empty if the rows are in order.
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
        level, at = float(self._level[code]), int(self._at[code])
        known = self._in_doubt.pop(code, None)
        if known is None:
            known = _SymbolVolume(level, at, 0.0, np.nan, np.nan, NEVER_US, 0.0)
        known.level, known.at = level, at  # vectorised ticks may have continued the volume
        for row, volume, now in ticks:
            sizes[row] = known.size(volume, now)
        self._level[code], self._at[code] = known.level, known.at
        self._apart[code] = bool(known.debt) or not np.isnan(known.pending)
        if self._apart[code] or known.former > known.level:
            self._in_doubt[code] = known


def _in_order(rows: list[int], volumes: list[float], times: list[int]) -> list[tuple[int, float, int]]:
    """Return (row, volume, time) of one symbol's ticks; the ticks of one second are sorted by volume.

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
