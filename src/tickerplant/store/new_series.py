"""COPY of rows whose keys are provably new: half the CPU time of an upsert in PostgreSQL.

A *series* is one symbol in one interval. If a series has no stored row in the range of times of its rows, then none of
these rows can conflict. One query finds such series. The transaction has advanced the position of its log partition,
which locks out other writers of the same symbols. The answer therefore remains true until the transaction ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import datetime_of
from tickerplant.store.copy_protocol import copy, plain
from tickerplant.store.row_selection import codes, filter_rows

if TYPE_CHECKING:
    from tickerplant.store.session import Session

MIN_ROWS: Final = 4
"""Minimum rows per series, on average. With one row per series, the query takes as much time as the COPY saves."""

_STORED: Final = """
    SELECT s.number - 1 FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[])
        WITH ORDINALITY AS s (symbol, "interval", first_time, last_time, number),
    LATERAL (
        SELECT FROM "{relation}" AS t
        WHERE t.symbol = s.symbol AND t."interval" = s."interval"
            AND t."time" BETWEEN s.first_time AND s.last_time AND t."time" BETWEEN $5 AND $6
        LIMIT 1
    ) AS found
"""


async def copy_new_series(session: Session, relation: str, rows: pa.Table) -> tuple[int, pa.Table]:
    """Copy the rows of new series into the table, in the open transaction; return their count and the other rows.

    The keys (symbol, interval, time) of the rows are unique. Nothing is copied if a COPY would save no time, or if the
    session must not use COPY. Nothing is copied into a hypertable, because its chunks may be compressed.
    """
    if rows.num_rows < MIN_ROWS or session.timescale or not session.copies:
        return 0, rows
    intervals = codes(rows.column("interval"))
    numbers = codes(rows.column("symbol")) * (int(intervals.max()) + 1) + intervals
    found, first, series = np.unique(numbers, return_index=True, return_inverse=True)
    if rows.num_rows < MIN_ROWS * len(found):
        return 0, rows
    times = times_of(rows.column("time"))
    least, newest = np.full(len(found), times.max()), np.full(len(found), times.min())
    np.minimum.at(least, series, times)
    np.maximum.at(newest, series, times)
    names = rows.select(["symbol", "interval"]).take(pa.array(first))
    stored = await session.rows(
        _STORED.format(relation=relation),
        names.column("symbol").cast(pa.utf8()).to_pylist(),
        names.column("interval").cast(pa.utf8()).to_pylist(),
        [datetime_of(us) for us in least.tolist()],
        [datetime_of(us) for us in newest.tolist()],
        datetime_of(int(least.min())),
        datetime_of(int(newest.max())),
    )
    known = np.zeros(len(found), dtype=np.bool_)
    known[[row[0] for row in stored]] = True
    new = pa.array(~known[series])
    copied = filter_rows(rows, new)
    await copy(session, relation, plain(copied))
    return copied.num_rows, filter_rows(rows, pc.invert(new))
