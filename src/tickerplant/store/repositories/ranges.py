"""Reads of ranges of rows in time order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from tickerplant.core.arrow_values import times_of
from tickerplant.core.times import Int64Array, clamp_range, datetime_of
from tickerplant.store.column_arrays import array_list, is_supported, table_of_arrays
from tickerplant.store.copy_protocol import quoted, read_numbers, selected, table_of
from tickerplant.store.row_spans import RowSpans

if TYPE_CHECKING:
    from tickerplant.store.session import Session

MAX_ARRAY_ROWS: Final = 250_000
"""Maximum rows that are read as arrays: a page, and the rows that it skips. The database builds arrays in memory."""


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """A query for a symbol's rows in a range: `start_us` <= time < `end_us`, at most `limit`, nearest to one end.

    That end is the end of the range if `backward` is set, otherwise its start. A bound of None does not restrict the
    range. `keys` are the columns that select the symbol's rows, and their values. `ties` are expressions that order
    rows of one instant.
    """

    relation: str
    schema: pa.Schema
    keys: tuple[tuple[str, Any], ...]
    start_us: int | None
    end_us: int | None
    limit: int | None
    backward: bool
    ties: tuple[str, ...] = ()

    @property
    def fits_arrays(self) -> bool:
        """Return whether the rows can be read as arrays: at most `MAX_ARRAY_ROWS`, and of supported types."""
        return self.limit is not None and self.limit <= MAX_ARRAY_ROWS and is_supported(self.schema)

    def narrowed(self, spans: RowSpans) -> RangeQuery:
        """Return a query with a shorter range. Its result is the same if it has `limit` rows (`RowSpans.narrow`)."""
        assert self.limit is not None
        start_us, end_us = clamp_range(*spans.narrow(self._span_key, self.start_us, self.end_us, self.limit))
        return dataclasses.replace(self, start_us=start_us, end_us=end_us)

    def remember(self, spans: RowSpans, table: pa.Table) -> None:
        """Record the span of the newest rows, if this query has a limit and no bounds."""
        if self.start_us is None and self.end_us is None and self.limit is not None:
            spans.add(self._span_key, times_of(table.column("time")), self.limit)

    def rows_sql(self, arguments: list[Any]) -> str:
        """Return the statement for `table_of`. Adds its arguments to the list."""
        return self._sql(selected(self.schema), arguments)

    def sql(self, arguments: list[Any]) -> str:
        """Return the statement whose only row is for `table`. Adds its arguments to the list."""
        rows = self._sql(quoted(self.schema.names), arguments)
        return f"SELECT {array_list(self.schema)} FROM ({rows}) AS r"

    def table(self, row: Sequence[Any]) -> pa.Table:
        """Return the rows in ascending order of time."""
        return table_of_arrays(row, self.schema, backward=self.backward)

    @property
    def _span_key(self) -> tuple[Any, ...]:
        return (self.relation, *(value for _, value in self.keys))

    def _sql(self, columns: str, arguments: list[Any]) -> str:
        conditions = []
        for name, value in self.keys:
            arguments.append(value)
            conditions.append(f'"{name}" = ${len(arguments)}')
        for bound, comparison in ((self.start_us, ">="), (self.end_us, "<")):
            if bound is not None:
                arguments.append(datetime_of(bound))
                conditions.append(f'"time" {comparison} ${len(arguments)}')
        direction = "DESC" if self.backward else "ASC"
        tail = "".join(f", {name} {direction}" for name in self.ties)
        if self.limit is not None:
            arguments.append(self.limit)
            tail += f" LIMIT ${len(arguments)}"
        where = " AND ".join(conditions)
        return f'SELECT {columns} FROM "{self.relation}" WHERE {where} ORDER BY "time" {direction}{tail}'


@dataclass(frozen=True, slots=True)
class RowReader:
    """A reader of the rows of one table, as Arrow tables with `schema`.

    `arrival` names the columns that order rows of one instant, most significant first. Rows without a known arrival
    have equal values in these columns. Plain PostgreSQL then reads them in the order of writing, which is the order of
    `ctid` in a table without deletes.
    """

    session: Session
    relation: str
    schema: pa.Schema
    arrival: tuple[str, ...] = ()

    @property
    def _tie_breakers(self) -> tuple[str, ...]:
        """Return the expressions that order rows of one instant."""
        return tie_breakers(self.arrival, timescale=self.session.timescale)

    async def read_range(
        self,
        keys: Sequence[tuple[str, Any]],
        start_us: int | None,
        end_us: int | None,
        limit: int | None,
        *,
        newest_first: bool = False,
    ) -> pa.Table:
        """Return rows with these key columns and `start_us` <= time < `end_us`, in time order.

        None as a bound or limit does not restrict the rows. The order is descending if `newest_first` is set. A limit
        without a start selects the newest `limit` rows. A limit with a start selects the rows nearest to the start, or
        the newest rows if `newest_first` is set.
        """
        backward = newest_first or (start_us is None and limit is not None)
        query = RangeQuery(
            self.relation, self.schema, tuple(keys), start_us, end_us, limit, backward, self._tie_breakers
        )
        if newest_first or not query.fits_arrays:
            arguments: list[Any] = []
            rows = await self.session.rows(query.rows_sql(arguments), *arguments)
            return table_of(rows[::-1] if backward and not newest_first else rows, self.schema)
        assert limit is not None
        spans = self.session.known.spans
        narrow = query.narrowed(spans)
        table = await self._read_arrays(narrow)
        if table.num_rows < limit and narrow != query:
            table = await self._read_arrays(query)
        query.remember(spans, table)
        return table

    async def _read_arrays(self, query: RangeQuery) -> pa.Table:
        arguments: list[Any] = []
        [row] = await self.session.rows(query.sql(arguments), *arguments)
        return query.table(row)

    async def read_newest_of_each(
        self, symbols: Sequence[str], interval: str | None, before_us: int | None, limit: int, condition: str = "true"
    ) -> pa.Table:
        """Return the newest `limit` rows of each symbol, sorted by (symbol, time).

        Rows at or after `before_us` are left out; None leaves out no row. The query reads one index range per symbol.
        `interval` is None for a table without intervals.
        """
        ties = self._tie_breakers
        places = "".join(f", t.{name} AS place{i}" for i, name in enumerate(ties))
        newest = "".join(f", t.{name} DESC" for name in ties)
        ascending = "".join(f", b.place{i}" for i in range(len(ties)))
        of_interval = 't."interval" = $4 AND ' if interval is not None else ""
        rows = await self.session.rows(
            f"""SELECT {selected(self.schema, "b.")} FROM unnest($1::text[]) AS s (symbol), LATERAL (
                    SELECT {quoted(self.schema.names)}{places} FROM "{self.relation}" AS t
                    WHERE t.symbol = s.symbol AND {of_interval}t."time" < $2 AND {condition}
                    ORDER BY t."time" DESC{newest} LIMIT $3
                ) AS b ORDER BY b.symbol, b."time"{ascending}""",
            sorted(symbols),
            datetime_of(before_us) if before_us is not None else datetime_of(_END_US),
            limit,
            *([interval] if interval is not None else []),
        )
        return table_of(rows, self.schema)


async def read_numbered(
    session: Session, query: str, symbols: Sequence[str], *arguments: Any
) -> tuple[list[str], Int64Array, Int64Array]:
    """Return symbol names, and two columns of a query: times and numbers, each int64[rows].

    The query's `$1` is the list of distinct names. `slices_by_name` splits the rows by name.
    """
    names = list(dict.fromkeys(symbols))
    times, numbers = await read_numbers(session, query, 0, names, *arguments)
    return names, times, numbers.astype(np.int64)


def tie_breakers(arrival: Sequence[str], *, timescale: bool) -> tuple[str, ...]:
    """Return the expressions that order rows of one instant by the columns of their arrival (`RowReader`)."""
    if not arrival:
        return ()
    columns = tuple(f'"{name}"' for name in arrival)
    return columns if timescale else (*columns, "ctid")


def in_order(numbers: Int64Array, times: Int64Array) -> Int64Array | slice:
    """Return an index that sorts rows by (number, time); a full slice if the rows are sorted."""
    steps = np.diff(numbers)
    if np.all((steps > 0) | ((steps == 0) & (np.diff(times) >= 0))):
        return slice(None)
    result: Int64Array = np.lexsort((times, numbers))
    return result


def slices_by_name(names: Sequence[str], numbers: Int64Array) -> dict[str, slice]:
    """Return the slice of each name's rows. `numbers` is int64[rows], ascending, from 1. Omits names without rows."""
    edges = [*np.flatnonzero(np.diff(numbers, prepend=0)).tolist(), len(numbers)]
    return {names[numbers[begin] - 1]: slice(begin, end) for begin, end in itertools.pairwise(edges)}


_END_US = 253_370_764_800_000_000  # the year 9999, after all rows
