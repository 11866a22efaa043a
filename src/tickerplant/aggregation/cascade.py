"""Coarser bars from the parts that were published."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tickerplant.aggregation.feed_state import Feed, covered, union
from tickerplant.aggregation.rows import FROM_PARTS, FROM_VENDOR, FROM_VENDOR_PARTS, Rows, empty_rows
from tickerplant.core.times import BoolArray, Int64Array


def roll_up(parts: Rows, starts: Int64Array, places: Int64Array, reason: int) -> Rows:
    """Return one row for each (start, symbol), sorted by them, from parts in any order.

    `starts` and `places`: of each part, where its bar begins and where it stands in the order of sources. Volume,
    volume times price and trades add up (unknown if one part's is). A bar of several sources has the source that ranks
    last among them; one all of whose parts lost their prints has lost them too. `complete` says that all parts are;
    the silence between them is the caller's matter.
    """
    order = np.lexsort((parts["start"], parts["symbol"], starts))
    parts, starts, places = parts[order], starts[order], places[order]
    symbols = parts["symbol"]
    new = (symbols[1:] != symbols[:-1]) | (starts[1:] != starts[:-1])
    first = np.concatenate(([0], np.flatnonzero(new) + 1))
    last = np.concatenate((first[1:], [len(parts)])) - 1
    rows = empty_rows(len(first))
    rows["start"], rows["symbol"] = starts[first], symbols[first]
    rows["reason"] = reason
    _prices(rows, parts, first, last)
    rows["volume"] = np.add.reduceat(np.ascontiguousarray(parts["volume"]), first)
    rows["pv"] = np.add.reduceat(np.ascontiguousarray(parts["pv"]), first)
    trades = np.ascontiguousarray(parts["trades"])
    rows["trades"] = np.where(np.minimum.reduceat(trades, first) < 0, -1, np.add.reduceat(trades, first))
    rows["open_time"] = np.minimum.reduceat(parts["open_time"], first)
    rows["close_time"] = np.maximum.reduceat(parts["close_time"], first)
    rows["first_offset"] = np.minimum.reduceat(parts["first_offset"], first)
    rows["last_offset"] = np.maximum.reduceat(parts["last_offset"], first)
    rows["feed"] = np.minimum.reduceat(parts["feed"], first)
    rows["feed_hi"] = np.maximum.reduceat(parts["feed_hi"], first)
    source = places << 32 | parts["source"]
    rows["source"] = np.maximum.reduceat(source, first) & 0xFFFFFFFF
    rows["complete"] = np.logical_and.reduceat(parts["complete"], first)
    rows["gone"] = np.logical_and.reduceat(parts["gone"], first)
    rows["history"] = np.logical_or.reduceat(parts["history"], first)
    vendors = (parts["kind"] == FROM_VENDOR) | (parts["kind"] == FROM_VENDOR_PARTS)
    rows["kind"] = np.where(np.logical_and.reduceat(vendors, first), FROM_VENDOR_PARTS, FROM_PARTS)
    return rows


def _prices(rows: Rows, parts: Rows, first: Int64Array, last: Int64Array) -> None:
    opens, closes = first, last
    priceless = np.isnan(parts["open"])
    if priceless.any():
        count = len(parts)
        at = np.arange(count)
        opens = np.minimum(np.minimum.reduceat(np.where(priceless, count, at), first), last)
        closes = np.maximum(np.maximum.reduceat(np.where(priceless, -1, at), first), first)
    rows["open"], rows["close"] = parts["open"][opens], parts["close"][closes]
    rows["high"] = np.fmax.reduceat(np.ascontiguousarray(parts["high"]), first)
    rows["low"] = np.fmin.reduceat(np.ascontiguousarray(parts["low"]), first)


def only_parts(rows: Rows, feeds: Mapping[int, Feed], starts: Int64Array, ends: Int64Array) -> BoolArray:
    """Return which rows are rolled up from no more than a part of a vendor's bars, so that they tell nothing.

    They are not complete, and either of history, where the store knows as much or more, or of `[start, end)` of which
    their feeds have claimed nothing at all: what else there is of it, nobody here has seen.
    """
    partial: BoolArray = (rows["kind"] == FROM_VENDOR_PARTS) & ~rows["complete"]
    for at in np.flatnonzero(partial & ~rows["history"]).tolist():
        both = (feeds.get(int(rows[name][at])) for name in ("feed", "feed_hi"))
        pieces = [piece for feed in both if feed is not None for piece in feed.coverage]
        partial[at] = not any(begin < ends[at] and starts[at] < end for begin, end in pieces)
    return partial


def feeds_cover(rows: Rows, feeds: Mapping[int, Feed], starts: Int64Array, ends: Int64Array) -> BoolArray:
    """Return for each row whether its first and last feed together were up for all of `[start, end)`.

    Of more than two feeds the others are left out: a bar may then count as incomplete that is complete, never the
    other way round.
    """
    result = np.zeros(len(rows), dtype=np.bool_)
    pairs = rows["feed"].astype(np.int64) << 32 | rows["feed_hi"]
    for pair in np.unique(pairs).tolist():
        mask = pairs == pair
        one, other = feeds.get(pair >> 32), feeds.get(pair & 0xFFFFFFFF)
        pieces = union(one.coverage if one else [], other.coverage if other else [])
        result[mask] = covered(pieces, starts[mask], ends[mask])
    return result
