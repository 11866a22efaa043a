"""`splits` and `dividends`: corporate actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tickerplant.core import schemas
from tickerplant.core.adjustment import (
    AS_TRADED,
    FOR_ALL,
    USER,
    Adjustment,
    Closes,
    Payments,
    adjustment_for,
    ex_dates_of,
    payments_of,
    session_or_day,
    sessions_before,
)
from tickerplant.core.sessions import Calendar
from tickerplant.core.times import NEVER_US, Int64Array, datetime_of, micros_of
from tickerplant.store.copy_protocol import plain, selected, stage_rows, table_of

if TYPE_CHECKING:
    from tickerplant.store.session import Session


class Actions:
    """Splits and dividends, through one database session. A later row replaces the stored row of the same key."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put_splits(self, splits: pa.Table, version: int) -> None:
        """Store the splits (`schemas.SPLITS`) of one record."""
        await self._put("splits", splits, version, "symbol, time, source", ("numerator", "denominator", "version"))

    async def put_dividends(self, dividends: pa.Table, version: int) -> None:
        """Store the dividends (`schemas.DIVIDENDS`) of one record."""
        await self._put("dividends", dividends, version, "symbol, time, source, amount", ("currency", "version"))

    async def _put(self, relation: str, rows: pa.Table, version: int, key: str, changes: tuple[str, ...]) -> None:
        names = ", ".join(rows.schema.names)
        source, arguments = await stage_rows(self._session, relation, plain(rows))
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
        """Return the newest split of each symbol and session (`schemas.SPLITS`), of all symbols if `symbol` is None."""
        rows = await self._session.rows(
            f"SELECT DISTINCT ON (symbol, time) {selected(schemas.SPLITS)} FROM splits"
            " WHERE $1::text IS NULL OR symbol = $1 ORDER BY symbol, time, version DESC, source",
            symbol,
        )
        return table_of(rows, schemas.SPLITS)

    async def dividends(self, symbol: str) -> pa.Table:
        """Return a symbol's dividends (`schemas.DIVIDENDS`) in order of time."""
        return await self._read("dividends", schemas.DIVIDENDS, symbol)

    async def newest_dividends(self, symbol: str) -> pa.Table:
        """Return a symbol's dividends (`schemas.DIVIDENDS`): for each ex-date all rows of the newest source.

        A dividend from two sources therefore counts once; a regular and a special dividend of one source both count.
        """
        rows = await self._session.rows(
            f"""SELECT {selected(schemas.DIVIDENDS)} FROM dividends AS d
                WHERE symbol = $1 AND source = (
                    SELECT n.source FROM dividends AS n WHERE n.symbol = d.symbol AND n.time = d.time
                    ORDER BY n.version DESC, n.source LIMIT 1)
                ORDER BY time, amount""",
            symbol,
        )
        return table_of(rows, schemas.DIVIDENDS)

    async def adjustment(self, symbol: str, how: str, calendar: Calendar, now_us: int) -> Adjustment:
        """Return the adjustment of a symbol's bars; `how` is one of `core.adjustment.ADJUSTMENTS`."""
        if how == AS_TRADED:
            return Adjustment()
        splits = await self.newest_splits(symbol)
        if how != FOR_ALL:
            return adjustment_for(splits, calendar, now_us)
        adjustment, _, _ = await self.applied_dividends(symbol, splits, calendar, now_us)
        return adjustment

    async def applied_dividends(
        self, symbol: str, splits: pa.Table, calendar: Calendar, now_us: int
    ) -> tuple[Adjustment, pa.Table, Payments]:
        """Return the adjustment for splits and dividends, the newest dividends, and their converted amounts."""
        dividends = await self.newest_dividends(symbol)
        entered = USER in dividends.column("source").to_pylist()
        payments = payments_of(dividends, await self.dividends(symbol) if entered else dividends)
        closes = await self.closes_before(symbol, ex_dates_of(dividends), calendar)
        return adjustment_for(splits, calendar, now_us, dividends, closes, payments), dividends, payments

    async def closes_before(self, symbol: str, ex_dates: Int64Array, calendar: Calendar) -> Closes:
        """Return the last close before each ex-date: the close of the daily bar of the session before it.

        If that bar is not stored, the later of two closes is used. One is the close of the last 1m or 5m bar up to that
        session's close. The other is the close of an older daily bar. The close is NaN if no such bar is stored.
        """
        sessions, ends = sessions_before(calendar, ex_dates)
        rows = await self._session.rows(
            """SELECT d.time AS day, d.close AS day_close, i.time AS time, i.close AS close
               FROM unnest($2::timestamptz[], $3::timestamptz[], $4::timestamptz[]) WITH ORDINALITY
                   AS e (ex_date, session, ends, place)
               LEFT JOIN LATERAL (
                   SELECT b.time, b.close FROM historical_ohlcv AS b
                   WHERE b.symbol = $1 AND b."interval" = '1d' AND b.time < e.ex_date AND b.close IS NOT NULL
                   ORDER BY b.time DESC LIMIT 1) AS d ON true
               LEFT JOIN LATERAL (
                   (SELECT b.time, b.close FROM intraday_ohlcv AS b
                    WHERE b.symbol = $1 AND b."interval" = '1m' AND b.time < e.ends AND b.close IS NOT NULL
                    ORDER BY b.time DESC LIMIT 1)
                   UNION ALL
                   (SELECT b.time, b.close FROM intraday_ohlcv AS b
                    WHERE b.symbol = $1 AND b."interval" = '5m' AND b.time < e.ends AND b.close IS NOT NULL
                    ORDER BY b.time DESC LIMIT 1)
                   ORDER BY time DESC LIMIT 1) AS i ON d.time IS NULL OR d.time < e.session
               ORDER BY e.place""",
            symbol,
            *([datetime_of(us) for us in times.tolist()] for times in (ex_dates, sessions, ends)),
        )
        price, of = np.full(len(rows), np.nan), np.full(len(rows), NEVER_US)
        for at, row in enumerate(rows):
            if row["day"] is not None:
                price[at], of[at] = row["day_close"], micros_of(row["day"])
            if row["time"] is not None:
                session = int(session_or_day(calendar, np.array([micros_of(row["time"])]))[0])
                if session > of[at]:
                    price[at], of[at] = row["close"], session
        return Closes(price, of)

    async def _read(self, relation: str, schema: pa.Schema, symbol: str) -> pa.Table:
        rows = await self._session.rows(
            f"SELECT {selected(schema)} FROM {relation} WHERE symbol = $1 ORDER BY time, source", symbol
        )
        return table_of(rows, schema)
