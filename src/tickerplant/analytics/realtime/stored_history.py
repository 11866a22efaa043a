"""The interface to stored bars, and the overlay of newer log records on them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.analytics.realtime.series import Series
from tickerplant.analytics.splits import Split
from tickerplant.core import records, schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import UnreadableRecord

CLOSED: Final = pa.array([schemas.FINAL, schemas.WITHDRAWN])


class HistorySession(Protocol):
    """One consistent read of a partition's stored bars: the result of its log up to `position`, exclusive."""

    position: int

    def series(self) -> list[Series]:
        """Return the series of the partition that have stored bars."""
        ...

    def bars(self, series: Series) -> pa.RecordBatch:
        """Return a series' final bars that have prices, in order of time.

        The columns are those of `schemas.BARS` that indicators need. The whole series is in memory: 60 bytes per
        bar, 60 MB for a million bars.
        """
        ...

    def splits(self) -> list[Split]:
        """Return the newest split of each (symbol, session)."""
        ...


class HistoryStore(Protocol):
    """The stored bars of one partition."""

    def session(self) -> AbstractContextManager[HistorySession]:
        """Open a consistent read. Entering it, and each call inside, raises StoreError if the store is unavailable."""
        ...


def newer_bars(values: Iterable[object], wanted: Iterable[Series]) -> dict[Series, list[pa.RecordBatch]]:
    """Return the closed bars of the wanted series in these encoded records, by series, in the records' order."""
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


def overlay(stored: pa.RecordBatch, newer: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return a series' final bars in order of time: the stored bars, replaced by newer bars of the same time.

    A stored bar is omitted if the newer bar of its time is withdrawn.
    """
    if not newer:
        return stored
    # The store's columns are nullable, the log's are not.
    parts = [pa.Table.from_batches([part.select(stored.schema.names).cast(stored.schema)]) for part in (stored, *newer)]
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    times = times_of(table.column("time"))
    order = np.argsort(times, kind="stable")
    newest = np.append(times[order][1:] != times[order][:-1], True)
    table = table.take(pa.array(order[newest]))
    table = table.filter(pc.equal(table.column("state").cast(pa.utf8()), schemas.FINAL)).combine_chunks()
    return table.to_batches()[0] if table.num_rows else stored.slice(0, 0)
