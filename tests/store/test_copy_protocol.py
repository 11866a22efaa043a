"""Rows that are staged for several statements of one transaction."""

from __future__ import annotations

import pyarrow as pa

from tickerplant.store import Store
from tickerplant.store.copy_protocol import ENCODED_ROWS, FEW_ROWS, stage_rows


async def test_each_statement_of_a_transaction_uses_only_its_own_rows(store: Store) -> None:
    many = 3 * FEW_ROWS
    async with store.session() as session:
        for _ in range(2):
            async with session.transaction():
                for first in (0, many, 0):  # as with `over` records of two partitions
                    batch = pa.RecordBatch.from_arrays([pa.array(range(first, first + many), pa.int64())], names=["n"])
                    source, arguments = await stage_rows(session, "numbers", batch)
                    rows = await session.rows(f"SELECT count(*), min(s.n) FROM {source}", *arguments)
                    assert tuple(rows[0]) == (many, first)


async def test_a_batch_is_copied_in_pieces_without_loss(store: Store) -> None:
    count = 2 * ENCODED_ROWS + 3
    numbers = list(range(count))
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(numbers, pa.int64()),
            pa.array([None if number % 7 == 0 else "ü" * (number % 5) for number in numbers]),
            pa.array([None if number % 5 == 0 else number % 2 == 0 for number in numbers]),
        ],
        names=["n", "text", "flag"],
    )
    async with store.session() as session, session.transaction():
        source, arguments = await stage_rows(session, "pieces", batch)
        rows = await session.rows(f"SELECT n, text, flag FROM {source} ORDER BY n", *arguments)
    assert [tuple(row) for row in rows] == list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
