"""Mean and squared deviations over the last n bars, in constant time per bar, without drift.

Bars are counted in blocks of n from the symbol's first bar. A window that ends inside a block consists of the tail of
the previous block and the head of this one. A head's sum grows by one term per bar. The sums of all tails of a block
are computed once, backwards, when the block ends. Nothing is subtracted from a sum, so a spike has no effect after it
leaves the window.

Terms are differences from a bar of the same sum: a head's first bar, a tail's last bar. Therefore sum(d²) <= n · sum((x
− mean)²): the subtraction in the squared deviations loses at most a factor n of precision, for any prices. Equal prices
give differences of zero: their mean is exactly the price and their deviation exactly 0. Head and tail are combined by
the method of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances"
(1979).

The state has `width` floats. [0, n) contains the block's prices so far, followed by the tail sums of the previous
block. The next three floats are the head's first price, the head's sum, and the previous block's last price. If
`squares` is set, the head's sum of squares and n tail sums of squares follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, RowIndex
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array

_BY_COLUMN: Final = 64
"""Count of symbols below which a sum along columns is faster than one call per row."""


@lru_cache(128)  # a client of the API may request any period
def _tables(n: int) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Return four tables, indexed by the count of bars in the head.

    They contain 1 / the head's bars, 1 / the tail's bars, the tail's share of n, and the weight of the means'
    difference.
    """
    held = np.arange(n + 1)
    rest = n - held
    share = rest / n
    return 1.0 / np.maximum(held, 1), 1.0 / np.maximum(rest, 1), share, held * share


def _deviations(squares: Float64Array, total: Float64Array, per: Float64Array) -> Float64Array:
    """Return the sum of squared deviations from the mean, given the sums of squares and of differences."""
    found = total * total
    found *= per
    np.subtract(squares, found, out=found)
    np.maximum(found, 0.0, out=found)
    return found


@dataclass(frozen=True, slots=True)
class BlockMoments:
    """The moments of windows of `n` bars. If `squares` is False, only the mean is computed and returned twice."""

    n: int
    squares: bool = False

    @property
    def width(self) -> int:
        """Return the count of state floats per symbol."""
        return 2 * self.n + 4 if self.squares else self.n + 3

    def step(
        self, state: Float64Array, rows: RowIndex, index: Count, x: Float64Array, *, keep: bool
    ) -> tuple[Float64Array, Float64Array]:
        """Return (mean, sum of squared deviations) of each symbol's window whose newest bar is `x`."""
        n = self.n
        slot = index % n
        held = slot + 1
        first, head, head2 = self._begun(state, rows, slot, x)
        difference = x - first
        head = head + difference
        behind = np.minimum(held, n - 1)
        tails2 = None
        if head2 is not None:
            head2 = head2 + difference * difference
            tails2 = read(state, n + 4 + behind, rows)
        made = self._join(held, first, head, head2, state[n + 2][rows], read(state, behind, rows), tails2)
        if keep:
            write(state, slot, rows, x)
            if not isinstance(slot, int) or slot == 0:
                state[n][rows] = first
            state[n + 1][rows] = head
            if head2 is not None:
                state[n + 3][rows] = head2
            if isinstance(rows, slice):
                if held == n:
                    self._end_block(state, rows)
            elif np.any(full := np.equal(held, n)):
                self._end_block(state, rows[full])
        return made

    def _begun(
        self, state: Float64Array, rows: RowIndex, slot: Count, x: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array | None]:
        """Return the head's first price, its sum, and its sum of squares (None without `squares`).

        The sums of an empty head are 0.
        """
        n = self.n
        if isinstance(slot, int):
            if slot:
                return state[n][rows], state[n + 1][rows], state[n + 3][rows] if self.squares else None
            nothing = np.zeros_like(x)
            return x, nothing, nothing if self.squares else None
        begins = slot == 0
        first, head = np.where(begins, x, state[n][rows]), np.where(begins, 0.0, state[n + 1][rows])
        return first, head, np.where(begins, 0.0, state[n + 3][rows]) if self.squares else None

    def _join(
        self,
        held: Count,
        first: Float64Array,
        head: Float64Array,
        head2: Float64Array | None,
        last: Float64Array,
        tail: Float64Array,
        tail2: Float64Array | None,
    ) -> tuple[Float64Array, Float64Array]:
        """Return the moments of a head of `held` bars and the tail before it. An empty tail has sums and weight 0."""
        per_head, per_tail, share, weight = (table[held] for table in _tables(self.n))
        head_mean = head * per_head
        head_mean += first
        gap = tail * per_tail
        gap += last
        gap -= head_mean
        mean = gap * share
        mean += head_mean
        if head2 is None or tail2 is None:
            return mean, mean
        squares = _deviations(head2, head, per_head)
        squares += _deviations(tail2, tail, per_tail)
        gap *= gap
        gap *= weight
        squares += gap
        return mean, squares

    def _end_block(self, state: Float64Array, rows: RowIndex) -> None:
        """Replace the block's prices by the tail sums of each symbol, added from the last bar backwards.

        `cumsum` along columns reads single numbers from memory. The loop over rows processes vectors, which is faster
        for many symbols. Both give the same sums.
        """
        n = self.n
        last = state[n - 1][rows].copy()
        if len(last) < _BY_COLUMN:
            differences = state[:n, rows] - last
            state[:n, rows] = np.cumsum(differences[::-1], axis=0)[::-1]
            if self.squares:
                state[n + 4 :, rows] = np.cumsum((differences * differences)[::-1], axis=0)[::-1]
        else:
            total = total2 = np.zeros(len(last))
            for bar in range(n - 1, -1, -1):
                difference = state[bar][rows] - last
                total = total + difference
                state[bar][rows] = total
                if self.squares:
                    total2 = total2 + difference * difference
                    state[n + 4 + bar][rows] = total2
        state[n + 2][rows] = last

    def run(self, state: Float64Array, index: int, x: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the results of `step` for many bars of one symbol, whose state is float64[width], bit for bit.

        The blocks are the rows of a matrix and are summed along the rows, in the same order as in `step`.
        """
        n = self.n
        lead = index % n
        total = lead + len(x)
        if len(x) == 0:
            return np.empty(0), np.empty(0)
        ended = total // n
        blocks = np.zeros((-(-total // n), n))
        flat = blocks.reshape(-1)
        flat[:lead] = state[:lead]
        flat[lead:total] = x
        first = blocks[:, :1]
        differences = blocks - first
        head = np.cumsum(differences, axis=1)
        last = blocks[:ended, -1:]
        backwards = (blocks[:ended] - last)[:, ::-1]
        tail = np.cumsum(backwards, axis=1)[:, ::-1]
        held = np.arange(1, n + 1)
        behind = np.minimum(held, n - 1)

        def before(former: Float64Array, own: Float64Array) -> Float64Array:
            return np.concatenate([former[None], own])[: len(blocks)]

        head2 = tail2 = former2 = None
        if self.squares:
            head2 = np.cumsum(differences * differences, axis=1)
            tail2 = np.cumsum(backwards * backwards, axis=1)[:, ::-1]
            former2 = before(state[n + 4 :], tail2)[:, behind]
        made = self._join(
            held, first, head, head2, before(state[n + 2 : n + 3], last), before(state[:n], tail)[:, behind], former2
        )
        if ended:
            state[:n] = tail[-1]
            state[n + 2] = last[-1, 0]
            if tail2 is not None:
                state[n + 4 :] = tail2[-1]
        over = total % n
        state[:over] = flat[total - over : total]
        at = (len(blocks) - 1, (total - 1) % n)
        state[n] = first[-1, 0]
        state[n + 1] = head[at]
        if head2 is not None:
            state[n + 3] = head2[at]
        mean, squares = (part.reshape(-1)[lead:total] for part in made)
        return mean, squares
