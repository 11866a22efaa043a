"""Detection of a file's format by its first bytes, not by its name."""

from __future__ import annotations

import contextlib
import csv
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pyarrow as pa

from tickerplant.core.errors import BadInput
from tickerplant.market_data.files.csv_file import CsvFile
from tickerplant.market_data.files.dbn_file import DbnFile, is_dbn
from tickerplant.market_data.files.options import INTERVAL_NAMES, INTERVALS
from tickerplant.market_data.files.parquet_file import ParquetFile

DataFile: TypeAlias = CsvFile | ParquetFile | DbnFile


_UNREADABLE: Final = (
    pa.ArrowException, csv.Error, ValueError, OverflowError, MemoryError, RecursionError, EOFError, zlib.error,
    struct.error,
)  # fmt: skip
"""Errors of libraries for a file of invalid form."""


@contextlib.contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Raise BadInput in place of a library's error in the block. The message is one line with the file's name."""
    try:
        yield
    except MemoryError as error:
        raise BadInput(f"{path.name} needs more memory than this process may use; split the file") from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path.name} cannot be read: {reason}") from error


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Add the file's name to each BadInput of the block whose message does not contain it; see also `read_errors`."""
    try:
        with read_errors(path):
            yield
    except BadInput as error:
        if path.name in str(error):
            raise
        named = BadInput(f"{path.name}: {error}")
        named.line = error.line
        raise named from error


def open_file(path: Path) -> DataFile:
    """Open a CSV, Parquet or DBN file. Raises BadInput if it cannot be read."""
    with read_errors(path):
        return _opened(path)


def _opened(path: Path) -> DataFile:
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start and is_dbn(path):
            return _check_interval(DbnFile(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be opened: {error.strerror}") from error
    if not start:
        raise BadInput(f"{path.name} is empty; add a header and rows", line=1)
    return ParquetFile(path) if start == b"PAR1" else CsvFile(path)


def _check_interval(file: DbnFile) -> DbnFile:
    """Return the file. Raises BadInput if its bars have an interval that is not stored."""
    if file.interval and file.interval not in [interval.name for interval in INTERVALS]:
        raise BadInput(f"{file.path.name} has {file.interval} bars; the supported intervals are {INTERVAL_NAMES}")
    return file
