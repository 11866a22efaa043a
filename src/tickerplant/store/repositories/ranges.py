"""Reading ranges of rows in time order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tickerplant.core.times import Int64Array, datetime_of
from tickerplant.store.copy_protocol import quoted, read_numbers, selected, table_of

if TYPE_CHECKING:
    from tickerplant.store.session import Session


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads rows of one table as Arrow tables with `schema`.

    `arrival` names the columns that order rows of one instant, most significant first. Rows without a known arrival
    have equal values there. Plain PostgreSQL then reads them in the order of writing, that of `ctid` in a table
    without deletes.
    """

    session: Session
    relation: str
    schema: pa.Schema
    arrival: tuple[str, ...] = ()

    @property
    def _tie_breakers(self) -> tuple[str, ...]:
        """Return the expressions that order rows of one instant."""
        if not self.arrival:
            return ()
        columns = tuple(f'"{name}"' for name in self.arrival)
        return columns if self.session.timescale else (*columns, "ctid")

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

        The order is descending if `newest_first` is set. A limit without a start selects the newest `limit` rows. A
        limit with a start selects the rows nearest to the start, or the newest rows if `newest_first` is set.
        """
        arguments: list[Any] = [value for _, value in keys]
        conditions = [f'"{name}" = ${i}' for i, (name, _) in enumerate(keys, 1)]
        for bound, comparison in ((start_us, ">="), (end_us, "<")):
            if bound is not None:
                arguments.append(datetime_of(bound))
                conditions.append(f'"time" {comparison} ${len(arguments)}')
        backward = newest_first or (start_us is None and limit is not None)
        direction = "DESC" if backward else "ASC"
        tail = "".join(f", {name} {direction}" for name in self._tie_breakers)
        if limit is not None:
            arguments.append(limit)
            tail += f" LIMIT ${len(arguments)}"
        rows = await self.session.rows(
            f'SELECT {selected(self.schema)} FROM "{self.relation}" WHERE {" AND ".join(conditions)}'
            f' ORDER BY "time" {direction}{tail}',
            *arguments,
        )
        if backward and not newest_first:
            rows = rows[::-1]
        return table_of(rows, self.schema)

    async def read_newest_of_each(
        self, symbols: Sequence[str], interval: str | None, before_us: int | None, limit: int, condition: str = "true"
    ) -> pa.Table:
        """Return the newest `limit` rows of each symbol before a time, sorted by (symbol, time).

        The query reads one index range per symbol. `interval` is None for a table without intervals.
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
