"""Trade conditions give the flags of the tapes' published matrices, which were typed by hand.

Bits of the flags: 1 sets no price, 2 adds no volume, 16 extended hours, 32 closing auction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tickerplant.core.errors import BadInput
from tickerplant.core.flags import TickFlag
from tickerplant.market_data.files.conditions import (
    CORRECTIONS,
    CTA,
    EITHER_TAPE,
    POLYGON,
    UTP,
    ConditionDecoder,
    flags_of,
    unknown_of,
    without_price_in_regular_hours,
)

# Source: CTS Pillar Multicast Output Binary Specification, sale condition matrix.
# Columns: code, sets the last price, sets high and low, adds volume, our flags.
# "2" and "3" are notes of the matrix: the trade sets the last price only if no other trade has set it.
CTS_MATRIX = """
@ yes yes yes 0
B no  no  yes 1
C no  no  yes 1
E yes yes yes 0
F yes yes yes 0
H no  no  yes 1
I no  no  yes 1
K yes yes yes 0
L 3   yes yes 0
M no  no  no  3
N no  no  yes 1
O yes yes yes 0
P 2   yes yes 1
Q no  no  no  3
R no  no  yes 1
T no  no  yes 16
U no  no  yes 17
V no  no  yes 1
X yes yes yes 0
Z 2   yes yes 1
4 2   yes yes 1
5 yes yes yes 0
6 yes yes yes 32
7 no  no  yes 1
8 no  no  yes 1
9 yes yes no  34
"""

# Source: UTP Data Feed Services Specification, sale condition matrix, with the same columns.
# "1" is a note of the matrix: the trade sets the last price only if it is the first trade of the day.
UTDF_MATRIX = """
@ yes yes yes 0
A yes yes yes 0
B yes yes yes 0
C no  no  yes 1
D yes yes yes 0
F yes yes yes 0
G 1   yes yes 1
H no  no  yes 1
I no  no  yes 1
K yes yes yes 0
L 2   yes yes 0
M no  no  no  3
N no  no  yes 1
O yes yes yes 0
P 1   yes yes 1
Q no  no  no  3
R no  no  yes 1
S yes yes yes 0
T no  no  yes 16
U no  no  yes 17
V no  no  yes 1
W no  no  yes 1
X yes yes yes 0
Y yes yes yes 0
Z 1   yes yes 1
1 yes yes yes 0
4 1   yes yes 1
5 yes yes yes 0
6 yes yes yes 32
7 no  no  yes 1
9 yes yes no  34
"""


def matrix(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


@pytest.mark.parametrize(("tape", "text"), [("cta", CTS_MATRIX), ("utp", UTDF_MATRIX)])
def test_every_code_of_a_tape_has_the_flags_of_its_matrix(tape: str, text: str) -> None:
    rows = matrix(text)
    codes = pa.array([row[0] for row in rows])
    assert flags_of(codes, tape).tolist() == [int(row[4]) for row in rows]
    assert unknown_of(codes, tape) == {}
    for code, last, high_low, volume, bits in rows:
        flags = TickFlag(int(bits))
        if volume == "no":
            assert TickFlag.NO_VOLUME in flags, code
        if (last, high_low) == ("no", "no"):
            assert flags & (TickFlag.NO_OHLC | TickFlag.EXTENDED), code
        if (last, high_low) == ("yes", "yes"):
            assert TickFlag.NO_OHLC not in flags, code


def test_the_tables_have_exactly_the_codes_of_the_matrices() -> None:
    assert set(CTA.codes) == {row[0] for row in matrix(CTS_MATRIX)}
    assert set(UTP.codes) == {row[0] for row in matrix(UTDF_MATRIX)}


def test_numbers_of_polygon_have_the_flags_of_the_codes_in_its_glossary() -> None:
    mapped = {
        "0": "@", "1": "A", "2": "W", "4": "B", "5": "G", "7": "C", "8": "6", "9": "X", "10": "4", "11": "D",
        "12": "T", "13": "U", "14": "F", "15": "M", "16": "Q", "20": "N", "21": "H", "22": "P", "23": "K", "25": "O",
        "27": "1", "28": "5", "29": "R", "30": "L", "33": "Z", "34": "S", "36": "Y", "37": "I", "38": "9", "52": "V",
        "53": "7",
    }  # fmt: skip
    bits = {row[0]: int(row[4]) for row in matrix(UTDF_MATRIX)}
    assert flags_of(pa.array(list(mapped)), "polygon").tolist() == [bits[code] for code in mapped.values()]
    assert set(POLYGON.codes) - set(mapped) == {"3", "17", "18", "19", "41"}


SPELLINGS = [
    ("@ TI", 17),
    ("@FTI", 17),
    (" FTI", 17),
    ("T I", 17),
    ("@,T,I", 17),
    ("@;T;I", 17),
    ("@|T|I", 17),
    ("T", 16),
    ("['@', 'T', 'I']", 17),
    ('["@","T","I"]', 17),
    ("@6 X", 32),
    ("@6TX", 48),
    ("@  M", 3),
    ("@ Q", 3),
    ("@9 M", 35),
    ("@", 0),
    ("    ", 0),
    ("", 0),
    (None, 0),
]


@pytest.mark.parametrize(("text", "bits"), SPELLINGS, ids=[repr(text) for text, _ in SPELLINGS])
def test_several_conditions_in_one_field_are_decoded_in_every_spelling(text: str | None, bits: int) -> None:
    assert flags_of(pa.array([text], pa.utf8()), "utp").tolist() == [bits]
    assert unknown_of(pa.array([text], pa.utf8()), "utp") == {}


TYPES: list[tuple[str, Callable[[list[Any]], Any]]] = [
    ("text", lambda codes: pa.array([c and ",".join(c) for c in codes])),
    ("large text", lambda codes: pa.array([c and ",".join(c) for c in codes], pa.large_utf8())),
    ("dictionary", lambda codes: pa.array([c and ",".join(c) for c in codes]).dictionary_encode()),
    ("chunks", lambda codes: pa.chunked_array([pa.array([c and ",".join(c)], pa.utf8()) for c in codes])),
    ("lists", lambda codes: pa.array(codes)),
    ("a slice of lists", lambda codes: pa.array([["6"], *codes, ["6"]]).slice(1, len(codes))),
    ("lists of numbers", lambda codes: pa.array([c and [int(code) for code in c] for c in codes])),
]


@pytest.mark.parametrize("make", [make for _, make in TYPES], ids=[name for name, _ in TYPES])
def test_a_column_of_any_type_with_codes_is_decoded(make: Callable[[list[Any]], Any]) -> None:
    assert flags_of(make([["12", "37"], None, ["15"], ["0"], ["37"]]), "polygon").tolist() == [17, 0, 3, 0, 1]


def test_numbers_are_codes_and_booleans_are_not() -> None:
    assert flags_of(pa.array([37, None, 12]), "polygon").tolist() == [1, 0, 16]
    assert flags_of(pa.array([37.0, None, 12.0]), "polygon").tolist() == [1, 0, 16]
    with pytest.raises(BadInput, match="text, numbers or lists of these, not bool"):
        flags_of(pa.array([True]), "cta")
    assert flags_of(pa.array([], pa.utf8()), "cta").tolist() == []
    assert flags_of(pa.chunked_array([], pa.utf8()), "cta").tolist() == []


def test_an_unknown_code_is_counted_once_per_trade_and_adds_no_flag() -> None:
    column = pa.array(["@J I", "J", "JJ", "@", "ODD_LOT", "ODD_LOT", "12,37", "I"])
    assert flags_of(column, "cta").tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    assert unknown_of(column, "cta") == {"J": 3, "ODD_LOT": 2, "12": 1, "37": 1}
    assert unknown_of(pa.array(["@ E", "@8"]), "utp") == {"E": 1, "8": 1}


def test_counts_of_unknown_codes_add_up_over_columns() -> None:
    decoder = ConditionDecoder()
    decoder.flags(pa.array(["J", "I"]), CTA)
    decoder.flags(pa.array(["J", "G"]), CTA)
    assert decoder.unknown == {"J": 2, "G": 1}


def test_each_trade_is_decoded_by_its_own_tape() -> None:
    decoder = ConditionDecoder()
    column = pa.array(["B", "B", "B", "B", "37", "E", "E"])
    tapes = pa.array(["A", "b", "C", None, "3", "C", ""])
    assert decoder.flags(column, EITHER_TAPE, tapes).tolist() == [1, 1, 0, 1, 1, 0, 0]
    assert decoder.unknown == {"E": 1}
    assert decoder.ambiguous == {"B": 1}


def test_without_a_tape_only_codes_that_differ_between_tapes_are_ambiguous() -> None:
    assert EITHER_TAPE.ambiguous == {"B"}
    decoder = ConditionDecoder()
    assert decoder.flags(pa.array(["@ E", "W", "G", "B", "@ TB"]), EITHER_TAPE).tolist() == [0, 1, 1, 1, 17]
    assert (decoder.unknown, decoder.ambiguous) == ({}, {"B": 2})


def test_an_extended_print_in_regular_hours_sets_no_price() -> None:
    flags = np.array([16, 16, 0, 48, 17], np.uint16)
    regular = np.array([True, False, True, True, False])
    assert without_price_in_regular_hours(flags, regular).tolist() == [17, 16, 0, 49, 17]


def test_cancelled_trades_do_not_count_and_corrected_ones_do() -> None:
    column = pa.array(["00", "01", "07", "08", "10", "11", "12", "0", "7", "", "02"])
    decoder = ConditionDecoder()
    assert decoder.flags(column, CORRECTIONS).tolist() == [0, 0, 3, 3, 3, 3, 3, 0, 3, 0, 0]
    assert decoder.unknown == {"02": 1}
    assert ConditionDecoder().flags(pa.array([0, 1, 7, 8, 10, 11, 12]), CORRECTIONS).tolist() == [0, 0, 3, 3, 3, 3, 3]


def test_an_unknown_table_is_rejected_with_the_existing_names() -> None:
    with pytest.raises(BadInput, match="unknown table of conditions 'opra'; use one of cta, utp, polygon"):
        flags_of(pa.array(["@"]), "opra")
