"""The options that change the rows of a file. They are part of the name of its feed: the same rows have the same feed.

An option that repeats a fact of the file has no effect. Most effects follow from the first rows. The file's column is
read until an effect of `--source` or `--conditions` is found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.errors import BadInput
from tickerplant.market_data.files import conditions
from tickerplant.market_data.files.file_layout import layout_of
from tickerplant.market_data.files.layout import BARS, FileLayout
from tickerplant.market_data.files.open_file import DataFile
from tickerplant.market_data.files.options import DEFAULT_SOURCE, ReadOptions
from tickerplant.market_data.files.row_reader import RowReader
from tickerplant.market_data.files.time_column import canonical_zone


@dataclass(frozen=True, slots=True)
class EffectiveOptions:
    """The options with an effect, each in one spelling, and a note for the user about each option without effect.

    `choices`: notes about choices between two readings. `changes`: names of the rules by which rows differ from the
    rows that the first version of the program read. They are part of the feed's name.
    """

    options: ReadOptions
    notes: tuple[str, ...]
    choices: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


def effective_options(file: DataFile, layout: FileLayout, options: ReadOptions) -> EffectiveOptions:
    """Return the options that change the rows of this file. Raises BadInput as the reading of rows does."""
    reader = RowReader.of(file, layout, options)
    for block in file.blocks(layout.used_columns):
        reader.detect_numbers(block)
        reader.scan(block)
        if reader.times is not None:
            break
    times, notes = reader.times, []
    tz = canonical_zone(options.tz) if options.tz and times is not None and times.takes_zone else None
    order = options.date_order if times is not None and times.takes_order else None
    if options.tz and not tz:
        notes.append("--tz has no effect: no time in the file needs a zone")
    if options.date_order and times is not None and not times.is_ordered:
        notes.append("--date-order has no effect: no date has slashes or dots")
    if options.decimal and not reader.takes_decimal:
        notes.append("--decimal has no effect: the decimal mark follows from the numbers")
    source = options.source
    if "source" in layout.columns and source != DEFAULT_SOURCE and not _has_gaps(file, layout.columns["source"]):
        source = DEFAULT_SOURCE
        notes.append("--source has no effect: each row of the file has a source")
    table = options.conditions if options.conditions and _table_matters(file, layout, options.conditions) else None
    effective = ReadOptions(
        reader.given_symbol,
        reader.given_interval,
        tz,
        order,
        source,
        table,
        _columns_with_effect(file, layout, options),
        options.decimal if reader.takes_decimal else None,
    )
    choices = (*layout.choices, *reader.first_choices)
    return EffectiveOptions(effective, tuple(notes), choices, _changes(layout, reader))


def _changes(layout: FileLayout, reader: RowReader) -> tuple[str, ...]:
    """Return the names of the rules by which the rows differ from the rows of the first version; () if they are equal.

    A file with changes has another feed name, so the next replay reads the file again.
    """
    differs = reader.times is not None and reader.times.differs
    return tuple(
        name for name, holds in (("times", differs), ("columns", layout.is_new), ("suffix", reader.has_suffix)) if holds
    )


def _columns_with_effect(file: DataFile, layout: FileLayout, options: ReadOptions) -> tuple[tuple[str, str], ...]:
    """Return the given columns that the layout without them does not have, sorted."""
    if not options.columns:
        return ()
    try:
        without = layout_of(file, replace(options, columns=()), is_bars=layout.kind == BARS)
        known = {} if without.kind != layout.kind else {**without.columns, "clock": without.clock}
    except BadInput:
        known = {}
    found = {**layout.columns, "clock": layout.clock}
    return tuple(sorted((role, str(found[role])) for role, _ in options.columns if found.get(role) != known.get(role)))


def _has_gaps(file: DataFile, name: str) -> bool:
    """Return True if a column has a null or empty value."""
    for block in file.blocks([name]):
        column = block.columns[name]
        if column.null_count or pc.any(pc.equal(column.cast(pa.utf8()), "")).as_py():
            return True
    return False


def _table_matters(file: DataFile, layout: FileLayout, name: str) -> bool:
    """Return True if this table assigns a trade different flags from those of the default table."""
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
