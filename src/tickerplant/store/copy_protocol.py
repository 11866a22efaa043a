"""Conversion between Arrow and PostgreSQL: COPY and array arguments for writing, Arrow tables for reading."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pgpq import ArrowToPostgresBinaryEncoder

from tickerplant.core.arrow_values import TIMESTAMP, timestamps
from tickerplant.core.times import micros_of
from tickerplant.store.session import Session, translate_errors

FEW_ROWS: Final = 32
"""Maximum rows of an INSERT from arrays.

A COPY into a staging table and an INSERT from this table are faster for more rows. The COPY costs one more round trip,
and arrays cost some microseconds per row.
"""

ENCODED_ROWS: Final = 8_192
"""Maximum rows that are encoded at once. The kernel provides and clears the memory of larger pieces each time. Encoding
50,000 ticks at once takes two to four times as long."""
_COPY_HEAD: Final = 19
_COPY_TAIL: Final = 2
"""Bytes before and after the rows in the binary COPY format: signature, flags and header extension; the trailer."""
POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""Microseconds from 1970 to the epoch of PostgreSQL, 2000-01-01 UTC."""

_SQL_TYPES: Final = {
    pa.utf8(): "text",
    pa.float64(): "double precision",
    pa.int64(): "bigint",
    pa.int32(): "integer",
    pa.bool_(): "boolean",
    pa.binary(): "bytea",
    TIMESTAMP: "timestamptz",
}


def quoted(names: Sequence[str], prefix: str = "") -> str:
    """Return column names as a quoted SQL list: `"symbol", "interval"`."""
    return ", ".join(f'{prefix}"{name}"' for name in names)


def plain(table: pa.Table | pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows as one batch of types that PostgreSQL has, with zero bytes in texts replaced by U+FFFD."""
    columns, fields = [], []
    for name in table.schema.names:
        column = table.column(name)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if pa.types.is_dictionary(column.type):
            column = column.cast(pa.utf8())
        elif column.type in (pa.uint16(), pa.int8(), pa.int16()):
            column = column.cast(pa.int32())
        if column.type == pa.utf8() and _has_zero(column.buffers()[2]):
            column = pc.replace_substring(column, "\0", "\ufffd")  # PostgreSQL's text cannot contain a zero byte
        columns.append(column)
        fields.append(pa.field(name, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _has_zero(characters: pa.Buffer | None) -> bool:
    return characters is not None and b"\0" in characters.to_pybytes()


async def copy(session: Session, relation: str, batch: pa.RecordBatch) -> None:
    """Copy a plain batch into a table by binary COPY, or by INSERT if the session must not use COPY."""
    if not batch.num_rows:
        return
    names = batch.schema.names
    if not session.copies:
        source, arguments = unnest_rows(batch)
        await session.execute(f'INSERT INTO "{relation}" ({quoted(names)}) SELECT * FROM {source}', *arguments)
        return
    with translate_errors():
        await session.connection.copy_to_table(relation, source=_encoded(batch), columns=names, format="binary")


async def _encoded(batch: pa.RecordBatch) -> AsyncIterator[bytes]:
    encoder = ArrowToPostgresBinaryEncoder(batch.schema)
    yield encoder.write_header()
    for start in range(0, batch.num_rows, ENCODED_ROWS):
        yield encoder.write_batch(batch.slice(start, ENCODED_ROWS))
    yield encoder.finish()


async def stage_rows(session: Session, name: str, batch: pa.RecordBatch) -> tuple[str, list[Any]]:
    """Return (FROM item, its arguments) that provide the rows to a statement of the open transaction.

    Many rows are copied into a temporary table. The table contains the rows until the end of the transaction, or until
    the next call with the same `name` and columns. The rows have the columns of the batch.
    """
    if batch.num_rows <= FEW_ROWS or not session.copies:
        return unnest_rows(batch)
    digest = hashlib.sha256(",".join(batch.schema.names).encode()).hexdigest()[:8]
    relation = f"staging_{name}_{digest}"
    if relation in session.filled:
        await session.execute(f"TRUNCATE pg_temp.{relation}")
    else:
        columns = ", ".join(f'"{field.name}" {_SQL_TYPES[field.type]}' for field in batch.schema)
        await session.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {relation} ({columns}) ON COMMIT DELETE ROWS")
    session.filled.add(relation)
    await copy(session, relation, batch)
    return f"pg_temp.{relation} AS s", []


def unnest_rows(batch: pa.RecordBatch) -> tuple[str, list[Any]]:
    """Return (FROM item, its arguments) of `stage_rows`, always with arrays. Use it for a few thousand rows at most."""
    casts = ", ".join(f"${i}::{_SQL_TYPES[field.type]}[]" for i, field in enumerate(batch.schema, 1))
    return f"unnest({casts}) AS s ({quoted(batch.schema.names)})", [column.to_pylist() for column in batch.columns]


async def read_numbers(session: Session, query: str, values: int, *arguments: Any) -> list[Any]:
    """Return the columns of a query as arrays: a time, an int64, and `values` columns of float64, all without nulls.

    Times are int64 microseconds since 1970. Binary COPY is decoded without a loop over rows: more than 1 million
    bars per second.
    """
    if not session.copies:
        rows = await session.rows(query, *arguments)
        times = np.array([micros_of(row[0]) for row in rows], dtype=np.int64)
        whole = np.array([row[1] for row in rows], dtype=np.int64)
        return [times, whole, *(np.array([row[i] for row in rows], dtype=np.float64) for i in range(2, values + 2))]
    received = bytearray()

    async def receive(data: bytes) -> None:
        received.extend(data)

    with translate_errors():
        await session.connection.copy_from_query(query, *arguments, output=receive, format="binary")
    numbers = [(f"v{i}", ">f8") for i in range(values)]
    fields = [("time", ">i8"), ("whole", ">i8"), *numbers]
    row = np.dtype(
        [
            ("count", ">i2"),
            *((f"{name}{part}", kind) for name, of in fields for part, kind in (("_size", ">i4"), ("", of))),
        ]
    )
    found = np.frombuffer(received, row, (len(received) - _COPY_HEAD - _COPY_TAIL) // row.itemsize, _COPY_HEAD)
    columns = [found[name].astype(of[1:]) for name, of in fields]
    return [columns[0] + POSTGRES_EPOCH_US, *columns[1:]]


def selected(schema: pa.Schema, prefix: str = "") -> str:
    """Return the select list for `table_of`. Times are selected as seconds, which is ten times as fast as datetimes."""
    return ", ".join(
        f"date_part('epoch', {prefix}\"{f.name}\")" if f.type == TIMESTAMP else f'{prefix}"{f.name}"' for f in schema
    )


def table_of(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    """Return rows selected with `selected(schema)` as an Arrow table of that schema.

    Seconds since 1970 as float64 are exact to 0.24 µs until the year 2106, so rounding restores the microsecond.
    """
    if not rows:
        return schema.empty_table()
    columns = [_column(values, field) for values, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def _column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if field.type == TIMESTAMP:
        if field.nullable and None in values:
            return pa.array([None if v is None else round(v * 1e6) for v in values], pa.int64()).cast(TIMESTAMP)
        return timestamps(np.rint(np.array(values, dtype=np.float64) * 1e6).astype(np.int64))
    if pa.types.is_dictionary(field.type):
        return pc.dictionary_encode(pa.array(values, pa.utf8())).cast(field.type)
    return pa.array(values, field.type)
