"""Which options change what a file's rows say. Its feed is named by these alone: the same rows are the same feed.

An option that says what the file says itself is no other way of reading it. What can be told from the first rows is
told from them; for a source or a table of conditions that was named, the file's own columns are read through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.market_data.files import conditions
from tickerplant.market_data.files.column_roles import Shape
from tickerplant.market_data.files.detect import DataFile
from tickerplant.market_data.files.rows import DEFAULT_SOURCE, Reading, RowReader
from tickerplant.market_data.files.times import same_zone


@dataclass(frozen=True, slots=True)
class Effect:
    """The options that took effect, in one spelling, and what to tell the user of those that did not."""

    reading: Reading
    notes: tuple[str, ...]


def effect_of(file: DataFile, shape: Shape, reading: Reading) -> Effect:
    """Return what of `reading` changes the rows of this file. Raises BadInput as reading the rows does."""
    reader = RowReader(file.path.name, file.unit, shape, reading, header=file.header_number)
    for block in file.blocks(reader.scan_columns()):
        reader.scan(block)
        if reader.times is not None:
            break
    times, notes = reader.times, []
    tz = same_zone(reading.tz) if reading.tz and times is not None and times.takes_zone else None
    order = reading.date_order if times is not None and times.takes_order else None
    if reading.tz and not tz:
        notes.append("--tz has no effect: no time needs a zone to be told")
    if reading.date_order and times is not None and not times.is_slashed:
        notes.append("--date-order has no effect: no date is written with slashes or dots")
    source = reading.source
    if "source" in shape.columns and source != DEFAULT_SOURCE and not _has_gaps(file, shape.columns["source"]):
        source = DEFAULT_SOURCE
        notes.append("--source has no effect: the file says its sources itself")
    table = reading.conditions if reading.conditions and _table_matters(file, shape, reading.conditions) else None
    return Effect(Reading(reader.given_symbol, reader.given_interval, tz, order, source, table), tuple(notes))


def _has_gaps(file: DataFile, name: str) -> bool:
    """Whether a column has a value that is missing or empty."""
    for block in file.blocks([name]):
        column = block.columns[name]
        if column.null_count or pc.any(pc.equal(column.cast(pa.utf8()), "")).as_py():
            return True
    return False


def _table_matters(file: DataFile, shape: Shape, name: str) -> bool:
    """Whether some trade's conditions mean something else by this table than without one."""
    if "conditions" not in shape.columns:
        return False
    told, tape = shape.columns["conditions"], shape.columns.get("tape")
    reader = conditions.Conditions()
    for block in file.blocks([told, tape] if tape else [told]):
        column, tapes = block.columns[told], block.columns[tape] if tape else None
        named = reader.read(column, conditions.named(name), None)
        if not np.array_equal(named, reader.read(column, conditions.EITHER, tapes)):
            return True
    return False
