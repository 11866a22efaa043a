"""Bars out of a folder of files: what each has is looked up once, what is asked for is read when it is asked for.

Files are read as `replay` reads them. What one does not say itself is told by its name (`AAPL.csv`,
`BTC-USD_5m.csv.gz`) or by the options; bars without an interval are known by their times. What a file has is kept until
its size or its time of change is another. Blocks. Memory holds one block, what was asked for, and files of late
(`CACHE_BYTES`).
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
from tickerplant.core.errors import BadInput
from tickerplant.core.schemas import SMALL_TEXT, VENDOR_BARS
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import DAY_US, Int64Array, times_of, timestamps
from tickerplant.market_data.clients.columns import repeated
from tickerplant.market_data.files.column_roles import BARS, Shape, recognise
from tickerplant.market_data.files.detect import DataFile, open_file
from tickerplant.market_data.files.rows import KEPT, Reading, RowReader

SUFFIXES: Final = (".csv", ".tsv", ".txt", ".parquet", ".pq", ".dbn")
PACKED: Final = (".gz", ".zst")
CACHE_BYTES: Final = 64 * 1024 * 1024
"""Files whose bars are kept in memory, all together: half a million bars."""
TOGETHER_US: Final = 5 * DAY_US
"""Between files no further apart than this (a weekend and a holiday) nothing is missing."""

_BYTES_A_BAR: Final = 96
_GUESS_ROWS: Final = 12  # of fewer, the times tell nothing


@dataclass(frozen=True, slots=True)
class Stretch:
    """From the first bar's start to the last one's end, and how many there are."""

    from_us: int
    to_us: int
    rows: int


@dataclass(slots=True)
class Held:
    """What a file has, by symbol and interval; or why it cannot be read.

    `blocks`: the least and the newest time of each. `guessed`: the interval, where the times told it.
    """

    path: Path
    signature: tuple[int, int]
    reading: Reading = field(default_factory=Reading)
    guessed: str | None = None
    series: dict[tuple[str, str], Stretch] = field(default_factory=dict)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    rows: int = 0
    broken: int = 0
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Bars of one symbol (`schemas.VENDOR_BARS`), oldest first, maybe none; and the stretch that the files speak for.

    That always reaches to the end of what was asked: the newest files that follow each other without a hole, or, where
    those end before, what lies behind them, of which there are no bars.
    """

    bars: pa.RecordBatch | None
    from_us: int
    to_us: int


class Archive:
    """A folder of files, folders within it included, or one file. Belongs to one thread at a time.

    Of a bar that several files have, the last one's by name counts.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        self._path = path
        self._reading = reading
        self._held: dict[Path, Held] = {}
        self._cache: OrderedDict[Path, pa.Table] = OrderedDict()

    @property
    def symbols(self) -> set[str]:
        """Every symbol of which there are bars."""
        return {symbol for held in self._held.values() for symbol, _ in held.series}

    def look(self) -> list[Held]:
        """Look for files that are new, changed or gone; return those that were read, good and bad. Raises OSError."""
        there = {path: (stat.st_mtime_ns, stat.st_size) for path in self._files() for stat in [path.stat()]}
        for path in [path for path in self._held if path not in there]:
            del self._held[path]
            self._cache.pop(path, None)
        looked = []
        for path, signature in there.items():
            held = self._held.get(path)
            if held is None or held.signature != signature:
                self._cache.pop(path, None)
                held = self._held[path] = Held(path, signature)
                self._index(held)
                looked.append(held)
        return looked

    def bars(
        self, symbols: Collection[str], interval: str, from_us: int, to_us: int, source: str
    ) -> tuple[Mapping[str, Found], list[Held]]:
        """Return the bars of `[from, to)` of the symbols that have any; and files that could not be read after all."""
        wanted: dict[str, list[Held]] = {}
        for path in sorted(self._held):
            held = self._held[path]
            for symbol in symbols:
                stretch = held.series.get((symbol, interval))
                if stretch is not None and stretch.from_us < to_us and stretch.to_us > from_us:
                    wanted.setdefault(symbol, []).append(held)
        every = {symbol: _newest_run(holders, (symbol, interval)) for symbol, holders in wanted.items()}
        runs = {symbol: run for symbol, run in every.items() if run[2] >= to_us}
        tables: dict[str, list[pa.Table]] = {}
        failed: list[Held] = []
        files = {held.path: held for run in runs.values() for held in run[0]}
        for path in sorted(files):
            mine = [symbol for symbol, run in runs.items() if files[path] in run[0]]
            try:
                table = self._read(files[path], mine, interval, from_us, to_us)
            except (BadInput, OSError) as error:
                self._give_up(files[path], str(error))
                failed.append(files[path])
                continue
            for symbol in mine:
                tables.setdefault(symbol, []).append(table.filter(pc.equal(table["symbol"].cast(pa.utf8()), symbol)))
        found = {symbol: Found(None, max(from_us, run[2]), to_us) for symbol, run in every.items() if run[2] < to_us}
        for symbol, parts in tables.items():
            bars = _one(pa.concat_tables(parts), symbol, interval, source)
            found[symbol] = Found(bars, max(from_us, runs[symbol][1]), to_us)
        return found, failed

    # Files -----------------------------------------------------------------------------------------------------------

    def _files(self) -> Iterator[Path]:
        if self._path.is_file():
            yield self._path
            return
        for path in self._path.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(self._path).parts)
            if not hidden and _plain(path.name) != path.name and path.is_file():
                yield path

    def _index(self, held: Held) -> None:
        """Read a file through, and take note of what it has."""
        try:
            file = open_file(held.path)
            shape = recognise(file.header, line=file.header_number)
            if shape.kind != BARS:
                raise BadInput("it has ticks, and bars alone are asked for; `tickerplant replay` makes bars of them")
            held.reading = reading_of(held.path.name, shape, self._reading)
            self._scan(held, file, shape)
        except (BadInput, OSError) as error:
            self._give_up(held, str(error))

    def _scan(self, held: Held, file: DataFile, shape: Shape) -> None:
        unknown = held.reading.interval is None and "interval" not in shape.columns
        if unknown:
            held.reading = replace(held.reading, interval=intervals.M1.name)
        reader = _reader(file, shape, held.reading)
        spans: dict[tuple[str, str], tuple[int, int, int]] = {}
        step_us = 0
        for block in file.blocks(shape.wanted):
            rows = reader.read(block)
            held.broken += len(rows.dead)
            held.rows += rows.batch.num_rows
            times = rows.times
            held.blocks.append((int(times.min()), int(times.max())) if len(times) else (0, -1))
            if not len(times):
                continue
            step_us = int(np.gcd.reduce(np.append(times % DAY_US, step_us))) if unknown else 0
            table = pa.Table.from_batches([rows.batch.select(["symbol", "interval", "time"])])
            told = table.group_by(["symbol", "interval"]).aggregate(
                [("time", "min"), ("time", "max"), ("time", "count")]
            )
            least, newest = times_of(told["time_min"]).tolist(), times_of(told["time_max"]).tolist()
            keys = zip(told["symbol"].to_pylist(), told["interval"].to_pylist(), strict=True)
            for key, first, last, count in zip(keys, least, newest, told["time_count"].to_pylist(), strict=True):
                a, b, n = spans.get(key, (first, last, 0))
                spans[key] = (min(a, first), max(b, last), n + count)
        if not held.rows:
            raise BadInput(f"none of its {held.broken} rows can be read")
        if unknown:
            held.guessed = _interval_of(step_us, held.rows)
            spans = {(symbol, held.guessed): span for (symbol, _), span in spans.items()}
        held.series = {
            (symbol, name): Stretch(a, b + intervals.parse(name).us, n) for (symbol, name), (a, b, n) in spans.items()
        }

    def _give_up(self, held: Held, why: str) -> None:
        held.series, held.why_not = {}, why
        self._cache.pop(held.path, None)

    # Bars ------------------------------------------------------------------------------------------------------------

    def _read(self, held: Held, symbols: Sequence[str], interval: str, from_us: int, to_us: int) -> pa.Table:
        """Return a file's bars of `[from, to)` of these symbols, in its order."""
        if held.rows * _BYTES_A_BAR > CACHE_BYTES // 2:
            parts = [_only(part, symbols, interval, from_us, to_us) for part in self._parts(held, from_us, to_us)]
            return pa.concat_tables(parts) if parts else VENDOR_BARS.empty_table()
        whole = self._cache.pop(held.path, None)
        if whole is None:
            parts = list(self._parts(held))
            whole = pa.concat_tables(parts).unify_dictionaries() if parts else VENDOR_BARS.empty_table()
        self._cache[held.path] = whole
        while len(self._cache) > 1 and sum(table.nbytes for table in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return _only(whole, symbols, interval, from_us, to_us)

    def _parts(self, held: Held, from_us: int | None = None, to_us: int | None = None) -> Iterator[pa.Table]:
        """Yield a file's bars by blocks; those that have none of `[from, to)` are left out."""
        stat = held.path.stat()
        if (stat.st_mtime_ns, stat.st_size) != held.signature:
            raise BadInput("it is being written; it will be looked at again")
        file = open_file(held.path)
        shape = recognise(file.header, line=file.header_number)
        reader = _reader(file, shape, held.reading)
        for at, block in enumerate(file.blocks(shape.wanted)):
            if from_us is not None and to_us is not None and held.reading.tz is None:  # a zone's hours go by all rows
                least, newest = held.blocks[at] if at < len(held.blocks) else (from_us, to_us)
                if least >= to_us or newest < from_us:
                    continue
            batch = reader.read(block).batch
            if held.guessed is not None:
                index = batch.schema.get_field_index("interval")
                column = repeated(held.guessed, batch.num_rows, SMALL_TEXT)
                batch = batch.set_column(index, batch.schema.field(index), column)
            yield pa.Table.from_batches([batch])


def reading_of(name: str, shape: Shape, options: Reading) -> Reading:
    """Return how a file is to be read: what it says itself, then what its name says, then the options.

    `AAPL.csv` is of AAPL, `BRK.B_1d.parquet` of BRK.B and has days. Raises BadInput where nothing names the symbol.
    """
    told_symbol, told_interval = "symbol" in shape.columns, "interval" in shape.columns
    plain = _plain(name)
    stem, _, last = plain.replace("_", " ").rpartition(" ")
    length = _kept(last) if stem else None
    if length is not None:
        plain = plain[: -len(last) - 1]
    symbol = None
    if not told_symbol:
        try:
            symbol = check_symbol(plain)
        except BadInput as error:
            raise BadInput(f"no column says the symbol, and neither does its name: {error}") from None
    interval = None if told_interval else length or options.interval
    return replace(options, symbol=symbol, interval=interval)


def _plain(name: str) -> str:
    """Return a file's name without what says its kind; the name as it is if that is none that is read."""
    for packed in (*PACKED, ""):
        stem = name.lower().removesuffix(packed)
        for suffix in SUFFIXES:
            if stem.endswith(suffix) and len(stem) > len(suffix) and name.lower().endswith(packed):
                return name[: len(stem) - len(suffix)]
    return name


def _kept(text: str) -> str | None:
    try:
        found = intervals.parse(text)
    except BadInput:
        return None
    return found.name if found in KEPT else None


def _interval_of(step_us: int, rows: int) -> str:
    """Return the interval of bars whose times from midnight have this in common. Raises BadInput if it is unclear."""
    if rows >= _GUESS_ROWS:
        for length in KEPT:
            if step_us % DAY_US == length.us % DAY_US:
                return length.name
    raise BadInput(
        "the bars' interval cannot be told from their times; say it in its name (AAPL_1m.csv) or as an option"
    )


def _reader(file: DataFile, shape: Shape, reading: Reading) -> RowReader:
    return RowReader(file.path.name, file.unit, shape, reading, header=file.header_number)


def _newest_run(holders: Sequence[Held], key: tuple[str, str]) -> tuple[list[Held], int, int]:
    """Return the files that follow each other without a hole up to the newest of them, and their stretch."""
    order = sorted(holders, key=lambda held: held.series[key].to_us, reverse=True)
    run, from_us, to_us = [order[0]], order[0].series[key].from_us, order[0].series[key].to_us
    for held in order[1:]:
        stretch = held.series[key]
        if stretch.to_us < from_us - TOGETHER_US:
            break
        run.append(held)
        from_us = min(from_us, stretch.from_us)
    return run, from_us, to_us


def _only(table: pa.Table, symbols: Sequence[str], interval: str, from_us: int, to_us: int) -> pa.Table:
    times = times_of(table["time"])
    rows = pa.array((times >= from_us) & (times < to_us))
    table = table.filter(rows)
    table = table.filter(pc.is_in(table["symbol"].cast(pa.utf8()), pa.array(symbols, pa.utf8())))
    return table.filter(pc.equal(table["interval"].cast(pa.utf8()), interval))


def _one(table: pa.Table, symbol: str, interval: str, source: str) -> pa.RecordBatch:
    """Return the bars of one symbol, oldest first; of each time the last in the table."""
    times = times_of(table["time"])
    order = np.argsort(times, kind="stable")
    inorder: Int64Array = times[order]
    last = np.append(inorder[1:] != inorder[:-1], True)[: len(order)]
    rows = order[last]
    table = table.take(pa.array(rows)).combine_chunks()
    values = [table[name].combine_chunks() for name in ("open", "high", "low", "close", "volume", "vwap", "trades")]
    count = len(rows)
    return pa.RecordBatch.from_arrays(
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
