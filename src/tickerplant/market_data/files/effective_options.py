"""The options that change the rows of a file. They are part of the name of its feed: the same rows have the same feed.

An option that repeats a fact of the file has no effect. Most effects follow from the first rows. For `--source` and
`--conditions`, the file's column is read until an effect is found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.market_data.files import conditions
from tickerplant.market_data.files.layout import FileLayout
from tickerplant.market_data.files.open_file import DataFile
from tickerplant.market_data.files.options import DEFAULT_SOURCE, ReadOptions
from tickerplant.market_data.files.row_reader import RowReader
from tickerplant.market_data.files.time_column import canonical_zone


@dataclass(frozen=True, slots=True)
class EffectiveOptions:
    """The options with an effect, each in one spelling.

    `notes`: sentences for the user about `--tz`, `--date-order` and `--source`, for those that have no effect.
    """

    options: ReadOptions
    notes: tuple[str, ...]


def effective_options(file: DataFile, layout: FileLayout, options: ReadOptions) -> EffectiveOptions:
    """Return the options that change the rows of this file. Raises BadInput as the reading of rows does."""
    reader = RowReader.of(file, layout, options)
    for block in file.blocks(reader.scan_columns()):
        reader.scan(block)
        if reader.times is not None:
            break
    times, notes = reader.times, []
    tz = canonical_zone(options.tz) if options.tz and times is not None and times.takes_zone else None
    order = options.date_order if times is not None and times.takes_order else None
    if options.tz and not tz:
        notes.append("--tz has no effect: no time in the file needs a zone")
    if options.date_order and times is not None and not times.is_slashed:
        notes.append("--date-order has no effect: no date has slashes or dots")
    source = options.source
    if "source" in layout.columns and source != DEFAULT_SOURCE and not _has_gaps(file, layout.columns["source"]):
        source = DEFAULT_SOURCE
        notes.append("--source has no effect: each row of the file has a source")
    table = options.conditions if options.conditions and _table_matters(file, layout, options.conditions) else None
    return EffectiveOptions(
        ReadOptions(reader.given_symbol, reader.given_interval, tz, order, source, table), tuple(notes)
    )


def _has_gaps(file: DataFile, name: str) -> bool:
    """Return True if a column has a null or empty value."""
    for block in file.blocks([name]):
        column = block.columns[name]
        if column.null_count or pc.any(pc.equal(column.cast(pa.utf8()), "")).as_py():
            return True
    return False


def _table_matters(file: DataFile, layout: FileLayout, name: str) -> bool:
    """Return True if this table gives any trade other flags than the default table."""
    if "conditions" not in layout.columns:
        return False
    codes, tape = layout.columns["conditions"], layout.columns.get("tape")
    decoder = conditions.ConditionDecoder()
    for block in file.blocks([codes, tape] if tape else [codes]):
        column, tapes = block.columns[codes], block.columns[tape] if tape else None
        named = decoder.flags(column, conditions.table_named(name), None)
        if not np.array_equal(named, decoder.flags(column, conditions.EITHER_TAPE, tapes)):
            return True
    return False
