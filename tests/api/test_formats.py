"""JSON of tables, which is encoded in steps."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from tickerplant.api.http.formats import STEP_ROWS, to_json


@pytest.mark.parametrize("count", [0, 1, STEP_ROWS - 1, STEP_ROWS, STEP_ROWS + 1, 3 * STEP_ROWS])
def test_json_of_a_table_is_the_same_for_every_number_of_steps(count: int) -> None:
    rows = [{"t": str(n), "a b": None if n % 3 else n / 7, "list": ["x"] * (n % 3)} for n in range(count)]
    schema = pa.schema([("t", pa.utf8()), ("a b", pa.float64()), ("list", pa.list_(pa.utf8()))])
    text = to_json({"symbol": "A,B]}", "count": count}, "bars", pa.Table.from_pylist(rows, schema=schema))
    assert json.loads(text) == {"symbol": "A,B]}", "count": count, "bars": rows}
    assert list(json.loads(text)) == ["symbol", "count", "bars"]
