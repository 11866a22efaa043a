"""Where two records differ, said for people: which header field, which row by its key, which column. Pure."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord

MAX_CELLS: Final = 20
_KEY: Final = ("time", "symbol", "interval", "source", "other_source")


class Cell(NamedTuple):
    """One value that differs: where (`header`, or the row's number and key), its name, and both values as text."""

    where: str
    column: str
    logged: str
    made: str


def cells_of(logged: Any, made: Any) -> tuple[str, list[Cell]]:
    """Return a sentence and the first `MAX_CELLS` values in which the bytes of two records differ."""
    try:
        there = records.decode(logged)
    except UnreadableRecord as error:
        return f"the record on the log cannot be read: {error}", []
    here = records.decode(made)
    if type(there.header) is not type(here.header):
        return f"the log has a {_name(there)} record where a {_name(here)} record is made", []
    cells = _header_cells(there.header, here.header) + _row_cells(there.batch, here.batch)
    rows = {cell.where for cell in cells if cell.where != "header"}
    if not cells:
        return (
            f"the {_name(there)} records say the same, in other bytes (dictionaries, or another Arrow)",
            [],
        )
    counted = f"{len(rows)} of its {max(there.batch.num_rows, here.batch.num_rows)} rows differ" if rows else ""
    header = "its header differs" if any(cell.where == "header" for cell in cells) else ""
    return f"a {_name(there)} record: " + " and ".join(part for part in (header, counted) if part), cells[:MAX_CELLS]


def _name(record: records.Record) -> str:
    return type(record.header).__name__


def _header_cells(logged: records.Header, made: records.Header) -> list[Cell]:
    there, here = msgspec.to_builtins(logged), msgspec.to_builtins(made)
    names = list(dict.fromkeys([*there, *here]))
    return [
        Cell("header", name, repr(there.get(name)), repr(here.get(name)))
        for name in names
        if there.get(name) != here.get(name)
    ]


def _row_cells(logged: pa.RecordBatch, made: pa.RecordBatch) -> list[Cell]:
    cells = []
    nothing: dict[str, Any] = {}
    for number, (there, here) in enumerate(zip_longest(logged.to_pylist(), made.to_pylist(), fillvalue=nothing)):
        key = " ".join(_text((here or there)[name]) for name in _KEY if name in (here or there))
        where = f"row {number}" + (f" ({key})" if key else "")
        if not there or not here:
            cells.append(Cell(where, "row", "there" if there else "not there", "made" if here else "not made"))
            continue
        # By their text: equal NaNs are the same, 0.0 and -0.0 are not.
        cells += [
            Cell(where, name, _text(there[name]), _text(value))
            for name, value in here.items()
            if _text(there[name]) != _text(value)
        ]
    return cells


def _text(value: Any) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat()).replace("+00:00", "Z")
    return value if isinstance(value, str) else value[:60].hex() if isinstance(value, bytes) else repr(value)
