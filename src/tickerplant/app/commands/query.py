"""`tickerplant query`."""

from __future__ import annotations

import csv as csv_module
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tickerplant.app.commands.common import STORED_INTERVALS, emit, say, stored_interval, table, time_option
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.app.settings import Loaded

COLUMNS = ("time", "open", "high", "low", "close", "volume", "vwap", "trades", "complete", "revision", "source")


def query(
    loaded: Loaded,
    symbol: Annotated[str, typer.Argument(help="A symbol, e.g. AAPL or EUR/USD.")],
    interval: Annotated[str, typer.Option("--interval", "-i", help=STORED_INTERVALS)] = "1d",
    start: Annotated[str | None, typer.Option("--start", help="From this time on (UTC unless it says).")] = None,
    end: Annotated[str | None, typer.Option("--end", help="Before this time.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many, the newest.")
    ] = 500,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print a symbol's bars from the store, oldest first, whether the plant runs or not."""
    from tickerplant.app import looking, parts
    from tickerplant.core.symbols import check_symbol

    if csv and json:
        raise BadInput("--csv and --json are two ways of printing: leave one out")
    symbol, interval = check_symbol(symbol), stored_interval(interval)
    from_us, to_us = time_option(start, "--start"), time_option(end, "--end")
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise BadInput(f"--start {start} is not before --end {end}")
    with looking.store_of(loaded.settings) as dsn:
        rows = parts.bars(dsn, symbol, interval, from_us, to_us, limit)
    if json:
        for row in rows:
            emit({"symbol": symbol, "interval": interval, **row})
    elif csv:
        writer = csv_module.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([["" if row[name] is None else row[name] for name in COLUMNS] for row in rows])
    elif rows:
        table(COLUMNS, ([_cell(row[name]) for name in COLUMNS] for row in rows), title=f"{symbol} {interval}")
    if not rows:
        say(f"the store has no {interval} bars of {symbol} there")
        raise typer.Exit(1)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.10g}" if abs(value) < 1e9 else f"{value:,.0f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
