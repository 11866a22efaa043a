"""Rows that a statement of a transaction uses."""

from __future__ import annotations

import pyarrow as pa

from tickerplant.store import Store
from tickerplant.store.copy_protocol import FEW_ROWS, source_of


async def test_each_statement_of_a_transaction_has_its_own_rows_alone(store: Store) -> None:
    many = 3 * FEW_ROWS
    async with store.session() as session:
        for _ in range(2):
            async with session.transaction():
                for first in (0, many, 0):  # as the overs of one partition, and then of another
                    batch = pa.RecordBatch.from_arrays([pa.array(range(first, first + many), pa.int64())], names=["n"])
                    source, arguments = await source_of(session, "numbers", batch)
                    rows = await session.rows(f"SELECT count(*), min(s.n) FROM {source}", *arguments)
                    assert tuple(rows[0]) == (many, first)
