"""Rows of a query as one row of arrays, one per column, which become Arrow columns without an object per value.

PostgreSQL sends an array as one value: a head of 20 bytes, then each element with its length. NumPy reads the elements
of a column at once. Missing numbers are sent as NaN, or as the smallest bigint, because null has another length. Texts
are the exception: the driver returns them as a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.arrow_values import TIMESTAMP, timestamps
from tickerplant.store.copy_protocol import POSTGRES_EPOCH_US

_HEAD: Final = 20
"""Bytes before the elements: number of dimensions, flag for nulls, type, length, lower bound."""
_TIMES: Final = np.dtype([("size", ">i4"), ("value", ">i8")])
_FLOATS: Final = np.dtype([("size", ">i4"), ("value", ">f8")])
_BOOLS: Final = np.dtype([("size", ">i4"), ("value", "?")])
_MISSING: Final = np.iinfo(np.int64).min


def is_supported(schema: pa.Schema) -> bool:
    """Return whether `array_list` supports every column. Nullable times, booleans and dictionaries are not
    supported.
    """
    return all(_select(field) is not None for field in schema)


def array_list(schema: pa.Schema) -> str:
    """Return the select list over a subquery with the columns of the schema, for `table_of_arrays`."""
    return ", ".join(f'{_select(field)} AS "{field.name}"' for field in schema)


def _select(field: pa.Field) -> str | None:
    name, kind = f'"{field.name}"', field.type
    if kind == TIMESTAMP:
        return None if field.nullable else f"array_send(array_agg({name}))"
    if pa.types.is_float64(kind):
        return f"array_send(array_agg(coalesce({name}, 'NaN')))"
    if pa.types.is_integer(kind):
        return f"array_send(array_agg(coalesce({name}::bigint, {_MISSING})))"
    if pa.types.is_boolean(kind):
        return None if field.nullable else f"array_send(array_agg({name}))"
    if pa.types.is_string(kind) or (pa.types.is_dictionary(kind) and not field.nullable):
        return f"array_agg({name})"
    return None


def table_of_arrays(row: Sequence[Any], schema: pa.Schema, *, backward: bool = False) -> pa.Table:
    """Return the arrays that `array_list(schema)` selected as an Arrow table, in reverse order if `backward`.

    NaN in a column that may be null becomes null.
    """
    if row[0] is None:
        return schema.empty_table()
    step = -1 if backward else 1
    return pa.Table.from_arrays([_column(value, field, step) for value, field in zip(row, schema, strict=True)],
                                schema=schema)  # fmt: skip


def _column(value: Any, field: pa.Field, step: int) -> pa.Array:
    kind = field.type
    if kind == TIMESTAMP:
        return timestamps(_elements(value, _TIMES, step).astype(np.int64) + POSTGRES_EPOCH_US)
    if pa.types.is_float64(kind):
        numbers = _elements(value, _FLOATS, step).astype(np.float64)
        return pa.array(numbers, kind, from_pandas=field.nullable)
    if pa.types.is_integer(kind):
        whole = _elements(value, _TIMES, step).astype(np.int64)
        missing = whole == _MISSING if field.nullable else None
        found = pa.array(whole, pa.int64(), mask=missing if missing is not None and missing.any() else None)
        return found if kind == pa.int64() else found.cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array(_elements(value, _BOOLS, step))
    texts: list[str | None] = value[::step]
    if pa.types.is_string(kind):
        return pa.array(texts, pa.utf8())
    if texts.count(texts[0]) == len(texts):
        codes = pa.array(np.zeros(len(texts), np.dtype(kind.index_type.to_pandas_dtype())))
        return pa.DictionaryArray.from_arrays(codes, pa.array(texts[:1], pa.utf8()))
    return pc.dictionary_encode(pa.array(texts, pa.utf8())).cast(kind)


def _elements(value: bytes, kind: npt.DTypeLike, step: int) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = np.frombuffer(value, kind, offset=_HEAD)["value"][::step]
    return found
