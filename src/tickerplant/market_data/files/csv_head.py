"""The head of a CSV file: its delimiter, header and lines above, or the columns of a file without a header. Pure.

The header is the first line that contains names of `core.column_names` for a time and a price. Lines above it are not
read. yfinance writes three header lines. A file without a header is read only if its first rows fit one known order of
columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from tickerplant.core.column_names import by_name, find, normalise
from tickerplant.core.digits import parse_float
from tickerplant.core.errors import BadInput
from tickerplant.core.time_values import DATE, INVALID, order_of, parse_times

HEAD_LINES: Final = 64
"""Maximum number of lines in a head."""
_HEADER_WITHIN: Final = 20
_NEAR: Final = 1.25
"""Maximum quotient of the largest and the smallest ratio of adjusted close to close within a head."""
_DELIMITERS: Final = ",;\t|"
_SEPARATOR: Final = re.compile(r'"?sep=(.)"?\s*')
_VALUE: Final = re.compile(r"[-+]?[0-9.,]*[0-9][0-9.,:/T Z+-]*(?:[eE][-+]?[0-9]+)?|true|false|", re.IGNORECASE)
_CLOCK: Final = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?")
_BOOLEAN: Final = ("true", "false", "0", "1")

_KLINES: Final = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip
_TRADES: Final = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match")
_AGGREGATE_TRADES: Final = (
    "id", "price", "qty", "first_trade_id", "last_trade_id", "time", "is_buyer_maker", "is_best_match",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CsvHead:
    """The head of a file.

    `skipped`: number of lines before the first row. `line`: the header's line, from 1; None if there is no header.
    `symbol`: the symbol in the head; None if the head contains none. `notes` and `choices` are as in `FileLayout`.
    """

    delimiter: str
    header: list[str]
    skipped: int
    line: int | None
    symbol: str | None = None
    notes: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def read_head(lines: Sequence[str], name: str) -> CsvHead:
    """Return the head of a file from its first lines.

    Raises BadInput if all lines are empty, or if they have the columns of several symbols.
    """
    separator = _SEPARATOR.fullmatch(lines[0]) if lines else None
    filled = [at for at in range(1 if separator else 0, len(lines)) if lines[at].strip()]
    if not filled:
        raise BadInput(f"{name} is empty; add a header and rows", line=1)
    given = separator[1] if separator else None
    first = filled[0]
    delimiter = given or _delimiter(lines[first])
    several = _header_of_frame([_split(lines[at], delimiter) for at in filled[:3]], name, first + 1)
    if several is not None:
        header, symbol = several
        note = f"the header lines contain the symbol {symbol}, which is used"
        return CsvHead(delimiter, header, filled[2] + 1, filled[2] + 1, symbol, (note,))
    for at in filled[:_HEADER_WITHIN]:
        delimiter = given or _delimiter(lines[at])
        names = _split(lines[at], delimiter)
        if _is_header(names):
            above = () if at == first else (f"lines above the header in line {at + 1} are not read",)
            return _with_trailing(CsvHead(delimiter, names, at + 1, at + 1, None, above), lines, filled)
    delimiter = given or _delimiter(lines[first])
    names = _split(lines[first], delimiter)
    if 2 * sum(bool(_VALUE.fullmatch(value)) for value in names) > len(names):
        rows = [_split(lines[at], delimiter) for at in filled]
        found = _names_of_rows(rows)
        if found is not None:
            choice = f"there is no header; the columns are read as {', '.join(found)}"
            return CsvHead(delimiter, found, first, None, None, (), (choice,))
    return _with_trailing(CsvHead(delimiter, names, first + 1, first + 1), lines, filled)


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _split(line: str, delimiter: str) -> list[str]:
    return [value.strip() for value in next(csv.reader([line], delimiter=delimiter), [])]


def _is_header(names: Sequence[str]) -> bool:
    columns = by_name(names)
    words = " ".join(columns)
    has_price = find(columns, "price") or find(columns, "close") or ("bid" in words and "ask" in words)
    return find(columns, "time") is not None and bool(has_price)


def _with_trailing(head: CsvHead, lines: Sequence[str], filled: Sequence[int]) -> CsvHead:
    """Return the head with a column for a delimiter at the end of every row, and names for columns without a name."""
    rows = [_split(lines[at], head.delimiter) for at in filled if at >= head.skipped]
    header, notes = list(head.header), head.notes
    if rows and all(len(row) == len(header) + 1 and not row[-1] for row in rows):
        header.append("")
        sign = {",": "comma", ";": "semicolon", "\t": "tab"}.get(head.delimiter, head.delimiter)
        notes = (*notes, f"every row ends with a {sign} that the header does not have; the empty column is not used")
    named = [text or f"column {at + 1}" for at, text in enumerate(header)]
    return CsvHead(head.delimiter, named, head.skipped, head.line, head.symbol, notes, head.choices)


# Several header lines -----------------------------------------------------------------------------------------------


def _header_of_frame(rows: Sequence[Sequence[str]], name: str, line: int) -> tuple[list[str], str] | None:
    """Return header and symbol of a frame with two levels of columns, as yfinance writes it; None for other files."""
    if len(rows) < 3 or not all(rows) or len({len(row) for row in rows}) > 1:
        return None
    by_level = {normalise(row[0]): row[1:] for row in rows[:2]}
    prices = by_level.get("price") or by_level.get("attributes")
    symbols = by_level.get("ticker") or by_level.get("symbols")
    if prices is None or symbols is None or any(rows[2][1:]) or not find(by_name(rows[2][:1]), "time"):
        return None
    if len(set(symbols)) > 1:
        raise BadInput(
            f"{name} has the columns of several symbols side by side ({', '.join(sorted(set(symbols))[:5])}); save one "
            "file per symbol, or one column `symbol`",
            line=line,
        )
    return [rows[2][0], *prices], symbols[0]


# No header ----------------------------------------------------------------------------------------------------------


def _names_of_rows(rows: Sequence[Sequence[str]]) -> list[str] | None:
    """Return the names of the columns of a file without a header; None if the rows fit no known order of columns."""
    width = len(rows[0])
    if any(len(row) != width for row in rows):
        return None
    columns = [[row[at] for row in rows] for at in range(width)]
    if width == len(_KLINES) and _is_time(columns[0]) and _is_time(columns[6]) and _are_bars(columns[1:5]):
        return list(_KLINES)
    for names, time, turnover in ((_TRADES, 4, 3), (_AGGREGATE_TRADES, 5, None)):
        if width not in (len(names) - 1, len(names)):
            continue
        flags = all(value.lower() in _BOOLEAN for column in columns[time + 1 :] for value in column)
        if _is_time(columns[time]) and flags and (turnover is None or _is_product(columns[1:4])):
            return list(names[:width])
    return _names_of_bars(columns)


def _names_of_bars(columns: Sequence[Sequence[str]]) -> list[str] | None:
    """Return the names of an optional symbol, time, optional clock, open, high, low, close and optional volume.

    None if the columns do not fit this order.
    """
    names: list[str] = []
    at = 0
    if not any(_VALUE.fullmatch(value) for value in columns[0]):
        names, at = ["symbol"], 1
    if at >= len(columns) or not _is_time(columns[at]):
        return None
    clock = at + 1 < len(columns) and all(_CLOCK.fullmatch(value) for value in columns[at + 1])
    names += ["date", "time"] if clock else ["time"]
    at = len(names)
    if not _are_bars(columns[at : at + 4]):
        return None
    names += ["open", "high", "low", "close"]
    amounts = _numbers(columns[len(names)]) if len(columns) > len(names) else None
    if amounts is not None and len(columns) > len(names) + 1 and _are_near(amounts, columns[at + 3]):
        return None  # the column may be an adjusted close or a volume
    if amounts is not None:
        names.append("volume")
    return names + [f"column {number}" for number in range(len(names) + 1, len(columns) + 1)]


def _is_time(values: Sequence[str]) -> bool:
    column = pa.array(values, pa.utf8())
    order, ambiguous = order_of(column)
    kinds = parse_times(column, order or ("mdy" if ambiguous else None)).kind
    return bool((kinds != INVALID).all() and ((kinds == DATE) | (kinds == kinds[0])).all())


def _numbers(values: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    try:
        return np.array([parse_float(value.replace(",", ".")) for value in values])
    except ValueError:
        return None


def _are_bars(columns: Sequence[Sequence[str]]) -> bool:
    """Return True if four columns are open, high, low and close, and at least one row has a range."""
    found = [_numbers(column) for column in columns]
    if len(found) < 4 or any(each is None for each in found):
        return False
    first, high, low, last = (each for each in found if each is not None)
    ordered = (low <= np.minimum(first, last)) & (high >= np.maximum(first, last))
    return bool(ordered.all() and (high > low).any())


def _are_near(values: np.ndarray[tuple[int], np.dtype[np.float64]], closes: Sequence[str]) -> bool:
    """Return True if values are in an almost constant ratio to the closes, as adjusted closes are."""
    prices = _numbers(closes)
    if prices is None or not (values > 0).all() or not (prices > 0).all():
        return False
    ratio = values / prices
    return bool(ratio.max() <= _NEAR * ratio.min() and ratio.max() <= 1.0 + 1e-6)


def _is_product(columns: Sequence[Sequence[str]]) -> bool:
    """Return True if the third column is the product of the first two."""
    found = [_numbers(column) for column in columns]
    if any(each is None for each in found):
        return False
    price, amount, product = (each for each in found if each is not None)
    return bool(np.allclose(price * amount, product, rtol=1e-4))
