"""`tickerplant query`."""

from __future__ import annotations

import csv as csv_module
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tickerplant.app.commands.common import STORED_INTERVALS, cell, emit, say, stored_interval, table, time_option
from tickerplant.core.errors import BadInput

if TYPE_CHECKING:
    from tickerplant.analytics.ondemand.calculation import Calculation
    from tickerplant.analytics.ondemand.query import InputBars
    from tickerplant.app.config.settings import Loaded

COLUMNS = ("time", "open", "high", "low", "close", "volume", "vwap", "trades", "complete", "revision", "source")
VALUE_COLUMNS = ("time", "open", "high", "low", "close", "volume", "state")


def query(
    loaded: Loaded,
    symbol: Annotated[str, typer.Argument(help="A symbol, e.g. AAPL or EUR/USD.")],
    interval: Annotated[str, typer.Option("--interval", "-i", help=STORED_INTERVALS)] = "1d",
    start: Annotated[str | None, typer.Option("--start", help="From this time on (UTC unless it says).")] = None,
    end: Annotated[str | None, typer.Option("--end", help="Before this time.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="At most so many, the newest.")
    ] = 500,
    indicator: Annotated[
        list[str] | None,
        typer.Option("--indicator", help="RSI(14), or any function of TA-Lib, computed now; may be repeated."),
    ] = None,
    adjust: Annotated[
        str,
        typer.Option(
            "--adjust", help="Prices as traded (none), adjusted for splits, or for splits and dividends (all)."
        ),
    ] = "none",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print a symbol's bars from the store, oldest first, whether the plant runs or not.

    With --indicator values beside them: the bars that these need from before are read too.
    """
    from tickerplant.app.wiring import on_demand, open_readonly, parts
    from tickerplant.core.adjustment import check_adjustment
    from tickerplant.core.symbols import check_symbol

    if csv and json:
        raise BadInput("--csv and --json are two ways of printing: leave one out")
    symbol, interval, adjust = check_symbol(symbol), stored_interval(interval), check_adjustment(adjust)
    from_us, to_us = time_option(start, "--start"), time_option(end, "--end")
    if from_us is not None and to_us is not None and from_us >= to_us:
        raise BadInput(f"--start {start} is not before --end {end}")
    columns: tuple[str, ...] = COLUMNS
    chosen = on_demand.calculations(indicator or [])
    with open_readonly.store_of(loaded.settings) as dsn:
        if chosen:
            rows, stretch = on_demand.values(
                loaded.settings, dsn, chosen, symbol, interval, from_us, to_us, limit, adjust
            )
        else:
            rows = parts.bars(loaded.settings, dsn, symbol, interval, from_us, to_us, limit, adjust)
    if chosen:
        columns = (*VALUE_COLUMNS, *(name for each in chosen for name in each.columns))
        _say_of(stretch, chosen)
    if json:
        for row in rows:
            emit({"symbol": symbol, "interval": interval, "adjust": adjust, **row})
    elif csv:
        writer = csv_module.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if row[name] is None else row[name] for name in columns] for row in rows])
    elif rows:
        table(columns, ([cell(row[name]) for name in columns] for row in rows), title=_title(symbol, interval, adjust))
    if not rows:
        say(f"the store has no {interval} bars of {symbol} there")
        raise typer.Exit(1)


def _title(symbol: str, interval: str, adjust: str) -> str:
    how = {"splits": ", adjusted for splits", "all": ", adjusted for splits and dividends"}
    return f"{symbol} {interval}{how.get(adjust, '')}"


def _say_of(stretch: InputBars, chosen: list[Calculation]) -> None:
    """Tell what a person may want to know of values: which are not there yet, and which lack some history."""
    from tickerplant.analytics.ondemand.query import MAX_BARS, remaining
    from tickerplant.core.times import iso

    for name, bars in remaining(stretch, chosen).items():
        say(f"{name} needs {bars} bars more")
    if stretch.limited and stretch.computed_from_us is not None:
        say(f"computed from {iso(stretch.computed_from_us)} on: no more than {MAX_BARS:,} bars before are read")
