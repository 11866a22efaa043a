"""Access to a state in which each symbol is at a different slot of its ring.

One index into the flat array takes a third of the time of two indices. `state[slot][rows]` takes half the time of
`state[slot, rows]`.
"""

from __future__ import annotations

import numpy as np

from tickerplant.analytics.indicator.declaration import Count, RowIndex
from tickerplant.core.times import Float64Array


def read(state: Float64Array, slot: Count, rows: RowIndex) -> Float64Array:
    """Return the values of the symbols in `rows` at their `slot`. A slice of rows gives a view."""
    if isinstance(rows, slice) or not state.flags.c_contiguous:
        found: Float64Array = state[slot, rows]
        return found
    taken: Float64Array = state.reshape(-1).take(np.asarray(slot) * state.shape[1] + rows)
    return taken


def write(state: Float64Array, slot: Count, rows: RowIndex, values: Float64Array) -> None:
    """Set the values of the symbols in `rows` at their `slot`."""
    if isinstance(rows, slice) or not state.flags.c_contiguous:
        state[slot, rows] = values
    else:
        state.reshape(-1)[np.asarray(slot) * state.shape[1] + rows] = values
