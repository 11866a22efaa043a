"""Splits and dividends: appending a user's entries, and reading the entries in the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tickerplant.app.wiring.rows import plain
from tickerplant.app.wiring.store import with_store

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings
    from tickerplant.log.port import EventLog
    from tickerplant.store import Store


def append_split(log: EventLog, symbol: str, session_us: int, numerator: float, denominator: float) -> dict[int, int]:
    """Append a split to the raw topic; return {partition of the symbol: offset}."""
    from tickerplant.market_data.feed import commands

    return commands.append_split(log, symbol, session_us, numerator, denominator)


def append_dividend(log: EventLog, symbol: str, ex_date_us: int, amount: float, currency: str | None) -> dict[int, int]:
    """Append a dividend to the raw topic; return {partition of the symbol: offset}."""
    from tickerplant.market_data.feed import commands

    return commands.append_dividend(log, symbol, ex_date_us, amount, currency)


def stored(settings: Settings, dsn: str, symbol: str) -> list[dict[str, Any]]:
    """Return a symbol's splits and dividends as rows, oldest first.

    `counts` is true if bars are adjusted for the row. `note` is the reason why bars are not adjusted for a dividend of
    the newest source. It also states that the currency of the prices is unknown. Otherwise it is None. Splits have no
    `note`.
    """
    from tickerplant.app.wiring.rules import log_rules
    from tickerplant.core.adjustment import reasons_not_applied
    from tickerplant.core.sessions import Calendars

    calendar = Calendars(log_rules(settings)).of(symbol)

    async def read(store: Store) -> list[dict[str, Any]]:
        async with store.read() as session:
            newest_splits = await session.actions.newest_splits(symbol)
            newest = newest_splits.to_pylist()
            applied = await session.actions.applied_dividends(symbol, newest_splits, calendar, time.time_ns() // 1000)
            splits = (await session.actions.splits(symbol)).to_pylist()
            dividends = (await session.actions.dividends(symbol)).to_pylist()
        notes = reasons_not_applied(*applied)
        paid = applied[1].to_pylist()
        found = [{"kind": "split", **row, "counts": row in newest} for row in splits]
        for row in dividends:
            note = notes[paid.index(row)] if row in paid else None
            counts = row in paid and note is None
            if counts and row["currency"] and applied[2].prices_in is None:
                note = f"no vendor has reported the currency of the prices; they are taken to be in {row['currency']}"
            found.append({"kind": "dividend", **row, "counts": counts, "note": note})
        return [_as_dict(row) for row in sorted(found, key=lambda row: row["time"])]

    return with_store(dsn, read)


def _as_dict(row: dict[str, Any]) -> dict[str, Any]:
    date = row.pop("time").date().isoformat()
    return plain({"kind": row.pop("kind"), "symbol": row.pop("symbol"), "date": date, **row})
