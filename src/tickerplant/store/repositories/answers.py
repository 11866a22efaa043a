"""`answers`: what vendors said of the stretches that they were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tickerplant.core import coverage, schemas
from tickerplant.core.times import from_us
from tickerplant.store.columns import arrays_of, plain

if TYPE_CHECKING:
    from tickerplant.store.pool import Session

_NAMES = ", ".join(schemas.ANSWERS.names)


class VendorAnswers:
    """Answers of one session or look. The table keeps of each stretch and source what was said last."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, answers: pa.Table, version: int) -> None:
        """Keep the answers (`schemas.ANSWERS`) of one record, in a transaction.

        An answer replaces those about the same symbol and interval whose stretch lies within its own.
        """
        key = "symbol, interval, from_time, to_time, source"
        source, arguments = arrays_of(plain(answers))
        await self._session.execute(
            f"DELETE FROM answers AS t USING {source} WHERE t.symbol = s.symbol AND t.interval = s.interval"
            f" AND t.from_time >= s.from_time AND t.to_time <= s.to_time AND t.version < {version:d}",
            *arguments,
        )
        await self._session.execute(
            f"INSERT INTO answers AS t ({_NAMES}, version)"
            f" SELECT DISTINCT ON ({key}) {_NAMES}, {version:d} FROM {source} ORDER BY {key}"
            f" ON CONFLICT ({key}) DO UPDATE SET verdict = excluded.verdict, note = excluded.note,"
            " again_at = excluded.again_at, version = excluded.version WHERE excluded.version >= t.version",
            *arguments,
        )

    async def read(
        self, symbols: Sequence[str], interval: str, from_us_: int, to_us: int
    ) -> dict[str, coverage.Answers]:
        """Return by symbol the answers that touch `[from, to)`, oldest first; symbols without any are left out."""
        rows = await self._session.rows(
            """SELECT symbol, date_part('epoch', from_time), date_part('epoch', to_time), verdict, source,
                   coalesce(note, ''), coalesce(date_part('epoch', again_at), 0)
               FROM answers WHERE symbol = ANY ($1) AND interval = $2 AND from_time < $4 AND to_time > $3
               ORDER BY symbol, version, from_time""",
            list(symbols),
            interval,
            from_us(from_us_),
            from_us(to_us),
        )
        by_symbol: dict[str, list[Any]] = {}
        for row in rows:
            by_symbol.setdefault(row[0], []).append(row)
        return {symbol: _columns(some) for symbol, some in by_symbol.items()}


def _columns(rows: Sequence[Any]) -> coverage.Answers:
    def times(at: int) -> Any:
        return np.rint(np.array([row[at] for row in rows], np.float64) * 1e6).astype(np.int64)

    return coverage.Answers(
        times(1), times(2), [row[3] for row in rows], [row[4] for row in rows], [row[5] for row in rows], times(6)
    )
