"""All bars of a file in memory, for computations without the store. Rows are read in the same way as by `replay`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import interval as intervals
from tickerplant.core.errors import BadInput
from tickerplant.core.schemas import VENDOR_BARS
from tickerplant.core.symbols import check_symbol
from tickerplant.market_data.files.bar_folder import symbol_in
from tickerplant.market_data.files.block import BrokenRow, with_advice
from tickerplant.market_data.files.file_layout import layout_of
from tickerplant.market_data.files.layout import BARS, CLOSES, TICKS, FileLayout
from tickerplant.market_data.files.numbers import NumberFormat
from tickerplant.market_data.files.open_file import DataFile, errors_of, open_file
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.row_reader import RowReader
from tickerplant.market_data.files.written_times import written_clock

_DEFAULT_SYMBOL: Final = "FILE"


@dataclass(frozen=True, slots=True)
class FileBars:
    """The bars of a file in the file's order, the unreadable rows, and notes for the user.

    `bars` has the columns of `schemas.VENDOR_BARS`. Bars of a file of closes have `symbol`, `interval` and `close`, and
    `time` if the file has times. `choices`: notes about choices between two readings.
    """

    bars: pa.Table
    broken: Sequence[BrokenRow]
    notes: Sequence[str]
    choices: Sequence[str] = ()


def read_bars(path: Path, options: ReadOptions) -> FileBars:
    """Return the bars or the closes of a CSV, Parquet or DBN file.

    `options.symbol` selects a symbol of the file's column. If there is no such column, the option is the symbol. Its
    default is the file's name, or `FILE` if the name is not a symbol. Times without a zone are in `options.tz` (default
    UTC). Bars without an interval are labelled 1d if all are stamped with dates or midnights, otherwise 1m; their real
    length is not checked. Closes without times and without an interval are labelled 1d. Raises BadInput for a file that
    cannot be read, and for ticks.
    """
    with errors_of(path):
        return _read_file(path, options)


def _read_file(path: Path, options: ReadOptions) -> FileBars:
    file = open_file(path)
    layout = layout_of(file, options)
    is_closes = layout.kind == CLOSES or (layout.kind == TICKS and set(layout.columns) <= {"time", "symbol", "price"})
    if layout.kind != BARS and not is_closes:
        raise BadInput(f"{path.name} has ticks; indicators need a file of bars: open, high, low and close")
    chosen = check_symbol(options.symbol) if options.symbol else None
    symbol = None if "symbol" in layout.columns else chosen or layout.symbol or _symbol_of(path)
    given = replace(options, symbol=symbol, interval=options.interval)
    if is_closes and "time" not in layout.columns:
        return _closes_without_times(file, layout, given)
    if is_closes:
        layout = _as_bars(layout)
    if options.tz is None:
        layout = replace(layout, zone=layout.zone or "UTC")
    if "interval" not in layout.columns and options.interval is None:
        is_daily = written_clock(file, layout, given)[0] == 0
        given = replace(given, interval=(intervals.D1 if is_daily else intervals.M1).name)
    found = _read(file, layout, given)
    if symbol is None and chosen is not None:
        found = replace(found, bars=_of_symbol(found.bars, chosen, path.name))
    if is_closes:
        found = replace(found, bars=found.bars.select(["time", "symbol", "interval", "close"]))
    return found


def _read(file: DataFile, layout: FileLayout, options: ReadOptions) -> FileBars:
    reader = RowReader.of(file, layout, options)
    batches: list[pa.RecordBatch] = []
    broken: list[BrokenRow] = []
    for block in file.blocks(layout.used_columns):
        rows = reader.read(block)
        batches.append(rows.batch)
        broken += rows.dead
    if broken and not any(batch.num_rows for batch in batches):
        raise BadInput(f"none of the {len(broken)} rows can be read; {with_advice(broken[0].reason)}")
    bars = pa.Table.from_batches(batches, schema=VENDOR_BARS)
    return FileBars(bars, broken, layout.notes, (*layout.choices, *reader.choices))


def _of_symbol(bars: pa.Table, symbol: str, name: str) -> pa.Table:
    symbols = bars.column("symbol").cast(pa.utf8())
    chosen = bars.filter(pc.equal(symbols, symbol))
    if not chosen.num_rows:
        found = ", ".join(sorted(pc.unique(symbols).to_pylist())[:20])
        raise BadInput(f"{name} has no bars of {symbol}; it has {found}")
    return chosen


def _as_bars(layout: FileLayout) -> FileLayout:
    """Return a layout of bars for a file of closes: the close is the column of all four prices."""
    close = layout.columns.get("close") or layout.columns["price"]
    named = {role: column for role, column in layout.columns.items() if role in ("time", "symbol", "interval")}
    columns = named | dict.fromkeys(("open", "high", "low", "close"), close)
    notes = tuple(note for note in layout.notes if not note.startswith("no column for"))
    return replace(layout, kind=BARS, columns=columns, notes=notes)


def _closes_without_times(file: DataFile, layout: FileLayout, options: ReadOptions) -> FileBars:
    """Return the closes of a file without times, in its order."""
    name = layout.columns.get("close") or layout.columns["price"]
    numbers, closes, broken = NumberFormat(options.decimal), [np.empty(0)], []
    for block in file.blocks([name]):
        column = block.columns[name]
        if not len(column):
            continue
        numbers.detect([column], int(block.numbers[0]))
        values, missing, invalid = numbers.read(column)
        bad = missing | invalid
        for row in np.flatnonzero(bad).tolist():
            place = f"{file.path.name} {file.unit} {block.numbers[row]}"
            reason = f"{place}: {numbers.why_invalid('close', column[row].as_py())}"
            broken.append(BrokenRow(int(block.numbers[row]), reason, b""))
        closes.append(values[~bad])
    found = np.concatenate(closes)
    if not len(found):
        raise BadInput(f"{file.path.name} has no closes" + (f"; {broken[0].reason}" if broken else ""))
    bars = pa.table(
        {
            "symbol": pa.array([options.symbol or _DEFAULT_SYMBOL] * len(found)),
            "interval": pa.array([options.interval or intervals.D1.name] * len(found)),
            "close": found,
        }
    )
    return FileBars(bars, broken, layout.notes, layout.choices)


def _symbol_of(path: Path) -> str:
    try:
        return check_symbol(symbol_in(path.name))
    except BadInput:
        return _DEFAULT_SYMBOL
