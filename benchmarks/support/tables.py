"""Comparison of the tables of two stores, row by row."""

from __future__ import annotations

import math
from typing import Any

import asyncpg

TICKS = "realtime_prices"
TABLES = ("intraday_ohlcv", "historical_ohlcv", "intraday_analytics", "daily_analytics")
VOLATILE = ("version", "row", "published_at", "received_at", "revision", "reason")
"""Columns that depend on the run. A feed that stops closes its current minute, and revises the minute when it resumes.
`realtime_analytics` is omitted, because it contains forming values only.
"""
REL = 1e-9
"""Maximum difference of floats, relative or absolute: sums depend on the batches of ticks in their last digits."""
SHOWN = 5

Rows = list[tuple[Any, ...]]


async def read_tables(dsn: str) -> dict[str, Rows]:
    """Return the rows of each table in key order; for ticks, the count and a hash of each symbol's ticks."""
    connection = await asyncpg.connect(dsn)
    try:
        found: dict[str, Rows] = {}
        for table in (TICKS, *TABLES):
            columns = await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = $1 AND table_schema = 'public' "
                "AND column_name <> ALL($2) ORDER BY column_name",
                table, VOLATILE,
            )  # fmt: skip
            names = ", ".join(f'"{name}"' for (name,) in columns)
            query = f'SELECT {names} FROM {table} ORDER BY symbol, "interval", time'
            if table == TICKS:
                query = (
                    f"SELECT symbol, count(*), md5(string_agg(({names})::text, ';' ORDER BY version, \"row\")) "
                    f"FROM {table} GROUP BY symbol ORDER BY symbol"
                )
            found[table] = [tuple(row) for row in await connection.fetch(query)]
        return found
    finally:
        await connection.close()


def differences(found: dict[str, Rows], wanted: dict[str, Rows]) -> list[str]:
    """Return one line for each table that differs, and for each of the first rows that differ; [] if none differs."""
    lines = []
    for table, rows in wanted.items():
        if not rows:
            lines.append(f"{table}: the single run has no rows")
        if len(rows) != len(found[table]):
            lines.append(f"{table}: {len(found[table])} rows, and {len(rows)} in the single run")
        unequal = [(a, b) for a, b in zip(found[table], rows, strict=False) if not _is_equal(a, b)]
        if unequal:
            lines.append(f"{table}: {len(unequal)} rows differ")
        lines += [f"  {a}\n  {b} in the single run" for a, b in unequal[:SHOWN]]
    return lines


def _is_equal(row: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=REL, abs_tol=REL) if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(row, other, strict=True)
    )
