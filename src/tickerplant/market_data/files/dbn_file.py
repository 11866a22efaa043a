"""Databento Binary Encoding (DBN) files, versions 1 to 3, with or without zstd, read in blocks of bounded size.

A file has metadata, then records of one schema and one length. Supported schemas: `trades`, `tbbo`, `mbp-1` (trades
only), and `ohlcv-1s`, `-1m`, `-1h`, `-1d`. Prices are integers in units of 1e-9, times are nanoseconds UTC. Records
contain the number of their instrument; the metadata contains the instrument's symbol by date. Format:
https://databento.com/docs/standards-and-conventions/databento-binary-encoding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tickerplant.core.arrow_values import TIMESTAMP, timestamps
from tickerplant.core.errors import BadInput
from tickerplant.core.times import Int64Array
from tickerplant.market_data.files.block import Block
from tickerplant.market_data.files.dbn_metadata import MAGIC, Symbology, read_metadata

BLOCK_ROWS: Final = 65_536
"""Maximum number of records in one block: 3 MB of trades."""
EXPANSION: Final = 1_000
FEW_BYTES: Final = 16 << 20
"""Maximum bytes after decompression: `EXPANSION` for each byte of the file, but at least `FEW_BYTES`. Records have a
ratio of 3 to 20."""
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"

UNDEFINED_PRICE: Final = (1 << 63) - 1
UNDEFINED_TIME: Final = (1 << 64) - 1
_PRICE_UNIT: Final = 1e9
_TRADE: Final = ord("T")

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
    """The records of a schema: type, fields, and interval of the bars ("" for trades)."""

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


class DbnFile:
    """A DBN file. Rows are records, numbered from 1; records of `mbp-1` that are not trades are skipped.

    A file without symbols in its metadata has no column `symbol`, and must contain one instrument.
    """

    unit: Final = "record"
    header_number: Final = None

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as stream:
            self.metadata = read_metadata(self._reader(stream), path.name, _most_bytes(path))
        schema = self.metadata.schema
        layout = _LAYOUTS.get(schema or "")
        if layout is None:
            found = f"has records of {schema}" if schema else "has records of several schemas"
            raise BadInput(f"{path.name} {found}; the supported schemas are {', '.join(_LAYOUTS)}")
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
        """Return all symbols of the metadata."""
        return list(self._symbology.symbols) if self._symbology else []

    @property
    def interval(self) -> str:
        """Return the interval of the bars, `1s` to `1d`; "" for trades."""
        return self._layout.interval

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        """Yield the blocks from the start of the file. Raises BadInput when the remainder cannot be read."""
        width, number, only = self._dtype.itemsize, 1, None
        with self._open() as stream:
            read = self._reader(stream)
            read_metadata(read, self.path.name, _most_bytes(self.path))
            while True:
                try:
                    data = read(BLOCK_ROWS * width)
                except BadInput as error:
                    raise BadInput(f"{error} (after record {number - 1})") from error
                count = len(data) // width
                records = np.frombuffer(data, self._dtype, count)
                if count:
                    self._check(records, number)
                    only = self._one_instrument(records, only)
                    yield self._block(records, number, wanted)
                number += count
                if len(data) % width:
                    raise BadInput(f"{self.path.name} ends inside record {number}; copy it again")
                if count < BLOCK_ROWS:
                    return

    def _open(self) -> contextlib.AbstractContextManager[pa.NativeFile]:
        return open_dbn(self.path)

    def _reader(self, stream: pa.NativeFile) -> Callable[[int], bytes]:
        return _reader(stream, self.path.name, _most_bytes(self.path))

    def _check(self, records: npt.NDArray[Any], number: int) -> None:
        """Raise BadInput for a record of another type, and for bars of several venues of one instrument."""
        valid = (records["rtype"] == self._layout.rtype) & (records["length"] == self._dtype.itemsize // 4)
        if not valid.all():
            at = int(np.argmin(valid))
            wrong = records[at]
            raise BadInput(
                f"{self.path.name} is damaged: record {number + at} has type {wrong['rtype']:#04x} and "
                f"{int(wrong['length']) * 4} bytes, but records of {self.metadata.schema} have type "
                f"{self._layout.rtype:#04x} and {self._dtype.itemsize} bytes; copy the file again"
            )
        venues = records["publisher_id"]
        if self._layout.interval and (venues != venues[0]).any():
            pairs = np.unique(records["instrument_id"].astype(np.uint64) << np.uint64(16) | venues)
            twice = np.flatnonzero(np.diff(pairs >> np.uint64(16)) == 0)
            if len(twice):
                one, other = (int(pairs[twice[0] + at]) & 0xFFFF for at in (0, 1))
                raise BadInput(
                    f"{self.path.name} has bars of several venues for one instrument (publishers {one} and {other}): "
                    "none of them is the bar of the whole market; request the bars of one venue, or trades"
                )

    def _one_instrument(self, records: npt.NDArray[Any], only: int | None) -> int | None:
        """Return the instrument of a file without symbols; None if the file has symbols.

        Raises BadInput if there are several.
        """
        if self._symbology is not None:
            return None
        instruments = records["instrument_id"]
        only = int(instruments[0]) if only is None else only
        if (instruments != only).any():
            other = int(instruments[np.argmax(instruments != only)])
            raise BadInput(f"{self.path.name} has no symbols in its metadata, and several instruments: "
                           f"{only}, {other}; request the file with symbols")  # fmt: skip
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
            times = records["ts_event"]
            if not self._layout.interval:  # the date of a trade is the date of its reception
                times = np.where(records["ts_recv"] == UNDEFINED_TIME, times, records["ts_recv"])
            return self._symbology.symbols_of(records["instrument_id"], _microseconds(times))
        if name == "interval":
            codes = pa.array(np.zeros(len(records), np.int32))
            return pa.DictionaryArray.from_arrays(codes, pa.array([self._layout.interval]))
        if name in ("size", "volume"):
            return pa.array(records[name].astype(np.float64))
        return _prices(records[name])


def is_dbn(path: Path) -> bool:
    """Return True if a file begins with the magic bytes of DBN or zstd. Raises OSError."""
    with path.open("rb") as stream:
        start = stream.read(4)
    return start[:3] == MAGIC or start == ZSTD_MAGIC


@contextlib.contextmanager
def open_dbn(path: Path) -> Iterator[pa.NativeFile]:
    """Open a file for reading, decompressed if it is compressed with zstd. Raises BadInput."""
    try:
        with path.open("rb") as stream:
            compressed = stream.read(4) == ZSTD_MAGIC
        with pa.OSFile(str(path), "rb") as file:
            if not compressed:
                yield file
                return
            with pa.CompressedInputStream(file, "zstd") as decompressed:
                yield decompressed
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error}") from error


def _most_bytes(path: Path) -> int:
    """Return the maximum bytes after decompression that are plausible for a file."""
    return max(FEW_BYTES, EXPANSION * path.stat().st_size)


def _reader(stream: pa.NativeFile, name: str, most: int) -> Callable[[int], bytes]:
    """Return a function that reads n bytes, fewer at the end of the file.

    The function raises BadInput if the file is damaged, or after more than `most` bytes in all.
    """
    total = 0

    def read(size: int) -> bytes:
        nonlocal total
        try:
            pieces, have = [], 0
            while have < size and (piece := stream.read(size - have)):
                pieces.append(piece)
                have += len(piece)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{name} is damaged: {error}; copy it again") from error
        total += have
        if total > most:
            raise BadInput(
                f"{name} is damaged: it decompresses to more than {EXPANSION:,} times its size; copy it again"
            )
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
    """Return prices as float64. Division gives the float64 nearest to the decimal; multiplication by 1e-9 does not."""
    undefined = fixed == UNDEFINED_PRICE
    return pa.array(fixed / _PRICE_UNIT, mask=undefined if undefined.any() else None)
