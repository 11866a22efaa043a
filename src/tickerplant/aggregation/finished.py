"""Finished bars: every candidate that is remembered, and which of them is published.

A block holds the candidates of one interval that begin at one time, sorted by symbol. Of the candidates of a symbol the
winner is published: complete beats incomplete, then the order of sources, then what somebody gave beats what was rolled
up from vendors' finer bars, then first come.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.grouping import merge_ticks
from tickerplant.aggregation.rows import (
    FROM_PARTS,
    FROM_TICKS,
    FROM_VENDOR,
    FROM_VENDOR_PARTS,
    ROW,
    VALUES,
    Rows,
    join,
    take,
)
from tickerplant.core.times import BoolArray, Int64Array

REASONS = ("ticks", "parts", "late", "source", "down", "auction")
"""Why a bar was published, as far as the engine says it; vendors' reasons are numbered after these."""
TICKS, PARTS, LATE, SOURCE, DOWN, AUCTION = range(6)

_SEEN = (*VALUES, "trades", "source", "complete", "history")
_IDENTITY = ("kind", "feed")


class Finished:
    """The finished bars of one interval, by start, and which of them this step has changed."""

    def __init__(self) -> None:
        self.blocks: dict[int, Rows] = {}
        self.changed: dict[int, list[npt.NDArray[np.int32]]] = {}
        self._fresh: dict[int, list[npt.NDArray[np.int32]]] = {}

    def merge(self, rows: Rows, ranks: npt.NDArray[np.int64], revise_reason: int) -> None:
        """Take candidates: rows sorted by start, one for each (start, symbol, candidate).

        A bar from ticks is added to that of its feed if there is one; others replace their like. `ranks` is each
        source's place. `revise_reason` is for bars that were published before and keep their source.
        """
        starts = rows["start"]
        edges = np.concatenate(([0], np.flatnonzero(starts[1:] != starts[:-1]) + 1, [len(rows)])).tolist()
        for begin, end in pairwise(edges):
            start = int(starts[begin])
            block = self.blocks.get(start)
            if block is None:
                block = take(rows[begin:end], np.argsort(_identities(rows[begin:end]), kind="stable"))
                block["revision"] = -1
                _choose(block, ranks)
                changed = block["symbol"][block["winner"]]
            else:
                block, changed = _merged(block, rows[begin:end], ranks, revise_reason)
            self.blocks[start] = block
            self._note(start, changed)

    def _note(self, start: int, symbols: npt.NDArray[np.int32]) -> None:
        if len(symbols):
            self.changed.setdefault(start, []).append(symbols)
            self._fresh.setdefault(start, []).append(symbols)

    def take_fresh(self) -> dict[int, npt.NDArray[np.int32]]:
        """Return the symbols changed since this was last asked, by start in order: what coarser bars must know."""
        result = {start: np.concatenate(parts) for start, parts in sorted(self._fresh.items())}
        self._fresh.clear()
        return result

    def reconsider(self, start: int, complete: BoolArray, ranks: npt.NDArray[np.int64], reason: int) -> None:
        """Set the completeness of a block's rows anew and choose again."""
        block = self.blocks[start]
        before = block[block["winner"]]
        block["complete"] = complete
        _choose(block, ranks)
        changed = _compare(block, before, reason)
        self._note(start, changed)

    def winners(self, start: int) -> Rows:
        """Return the published rows of a block, sorted by symbol; none if there is no block."""
        block = self.blocks.get(start)
        return np.zeros(0, dtype=ROW) if block is None else block[block["winner"]]

    def has(self, start: int, symbols: npt.NDArray[np.int32]) -> BoolArray:
        """Return for each symbol whether there is a finished bar."""
        block = self.blocks.get(start)
        if block is None:
            return np.zeros(len(symbols), dtype=np.bool_)
        return np.isin(symbols, block["symbol"])

    def built(self, start: int, symbols: npt.NDArray[np.int32]) -> BoolArray:
        """Return for each symbol whether there is a bar rolled up from parts."""
        block = self.blocks.get(start)
        if block is None:
            return np.zeros(len(symbols), dtype=np.bool_)
        return np.isin(symbols, block["symbol"][block["kind"] >= FROM_PARTS])

    def gather(self, starts: Iterable[int]) -> Rows:
        """Return the candidates of these blocks, in the order asked."""
        found = [block for start in starts if (block := self.blocks.get(start)) is not None]
        return join(found)

    def take_changed(self) -> list[Rows]:
        """Count a revision for every bar that this step has changed; return copies of them, block by block."""
        result = []
        for start in sorted(self.changed):
            parts = self.changed[start]
            block = self.blocks[start]
            mask = block["winner"]
            if len(parts) > 1 or len(parts[0]) < np.count_nonzero(mask):
                mask = mask & np.isin(block["symbol"], np.concatenate(parts))
            block["revision"][mask] += 1
            result.append(take(block, mask))
        self.changed.clear()
        return result


def _identities(rows: Rows) -> Int64Array:
    """Return the sort key that is the same for what replaces each other: symbol, kind, feed (one rolled up)."""
    kind = rows["kind"].astype(np.int64)
    rolled = kind >= FROM_PARTS
    feed = np.where(rolled, 0, rows["feed"]).astype(np.int64)
    kind = np.where(rolled, FROM_PARTS, kind)
    result: Int64Array = rows["symbol"].astype(np.int64) << 33 | kind << 31 | feed
    return result


def _merged(
    block: Rows, rows: Rows, ranks: npt.NDArray[np.int64], revise_reason: int
) -> tuple[Rows, npt.NDArray[np.int32]]:
    """Return the block with the rows in it, and the symbols whose published bar is another now."""
    before = block[block["winner"]]
    rows = rows.copy()
    rows["revision"] = -1
    both = join((block, rows))
    keys = _identities(both)
    order = np.argsort(keys, kind="stable")
    both, keys = both[order], keys[order]
    pairs = np.flatnonzero(keys[1:] == keys[:-1])
    if len(pairs):
        old, new = both[pairs], both[pairs + 1]
        ticks = new["kind"] == FROM_TICKS
        added = old.copy()
        merge_ticks(added, new)
        added["complete"], added["reason"] = new["complete"], new["reason"]
        new["arrival"] = old["arrival"]
        both[pairs + 1] = np.where(ticks, added, new)
        keep = np.ones(len(both), dtype=np.bool_)
        keep[pairs] = False
        both = both[keep]
    _choose(both, ranks)
    return both, _compare(both, before, revise_reason)


def _choose(block: Rows, ranks: npt.NDArray[np.int64]) -> None:
    """Mark the winner of each symbol in a block sorted by symbol."""
    symbols = block["symbol"]
    if (symbols[1:] != symbols[:-1]).all():
        block["winner"] = True
        return
    order = np.lexsort(
        (
            block["feed"],
            block["arrival"],
            block["kind"] == FROM_VENDOR_PARTS,
            ranks[block["source"]],
            ~block["complete"],
            symbols,
        )
    )
    ordered = symbols[order]
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    block["winner"] = False
    block["winner"][order[first]] = True


def _compare(block: Rows, before: Rows, revise_reason: int) -> npt.NDArray[np.int32]:
    """Carry revisions over to the winners, say why they changed, and return the symbols that did."""
    at = np.flatnonzero(block["winner"])
    after = block[at]
    old = np.searchsorted(before["symbol"], after["symbol"])
    known = old < len(before)
    known[known] = before["symbol"][old[known]] == after["symbol"][known]
    was, now = before[old[known]], after[known]
    same = np.ones(len(now), dtype=np.bool_)
    for name in _SEEN:
        equal = was[name] == now[name]
        if name in VALUES:
            equal |= np.isnan(was[name]) & np.isnan(now[name])
        same &= equal
    other = (was["kind"] != now["kind"]) | ((was["kind"] <= FROM_VENDOR) & (was["feed"] != now["feed"]))
    now["revision"] = was["revision"]
    vendors = (now["kind"] == FROM_VENDOR) & (now["reason"] >= len(REASONS))
    now["reason"] = np.where(
        same, was["reason"], np.where(other, SOURCE, np.where(vendors, now["reason"], revise_reason))
    )
    after[known] = now
    block[at] = after
    changed = np.ones(len(after), dtype=np.bool_)
    changed[known] = ~same
    result: npt.NDArray[np.int32] = after["symbol"][changed]
    return result
