"""Candidates of closed bars, and the winner of each bar: the candidate that is published.

A block contains all candidates of one interval with one start, sorted by symbol. These rules decide the winner of a
symbol, in this order:

1. A bar with trades wins over one whose trades were all cancelled.
2. Complete wins over incomplete.
3. The better rank in the order of sources (`rules.sources`) wins.
4. A bar rolled up from vendors' finer bars loses to every other kind of bar.
5. The first candidate to arrive wins.

A winner whose trades were all cancelled is published as withdrawn. A pending candidate cannot win.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from tickerplant.aggregation.grouping import merge_ticks
from tickerplant.aggregation.rows import (
    CUT,
    FROM_PARTS,
    FROM_TICKS,
    FROM_VENDOR,
    FROM_VENDOR_PARTS,
    ROW,
    VALUES,
    Codes,
    Rows,
    emptied,
    join,
    take,
)
from tickerplant.aggregation.source_priority import SourceRanking
from tickerplant.core.times import BoolArray, Int64Array

REASONS = ("ticks", "parts", "late", "source", "down", "auction", "cancel", "correction", "rebuild")
"""The engine's reasons for publishing a bar, by code. Vendors' reasons get the next codes."""
TICKS, PARTS, LATE, SOURCE, DOWN, AUCTION, CANCEL, CORRECTION, REBUILD = range(9)

COMPARED = ("open", "high", "low", "close", "volume")
"""Columns in which bars of two sources are compared."""
_PUBLISHED = (*VALUES, "trades", "source", "complete", "history", "withdrawn")


class CandidateBlocks:
    """The candidates of one interval, in blocks by start, and the symbols that this step has changed."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.blocks: dict[int, Rows] = {}
        self.changed: dict[int, list[Codes]] = {}
        self._new: dict[int, list[Codes]] = {}
        self._merged: dict[int, list[Codes]] = {}

    def merge(self, rows: Rows, ranking: SourceRanking, revise_reason: int, *, add: bool = True) -> None:
        """Add candidates: rows sorted by start, one for each (start, symbol, identity).

        A bar from ticks is added to the existing bar of its feed, or replaces it if `add` is False. Any other candidate
        replaces the existing candidate of the same identity. `revise_reason` is the reason of a published bar whose
        values change but whose kind and feed do not. A vendor's bar keeps the reason of its request.
        """
        if not len(rows):
            return
        starts = rows["start"]
        edges = np.concatenate(([0], np.flatnonzero(starts[1:] != starts[:-1]) + 1, [len(rows)])).tolist()
        for begin, end in pairwise(edges):
            start = int(starts[begin])
            block = self.blocks.get(start)
            if block is None:
                block = rows[begin:end].copy()
                if len(block) > 1:
                    block = take(block, np.argsort(_identities(block), kind="stable"))
                block["revision"] = -1
                _select_winners(block, ranking.ranks(block, self.interval))
                changed = block["symbol"][block["winner"]]
            elif end - begin == 1 and (at := _insert_position(block, rows["symbol"][begin])) is not None:
                # An insertion into 300 rows takes 26 µs here, and 411 µs below. Files sorted by symbol use this path.
                block = join((block[:at], rows[begin:end], block[at:]))
                block["revision"][at], block["winner"][at] = -1, ~block["pending"][at]
                changed = block["symbol"][at : at + 1][block["winner"][at : at + 1]]
            else:
                before = block[block["winner"]]
                block = _merge_block(block, rows[begin:end], add=add)
                _select_winners(block, ranking.ranks(block, self.interval))
                changed = _carry_revisions(block, before, revise_reason)
                self._merged.setdefault(start, []).append(rows["symbol"][begin:end])
            self.blocks[start] = block
            self._mark_changed(start, changed)

    def _mark_changed(self, start: int, symbols: Codes) -> None:
        if len(symbols):
            self.changed.setdefault(start, []).append(symbols)
            self._new.setdefault(start, []).append(symbols)

    def drain_new(self) -> dict[int, Codes]:
        """Return the symbols changed since the last call, by ascending start: the input of coarser bars."""
        result = {start: np.concatenate(parts) for start, parts in sorted(self._new.items())}
        self._new.clear()
        return result

    def reselect(
        self,
        start: int,
        ranking: SourceRanking,
        reason: int,
        *,
        complete: BoolArray | None = None,
        pending: BoolArray | None = None,
    ) -> None:
        """Set `complete` or `pending` of the rows of a block, and select the winners again."""
        block = self.blocks[start]
        before = block[block["winner"]]
        if complete is not None:
            block["complete"] = complete
        if pending is not None:
            block["pending"] = pending
        _select_winners(block, ranking.ranks(block, self.interval))
        self._mark_changed(start, _carry_revisions(block, before, reason))

    def replace(
        self, symbols: Codes, starts: set[int], others: CandidateBlocks, ranking: SourceRanking, reason: int
    ) -> None:
        """Replace the candidates of these symbols at these starts with those of `others`.

        Each such bar counts as changed. A published bar without a candidate left is withdrawn.
        """
        for start in sorted(starts):
            block = self.blocks.get(start, np.zeros(0, dtype=ROW))
            given = others.blocks.get(start, np.zeros(0, dtype=ROW))
            mine = np.isin(block["symbol"], symbols)
            fresh = take(given, np.isin(given["symbol"], symbols))
            fresh["revision"], fresh["pending"] = -1, False
            before = take(block, mine & block["winner"])
            withdrawn = emptied(take(before, ~np.isin(before["symbol"], fresh["symbol"])))
            block = join((take(block, ~mine), fresh, withdrawn))
            if not len(block):
                continue
            block = take(block, np.argsort(_identities(block), kind="stable"))
            _select_winners(block, ranking.ranks(block, self.interval))
            _carry_revisions(block, before, reason)
            ours = np.isin(block["symbol"], symbols)
            if not ours.any():
                continue
            # A vendor's bar has the reason of its request: the store derives the bar's rank from the reason.
            block["reason"][block["winner"] & ours & (block["kind"] != FROM_VENDOR)] = reason
            self.blocks[start] = block
            self.changed.setdefault(start, []).append(np.unique(block["symbol"][ours]))

    def of_feed(self, start: int, symbols: Codes, feed: int) -> Rows:
        """Return copies of the candidates of these symbols from one feed's ticks, sorted by symbol."""
        block = self.blocks.get(start)
        if block is None:
            return np.zeros(0, dtype=ROW)
        ours = (block["kind"] == FROM_TICKS) & (block["feed"] == feed)
        return take(block, ours & np.isin(block["symbol"], symbols))

    def has(self, start: int, symbols: Codes) -> BoolArray:
        """Return a mask of the symbols that have a candidate with this start."""
        block = self.blocks.get(start)
        if block is None:
            return np.zeros(len(symbols), dtype=np.bool_)
        return np.isin(symbols, block["symbol"])

    def has_rollup(self, start: int, symbols: Codes) -> BoolArray:
        """Return a mask of the symbols that have a rolled-up candidate with this start."""
        block = self.blocks.get(start)
        if block is None:
            return np.zeros(len(symbols), dtype=np.bool_)
        return np.isin(symbols, block["symbol"][block["kind"] >= FROM_PARTS])

    def gather(self, starts: Iterable[int]) -> Rows:
        """Return the candidates of the blocks with these starts, in the order of `starts`."""
        found = [block for start in starts if (block := self.blocks.get(start)) is not None]
        return join(found)

    def drain_differences(self) -> list[tuple[Rows, Rows]]:
        """Return pairs: a published bar whose candidates this step has changed, and a differing bar of another source.

        Both bars are complete and have a price. A source's official bar and the bar from its ticks count as bars of two
        sources.
        """
        result = []
        for start in sorted(self._merged):
            block, merged = self.blocks[start], np.concatenate(self._merged[start])
            symbols = block["symbol"]
            if (symbols[1:] != symbols[:-1]).all():
                continue
            comparable = block["complete"] & ~block["withdrawn"] & np.isfinite(block["close"])
            mine = np.flatnonzero(block["winner"] & comparable & np.isin(symbols, merged))
            others = np.flatnonzero(~block["winner"] & comparable)
            place = np.searchsorted(symbols[mine], symbols[others])
            known = place < len(mine)
            known[known] = symbols[mine[place[known]]] == symbols[others[known]]
            one, other = take(block, mine[place[known]]), take(block, others[known])
            official = (one["kind"] == FROM_VENDOR) | (one["kind"] == FROM_VENDOR_PARTS)
            other_official = (other["kind"] == FROM_VENDOR) | (other["kind"] == FROM_VENDOR_PARTS)
            differs = (one["source"] != other["source"]) | (official != other_official)
            differs &= np.logical_or.reduce([one[name] != other[name] for name in COMPARED])
            if differs.any():
                result.append((take(one, differs), take(other, differs)))
        self._merged.clear()
        return result

    def drain_changed(self) -> list[Rows]:
        """Increment the revision of each bar that this step has changed; return copies of these bars, by block."""
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
    """Return the sort key of each candidate's identity: symbol, kind, feed. Roll-ups of a symbol share one identity."""
    kind = rows["kind"].astype(np.int64)
    rolled = kind >= FROM_PARTS
    feed = np.where(rolled, 0, rows["feed"]).astype(np.int64)
    kind = np.where(rolled, FROM_PARTS, kind)
    result: Int64Array = rows["symbol"].astype(np.int64) << 33 | kind << 31 | feed
    return result


def _insert_position(block: Rows, symbol: int) -> int | None:
    """Return the position at which to insert the symbol into the block; None if the block contains it."""
    symbols = block["symbol"]
    at = int(np.searchsorted(symbols, symbol))
    return None if at < len(symbols) and symbols[at] == symbol else at


def _merge_block(block: Rows, rows: Rows, *, add: bool) -> Rows:
    """Return the block with the rows merged into it."""
    rows = rows.copy()
    rows["revision"] = -1
    both = join((block, rows))
    keys = _identities(both)
    order = np.argsort(keys, kind="stable")
    both, keys = both[order], keys[order]
    pairs = np.flatnonzero(keys[1:] == keys[:-1])
    if len(pairs):
        old, new = both[pairs], both[pairs + 1]
        added = old.copy()
        merge_ticks(added, new)
        new["flaws"] |= np.where(new["kind"] == FROM_TICKS, old["flaws"] & CUT, 0).astype(np.uint8)
        new["complete"] &= (new["flaws"] & CUT) == 0
        added["complete"], added["reason"] = new["complete"] & (added["flaws"] == 0), new["reason"]
        new["arrival"] = old["arrival"]
        added["pending"] = new["pending"] = old["pending"] & new["pending"]  # a published bar does not wait again
        ticks = (new["kind"] == FROM_TICKS) & add
        both[pairs + 1] = np.where(ticks, added, new)
        keep = np.ones(len(both), dtype=np.bool_)
        keep[pairs] = False
        both = both[keep]
    return both


def _select_winners(block: Rows, ranks: Int64Array) -> None:
    """Mark the winner of each symbol in a block sorted by symbol."""
    symbols, pending = block["symbol"], block["pending"]
    if (symbols[1:] != symbols[:-1]).all():
        block["winner"] = ~pending
        return
    order = np.lexsort(
        (
            block["feed"],
            block["arrival"],
            block["kind"] == FROM_VENDOR_PARTS,
            ranks,
            ~block["complete"],
            block["withdrawn"],
            pending,
            symbols,
        )
    )
    ordered = symbols[order]
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    block["winner"] = False
    block["winner"][order[first]] = True
    block["winner"] &= ~pending


def _carry_revisions(block: Rows, before: Rows, revise_reason: int) -> Codes:
    """Copy revisions from the previous winners, set the reasons of changed bars, and return the changed symbols."""
    at = np.flatnonzero(block["winner"])
    after = block[at]
    old = np.searchsorted(before["symbol"], after["symbol"])
    known = old < len(before)
    known[known] = before["symbol"][old[known]] == after["symbol"][known]
    was, now = before[old[known]], after[known]
    same = np.ones(len(now), dtype=np.bool_)
    for name in _PUBLISHED:
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
    result: Codes = after["symbol"][changed]
    return result
