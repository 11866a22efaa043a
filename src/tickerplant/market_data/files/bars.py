"""All bars of a file in memory, for computations without the store. Rows are read in the same way as by `replay`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import BadInput
from tickerplant.core.schemas import VENDOR_BARS
from tickerplant.core.symbols import check_symbol
from tickerplant.core.times import DAY_US, times_of
from tickerplant.market_data.files.block import BrokenRow
from tickerplant.market_data.files.layout import BARS, detect_layout
from tickerplant.market_data.files.open_file import open_file
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.row_reader import RowReader

_DEFAULT_SYMBOL: Final = "FILE"


@dataclass(frozen=True, slots=True)
class FileBars:
    """The bars of a file (`schemas.VENDOR_BARS`) in the file's order, the unreadable rows, and notes for the user."""

    bars: pa.Table
    broken: Sequence[BrokenRow]
    notes: Sequence[str]


def read_bars(path: Path, options: ReadOptions) -> FileBars:
    """Return the bars of a CSV, Parquet or DBN file.

    `options.symbol` selects a symbol of the file's column. If there is no such column, it names the symbol; the default
    is the file's name, or `FILE` if that is not a symbol. Times without a zone are in `options.tz` (default UTC). Bars
    without an interval are labelled 1d if all start at midnight UTC, otherwise 1m; their real length is not checked.
    Raises BadInput for a file that cannot be read, and for ticks.
    """
    file = open_file(path)
    layout = detect_layout(file.header, line=file.header_number)
    if layout.kind != BARS:
        raise BadInput(f"{path.name} has ticks; indicators are computed over bars: open, high, low and close")
    chosen = check_symbol(options.symbol) if options.symbol else None
    has_symbols = "symbol" in layout.columns
    guessed = "interval" not in layout.columns and options.interval is None
    given = replace(
        options,
        symbol=None if has_symbols else chosen or _symbol_of(path),
        interval="1m" if guessed else options.interval,
        tz=options.tz or "UTC",
    )
    reader = RowReader.of(file, layout, given)
    batches: list[pa.RecordBatch] = []
    broken: list[BrokenRow] = []
    for block in file.blocks(layout.used_columns):
        rows = reader.read(block)
        batches.append(rows.batch)
        broken += rows.dead
    bars = pa.Table.from_batches(batches, schema=VENDOR_BARS)
    if has_symbols and chosen is not None:
        bars = bars.filter(pc.equal(bars.column("symbol").cast(pa.utf8()), chosen))
        if not bars.num_rows:
            raise BadInput(f"{path.name} has no bars of {chosen}; it has {', '.join(sorted(reader.symbols)[:20])}")
    if guessed and not (times_of(bars.column("time")) % DAY_US).any():
        at = bars.schema.get_field_index("interval")
        daily = pa.array(["1d"] * bars.num_rows, pa.utf8()).dictionary_encode().cast(bars.schema.field(at).type)
        bars = bars.set_column(at, bars.schema.field(at), daily)
    return FileBars(bars, broken, layout.notes)


def _symbol_of(path: Path) -> str:
    try:
        return check_symbol(path.name.partition(".")[0])
    except BadInput:
        return _DEFAULT_SYMBOL
