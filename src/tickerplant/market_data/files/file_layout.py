"""The layout of an opened file: the layout of its header, with facts from the head and the first rows of the file."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.column_names import by_name, find, normalise
from tickerplant.core.errors import BadInput
from tickerplant.core.time_values import INVALID, MDY, NUMBER, order_of, parse_times
from tickerplant.market_data.files.csv_file import CsvFile
from tickerplant.market_data.files.layout import BARS, FileLayout, detect_layout
from tickerplant.market_data.files.open_file import DataFile
from tickerplant.market_data.files.options import ReadOptions
from tickerplant.market_data.files.parquet_file import ParquetFile

_UNNAMED: Final = ("column 1", "__index_level_0__")
"""Names of a data frame's index without a name: in CSV files, and in Parquet files of pandas."""
_NUMBERS: Final = ("open", "high", "low", "close", "price", "volume", "size", "vwap", "trades", "flags")
_ROWS: Final = 100
"""Number of first rows that show the symbol, the turnover, or a column of times without a name."""


def layout_of(file: DataFile, options: ReadOptions, *, is_bars: bool = False) -> FileLayout:
    """Return the layout of a file. `is_bars`: a fact other than the option `interval` shows that the file has bars.

    Raises BadInput if columns are missing, have two readings or contain values of a wrong type, and if the volume of
    the symbol cannot be identified.
    """
    layout = detect_layout(
        file.header,
        line=file.header_number,
        columns=options.columns,
        is_bars=is_bars or options.interval is not None,
        index=_index_of_times(file),
    )
    if isinstance(file, ParquetFile):
        _check_types(file, layout)
    if isinstance(file, CsvFile):
        head = file.head
        layout = replace(
            layout,
            symbol=head.symbol if "symbol" not in layout.columns else None,
            notes=(*head.notes, *layout.notes),
            choices=(*head.choices, *layout.choices),
            has_commas=head.delimiter == ",",
        )
    if layout.databento and layout.kind == BARS and "interval" not in layout.columns:
        layout = replace(layout, columns={**layout.columns, "interval": layout.databento["rtype"]})
    if layout.assets:
        layout = _with_volume(file, layout, _symbol_of(file, layout, options))
    return layout


def _check_types(file: ParquetFile, layout: FileLayout) -> None:
    """Raise BadInput if the values of a column are nested, or if a column of numbers contains booleans.

    Only conditions may be lists.
    """
    for role, name in [*layout.columns.items(), *(("clock", name) for name in layout.clock_columns)]:
        kind = file.types[name]
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        if pa.types.is_nested(kind) and not (role == "conditions" and is_list):
            raise BadInput(f"the column {name} for {role} contains {kind}; save it as a column of single values")
        if pa.types.is_boolean(kind) and role in _NUMBERS:
            raise BadInput(f"the column {name} for {role} contains {kind}, not numbers; set --column {role}=NAME")


def _index_of_times(file: DataFile) -> str | None:
    """Return the column without a name if it contains times, as data frames are saved; otherwise None.

    The result is None too if the header names a column of times.
    """
    names = file.header
    name = next((name for name in names if name in _UNNAMED), None)
    if name is None or find(by_name(names), "time") is not None:
        return None
    block = next(iter(file.blocks([name])), None)
    if block is None or not len(block.columns[name]):
        return None
    column = block.columns[name].slice(0, _ROWS)
    kinds = parse_times(column, order_of(column)[0] or MDY).kind
    return name if ((kinds != INVALID) & (kinds != NUMBER)).all() else None


def _with_volume(file: DataFile, layout: FileLayout, symbol: str | None) -> FileLayout:
    """Return the layout with the volume of the symbol's base asset: `Volume BTC` of `BTC/USDT`.

    Raises BadInput if neither the symbol nor the turnover of the first rows identifies the column.
    """
    plain = normalise(symbol or "").upper()
    names = list(layout.assets.values())
    of_base = [column for asset, column in layout.assets.items() if plain.startswith(asset)]
    if len(of_base) != 1:
        of_base = names if len(names) == 1 and not symbol else _of_base(file, layout)
    if len(of_base) != 1:
        raise BadInput(
            f"no column is known to be the volume of {symbol or 'the symbol'} in its own units: {', '.join(names)}; "
            f"set --column 'volume={names[0]}' if this column is the volume",
            line=file.header_number,
        )
    ignored = (*layout.ignored, *(column for column in names if column not in of_base))
    notes = tuple(note for note in layout.notes if not note.startswith("columns not used"))
    return replace(
        layout,
        columns={**layout.columns, "volume": of_base[0]},
        assets={},
        ignored=ignored,
        notes=(*notes, f"columns not used: {', '.join(ignored)}") if ignored else notes,
        choices=(*layout.choices, f"the column {of_base[0]} is the volume"),
        is_new=True,
    )


def _of_base(file: DataFile, layout: FileLayout) -> list[str]:
    """Return the columns whose product with a price between low and high is another column, in the first rows."""
    names = list(layout.assets.values())
    low, high = layout.columns["low"], layout.columns["high"]
    block = next(iter(file.blocks([*names, low, high])), None)
    if block is None:
        return []
    values = {}
    for name in (*names, low, high):
        try:
            values[name] = pc.cast(block.columns[name].slice(0, _ROWS), pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            return []
    found = []
    for base in names:
        for quote in names:
            traded = (values[base] > 0) & (values[quote] > 0)
            least, most = values[base] * values[low] * 0.999, values[base] * values[high] * 1.001
            if base != quote and traded.any() and ((values[quote] >= least) & (values[quote] <= most))[traded].all():
                found.append(base)
    return found


def _symbol_of(file: DataFile, layout: FileLayout, options: ReadOptions) -> str | None:
    """Return the symbol of the first row with a symbol, or the given symbol if no column has symbols.

    None if there is no symbol.
    """
    name = layout.columns.get("symbol")
    if name is None:
        return options.symbol or layout.symbol
    for block in file.blocks([name]):
        texts = [text for text in block.columns[name].slice(0, _ROWS).cast(pa.utf8()).to_pylist() if text]
        if texts:
            return str(texts[0])
    return None
