"""Finished bars: every candidate that is remembered, and which of them is published.

A block holds the candidates of one interval that begin at one time, sorted by symbol. Of the candidates of a symbol the
winner is published: one with prints beats one that lost them all, complete beats incomplete, then the order of sources,
then what somebody gave beats what was rolled up from vendors' finer bars, then first come. A winner that lost all its
prints is published as withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tickerplant.aggregation.grouping import merge_ticks
from tickerplant.aggregation.ranking import Ranking
from tickerplant.aggregation.rows import (
    FROM_PARTS,
    FROM_TICKS,
    FROM_VENDOR,
    FROM_VENDOR_PARTS,
    ROW,
    VALUES,
    Rows,
    emptied,
    join,
    take,
)
from tickerplant.core.times import BoolArray, Int64Array

REASONS = ("ticks", "parts", "late", "source", "down", "auction", "cancel", "correction", "rebuild")
"""Why a bar was published, as far as the engine says it; vendors' reasons are numbered after these."""
TICKS, PARTS, LATE, SOURCE, DOWN, AUCTION, CANCEL, CORRECTION, REBUILD = range(9)

SAID = ("open", "high", "low", "close", "volume")
"""What two sources may say otherwise of a bar."""
_SEEN = (*VALUES, "trades", "source", "complete", "history", "gone")
_IDENTITY = ("kind", "feed")


class Finished:
    """The finished bars of one interval, by start, and which of them this step has changed."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.blocks: dict[int, Rows] = {}
        self.changed: dict[int, list[npt.NDArray[np.int32]]] = {}
        self._fresh: dict[int, list[npt.NDArray[np.int32]]] = {}
        self._joined: dict[int, list[npt.NDArray[np.int32]]] = {}

    def merge(self, rows: Rows, ranking: Ranking, revise_reason: int, *, add: bool = True) -> None:
        """Take candidates: rows sorted by start, one for each (start, symbol, candidate).

        A bar from ticks is added to that of its feed if there is one, unless `add` is off; others replace their like.
        `revise_reason` is for bars that were published before and keep their source.
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
                _choose(block, ranking.places(block, self.interval))
                changed = block["symbol"][block["winner"]]
            elif end - begin == 1 and (at := _place_of_new(block, rows["symbol"][begin])) is not None:
                # A file sorted by symbol brings nothing else: 20 µs, not 60.
                block = join((block[:at], rows[begin:end], block[at:]))
                block["revision"][at], block["winner"][at] = -1, ~block["held"][at]
                changed = block["symbol"][at : at + 1][block["winner"][at : at + 1]]
            else:
                before = block[block["winner"]]
                block = _merged(block, rows[begin:end], add=add)
                _choose(block, ranking.places(block, self.interval))
                changed = _compare(block, before, revise_reason)
                self._joined.setdefault(start, []).append(rows["symbol"][begin:end])
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

    def reconsider(
        self,
        start: int,
        ranking: Ranking,
        reason: int,
        *,
        complete: BoolArray | None = None,
        held: BoolArray | None = None,
    ) -> None:
        """Set anew which of a block's rows are complete, or wait, and choose again."""
        block = self.blocks[start]
        before = block[block["winner"]]
        if complete is not None:
            block["complete"] = complete
        if held is not None:
            block["held"] = held
        _choose(block, ranking.places(block, self.interval))
        self._note(start, _compare(block, before, reason))

    def replace(
        self, symbols: npt.NDArray[np.int32], starts: set[int], others: Finished, ranking: Ranking, reason: int
    ) -> None:
        """Take the candidates that `others` has of these symbols at these starts in the place of ours.

        Each bar counts as changed, and what was published and has no candidate left is withdrawn.
        """
        for start in sorted(starts):
            block = self.blocks.get(start, np.zeros(0, dtype=ROW))
            given = others.blocks.get(start, np.zeros(0, dtype=ROW))
            mine = np.isin(block["symbol"], symbols)
            fresh = take(given, np.isin(given["symbol"], symbols))
            fresh["revision"], fresh["held"] = -1, False
            before = take(block, mine & block["winner"])
            gone = emptied(take(before, ~np.isin(before["symbol"], fresh["symbol"])))
            block = join((take(block, ~mine), fresh, gone))
            if not len(block):
                continue
            block = take(block, np.argsort(_identities(block), kind="stable"))
            _choose(block, ranking.places(block, self.interval))
            _compare(block, before, reason)
            ours = np.isin(block["symbol"], symbols)
            if not ours.any():
                continue
            # A vendor's bar keeps the reason that it was fetched for: by it the store knows whose it is.
            block["reason"][block["winner"] & ours & (block["kind"] != FROM_VENDOR)] = reason
            self.blocks[start] = block
            self.changed.setdefault(start, []).append(np.unique(block["symbol"][ours]))

    def of_feed(self, start: int, symbols: npt.NDArray[np.int32], feed: int) -> Rows:
        """Return copies of the bars that a feed's ticks gave these symbols, sorted by symbol."""
        block = self.blocks.get(start)
        if block is None:
            return np.zeros(0, dtype=ROW)
        ours = (block["kind"] == FROM_TICKS) & (block["feed"] == feed)
        return take(block, ours & np.isin(block["symbol"], symbols))

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

    def differing(self) -> list[tuple[Rows, Rows]]:
        """Return what another source gives otherwise of the bars that this step brought more of: published and other.

        Both are complete and have a price; of one source, its official bar and the one built from its prints count as
        two.
        """
        result = []
        for start in sorted(self._joined):
            block, joined = self.blocks[start], np.concatenate(self._joined[start])
            symbols = block["symbol"]
            if (symbols[1:] != symbols[:-1]).all():
                continue
            able = block["complete"] & ~block["gone"] & np.isfinite(block["close"])
            mine = np.flatnonzero(block["winner"] & able & np.isin(symbols, joined))
            others = np.flatnonzero(~block["winner"] & able)
            place = np.searchsorted(symbols[mine], symbols[others])
            known = place < len(mine)
            known[known] = symbols[mine[place[known]]] == symbols[others[known]]
            one, other = take(block, mine[place[known]]), take(block, others[known])
            official = (one["kind"] == FROM_VENDOR) | (one["kind"] == FROM_VENDOR_PARTS)
            by_others = (other["kind"] == FROM_VENDOR) | (other["kind"] == FROM_VENDOR_PARTS)
            unlike = (one["source"] != other["source"]) | (official != by_others)
            unlike &= np.logical_or.reduce([one[name] != other[name] for name in SAID])
            if unlike.any():
                result.append((take(one, unlike), take(other, unlike)))
        self._joined.clear()
        return result

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


def _place_of_new(block: Rows, symbol: int) -> int | None:
    """Return where in a block sorted by symbol the rows of a symbol begin that it does not have, or None if it has."""
    symbols = block["symbol"]
    at = int(np.searchsorted(symbols, symbol))
    return None if at < len(symbols) and symbols[at] == symbol else at


def _merged(block: Rows, rows: Rows, *, add: bool) -> Rows:
    """Return the block with the rows in it."""
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
        added["complete"], added["reason"] = new["complete"], new["reason"]
        new["arrival"] = old["arrival"]
        added["held"] = new["held"] = old["held"] & new["held"]  # what was published waits no more
        ticks = (new["kind"] == FROM_TICKS) & add
        both[pairs + 1] = np.where(ticks, added, new)
        keep = np.ones(len(both), dtype=np.bool_)
        keep[pairs] = False
        both = both[keep]
    return both


def _choose(block: Rows, places: Int64Array) -> None:
    """Mark the winner of each symbol in a block sorted by symbol; what is held wins nothing."""
    symbols, held = block["symbol"], block["held"]
    if (symbols[1:] != symbols[:-1]).all():
        block["winner"] = ~held
        return
    order = np.lexsort(
        (
            block["feed"],
            block["arrival"],
            block["kind"] == FROM_VENDOR_PARTS,
            places,
            ~block["complete"],
            block["gone"],
            held,
            symbols,
        )
    )
    ordered = symbols[order]
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    block["winner"] = False
    block["winner"][order[first]] = True
    block["winner"] &= ~held


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
