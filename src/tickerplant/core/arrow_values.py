"""Columns of times as microseconds, and values of Arrow arrays as Python objects. Pure.

Values include times that Python cannot represent: Arrow's times are not limited to Python's years 1 to 9999. Arrow's
own conversion raises OverflowError or ValueError for other years. Such an error would replace the reason why a row is
invalid.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")


def times_of(column: Any) -> npt.NDArray[np.int64]:
    """Return a timestamp column (Array or ChunkedArray, no nulls) as int64 microseconds. Copies only if necessary."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.type != TIMESTAMP:
        column = column.cast(TIMESTAMP)
    if not len(column):
        return np.empty(0, np.int64)
    # Reads the column's buffer directly, because `cast` and `view` are slow for many small records.
    result: npt.NDArray[np.int64] = np.frombuffer(column.buffers()[1], np.int64, len(column), column.offset * 8)
    return result


def timestamps(us: npt.NDArray[np.int64]) -> pa.Array:
    """Return int64 microseconds as a `timestamp[us, UTC]` array, which shares the memory of a contiguous `us`."""
    memory = pa.py_buffer(np.ascontiguousarray(us, dtype=np.int64))
    return pa.Array.from_buffers(TIMESTAMP, len(us), [None, memory])


def value_at(column: pa.Array, row: int) -> Any:
    """Return the value of a row; for a time that Python cannot represent, its number and type as text.

    >>> value_at(pa.array([2**62], pa.timestamp("us")), 0)
    '4611686018427387904 (timestamp[us])'
    """
    value = column[row]
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return f"{value.value} ({value.type})"


def values_of(column: pa.Array) -> list[Any]:
    """Return the values of all rows, each as `value_at` returns it."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        return [value_at(column, row) for row in range(len(column))]
    return values
