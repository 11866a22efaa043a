"""A block: some rows of a file as columns, each with its line or row number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from tickerplant.core.times import Int64Array

_ADVICE: Final = "correct the rows, or set --column ROLE=NAME if another column has the values"


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that cannot be read: its number, the reason, and its content (b"" if it is not kept)."""

    number: int
    reason: str
    payload: bytes


def with_advice(reason: str) -> str:
    """Return the reason why a file's first row is unreadable, with advice if the reason contains none."""
    return reason if "; " in reason or "--" in reason or ": use " in reason else f"{reason}; {_ADVICE}"


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows: the requested columns by the file's names, the number of each row, and the broken rows among them.

    `end`: the number after the last row of the block, broken rows included.
    """

    columns: Mapping[str, pa.Array]
    numbers: Int64Array
    end: int
    broken: Sequence[BrokenRow] = field(default=())
