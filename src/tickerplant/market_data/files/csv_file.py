"""CSV files, plain or gzipped, read in blocks of bounded size.

UTF-16 with a byte order mark is read as UTF-8. A file is cut at line ends into blocks of about a megabyte. Each block
is parsed separately, so that line numbers stay exact after a broken line. Quoted values may contain delimiters but no
line ends.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from tickerplant.core.errors import BadInput
from tickerplant.core.shown import quoted
from tickerplant.core.times import Int64Array
from tickerplant.market_data.files.block import Block, BrokenRow
from tickerplant.market_data.files.csv_head import HEAD_LINES, read_head

BLOCK_BYTES: Final = 1 << 20
_MAX_LINE_BYTES: Final = 1 << 20
MAX_COLUMNS: Final = 4_096
"""Maximum number of columns of a file."""
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_UTF_16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_16: Final = re.compile(rb"([\t\n\r -~]\x00){4}|(\x00[\t\n\r -~]){4}")
_BINARY: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_OTHER_FORMAT: Final = re.compile(rb"(\xef\xbb\xbf)?\s*(\{\s*[\"}]|\[\s*[\[{\]]|<(!|\?xml|html|table))", re.IGNORECASE)
_HEAD_BYTES: Final = 1024
_CUT_SHORT: Final = (EOFError, OSError, zlib.error)
"""Errors that reading a truncated or damaged gzipped file raises."""


class _AsUtf8(io.RawIOBase):
    """A stream of UTF-16 with a byte order mark, as UTF-8. Invalid values become U+FFFD, as they do in UTF-8."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-16")("replace")
        self._pending = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes of UTF-8 into a buffer; return their number, 0 at the end."""
        while not self._pending:
            data = self._stream.read1(BLOCK_BYTES)
            self._pending = self._decoder.decode(data, final=not data).encode("utf-8", "replace")
            if not data:
                break
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()
        super().close()


class CsvFile:
    """A CSV file. Rows are numbered by line."""

    unit: Final = "line"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with self._open() as stream:
                head = stream.read1(_HEAD_BYTES)
            if _UTF_16.match(head):
                raise BadInput(f"{path.name} is UTF-16 text without a byte order mark; save it as UTF-8")
            if _OTHER_FORMAT.match(head):
                raise BadInput(f"{path.name} is JSON, HTML or XML, not CSV; convert it to CSV or Parquet")
            if _BINARY.search(head):
                raise BadInput(f"{path.name} is neither a CSV nor a Parquet file; use CSV, Parquet or DBN")
            lines = self._first_lines()
        except _CUT_SHORT as error:
            raise BadInput(f"{path.name} is damaged: {_reason(error)}; copy it again", line=1) from error
        number, line = next(((at, line) for at, line in enumerate(lines, 1) if line.strip()), (1, ""))
        if "\r" in line:
            raise BadInput(f"the lines of {path.name} end in CR only; save the file with LF or CRLF", line=number)
        if max(line.count(delimiter) for line in lines for delimiter in ",;\t|") >= MAX_COLUMNS:
            raise BadInput(f"{path.name} has a line with more than {MAX_COLUMNS:,} values; remove columns")
        self.head = read_head(lines, path.name)
        self.delimiter, self.header, self.header_number = self.head.delimiter, self.head.header, self.head.line

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """Yield the blocks from the start of the file. Raises BadInput when the remainder cannot be read."""
        number, tail = 1, b""
        with self._open() as stream:
            while True:
                data, error = _read(stream, BLOCK_BYTES)
                if error is not None:
                    at = number + tail.count(b"\n") + data.count(b"\n")
                    raise BadInput(f"{self.path.name} is damaged: {_reason(error)}; copy it again", line=at) from error
                if data:
                    cut = data.rfind(b"\n") + 1
                    if not cut and len(tail) + len(data) > BLOCK_BYTES + _MAX_LINE_BYTES:
                        raise BadInput("a line is longer than a megabyte; end each row with a line end", line=number)
                    if not cut:
                        tail += data
                        continue
                    chunk, tail = tail + data[:cut], data[cut:]
                else:
                    chunk, tail = tail, b""
                if chunk:
                    block = self._parse(chunk, number, wanted)
                    number = block.end
                    yield block
                if not data:
                    return

    def _parse(self, chunk: bytes, number: int, wanted: Sequence[str]) -> Block:
        if number == 1:
            for _ in range(self.head.skipped):
                chunk = chunk[chunk.find(b"\n") + 1 :] if b"\n" in chunk else b""
            number += self.head.skipped
        filled, lines = _filled_lines(chunk)
        numbers = filled + number
        end = number + lines
        broken: list[BrokenRow] = []
        invalid: list[int] = []

        def on_invalid(row: pa.csv.InvalidRow) -> str:
            at = row.number - 1
            invalid.append(at)
            broken.append(
                BrokenRow(
                    int(numbers[at]),
                    f"{row.actual_columns} values where the header has {row.expected_columns}: {quoted(row.text)}; "
                    "write a value for each column, in quotes if it contains the delimiter",
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
        parse = pa.csv.ParseOptions(delimiter=self.delimiter, invalid_row_handler=on_invalid)
        read = pa.csv.ReadOptions(use_threads=False, column_names=self.header, block_size=max(len(chunk) + 1, 1024))
        try:
            table = pa.csv.read_csv(pa.BufferReader(chunk), read, parse, options)
        except pa.ArrowInvalid as error:
            clean = chunk.decode("utf-8", "replace").encode()
            if clean == chunk:
                raise BadInput(f"{self.path.name} cannot be read: {error}; correct it", line=int(numbers[0])) from error
            invalid.clear()
            broken.clear()
            table = pa.csv.read_csv(pa.BufferReader(clean), read, parse, options)
        if invalid:
            numbers = np.delete(numbers, invalid)
        if len(numbers) != table.num_rows:
            raise BadInput(
                "a quote has no end on its line; remove it, or the line end inside the quotes",
                line=int(numbers[0]) if len(numbers) else number,
            )
        columns = {name: _single_array(table[name]) for name in wanted}
        return Block(columns, numbers, end, broken)

    def _first_lines(self) -> list[str]:
        """Return the first lines as text, without line ends."""
        with self._open() as stream:
            lines = [stream.readline(_MAX_LINE_BYTES)]
            while lines[-1] and len(lines) < HEAD_LINES:
                try:
                    lines.append(stream.readline(_MAX_LINE_BYTES))
                except _CUT_SHORT:  # the rows before the damage are read
                    break
        lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        return [line.rstrip(b"\r\n").decode("utf-8", "replace") for line in lines]

    def _open(self) -> io.BufferedReader:
        with self.path.open("rb") as stream:
            is_gzipped = stream.read(2) == b"\x1f\x8b"
        # GzipFile has the methods of BufferedReader that are used here, and has its own buffer.
        packed = cast("io.BufferedReader", gzip.open(self.path, "rb")) if is_gzipped else None  # noqa: SIM115
        opened = packed or self.path.open("rb")
        is_utf_16 = opened.peek(2)[:2] in _UTF_16_MARKS
        return io.BufferedReader(_AsUtf8(opened)) if is_utf_16 else opened


def _read(stream: io.BufferedReader, size: int) -> tuple[bytes, Exception | None]:
    """Return up to `size` bytes, fewer at the end, and the error that ended the reading; None if there was none."""
    pieces: list[bytes] = []
    have = 0
    try:
        while have < size and (piece := stream.read1(size - have)):
            pieces.append(piece)
            have += len(piece)
    except _CUT_SHORT as error:
        return b"".join(pieces), error
    return b"".join(pieces), None


def _reason(error: Exception) -> str:
    return "the gzipped file ends too early" if isinstance(error, EOFError) else str(error)


def _filled_lines(chunk: bytes) -> tuple[Int64Array, int]:
    """Return the indices of the lines that are not empty, and the number of lines."""
    data = np.frombuffer(chunk, dtype=np.uint8)
    ends = np.flatnonzero(data == 10)
    if chunk and not chunk.endswith(b"\n"):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    first: npt.NDArray[np.uint8] = np.append(data, 10)[starts]
    empty = (lengths == 0) | ((lengths == 1) & (first == 13))
    return np.flatnonzero(~empty).astype(np.int64), len(ends)


def _single_array(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
