"""Highest and lowest values of the last n bars, in constant time per bar.

Bars are counted in blocks of n from the symbol's first bar, as in `moments`. A window that ends inside a block consists
of the tail of the previous block and the head of this one. The running extreme of the head is stored. The extremes of
all tails of a block are computed once, backwards, when the block ends.

Source: M. van Herk, "A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels"
(1992); J. Gil and M. Werman, "Computing 2-D min, median, and max filters" (1993).

The extreme of a set of numbers does not depend on their order. The exception is 0.0 and −0.0, which compare equal, so
−0.0 is replaced by 0.0.

A state that starts empty at any bar gives correct extremes after 2n − 1 bars: by then a whole block has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, RowIndex
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array

_BY_COLUMN: Final = 64
"""Count of symbols below which `accumulate` along columns is faster than one call per row."""


@dataclass(frozen=True, slots=True)
class BlockExtreme:
    """The highest (if `highest`) or lowest value of windows of `n` bars.

    The state has `width` floats. [0, n) contains the block's values so far, followed by the extremes of the previous
    block's tails. The last float is the extreme of the head.
    """

    n: int
    highest: bool

    @property
    def width(self) -> int:
        """Return the count of state floats per symbol."""
        return self.n + 1

    @property
    def _of(self) -> np.ufunc:
        return np.maximum if self.highest else np.minimum

    def step(self, state: Float64Array, rows: RowIndex, index: Count, x: Float64Array, *, keep: bool) -> Float64Array:
        """Return the extreme of each symbol's window whose newest value is `x`, float64[symbols]."""
        x = x + 0.0
        slot = index % self.n
        if isinstance(rows, slice):
            return self._step_slice(state, rows, int(slot), x, keep=keep)
        slots = np.asarray(slot)
        n, of = self.n, self._of
        head = np.where(slots == 0, x, of(state[n].take(rows), x))
        ends = slots == n - 1
        found = np.where(ends, head, of(head, read(state, np.where(ends, 0, slots + 1), rows)))
        if keep:
            state[n][rows] = head
            write(state, slots, rows, x)
            if ends.any():
                self._end_block(state, rows[ends])
        return found

    def _step_slice(self, state: Float64Array, rows: slice, slot: int, x: Float64Array, *, keep: bool) -> Float64Array:
        n, of = self.n, self._of
        head = x if slot == 0 else of(state[n, rows], x)
        found: Float64Array = head if slot == n - 1 else of(head, state[slot + 1, rows])
        if keep:
            state[n, rows] = head
            state[slot, rows] = x
            if slot == n - 1:
                self._end_block(state, rows)
        return found

    def _end_block(self, state: Float64Array, rows: RowIndex) -> None:
        n, of = self.n, self._of
        tail = state[n - 1][rows]
        if len(tail) < _BY_COLUMN:
            state[:n, rows] = of.accumulate(state[:n, rows][::-1], axis=0)[::-1]
            return
        for bar in range(n - 2, -1, -1):
            tail = of(state[bar][rows], tail)
            state[bar][rows] = tail

    def run(self, state: Float64Array, index: int, x: Float64Array) -> Float64Array:
        """Return the results of `step` for many bars of one symbol, whose state is float64[width]."""
        n, of = self.n, self._of
        lead = index % n
        total = lead + len(x)
        if len(x) == 0:
            return np.empty(0)
        ended, over = divmod(total, n)
        blocks = np.zeros((-(-total // n), n))
        flat = blocks.reshape(-1)
        flat[:lead] = state[:lead]
        flat[lead:total] = x + 0.0
        heads = of.accumulate(blocks, axis=1)
        if lead:  # the block of a state that started late lacks values that the stored head covers
            heads[0, lead:] = of.accumulate(np.concatenate([state[n:], blocks[0, lead:]]))[1:]
        tails = of.accumulate(blocks[:ended, ::-1], axis=1)[:, ::-1]
        before = np.concatenate([state[None, :n], tails])[: len(blocks)]
        found = heads.copy()
        found[:, :-1] = of(heads[:, :-1], before[:, 1:])
        if ended:
            state[:n] = tails[-1]
        state[:over] = flat[total - over : total]
        state[n] = heads[-1, (total - 1) % n]
        made: Float64Array = found.reshape(-1)[lead:total]
        return made


@dataclass(frozen=True, slots=True)
class BlockRange:
    """The highest high and the lowest low of windows of `n` bars."""

    n: int

    @property
    def width(self) -> int:
        """Return the count of state floats per symbol."""
        return 2 * (self.n + 1)

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, high: Float64Array, low: Float64Array, *, keep: bool
    ) -> tuple[Float64Array, Float64Array]:
        """Return (highest high, lowest low) of each symbol's window whose newest bar is this one."""
        half = self.n + 1
        return (
            BlockExtreme(self.n, highest=True).step(state[:half], rows, index, high, keep=keep),
            BlockExtreme(self.n, highest=False).step(state[half:], rows, index, low, keep=keep),
        )

    def run(
        self, state: Float64Array, index: int, high: Float64Array, low: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Return the results of `step` for many bars of one symbol, whose state is float64[width]."""
        half = self.n + 1
        return (
            BlockExtreme(self.n, highest=True).run(state[:half], index, high),
            BlockExtreme(self.n, highest=False).run(state[half:], index, low),
        )
