"""All bars of a file at once, as `replay` reads them, for whoever wants to compute over them and not to keep them."""

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
from tickerplant.market_data.files.blocks import BrokenRow
from tickerplant.market_data.files.column_roles import BARS, recognise
from tickerplant.market_data.files.detect import open_file
from tickerplant.market_data.files.rows import Reading, RowReader

_NO_NAME: Final = "FILE"


@dataclass(frozen=True, slots=True)
class FileBars:
    """What a file holds: bars (`schemas.VENDOR_BARS`) in its order, rows that could not be read, notes for the user."""

    bars: pa.Table
    broken: Sequence[BrokenRow]
    notes: Sequence[str]


def read_bars(path: Path, reading: Reading) -> FileBars:
    """Return the bars of a CSV, Parquet or DBN file.

    `reading.symbol` names the symbol of a file that has no such column, else it chooses among them; without one the
    file's name is the symbol. Times that name no zone are UTC unless `reading.tz` says which. Bars that say no interval
    are daily if all lie at midnight UTC, else of minutes: what they are called, not how long they are. Raises BadInput
    for what cannot be read, and a file of ticks.
    """
    file = open_file(path)
    shape = recognise(file.header, line=file.header_number)
    if shape.kind != BARS:
        raise BadInput(f"{path.name} has ticks; indicators are computed over bars: open, high, low and close")
    chosen = check_symbol(reading.symbol) if reading.symbol else None
    named = "symbol" in shape.columns
    guessed = "interval" not in shape.columns and reading.interval is None
    reader = RowReader(
        path.name,
        file.unit,
        shape,
        replace(
            reading,
            symbol=None if named else chosen or _symbol_of(path),
            interval="1m" if guessed else reading.interval,
            tz=reading.tz or "UTC",
        ),
        header=file.header_number,
    )
    batches: list[pa.RecordBatch] = []
    broken: list[BrokenRow] = []
    for block in file.blocks(shape.wanted):
        rows = reader.read(block)
        batches.append(rows.batch)
        broken += rows.dead
    bars = pa.Table.from_batches(batches, schema=VENDOR_BARS)
    if named and chosen is not None:
        bars = bars.filter(pc.equal(bars.column("symbol").cast(pa.utf8()), chosen))
        if not bars.num_rows:
            raise BadInput(f"{path.name} has no bars of {chosen}; it has {', '.join(sorted(reader.symbols)[:20])}")
    if guessed and not (times_of(bars.column("time")) % DAY_US).any():
        at = bars.schema.get_field_index("interval")
        daily = pa.array(["1d"] * bars.num_rows, pa.utf8()).dictionary_encode().cast(bars.schema.field(at).type)
        bars = bars.set_column(at, bars.schema.field(at), daily)
    return FileBars(bars, broken, shape.notes)


def _symbol_of(path: Path) -> str:
    try:
        return check_symbol(path.name.partition(".")[0])
    except BadInput:
        return _NO_NAME
