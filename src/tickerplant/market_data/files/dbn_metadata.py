"""The metadata of a DBN file, and the names of its instruments by date. Pure."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.digits import parse_int
from tickerplant.core.errors import BadInput
from tickerplant.core.times import FOREVER_US, Int64Array, micros_of

MAGIC: Final = b"DBN"
VERSIONS: Final = (1, 2, 3)
_MAX_METADATA_BYTES: Final = 1 << 28  # a day of all US options has 100 MB
_NO_CODE: Final = 255
_NO_SCHEMA: Final = 0xFFFF
_INSTRUMENT_ID: Final = 0  # code of the symbol type "instrument id"
_SCHEMAS: Final = (
    "mbo", "mbp-1", "mbp-10", "tbbo", "trades", "ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "definition",
    "statistics", "status", "imbalance", "ohlcv-eod", "cmbp-1", "cbbo-1s", "cbbo-1m", "tcbbo", "bbo-1s", "bbo-1m",
)  # fmt: skip
"""Names of the schemas; the index is the code."""


@dataclass(frozen=True, slots=True)
class InstrumentName:
    """The symbol of an instrument in the range `[start_us, end_us)`.

    Both bounds are midnights in UTC, but `end_us` is FOREVER_US if the symbol has no last date.
    """

    instrument_id: int
    start_us: int
    end_us: int
    symbol: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of a file. `schema`: None for records of several schemas.

    `names`: the symbols of the instruments; empty if the file has none. `ts_out`: each record ends with its sending
    time.
    """

    version: int
    dataset: str
    schema: str | None
    ts_out: bool
    names: tuple[InstrumentName, ...]


def read_metadata(read: Callable[[int], bytes], name: str, most: int = _MAX_METADATA_BYTES) -> Metadata:
    """Read and return the metadata of a file, up to the first record.

    `read(n)` returns the next n bytes, fewer at the end. `most`: maximum bytes of the metadata, from the size of the
    file. Raises BadInput with the file's `name`.
    """
    head = read(8)
    if head[:3] != MAGIC:
        raise BadInput(f"{name} is not a DBN file; use CSV, Parquet or DBN")
    if len(head) < 8:
        raise BadInput(f"{name} ends inside its metadata; copy it again")
    version, size = head[3], struct.unpack_from("<I", head, 4)[0]
    if version not in VERSIONS:
        raise BadInput(f"{name} has DBN version {version}; the supported versions are {VERSIONS[0]} to {VERSIONS[-1]}")
    if size > min(most, _MAX_METADATA_BYTES):
        raise BadInput(f"{name} is not a valid DBN file: {size:,} bytes of metadata; copy it again")
    data = read(size)
    if len(data) < size:
        raise BadInput(f"{name} ends inside its metadata; copy it again")
    try:
        return _metadata(version, data)
    except (struct.error, ValueError) as error:
        raise BadInput(f"the metadata of {name} cannot be read: {error}; copy it again") from error


def _metadata(version: int, data: bytes) -> Metadata:
    """Parse the metadata. Raises ValueError or struct.error if it is invalid."""
    dataset, code = struct.unpack_from("<16sH", data, 0)
    at = 18 + 8 + 8 + 8 + (8 if version == 1 else 0)  # start, end, limit; version 1 also a count of records
    stype_in, stype_out, ts_out = struct.unpack_from("<BBB", data, at)
    width = 22 if version == 1 else struct.unpack_from("<H", data, at + 3)[0]
    if not 1 <= width <= 1 << 12:
        raise ValueError(f"symbols of {width} bytes")
    lists = _Lists(data, 100, width)
    lists.skip(struct.unpack("<I", lists.read(4))[0])  # schema definition: reserved
    for _ in range(3):  # symbols requested, found in part, not found
        lists.skip(lists.count(width) * width)
    names: list[InstrumentName] = []
    for _ in range(lists.count(width + 4)):
        requested = lists.text()
        for _ in range(lists.count(width + 8)):
            first, end = lists.date(), lists.date()
            mapped = lists.text()
            if mapped and stype_in == _INSTRUMENT_ID:
                names.append(InstrumentName(_instrument(requested), first, end, mapped))
            elif mapped and stype_out == _INSTRUMENT_ID:
                names.append(InstrumentName(_instrument(mapped), first, end, requested))
    if code != _NO_SCHEMA and code >= len(_SCHEMAS):
        raise ValueError(f"unknown schema {code}")
    schema = None if code == _NO_SCHEMA else _SCHEMAS[code]
    return Metadata(version, _text(dataset), schema, ts_out not in (0, _NO_CODE), tuple(names))


class _Lists:
    """A reader of the lists at the end of the metadata."""

    def __init__(self, data: bytes, at: int, width: int) -> None:
        self._data, self._at, self._width = data, at, width

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises ValueError if fewer are left."""
        self.skip(size)
        return self._data[self._at - size : self._at]

    def skip(self, size: int) -> None:
        """Skip `size` bytes. Raises ValueError if fewer are left."""
        if self._at + size > len(self._data):
            raise ValueError("it is truncated")
        self._at += size

    def count(self, least: int) -> int:
        """Return the length of the next list; each item has at least `least` bytes."""
        found: int = struct.unpack("<I", self.read(4))[0]
        if found * least > len(self._data) - self._at:
            raise ValueError("a list is longer than the metadata")
        return found

    def text(self) -> str:
        """Return the next text of fixed width."""
        return _text(self.read(self._width))

    def date(self) -> int:
        """Read the next date and return its midnight in UTC; FOREVER_US for 9999-12-31 and later.

        The file stores 2024-01-31 as the integer 20240131.
        """
        number: int = struct.unpack("<I", self.read(4))[0]
        if number >= 9999_12_31:
            return FOREVER_US
        return micros_of(dt.datetime(number // 10_000, number // 100 % 100, number % 100, tzinfo=dt.UTC))


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8")


def _instrument(text: str) -> int:
    number = parse_int(text)
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{text} is not an instrument id")
    return number


class Symbology:
    """Symbols of instruments by date, for whole columns.

    One table applies between two dates on which any symbol changes.
    """

    def __init__(self, names: Sequence[InstrumentName]) -> None:
        names = [name for name in names if name.start_us < name.end_us]
        self.symbols = list(dict.fromkeys(name.symbol for name in names))
        code_of = {symbol: at for at, symbol in enumerate(self.symbols)}
        self._instruments = np.unique(np.array([name.instrument_id for name in names], np.uint32))
        self._row = np.searchsorted(self._instruments, np.array([n.instrument_id for n in names], np.uint32))
        self._start_us = np.array([name.start_us for name in names], np.int64)
        self._end_us = np.array([name.end_us for name in names], np.int64)
        self._code = np.array([code_of[name.symbol] for name in names], np.int32)
        self._changes_us = np.unique(np.concatenate([self._start_us, self._end_us]))
        self._value_set = pa.array(self._instruments)
        self._dictionary = pa.array(self.symbols, pa.utf8())
        self._table: tuple[int, npt.NDArray[np.int32]] | None = None

    def symbols_of(self, instruments: npt.NDArray[np.uint32], times_us: Int64Array) -> pa.DictionaryArray:
        """Return the symbols of instruments at these times; null if unknown."""
        rows = pc.index_in(pa.array(np.ascontiguousarray(instruments)), value_set=self._value_set)
        rows = rows.fill_null(len(self._instruments)).to_numpy(zero_copy_only=False)
        if not len(rows):
            return pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], pa.utf8()))
        first, last = np.searchsorted(self._changes_us, (times_us.min(), times_us.max()), side="right").tolist()
        if first == last:
            codes = self._table_of(first)[rows]
        else:
            periods = np.searchsorted(self._changes_us, times_us, side="right")
            codes = np.empty(len(rows), np.int32)
            for period in np.unique(periods).tolist():
                mine = periods == period
                codes[mine] = self._table_of(period)[rows[mine]]
        # The dictionary contains only symbols that occur: the caller uses it as the file's list of symbols.
        seen = np.bincount(codes + 1, minlength=len(self.symbols) + 1)[1:] > 0
        compact = np.append(np.cumsum(seen, dtype=np.int32) - 1, np.int32(0))  # one more index, for unknown symbols
        unknown = codes < 0
        indices = pa.array(compact[codes], mask=unknown if unknown.any() else None)
        return pa.DictionaryArray.from_arrays(indices, self._dictionary.filter(pa.array(seen)))

    def _table_of(self, period: int) -> npt.NDArray[np.int32]:
        """Return an int32 array with each instrument's symbol code in a period, or -1 for no symbol.

        Period 0 ends at the first change. The array ends with an additional -1, for unknown instruments.
        """
        if self._table is None or self._table[0] != period:
            table = np.full(len(self._instruments) + 1, -1, np.int32)
            if period:
                at_us = self._changes_us[period - 1]
                valid = (self._start_us <= at_us) & (at_us < self._end_us)
                table[self._row[valid]] = self._code[valid]
            self._table = (period, table)
        return self._table[1]
