"""Values of Arrow arrays as Python objects, including times that Python cannot represent. Pure.

Arrow's times are not limited to Python's years 1 to 9999. Arrow's own conversion raises OverflowError or ValueError for
other years. Such an error would replace the reason why a row is invalid.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


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
