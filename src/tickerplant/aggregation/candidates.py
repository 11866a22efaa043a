"""Candidates of closed bars, and the winner of each bar: the candidate that is published.

A block contains all candidates of one interval with one start, sorted by symbol. These rules decide the winner of a
symbol, in this order:

1. A bar with trades wins over a bar whose trades were all cancelled.
2. A complete bar wins over an incomplete bar.
3. The bar with the better rank in the order of sources (`rules.sources`) wins.
4. A bar rolled up from vendors' finer bars loses to every other kind of bar.
5. The first candidate to arrive wins.
6. The candidate with the smaller feed number wins.

A winner whose trades were all cancelled is published as withdrawn. A pending candidate cannot win.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from tickerplant.aggregation.differences import find_differences
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
    bar_keys,
    distinct,
    edges_of,
    emptied,
    is_in_sorted,
    join,
    minute_keys,
    put,
    sorted_by_key,
    starts_in,
    symbols_in,
    take,
)
from tickerplant.aggregation.source_priority import SourceRanking
from tickerplant.core.times import FOREVER_US, NEVER_US, BoolArray, Int64Array

REASONS = ("ticks", "parts", "late", "source", "down", "auction", "cancel", "correction", "rebuild")
"""The engine's reasons for publishing a bar, by code. `cut` and vendors' reasons get the next codes."""
TICKS, PARTS, LATE, SOURCE, DOWN, AUCTION, CANCEL, CORRECTION, REBUILD = range(9)

MAX_RUN_ROWS: Final = 65_536
"""Maximum rows of the runs, or the number of rows in the blocks if greater. A row is thus copied only a few times."""
_PUBLISHED = (*VALUES, "trades", "source", "complete", "history", "withdrawn")


class CandidateBlocks:
    """The candidates of one interval, in blocks by start, and the bars that this step has changed.

    Rows of bars without another candidate are first appended to a list of runs. `blocks` distributes them to the blocks
    of their starts when a caller needs a block. A file sorted by symbol adds a few rows to each of thousands of blocks
    in one step. No block is needed before the file ends.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._blocks: dict[int, Rows] = {}
        self._settled_rows = 0
        self._runs: list[tuple[Int64Array, Rows]] = []
        """Rows that are not in `_blocks`, with their sorted keys. No other row has one of these keys."""
        self._stale: set[int] = set()
        """Starts of blocks whose winners were perhaps selected under other rules."""
        self._oldest = np.empty(0, dtype=np.int64)
        self._newest = np.empty(0, dtype=np.int64)
        """Bounds of the starts of each symbol's candidates, both inclusive. The bounds may be wider than necessary."""
        self._fresh: list[Rows] = []
        """Runs that this step has added. Their winners already have the revision of this step."""
        self._changed: list[Int64Array] = []
        """Keys of the other bars that this step has changed."""
        self._new: list[Int64Array] = []
        """Keys of all bars that have changed since the last call of `drain_new`, except by `replace`."""
        self._merged: list[Int64Array] = []
        """Keys of the bars to whose candidates this step has merged a row. Some of the bars have one candidate."""

    @property
    def blocks(self) -> dict[int, Rows]:
        """Return the blocks by start. A caller may remove blocks only with `remove`."""
        if self._runs:
            self._settle()
        return self._blocks

    def load(self, starts: Sequence[int], lengths: Sequence[int], rows: Rows) -> None:
        """Add the blocks of a snapshot to an instance without rows."""
        ends = np.cumsum(np.array(lengths, dtype=np.int64)).tolist()
        for start, length, end in zip(starts, lengths, ends, strict=True):
            self._blocks[start] = rows[end - length : end].copy()
        self._settled_rows = len(rows)
        self._widen(rows)
        self.rules_changed()

    def rules_changed(self) -> None:
        """Mark all blocks as stale.

        The winners of a stale block are selected again when several rows, or another candidate of a bar, are merged
        into the block.
        """
        self._stale = set(self.blocks)

    def remove(self, starts: Iterable[int]) -> tuple[Int64Array, Codes]:
        """Remove the blocks with these starts; return start and symbol of each removed row."""
        blocks = self.blocks
        removed = [(start, blocks.pop(start)["symbol"]) for start in starts]
        if not removed:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int32)
        self._stale.difference_update(start for start, _ in removed)
        self._oldest = np.maximum(self._oldest, min(blocks, default=FOREVER_US))
        for start, block in blocks.items():  # a block must not retain the memory of removed blocks
            if block.base is not None and block.base.nbytes > block.nbytes:
                blocks[start] = block.copy()
        symbols = np.concatenate([codes for _, codes in removed])
        self._settled_rows -= len(symbols)
        return np.repeat([start for start, _ in removed], [len(codes) for _, codes in removed]), symbols

    def merge(self, rows: Rows, ranking: SourceRanking, revise_reason: int, *, add: bool = True) -> None:
        """Add candidates: one row for each (start, symbol, identity).

        A bar from ticks is added to the existing bar of its feed, or replaces it if `add` is False. Any other candidate
        replaces the existing candidate of the same identity. `revise_reason` is the reason of a published bar whose
        values change but whose kind and feed do not. A vendor's bar keeps the reason of its request.
        """
        if not len(rows):
            return
        keys = bar_keys(rows)
        if len(rows) > 1 and (keys[1:] < keys[:-1]).any():
            order = np.argsort(keys, kind="stable")
            rows, keys = take(rows, order), keys[order]
        fresh = self._has_no_candidate(rows, keys)
        reselected = self._stale_starts(rows, fresh) if self._stale else np.empty(0, dtype=np.int64)
        if len(reselected):
            fresh &= ~is_in_sorted(rows["start"], reselected)
        if fresh.all():
            self._insert(rows.copy(), keys)
            return
        self._merge_existing(take(rows, ~fresh), keys[~fresh], reselected, ranking, revise_reason, add=add)
        if fresh.any():
            self._insert(take(rows, fresh), keys[fresh])

    def _has_no_candidate(self, rows: Rows, keys: Int64Array) -> BoolArray:
        """Return a mask of the rows whose bar has no other candidate, neither in these rows nor in the blocks."""
        starts, symbols = rows["start"], rows["symbol"]
        self._fit(int(symbols.max()) + 1)
        fresh: BoolArray = (starts < self._oldest[symbols]) | (starts > self._newest[symbols])
        if not fresh.all():
            rest = np.flatnonzero(~fresh)
            fresh[rest] = ~self._contains(keys[rest])
        if len(keys) > 1 and (again := keys[1:] == keys[:-1]).any():
            fresh[1:][again] = fresh[:-1][again] = False
        return fresh

    def _stale_starts(self, rows: Rows, fresh: BoolArray) -> Int64Array:
        """Return the sorted starts of stale blocks whose winners must be selected again, and mark them current."""
        begins = edges_of(rows["start"])
        several = np.diff(np.append(begins, len(rows))) > 1
        several |= ~np.logical_and.reduceat(fresh, begins)
        found = self._stale.intersection(rows["start"][begins][several].tolist())
        self._stale -= found
        return np.array(sorted(found), dtype=np.int64)

    def _contains(self, keys: Int64Array) -> BoolArray:
        """Return a mask of the sorted keys that have a candidate."""
        found: BoolArray = np.zeros(len(keys), dtype=np.bool_)
        for run, _ in self._runs:
            found |= is_in_sorted(keys, run)
        blocks = [block for start in distinct(starts_in(keys)) if (block := self._blocks.get(start)) is not None]
        if blocks:
            starts = np.repeat([block["start"][0] for block in blocks], [len(block) for block in blocks])
            found |= is_in_sorted(keys, minute_keys(starts, np.concatenate([block["symbol"] for block in blocks])))
        return found

    def _insert(self, rows: Rows, keys: Int64Array) -> None:
        """Add rows of bars without another candidate. `rows` becomes part of this instance."""
        winner = ~rows["pending"]
        rows["winner"] = winner
        rows["revision"] = np.where(winner, 0, -1)
        self._runs.append((keys, rows))
        self._fresh.append(rows)
        won = keys if winner.all() else keys[winner]
        if len(won):
            self._new.append(won)
        self._widen(rows)
        if sum(len(run) for run, _ in self._runs) > max(MAX_RUN_ROWS, self._settled_rows):
            self._settle()

    def _fit(self, symbols: int) -> None:
        more = symbols - len(self._oldest)
        if more > 0:
            self._oldest = np.concatenate((self._oldest, np.full(more, FOREVER_US, dtype=np.int64)))
            self._newest = np.concatenate((self._newest, np.full(more, NEVER_US, dtype=np.int64)))

    def _widen(self, rows: Rows) -> None:
        """Extend the bounds of the symbols by these rows, which are sorted by start."""
        if not len(rows):
            return
        starts, symbols = rows["start"], rows["symbol"]
        self._fit(int(symbols.max()) + 1)
        # If an index occurs twice, NumPy assigns the last value.
        self._newest[symbols] = np.maximum(self._newest[symbols], starts)
        starts, symbols = starts[::-1], symbols[::-1]
        self._oldest[symbols] = np.minimum(self._oldest[symbols], starts)

    def _settle(self) -> None:
        """Move the rows of the runs to the blocks of their starts."""
        runs, self._runs = self._runs, []
        keys, rows = runs[0]
        if len(runs) > 1:
            keys, rows = sorted_by_key(np.concatenate([run for run, _ in runs]), join([part for _, part in runs]))
        self._settled_rows += len(rows)
        known = [block for start in distinct(rows["start"]) if (block := self._blocks.get(start)) is not None]
        if known:
            present = join(known)
            keys, rows = sorted_by_key(np.concatenate((bar_keys(present), keys)), join((present, rows)))
        self._store(rows)

    def _store(self, rows: Rows) -> None:
        """Replace the blocks of these starts. `rows`: all candidates of the starts, sorted by start and identity."""
        starts = rows["start"]
        begins = edges_of(starts)
        ends = np.append(begins[1:], len(rows))
        for start, begin, end in zip(starts[begins].tolist(), begins.tolist(), ends.tolist(), strict=True):
            self._blocks[start] = rows[begin:end]

    def _restart_fresh(self) -> None:
        """Reset the revisions that `_insert` has set in this step, because a bar may change again in this step."""
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        blocks = self.blocks
        for run in fresh:
            keys = bar_keys(run)[run["winner"]]
            self._changed.append(keys)
            for start in distinct(starts_in(keys)):
                block = blocks[start]
                block["revision"][is_in_sorted(bar_keys(block), keys)] = -1

    def _merge_existing(
        self,
        rows: Rows,
        keys: Int64Array,
        reselected: Int64Array,
        ranking: SourceRanking,
        revise_reason: int,
        *,
        add: bool,
    ) -> None:
        """Merge candidates of bars that have other candidates. Rows and keys are sorted.

        All winners of the blocks with the starts `reselected` are selected again.
        """
        self._restart_fresh()
        blocks = self.blocks
        present = join([block for start in distinct(rows["start"]) if (block := blocks.get(start)) is not None])
        touched = is_in_sorted(bar_keys(present), keys) | is_in_sorted(present["start"], reselected)
        old = take(present, touched)
        merged = _merge_rows(old, rows, add=add)
        _select_winners(merged, ranking.ranks(merged, self.interval))
        changed = _carry_revisions(merged, old[old["winner"]], revise_reason)
        if len(merged) == len(old):  # each row replaces a candidate
            put(present, touched, merged)
        else:
            kept = take(present, ~touched)
            _, present = sorted_by_key(np.concatenate((bar_keys(kept), bar_keys(merged))), join((kept, merged)))
        self._settled_rows += len(merged) - len(old)
        self._store(present)
        self._widen(rows)
        self._merged.append(keys)
        self._mark_changed(changed)

    def _mark_changed(self, keys: Int64Array) -> None:
        if len(keys):
            self._changed.append(keys)
            self._new.append(keys)

    def drain_new(self) -> tuple[Int64Array, Codes]:
        """Return starts and symbols of the bars changed since the last call: the input of coarser bars.

        The bars are sorted by start, then symbol. Bars changed by `replace` are not among them.
        """
        keys = np.unique(np.concatenate(self._new)) if self._new else np.empty(0, dtype=np.int64)
        self._new.clear()
        return starts_in(keys), symbols_in(keys)

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
        self._restart_fresh()
        block = self.blocks[start]
        before = block[block["winner"]]
        if complete is not None:
            block["complete"] = complete
        if pending is not None:
            block["pending"] = pending
        _select_winners(block, ranking.ranks(block, self.interval))
        self._mark_changed(_carry_revisions(block, before, reason))

    def replace(
        self, symbols: Codes, starts: set[int], others: CandidateBlocks, ranking: SourceRanking, reason: int
    ) -> None:
        """Replace the candidates of these symbols at these starts with those of `others`.

        Each such bar counts as changed. A published bar without a candidate left is withdrawn.
        """
        self._restart_fresh()
        blocks = self.blocks
        for start in sorted(starts):
            block = blocks.get(start, np.zeros(0, dtype=ROW))
            given = others.blocks.get(start, np.zeros(0, dtype=ROW))
            mine = np.isin(block["symbol"], symbols)
            fresh = take(given, np.isin(given["symbol"], symbols))
            fresh["revision"], fresh["pending"] = -1, False
            before = take(block, mine & block["winner"])
            withdrawn = emptied(take(before, ~np.isin(before["symbol"], fresh["symbol"])))
            former = len(block)
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
            blocks[start] = block
            self._settled_rows += len(block) - former
            self._widen(block)
            self._changed.append(np.unique(bar_keys(block)[ours]))

    def of_feed(self, start: int, symbols: Codes, feed: int) -> Rows:
        """Return copies of the candidates with this start that are built from one feed's ticks, sorted by symbol."""
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

    def has_rollup(self, starts: Int64Array, symbols: Codes) -> BoolArray:
        """Return a mask of the bars (start, symbol) that have a rolled-up candidate. The starts are sorted."""
        found: BoolArray = np.zeros(len(starts), dtype=np.bool_)
        known = symbols < len(self._oldest)
        bounded = symbols[known]
        known[known] = (self._oldest[bounded] <= starts[known]) & (starts[known] <= self._newest[bounded])
        if known.any():
            parts = self.gather(distinct(starts[known]))
            rolled = bar_keys(parts)[parts["kind"] >= FROM_PARTS]
            found[known] = is_in_sorted(minute_keys(starts[known], symbols[known]), rolled)
        return found

    def gather(self, starts: Iterable[int]) -> Rows:
        """Return the candidates of the blocks with these starts, in the order of `starts`."""
        blocks = self.blocks
        return join([block for start in starts if (block := blocks.get(start)) is not None])

    def drain_differences(self) -> list[tuple[Rows, Rows]]:
        """Return a list of one pair of arrays of equal length: published bars, and differing bars of other sources.

        [] if no bars differ. The arrays contain only bars into which this step has merged a candidate. Both bars are
        complete and have a price. A source's own bar and the bar from its ticks count as bars of two sources.
        """
        if not self._merged:
            return []
        keys = np.unique(np.concatenate(self._merged))
        self._merged.clear()
        rows = self.gather(distinct(starts_in(keys)))
        return find_differences(take(rows, is_in_sorted(bar_keys(rows), keys)))

    def drain_changed(self) -> list[Rows]:
        """Increment the revision of each bar that this step has changed; return copies of these bars.

        Each array is sorted by start, then symbol.
        """
        result = [take(run, run["winner"]) for run in self._fresh if run["winner"].any()]
        self._fresh.clear()
        if self._changed:
            keys = np.unique(np.concatenate(self._changed))
            self._changed.clear()
            starts = distinct(starts_in(keys))
            rows = self.blocks[starts[0]] if len(starts) == 1 else self.gather(starts)
            mask = rows["winner"] & is_in_sorted(bar_keys(rows), keys)
            rows["revision"][mask] += 1
            if len(starts) > 1:
                self._store(rows)
            result.append(take(rows, mask))
        return result


def _identities(rows: Rows) -> Int64Array:
    """Return the sort key of each candidate's identity: symbol, kind, feed. Roll-ups of a symbol share one identity."""
    kind = rows["kind"].astype(np.int64)
    rolled = kind >= FROM_PARTS
    feed = np.where(rolled, 0, rows["feed"]).astype(np.int64)
    kind = np.where(rolled, FROM_PARTS, kind)
    result: Int64Array = rows["symbol"].astype(np.int64) << 33 | kind << 31 | feed
    return result


def _merge_rows(old: Rows, rows: Rows, *, add: bool) -> Rows:
    """Return the candidates `old` with the rows merged into them, sorted by start and identity."""
    rows = rows.copy()
    rows["revision"] = -1
    both = join((old, rows))
    keys = _identities(both)
    order = np.lexsort((keys, both["start"]))
    both, keys = both[order], keys[order]
    pairs = np.flatnonzero((keys[1:] == keys[:-1]) & (both["start"][1:] == both["start"][:-1]))
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


def _select_winners(rows: Rows, ranks: Int64Array) -> None:
    """Mark the winner of each bar. `rows`: all candidates of some bars, sorted by start, then symbol."""
    keys, pending = bar_keys(rows), rows["pending"]
    if (keys[1:] != keys[:-1]).all():
        rows["winner"] = ~pending
        return
    order = np.lexsort(
        (
            rows["feed"],
            rows["arrival"],
            rows["kind"] == FROM_VENDOR_PARTS,
            ranks,
            ~rows["complete"],
            rows["withdrawn"],
            pending,
            keys,
        )
    )
    ordered = keys[order]
    first = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    rows["winner"] = False
    rows["winner"][order[first]] = True
    rows["winner"] &= ~pending


def _carry_revisions(rows: Rows, before: Rows, revise_reason: int) -> Int64Array:
    """Copy revisions from the previous winners, set the reasons of changed bars, and return the keys of these bars."""
    at = np.flatnonzero(rows["winner"])
    after = rows[at]
    keys, former = bar_keys(after), bar_keys(before)
    old = np.searchsorted(former, keys)
    known = old < len(before)
    known[known] = former[old[known]] == keys[known]
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
    rows[at] = after
    changed = np.ones(len(after), dtype=np.bool_)
    changed[known] = ~same
    return keys[changed]
