"""Databento Binary Encoding (DBN), versions 1 to 3, zstd or not: trades and bars as columns, in bounded memory.

A file is metadata and then records of one schema and one length. Read are `trades`, `tbbo` and `mbp-1` (of which the
trades), and `ohlcv-1s`, `-1m`, `-1h`, `-1d`. Prices are integers of 1e-9, times nanoseconds UTC; records know their
instrument by a number, the metadata says what it was called on which date. The format is the one described at
https://databento.com/docs/standards-and-conventions/databento-binary-encoding.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import BadInput
from tickerplant.core.times import FOREVER_US, TIMESTAMP, Int64Array, micros_of, timestamps
from tickerplant.market_data.files.blocks import Block

BLOCK_ROWS: Final = 65_536
"""Records of a block: 3 MB of trades."""
MAGIC: Final = b"DBN"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
VERSIONS: Final = (1, 2, 3)

UNDEFINED_PRICE: Final = (1 << 63) - 1
UNDEFINED_TIME: Final = (1 << 64) - 1
_PRICE_UNIT: Final = 1e9
_TRADE: Final = ord("T")
_MAX_METADATA_BYTES: Final = 1 << 28  # a day of all US options is 100 MB
_NO_CODE: Final = 255
_NO_SCHEMA: Final = 0xFFFF
_INSTRUMENT_ID: Final = 0  # the code of that kind of symbol

_SCHEMAS: Final = (
    "mbo", "mbp-1", "mbp-10", "tbbo", "trades", "ohlcv-1s", "ohlcv-1m", "ohlcv-1h", "ohlcv-1d", "definition",
    "statistics", "status", "imbalance", "ohlcv-eod", "cmbp-1", "cbbo-1s", "cbbo-1m", "tcbbo", "bbo-1s", "bbo-1m",
)  # fmt: skip
"""Names by their codes."""

_HEADER: Final = [("length", "u1"), ("rtype", "u1"), ("publisher_id", "<u2"), ("instrument_id", "<u4"),
                  ("ts_event", "<u8")]  # fmt: skip
_PRINT: Final = [
    ("price", "<i8"), ("size", "<u4"), ("action", "u1"), ("side", "u1"), ("flags", "u1"), ("depth", "u1"),
    ("ts_recv", "<u8"), ("ts_in_delta", "<i4"), ("sequence", "<u4"),
]  # fmt: skip
_QUOTES: Final = [("bid_px", "<i8"), ("ask_px", "<i8"), ("bid_sz", "<u4"), ("ask_sz", "<u4"), ("bid_ct", "<u4"),
                  ("ask_ct", "<u4")]  # fmt: skip
_PRICES: Final = ("open", "high", "low", "close")
_BAR: Final = [*((name, "<i8") for name in _PRICES), ("volume", "<u8")]


@dataclass(frozen=True, slots=True)
class _Layout:
    """The records of a schema: their type, their fields, and the length of the bars ("" for trades)."""

    rtype: int
    fields: Sequence[tuple[str, str]]
    interval: str = ""


_LAYOUTS: Final = {
    "trades": _Layout(0x00, [*_HEADER, *_PRINT]),
    "mbp-1": _Layout(0x01, [*_HEADER, *_PRINT, *_QUOTES]),
    "tbbo": _Layout(0x01, [*_HEADER, *_PRINT, *_QUOTES]),
    "ohlcv-1s": _Layout(0x20, [*_HEADER, *_BAR], "1s"),
    "ohlcv-1m": _Layout(0x21, [*_HEADER, *_BAR], "1m"),
    "ohlcv-1h": _Layout(0x22, [*_HEADER, *_BAR], "1h"),
    "ohlcv-1d": _Layout(0x23, [*_HEADER, *_BAR], "1d"),
}


# Metadata ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """What an instrument was called on the dates of `[from_us, to_us)`, both midnights UTC."""

    instrument_id: int
    from_us: int
    to_us: int
    symbol: str


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says of itself. `schema`: None where records of several are mixed. `names`: none if it tells none.

    `ts_out`: records end with another time, of sending.
    """

    version: int
    dataset: str
    schema: str | None
    ts_out: bool
    names: tuple[Named, ...]


def read_metadata(read: Callable[[int], bytes], name: str) -> Metadata:
    """Return the metadata of a file; `read` gives its next bytes, fewer at the end. Leaves it at the first record.

    Raises BadInput that names the file as `name`.
    """
    head = read(8)
    if head[:3] != MAGIC:
        raise BadInput(f"{name} is no DBN file")
    if len(head) < 8:
        raise BadInput(f"{name} breaks off within its metadata")
    version, size = head[3], struct.unpack_from("<I", head, 4)[0]
    if version not in VERSIONS:
        raise BadInput(f"{name} is DBN of version {version}; versions {VERSIONS[0]} to {VERSIONS[-1]} are read")
    if size > _MAX_METADATA_BYTES:
        raise BadInput(f"{name} is no sound DBN file: {size:,} bytes of metadata")
    data = read(size)
    if len(data) < size:
        raise BadInput(f"{name} breaks off within its metadata")
    try:
        return _metadata(version, data)
    except (struct.error, ValueError) as error:
        raise BadInput(f"the metadata of {name} cannot be read: {error}") from error


def _metadata(version: int, data: bytes) -> Metadata:
    """Return the metadata in `data`. Raises ValueError or struct.error where it is not sound."""
    dataset, code = struct.unpack_from("<16sH", data, 0)
    at = 18 + 8 + 8 + 8 + (8 if version == 1 else 0)  # start, end, limit, and once a count of records
    stype_in, stype_out, ts_out = struct.unpack_from("<BBB", data, at)
    width = 22 if version == 1 else struct.unpack_from("<H", data, at + 3)[0]
    if not 1 <= width <= 1 << 12:
        raise ValueError(f"symbols of {width} bytes")
    lists = _Lists(data, 100, width)
    lists.skip(struct.unpack("<I", lists.take(4))[0])  # the definition of a schema: reserved
    for _ in range(3):  # symbols asked for, found in part, not found
        lists.skip(lists.count(width) * width)
    names: list[Named] = []
    for _ in range(lists.count(width + 4)):
        asked = lists.text()
        for _ in range(lists.count(width + 8)):
            first, end = lists.date(), lists.date()
            told = lists.text()
            if told and stype_in == _INSTRUMENT_ID:
                names.append(Named(_instrument(asked), first, end, told))
            elif told and stype_out == _INSTRUMENT_ID:
                names.append(Named(_instrument(told), first, end, asked))
    if code != _NO_SCHEMA and code >= len(_SCHEMAS):
        raise ValueError(f"a schema of the unknown number {code}")
    schema = None if code == _NO_SCHEMA else _SCHEMAS[code]
    return Metadata(version, _text(dataset), schema, ts_out not in (0, _NO_CODE), tuple(names))


class _Lists:
    """Reads the lists at the end of the metadata, one after the other."""

    def __init__(self, data: bytes, at: int, width: int) -> None:
        self._data, self._at, self._width = data, at, width

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        self.skip(size)
        return self._data[self._at - size : self._at]

    def skip(self, size: int) -> None:
        """Leave bytes out."""
        if self._at + size > len(self._data):
            raise ValueError("it breaks off")
        self._at += size

    def count(self, least: int) -> int:
        """Return how many things of at least so many bytes follow."""
        found: int = struct.unpack("<I", self.take(4))[0]
        if found * least > len(self._data) - self._at:
            raise ValueError("a list is longer than all of it")
        return found

    def text(self) -> str:
        """Return a text of fixed width."""
        return _text(self.take(self._width))

    def date(self) -> int:
        """Return 00:00 UTC of a date that is written as the number 20240131."""
        number: int = struct.unpack("<I", self.take(4))[0]
        if number >= 9999_12_31:
            return FOREVER_US
        return micros_of(dt.datetime(number // 10_000, number // 100 % 100, number % 100, tzinfo=dt.UTC))


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8")


def _instrument(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{text} is no instrument")
    return number


# Symbols -------------------------------------------------------------------------------------------------------------


class Symbology:
    """Instruments' names by date, for whole columns. Between two dates on which any name changes there is one table."""

    def __init__(self, names: Sequence[Named]) -> None:
        names = [named for named in names if named.from_us < named.to_us]
        self.symbols = list(dict.fromkeys(named.symbol for named in names))
        place = {symbol: at for at, symbol in enumerate(self.symbols)}
        self._instruments = np.unique(np.array([named.instrument_id for named in names], np.uint32))
        self._row = np.searchsorted(self._instruments, np.array([n.instrument_id for n in names], np.uint32))
        self._from_us = np.array([named.from_us for named in names], np.int64)
        self._to_us = np.array([named.to_us for named in names], np.int64)
        self._code = np.array([place[named.symbol] for named in names], np.int32)
        self._borders_us = np.unique(np.concatenate([self._from_us, self._to_us]))
        self._value_set = pa.array(self._instruments)
        self._dictionary = pa.array(self.symbols, pa.utf8())
        self._table: tuple[int, npt.NDArray[np.int32]] | None = None

    def of(self, instruments: npt.NDArray[np.uint32], times_us: Int64Array) -> pa.DictionaryArray:
        """Return the names of instruments at these times; null where none is known."""
        rows = pc.index_in(pa.array(np.ascontiguousarray(instruments)), value_set=self._value_set)
        rows = rows.fill_null(len(self._instruments)).to_numpy(zero_copy_only=False)
        if not len(rows):
            return pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], pa.utf8()))
        first, last = np.searchsorted(self._borders_us, (times_us.min(), times_us.max()), side="right").tolist()
        if first == last:
            codes = self._table_of(first)[rows]
        else:
            stretches = np.searchsorted(self._borders_us, times_us, side="right")
            codes = np.empty(len(rows), np.int32)
            for stretch in np.unique(stretches).tolist():
                mine = stretches == stretch
                codes[mine] = self._table_of(stretch)[rows[mine]]
        # Names that do not occur are left out: who reads takes those of the dictionary for the file's symbols.
        seen = np.bincount(codes + 1, minlength=len(self.symbols) + 1)[1:] > 0
        compact = np.append(np.cumsum(seen, dtype=np.int32) - 1, np.int32(0))  # behind them, for those unknown
        unknown = codes < 0
        places = pa.array(compact[codes], mask=unknown if unknown.any() else None)
        return pa.DictionaryArray.from_arrays(places, self._dictionary.filter(pa.array(seen)))

    def _table_of(self, stretch: int) -> npt.NDArray[np.int32]:
        """Return the name's code of each instrument, and −1 behind them, from a border on (0: before the first)."""
        if self._table is None or self._table[0] != stretch:
            table = np.full(len(self._instruments) + 1, -1, np.int32)
            if stretch:
                at_us = self._borders_us[stretch - 1]
                valid = (self._from_us <= at_us) & (at_us < self._to_us)
                table[self._row[valid]] = self._code[valid]
            self._table = (stretch, table)
        return self._table[1]


# Files ---------------------------------------------------------------------------------------------------------------


class DbnFile:
    """A DBN file. Rows are records, numbered from 1; of `mbp-1` those that are no trades are left out.

    A file that does not say what its instruments are called has no column `symbol`, and must be of one instrument.
    """

    unit: Final = "record"
    header_number: Final = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as stream:
            self.metadata = read_metadata(_reader(stream, path.name), path.name)
        schema = self.metadata.schema
        layout = _LAYOUTS.get(schema or "")
        if layout is None:
            what = f"has records of {schema}" if schema else "mixes records of several schemas"
            raise BadInput(f"{path.name} {what}; read are {', '.join(_LAYOUTS)}")
        self._layout = layout
        fields = [*layout.fields, ("ts_out", "<u8")] if self.metadata.ts_out else layout.fields
        self._dtype = np.dtype(list(fields))
        self._symbology = Symbology(self.metadata.names) if self.metadata.names else None
        named = ["symbol"] if self._symbology else []
        self.header = (
            ["ts_event", *named, "interval", *_PRICES, "volume"]
            if layout.interval
            else ["ts_event", *named, "price", "size"]
        )

    @property
    def symbols(self) -> list[str]:
        """All names of the metadata."""
        return list(self._symbology.symbols) if self._symbology else []

    @property
    def interval(self) -> str:
        """The length of its bars, `1s` to `1d`; "" for trades."""
        return self._layout.interval

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """Yield the file's blocks from the beginning. Raises BadInput when the file cannot be read on."""
        width, number, only = self._dtype.itemsize, 1, None
        with self._open() as stream:
            read = _reader(stream, self.path.name)
            read_metadata(read, self.path.name)
            while True:
                try:
                    data = read(BLOCK_ROWS * width)
                except BadInput as error:
                    raise BadInput(f"{error}, behind record {number - 1}") from error
                count = len(data) // width
                records = np.frombuffer(data, self._dtype, count)
                if count:
                    self._check(records, number)
                    only = self._one_instrument(records, only)
                    yield self._block(records, number, wanted)
                number += count
                if len(data) % width:
                    raise BadInput(f"{self.path.name} breaks off within record {number}")
                if count < BLOCK_ROWS:
                    return

    def _open(self) -> contextlib.AbstractContextManager[pa.NativeFile]:
        return open_dbn(self.path)

    def _check(self, records: npt.NDArray[Any], number: int) -> None:
        """Raise BadInput for a record of another kind, and for bars of which several are of one time."""
        sound = (records["rtype"] == self._layout.rtype) & (records["length"] == self._dtype.itemsize // 4)
        if not sound.all():
            at = int(np.argmin(sound))
            wrong = records[at]
            raise BadInput(
                f"{self.path.name} cannot be read on: record {number + at} has type {wrong['rtype']:#04x} and "
                f"{int(wrong['length']) * 4} bytes, and those of {self.metadata.schema} have {self._layout.rtype:#04x} "
                f"and {self._dtype.itemsize}"
            )
        venues = records["publisher_id"]
        if self._layout.interval and (venues != venues[0]).any():
            pairs = np.unique(records["instrument_id"].astype(np.uint64) << np.uint64(16) | venues)
            twice = np.flatnonzero(np.diff(pairs >> np.uint64(16)) == 0)
            if len(twice):
                one, other = (int(pairs[twice[0] + at]) & 0xFFFF for at in (0, 1))
                raise BadInput(
                    f"{self.path.name} has bars of several venues for one instrument (publishers {one} and {other}): "
                    "none of them is the market's bar; ask for the bars of one venue, or for trades"
                )

    def _one_instrument(self, records: npt.NDArray[Any], only: int | None) -> int | None:
        """Return the instrument of a file that names none; raises BadInput where there are several."""
        if self._symbology is not None:
            return None
        instruments = records["instrument_id"]
        only = int(instruments[0]) if only is None else only
        if (instruments != only).any():
            other = int(instruments[np.argmax(instruments != only)])
            raise BadInput(f"{self.path.name} does not say what its instruments are called, and has several: "
                           f"{only}, {other}")  # fmt: skip
        return only

    def _block(self, records: npt.NDArray[Any], number: int, wanted: Sequence[str]) -> Block:
        end = number + len(records)
        numbers = np.arange(number, end, dtype=np.int64)
        if not self._layout.interval:
            trades = records["action"] == _TRADE
            if not trades.all():
                records, numbers = records[trades], numbers[trades]
        return Block({name: self._column(name, records) for name in wanted}, numbers, end)

    def _column(self, name: str, records: npt.NDArray[Any]) -> pa.Array:
        if name == "ts_event":
            return _times(records["ts_event"])
        if name == "symbol":
            assert self._symbology is not None
            told = records["ts_event"]
            if not self._layout.interval:  # their date is the one on which they were received
                told = np.where(records["ts_recv"] == UNDEFINED_TIME, told, records["ts_recv"])
            return self._symbology.of(records["instrument_id"], _microseconds(told))
        if name == "interval":
            codes = pa.array(np.zeros(len(records), np.int32))
            return pa.DictionaryArray.from_arrays(codes, pa.array([self._layout.interval]))
        if name in ("size", "volume"):
            return pa.array(records[name].astype(np.float64))
        return _prices(records[name])


def is_dbn(path: Path) -> bool:
    """Whether a file begins as DBN does, behind zstd if need be. Raises OSError where it cannot be opened."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return start[:3] == MAGIC or start == ZSTD_MAGIC


@contextlib.contextmanager
def open_dbn(path: Path) -> Iterator[pa.NativeFile]:
    """Open a file for the block, unpacked if it is packed by zstd. Raises BadInput."""
    try:
        with path.open("rb") as stream:
            packed = stream.read(4) == ZSTD_MAGIC
        with pa.OSFile(str(path), "rb") as file:
            if not packed:
                yield file
                return
            with pa.CompressedInputStream(file, "zstd") as unpacked:
                yield unpacked
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error}") from error


def _reader(stream: pa.NativeFile, name: str) -> Callable[[int], bytes]:
    """Return a function that reads so many bytes, fewer at the end. It raises BadInput."""

    def read(size: int) -> bytes:
        try:
            pieces, have = [], 0
            while have < size and (piece := stream.read(size - have)):
                pieces.append(piece)
                have += len(piece)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{name} breaks off: {error}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    return read


def _microseconds(ns: npt.NDArray[np.uint64]) -> Int64Array:
    return (ns // np.uint64(1_000)).view(np.int64)


def _times(ns: npt.NDArray[np.uint64]) -> pa.Array:
    undefined = ns == UNDEFINED_TIME
    if not undefined.any():
        return timestamps(_microseconds(ns))
    return pa.array(_microseconds(ns), mask=undefined).cast(TIMESTAMP)


def _prices(fixed: npt.NDArray[np.int64]) -> pa.Array:
    """Return prices as numbers. The quotient is the nearest there is to the decimal, a product with 1e-9 is not."""
    undefined = fixed == UNDEFINED_PRICE
    return pa.array(fixed / _PRICE_UNIT, mask=undefined if undefined.any() else None)
