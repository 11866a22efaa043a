"""Describe where two records differ: header field, row with its key, column. Pure."""

from __future__ import annotations

import datetime as dt
from itertools import zip_longest
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

from tickerplant.core import records
from tickerplant.core.errors import UnreadableRecord
from tickerplant.core.times import iso

MAX_CELLS: Final = 20
_KEY: Final = ("time", "symbol", "interval", "source", "other_source")


class Cell(NamedTuple):
    """One value that differs. `where`: `header`, or the row's index and key. Both values are text."""

    where: str
    column: str
    recorded: str
    recomputed: str


def cells_of(recorded: Any, recomputed: Any) -> tuple[str, list[Cell]]:
    """Return a sentence and the first `MAX_CELLS` values that differ between two records, given as bytes."""
    try:
        old = records.decode(recorded)
    except UnreadableRecord as error:
        return f"the record in the log cannot be read: {error}", []
    new = records.decode(recomputed)
    if type(old.header) is not type(new.header):
        return f"the log has a {_name(old)} record, but the recomputation gives a {_name(new)} record", []
    cells = _header_cells(old.header, new.header) + _row_cells(old.batch, new.batch)
    rows = {cell.where for cell in cells if cell.where != "header"}
    if not cells:
        return (
            f"{_name(old)} records with equal values have different bytes (dictionaries, or another version of Arrow)",
            [],
        )
    counted = f"{len(rows)} of its {max(old.batch.num_rows, new.batch.num_rows)} rows differ" if rows else ""
    header = "its header differs" if any(cell.where == "header" for cell in cells) else ""
    return f"a {_name(old)} record: " + " and ".join(part for part in (header, counted) if part), cells[:MAX_CELLS]


def _name(record: records.Record) -> str:
    return type(record.header).__name__


def _header_cells(recorded: records.Header, recomputed: records.Header) -> list[Cell]:
    old, new = msgspec.to_builtins(recorded), msgspec.to_builtins(recomputed)
    names = list(dict.fromkeys([*old, *new]))
    return [
        Cell("header", name, repr(old.get(name)), repr(new.get(name)))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _row_cells(recorded: pa.RecordBatch, recomputed: pa.RecordBatch) -> list[Cell]:
    cells = []
    empty: dict[str, Any] = {}
    pairs = zip_longest(recorded.to_pylist(), recomputed.to_pylist(), fillvalue=empty)
    for number, (old, new) in enumerate(pairs):
        key = " ".join(_text((new or old)[name]) for name in _KEY if name in (new or old))
        where = f"row {number}" + (f" ({key})" if key else "")
        if not old or not new:
            cells.append(Cell(where, "row", "present" if old else "absent", "present" if new else "absent"))
            continue
        # Values are compared as text: NaN equals NaN, and 0.0 differs from -0.0.
        cells += [
            Cell(where, name, _text(old[name]), _text(value))
            for name, value in new.items()
            if _text(old[name]) != _text(value)
        ]
    return cells


def _text(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return iso(value)
    return value if isinstance(value, str) else value[:60].hex() if isinstance(value, bytes) else repr(value)
