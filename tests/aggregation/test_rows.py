"""Rows of the engine: packed keys, interned texts, copies of all fields, and emptied bars."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tests.aggregation.plant import at
from tests.support.properties import examples
from tickerplant.aggregation.rows import (
    ROW,
    Interner,
    emptied,
    empty_rows,
    join,
    minute_keys,
    numbers_in,
    pack,
    put,
    starts_in,
    symbols_in,
    take,
)
from tickerplant.core.times import MINUTE_US

codes = st.integers(0, (1 << 31) - 1)


@given(st.lists(st.tuples(st.integers(0, (1 << 31) - 1), codes), min_size=1))
@examples(50)
def test_packed_keys_contain_number_and_code_and_sort_by_both(pairs: list[tuple[int, int]]) -> None:
    numbers = np.array([number for number, _ in pairs], dtype=np.int64)
    symbols = np.array([code for _, code in pairs], dtype=np.int32)
    keys = pack(numbers, symbols)
    assert numbers_in(keys).tolist() == numbers.tolist()
    assert symbols_in(keys).tolist() == symbols.tolist()
    assert [pairs[index] for index in np.argsort(keys, kind="stable")] == sorted(pairs)


def test_a_minute_key_contains_the_start_of_the_minute() -> None:
    starts = np.array([at("1900-01-01T00:00"), at("2026-01-05T14:31")])
    keys = minute_keys(starts, np.array([7, 0], dtype=np.int32))
    assert starts_in(keys).tolist() == starts.tolist()
    assert symbols_in(keys).tolist() == [7, 0]
    assert (starts % MINUTE_US == 0).all()


def test_an_interner_numbers_texts_in_the_order_of_their_first_use() -> None:
    names = Interner()
    first = pa.array(["B", "A", "B"]).dictionary_encode()
    assert names.codes(first, "feed").tolist() == [0, 1, 0]
    assert names.codes(pa.array(["A", "C"]).dictionary_encode(), "feed").tolist() == [1, 2]
    assert (names.texts, names.code("C"), names.code("D"), len(names)) == (["B", "A", "C", "D"], 2, 3, 4)


def test_rows_are_joined_taken_and_put_with_all_fields() -> None:
    rows = empty_rows(4)
    rows["start"], rows["close"] = np.arange(4), np.arange(4) / 3
    assert join((rows[:1], rows[1:])).tobytes() == rows.tobytes()
    assert (join(()).dtype, len(join(()))) == (ROW, 0)
    taken = take(rows, rows["start"] > 1)
    assert taken["start"].tolist() == [2, 3]
    put(rows, np.array([0, 1]), taken)
    assert rows["close"].tolist() == [2 / 3, 1.0, 2 / 3, 1.0]


def test_an_emptied_bar_has_no_prices_and_is_withdrawn() -> None:
    rows = empty_rows(1)
    rows["close"], rows["volume"], rows["trades"] = 5.0, 3.0, 2
    (row,) = emptied(rows)
    assert (np.isnan(row["close"]), row["volume"], row["trades"], bool(row["withdrawn"])) == (True, 0.0, 0, True)
    assert rows["close"][0] == 5.0
