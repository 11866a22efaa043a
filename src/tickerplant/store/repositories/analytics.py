"""`intraday_analytics`, `daily_analytics` and `realtime_analytics`: indicator values, a column for each output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import StoreError
from tickerplant.core.interval import parse
from tickerplant.store.copy_protocol import plain, quoted, selected, stage_rows, table_of
from tickerplant.store.new_series import copy_new_series
from tickerplant.store.partitions import ensure_partitions, record_arrivals
from tickerplant.store.repositories.ohlcv import by_relation
from tickerplant.store.repositories.ranges import RowReader
from tickerplant.store.row_selection import KEY, OLDER, filter_rows, newest_by_key, not_newer
from tickerplant.store.session import LOCK, LOCK_COLUMNS

if TYPE_CHECKING:
    from tickerplant.store.session import Session

INTRADAY, DAILY, REALTIME = "intraday_analytics", "daily_analytics", "realtime_analytics"
RELATIONS: Final = (INTRADAY, DAILY, REALTIME)
COLUMN_COMMENT: Final = (
    "Indicator value for the bar. Null during the warm-up, and while the indicator is not configured."
)
_OWN: Final = frozenset([*schemas.ANALYTICS_KEY.names, "updated_at"])
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")  # PostgreSQL truncates names at 63 bytes


def relation_of(interval: str) -> str:
    """Return the table of an interval's closed values. Raises BadInput for an unknown interval."""
    return INTRADAY if parse(interval).is_intraday else DAILY


def outputs_of(values: pa.Table) -> list[str]:
    """Return the names of the indicator columns of a table of values."""
    return [name for name in values.schema.names if name not in _OWN]


class Analytics:
    """Indicator values, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def ensure_columns(self, names: Iterable[str]) -> None:
        """Add missing columns to the three tables, outside a transaction. Raises StoreError for an invalid name."""
        missing = sorted(set(names) - self._session.known.columns)
        if not missing:
            return
        for name in missing:
            if not _NAME.match(name) or name in _OWN:
                raise StoreError(f"{name!r} is not a valid column name: use [a-z][a-z0-9_]*, at most 63 characters")
        if set(missing) - await self._columns():
            async with self._session.transaction():
                await self._session.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCK, LOCK_COLUMNS)
                for name in sorted(set(missing) - await self._columns()):
                    for relation in RELATIONS:
                        await self._session.script(
                            f'ALTER TABLE "{relation}" ADD COLUMN IF NOT EXISTS "{name}" double precision;'
                            f'COMMENT ON COLUMN "{relation}"."{name}" IS \'{COLUMN_COMMENT}\''
                        )
        self._session.known.columns.update(missing)

    async def _columns(self) -> set[str]:
        rows = await self._session.rows(
            """SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
               AND atttypid = 'double precision'::regtype ORDER BY attnum""",
            RELATIONS[-1],  # columns are added to the three tables in one transaction, in this order
        )
        return {row["attname"] for row in rows}

    async def prepare(self, values: pa.Table) -> None:
        """Create missing partitions and columns for these values, before the transaction."""
        await self.ensure_columns(outputs_of(values))
        for relation, part in _by_relation(values):
            if relation != REALTIME:
                await ensure_partitions(self._session, relation, times_of(part.column("time")))

    async def upsert(self, values: pa.Table, partition: int) -> int:
        """Apply values of one log partition in a transaction; return the count of changed rows.

        The newest version wins. Among equal versions the later row wins, because a recomputed range has the version of
        the newest cause. Values of forming bars are written to `realtime_analytics` and remain there when the bar
        closes. Values of final bars are written to the table of their interval. A `withdrawn` row deletes the older
        values of its bar from all tables. A row of a closed bar is complete: columns that are not in `values` become
        null, because their indicators are no longer computed. A row of a forming bar keeps its other columns.
        """
        states = values.column("state").cast(pa.utf8())
        forming = newest_by_key(filter_rows(values, pc.equal(states, schemas.FORMING)))
        closed = newest_by_key(filter_rows(values, pc.not_equal(states, schemas.FORMING)))
        withdrawn = pc.equal(closed.column("state").cast(pa.utf8()), schemas.WITHDRAWN)
        removed = filter_rows(closed, withdrawn)
        changed = await self._delete(removed)
        forming = filter_rows(forming, pa.array(~not_newer(forming, removed)))
        for relation, part in _by_relation(pa.concat_tables([filter_rows(closed, pc.invert(withdrawn)), forming])):
            changed += await self._write(relation, part)
            if relation != REALTIME:
                await record_arrivals(self._session, relation, partition, times_of(part.column("time")))
        return changed

    async def _write(self, relation: str, values: pa.Table) -> int:
        names = values.schema.names
        copied = 0
        if relation != REALTIME:
            copied, values = await copy_new_series(self._session, relation, values)
        if not values.num_rows:
            return copied
        others = [name for name in names if name not in KEY]
        if relation != REALTIME:  # `excluded` contains null for a column that is not inserted
            others += sorted(await self._columns() - {*others})
        changes = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
        stamp = ", updated_at = now()" if relation == REALTIME else ""
        source, arguments = await stage_rows(self._session, relation, plain(values))
        return copied + await self._session.execute(
            f'INSERT INTO "{relation}" AS t ({quoted(names)}) SELECT {quoted(names, "s.")} FROM {source}'
            f' ON CONFLICT (symbol, "interval", "time") DO UPDATE SET {changes}{stamp}'
            " WHERE excluded.version > t.version OR excluded.version = t.version"
            f" AND ({quoted(others, 't.')}) IS DISTINCT FROM ({quoted(others, 'excluded.')})",
            *arguments,
        )

    async def _delete(self, values: pa.Table) -> int:
        if not values.num_rows:
            return 0
        changed = 0
        source, arguments = await stage_rows(self._session, "gone_values", plain(values.select([*KEY, "version"])))
        for relation in RELATIONS:
            changed += await self._session.execute(
                f'DELETE FROM "{relation}" AS t USING {source}'
                ' WHERE t.symbol = s.symbol AND t."interval" = s."interval"'
                f' AND t."time" = s."time" AND {OLDER}',
                *arguments,
            )
        return changed

    async def read(
        self,
        symbol: str,
        interval: str,
        start_us: int | None = None,
        end_us: int | None = None,
        limit: int | None = None,
        *,
        names: Sequence[str] | None = None,
        newest_first: bool = False,
    ) -> pa.Table:
        """Return a symbol's values of closed bars: `schemas.ANALYTICS_KEY` and the columns `names`.

        All columns are returned if `names` is None. `RowReader.read_range` defines bounds and limit. Raises StoreError
        for a name that is not a column.
        """
        keys: list[tuple[str, Any]] = [("symbol", symbol), ("interval", interval)]
        schema = await self.schema(names)
        relation = relation_of(interval)
        rows = RowReader(self._session, relation, schema)
        return await rows.read_range(keys, start_us, end_us, limit, newest_first=newest_first)

    async def newest_of_each(
        self, symbols: Sequence[str], interval: str, *, limit: int, before_us: int | None = None
    ) -> pa.Table:
        """Return the newest `limit` rows of each symbol, sorted by (symbol, time).

        Rows at or after `before_us` are left out; None leaves out no row.
        """
        relation, schema = relation_of(interval), await self.schema(None)
        return await RowReader(self._session, relation, schema).read_newest_of_each(symbols, interval, before_us, limit)

    async def schema(self, names: Sequence[str] | None) -> pa.Schema:
        """Return the Arrow schema of `read`."""
        known = await self._columns()
        selected_names = sorted(known) if names is None else list(names)
        unknown = [name for name in selected_names if name not in known]
        if unknown:
            raise StoreError(
                f"there are no indicator values named {', '.join(unknown)}; available: {', '.join(sorted(known))}"
            )
        return pa.schema([*schemas.ANALYTICS_KEY, *(pa.field(name, pa.float64()) for name in selected_names)])


class RealtimeAnalytics:
    """Values of forming bars, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._analytics = Analytics(session)

    async def read(self, symbol: str) -> pa.Table:
        """Return the values of the newest forming bar of each interval of a symbol, like `Analytics.read`.

        The bar may have closed since then.
        """
        schema = await self._analytics.schema(None)
        rows = await self._session.rows(
            f'SELECT DISTINCT ON ("interval") {selected(schema)} FROM "{REALTIME}" WHERE symbol = $1'
            ' ORDER BY "interval", "time" DESC',
            symbol,
        )
        return table_of(rows, schema)

    async def of_each(self, symbols: Sequence[str]) -> pa.Table:
        """Return the rows of `read` for several symbols, sorted by (symbol, interval)."""
        schema = await self._analytics.schema(None)
        rows = await self._session.rows(
            f'SELECT DISTINCT ON (symbol, "interval") {selected(schema)} FROM "{REALTIME}"'
            ' WHERE symbol = ANY($1::text[]) ORDER BY symbol, "interval", "time" DESC',
            list(symbols),
        )
        return table_of(rows, schema)


def _by_relation(values: pa.Table) -> list[tuple[str, pa.Table]]:
    forming = pc.equal(values.column("state").cast(pa.utf8()), schemas.FORMING)
    parts = by_relation(filter_rows(values, pc.invert(forming)), INTRADAY, DAILY)
    live = filter_rows(values, forming)
    return [*parts, (REALTIME, live)] if live.num_rows else parts
