"""`intraday_ohlcv` and `historical_ohlcv`: the newest version of each bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import schemas
from tickerplant.core.arrow_values import times_of, timestamps
from tickerplant.core.interval import parse
from tickerplant.core.reasons import OF_TICKS
from tickerplant.core.rules import DEFAULT_RULES
from tickerplant.core.sources import SourceOrder
from tickerplant.store.copy_protocol import plain, quoted, read_numbers, stage_rows
from tickerplant.store.new_series import copy_new_series
from tickerplant.store.partitions import ensure_partitions, record_arrivals
from tickerplant.store.repositories.ranges import RowReader
from tickerplant.store.repositories.symbols import record_symbols, update_withdrawn_symbols
from tickerplant.store.row_selection import KEY, OLDER, filter_rows, is_daily, newest_by_key, not_newer
from tickerplant.store.source_rank_sql import SourceRanks, groups, ranks_of_bars

if TYPE_CHECKING:
    from tickerplant.store.session import Session

INTRADAY, HISTORICAL = "intraday_ohlcv", "historical_ohlcv"
ANALYTICS: Final = {
    INTRADAY: ("intraday_analytics", "realtime_analytics"),
    HISTORICAL: ("daily_analytics", "realtime_analytics"),
}
_NAMES: Final = tuple(schemas.BARS.names)
_SET: Final = ", ".join(f'"{name}" = excluded."{name}"' for name in _NAMES if name not in KEY)
_NEWER: Final = (
    "(excluded.version > t.version OR"
    " (excluded.version = t.version AND t.state = 'forming' AND excluded.state <> 'forming'))"
)
_BETTER: Final = """excluded.version > t.version AND (excluded.complete AND NOT t.complete
    OR excluded.complete = t.complete AND ({bars})[array_position({names}, excluded.source)] <=
        CASE WHEN NOT t.history AND t.reason = ANY ({reasons})
        THEN ({ticks})[array_position({names}, t.source)] ELSE ({bars})[array_position({names}, t.source)] END)"""
HISTORY: Final = pa.schema(
    [
        field.with_nullable(True)
        for field in schemas.BARS
        if field.name not in ("trades", "complete", "revision", "reason", "source", "published_at")
    ]
)
"""Columns that `Ohlcv.history` returns."""
DEFAULT_ORDER: Final = SourceOrder(DEFAULT_RULES.sources)


def relation_of(interval: str) -> str:
    """Return the table of an interval's bars. Raises BadInput for an unknown interval."""
    return INTRADAY if parse(interval).is_intraday else HISTORICAL


def by_relation(rows: pa.Table, intraday: str, daily: str) -> list[tuple[str, pa.Table]]:
    """Return the rows by table, without empty tables."""
    mask = is_daily(rows)
    parts = [(intraday, filter_rows(rows, pc.invert(mask))), (daily, filter_rows(rows, mask))]
    return [(name, part) for name, part in parts if part.num_rows]


class Ohlcv:
    """Bars, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def prepare(self, bars: pa.Table) -> None:
        """Create missing partitions for these bars, before the transaction."""
        for relation, part in by_relation(bars, INTRADAY, HISTORICAL):
            await ensure_partitions(self._session, relation, times_of(part.column("time")))

    async def upsert(self, bars: pa.Table, partition: int, *, sources: SourceOrder = DEFAULT_ORDER) -> int:
        """Apply published bars of one log partition in a transaction; return the count of changed rows.

        `bars` has the schema `schemas.BARS`. The newest version of a key wins. A `withdrawn` bar deletes older rows:
        the bar and its values. Bars marked `history` compete with stored rows of older versions by rank: complete
        first, then by the order of `sources` for their symbol and interval. Bars marked `history` have the kind `bars`
        in that order. Stored rows may have the kind `ticks` (`core.reasons`).
        """
        history = bars.column("history")
        competing = best_by_rank(filter_rows(bars, history), sources)
        live = newest_by_key(filter_rows(bars, pc.invert(history)))
        # A live bar of the same or a newer version always wins over history, independent of rank.
        competing = competing.filter(pa.array(~not_newer(competing, live)))
        changed = 0
        for relation, part in by_relation(live, INTRADAY, HISTORICAL):
            changed += await self._apply(relation, part)
        for relation, part in by_relation(competing, INTRADAY, HISTORICAL):
            changed += await self._compete(relation, part, sources)
        for relation, part in by_relation(bars, INTRADAY, HISTORICAL):
            await record_arrivals(self._session, relation, partition, times_of(part.column("time")))
        await record_symbols(self._session, live, competing)
        return changed

    async def _apply(self, relation: str, bars: pa.Table) -> int:
        withdrawn = pc.equal(bars.column("state").cast(pa.utf8()), schemas.WITHDRAWN)
        changed = await self._write(relation, "bars", filter_rows(bars, pc.invert(withdrawn)), _NEWER)
        removed = filter_rows(bars, withdrawn)
        if removed.num_rows:
            key = plain(removed.select([*KEY, "version"]))
            source, arguments = await stage_rows(self._session, f"gone_{relation}", key)
            for table in (relation, *ANALYTICS[relation]):
                changed += await self._session.execute(
                    f'DELETE FROM "{table}" AS t USING {source}'
                    ' WHERE t.symbol = s.symbol AND t."interval" = s."interval"'
                    f' AND t."time" = s."time" AND {OLDER}',
                    *arguments,
                )
            await update_withdrawn_symbols(self._session, relation, removed)
        return changed

    async def _compete(self, relation: str, bars: pa.Table, sources: SourceOrder) -> int:
        """Write historical bars that outrank stored rows, with one statement per group of ranks."""
        names = set(bars.column("source").cast(pa.utf8()).unique().to_pylist())
        stored = await self._session.rows(
            f"""SELECT DISTINCT t.source FROM unnest($1::text[], $2::text[]) AS s (symbol, "interval")
                JOIN "{relation}" AS t ON t.symbol = s.symbol AND t."interval" = s."interval"
                WHERE t."time" BETWEEN $3 AND $4""",
            *_pairs(bars),
            pc.min(bars.column("time")).as_py(),
            pc.max(bars.column("time")).as_py(),
        )
        changed = 0
        for number, (ranks, mask) in enumerate(groups(bars, sources, [*names.union(row["source"] for row in stored)])):
            part = bars if mask is None else bars.filter(pa.array(mask))
            changed += await self._write(relation, f"history{number}", part, _BETTER, ranks)
        return changed

    async def _write(
        self, relation: str, staging: str, bars: pa.Table, condition: str, ranks: SourceRanks | None = None
    ) -> int:
        copied, bars = await copy_new_series(self._session, relation, bars.select(_NAMES))
        if not bars.num_rows:
            return copied
        source, arguments = await stage_rows(self._session, f"{staging}_{relation}", plain(bars))
        if ranks is not None:
            at = len(arguments)
            condition = condition.format(
                names=f"${at + 1}::text[]", bars=f"${at + 2}::integer[]", ticks=f"${at + 3}::integer[]",
                reasons=f"${at + 4}::text[]",
            )  # fmt: skip
            arguments = [*arguments, ranks.names, ranks.of_bars, ranks.of_ticks, OF_TICKS]
        return copied + await self._session.execute(
            f'INSERT INTO "{relation}" AS t ({quoted(_NAMES)}) SELECT {quoted(_NAMES, "s.")} FROM {source}'
            f' ON CONFLICT (symbol, "interval", "time") DO UPDATE SET {_SET} WHERE {condition}',
            *arguments,
        )

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
        """Return a symbol's bars, including the forming bar, with the columns `names` of `schemas.BARS`.

        All columns are returned if `names` is None. `RowReader.read_range` defines bounds and limit.
        """
        keys: list[tuple[str, Any]] = [("symbol", symbol), ("interval", interval)]
        schema = schemas.BARS if names is None else pa.schema([f for f in schemas.BARS if f.name in names])
        rows = RowReader(self._session, relation_of(interval), schema)
        return await rows.read_range(keys, start_us, end_us, limit, newest_first=newest_first)

    async def history(self, symbol: str, interval: str) -> pa.RecordBatch:
        """Return all final bars of a symbol that have a close, in time order (`HISTORY`), as input for computations."""
        names = [field.name for field in HISTORY if field.type == pa.float64()]
        numbers = ", ".join(f"coalesce(\"{name}\", 'NaN')" for name in names)
        # The driver inserts arguments of COPY into the statement's text, quoted.
        query = (
            f'SELECT "time", version, {numbers} FROM "{relation_of(interval)}"'
            ' WHERE symbol = $1 AND "interval" = $2 AND state = \'final\' AND close IS NOT NULL ORDER BY "time"'
        )
        times, versions, *values = await read_numbers(self._session, query, len(names), symbol, interval)
        keys = [
            pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(times), dtype=np.int8)), pa.array([text])).cast(kind)
            for text, kind in (
                (symbol, schemas.TEXT),
                (interval, schemas.SMALL_TEXT),
                (schemas.FINAL, schemas.SMALL_TEXT),
            )
        ]
        columns = {
            "time": timestamps(times), "symbol": keys[0], "interval": keys[1], "state": keys[2],
            "version": pa.array(versions), "history": pa.array(np.zeros(len(times), dtype=np.bool_)),
            **dict(zip(names, (pa.array(column, mask=np.isnan(column)) for column in values), strict=True)),
        }  # fmt: skip
        return pa.RecordBatch.from_arrays([columns[name] for name in HISTORY.names], schema=HISTORY)

    async def newest_of_each(
        self, symbols: Sequence[str], interval: str, *, limit: int, before_us: int | None = None, forming: bool = False
    ) -> pa.Table:
        """Return the newest `limit` bars of each symbol, sorted by (symbol, time).

        Bars at or after `before_us` are left out; None leaves out no bar. The bars are final; if `forming` is set, they
        may have any state.
        """
        condition = "true" if forming else "t.state = 'final'"
        rows = RowReader(self._session, relation_of(interval), schemas.BARS)
        return await rows.read_newest_of_each(symbols, interval, before_us, limit, condition)


def best_by_rank(bars: pa.Table, sources: SourceOrder) -> pa.Table:
    """Return the best bar of each key: complete first, then by rank of source, then the newest."""
    if bars.num_rows < 2:
        return bars
    return newest_by_key(bars, bars.column("complete").to_numpy(), -ranks_of_bars(bars, sources))


def _pairs(bars: pa.Table) -> tuple[list[str], list[str]]:
    """Return the symbols and the intervals of the distinct (symbol, interval) pairs."""
    named = pa.table({name: bars.column(name).cast(pa.utf8()) for name in ("symbol", "interval")})
    found = named.group_by(["symbol", "interval"]).aggregate([])
    return found.column("symbol").to_pylist(), found.column("interval").to_pylist()
