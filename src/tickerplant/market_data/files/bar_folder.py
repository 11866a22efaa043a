"""The bars of a folder of files, by symbol, interval and range. Each file is indexed once; bars are read on request.

Rows are read in the same way as by `replay`. The symbol and the interval are in the columns or in the file's name
(`AAPL.csv`, `BTC-USD_5m.csv.gz`). The interval may also be an option; otherwise it follows from the times. An index
entry is valid until the size or the modification time of its file changes. Calls block. Memory contains one block, the
requested bars, and the files read last (`CACHE_BYTES`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import interval as intervals
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.errors import BadInput
from tickerplant.core.schemas import SMALL_TEXT, VENDOR_BARS
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import DAY_US, Int64Array
from tickerplant.market_data.feed.validation import find_conflict
from tickerplant.market_data.files.bar_checks import BarChecks
from tickerplant.market_data.files.block import with_advice
from tickerplant.market_data.files.file_layout import layout_of
from tickerplant.market_data.files.layout import BARS, FileLayout
from tickerplant.market_data.files.open_file import DataFile, open_file, read_errors
from tickerplant.market_data.files.options import INTERVALS, ReadOptions
from tickerplant.market_data.files.row_reader import RowReader
from tickerplant.market_data.files.written_times import written_clock
from tickerplant.market_data.vendors.columns import repeated

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".dbn")
COMPRESSED_SUFFIXES: Final = (".gz", ".zst")
CACHE_BYTES: Final = 64 * 1024 * 1024
"""Maximum number of bytes of all cached bars: about 700,000 bars."""
ADJACENT_US: Final = 5 * DAY_US
"""Maximum time between two files that count as adjacent: a weekend and a holiday."""

_BYTES_PER_BAR: Final = 96
_MISFIT: Final = "rename the file or set the option `interval`; the option `force_interval` reads the bars as they are"
_MISFIT_COLUMN: Final = "correct the column of intervals; the option `force_interval` reads the bars as they are"
_MIN_ROWS_TO_GUESS: Final = 12  # fewer times do not show an interval


@dataclass(frozen=True, slots=True)
class BarSpan:
    """The range from the first bar's start to the last bar's end, and the number of bars."""

    start_us: int
    end_us: int
    rows: int


@dataclass(slots=True)
class IndexedFile:
    """The index of one file: the spans by symbol and interval, or the reason why it cannot be read.

    `first_reason`: the reason why the first of the `broken` rows cannot be read; "" if none is broken. `blocks`: the
    first and the last time of each block. `choices`: notes about choices between two readings.
    """

    path: Path
    signature: tuple[int, int]
    options: ReadOptions = field(default_factory=ReadOptions)
    series: dict[tuple[str, str], BarSpan] = field(default_factory=dict)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    rows: int = 0
    broken: int = 0
    error: str | None = None
    choices: tuple[str, ...] = ()
    first_reason: str = ""


@dataclass(frozen=True, slots=True)
class FoundBars:
    """Bars of one symbol (`schemas.VENDOR_BARS`), oldest first, and the range that the files cover.

    The range always ends at the end of the request. It begins with the newest files that are at most ADJACENT_US
    apart. If these files end before the request ends, the range is the part after them, and `bars` is None.
    `conflict`: a note about rows of one bar that differ; None if there are none.
    """

    bars: pa.RecordBatch | None
    start_us: int
    end_us: int
    conflict: str | None = None


class BarFolder:
    """A folder of files, including its subfolders, or one file. Belongs to one thread at a time.

    If several files have the same bar, the bar of the last file by name is returned. `force_interval`: read bars whose
    times do not fit their interval.
    """

    def __init__(self, path: Path, options: ReadOptions, *, force_interval: bool = False) -> None:
        self._path = path
        self._force_interval = force_interval
        self._options = options
        self._files: dict[Path, IndexedFile] = {}
        self._cache: OrderedDict[Path, pa.Table] = OrderedDict()

    @property
    def symbols(self) -> set[str]:
        """Return all symbols with bars."""
        return {symbol for indexed in self._files.values() for symbol, _ in indexed.series}

    def scan(self) -> list[IndexedFile]:
        """Update the index; return the files that were read, including those with an error. Raises OSError."""
        present = {path: (stat.st_mtime_ns, stat.st_size) for path in self._paths() for stat in [path.stat()]}
        for path in [path for path in self._files if path not in present]:
            del self._files[path]
            self._cache.pop(path, None)
        scanned = []
        for path, signature in present.items():
            indexed = self._files.get(path)
            if indexed is None or indexed.signature != signature:
                self._cache.pop(path, None)
                indexed = self._files[path] = IndexedFile(path, signature)
                self._index(indexed)
                scanned.append(indexed)
        return scanned

    def bars(
        self, symbols: Collection[str], interval: str, start_us: int, end_us: int, source: str
    ) -> tuple[Mapping[str, FoundBars], list[IndexedFile]]:
        """Return the bars in `[start_us, end_us)` by symbol, and the files that cannot be read.

        Symbols without a file of bars in the range are omitted.
        """
        wanted: dict[str, list[IndexedFile]] = {}
        for path in sorted(self._files):
            indexed = self._files[path]
            for symbol in symbols:
                span = indexed.series.get((symbol, interval))
                if span is not None and span.start_us < end_us and span.end_us > start_us:
                    wanted.setdefault(symbol, []).append(indexed)
        newest = {symbol: _newest_run(candidates, (symbol, interval)) for symbol, candidates in wanted.items()}
        runs = {symbol: run for symbol, run in newest.items() if run[2] >= end_us}
        tables: dict[str, list[pa.Table]] = {}
        failed: list[IndexedFile] = []
        files = {indexed.path: indexed for run in runs.values() for indexed in run[0]}
        for path in sorted(files):
            requested = [symbol for symbol, run in runs.items() if files[path] in run[0]]
            try:
                with read_errors(path):
                    table = self._read(files[path], requested, interval, start_us, end_us)
            except (BadInput, OSError) as error:
                self._set_error(files[path], str(error))
                failed.append(files[path])
                continue
            for symbol in requested:
                tables.setdefault(symbol, []).append(table.filter(pc.equal(table["symbol"].cast(pa.utf8()), symbol)))
        found = {
            symbol: FoundBars(None, max(start_us, run[2]), end_us) for symbol, run in newest.items() if run[2] < end_us
        }
        for symbol, parts in tables.items():
            bars, conflict = _bars_of(pa.concat_tables(parts), symbol, interval, source)
            found[symbol] = FoundBars(bars, max(start_us, runs[symbol][1]), end_us, conflict)
        return found, failed

    # Files -----------------------------------------------------------------------------------------------------------

    def _paths(self) -> Iterator[Path]:
        if self._path.is_file():
            yield self._path
            return
        for path in self._path.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(self._path).parts)
            if not hidden and _without_suffixes(path.name) != path.name and path.is_file():
                yield path

    def _index(self, indexed: IndexedFile) -> None:
        """Read a whole file, and index its spans."""
        try:
            with read_errors(indexed.path):
                self._index_file(indexed)
        except (BadInput, OSError) as error:
            self._set_error(indexed, str(error))

    def _index_file(self, indexed: IndexedFile) -> None:
        file = open_file(indexed.path)
        layout = self._layout(indexed, file)
        if layout.kind != BARS:
            raise BadInput(
                f"it has {layout.kind}; only files of bars are read here. Import ticks with `tickerplant replay`"
            )
        indexed.options = options_of(indexed.path.name, layout, self._options)
        if indexed.options.interval is None and "interval" not in layout.columns:
            indexed.options = replace(
                indexed.options, interval=_interval_of(*written_clock(file, layout, indexed.options))
            )
        self._scan(indexed, file, layout)

    def _scan(self, indexed: IndexedFile, file: DataFile, layout: FileLayout) -> None:
        reader, checker = (RowReader.of(file, layout, indexed.options) for _ in range(2))
        checks = BarChecks()
        spans: dict[tuple[str, str], tuple[int, int, int]] = {}
        first_reason = ""
        for block in file.blocks(layout.used_columns):
            rows = reader.read(block)
            checker.scan(block, checks)
            indexed.broken += len(rows.dead)
            first_reason = first_reason or (rows.dead[0].reason if rows.dead else "")
            indexed.rows += rows.batch.num_rows
            times = rows.times
            indexed.blocks.append((int(times.min()), int(times.max())) if len(times) else (0, -1))
            if not len(times):
                continue
            table = pa.Table.from_batches([rows.batch.select(["symbol", "interval", "time"])])
            spans_of = table.group_by(["symbol", "interval"]).aggregate(
                [("time", "min"), ("time", "max"), ("time", "count")]
            )
            least, newest = times_of(spans_of["time_min"]).tolist(), times_of(spans_of["time_max"]).tolist()
            keys = zip(spans_of["symbol"].to_pylist(), spans_of["interval"].to_pylist(), strict=True)
            for key, first, last, count in zip(keys, least, newest, spans_of["time_count"].to_pylist(), strict=True):
                a, b, n = spans.get(key, (first, last, 0))
                spans[key] = (min(a, first), max(b, last), n + count)
        indexed.choices, indexed.first_reason = (*layout.choices, *reader.choices), first_reason
        if not indexed.rows:
            raise BadInput(f"none of its {indexed.broken} rows can be read; {with_advice(first_reason)}")
        try:
            checks.check_intervals(_MISFIT_COLUMN if "interval" in layout.columns else _MISFIT)
        except BadInput as error:
            if not self._force_interval:
                raise
            indexed.choices += (f"force_interval: read although {error}",)
        indexed.series = {
            (symbol, name): BarSpan(a, b + intervals.parse(name).us, n) for (symbol, name), (a, b, n) in spans.items()
        }

    def _set_error(self, indexed: IndexedFile, error: str) -> None:
        indexed.series, indexed.error = {}, error
        self._cache.pop(indexed.path, None)

    def _layout(self, indexed: IndexedFile, file: DataFile) -> FileLayout:
        named = replace(self._options, symbol=self._options.symbol or symbol_in(indexed.path.name))
        return layout_of(file, named, is_bars=_interval_in(indexed.path.name) is not None)

    # Bars ------------------------------------------------------------------------------------------------------------

    def _read(
        self, indexed: IndexedFile, symbols: Sequence[str], interval: str, start_us: int, end_us: int
    ) -> pa.Table:
        """Return a file's bars of these symbols in `[start_us, end_us)`, in the file's order."""
        if indexed.rows * _BYTES_PER_BAR > CACHE_BYTES // 2:
            parts = [
                _filtered(part, symbols, interval, start_us, end_us) for part in self._parts(indexed, start_us, end_us)
            ]
            return pa.concat_tables(parts) if parts else VENDOR_BARS.empty_table()
        whole = self._cache.pop(indexed.path, None)
        if whole is None:
            parts = list(self._parts(indexed))
            whole = pa.concat_tables(parts).unify_dictionaries() if parts else VENDOR_BARS.empty_table()
        self._cache[indexed.path] = whole
        while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return _filtered(whole, symbols, interval, start_us, end_us)

    def _parts(
        self, indexed: IndexedFile, start_us: int | None = None, end_us: int | None = None
    ) -> Iterator[pa.Table]:
        """Yield a file's bars by block; blocks without a bar in `[start_us, end_us)` are skipped."""
        stat = indexed.path.stat()
        if (stat.st_mtime_ns, stat.st_size) != indexed.signature:
            raise BadInput("the file is being written; the next scan reads it again")
        file = open_file(indexed.path)
        layout = self._layout(indexed, file)
        reader = RowReader.of(file, layout, indexed.options)
        for at, block in enumerate(file.blocks(layout.used_columns)):
            # If a zone is set, no block is skipped: the meaning of a repeated hour depends on all earlier rows.
            if start_us is not None and end_us is not None and indexed.options.tz is None:
                least, newest = indexed.blocks[at] if at < len(indexed.blocks) else (start_us, end_us)
                if least >= end_us or newest < start_us:
                    continue
            yield pa.Table.from_batches([reader.read(block).batch])


def options_of(name: str, layout: FileLayout, options: ReadOptions) -> ReadOptions:
    """Return the options for a file, with the symbol and the interval that its columns do not contain.

    The symbol is in the lines above the header or in the file's name. The interval is in the file's name or in
    `options`.

    `AAPL.csv` has bars of AAPL, and `BRK.B_1d.parquet` has daily bars of BRK.B. Raises BadInput if neither the file nor
    its name contains the symbol.
    """
    symbol = None
    if "symbol" not in layout.columns:
        try:
            symbol = layout.symbol or check_symbol(symbol_in(name))
        except BadInput as error:
            raise BadInput(
                f"no column has the symbol, and the file's name is not a symbol: {error}; rename the file"
            ) from None
    interval = None if "interval" in layout.columns else _interval_in(name) or options.interval
    return replace(options, symbol=symbol, interval=interval)


def symbol_in(name: str) -> str:
    """Return the part of a file's name that is the symbol, unchecked: BTC-USD from `BTC-USD_5m.csv.gz`."""
    base = _without_suffixes(name)
    stem, _, last = base.replace("_", " ").rpartition(" ")
    return base[: -len(last) - 1] if stem and _interval_named(last) else base


def _interval_in(name: str) -> str | None:
    """Return the interval in a file's name; None if there is none."""
    stem, _, last = _without_suffixes(name).replace("_", " ").rpartition(" ")
    return _interval_named(last) if stem else None


def _without_suffixes(name: str) -> str:
    """Return a file's name without its suffixes; the unchanged name if its format is not supported."""
    for compressed in (*COMPRESSED_SUFFIXES, ""):
        stem = name.lower().removesuffix(compressed)
        for suffix in SUFFIXES:
            if stem.endswith(suffix) and len(stem) > len(suffix) and name.lower().endswith(compressed):
                return name[: len(stem) - len(suffix)]
    return name


def _interval_named(text: str) -> str | None:
    try:
        found = intervals.parse(text)
    except BadInput:
        return None
    return found.name if found in INTERVALS else None


def _interval_of(step_us: int, rows: int) -> str:
    """Return the interval that follows from the common divisor of the times of day.

    Raises BadInput if there is none, or if there are fewer than _MIN_ROWS_TO_GUESS rows.
    """
    if rows >= _MIN_ROWS_TO_GUESS:
        for length in INTERVALS:
            if step_us % DAY_US == length.us % DAY_US:
                return length.name
    raise BadInput(
        "the interval of the bars does not follow from their times; "
        "add it to the file's name (AAPL_1m.csv), or set the option `interval`"
    )


def _newest_run(candidates: Sequence[IndexedFile], key: tuple[str, str]) -> tuple[list[IndexedFile], int, int]:
    """Return the newest files that are at most ADJACENT_US apart, and the start and end of their bars."""
    order = sorted(candidates, key=lambda indexed: indexed.series[key].end_us, reverse=True)
    run, start_us, end_us = [order[0]], order[0].series[key].start_us, order[0].series[key].end_us
    for indexed in order[1:]:
        span = indexed.series[key]
        if span.end_us < start_us - ADJACENT_US:
            break
        run.append(indexed)
        start_us = min(start_us, span.start_us)
    return run, start_us, end_us


def _filtered(table: pa.Table, symbols: Sequence[str], interval: str, start_us: int, end_us: int) -> pa.Table:
    times = times_of(table["time"])
    rows = pa.array((times >= start_us) & (times < end_us))
    table = table.filter(rows)
    table = table.filter(pc.is_in(table["symbol"].cast(pa.utf8()), pa.array(symbols, pa.utf8())))
    return table.filter(pc.equal(table["interval"].cast(pa.utf8()), interval))


def _bars_of(table: pa.Table, symbol: str, interval: str, source: str) -> tuple[pa.RecordBatch, str | None]:
    """Return the bars of one symbol, oldest first, and a note about rows of one time that differ.

    The note is None if there are no such rows.     Only the last row of each time is kept.
    """
    times = times_of(table["time"])
    order = np.argsort(times, kind="stable")
    ascending: Int64Array = times[order]
    last = np.append(ascending[1:] != ascending[:-1], True)[: len(order)]
    rows = order[last]
    conflict = find_conflict(table)
    table = table.take(pa.array(rows)).combine_chunks()
    values = [table[name].combine_chunks() for name in ("open", "high", "low", "close", "volume", "vwap", "trades")]
    count = len(rows)
    batch = pa.RecordBatch.from_arrays(
        [
            timestamps(times[rows]),
            repeated(symbol, count),
            repeated(interval, count, SMALL_TEXT),
            *(value.chunk(0) if isinstance(value, pa.ChunkedArray) else value for value in values),
            repeated(source, count),
            pa.array(np.ones(count, dtype=np.bool_)),
        ],
        schema=VENDOR_BARS,
    )
    return batch, conflict.note if conflict is not None else None
