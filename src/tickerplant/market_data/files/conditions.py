"""Trade conditions: the codes of vendors and tapes, converted to the flags of `core.flags`. Pure, column-wise.

A trade has up to four codes (settlement, trade-through exemption, time, detail). Each code has flags. A trade has the
flags of all its codes. An unknown code adds no flag: the trade counts as ordinary, and `ConditionDecoder.unknown`
counts the code.

The tapes publish three rules for each code: whether it updates the day's last price, high and low, and volume. Our
flags have one rule for all four prices, and a bar covers a minute. The mapping:

============================  ==========================  ==============================================================
the tapes: last / high and    codes                       here
low / volume
============================  ==========================  ==============================================================
yes / yes / yes               @ A B(UTP) D E F K O S X    no flag
                              Y 1 5
yes / yes / yes, at the       6                           CLOSING_AUCTION
closing auction
no / no / yes                 B(CTA) C H I N R V W 7 8    NO_OHLC
only the day's first / yes /  G P Z 4                     NO_OHLC: the trade is older, most likely from another
yes                                                       minute
only in sequence or from the  L                           no flag: late, but in sequence
last trade's market / yes /
yes
no / no / yes, outside        T                           EXTENDED: it may set the price of its own minute; the daily
regular hours                                             bar contains regular hours only, unless set otherwise
no / no / yes, outside        U                           EXTENDED and NO_OHLC
regular hours and sequence
no / no / no                  M Q                         NO_OHLC and NO_VOLUME: they repeat the opening or closing
                                                          trade
yes / yes / no                9                           CLOSING_AUCTION and NO_VOLUME: the listing market corrects
                                                          the day's close after hours
============================  ==========================  ==============================================================

A print with code T and a time in regular hours was traded before the open and reported after it. Such a print would set
the open: see `without_price_in_regular_hours`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core.digits import is_digits
from tickerplant.core.errors import BadInput
from tickerplant.core.flags import TickFlag
from tickerplant.core.times import BoolArray

UInt16Array = npt.NDArray[np.uint16]

ORDINARY: Final = TickFlag(0)
NO_OHLC: Final = TickFlag.NO_OHLC
NOTHING: Final = TickFlag.NO_OHLC | TickFlag.NO_VOLUME
EXTENDED: Final = TickFlag.EXTENDED
CLOSING: Final = TickFlag.CLOSING_AUCTION


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The codes of one vendor or tape, with their flags.

    `words`: codes are whole words between separators, such as numbers. Otherwise each character is a code. A word of
    more than four characters, or of two or more digits, is one unknown code. `ambiguous`: codes with different meanings
    on the tapes that this table combines.
    """

    name: str
    codes: Mapping[str, TickFlag]
    words: bool = False
    ambiguous: frozenset[str] = frozenset()


CTA: Final = Table(
    "cta",
    {
        "@": ORDINARY,  # regular sale; CTA itself leaves the field empty
        "B": NO_OHLC,  # average price
        "C": NO_OHLC,  # cash, cleared the same day
        "E": ORDINARY,  # automatic execution
        "F": ORDINARY,  # intermarket sweep
        "H": NO_OHLC,  # price variation
        "I": NO_OHLC,  # odd lot
        "K": ORDINARY,  # rule 127 (NYSE) or 155 (NYSE American)
        "L": ORDINARY,  # sold last
        "M": NOTHING,  # market center official close
        "N": NO_OHLC,  # next day; reserved, because all trades settle on the next day
        "O": ORDINARY,  # market center opening trade
        "P": NO_OHLC,  # prior reference price
        "Q": NOTHING,  # market center official open
        "R": NO_OHLC,  # seller
        "T": EXTENDED,  # extended hours
        "U": EXTENDED | NO_OHLC,  # extended hours, sold out of sequence
        "V": NO_OHLC,  # contingent
        "X": ORDINARY,  # cross or periodic auction
        "Z": NO_OHLC,  # sold out of sequence
        "4": NO_OHLC,  # derivatively priced
        "5": ORDINARY,  # market center reopening trade
        "6": CLOSING,  # market center closing trade
        "7": NO_OHLC,  # qualified contingent
        "8": NO_OHLC,  # reserved; no price in the matrix
        "9": CLOSING | TickFlag.NO_VOLUME,  # corrected consolidated close
    },
)
"""Tapes A and B: NYSE, NYSE American, Arca and the regional exchanges' own listings.

Source: Consolidated Tape System, "CTS Pillar Multicast Output Binary Specification" (SIAC for the CTA Plan), version
2.7a and later. The flags follow the sale condition matrix, column "consolidated". Code I was the CAP election in older
versions and updated all values.
"""

UTP: Final = Table(
    "utp",
    {
        "@": ORDINARY,  # regular sale
        "A": ORDINARY,  # acquisition
        "B": ORDINARY,  # bunched
        "C": NO_OHLC,  # cash
        "D": ORDINARY,  # distribution
        "F": ORDINARY,  # intermarket sweep
        "G": NO_OHLC,  # bunched, sold
        "H": NO_OHLC,  # price variation
        "I": NO_OHLC,  # odd lot
        "K": ORDINARY,  # rule 155
        "L": ORDINARY,  # sold last
        "M": NOTHING,  # market center official close
        "N": NO_OHLC,  # next day; reserved, because all trades settle on the next day
        "O": ORDINARY,  # opening prints
        "P": NO_OHLC,  # prior reference price
        "Q": NOTHING,  # market center official open
        "R": NO_OHLC,  # seller
        "S": ORDINARY,  # split
        "T": EXTENDED,  # form T
        "U": EXTENDED | NO_OHLC,  # extended hours, sold out of sequence
        "V": NO_OHLC,  # contingent
        "W": NO_OHLC,  # average price
        "X": ORDINARY,  # cross or periodic auction
        "Y": ORDINARY,  # yellow flag
        "Z": NO_OHLC,  # sold out of sequence
        "1": ORDINARY,  # stopped stock
        "4": NO_OHLC,  # derivatively priced
        "5": ORDINARY,  # reopening prints
        "6": CLOSING,  # closing prints
        "7": NO_OHLC,  # qualified contingent
        "9": CLOSING | TickFlag.NO_VOLUME,  # corrected consolidated close
    },
)
"""Tape C: Nasdaq's listings. E and 8 are placeholders without a rule, and therefore unknown codes.

Source: UTP Plan, "UTP Data Feed Services Specification", binary version 1.8 (April 2024). The rules are in the sale
condition matrix of the trade messages (UTDF), columns "consolidated processing guidelines" and "update volume".
"""

POLYGON: Final = Table(
    "polygon",
    {
        "0": ORDINARY,
        "1": ORDINARY,
        "2": NO_OHLC,  # average price
        "3": ORDINARY,
        "4": ORDINARY,
        "5": NO_OHLC,  # bunched, sold
        "7": NO_OHLC,  # cash
        "8": CLOSING,
        "9": ORDINARY,
        "10": NO_OHLC,  # derivatively priced
        "11": ORDINARY,
        "12": EXTENDED,
        "13": EXTENDED | NO_OHLC,
        "14": ORDINARY,
        "15": NOTHING,
        "16": NOTHING,
        "17": ORDINARY,
        "18": ORDINARY,
        "19": CLOSING,
        "20": NO_OHLC,  # next day
        "21": NO_OHLC,  # price variation
        "22": NO_OHLC,  # prior reference price
        "23": ORDINARY,
        "25": ORDINARY,
        "27": ORDINARY,
        "28": ORDINARY,
        "29": NO_OHLC,  # seller
        "30": ORDINARY,
        "33": NO_OHLC,  # sold out of sequence
        "34": ORDINARY,
        "36": ORDINARY,
        "37": NO_OHLC,  # odd lot
        "38": CLOSING | TickFlag.NO_VOLUME,
        "41": ORDINARY,  # trade-through exempt: the reason for permission, no rule for prices
        "52": NO_OHLC,  # contingent
        "53": NO_OHLC,  # qualified contingent
    },
    words=True,
)
"""The numbers of Polygon (now Massive) for the conditions of both tapes.

Source: Polygon, glossary "Conditions & Indicators", trade conditions with their mapping to the tapes' codes. Each
number has the flags of its code (17, 18 and 19 are CTA's names of O, 5 and 6). Numbers without a rule in the glossary
are unknown codes.
"""

CORRECTIONS: Final = Table(
    "correction",
    {
        **dict.fromkeys(("0", "00", "1", "01"), ORDINARY),
        **dict.fromkeys(("7", "07", "8", "08", "10", "11", "12"), NOTHING),
    },
    words=True,
)
"""Correction indicators of files that were consolidated afterwards (TAQ, and files in its format).

Trades with 0 (no correction) or 1 (corrected values) count. Trades with 7 (found wrong later) or 8 (cancelled later) do
not count. Codes 10, 11 and 12 mark cancel, error and correction records about such trades, and do not count. Source:
NYSE Daily TAQ, trades file, "Trade Correction Indicator".
"""


def _either(*tables: Table) -> Table:
    """Return a table of all codes. A code that differs between tables has the flags of both, and is ambiguous."""
    codes: dict[str, TickFlag] = {}
    ambiguous = set()
    for table in tables:
        for code, flags in table.codes.items():
            if codes.setdefault(code, flags) != flags:
                ambiguous.add(code)
                codes[code] |= flags
    return Table(" or ".join(table.name for table in tables), codes, ambiguous=frozenset(ambiguous))


EITHER_TAPE: Final = _either(CTA, UTP)
"""The codes of both tapes, for trades without a tape. B is CTA's average price and UTP's bunched trade. It is ambiguous
and sets no price, because a wrong price is worse than a missing print."""

TABLES: Final[Mapping[str, Table]] = {table.name: table for table in (CTA, UTP, POLYGON)}
"""The tables by name. A new table of a vendor must be listed here."""

TAPES: Final[Mapping[str, Table]] = {"A": CTA, "B": CTA, "C": UTP, "1": POLYGON, "2": POLYGON, "3": POLYGON}
"""The table of each tape. Only Polygon uses numbers for tapes, and it uses numbers for conditions too."""

_MAX_CODES: Final = 4
_SEPARATORS: Final = re.compile(r"[\s,;|\[\]'\"]+")


@dataclass(slots=True)
class ConditionDecoder:
    """Decodes columns of conditions, and counts the trades with each unknown or ambiguous code."""

    unknown: dict[str, int] = field(default_factory=dict)
    ambiguous: dict[str, int] = field(default_factory=dict)

    def flags(self, column: pa.Array | pa.ChunkedArray, table: Table, tapes: pa.Array | None = None) -> UInt16Array:
        """Return the flags of each trade, uint16[n], and count the unknown and ambiguous codes.

        `column` contains text, numbers, or lists of either. `tapes` contains the tape of each trade; a known tape takes
        precedence over `table`. Empty and null values are ordinary trades. Raises BadInput for another column type.
        """
        texts = _encoded(column)
        distinct = ["" if text is None else text for text in texts.dictionary.to_pylist()] or [""]
        tables, which = _tables(table, tapes, len(texts))
        at = texts.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1  # 0: null
        found = [[_resolve(text, each) for text in ("", *distinct)] for each in tables]
        bits = np.array([[flags for flags, _, _ in row] for row in found], dtype=np.uint16)
        if any(unknown or ambiguous for row in found for _, unknown, ambiguous in row):
            self._count(found, which * len(found[0]) + at)
        result: UInt16Array = bits[which, at]
        return result

    def _count(self, found: list[list[_Resolved]], pair: npt.NDArray[np.int64]) -> None:
        flat = [each for row in found for each in row]
        for (_, unknown, ambiguous), times in zip(flat, np.bincount(pair, minlength=len(flat)).tolist(), strict=True):
            for codes, counts in ((unknown, self.unknown), (ambiguous, self.ambiguous)):
                for code in codes if times else ():
                    counts[code] = counts.get(code, 0) + times


def flags_of(column: pa.Array | pa.ChunkedArray, tape: str) -> UInt16Array:
    """Return the flags of each trade, uint16[n], by a table of TABLES. Raises BadInput if the table does not exist.

    >>> flags_of(pa.array(["@ TI", "@", "Q", None]), "utp").tolist()
    [17, 0, 3, 0]
    """
    return ConditionDecoder().flags(column, table_named(tape))


def unknown_of(column: pa.Array | pa.ChunkedArray, tape: str) -> dict[str, int]:
    """Return the number of trades for each code that is not in the table `tape` of TABLES.

    Raises BadInput if the table does not exist.

    >>> unknown_of(pa.array(["@ I", "@J", "J,F"]), "cta")
    {'J': 2}
    """
    decoder = ConditionDecoder()
    decoder.flags(column, table_named(tape))
    return decoder.unknown


def table_named(name: str) -> Table:
    """Return the table of conditions of that name. Raises BadInput, with the known names, if there is none."""
    table = TABLES.get(name.strip().lower())
    if table is None:
        raise BadInput(f"unknown table of conditions {name!r}; use one of {', '.join(TABLES)}")
    return table


def without_price_in_regular_hours(flags: UInt16Array, regular: BoolArray) -> UInt16Array:
    """Return the flags with NO_OHLC added to prints of extended hours whose time is in regular hours.

    Such prints were traded before the open and reported after it. They do not set the day's prices on the tapes.
    """
    late = ((flags & TickFlag.EXTENDED) != 0) & regular
    result: UInt16Array = np.where(late, flags | np.uint16(TickFlag.NO_OHLC), flags)
    return result


_Resolved = tuple[int, tuple[str, ...], tuple[str, ...]]
"""Flags, unknown codes, ambiguous codes; each code once."""


@lru_cache(maxsize=4096)  # a session's file has about a hundred texts; invalid files must not fill the memory
def _resolve(text: str, table: Table) -> _Resolved:
    flags, unknown, ambiguous = ORDINARY, [], []
    for code in _codes(text, table):
        if code in table.codes:
            flags |= table.codes[code]
        else:
            unknown.append(code)
        if code in table.ambiguous:
            ambiguous.append(code)
    return int(flags), tuple(unknown), tuple(ambiguous)


def _codes(text: str, table: Table) -> list[str]:
    """Return the codes of a field, each once. Examples of fields: `@ TI`, `@,T,I`, `T|I`, `['@', 'T']`, `12;37`."""
    codes: dict[str, None] = {}
    for word in filter(None, _SEPARATORS.split(text)):
        # Two or more digits are one number, not two codes: vendors use such numbers, and tapes have no such pairs.
        whole = table.words or len(word) > _MAX_CODES or (len(word) > 1 and is_digits(word))
        codes.update(dict.fromkeys((word,) if whole else word))
    return list(codes)


def _tables(table: Table, tapes: pa.Array | None, rows: int) -> tuple[list[Table], npt.NDArray[np.int64]]:
    """Return the tables of these rows, and the index of each row's table."""
    if tapes is None:
        return [table], np.zeros(rows, dtype=np.int64)
    column = _encoded(tapes)
    by_tape = [TAPES.get((text or "").strip().upper(), table) for text in column.dictionary.to_pylist()]
    tables = list(dict.fromkeys((table, *by_tape)))
    own = np.array([0, *(tables.index(each) for each in by_tape)], dtype=np.int64)
    return tables, own[column.indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1]


def _encoded(column: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """Return a column as a dictionary of texts. Raises BadInput for a type without codes."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.utf8())
    kind = column.type
    if pa.types.is_dictionary(kind):
        if pa.types.is_string(kind.value_type):
            return column.cast(pa.dictionary(pa.int32(), pa.utf8()))
        column, kind = column.dictionary_decode(), kind.value_type
    try:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            lists = column.cast(pa.list_(kind.value_type))
            column = pc.binary_join(pa.ListArray.from_arrays(lists.offsets, _texts(lists.values)), ",")
        return _texts(column).dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise BadInput(f"a column of conditions must contain text, numbers or lists of these, not {kind}") from error


def _texts(values: pa.Array) -> pa.Array:
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_string_view(kind)):
            raise pa.ArrowNotImplementedError(str(kind))
        if pa.types.is_floating(kind):  # pandas writes integers with missing values as floats
            values = values.cast(pa.int64())
    return values.cast(pa.utf8()).fill_null("")
