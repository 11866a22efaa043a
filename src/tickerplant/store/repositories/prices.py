"""`realtime_prices`: ticks as received from feeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.store.copy_protocol import copy, plain
from tickerplant.store.partitions import ensure_partitions, record_arrivals
from tickerplant.store.repositories.ranges import RowReader
from tickerplant.store.row_selection import codes, filter_rows

if TYPE_CHECKING:
    from tickerplant.store.session import Session

RELATION: Final = "realtime_prices"
DENSE_TICKS: Final = 100
"""Minimum ticks of a symbol in a transaction for which COPY writes compressed rows. If a symbol has one or two ticks,
its compressed row needs three times the disk space of plain rows. A read of the newest tick of all symbols then takes
30 times as long."""
ARRIVAL: Final = pa.schema(
    [pa.field("version", pa.int64(), nullable=False), pa.field("row", pa.int32(), nullable=False)]
)
"""Columns that order ticks by arrival: the version of the raw record (`core.version`), and the row within it."""


def with_arrival(ticks: pa.RecordBatch, version: int) -> pa.RecordBatch:
    """Return the ticks of one raw record with the columns `ARRIVAL`."""
    count = ticks.num_rows
    arrival: list[npt.NDArray[np.generic]] = [np.full(count, version), np.arange(count, dtype=np.int32)]
    columns = [*ticks.columns, *(pa.array(column, kind) for column, kind in zip(arrival, ARRIVAL.types, strict=True))]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*ticks.schema, *ARRIVAL]))


def sorted_ticks(table: pa.Table) -> pa.Table:
    """Return ticks sorted by (symbol, time); ticks of one instant keep their order of arrival.

    Sorted batches are indexed on (symbol, time) a sixth faster.
    """
    if table.num_rows < 2:
        return table
    table = table.unify_dictionaries()
    symbols, times = codes(table.column("symbol")), times_of(table.column("time"))
    before, after = symbols[:-1], symbols[1:]
    if bool(np.all((before < after) | ((before == after) & (times[:-1] <= times[1:])))):
        return table
    # A stable sort of small integers is a radix sort, and the times of a symbol mostly ascend.
    order = np.argsort(symbols.astype(np.min_scalar_type(int(symbols.max()))), kind="stable")
    sorted_symbols, sorted_times = symbols[order], times[order]
    backwards = (sorted_symbols[1:] == sorted_symbols[:-1]) & (sorted_times[1:] < sorted_times[:-1])
    if backwards.any():
        order = np.lexsort((times, symbols))
    return table.take(pa.array(order))


def split_dense(ticks: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the ticks of symbols with at least `DENSE_TICKS` of these ticks, and the other ticks, both in order."""
    symbols = codes(ticks.column("symbol"))
    dense = np.bincount(symbols)[symbols] >= DENSE_TICKS
    return filter_rows(ticks, pa.array(dense)), filter_rows(ticks, pa.array(~dense))


class Prices:
    """Ticks, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rows = RowReader(session, RELATION, schemas.TICKS, arrival=tuple(ARRIVAL.names))

    async def prepare(self, ticks: pa.Table) -> None:
        """Create missing partitions for these ticks, before the transaction."""
        await ensure_partitions(self._session, RELATION, times_of(ticks.column("time")))

    async def append(self, ticks: pa.Table, partition: int) -> None:
        """Copy ticks of one log partition, preferably sorted, inside a transaction.

        The columns are `schemas.TICKS` and `ARRIVAL`. Ticks of equal times without `ARRIVAL` have no defined order on
        TimescaleDB.
        """
        if self._session.direct_compress:
            dense, ticks_left = split_dense(ticks)
            if dense.num_rows:
                await self._session.script("SET LOCAL timescaledb.enable_direct_compress_copy = on")
                await copy(self._session, RELATION, plain(dense))
                await self._session.script("SET LOCAL timescaledb.enable_direct_compress_copy = off")
            await copy(self._session, RELATION, plain(ticks_left))
        else:
            await copy(self._session, RELATION, plain(ticks))
        await record_arrivals(self._session, RELATION, partition, times_of(ticks.column("time")))

    async def read(
        self,
        symbol: str,
        start_us: int | None = None,
        end_us: int | None = None,
        limit: int | None = None,
        *,
        newest_first: bool = False,
    ) -> pa.Table:
        """Return a symbol's ticks as `schemas.TICKS`; `RowReader.read_range` defines bounds and limit."""
        keys = [("symbol", symbol)]
        return await self._rows.read_range(keys, start_us, end_us, limit, newest_first=newest_first)

    async def newest_of_each(self, symbols: Sequence[str], *, limit: int, before_us: int | None = None) -> pa.Table:
        """Return the newest `limit` ticks of each symbol, sorted by (symbol, time) and arrival.

        Ticks at or after `before_us` are left out; None leaves out no tick.
        """
        return await self._rows.read_newest_of_each(symbols, None, before_us, limit)
