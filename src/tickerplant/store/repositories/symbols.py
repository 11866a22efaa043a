"""`symbols`: every symbol with a closed bar. Writes of bars update it, so that a list of symbols reads no bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tickerplant.core import schemas
from tickerplant.core.arrow_values import TIMESTAMP
from tickerplant.store.copy_protocol import plain, stage_rows, table_of

if TYPE_CHECKING:
    from tickerplant.store.session import Session

SYMBOLS: Final = pa.schema(
    [
        pa.field("symbol", pa.utf8(), nullable=False),
        pa.field("first_time", TIMESTAMP, nullable=False),
        pa.field("last_time", TIMESTAMP, nullable=False),
        pa.field("intervals", pa.list_(pa.utf8()), nullable=False),
        pa.field("last_price", pa.float64()),
    ]
)


class Symbols:
    """Symbols with closed bars, through one database session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(self, names: Sequence[str] | None = None) -> pa.Table:
        """Return the symbols of `names` that exist, or all symbols if `names` is None, sorted (`SYMBOLS`).

        The columns are the times of the first and last closed bar, the intervals, and the last close.
        """
        rows = await self._session.rows(
            """SELECT symbol, date_part('epoch', first_time), date_part('epoch', last_time), intervals, last_price
               FROM symbols WHERE $1::text[] IS NULL OR symbol = ANY ($1::text[]) ORDER BY symbol""",
            None if names is None else [*names],
        )
        return table_of(rows, SYMBOLS)


async def update_withdrawn_symbols(session: Session, relation: str, removed: pa.Table) -> None:
    """Update the last time and price of symbols whose newest bar may be one of `removed`, deleted from `relation`."""
    source, arguments = await stage_rows(session, f"gone_symbols_{relation}", plain(removed.select(["symbol", "time"])))
    await session.execute(
        f"""UPDATE symbols AS t SET last_time = coalesce(n.last_time, t.last_time), last_price = n.last_price
            FROM (SELECT s.symbol, max(s."time") AS "time" FROM {source} GROUP BY s.symbol) AS g
            JOIN symbols AS k ON k.symbol = g.symbol AND g."time" >= k.last_time,
            LATERAL (
                SELECT (array_agg(b."time" ORDER BY b."time" DESC))[1] AS last_time,
                    (array_agg(b.close ORDER BY b."time" DESC, b."interval") FILTER (WHERE b.close IS NOT NULL))[1]
                        AS last_price
                FROM unnest(k.intervals) AS i ("interval"), LATERAL (
                    (SELECT a."time", a."interval", a.close FROM intraday_ohlcv AS a
                     WHERE a.symbol = k.symbol AND a."interval" = i."interval" AND a.state = 'final'
                     ORDER BY a."time" DESC LIMIT 1)
                    UNION ALL
                    (SELECT a."time", a."interval", a.close FROM historical_ohlcv AS a
                     WHERE a.symbol = k.symbol AND a."interval" = i."interval" AND a.state = 'final'
                     ORDER BY a."time" DESC LIMIT 1)
                ) AS b
            ) AS n
            WHERE t.symbol = k.symbol""",
        *arguments,
    )


async def record_symbols(session: Session, *tables: pa.Table) -> None:
    """Store the symbols of the final bars, in the bars' transaction. Ignores forming bars: they change often."""
    bars = pa.concat_tables(
        [t.select(["symbol", "interval", "time", "state", "close"]) for t in tables]
    ).unify_dictionaries()
    bars = bars.filter(pc.equal(bars.column("state").cast(pa.utf8()), schemas.FINAL))
    if not bars.num_rows:
        return
    bars = bars.set_column(0, "symbol", bars.column("symbol").cast(pa.utf8()))
    bars = bars.set_column(1, "interval", bars.column("interval").cast(pa.utf8())).sort_by("time")
    found = bars.group_by(["symbol", "interval"], use_threads=False).aggregate(
        [("time", "min"), ("time", "max"), ("close", "last")]
    )
    found = found.take(pa.array(np.argsort(found.column("symbol").to_numpy(), kind="stable")))
    batch = plain(found.select(["symbol", "interval", "time_min", "time_max", "close_last"]))
    source, arguments = await stage_rows(session, "symbols", batch)
    await session.execute(
        f"""INSERT INTO symbols AS t (symbol, first_time, last_time, intervals, last_price)
            SELECT s.symbol, min(s.time_min), max(s.time_max), array_agg(s."interval" ORDER BY s."interval"),
                (array_agg(s.close_last ORDER BY s.time_max DESC, s."interval"))[1]
            FROM {source} GROUP BY s.symbol
            ON CONFLICT (symbol) DO UPDATE SET
                first_time = least(t.first_time, excluded.first_time),
                last_time = greatest(t.last_time, excluded.last_time),
                last_price = CASE WHEN excluded.last_time >= t.last_time
                    THEN coalesce(excluded.last_price, t.last_price) ELSE t.last_price END,
                intervals = CASE WHEN t.intervals @> excluded.intervals THEN t.intervals
                    ELSE (SELECT array_agg(DISTINCT i ORDER BY i) FROM unnest(t.intervals || excluded.intervals) AS
                    i) END""",
        *arguments,
    )
