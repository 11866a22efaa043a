"""Parquet files, read in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from tickerplant.core.errors import BadInput
from tickerplant.market_data.files.block import Block
from tickerplant.market_data.files.parquet_pages import MAX_VALUE_BYTES, block_rows

BLOCK_ROWS: Final = 65_536


class ParquetFile:
    """A Parquet file. Rows are numbered from 1."""

    unit: Final = "row"
    header_number = None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pa.parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                self.header = list(schema.names)
                self.types: dict[str, pa.DataType] = dict(zip(schema.names, schema.types, strict=True))
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path.name} is not a Parquet file: {error}; copy it again") from error

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """Yield the blocks from the start of the file. Raises BadInput when the remainder cannot be read."""
        number = 1
        try:
            with pa.parquet.ParquetFile(self.path) as file:
                names = list(dict.fromkeys(wanted))
                rows = block_rows(self.path, file.metadata, names, BLOCK_ROWS)
                types = {name: file.schema_arrow.field(name).type for name in names}
            texts = [name for name, kind in types.items() if _is_text(kind)]
            with pa.parquet.ParquetFile(self.path, read_dictionary=texts) as file:
                for batch in file.iter_batches(rows, columns=names, use_threads=False):
                    end = number + batch.num_rows
                    columns = {name: _text(self._column(batch[name], name, types[name], number)) for name in wanted}
                    yield Block(columns, np.arange(number, end, dtype=np.int64), end)
                    number = end
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{self.path.name} is damaged after row {number - 1}: {error}; copy it again") from error

    def _column(self, column: pa.Array, name: str, kind: pa.DataType, number: int) -> pa.Array:
        """Return a column with the file's type. Texts are read as dictionaries, which may repeat one long value."""
        if not pa.types.is_dictionary(column.type):
            return column
        values = column.dictionary
        if _is_text(values.type) and (pc.max(pc.binary_length(values)).as_py() or 0) > MAX_VALUE_BYTES:
            raise BadInput(
                f"{self.path.name} has a value of more than {MAX_VALUE_BYTES:,} bytes in {name}, in the rows "
                f"from {number} on; remove it"
            )
        return column if pa.types.is_dictionary(kind) else column.cast(kind)


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def _text(column: pa.Array) -> pa.Array:
    """Return bytes as text, with a replacement for bytes that are not UTF-8. Other columns are returned unchanged."""
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column
    try:
        return column.cast(pa.utf8())
    except pa.ArrowInvalid:
        texts = [None if value is None else value.decode("utf-8", "replace") for value in column.to_pylist()]
        return pa.array(texts, pa.utf8())
