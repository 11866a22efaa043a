"""Sizes of ticks from volumes of the day, for feeds without sizes. Pure.

The size of a tick is the growth of its symbol's volume since the previous tick. The first tick of a symbol after a
connection has an unknown size, NaN: earlier trades do not belong to it. A tick without a volume has size 0.

A volume that decreases has one of four causes, and the next ticks show which:

- Messages in the wrong order within one batch: messages of one symbol and second are sorted by their volumes.
- A late message, or a correction by less than half: size 0, and the former volume stays in force.
- A new day (less than half of the volume, or less after hours of silence): the whole volume is new.
- An error (one volume far too high or too low, then corrected): both volumes are stored for a minute. Each tick belongs
  to the volume that it continues. The sizes after an error are therefore right. The size of the error itself is
  delivered unless the correction is in the same batch.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tickerplant.core.times import HOUR_US, NEVER_US, SECOND_US, Float64Array, Int64Array

Int32Array = npt.NDArray[np.int32]

RECENT_US: Final = 60 * SECOND_US
"""Longest time for which two volumes of one symbol are stored; late messages arrive within seconds."""
NEW_DAY_US: Final = 4 * HOUR_US
"""Time without a tick after which a lower volume belongs to a new day: no market pauses that long within a day."""


class DayVolumes:
    """The volumes of the day by symbol code; computes sizes from new volumes."""

    def __init__(self) -> None:
        self._level = np.empty(0)
        self._at = np.empty(0, np.int64)
        # The volume before a jump or fall, and the time of the last tick that continued it; NaN if there is none.
        self._other = np.empty(0)
        self._other_at = np.empty(0, np.int64)
        self._above_until_us = NEVER_US

    def grow(self, symbols: int) -> None:
        """Extend the state to this number of symbols."""
        new = symbols - len(self._level)
        if new > 0:
            self._level = np.concatenate([self._level, np.full(new, np.nan)])
            self._other = np.concatenate([self._other, np.full(new, np.nan)])
            self._at = np.concatenate([self._at, np.full(new, NEVER_US)])
            self._other_at = np.concatenate([self._other_at, np.full(new, NEVER_US)])

    def forget(self) -> None:
        """Drop all volumes, for a new connection."""
        self._level[:] = np.nan
        self._other[:] = np.nan

    def sizes(self, codes: Int32Array, volumes: Float64Array, times: Int64Array) -> tuple[Float64Array, Int64Array]:
        """Return the size of each tick, and the right order of the rows; sizes are in that order.

        `volumes` is NaN (or negative) for ticks without a volume. The order differs from the order of arrival only
        among ticks of one symbol and second. It is empty if the rows are in order.
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
        decreased = grown < 0
        if len(at) and int(at.min()) <= self._above_until_us:
            decreased |= self._other[symbol] > self._level[symbol]
        row_order = np.empty(0, np.int64)
        if decreased.any():
            affected = np.zeros(len(self._level), dtype=np.bool_)
            affected[symbol[decreased]] = True
            apart = affected[symbol]
            row_order = self._walk_symbols(order[apart], codes, volumes, times, sizes)
            plain = ~apart  # whole symbols: `first` and `before` do not change
            order, symbol, volume, at = order[plain], symbol[plain], volume[plain], at[plain]
            first, before, grown = first[plain], before[plain], grown[plain]
        if len(order):
            jump = grown > before
            if jump.any():
                which = symbol[jump][::-1]  # the first of several wins
                self._other[which] = before[jump][::-1]
                self._other_at[which] = at[jump][::-1]
            sizes[order] = grown  # NaN for the first tick of a symbol
            last = np.append(first[1:], True)
            self._level[symbol[last]] = volume[last]
            self._at[symbol[last]] = at[last]
        return (sizes[row_order], row_order) if len(row_order) else (sizes, row_order)

    # Decreasing volumes --------------------------------------------------------------------------------------------

    def _walk_symbols(
        self, rows: Int64Array, codes: Int32Array, volumes: Float64Array, times: Int64Array, sizes: Float64Array
    ) -> Int64Array:
        """Set the sizes of these rows (by symbol, in order of arrival); return the order of all rows."""
        row_order = np.arange(len(codes))
        bounds = np.flatnonzero(np.diff(codes[rows])) + 1
        for group in np.split(rows, bounds):
            found = _in_order(group.tolist(), volumes[group].tolist(), times[group].tolist())
            row_order[group] = [row for row, _, _ in found]
            self._walk(int(codes[group[0]]), found, sizes)
        return row_order

    def _walk(self, code: int, ticks: list[tuple[int, float, int]], sizes: Float64Array) -> None:
        level, other = float(self._level[code]), float(self._other[code])
        at, other_at = int(self._at[code]), int(self._other_at[code])
        jumped: int | None = None
        for row, volume, now in ticks:
            if now - other_at > RECENT_US:
                other = np.nan
            if np.isnan(level):
                sizes[row], level = np.nan, volume
            elif other > level and volume >= other / 2:  # continues the higher volume
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
            elif volume < level / 2 and volume >= other and other < level:  # continues the lower volume
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
                now = at  # late: the state does not change
            at = now
        self._level[code], self._at[code] = level, at
        self._other[code], self._other_at[code] = other, other_at
        if other > level:
            self._above_until_us = max(self._above_until_us, other_at + RECENT_US)


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
