"""Engine values as batches of `Values` records.

Intervals with the same columns share a batch. Values of forming bars contain only the columns of the forming
indicators. They therefore have their own batches, after the batches of closed bars. Rows are ordered by interval, then
time, then the row number of the symbol. If an interval has a single chunk, and all its rows have one time, the rows
keep the order of the bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import numpy as np
import pyarrow as pa

from tickerplant.analytics.realtime.engine import FORMING, IntervalValues
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.times import Float64Array, Int64Array

MAX_ROWS: Final = 100_000
"""Maximum rows of a record: 13 MB with 12 columns, below the log's limit of 32 MB."""

_STATES = pa.array(schemas.STATES)


def value_batches(made: Sequence[IntervalValues], symbols: pa.Array) -> list[pa.RecordBatch]:
    """Return the batches for the values of one input record. `symbols` are the engine's symbols in row order."""
    ordered = sorted(made, key=lambda part: (_is_forming(part), part.columns))  # stable: intervals keep their order
    found = []
    for _, group in groupby(ordered, key=lambda part: (_is_forming(part), part.columns)):
        batch = _batch(list(group), symbols)
        found += [batch.slice(start, MAX_ROWS) for start in range(0, batch.num_rows, MAX_ROWS)]
    return found


def _is_forming(part: IntervalValues) -> bool:
    return part.chunks[0].state == FORMING


def _nullable(column: Float64Array) -> pa.Array:
    nulls = np.isnan(column)
    return pa.array(column, mask=nulls) if nulls.any() else pa.array(column)


def _in_order(part: IntervalValues) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array, Float64Array]:
    if len(part.chunks) == 1:
        chunk = part.chunks[0]
        if (chunk.times == chunk.times[0]).all():
            return chunk.times, chunk.symbols, chunk.versions, np.full(len(chunk.times), chunk.state), chunk.values
    times = np.concatenate([chunk.times for chunk in part.chunks])
    symbols = np.concatenate([chunk.symbols for chunk in part.chunks])
    versions = np.concatenate([chunk.versions for chunk in part.chunks])
    states = np.concatenate([np.full(len(chunk.times), chunk.state) for chunk in part.chunks])
    values = np.concatenate([chunk.values for chunk in part.chunks], axis=1)
    order = np.lexsort((symbols, times))
    return times[order], symbols[order], versions[order], states[order], values[:, order]


def _batch(parts: Sequence[IntervalValues], known: pa.Array) -> pa.RecordBatch:
    pieces = [_in_order(part) for part in parts]
    times, symbols, versions, states, values = (
        piece[0] if len(piece) == 1 else np.concatenate(piece, axis=-1) for piece in zip(*pieces, strict=True)
    )
    intervals = np.repeat(np.arange(len(parts)), [len(piece[0]) for piece in pieces])
    used = np.zeros(len(known), dtype=np.bool_)
    used[symbols] = True
    code = np.cumsum(used) - 1
    arrays = [
        timestamps(times),
        pa.DictionaryArray.from_arrays(pa.array(code[symbols].astype(np.int32)), known.filter(pa.array(used))),
        _small_text(intervals, pa.array([part.interval for part in parts])),
        _small_text(states, _STATES),
        pa.array(versions),
        *map(_nullable, values),
    ]
    columns = [pa.field(name, pa.float64()) for name in parts[0].columns]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*schemas.ANALYTICS_KEY, *columns]))


def _small_text(codes: Int64Array, words: pa.Array) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), words)
