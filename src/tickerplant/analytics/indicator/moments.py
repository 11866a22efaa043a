"""Mean and squared deviations over the last n bars, in constant time a bar, without drift.

Bars are counted in blocks of n from the symbol's first. The window that ends inside a block is the tail of the block
before and the head of this one. Heads grow by a sum a bar; a block's tails are summed backwards once, when it ends.
So nothing is ever subtracted from a sum, and what a spike leaves behind is gone when it leaves the window.

Sums are of differences from a bar that is itself among the summed (a head's first, a tail's last), therefore
sum(d²) <= n · sum((x − mean)²): the subtraction in the squared deviations loses a factor n of precision at the most,
whatever the prices. Equal prices give differences of zero: their mean is the price and their deviation 0, exactly. The
two parts are joined after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979).

The state, `width` floats: [0, n) the block's prices so far and, behind them, the tail sums of the block before; then
the head's first price, the head's sum, the former block's last price; with squares also the head's sum of squares and n
tail sums of squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, Place
from tickerplant.analytics.indicator.ring_index import read, write
from tickerplant.core.times import Float64Array

_BY_COLUMN: Final = 64
"""Symbols below which a sum along a column is cheaper than a call a row."""


@cache
def _tables(n: int) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Return, by the number of bars in the head: 1 / that, 1 / the tail's, the tail's share, the weight of the gap."""
    held = np.arange(n + 1)
    rest = n - held
    share = rest / n
    return 1.0 / np.maximum(held, 1), 1.0 / np.maximum(rest, 1), share, held * share


def _deviations(squares: Float64Array, total: Float64Array, per: Float64Array) -> Float64Array:
    """Return the sum of squared deviations from the mean, from the sums of squares and of differences."""
    found = total * total
    found *= per
    np.subtract(squares, found, out=found)
    np.maximum(found, 0.0, out=found)
    return found


@dataclass(frozen=True, slots=True)
class BlockMoments:
    """The moments of windows of `n` bars; `squares` False computes the mean alone and returns it twice."""

    n: int
    squares: bool = False

    @property
    def width(self) -> int:
        """Floats of state a symbol."""
        return 2 * self.n + 4 if self.squares else self.n + 3

    def step(
        self, state: Float64Array, rows: Place, index: Count, x: Float64Array, *, keep: bool
    ) -> tuple[Float64Array, Float64Array]:
        """Return (mean, sum of squared deviations) of each symbol's window with `x` as its newest bar."""
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
        self, state: Float64Array, rows: Place, slot: Count, x: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array | None]:
        """Return the head's first price, its sum so far and, if there are squares, theirs: of an empty one, 0."""
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
        """Join a head of `held` bars and the tail before it. Where no tail is left its sums are 0 and weigh nothing."""
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

    def _end_block(self, state: Float64Array, rows: Place) -> None:
        """Turn the block's prices into the sums, for each symbol, from each bar to the last, added from the last on.

        Along columns `cumsum` takes one number after the other from memory; row by row is a vector at a time, and the
        same sums.
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
        """Return what `step` gives for many bars of one symbol, whose state is float64[width], bit for bit.

        The blocks lie side by side and are summed along themselves, in the order that `step` sums in.
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
