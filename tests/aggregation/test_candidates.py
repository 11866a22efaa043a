"""Merging candidates of many instants at once gives the same bytes as one merge per instant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregation.plant import at
from tests.support.properties import examples
from tickerplant.aggregation.candidates import DOWN, MAX_RUN_ROWS, SOURCE, CandidateBlocks
from tickerplant.aggregation.rows import (
    FROM_PARTS,
    FROM_TICKS,
    FROM_VENDOR,
    FROM_VENDOR_PARTS,
    MINUTES,
    Interner,
    Rows,
    empty_rows,
    join,
)
from tickerplant.aggregation.source_priority import SourceRanking
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.times import MINUTE_US

OPEN = at("2026-01-05T14:30")
SYMBOLS = Interner(["A", "B", "C", "D", "E"])
SOURCES = Interner(["file", "vendor", "stream"])
RANKING = SourceRanking(DEFAULT_RULES, SYMBOLS, SOURCES)
RANKING.refresh()

row = st.tuples(
    st.integers(0, 11),  # minute
    st.integers(0, 4),  # symbol
    st.sampled_from([FROM_TICKS, FROM_VENDOR, FROM_VENDOR, FROM_PARTS, FROM_VENDOR_PARTS]),
    st.integers(0, 1),  # feed
    st.integers(0, 2),  # source
    st.booleans(),  # complete
    st.sampled_from([1.0, 1.0, 2.0]),  # price
    st.sampled_from([False, False, False, True]),  # pending
)
rows = st.lists(row, min_size=1, max_size=40, unique_by=lambda r: (r[0], r[1], min(r[2], FROM_PARTS), r[3]))
action = st.one_of(
    st.tuples(st.just("merge"), rows, st.booleans()),
    st.tuples(st.just("merge"), rows, st.booleans()),
    st.tuples(st.just("complete"), st.integers(0, 11)),
    st.tuples(st.just("release"), st.integers(0, 11)),
    st.tuples(st.just("replace"), rows, st.integers(0, 4)),
    st.tuples(st.just("drain"),),
)  # fmt: skip


def rows_of(given_rows: Iterable[Any], arrival: int) -> Rows:
    """Return candidates sorted by start, then symbol; one per identity."""
    listed = sorted(
        {(r[0], r[1], min(r[2], FROM_PARTS), 0 if r[2] >= FROM_PARTS else r[3]): r for r in given_rows}.values()
    )
    made = empty_rows(len(listed))
    for place, (minute, symbol, kind, feed, source, complete, price, pending) in enumerate(listed):
        one = made[place : place + 1]
        one["start"], one["symbol"], one["kind"] = OPEN + minute * MINUTE_US, symbol, kind
        one["feed"] = one["last_feed"] = feed
        one["source"], one["complete"], one["pending"], one["arrival"] = source, complete, pending, arrival
        for name in ("open", "high", "low", "close"):
            one[name] = price
        one["open_time"] = one["close_time"] = one["start"]
    return made


def restored(candidates: CandidateBlocks) -> CandidateBlocks:
    """Return a copy with the state that a snapshot contains: the blocks alone."""
    other = CandidateBlocks(MINUTES)
    starts = sorted(candidates.blocks)
    other.load(
        starts, [len(candidates.blocks[start]) for start in starts], join([candidates.blocks[s] for s in starts])
    )
    return other


def drained(candidates: CandidateBlocks) -> tuple[bytes, bytes, bytes]:
    """Return differences, changed bars and the keys of the bars that coarser bars contain, and drain all."""
    pairs = candidates.drain_differences()
    differences = b"".join(join([pair[side] for pair in pairs]).tobytes() for side in (0, 1))
    changed = join(candidates.drain_changed())
    starts, symbols = candidates.drain_new()
    order = np.lexsort((changed["symbol"], changed["start"]))
    return differences, changed[order].tobytes(), starts.tobytes() + symbols.tobytes()


def apply(candidates: CandidateBlocks, number: int, done: Any, *, apart: bool) -> None:
    """Apply one action; merge the rows of each start separately if `apart` is True."""
    kind, *rest = done
    if kind == "merge":
        made = rows_of(rest[0], number)
        parts = [made[made["start"] == start] for start in np.unique(made["start"])] if apart else [made]
        for part in parts:
            candidates.merge(part, RANKING, SOURCE, add=rest[1])
    elif kind in ("complete", "release"):
        start = OPEN + rest[0] * MINUTE_US
        block = candidates.blocks.get(start)
        if block is not None and kind == "complete":
            candidates.reselect(start, RANKING, DOWN, complete=~block["complete"])
        elif block is not None:
            candidates.reselect(start, RANKING, SOURCE, pending=np.zeros(len(block), dtype=np.bool_))
    else:
        others = CandidateBlocks(MINUTES)
        others.merge(rows_of(rest[0], number), RANKING, SOURCE)
        chosen = np.array([rest[1], (rest[1] + 1) % 5], dtype=np.int32)
        candidates.replace(np.sort(chosen), set(others.blocks), others, RANKING, SOURCE)


@given(st.lists(action, min_size=1, max_size=12))
@examples(150)
def test_a_merge_of_many_instants_equals_a_merge_per_instant_and_a_restored_state(actions: list[Any]) -> None:
    together, apart, fresh = (CandidateBlocks(MINUTES) for _ in range(3))
    for number, done in enumerate([*actions, ("drain",)]):
        if done[0] == "drain":
            fresh_output = drained(fresh)
            assert drained(together) == drained(apart) == fresh_output
            fresh = restored(fresh)
            assert sorted(together.blocks) == sorted(apart.blocks) == sorted(fresh.blocks)
            for start, block in together.blocks.items():
                assert block.tobytes() == apart.blocks[start].tobytes() == fresh.blocks[start].tobytes()
        else:
            apply(together, number, done, apart=False)
            apply(apart, number, done, apart=True)
            apply(fresh, number, done, apart=number % 2 == 0)


def test_rows_of_a_file_sorted_by_symbol_are_in_their_blocks_after_any_number_of_merges() -> None:
    minutes, symbols = MAX_RUN_ROWS // 3, 5
    candidates = CandidateBlocks(MINUTES)
    for symbol in range(symbols):
        made = empty_rows(minutes)
        made["start"] = OPEN + np.arange(minutes) * MINUTE_US
        made["symbol"], made["kind"], made["close"] = symbol, FROM_VENDOR, symbol + 1.0
        candidates.merge(made, RANKING, SOURCE)
        [changed] = candidates.drain_changed()
        assert len(changed) == minutes
        assert (changed["revision"] == 0).all()
    assert len(candidates.blocks) == minutes
    assert all(block["close"].tolist() == [1, 2, 3, 4, 5] for block in candidates.blocks.values())
    starts, _ = candidates.remove(sorted(candidates.blocks)[:-1])
    assert len(starts) == symbols * (minutes - 1)
    [(start, left)] = candidates.blocks.items()
    assert start == OPEN + (minutes - 1) * MINUTE_US
    assert left.base is None  # the block does not keep the memory of the removed blocks
