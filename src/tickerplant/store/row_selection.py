"""Which of several rows of one key counts: on whole columns, before they go to the database."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import schemas
from tickerplant.core.interval import INTERVALS
from tickerplant.core.times import Int64Array, times_of

KEY: Final = ("symbol", "interval", "time")
OLDER: Final = "(t.version < s.version OR (t.version = s.version AND t.state = 'forming'))"
"""Which rows `t` a withdrawn one `s` of their key deletes. Of one version a closed state counts."""
DAILY: Final = pa.array([interval.name for interval in INTERVALS if not interval.is_intraday])
_CLOSED: Final = pa.array([schemas.FINAL, schemas.WITHDRAWN])


def codes(column: Any) -> Int64Array:
    """Return equal numbers for equal texts of a column (Array or ChunkedArray, dictionary or not): int64[rows]."""
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


def chosen(table: pa.Table, mask: Any) -> pa.Table:
    """Return the rows where an Arrow mask is true. Mostly that is all of them or none, which costs nothing here."""
    count = pc.sum(mask).as_py() or 0
    if count == table.num_rows:
        return table
    return table.filter(mask) if count else table.slice(0, 0)


def is_daily(table: pa.Table) -> Any:
    """Return a mask of the rows whose interval goes by sessions."""
    return pc.is_in(table.column("interval").cast(pa.utf8()), DAILY)


def newest_by_key(table: pa.Table, *ranks: npt.NDArray[Any]) -> pa.Table:
    """Return for each (symbol, interval, time) the row of the highest rank, then newest version.

    `ranks` count before the version, most important first. Of equal versions a closed state counts, then the later row.
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
    """Return for the rows of two tables equal numbers where their keys are equal."""
    both = [
        pa.chunked_array([*_plain(first, name).chunks, *_plain(second, name).chunks]) for name in ("symbol", "interval")
    ]
    times = np.concatenate([times_of(first.column("time")), times_of(second.column("time"))])
    key = np.stack([codes(both[0]), codes(both[1]), times], axis=1)
    _, which = np.unique(key, axis=0, return_inverse=True)
    which = which.reshape(-1).astype(np.int64)
    return which[: first.num_rows], which[first.num_rows :]


def not_newer(table: pa.Table, others: pa.Table) -> npt.NDArray[np.bool_]:
    """Return for each row of `table` whether `others` has a row of its key with the same version or a newer one."""
    if not table.num_rows or not others.num_rows:
        return np.zeros(table.num_rows, dtype=np.bool_)
    mine, theirs = groups_by_key(table, others)
    newest = np.full(int(max(mine.max(), theirs.max())) + 1, np.iinfo(np.int64).min)
    np.maximum.at(newest, theirs, others.column("version").to_numpy())
    result: npt.NDArray[np.bool_] = newest[mine] >= table.column("version").to_numpy()
    return result


def _plain(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table.column(name).cast(pa.utf8())
