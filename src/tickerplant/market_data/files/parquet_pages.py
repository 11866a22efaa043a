"""The sizes that a Parquet file declares, read from its footer and page headers before any page is decoded.

A page header declares the decompressed size, which the decoder allocates. A dictionary or run-length encoding stores
any number of rows in a few bytes. A file of two kilobytes can therefore need gigabytes of memory. Format:
https://parquet.apache.org/docs/file-format/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from tickerplant.core.errors import BadInput

MAX_PAGE_BYTES: Final = 64 << 20
"""Maximum bytes of a decompressed page. Writers create pages of about 1 MB."""
MAX_COLUMNS: Final = 4_096
"""Maximum number of columns of a file."""
MAX_VALUE_BYTES: Final = 1_024
"""Maximum bytes of one value of a column that is read: a symbol, a time or conditions."""
MAX_LISTED_VALUES: Final = 16 << 20
"""Maximum values of a column of lists in one row group: 16 for each of a million rows."""
BLOCK_BYTES: Final = 32 << 20
"""Target size of one block of rows, in bytes."""
ROWS_PER_BYTE: Final = 1_000
FEW_ROWS: Final = 10_000_000
"""Maximum rows of a file: `FEW_ROWS`, or `ROWS_PER_BYTE` for each of its bytes if that is more. Times and prices are
less compressible."""
_HEAD_BYTES: Final = 1_024
_MAX_HEAD_BYTES: Final = 1 << 20
_DATA_HEADERS: Final = (5, 7, 8)  # data page, dictionary page, data page of version 2; field 1 of each is its count
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)


@dataclass(frozen=True, slots=True)
class Page:
    """The header of a page: its decompressed and its stored size, and its count of values."""

    bytes_: int
    stored: int
    values: int


class _TooShort(Exception):
    """The bytes end inside a header."""


def block_rows(path: Path, metadata: Any, columns: Sequence[str], most: int) -> int:
    """Return the number of rows of a block, 1 to `most`, such that a block of these columns has about `BLOCK_BYTES`.

    Reads the header of each page. Raises BadInput if the file declares sizes that are not plausible.
    """
    name, size = path.name, path.stat().st_size
    if metadata.num_columns > MAX_COLUMNS:
        raise BadInput(f"{name} has {metadata.num_columns:,} columns; at most {MAX_COLUMNS:,} are read")
    if metadata.num_rows > max(FEW_ROWS, ROWS_PER_BYTE * size):
        raise BadInput(
            f"{name} declares {metadata.num_rows:,} rows in {size:,} bytes, which is not plausible; write it again"
        )
    wanted = [at for at in range(metadata.num_columns) if metadata.schema.column(at).path.partition(".")[0] in columns]
    row_bytes = 0.0
    with path.open("rb") as stream:
        for at in wanted:
            column = metadata.schema.column(at)
            if column.length > MAX_VALUE_BYTES:
                raise BadInput(
                    f"{name} has values of {column.length:,} bytes in {column.name}; at most {MAX_VALUE_BYTES} are read"
                )
            row_bytes += max(
                (
                    _value_bytes(stream, name, metadata.row_group(group), at, column)
                    for group in range(metadata.num_row_groups)
                ),
                default=0.0,
            )
    return int(min(max(BLOCK_BYTES / max(row_bytes, 1.0), 1), most))


def _value_bytes(stream: BinaryIO, name: str, group: Any, at: int, column: Any) -> float:
    """Return the bytes per value of the densest page of a column chunk. Raises BadInput."""
    chunk, densest, values = group.column(at), 8.0, 0
    if column.max_repetition_level and chunk.num_values > MAX_LISTED_VALUES:
        raise BadInput(
            f"{name} has {chunk.num_values:,} values in lists of {group.num_rows:,} rows in {column.name}; "
            "write smaller row groups"
        )
    for page in _pages(stream, name, chunk):
        if page.bytes_ > MAX_PAGE_BYTES:
            raise BadInput(
                f"{name} declares a page of {page.bytes_:,} bytes in the column {column.name}; "
                f"at most {MAX_PAGE_BYTES:,} are read. Write the file with smaller pages"
            )
        values += page.values
        densest = max(densest, page.bytes_ / max(page.values, 1))
    return densest


def _pages(stream: BinaryIO, name: str, chunk: Any) -> Iterator[Page]:
    starts = [chunk.data_page_offset, chunk.dictionary_page_offset if chunk.has_dictionary_page else None]
    at = min(start for start in starts if start is not None)
    end = at + chunk.total_compressed_size
    while at < end:
        header, length = _header(stream, name, at)
        yield header
        if header.stored < 0 or header.bytes_ < 0 or header.values < 0:
            raise BadInput(f"{name} is damaged: a page at byte {at:,} has a negative size; copy it again")
        at += length + header.stored


def _header(stream: BinaryIO, name: str, at: int) -> tuple[Page, int]:
    """Return the page header at a position, and its length in bytes."""
    size = _HEAD_BYTES
    while True:
        stream.seek(at)
        data = stream.read(size)
        try:
            fields, length = _struct(data, 0, depth=0)
        except _TooShort:
            if len(data) < size or size >= _MAX_HEAD_BYTES:
                raise BadInput(
                    f"{name} is damaged: the page header at byte {at:,} cannot be read; copy it again"
                ) from None
            size *= 8
            continue
        counts = [fields[field].get(1, 0) for field in _DATA_HEADERS if isinstance(fields.get(field), dict)]
        sizes = fields.get(2), fields.get(3), (counts or [0])[0]
        if not all(isinstance(one, int) for one in sizes):
            raise BadInput(f"{name} is damaged: the page header at byte {at:,} has no size; copy it again")
        return Page(*sizes), length  # type: ignore[arg-type]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _TooShort
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct in Thrift's compact protocol by number, and the position after it."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        if at >= len(data) or depth > 8:
            raise _TooShort
        head, at = data[at], at + 1
        if head == _STOP:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _varint(data, at)
            number = (number >> 1) ^ -(number & 1)
        fields[number], at = _value(data, at, head & 0x0F, depth)


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind in (_I16, _I32, _I64):
        number, at = _varint(data, at)
        return (number >> 1) ^ -(number & 1), at
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    if kind == _BINARY:
        length, at = _varint(data, at)
        return _skipped(data, at, length)
    if kind in (_BYTE, _DOUBLE):
        return _skipped(data, at, 1 if kind == _BYTE else 8)
    raise _TooShort  # no page header has lists or maps


def _skipped(data: bytes, at: int, length: int) -> tuple[None, int]:
    if at + length > len(data):
        raise _TooShort
    return None, at + length
