"""Reading a file block by block, in bounded memory: columns, and for every row the line or row it stands in.

A CSV file is cut at line ends into blocks of about a megabyte, and each is parsed by itself, so that line numbers are
exact whatever is broken above. Quoted values may hold delimiters but not line ends.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from tickerplant.core.errors import BadInput
from tickerplant.core.times import Int64Array

BLOCK_BYTES: Final = 1 << 20
PARQUET_ROWS: Final = 65_536
_MAX_LINE_BYTES: Final = 1 << 20
_DELIMITERS: Final = ",;\t|"
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_NO_TEXT: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LOOK_BYTES: Final = 1024
_CUT_SHORT: Final = (EOFError, OSError, zlib.error)
"""What reading a gzipped file raises when it is cut short or damaged."""


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that has no columns: where it stands, why, and its bytes."""

    number: int
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: the columns asked for by the file's names, each row's number, the broken rows between, the end.

    `end`: the number after the last row of the block, broken ones included.
    """

    columns: Mapping[str, pa.Array]
    numbers: Int64Array
    end: int
    broken: Sequence[BrokenRow] = field(default=())


class TextFile:
    """A CSV file, gzipped or not. Rows are numbered by line; the header is line 1, or the first that is not empty."""

    unit: Final = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with self._open() as stream:
                head = stream.read1(_LOOK_BYTES)
            if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise BadInput(f"{path.name} is UTF-16 text; save it as UTF-8")
            if _NO_TEXT.search(head):
                raise BadInput(f"{path.name} is neither CSV nor Parquet")
            line, number = self._first_line()
        except _CUT_SHORT as error:
            raise BadInput(f"{path.name} breaks off: {_why(error)}", line=1) from error
        if b"\r" in line:
            raise BadInput(f"the lines of {path.name} end in CR alone; save it with LF or CRLF", line=number)
        text = line.decode("utf-8", "replace")
        self.delimiter = max(_DELIMITERS, key=text.count)
        self.header = [name.strip() for name in next(csv.reader([text], delimiter=self.delimiter))]
        self.header_number = number
        # Columns without a name (as of an index) get one, so that they can be named in a note.
        self.header = [name or f"column {at + 1}" for at, name in enumerate(self.header)]

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """Yield the file's blocks from the beginning. Raises BadInput when the file cannot be read on."""
        number, rest = 1, b""
        with self._open() as stream:
            while True:
                data, broke = _read(stream, BLOCK_BYTES)
                if broke is not None:
                    at = number + rest.count(b"\n") + data.count(b"\n")
                    raise BadInput(f"{self.path.name} breaks off: {_why(broke)}", line=at) from broke
                if data:
                    cut = data.rfind(b"\n") + 1
                    if not cut and len(rest) + len(data) > BLOCK_BYTES + _MAX_LINE_BYTES:
                        raise BadInput("the line is longer than a megabyte", line=number)
                    if not cut:
                        rest += data
                        continue
                    chunk, rest = rest + data[:cut], data[cut:]
                else:
                    chunk, rest = rest, b""
                if chunk:
                    block = self._parse(chunk, number, wanted)
                    number = block.end
                    yield block
                if not data:
                    return

    def _parse(self, chunk: bytes, number: int, wanted: Sequence[str]) -> Block:
        if number == 1:
            for _ in range(self.header_number):
                chunk = chunk[chunk.find(b"\n") + 1 :] if b"\n" in chunk else b""
            number += self.header_number
        filled, lines = _filled_lines(chunk)
        numbers = filled + number
        end = number + lines
        broken: list[BrokenRow] = []
        wrong: list[int] = []

        def on_wrong(row: pa.csv.InvalidRow) -> str:
            at = row.number - 1
            wrong.append(at)
            broken.append(
                BrokenRow(
                    int(numbers[at]),
                    f"{row.actual_columns} values where the header has {row.expected_columns}",
                    row.text.encode("utf-8", "replace"),
                )
            )
            return "skip"

        if not len(numbers):
            return Block({name: pa.array([], pa.utf8()) for name in wanted}, numbers, end)
        types = {name: pa.utf8() for name in wanted}
        options = pa.csv.ConvertOptions(
            column_types=types,
            include_columns=list(wanted),
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        )
        parse = pa.csv.ParseOptions(delimiter=self.delimiter, invalid_row_handler=on_wrong)
        read = pa.csv.ReadOptions(use_threads=False, column_names=self.header, block_size=max(len(chunk) + 1, 1024))
        try:
            table = pa.csv.read_csv(pa.BufferReader(chunk), read, parse, options)
        except pa.ArrowInvalid as error:
            clean = chunk.decode("utf-8", "replace").encode()
            if clean == chunk:
                raise BadInput(f"{self.path.name} cannot be read: {error}", line=int(numbers[0])) from error
            wrong.clear()
            broken.clear()
            table = pa.csv.read_csv(pa.BufferReader(clean), read, parse, options)
        if wrong:
            numbers = np.delete(numbers, wrong)
        if len(numbers) != table.num_rows:
            raise BadInput(
                f"a quote that is opened and not closed, or a line end within quotes, in the {table.num_rows} rows "
                "from here on",
                line=int(numbers[0]) if len(numbers) else number,
            )
        columns = {name: _one(table[name]) for name in wanted}
        return Block(columns, numbers, end, broken)

    def _first_line(self) -> tuple[bytes, int]:
        with self._open() as stream:
            for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_BYTES), b""), 1):
                line = line.removeprefix(_UTF8_MARK) if number == 1 else line
                if line.strip():
                    return line.rstrip(b"\r\n"), number
        raise BadInput(f"{self.path.name} is empty", line=1)

    def _open(self) -> io.BufferedReader:
        with self.path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        # GzipFile has all of BufferedReader that is used here, and is buffered itself.
        return cast("io.BufferedReader", gzip.open(self.path, "rb")) if packed else self.path.open("rb")


class ParquetFile:
    """A Parquet file. Rows are numbered from 1."""

    unit: Final = "row"
    header_number = None

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with pa.parquet.ParquetFile(path) as file:
                self.header = list(file.schema_arrow.names)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path.name} is no Parquet file: {error}") from error

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """Yield the file's blocks from the beginning. Raises BadInput when the file cannot be read on."""
        number = 1
        try:
            with pa.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(PARQUET_ROWS, columns=list(dict.fromkeys(wanted)), use_threads=False):
                    end = number + batch.num_rows
                    columns = {name: batch[name] for name in wanted}
                    yield Block(columns, np.arange(number, end, dtype=np.int64), end)
                    number = end
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{self.path.name} breaks off behind row {number - 1}: {error}") from error


def _read(stream: io.BufferedReader, size: int) -> tuple[bytes, Exception | None]:
    """Return (about `size` bytes, fewer at the end; what broke the file off behind them)."""
    pieces: list[bytes] = []
    have = 0
    try:
        while have < size and (piece := stream.read1(size - have)):
            pieces.append(piece)
            have += len(piece)
    except _CUT_SHORT as error:
        return b"".join(pieces), error
    return b"".join(pieces), None


def _why(error: Exception) -> str:
    return "the gzipped file is cut short" if isinstance(error, EOFError) else str(error)


def _filled_lines(chunk: bytes) -> tuple[Int64Array, int]:
    """Return (numbers from 0 of the lines that are not empty, number of lines)."""
    data = np.frombuffer(chunk, dtype=np.uint8)
    ends = np.flatnonzero(data == 10)
    if chunk and not chunk.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    first: npt.NDArray[np.uint8] = np.append(data, 10)[starts]
    empty = (lengths == 0) | ((lengths == 1) & (first == 13))
    return np.flatnonzero(~empty).astype(np.int64), len(ends)


def _one(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
