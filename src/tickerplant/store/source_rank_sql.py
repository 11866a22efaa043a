"""The order of sources on whole columns: the rank of each historical bar, and the arguments to compare ranks in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core.sources import BARS, TICKS, SourceOrder
from tickerplant.core.times import Int64Array
from tickerplant.store.row_selection import codes


@dataclass(frozen=True, slots=True)
class SourceRanks:
    """Ranks of some sources: ranks of their bars, and ranks of bars built from their ticks. 0 is the best rank."""

    names: tuple[str, ...]
    of_bars: tuple[int, ...]
    of_ticks: tuple[int, ...]


def scopes_of(bars: pa.Table, order: SourceOrder) -> tuple[Int64Array, list[tuple[int, ...]]]:
    """Return the index of each bar's scope, and the scopes: the entries of the order that match the bar.

    Patterns are matched once for each (symbol, interval), and not at all if all entries match every pair.
    """
    everywhere = all(entry.symbol == "*" and entry.interval == "*" for entry in order.entries)
    if everywhere or not bars.num_rows:
        return np.zeros(bars.num_rows, dtype=np.int64), [tuple(range(len(order.entries)))]
    interval = codes(bars.column("interval"))
    pairs = codes(bars.column("symbol")) * (int(interval.max()) + 1) + interval
    _, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    named = bars.select(["symbol", "interval"]).take(pa.array(first))
    numbers: dict[tuple[int, ...], int] = {}
    of_pair = [
        numbers.setdefault(order.scope(symbol, name), len(numbers))
        for symbol, name in zip(named.column("symbol").to_pylist(), named.column("interval").to_pylist(), strict=True)
    ]
    return np.array(of_pair, dtype=np.int64)[which.reshape(-1)], list(numbers)


def ranks_of_bars(bars: pa.Table, order: SourceOrder) -> Int64Array:
    """Return the rank of each row's source as a source of bars: int64[rows]; 0 is the best."""
    scope, scopes = scopes_of(bars, order)
    source = bars.column("source").cast(pa.utf8()).combine_chunks().dictionary_encode()
    names = source.dictionary.to_pylist()
    ranks = np.array([[order.rank(one, name, BARS) for name in names] for one in scopes], dtype=np.int64)
    result: Int64Array = ranks.reshape(len(scopes), len(names))[scope, codes(source)]
    return result


def groups(
    bars: pa.Table, order: SourceOrder, sources: Sequence[str]
) -> list[tuple[SourceRanks, npt.NDArray[np.bool_] | None]]:
    """Return groups of rows: the ranks of these sources, and the mask of the group's rows; None means all rows.

    Usually the result is one group: scopes that differ only in entries about other sources are merged.
    """
    names = tuple(sorted(sources))
    scope, scopes = scopes_of(bars, order)
    by_ranks: dict[SourceRanks, list[int]] = {}
    for number, one in enumerate(scopes):
        found = [[order.rank(one, name, kind) for name in names] for kind in (BARS, TICKS)]
        dense = np.unique(np.array(found, dtype=np.int64), return_inverse=True)[1].reshape(2, len(names)).tolist()
        by_ranks.setdefault(SourceRanks(names, tuple(dense[0]), tuple(dense[1])), []).append(number)
    if len(by_ranks) == 1:
        return [(ranks, None) for ranks in by_ranks]
    return [(ranks, np.isin(scope, numbers)) for ranks, numbers in by_ranks.items()]
