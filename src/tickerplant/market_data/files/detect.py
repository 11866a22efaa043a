"""Which kind of file it is: by its first bytes, not by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from tickerplant.core.errors import BadInput
from tickerplant.market_data.files.blocks import ParquetFile, TextFile
from tickerplant.market_data.files.dbn import DbnFile, is_dbn
from tickerplant.market_data.files.rows import KEPT

DataFile: TypeAlias = TextFile | ParquetFile | DbnFile


def open_file(path: Path) -> DataFile:
    """Return the file. Raises BadInput when it is none that can be read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start and is_dbn(path):
            return _kept(DbnFile(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be opened: {error.strerror}") from error
    if not start:
        raise BadInput(f"{path.name} is empty", line=1)
    return ParquetFile(path) if start == b"PAR1" else TextFile(path)


def _kept(file: DbnFile) -> DbnFile:
    """Return the file. Raises BadInput where its bars are none that the plant keeps: all of them have one length."""
    names = [interval.name for interval in KEPT]
    if file.interval and file.interval not in names:
        raise BadInput(f"{file.path.name} has bars of {file.interval}; the plant keeps those of {', '.join(names)}")
    return file
