"""Differences between sources: published bars, and differing bars of other sources."""

from __future__ import annotations

from typing import Final

import numpy as np

from tickerplant.aggregation.rows import FROM_VENDOR, FROM_VENDOR_PARTS, Rows, bar_keys, take
from tickerplant.core.times import BoolArray

COMPARED: Final = ("open", "high", "low", "close", "volume")
"""Columns that are compared between bars of two sources."""


def find_differences(rows: Rows) -> list[tuple[Rows, Rows]]:
    """Return a list of one pair of arrays of equal length: winners, and differing bars of other sources.

    [] if no bars differ. `rows`: all candidates of some bars, sorted by start, then symbol. Both bars of a pair are
    complete and have a price. A source's own bar and the bar from its ticks count as bars of two sources.
    """
    keys = bar_keys(rows)
    if (keys[1:] != keys[:-1]).all():
        return []
    comparable = rows["complete"] & ~rows["withdrawn"] & np.isfinite(rows["close"])
    mine = np.flatnonzero(rows["winner"] & comparable)
    others = np.flatnonzero(~rows["winner"] & comparable)
    place = np.searchsorted(keys[mine], keys[others])
    known = place < len(mine)
    known[known] = keys[mine[place[known]]] == keys[others[known]]
    one, other = take(rows, mine[place[known]]), take(rows, others[known])
    differs = (one["source"] != other["source"]) | (_of_vendor(one) != _of_vendor(other))
    differs &= np.logical_or.reduce([one[name] != other[name] for name in COMPARED])
    return [(take(one, differs), take(other, differs))] if differs.any() else []


def _of_vendor(rows: Rows) -> BoolArray:
    of_vendor: BoolArray = (rows["kind"] == FROM_VENDOR) | (rows["kind"] == FROM_VENDOR_PARTS)
    return of_vendor
