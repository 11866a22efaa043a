"""Stored bars, as the stage wants them, and how what the log has behind them is laid over them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.realtime.recompute_queue import Series
from tickerplant.analytics.realtime.splits import Split
from tickerplant.core import records, schemas
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.times import times_of

CLOSED: Final = pa.array([schemas.FINAL, schemas.WITHDRAWN])


class Look(Protocol):
    """One consistent look at the store: all of it is the log up to `position`, exclusive, of the partition's bars."""

    position: int

    def series(self) -> list[Series]:
        """Return the series of the partition that have bars."""
        ...

    def bars(self, series: Series) -> pa.RecordBatch:
        """Return the final bars that have prices, in order of time, as `schemas.BARS` has them (needed columns alone).

        All of a series: 60 bytes a bar, so a million of them are 60 MB.
        """
        ...

    def splits(self) -> list[Split]:
        """Return the newest split of each (symbol, session)."""
        ...


class StoredBars(Protocol):
    """The store. Each look raises StoreError where it is out of reach."""

    def look(self) -> AbstractContextManager[Look]:
        """Return one consistent look."""
        ...


def behind(values: Iterable[object], wanted: Iterable[Series]) -> dict[Series, list[pa.RecordBatch]]:
    """Return the closed bars that these records (bytes, in order) have of the wanted series."""
    names = set(wanted)
    symbols = pa.array(sorted({series.symbol for series in names}), pa.utf8())
    found: dict[Series, list[pa.RecordBatch]] = {}
    for value in values:
        try:
            record = records.decode(value)
        except UnreadableRecord:
            continue
        if not isinstance(record.header, records.Bars):
            continue
        batch = record.batch.replace_schema_metadata(None)
        text = {name: batch.column(name).cast(pa.utf8()) for name in ("symbol", "interval", "state")}
        mask = pc.and_(pc.is_in(text["symbol"], symbols), pc.is_in(text["state"], CLOSED))
        if not pc.any(mask).as_py():
            continue
        for series in names:
            own = pc.and_(
                mask, pc.and_(pc.equal(text["symbol"], series.symbol), pc.equal(text["interval"], series.interval))
            )
            if pc.any(own).as_py():
                found.setdefault(series, []).append(batch.filter(own))
    return found


def laid_over(stored: pa.RecordBatch, later: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return a series' final bars in order of time: the stored ones, and in their place what came later."""
    if not later:
        return stored
    # The store's columns may be null where the log's may not.
    parts = [pa.Table.from_batches([part.select(stored.schema.names).cast(stored.schema)]) for part in (stored, *later)]
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    times = times_of(table.column("time"))
    order = np.argsort(times, kind="stable")
    newest = np.append(times[order][1:] != times[order][:-1], True)
    table = table.take(pa.array(order[newest]))
    table = table.filter(pc.equal(table.column("state").cast(pa.utf8()), schemas.FINAL)).combine_chunks()
    return table.to_batches()[0] if table.num_rows else stored.slice(0, 0)
