"""`splits` and `dividends`: corporate actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.store.columns import plain, selected, source_of, table_of

if TYPE_CHECKING:
    from tickerplant.store.pool import Session


class Actions:
    """Splits and dividends of one session or look. The table keeps what each source said last."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put_splits(self, splits: pa.Table, version: int) -> None:
        """Keep splits (`schemas.SPLITS`) of one record."""
        await self._put("splits", splits, version, "symbol, time, source", ("numerator", "denominator", "version"))

    async def put_dividends(self, dividends: pa.Table, version: int) -> None:
        """Keep dividends (`schemas.DIVIDENDS`) of one record."""
        await self._put("dividends", dividends, version, "symbol, time, source, amount", ("currency", "version"))

    async def _put(self, relation: str, rows: pa.Table, version: int, key: str, changes: tuple[str, ...]) -> None:
        names = ", ".join(rows.schema.names)
        source, arguments = await source_of(self._session, relation, plain(rows))
        sets = ", ".join(f"{name} = excluded.{name}" for name in changes)
        await self._session.execute(
            f"INSERT INTO {relation} AS t ({names}, version)"
            f" SELECT DISTINCT ON ({key}) {names}, {version:d} FROM {source}"
            f" ORDER BY {key} ON CONFLICT ({key}) DO UPDATE SET {sets} WHERE excluded.version >= t.version",
            *arguments,
        )

    async def splits(self, symbol: str) -> pa.Table:
        """Return a symbol's splits (`schemas.SPLITS`) in order of time."""
        return await self._read("splits", schemas.SPLITS, symbol)

    async def newest_splits(self, symbol: str | None = None) -> pa.Table:
        """Return of all symbols, or of one, the split that was said last of each session (`schemas.SPLITS`)."""
        rows = await self._session.rows(
            f"SELECT DISTINCT ON (symbol, time) {selected(schemas.SPLITS)} FROM splits"
            " WHERE $1::text IS NULL OR symbol = $1 ORDER BY symbol, time, version DESC, source",
            symbol,
        )
        return table_of(rows, schemas.SPLITS)

    async def dividends(self, symbol: str) -> pa.Table:
        """Return a symbol's dividends (`schemas.DIVIDENDS`) in order of time."""
        return await self._read("dividends", schemas.DIVIDENDS, symbol)

    async def _read(self, relation: str, schema: pa.Schema, symbol: str) -> pa.Table:
        rows = await self._session.rows(
            f"SELECT {selected(schema)} FROM {relation} WHERE symbol = $1 ORDER BY time, source", symbol
        )
        return table_of(rows, schema)
