"""Converts columns of raw records to columns of the engine.

The functions raise UnreadableRecord for an unreadable column. They drop or mask unusable rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.aggregation.grouping import TickColumns
from tickerplant.aggregation.rows import FROM_VENDOR, INTERVALS, Interner, Rows, empty_rows
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import BadInput, UnreadableRecord
from tickerplant.core.interval import parse
from tickerplant.core.schemas import TICKS
from tickerplant.core.times import FIRST_US, LAST_US, BoolArray, Int64Array

_SEPARATOR: Final = "\x1f"
_LENGTHS: Final = np.array([interval.us for interval in INTERVALS])


def check(batch: pa.RecordBatch) -> None:
    """Raise UnreadableRecord if a column that must not contain nulls contains one."""
    for declared, column in zip(batch.schema, batch.columns, strict=True):
        if column.null_count and not declared.nullable:
            raise UnreadableRecord(f"column {declared.name} has nulls")
        if isinstance(column, pa.DictionaryArray) and column.dictionary.null_count:
            raise UnreadableRecord(f"the dictionary of column {declared.name} has nulls")


def read_ticks(batch: pa.RecordBatch, symbols: Interner, sources: Interner, feed: str) -> tuple[TickColumns, int]:
    """Return the ticks of a checked TICKS batch, and the count of ticks dropped because price or size is not finite.

    `feed` is the key of the cached dictionaries. Raises UnreadableRecord for timestamps outside 1800–2260.
    """
    times = _times(batch.column(0))
    ticks = TickColumns(
        time=times,
        symbol=symbols.codes(batch.column(1), feed),
        price=batch.column(2).to_numpy(),
        size=batch.column(3).to_numpy(),
        source=sources.codes(batch.column(4), feed),
        flags=batch.column(6).to_numpy(),
        ids=_trade_ids(batch),
    )
    finite = np.isfinite(ticks.price) & np.isfinite(ticks.size)
    if finite.all():
        return ticks, 0
    return ticks.where(finite), int(np.count_nonzero(~finite))


def _trade_ids(batch: pa.RecordBatch) -> pa.Array:
    """Return the texts that identify trades of equal symbol and time: exchange (if known) and trade id.

    The text is null for a tick without a trade id.
    """
    ids = batch.column(5)
    if batch.num_columns == len(TICKS):
        return ids
    exchanges = batch.column(len(TICKS)).cast(pa.utf8())
    return pc.coalesce(pc.binary_join_element_wise(exchanges, ids, _SEPARATOR), ids)


def read_vendor_bars(
    batch: pa.RecordBatch, symbols: Interner, sources: Interner, feed: str
) -> tuple[Rows, npt.NDArray[np.int8], BoolArray]:
    """Return the rows of a checked VENDOR_BARS batch, the code of each row's interval, and a mask of usable rows.

    A usable row has an interval in `INTERVALS`, and finite prices and volume. Its time is a multiple of the interval.
    `feed` is the key of the cached dictionaries. Raises UnreadableRecord for timestamps outside 1800–2260.
    """
    times = _times(batch.column(0))
    rows = empty_rows(batch.num_rows)
    rows["start"] = times
    rows["symbol"] = symbols.codes(batch.column(1), feed)
    for name, column in (("open", 3), ("high", 4), ("low", 5), ("close", 6), ("volume", 7)):
        rows[name] = batch.column(column).to_numpy()
    rows["vwap"] = batch.column(8).to_numpy(zero_copy_only=False)
    rows["pv"] = np.where(rows["volume"] == 0, 0.0, rows["vwap"] * rows["volume"])
    rows["trades"] = batch.column(9).fill_null(-1).to_numpy()
    rows["source"] = sources.codes(batch.column(10), feed)
    rows["complete"] = batch.column(11).to_numpy(zero_copy_only=False)
    rows["kind"] = FROM_VENDOR
    rows["open_time"] = rows["close_time"] = times
    codes = _interval_codes(batch.column(2))
    usable: BoolArray = (codes >= 0) & (times % _LENGTHS[codes] == 0)
    for name in ("open", "high", "low", "close", "volume"):
        usable &= np.isfinite(rows[name])
    return rows, codes, usable


def _times(column: pa.Array) -> Int64Array:
    times = times_of(column)
    if len(times) and (times.min() < FIRST_US or times.max() > LAST_US):
        raise UnreadableRecord("times before 1800 or after 2260")
    return times


def _interval_codes(column: pa.DictionaryArray) -> npt.NDArray[np.int8]:
    """Return the code of each interval, -1 for an interval that is not in `INTERVALS`: int8[n]."""
    codes = []
    for name in column.dictionary.to_pylist():
        try:
            interval = parse(name)
        except BadInput:
            interval = None
        codes.append(INTERVALS.index(interval) if interval in INTERVALS else -1)
    result: npt.NDArray[np.int8] = np.array(codes, dtype=np.int8)[column.indices.to_numpy()]
    return result
