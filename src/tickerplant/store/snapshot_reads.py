"""Reads of several tables in one statement, with the applied positions: one moment of the store, one round trip.

A second statement follows if a narrowed range had too few rows, or if the columns of indicators have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.store.column_arrays import array_list, table_of_arrays
from tickerplant.store.copy_protocol import quoted
from tickerplant.store.pool import Store
from tickerplant.store.repositories.analytics import REALTIME
from tickerplant.store.repositories.ohlcv import relation_of
from tickerplant.store.repositories.prices import ARRIVAL, RELATION
from tickerplant.store.repositories.ranges import RangeQuery, tie_breakers
from tickerplant.store.session import TIMESCALEDB

POSITIONS: Final = "SELECT string_agg(topic || E'\\t' || partition || E'\\t' || position, E'\\n') FROM positions"
_OUTPUTS: Final = f"""SELECT array_agg(attname::text ORDER BY attname) FROM pg_attribute
    WHERE attrelid = '{REALTIME}'::regclass AND attnum > 0 AND NOT attisdropped
    AND atttypid = 'double precision'::regtype"""
"""The columns of indicators, as `repositories.analytics` lists them."""

PUBLIC_BARS: Final = pa.schema(
    [field for field in schemas.BARS if field.name not in ("symbol", "interval", "history", "published_at")]
)
"""Columns of a bar in a response that contains the symbol and the interval only once."""

Positions = dict[tuple[str, int], int]
"""The next offset to apply, by (topic, partition)."""


class Part(Protocol):
    """One part of a statement: a query with one row of arrays."""

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of the arrays."""

    def sql(self, arguments: list[Any]) -> str:
        """Return the query. Adds its arguments to the list."""
        ...

    def table(self, row: Sequence[Any]) -> pa.Table:
        """Return the rows that the arrays contain."""
        ...


@dataclass(frozen=True, slots=True)
class _FormingValues:
    """The values of a symbol's newest forming bar of each interval, as `RealtimeAnalytics.read` returns them."""

    schema: pa.Schema
    symbol: str

    def sql(self, arguments: list[Any]) -> str:
        arguments.append(self.symbol)
        return (
            f'SELECT {array_list(self.schema)} FROM (SELECT DISTINCT ON ("interval") {quoted(self.schema.names)}'
            f' FROM "{REALTIME}" WHERE symbol = ${len(arguments)} ORDER BY "interval", "time" DESC) AS r'
        )

    def table(self, row: Sequence[Any]) -> pa.Table:
        return table_of_arrays(row, self.schema)


@dataclass(frozen=True, slots=True)
class NewestState:
    """A symbol's newest ticks, its newest bar of each requested interval, and the values of its forming bars."""

    ticks: pa.Table
    bars: list[pa.Table]
    values: pa.Table


def bars_query(symbol: str, interval: str, start_us: int | None, end_us: int | None, limit: int) -> RangeQuery:
    """Return the query for bars as `Ohlcv.read` defines it, with the columns `PUBLIC_BARS`."""
    keys = (("symbol", symbol), ("interval", interval))
    return RangeQuery(relation_of(interval), PUBLIC_BARS, keys, start_us, end_us, limit, start_us is None)


async def read_bars(store: Store, query: RangeQuery) -> tuple[pa.Table, str]:
    """Return the bars of a query, and the applied positions as a text that `positions_of` parses."""
    [table], (positions,) = await _read(store, [query], (POSITIONS,))
    return table, positions


async def read_newest_state(store: Store, symbol: str, intervals: Sequence[str], ticks: int) -> tuple[NewestState, str]:
    """Return a symbol's newest state with at most `ticks` ticks, and the applied positions as text, as `read_bars`."""
    ties = tie_breakers(ARRIVAL.names, timescale=store.flavour == TIMESCALEDB)
    newest = RangeQuery(RELATION, schemas.TICKS, (("symbol", symbol),), None, None, ticks, True, ties)
    bars = [bars_query(symbol, name, None, None, 1) for name in intervals]
    while True:
        known = store.database.known.outputs
        schema = pa.schema([*schemas.ANALYTICS_KEY, *(pa.field(name, pa.float64()) for name in known)])
        parts: list[Part] = [newest, *bars, _FormingValues(schema, symbol)]
        tables, (positions, outputs) = await _read(store, parts, (POSITIONS, _OUTPUTS))
        if tuple(outputs or ()) == known:
            return NewestState(tables[0], tables[1:-1], tables[-1]), positions
        store.database.known.outputs = tuple(outputs or ())


def positions_of(text: str | None) -> Positions:
    """Return the positions in a text of `POSITIONS`."""
    rows = (line.split("\t") for line in (text or "").split("\n") if line)
    return {(topic, int(partition)): int(position) for topic, partition, position in rows}


async def _read(store: Store, parts: Sequence[Part], values: Sequence[str]) -> tuple[list[pa.Table], list[Any]]:
    """Return the table of each part, and the value of each scalar query. Reads narrowed ranges first."""
    spans = store.database.known.spans
    narrow = [part.narrowed(spans) if isinstance(part, RangeQuery) else part for part in parts]
    tables, found = await _read_all(store, narrow, values)
    complete = [
        part == short or (isinstance(part, RangeQuery) and table.num_rows >= (part.limit or 0))
        for part, short, table in zip(parts, narrow, tables, strict=True)
    ]
    if not all(complete):
        tables, found = await _read_all(store, parts, values)
    for part, table in zip(parts, tables, strict=True):
        if isinstance(part, RangeQuery):
            part.remember(spans, table)
    return tables, found


async def _read_all(store: Store, parts: Sequence[Part], values: Sequence[str]) -> tuple[list[pa.Table], list[Any]]:
    arguments: list[Any] = []
    queries = ", ".join(f"({part.sql(arguments)}) AS p{number}" for number, part in enumerate(parts))
    scalars = ", ".join(f"({value})" for value in values)
    row = await store.read_once(
        f"SELECT {scalars}, {', '.join(f'p{number}.*' for number in range(len(parts)))} FROM {queries}", *arguments
    )
    at, tables = len(values), []
    for part in parts:
        tables.append(part.table(row[at : at + len(part.schema)]))
        at += len(part.schema)
    return tables, list(row[: len(values)])
