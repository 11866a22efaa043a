"""Converts rows of the engine to Arrow columns of published records."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.aggregation.differences import COMPARED
from tickerplant.aggregation.outcome import IntervalOver, Outcome
from tickerplant.aggregation.rows import INTERVALS, Codes, Interner, Rows, join, take
from tickerplant.aggregation.state import State
from tickerplant.core import schemas
from tickerplant.core.arrow_values import timestamps

MAX_ROWS = 100_000
"""Maximum bars per record. At about 140 bytes per bar, this is less than half of the largest log record."""

_STATES = pa.array(schemas.STATES)
_FORMING, _FINAL, _WITHDRAWN = range(len(schemas.STATES))
_INTERVALS = pa.array([interval.name for interval in INTERVALS])


def bar_batches(state: State, outcome: Outcome, version: int, published_at_us: int) -> list[pa.RecordBatch]:
    """Return the published bars of a step, sorted by (interval, time, code of the symbol).

    The bars are in one batch, or in several if one would be too large for a record. [] if the step publishes no bar.
    """
    parts: list[Rows] = []
    codes: list[int] = []
    states: list[int] = []
    for code in range(len(INTERVALS) + len(state.activities)):
        for rows, kind in [*((rows, _FINAL) for rows in outcome.closed.get(code, [])),
                           (outcome.forming.get(code), _FORMING)]:  # fmt: skip
            if rows is not None and len(rows):
                parts.append(rows)
                codes.append(code)
                states.append(kind)
    if not parts:
        return []
    lengths = [len(rows) for rows in parts]
    rows = join(parts)
    interval = np.repeat(np.array(codes, dtype=np.int8), lengths)
    bar_state = np.repeat(np.array(states, dtype=np.int8), lengths)
    bar_state[rows["withdrawn"]] = _WITHDRAWN
    order = np.lexsort((rows["symbol"], rows["start"], interval))
    result = []
    for begin in range(0, len(order), MAX_ROWS):
        chosen = order[begin : begin + MAX_ROWS]
        result.append(_batch(state, take(rows, chosen), interval[chosen], bar_state[chosen], version, published_at_us))
    return result


def _batch(
    state: State, rows: Rows, interval: npt.NDArray[np.int8], bar_state: npt.NDArray[np.int8],
    version: int, published_at_us: int,
) -> pa.RecordBatch:  # fmt: skip
    count = len(rows)
    vwap = rows["vwap"].copy()
    sums = np.isnan(vwap) & (rows["volume"] > 0)
    vwap[sums] = rows["pv"][sums] / rows["volume"][sums]
    trades = np.ascontiguousarray(rows["trades"])
    columns = [
        timestamps(rows["start"]),
        dictionary_column(rows["symbol"], state.symbols),
        pa.DictionaryArray.from_arrays(pa.array(interval), _intervals(state)),
        *(_nullable(rows[name]) for name in ("open", "high", "low", "close")),
        pa.array(np.ascontiguousarray(rows["volume"])),
        _nullable(vwap),
        pa.array(trades, mask=trades < 0),
        pa.DictionaryArray.from_arrays(pa.array(bar_state), _STATES),
        pa.array(np.ascontiguousarray(rows["complete"])),
        pa.array(np.ascontiguousarray(rows["history"])),
        pa.array(np.ascontiguousarray(rows["revision"])),
        pa.array(np.full(count, version)),
        pa.DictionaryArray.from_arrays(pa.array(rows["reason"].astype(np.int8)), pa.array(state.reasons.texts)),
        dictionary_column(rows["source"], state.sources),
        timestamps(np.full(count, published_at_us)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schemas.BARS)


def _intervals(state: State) -> pa.Array:
    if not state.activities:
        return _INTERVALS
    return pa.array([interval.name for interval in (*INTERVALS, *state.activities)])


def _nullable(values: npt.NDArray[np.float64]) -> pa.Array:
    values = np.ascontiguousarray(values)
    return pa.array(values, mask=np.isnan(values))


def dictionary_column(codes: Codes, names: Interner) -> pa.DictionaryArray:
    """Return codes as a dictionary column. The dictionary of a short column contains only the names in the column."""
    codes = np.ascontiguousarray(codes, dtype=np.int32)
    if len(codes) * 4 >= len(names):
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(names.texts, type=pa.utf8()))
    used, places = np.unique(codes, return_inverse=True)
    texts = pa.array([names.texts[code] for code in used.tolist()], type=pa.utf8())
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), texts)


def coverage_batch(state: State, over: IntervalOver) -> pa.RecordBatch:
    """Return the rows of an `over` record."""
    return pa.RecordBatch.from_arrays(
        [dictionary_column(over.symbols, state.symbols), pa.array(over.emitted)], schema=schemas.COVERAGE
    )


def differences_batch(state: State, outcome: Outcome) -> pa.RecordBatch | None:
    """Return the rows of a `differences` record; None if no bars differ between sources."""
    if not outcome.differences:
        return None
    lengths = {code: sum(len(one) for one, _ in pairs) for code, pairs in outcome.differences.items()}
    ones = join([one for pairs in outcome.differences.values() for one, _ in pairs])
    others = join([other for pairs in outcome.differences.values() for _, other in pairs])
    codes = np.repeat(np.array(list(lengths), dtype=np.int8), list(lengths.values()))
    columns = [
        timestamps(ones["start"]),
        dictionary_column(ones["symbol"], state.symbols),
        pa.DictionaryArray.from_arrays(pa.array(codes), _INTERVALS),
        dictionary_column(ones["source"], state.sources),
        dictionary_column(others["source"], state.sources),
        *(_nullable(rows[name]) for rows in (ones, others) for name in COMPARED),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schemas.DIFFERENCES)
