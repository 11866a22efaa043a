"""Selection of the valid row among several rows of one key, on whole columns, before writing."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.interval import INTERVALS
from tickerplant.core.times import Int64Array

KEY: Final = ("symbol", "interval", "time")
OLDER: Final = "(t.version < s.version OR (t.version = s.version AND t.state = 'forming'))"
"""SQL condition: withdrawn row `s` deletes stored row `t` of the same key. A closed row wins among equal versions."""
DAILY: Final = pa.array([interval.name for interval in INTERVALS if not interval.is_intraday])
_CLOSED: Final = pa.array([schemas.FINAL, schemas.WITHDRAWN])


def codes(column: Any) -> Int64Array:
    """Return a code for each row of a text column (Array or ChunkedArray), equal for equal texts: int64[rows]."""
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], pa.dictionary(pa.int32(), pa.utf8()))
    result: Int64Array = column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return result


def is_closed(table: pa.Table) -> Any:
    """Return a mask of the rows that are final or withdrawn."""
    return pc.is_in(table.column("state").cast(pa.utf8()), _CLOSED)


def filter_rows(table: pa.Table, mask: Any) -> pa.Table:
    """Return the rows where an Arrow mask is true. The usual cases, all rows or none, need no copy."""
    count = pc.sum(mask).as_py() or 0
    if count == table.num_rows:
        return table
    return table.filter(mask) if count else table.slice(0, 0)


def is_daily(table: pa.Table) -> Any:
    """Return a mask of the rows with a daily interval."""
    return pc.is_in(table.column("interval").cast(pa.utf8()), DAILY)


def newest_by_key(table: pa.Table, *ranks: npt.NDArray[Any]) -> pa.Table:
    """Return the row of the highest rank, then of the newest version, for each (symbol, interval, time).

    `ranks` take precedence over the version, most important first. Among equal versions a closed state wins, then the
    later row. The result has the order of `table`.
    """
    if table.num_rows < 2:
        return table
    times, symbols, intervals = (
        times_of(table.column("time")),
        codes(table.column("symbol")),
        codes(table.column("interval")),
    )
    versions = table.column("version").to_numpy()
    closed = is_closed(table).to_numpy()
    order = np.lexsort((closed, versions, *reversed(ranks), times, intervals, symbols))
    here, after = order[:-1], order[1:]
    last = np.ones(len(order), dtype=np.bool_)
    last[:-1] = (
        (symbols[here] != symbols[after]) | (intervals[here] != intervals[after]) | (times[here] != times[after])
    )
    if last.all():
        return table
    return table.take(pa.array(np.sort(order[last])))


def groups_by_key(first: pa.Table, second: pa.Table) -> tuple[Int64Array, Int64Array]:
    """Return a group number for each row of both tables, equal for equal keys (`KEY`)."""
    both = [
        pa.chunked_array([*_plain(first, name).chunks, *_plain(second, name).chunks]) for name in ("symbol", "interval")
    ]
    times = np.concatenate([times_of(first.column("time")), times_of(second.column("time"))])
    key = np.stack([codes(both[0]), codes(both[1]), times], axis=1)
    _, which = np.unique(key, axis=0, return_inverse=True)
    which = which.reshape(-1).astype(np.int64)
    return which[: first.num_rows], which[first.num_rows :]


def not_newer(table: pa.Table, others: pa.Table) -> npt.NDArray[np.bool_]:
    """Return a mask of the rows of `table` whose key `others` contains with an equal or newer version."""
    if not table.num_rows or not others.num_rows:
        return np.zeros(table.num_rows, dtype=np.bool_)
    mine, theirs = groups_by_key(table, others)
    newest = np.full(int(max(mine.max(), theirs.max())) + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest, theirs, others.column("version").to_numpy())
    result: npt.NDArray[np.bool_] = newest[mine] >= table.column("version").to_numpy()
    return result


def _plain(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table.column(name).cast(pa.utf8())
