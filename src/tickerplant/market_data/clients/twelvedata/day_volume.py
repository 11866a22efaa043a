"""Sizes of prints from volumes of the day, for feeds that say no size. Pure.

A print's size is the growth of its symbol's volume since the print before. The first of a symbol after a connection has
a size that is unknown, NaN: what was traded before is not its own. Where a volume is absent, so is the size, 0.

A volume that goes back has one of four causes, and the next prints show which:

- Messages that came together in the wrong order: those of one symbol and second are put in the order of their volumes.
- A late message, or a correction by less than half: size 0, and the volume counts on from where it was.
- A new day (less than half of what it was, or less after hours of silence): all of it is new.
- A slip (one volume far too high, or far too low, that is taken back): the two volumes live side by side for a minute,
  and each print is taken to belong to the one that it continues. So the sizes after a slip are right; that of the slip
  itself is said as it came, unless both came together.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import HOUR_US, NEVER_US, SECOND_US, Float64Array, Int64Array

Int32Array = npt.NDArray[np.int32]

RECENT_US: Final = 60 * SECOND_US
"""How long two volumes of one symbol live side by side; late messages come within seconds."""
NEW_DAY_US: Final = 4 * HOUR_US
"""So long without a print, and a lower volume is a new day's: no market pauses as long within one."""


class DayVolumes:
    """The volumes so far of symbols by code, and the sizes that follow from new ones."""

    def __init__(self) -> None:
        self._level = np.empty(0)
        self._at = np.empty(0, np.int64)
        # The volume that a jump or fall left behind, and when it was last continued; nan for none.
        self._other = np.empty(0)
        self._other_at = np.empty(0, np.int64)
        self._above_until_us = NEVER_US

    def grow(self, symbols: int) -> None:
        """Make room for as many symbols."""
        new = symbols - len(self._level)
        if new > 0:
            self._level = np.concatenate([self._level, np.full(new, np.nan)])
            self._other = np.concatenate([self._other, np.full(new, np.nan)])
            self._at = np.concatenate([self._at, np.full(new, NEVER_US)])
            self._other_at = np.concatenate([self._other_at, np.full(new, NEVER_US)])

    def forget(self) -> None:
        """Say that a new connection begins."""
        self._level[:] = np.nan
        self._other[:] = np.nan

    def sizes(self, codes: Int32Array, volumes: Float64Array, times: Int64Array) -> tuple[Float64Array, Int64Array]:
        """Return the size of each print, and in which order the rows belong; sizes are in that order already.

        `volumes` is nan (or negative) where there is none. The order differs from how they came only among prints of
        one symbol and second; it is empty when they are in order.
        """
        sizes = np.zeros(len(codes))
        told = np.flatnonzero(volumes >= 0)
        order = told[np.argsort(codes[told], kind="stable")]
        symbol, volume, at = codes[order], volumes[order], times[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = symbol[1:] != symbol[:-1]
        before = np.empty(len(order))
        before[1:] = volume[:-1]
        before[first] = self._level[symbol[first]]
        grown = volume - before
        odd = grown < 0
        if len(at) and int(at.min()) <= self._above_until_us:
            odd |= self._other[symbol] > self._level[symbol]
        place = np.empty(0, np.int64)
        if odd.any():
            mended = np.zeros(len(self._level), dtype=np.bool_)
            mended[symbol[odd]] = True
            apart = mended[symbol]
            place = self._mend(order[apart], codes, volumes, times, sizes)
            plain = ~apart  # whole symbols: `first` and `before` stay what they are
            order, symbol, volume, at = order[plain], symbol[plain], volume[plain], at[plain]
            first, before, grown = first[plain], before[plain], grown[plain]
        if len(order):
            jump = grown > before
            if jump.any():
                which = symbol[jump][::-1]  # the first of several counts
                self._other[which] = before[jump][::-1]
                self._other_at[which] = at[jump][::-1]
            sizes[order] = grown  # NaN where nothing was known before
            last = np.append(first[1:], True)
            self._level[symbol[last]] = volume[last]
            self._at[symbol[last]] = at[last]
        return (sizes[place], place) if len(place) else (sizes, place)

    # Where a volume goes back --------------------------------------------------------------------------------------

    def _mend(
        self, rows: Int64Array, codes: Int32Array, volumes: Float64Array, times: Int64Array, sizes: Float64Array
    ) -> Int64Array:
        """Set the sizes of these rows (by symbol, as they came); return the order of all rows."""
        place = np.arange(len(codes))
        bounds = np.flatnonzero(np.diff(codes[rows])) + 1
        for group in np.split(rows, bounds):
            found = _in_order(group.tolist(), volumes[group].tolist(), times[group].tolist())
            place[group] = [row for row, _, _ in found]
            self._walk(int(codes[group[0]]), found, sizes)
        return place

    def _walk(self, code: int, prints: list[tuple[int, float, int]], sizes: Float64Array) -> None:
        level, other = float(self._level[code]), float(self._other[code])
        at, other_at = int(self._at[code]), int(self._other_at[code])
        jumped: int | None = None
        for row, volume, now in prints:
            if now - other_at > RECENT_US:
                other = np.nan
            if np.isnan(level):
                sizes[row], level = np.nan, volume
            elif other > level and volume >= other / 2:  # of the higher one
                if volume >= other:
                    sizes[row] = volume - other
                    level, other, other_at = volume, level, at
            elif volume >= level:
                sizes[row] = volume - level
                if volume > 2 * level:
                    other, other_at, jumped = level, now, row
                elif other < level:
                    jumped = None
                level = volume
            elif volume < level / 2 and volume >= other and other < level:  # of the lower one
                sizes[row] = volume - other
                if jumped is not None:
                    sizes[jumped], jumped = 0.0, None
                level, other, other_at = volume, level, now
            elif now - at >= NEW_DAY_US:
                sizes[row], level, other = volume, volume, np.nan
            elif volume < level / 2:
                sizes[row] = volume
                level, other, other_at = volume, level, now
            else:
                now = at  # late: it says nothing of now
            at = now
        self._level[code], self._at[code] = level, at
        self._other[code], self._other_at[code] = other, other_at
        if other > level:
            self._above_until_us = max(self._above_until_us, other_at + RECENT_US)


def _in_order(rows: list[int], volumes: list[float], times: list[int]) -> list[tuple[int, float, int]]:
    """Return (row, volume, time) of one symbol's prints, those of a second in the order of volumes.

    Not across a fall by more than half: behind it the volumes are others.
    """
    result: list[tuple[int, float, int]] = []
    stretch: list[tuple[int, float, int]] = []
    highest = 0.0
    for row, volume, time in zip(rows, volumes, times, strict=True):
        if volume < highest / 2:
            result += sorted(stretch, key=lambda one: one[2:0:-1])
            stretch, highest = [], 0.0
        stretch.append((row, volume, time))
        highest = max(highest, volume)
    return result + sorted(stretch, key=lambda one: one[2:0:-1])
